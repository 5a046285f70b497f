//! What the pipeline is asked. Every value here is legal: parsing happened at the door.

use std::sync::Arc;

use crate::models::{CharSpan, EntityType};
use crate::vision::{BoundingBox, Picture};

/// How far the pipeline goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Task {
    /// Entities of the text only.
    Mner,
    /// And whether the picture shows them, and where (boxes).
    Gmner,
    /// And their pixel masks.
    #[default]
    Smner,
}

/// An entity that the caller brought along; stage 1 is then skipped.
#[derive(Debug, Clone, PartialEq)]
pub struct GivenEntity {
    /// Where in the text; not empty and inside it.
    pub span: CharSpan,
    /// Its type.
    pub kind: EntityType,
    /// A referring expression to use as it is.
    pub expression: Option<Arc<str>>,
}

/// What a caller may set for one request.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How far to go.
    pub task: Task,
    /// An entity is groundable when its entailment probability is at least this; the pack's
    /// threshold where `None`. In `0..=1`.
    pub entailment_threshold: Option<f32>,
    /// Masks whose score is under this are left out. In `0..=1`.
    pub min_mask_score: f32,
    /// The caller's own entities.
    pub entities: Option<Vec<GivenEntity>>,
    /// The caller's own auxiliary knowledge for the tagger.
    pub knowledge: Option<Arc<str>>,
    /// The caller's own description of the picture.
    pub image_description: Option<Arc<str>>,
}

/// One post: a text and its picture.
#[derive(Debug, Clone)]
pub struct Request {
    /// The text as sent; not blank, within the limits.
    pub text: Arc<str>,
    /// The picture; absent only where `options.task` is [`Task::Mner`].
    pub picture: Option<Arc<Picture>>,
    /// What the caller set.
    pub options: Options,
}

/// Boxes of one picture to turn into masks, without a text.
#[derive(Debug, Clone)]
pub struct SegmentRequest {
    /// The picture.
    pub picture: Arc<Picture>,
    /// Boxes inside the picture.
    pub boxes: Vec<BoundingBox>,
}
