//! What the pipeline answers.

use std::time::Duration;

use crate::mask::Rle;
use crate::models::{CharSpan, EntityType, FineType};
use crate::vision::BoundingBox;

/// A mask and how good the network thinks it is.
#[derive(Debug, Clone)]
pub struct Mask {
    /// The mask at the picture's size; `None` where its score was under the caller's minimum.
    pub rle: Option<Rle>,
    /// The score in `0..=1`.
    pub score: f32,
}

/// Where the picture shows an entity.
#[derive(Debug, Clone)]
pub struct GroundedEntity {
    /// Its box.
    pub bbox: BoundingBox,
    /// Confidence of the box in `0..=1`.
    pub score: f32,
    /// Its mask, where masks were asked for.
    pub mask: Option<Mask>,
}

/// One entity of the text.
#[derive(Debug, Clone)]
pub struct Entity {
    /// The slice of the text that `span` names.
    pub text: String,
    /// Where in the text.
    pub span: CharSpan,
    /// Its coarse type.
    pub kind: EntityType,
    /// Probability in `0..=1`; 1 for an entity that the caller brought along.
    pub score: f32,
    /// Its fine type, where known.
    pub fine: Option<FineType>,
    /// The referring expression.
    pub expression: String,
    /// Probability that the picture shows it; `None` where no picture was looked at.
    pub entailment_score: Option<f32>,
    /// Where the picture shows it; `None` for an entity that is not shown.
    pub grounded: Option<GroundedEntity>,
}

/// Where the auxiliary words came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provenance {
    /// Of the tagger's knowledge: `none` or `caller`.
    pub knowledge: &'static str,
    /// Of the picture's description: `none` or `caller`.
    pub image_description: &'static str,
    /// Of the expressions: `fine_type`, `type`, `caller`, or `none` without entities.
    pub expression: &'static str,
}

/// Time spent per stage, queueing excluded, and in queues.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timings {
    /// Tagging and expansion.
    pub recognize: Duration,
    /// Visual entailment.
    pub entail: Duration,
    /// Visual grounding.
    pub ground: Duration,
    /// Segmentation, RLE included.
    pub segment: Duration,
    /// Waiting in all queues along the longest path.
    pub queue: Duration,
}

/// The answer for one post.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The entities, in the order of the text.
    pub entities: Vec<Entity>,
    /// Where the auxiliary words came from.
    pub provenance: Provenance,
    /// Time per stage.
    pub timings: Timings,
}

/// One box turned into a mask.
#[derive(Debug, Clone)]
pub struct SegmentedBox {
    /// The box as asked.
    pub bbox: BoundingBox,
    /// The mask at the picture's size.
    pub rle: Rle,
    /// The network's own estimate of the mask's IoU.
    pub score: f32,
    /// See [`crate::models::MaskPrediction::stability`].
    pub stability: f32,
}

/// The answer for boxes of one picture.
#[derive(Debug, Clone)]
pub struct SegmentAnswer {
    /// One mask per box, in order.
    pub masks: Vec<SegmentedBox>,
    /// Time per stage.
    pub timings: Timings,
}
