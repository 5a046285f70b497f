//! Tracing set-up, and every metric's name in one place.

use std::io::IsTerminal;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// The version of this package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The git revision that this program was built from, or `unknown`.
pub const REVISION: &str = env!("RIVEG_GIT_REVISION");

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = LogError;

    fn from_str(name: &str) -> Result<Self, LogError> {
        match name {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(LogError::Format(other.to_owned())),
        }
    }
}

/// A log filter or format that cannot be understood, or a second initialisation.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Neither `text` nor `json`.
    #[error("unknown log format `{0}`: use text or json")]
    Format(String),
    /// The filter is not of the form `info` or `riveg=debug,tower_http=warn`.
    #[error("log filter `{0}` cannot be understood")]
    Filter(String),
    /// Something has set up logging already.
    #[error("logging is set up already")]
    Twice,
}

/// Checks a log filter.
///
/// # Errors
/// When it cannot be understood.
pub fn check_filter(filter: &str) -> Result<(), LogError> {
    parse_filter(filter).map(drop)
}

fn parse_filter(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(filter).map_err(|_| LogError::Filter(filter.to_owned()))
}

/// Starts logging to standard error.
///
/// # Errors
/// When the filter cannot be understood, or logging was set up before.
pub fn init_logging(filter: &str, format: LogFormat) -> Result<(), LogError> {
    let filter = parse_filter(filter)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    }
    .map_err(|_| LogError::Twice)
}

/// Powers of two: batch sizes.
const SIZE_BUCKETS: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// Geometric steps from a millisecond to a minute: durations.
const SECOND_BUCKETS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Installs the recorder of all metrics, once per process and before anything that reports; the
/// handle renders them.
///
/// # Errors
/// When a recorder is installed already.
pub fn install_metrics() -> Result<PrometheusHandle, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECOND_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_batch_size".to_owned()), &SIZE_BUCKETS)?
        .install_recorder()
}

/// The metrics' names, as `GET /metrics` shows them.
pub mod names {
    /// Counter, per `route` and `status`: responses.
    pub const HTTP_REQUESTS: &str = "riveg_http_requests_total";
    /// Histogram, per `route`: seconds from the request's head to the response's.
    pub const REQUEST_SECONDS: &str = "riveg_request_duration_seconds";
    /// Counter, per `code`: errors, items of batches included.
    pub const HTTP_PROBLEMS: &str = "riveg_http_problems_total";
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
