//! The wire format: what clients send and read. Field names are final.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// A post: a text and its picture.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SmnerRequest {
    /// The text.
    #[schema(example = "Roger Federer serves at Roland Garros")]
    pub text: String,
    /// The picture; may be left out only where `options.task` is `mner`.
    pub image: Option<ImageInput>,
    /// An id of the caller's own, echoed; the request id where absent.
    pub id: Option<String>,
    /// What may be set.
    pub options: Option<SmnerOptions>,
}

/// A picture.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum ImageInput {
    /// The file itself.
    Base64 {
        /// The file (JPEG, PNG, WebP or GIF) in base64, or a `data:` URL.
        data: String,
    },
    /// A link to it. Refused: pictures by URL are switched off.
    Url {
        /// The link.
        url: String,
    },
}

/// What may be set for a post.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SmnerOptions {
    /// How far to go; `smner` where absent.
    pub task: Option<TaskName>,
    /// How masks are written; `rle` where absent.
    pub mask_format: Option<MaskFormat>,
    /// An entity is groundable when its entailment probability is at least this; the pack's
    /// threshold where absent.
    #[schema(minimum = 0.0, maximum = 1.0)]
    pub entailment_threshold: Option<f32>,
    /// Masks whose score is under this are reported as null with their score; 0 where absent.
    #[schema(minimum = 0.0, maximum = 1.0)]
    pub min_mask_score: Option<f32>,
    /// The caller's own entities: the text is then not tagged.
    pub entities: Option<Vec<EntityInput>>,
    /// The caller's own auxiliary knowledge for the tagger.
    pub knowledge: Option<String>,
    /// The caller's own description of the picture.
    pub image_description: Option<String>,
    /// Deadline for this request in milliseconds, counted from the parsed request; a longer one
    /// than `/v1/info` allows is cut to that.
    #[schema(minimum = 1)]
    pub timeout_ms: Option<u64>,
}

/// How far to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TaskName {
    /// The text's entities.
    Mner,
    /// And their boxes.
    Gmner,
    /// And their masks.
    Smner,
}

/// How masks are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaskFormat {
    /// COCO run lengths, compressed: `counts` is a string.
    #[default]
    Rle,
    /// COCO run lengths: `counts` is a list of numbers.
    RleCounts,
    /// `polygons`.
    Polygon,
    /// `png`: a 1-bit PNG in base64.
    Png,
}

impl MaskFormat {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Rle, Self::RleCounts, Self::Polygon, Self::Png];
}

/// An entity that the caller brings along.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EntityInput {
    /// First code point of the text.
    pub start: usize,
    /// One past the last code point.
    pub end: usize,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: TypeName,
    /// A referring expression to use as it is.
    #[schema(example = "Buddy (MISC)-a dog")]
    pub expression: Option<String>,
}

/// The types of entities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum TypeName {
    /// A person.
    Per,
    /// A place.
    Loc,
    /// An organisation.
    Org,
    /// Anything else with a name.
    Misc,
}

/// The answer for a post.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SmnerResponse {
    /// The caller's id, or the request's.
    pub id: String,
    /// What answered.
    pub pack: PackName,
    /// The size of the upright picture; null where none was sent.
    pub image: Option<ImageSize>,
    /// The entities, in the order of the text.
    pub entities: Vec<EntityOutput>,
    /// Where the auxiliary words came from.
    pub provenance: ProvenanceOutput,
    /// Time per stage in milliseconds.
    pub timings_ms: TimingsOutput,
}

/// A pack's name and version.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PackName {
    /// Its name.
    #[schema(example = "nano")]
    pub name: String,
    /// Its version.
    pub version: String,
}

