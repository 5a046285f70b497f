//! Tracing set-up, and every metric's name in one place.

/// The metrics' names, as `GET /metrics` shows them.
pub mod names {
    /// Gauge, per `stage`: entries queued.
    pub const STAGE_QUEUE_DEPTH: &str = "riveg_stage_queue_depth";
    /// Histogram, per `stage`: seconds from submit to the start of the batch, per item.
    pub const STAGE_QUEUE_SECONDS: &str = "riveg_stage_queue_seconds";
    /// Histogram, per `stage`: items of a batch, per batch.
    pub const STAGE_BATCH_SIZE: &str = "riveg_stage_batch_size";
    /// Histogram, per `stage`: seconds that a batch ran, per batch.
    pub const STAGE_EXECUTE_SECONDS: &str = "riveg_stage_execute_seconds";
    /// Counter, per `stage`: items answered with a failure of the model, panics included.
    pub const STAGE_FAILED: &str = "riveg_stage_failed_total";
    /// Counter, per `stage`: batches that failed and were run again item by item.
    pub const STAGE_RETRIED_BATCHES: &str = "riveg_stage_retried_batches_total";
    /// Counter, per `stage`: panics caught.
    pub const STAGE_PANICS: &str = "riveg_stage_panics_total";
    /// Counter, per `stage`: items skipped because nobody waited for them any more.
    pub const CANCELLED: &str = "riveg_cancelled_total";
    /// Counter, per `stage`: items skipped because their deadline had passed.
    pub const DEADLINE_EXCEEDED: &str = "riveg_deadline_exceeded_total";
    /// Counter, per `reason`: work refused before it was queued.
    pub const REJECTED: &str = "riveg_rejected_total";
    /// Gauge: predicted cost of all admitted requests, in millions of multiply–adds.
    pub const INFLIGHT_COST: &str = "riveg_inflight_cost";
    /// Counter, per `outcome` (`hit`, `joined`, `miss`): look-ups of image embeddings.
    pub const EMBEDDING_CACHE: &str = "riveg_embedding_cache_total";
    /// Gauge: bytes that cached image embeddings take.
    pub const EMBEDDING_CACHE_BYTES: &str = "riveg_embedding_cache_bytes";
    /// Counter: image embeddings started early, on an otherwise idle device.
    pub const EMBEDDING_SPECULATIONS: &str = "riveg_embedding_speculations_total";
}
