//! The events of `POST /v1/smner:stream` as they go over the wire. The last one is `done`, a
//! [`SmnerResponse`](super::types::SmnerResponse), or `error`, a problem document.

use serde::Serialize;
use utoipa::ToSchema;

use super::types::{ImageSize, MaskOutput, PackName, TypeName};

/// The event `recognized`, always the first: the entities of the text. Later events name them by
/// their index in it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RecognizedEvent {
    /// The caller's id, or the request's.
    pub id: String,
    /// What answers.
    pub pack: PackName,
    /// The size of the upright picture; null where none was sent.
    pub image: Option<ImageSize>,
    /// The entities, in the order of the text.
    pub entities: Vec<RecognizedEntity>,
}

/// What is known of an entity from its text.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RecognizedEntity {
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
}

/// The event `entailed`: whether the picture shows each entity. Left out where there are none.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct EntailedEvent {
    /// All entities.
    pub entities: Vec<EntailedEntity>,
}

/// Whether the picture shows an entity.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct EntailedEntity {
    /// Which entity.
    pub index: usize,
    /// Whether its score reaches the threshold. The whole answer says no all the same where no box
    /// was found for it.
    pub groundable: bool,
    /// Probability that the picture shows it.
    pub entailment_score: f64,
}

/// The event `grounded`: where the picture shows them. Left out where it shows none.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct GroundedEvent {
    /// The entities that the picture shows.
    pub entities: Vec<PlacedEntity>,
}

/// Where the picture shows an entity.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PlacedEntity {
    /// Which entity.
    pub index: usize,
    /// `[x1, y1, x2, y2]` in pixels of the upright picture; null where none was found.
    #[serde(rename = "box")]
    #[schema(min_items = 4, max_items = 4)]
    pub bbox: Option<Vec<f64>>,
    /// Confidence of the box.
    pub box_score: Option<f64>,
}

/// The event `segmented`: their pixels. Left out where there is no box, or no mask was asked for.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SegmentedEvent {
    /// The entities with a box.
    pub entities: Vec<MaskedEntity>,
}

/// An entity's pixels.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MaskedEntity {
    /// Which entity.
    pub index: usize,
    /// Its mask; null where the score is under `min_mask_score`.
    pub mask: Option<MaskOutput>,
    /// The network's own estimate of the mask's IoU.
    pub mask_score: f64,
}
