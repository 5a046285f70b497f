//! The roles behind their queues.

use std::sync::Arc;

use crate::batch::stages::{EncodeStage, EntailStage, GroundStage, SegmentStage, TagStage};
use crate::batch::{
    Cost, EmbeddingCache, Executor, ExecutorBuilder, Health, HealthState, Interest, Reply,
    RequestContext, StageError, StageHandle,
};
use crate::models::{
    EntailInput, Entailer, Entailment, Expander, GroundInput, Grounder, Grounding, ImageEmbedding,
    MaskPrediction, SegmentInput, Segmenter, TagInput, TaggedEntity, Tagger,
};
use crate::vision::{BoundingBox, Picture};

/// The networks that fill the roles.
#[derive(Clone)]
pub struct Roles {
    /// Finds the entities.
    pub tagger: Arc<dyn Tagger>,
    /// Writes the expansions.
    pub expander: Arc<dyn Expander>,
    /// Decides whether the picture shows an entity.
    pub entailer: Arc<dyn Entailer>,
    /// Finds its box.
    pub grounder: Arc<dyn Grounder>,
    /// Turns the box into a mask.
    pub segmenter: Arc<dyn Segmenter>,
}

impl Roles {
    /// Whether one object is both entailer and grounder: it looks at a picture once for both.
    pub(super) fn look_once(&self) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.entailer), Arc::as_ptr(&self.grounder))
    }
}

/// What the operator and the pack set for the pipeline.
#[derive(Debug, Clone)]
pub struct PipelineOptions {
    /// The pack's entailment threshold.
    pub entailment_threshold: f32,
    /// Most entities of one request.
    pub max_entities: usize,
    /// Largest batch of tagger, entailer, grounder and mask decoder.
    pub max_batch: usize,
    /// Largest batch of the segmenter's image encoder.
    pub max_encode_batch: usize,
    /// Bytes of image embeddings kept.
    pub embedding_cache_bytes: usize,
    /// Work in flight at once.
    pub max_inflight: Cost,
    /// Work that the machine does in a second, where that was measured.
    pub speed: Option<Cost>,
}

/// A picture on its way through the pipeline.
pub(super) struct Scene<'a> {
    pub picture: &'a Arc<Picture>,
    /// Its embedding, where that was begun early.
    pub early: Option<Interest<ImageEmbedding>>,
}

/// Every stage's handle, and what they share.
pub(super) struct Stages {
    pub tagger: StageHandle<TagInput, Vec<TaggedEntity>>,
    pub expander: Arc<dyn Expander>,
    pub entailer: StageHandle<EntailInput, Entailment>,
    pub grounder: StageHandle<GroundInput, Option<Grounding>>,
    decoder: StageHandle<SegmentInput, Vec<MaskPrediction>>,
    embeddings: EmbeddingCache,
    executor: Executor,
}

impl Stages {
    /// Puts a queue in front of every role and starts the executor thread.
    pub fn start(roles: Roles, options: &PipelineOptions) -> std::io::Result<Self> {
        let Roles { tagger, expander, entailer, grounder, segmenter } = roles;
        let mut builder = ExecutorBuilder::new();
        let max = options.max_batch;
        let (tagger, entailer) = (TagStage(tagger), EntailStage(entailer));
        let (grounder, encoder) = (GroundStage(grounder), EncodeStage(segmenter.clone()));
        let decoder = SegmentStage(segmenter);
        let tagger = builder.stage(tagger.spec(max), tagger);
        let entailer = builder.stage(entailer.spec(max), entailer);
        let grounder = builder.stage(grounder.spec(max), grounder);
        let encoder = builder.stage(encoder.spec(options.max_encode_batch), encoder);
        let decoder = builder.stage(decoder.spec(max), decoder);
        let embeddings = EmbeddingCache::for_embeddings(encoder, options.embedding_cache_bytes);
        let executor = builder.start()?;
        Ok(Self { tagger, expander, entailer, grounder, decoder, embeddings, executor })
    }

    /// Begins to encode the picture while the device is idle; given up when the returned interest
    /// is dropped before it ran.
    pub fn encode_early(
        &self,
        picture: &Arc<Picture>,
        context: &RequestContext,
    ) -> Option<Interest<ImageEmbedding>> {
        self.embeddings.speculate(picture.digest(), picture.clone(), context)
    }

    /// The picture's embedding: begun early, from the cache, or computed now.
    pub async fn encode(
        &self,
        scene: Scene<'_>,
        context: &RequestContext,
    ) -> Result<Reply<ImageEmbedding>, StageError> {
        let Scene { picture, early } = scene;
        let (digest, picture) = (picture.digest(), picture.clone());
        match early {
            Some(early) => self.embeddings.claim(early, digest, picture, context).await,
            None => self.embeddings.get(digest, picture, context).await,
        }
    }

    /// One mask for every box.
    pub async fn decode(
        &self,
        embedding: ImageEmbedding,
        boxes: Vec<BoundingBox>,
        context: &RequestContext,
    ) -> Result<Reply<Vec<MaskPrediction>>, StageError> {
        self.decoder.submit(SegmentInput { embedding, boxes }, context).await
    }

    /// What readiness asks.
    pub fn health(&self) -> Health {
        self.executor.health()
    }

    /// Runs what is queued, then stops the executor thread.
    pub async fn shutdown(self) -> HealthState {
        self.executor.shutdown().await
    }
}