/// A picture's size after its orientation was applied.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct ImageSize {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// An entity of the text.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct EntityOutput {
    /// The slice of the text from `start` to `end`.
    pub text: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: TypeName,
    /// First code point.
    pub start: usize,
    /// One past the last code point.
    pub end: usize,
    /// Probability of the span with its type.
    pub score: f64,
    /// Its fine type, where the pack's tagger knows one.
    pub fine_type: Option<String>,
    /// The referring expression.
    pub expression: String,
    /// Whether the picture shows it; null where no picture was looked at.
    pub groundable: Option<bool>,
    /// Probability that the picture shows it.
    pub entailment_score: Option<f64>,
    /// `[x1, y1, x2, y2]` in pixels of the upright picture; null where it is not shown.
    #[serde(rename = "box")]
    #[schema(min_items = 4, max_items = 4)]
    pub bbox: Option<Vec<f64>>,
    /// Confidence of the box.
    pub box_score: Option<f64>,
    /// Its pixels; null where it is not shown, or where the score is under `min_mask_score`.
    pub mask: Option<MaskOutput>,
    /// The network's own estimate of the mask's IoU.
    pub mask_score: Option<f64>,
}

/// A mask at the picture's size, in the format that was asked for.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MaskOutput {
    /// `[height, width]`.
    #[schema(min_items = 2, max_items = 2)]
    pub size: Vec<u32>,
    /// Run lengths, column by column, background first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// A list of polygons; each is a list of rings, the outer one first, then holes; each ring is
    /// a list of `[x, y]` in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub polygons: Option<Vec<Vec<Vec<[u32; 2]>>>>,
    /// A 1-bit PNG in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub png: Option<String>,
}

/// Run lengths: a string (`rle`) or numbers (`rle_counts`).
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Counts {
    /// COCO's compressed form.
    Compressed(String),
    /// The numbers themselves.
    Plain(Vec<u32>),
}

/// Where the auxiliary words came from.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ProvenanceOutput {
    /// Of the tagger's knowledge: `none` or `caller`.
    pub knowledge: &'static str,
    /// Of the picture's description: `none` or `caller`.
    pub image_description: &'static str,
    /// Of the expressions: `fine_type`, `type`, `caller` or `none`.
    pub expression: &'static str,
}

/// Time per stage in milliseconds.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct TimingsOutput {
    /// Decoding the picture.
    pub decode: f64,
    /// Tagging and expansion.
    pub recognize: f64,
    /// Visual entailment.
    pub entail: f64,
    /// Visual grounding.
    pub ground: f64,
    /// Segmentation.
    pub segment: f64,
    /// Waiting in queues.
    pub queue: f64,
    /// From the parsed request to the answer.
    pub total: f64,
}

/// Many posts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchRequest {
    /// The posts; each is admitted and fails on its own.
    #[schema(value_type = Vec<SmnerRequest>)]
    pub inputs: Box<RawValue>,
}

/// One outcome per post, in order.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchResponse {
    /// The outcomes.
    pub outputs: Vec<BatchOutput>,
}

/// What became of one post of a batch.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchOutput {
    /// The HTTP status that it would have had alone.
    #[schema(example = 200)]
    pub status: u16,
    /// Its answer, where the status is 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<SmnerResponse>,
    /// Its error otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<super::problem::ProblemBody>,
}

/// Boxes of a picture to turn into masks.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SegmentBoxesRequest {
    /// The picture.
    pub image: ImageInput,
    /// Each `[x1, y1, x2, y2]` in pixels of the upright picture.
    pub boxes: Vec<Vec<f64>>,
    /// What may be set.
    pub options: Option<SegmentOptions>,
}

/// What may be set for boxes.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SegmentOptions {
    /// How masks are written; `rle` where absent.
    pub mask_format: Option<MaskFormat>,
}

/// One mask per box, in order.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SegmentResponse {
    /// The size of the upright picture.
    pub image: ImageSize,
    /// The masks.
    pub masks: Vec<SegmentedMask>,
}

/// One box's mask.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SegmentedMask {
    /// The box as sent.
    #[serde(rename = "box")]
    #[schema(min_items = 4, max_items = 4)]
    pub bbox: Vec<f64>,
    /// Its mask.
    pub mask: MaskOutput,
    /// The network's own estimate of the mask's IoU.
    pub mask_score: f64,
    /// How little the mask depends on the threshold: IoU of the masks at +1 and −1.
    pub stability_score: f64,
}
