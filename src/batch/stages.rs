//! The roles as batch models, and each stage's name and place in the pipeline.

use std::sync::Arc;

use super::{BatchModel, Cost, StageSpec};
use crate::models::{
    EntailInput, Entailer, Entailment, GroundInput, Grounder, Grounding, ImageEmbedding,
    MaskPrediction, ModelError, SegmentInput, Segmenter, TagInput, TaggedEntity, Tagger,
};
use crate::vision::Picture;

/// A text as long as posts get, and an expression as long as one about them gets. A batch holds as
/// many items as it may where they are no longer than this, fewer where they are, so how long the
/// device is held has a bound.
pub const LONG_TEXT: &str = "Ada Lovelace met Charles Babbage at the Royal Society in London, and \
    while the others looked at his Difference Engine as savages look at a mirror, she understood \
    how it worked and saw the great beauty of the invention, as Sophia De Morgan remembered many \
    years afterwards in Cambridge.";

/// See [`LONG_TEXT`].
pub const LONG_EXPRESSION: &str =
    "International Federation of Red Cross and Red Crescent Societies (ORG)-an organization";

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
    pub fn spec(&self, max_batch: usize) -> StageSpec {
        capped(StageSpec::new("encode", 3, max_batch), Cost(self.0.encode_cost()))
    }
}

impl TagStage {
    /// First: everything else needs entities.
    pub fn spec(&self, max_batch: usize) -> StageSpec {
        let longest = TagInput { text: LONG_TEXT.into(), knowledge: None };
        capped(StageSpec::new("tag", 0, max_batch), self.cost(&longest))
    }
}

impl EntailStage {
    /// After tagging.
    pub fn spec(&self, max_batch: usize) -> StageSpec {
        let longest = self.item(LONG_EXPRESSION, Some(LONG_TEXT));
        capped(StageSpec::new("entail", 1, max_batch), longest)
    }

    /// Work for one question, as if its picture were new.
    fn item(&self, expression: &str, description: Option<&str>) -> Cost {
        Cost(self.0.picture_cost()) + Cost(self.0.cost(expression, description))
    }
}

impl GroundStage {
    /// After entailment.
    pub fn spec(&self, max_batch: usize) -> StageSpec {
        capped(StageSpec::new("ground", 2, max_batch), self.item(LONG_EXPRESSION))
    }

    /// Work for one question, as if its picture were new.
    fn item(&self, expression: &str) -> Cost {
        Cost(self.0.picture_cost()) + Cost(self.0.cost(expression))
    }
}

impl SegmentStage {
    /// Last. Its items bring any number of boxes along, so a batch is bounded in boxes.
    pub fn spec(&self, max_batch: usize) -> StageSpec {
        capped(StageSpec::new("segment", 4, max_batch), Cost(self.0.decode_cost()))
    }
}

/// Bounds a batch at the work of as many items as it may hold, of `item`'s work each.
fn capped(spec: StageSpec, item: Cost) -> StageSpec {
    StageSpec { max_batch_cost: item.times(spec.max_batch), ..spec }
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
        self.item(&input.expression, input.description.as_deref())
    }

    fn run(&self, inputs: &[EntailInput]) -> Result<Vec<Entailment>, ModelError> {
        self.0.entail(inputs)
    }
}

impl BatchModel for GroundStage {
    type Input = GroundInput;
    type Output = Option<Grounding>;

    fn cost(&self, input: &GroundInput) -> Cost {
        self.item(&input.expression)
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
        Cost(self.0.decode_cost()).times(input.boxes.len())
    }

    fn run(&self, inputs: &[SegmentInput]) -> Result<Vec<Self::Output>, ModelError> {
        self.0.segment(inputs)
    }
}
