//! The roles as batch models, and each stage's name and place in the pipeline.

use std::sync::Arc;

use super::{BatchModel, Cost, StageSpec};
use crate::models::{
    EntailInput, Entailer, Entailment, GroundInput, Grounder, Grounding, ImageEmbedding,
    MaskPrediction, ModelError, SegmentInput, Segmenter, TagInput, TaggedEntity, Tagger,
};
use crate::vision::Picture;

/// Tagging texts.
pub struct TagStage(pub Arc<dyn Tagger>);

/// Deciding whether pictures show what expressions name.
pub struct EntailStage(pub Arc<dyn Entailer>);

/// Finding the boxes of what expressions name.
pub struct GroundStage(pub Arc<dyn Grounder>);

/// Encoding pictures for segmentation.
pub struct EncodeStage(pub Arc<dyn Segmenter>);

/// Turning boxes into masks.
pub struct SegmentStage(pub Arc<dyn Segmenter>);

impl EncodeStage {
    /// After grounding: an embedding is asked for only once an entity was placed, so whoever waits
    /// for one is a step from the answer. Embeddings that are begun early rank below everything.
    pub fn spec(max_batch: usize) -> StageSpec {
        StageSpec::new("encode", 3, max_batch)
    }
}

impl TagStage {
    /// First: everything else needs entities.
    pub fn spec(max_batch: usize) -> StageSpec {
        StageSpec::new("tag", 0, max_batch)
    }
}

impl EntailStage {
    /// After tagging.
    pub fn spec(max_batch: usize) -> StageSpec {
        StageSpec::new("entail", 1, max_batch)
    }
}

impl GroundStage {
    /// After entailment.
    pub fn spec(max_batch: usize) -> StageSpec {
        StageSpec::new("ground", 2, max_batch)
    }
}

impl SegmentStage {
    /// Last.
    pub fn spec(max_batch: usize) -> StageSpec {
        StageSpec::new("segment", 4, max_batch)
    }
}

impl BatchModel for TagStage {
    type Input = TagInput;
    type Output = Vec<TaggedEntity>;

    fn cost(&self, input: &TagInput) -> Cost {
        Cost(self.0.cost(input))
    }

    fn run(&self, inputs: &[TagInput]) -> Result<Vec<Self::Output>, ModelError> {
        self.0.tag(inputs)
    }
}

impl BatchModel for EntailStage {
    type Input = EntailInput;
    type Output = Entailment;

    fn cost(&self, input: &EntailInput) -> Cost {
        Cost(self.0.cost(input))
    }

    fn run(&self, inputs: &[EntailInput]) -> Result<Vec<Entailment>, ModelError> {
        self.0.entail(inputs)
    }
}

impl BatchModel for GroundStage {
    type Input = GroundInput;
    type Output = Option<Grounding>;

    fn cost(&self, input: &GroundInput) -> Cost {
        Cost(self.0.cost(input))
    }

    fn run(&self, inputs: &[GroundInput]) -> Result<Vec<Self::Output>, ModelError> {
        self.0.ground(inputs)
    }
}

impl BatchModel for EncodeStage {
    type Input = Arc<Picture>;
    type Output = ImageEmbedding;

    fn cost(&self, _picture: &Arc<Picture>) -> Cost {
        Cost(self.0.encode_cost())
    }

    fn run(&self, pictures: &[Arc<Picture>]) -> Result<Vec<ImageEmbedding>, ModelError> {
        self.0.encode(pictures)
    }
}

impl BatchModel for SegmentStage {
    type Input = SegmentInput;
    type Output = Vec<MaskPrediction>;

    fn cost(&self, input: &SegmentInput) -> Cost {
        Cost(self.0.decode_cost().saturating_mul(input.boxes.len() as u64))
    }

    fn run(&self, inputs: &[SegmentInput]) -> Result<Vec<Self::Output>, ModelError> {
        self.0.segment(inputs)
    }
}
