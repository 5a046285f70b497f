//! The roles that networks fill.

use std::sync::Arc;

use candle_core::Tensor;

use super::{CharSpan, EntityType, FineType, Result, TaggedEntity};
use crate::mask::{MaskFrame, MaskLogits};
use crate::vision::{BoundingBox, Picture, PictureDigest};

/// What `GET /v1/info` and the start-up log say about one loaded model.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// Architecture name as `pack.toml` spells it, e.g. `sam`.
    pub architecture: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Bytes that the parameters take on the device.
    pub bytes: u64,
    /// Data type of the parameters, e.g. `f32`.
    pub dtype: String,
    /// Device, e.g. `cpu` or `cuda:0`.
    pub device: String,
    /// Lower-case SHA-256 of the weight file.
    pub sha256: String,
}

/// One text to tag.
#[derive(Debug, Clone)]
pub struct TagInput {
    /// The text as sent.
    pub text: Arc<str>,
    /// Auxiliary refined knowledge (the paper's *z*), appended after `<EOS>`.
    pub knowledge: Option<Arc<str>>,
}

/// Finds the named entities of texts.
pub trait Tagger: Send + Sync {
    /// Tags a batch; one list per input, in order of the spans, none overlapping.
    fn tag(&self, inputs: &[TagInput]) -> Result<Vec<Vec<TaggedEntity>>>;
    /// Predicted work for one input, in millions of multiply–adds.
    fn cost(&self, input: &TagInput) -> u64;
    /// What is loaded.
    fn info(&self) -> ModelInfo;
}

/// One entity to describe.
#[derive(Debug, Clone)]
pub struct ExpandInput {
    /// The whole text.
    pub text: Arc<str>,
    /// The entity's words.
    pub entity: String,
    /// Where it stands.
    pub span: CharSpan,
    /// Its coarse type.
    pub kind: EntityType,
    /// Its fine type, where known.
    pub fine: Option<FineType>,
}

/// Writes the expansion of an entity: the words after the hyphen of a referring expression.
pub trait Expander: Send + Sync {
    /// The expansion, e.g. `an athlete`.
    fn expand(&self, input: &ExpandInput) -> String;
    /// What `provenance.expression` says about expansions of this kind, e.g. `fine_type`.
    fn provenance(&self, input: &ExpandInput) -> &'static str;
}

/// One question to visual entailment: does the picture show what the expression names?
#[derive(Debug, Clone)]
pub struct EntailInput {
    /// The picture.
    pub picture: Arc<Picture>,
    /// The referring expression, e.g. `LeBron James (PER)-an athlete`.
    pub expression: Arc<str>,
    /// A short description of the picture, where one is known.
    pub description: Option<Arc<str>>,
}

/// The answer of visual entailment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entailment {
    /// Probability that the picture shows it, in `0..=1`.
    pub probability: f32,
}

/// Decides whether pictures show what expressions name.
pub trait Entailer: Send + Sync {
    /// Answers a batch; one entailment per input. Inputs that share a picture (by digest) share
    /// the work that depends on the picture alone.
    fn entail(&self, inputs: &[EntailInput]) -> Result<Vec<Entailment>>;
    /// Predicted work that depends on a picture alone, in millions of multiply–adds: done once for
    /// all that is asked about the picture.
    fn picture_cost(&self) -> u64;
    /// Predicted work for one question beyond [`Entailer::picture_cost`], in millions of
    /// multiply–adds.
    fn cost(&self, expression: &str, description: Option<&str>) -> u64;
    /// What is loaded.
    fn info(&self) -> ModelInfo;
}

/// One question to visual grounding: where is it?
#[derive(Debug, Clone)]
pub struct GroundInput {
    /// The picture.
    pub picture: Arc<Picture>,
    /// The referring expression.
    pub expression: Arc<str>,
}

/// Where visual grounding found it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grounding {
    /// The box, inside the picture, with positive width and height.
    pub bbox: BoundingBox,
    /// Confidence in `0..=1`.
    pub score: f32,
}

/// Finds the box of what an expression names.
pub trait Grounder: Send + Sync {
    /// Answers a batch; `None` where the network gave no legal box. Inputs that share a picture (by
    /// digest) share the work that depends on the picture alone.
    fn ground(&self, inputs: &[GroundInput]) -> Result<Vec<Option<Grounding>>>;
    /// Predicted work that depends on a picture alone, in millions of multiply–adds: done once for
    /// all that is asked about the picture.
    fn picture_cost(&self) -> u64;
    /// Predicted work for one question beyond [`Grounder::picture_cost`], in millions of
    /// multiply–adds.
    fn cost(&self, expression: &str) -> u64;
    /// What is loaded.
    fn info(&self) -> ModelInfo;
}

/// A picture as the segmenter's image encoder sees it: depends on the picture alone, shared by all
/// its boxes. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct ImageEmbedding {
    /// Encoder output `[cells, channels]`, row by row.
    pub cells: Tensor,
    /// What else the decoder wants of the picture; each architecture knows its own. Often nothing.
    pub fine: Vec<Tensor>,
    /// How the mask grid maps onto the picture.
    pub frame: MaskFrame,
    /// The picture it was computed from.
    pub digest: PictureDigest,
}

impl ImageEmbedding {
    /// Bytes that it takes on the device.
    pub fn bytes(&self) -> usize {
        let tensors = self.fine.iter().chain([&self.cells]);
        tensors.map(|tensor| tensor.elem_count() * tensor.dtype().size_in_bytes()).sum()
    }
}

/// The boxes of one picture to turn into masks.
#[derive(Debug, Clone)]
pub struct SegmentInput {
    /// The encoded picture.
    pub embedding: ImageEmbedding,
    /// Boxes in pixels of the upright picture.
    pub boxes: Vec<BoundingBox>,
}

/// One predicted mask.
#[derive(Debug, Clone)]
pub struct MaskPrediction {
    /// The logits, not yet upscaled: see [`MaskLogits`].
    pub logits: MaskLogits,
    /// The network's own estimate of the mask's IoU, clamped to `0..=1`.
    pub predicted_iou: f32,
    /// IoU between the masks cut one above and one below the mask threshold, on the low-resolution
    /// grid.
    pub stability: f32,
}

/// Turns boxes into masks.
pub trait Segmenter: Send + Sync {
    /// Encodes pictures; one embedding each.
    fn encode(&self, pictures: &[Arc<Picture>]) -> Result<Vec<ImageEmbedding>>;
    /// Decodes masks; one list per input, one mask per box, in order.
    fn segment(&self, inputs: &[SegmentInput]) -> Result<Vec<Vec<MaskPrediction>>>;
    /// Predicted work to encode one picture, in millions of multiply–adds.
    fn encode_cost(&self) -> u64;
    /// Predicted work to decode one box, in millions of multiply–adds.
    fn decode_cost(&self) -> u64;
    /// What is loaded.
    fn info(&self) -> ModelInfo;
}
