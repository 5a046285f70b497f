//! The roles behind their queues.

use std::sync::Arc;

use super::{Request, SegmentRequest, Task};
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
        let tagger = builder.stage(TagStage::spec(max), TagStage(tagger));
        let entailer = builder.stage(EntailStage::spec(max), EntailStage(entailer));
        let grounder = builder.stage(GroundStage::spec(max), GroundStage(grounder));
        let encode = EncodeStage::spec(options.max_encode_batch);
        let encoder = builder.stage(encode, EncodeStage(segmenter.clone()));
        let decoder = builder.stage(SegmentStage::spec(max), SegmentStage(segmenter));
        let embeddings = EmbeddingCache::for_embeddings(encoder, options.embedding_cache_bytes);
        let executor = builder.start()?;
        Ok(Self { tagger, expander, entailer, grounder, decoder, embeddings, executor })
    }

    /// Begins to encode the picture while the device would otherwise be idle; given up when the
    /// returned interest is dropped before it ran.
    pub fn encode_early(
        &self,
        picture: &Arc<Picture>,
        context: &RequestContext,
    ) -> Option<Interest<ImageEmbedding>> {
        self.embeddings.speculate(picture.digest(), picture.clone(), context)
    }

    /// The picture's embedding, from the cache or computed now.
    pub async fn encode(
        &self,
        picture: &Arc<Picture>,
        context: &RequestContext,
    ) -> Result<Reply<ImageEmbedding>, StageError> {
        self.embeddings.get(picture.digest(), picture.clone(), context).await
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

/// Predicted work of a request, from what its roles say.
#[derive(Clone)]
pub(super) struct Prices {
    roles: Roles,
}

impl Prices {
    pub fn new(roles: Roles) -> Self {
        Self { roles }
    }

    /// What a request is charged when it comes: its text, its picture, and one entity where it is
    /// not known yet how many there are.
    pub fn request(&self, request: &Request) -> Cost {
        let given = request.options.entities.as_ref().map(Vec::len);
        let tagging = match given {
            Some(_) => Cost::ZERO,
            None => Cost(self.roles.tagger.cost(&TagInput {
                text: request.text.clone(),
                knowledge: request.options.knowledge.clone(),
            })),
        };
        let encoding = match (&request.picture, request.options.task) {
            (Some(_), Task::Smner) => Cost(self.roles.segmenter.encode_cost()),
            _ => Cost::ZERO,
        };
        let entities = given.unwrap_or(ENTITIES_EXPECTED);
        tagging + encoding + self.entities(request, entities)
    }

    /// What `count` entities of this request cost.
    pub fn entities(&self, request: &Request, count: usize) -> Cost {
        let Some(picture) = request.picture.as_ref().filter(|_| request.options.task != Task::Mner)
        else {
            return Cost::ZERO;
        };
        let expression: Arc<str> = TYPICAL_EXPRESSION.into();
        let entail = self.roles.entailer.cost(&EntailInput {
            picture: picture.clone(),
            expression: expression.clone(),
            description: request.options.image_description.clone(),
        });
        let ground =
            self.roles.grounder.cost(&GroundInput { picture: picture.clone(), expression });
        let decode = match request.options.task {
            Task::Smner => self.roles.segmenter.decode_cost(),
            Task::Gmner | Task::Mner => 0,
        };
        Cost((entail + ground + decode).saturating_mul(count as u64))
    }

    /// What the entities beyond those charged at the door cost.
    pub fn further_entities(&self, request: &Request, found: usize) -> Cost {
        match request.options.entities {
            Some(_) => Cost::ZERO,
            None => self.entities(request, found.saturating_sub(ENTITIES_EXPECTED)),
        }
    }

    /// What boxes of one picture cost.
    pub fn boxes(&self, request: &SegmentRequest) -> Cost {
        let decode = self.roles.segmenter.decode_cost();
        let boxes = request.boxes.len() as u64;
        Cost(self.roles.segmenter.encode_cost() + decode.saturating_mul(boxes))
    }
}

/// Entities charged before the text was tagged.
const ENTITIES_EXPECTED: usize = 1;

/// An expression of ordinary length, to price an entity that is not known yet.
const TYPICAL_EXPRESSION: &str = "LeBron James (PER)-an athlete";
