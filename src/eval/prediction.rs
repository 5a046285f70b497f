//! Predictions: what `POST /v1/smner` answers, as far as it is measured.

use std::collections::HashMap;

use serde::Deserialize;

use super::gold::kind_named;
use crate::mask::Rle;
use crate::models::EntityType;
use crate::vision::BoundingBox;

/// What was predicted for one post.
#[derive(Debug, Clone, Default)]
pub struct PredictedPost {
    /// The entities, in the order of the answer.
    pub entities: Vec<PredictedEntity>,
}

/// One predicted entity.
#[derive(Debug, Clone)]
pub struct PredictedEntity {
    /// Its words.
    pub text: String,
    /// Its type; `None` for one that data sets do not have, which is never right.
    pub kind: Option<EntityType>,
    /// First code point and one past the last, where the answer says so.
    pub span: Option<(usize, usize)>,
    /// Probability of the span with its type.
    pub score: Option<f64>,
    /// Its fine type.
    pub fine: Option<String>,
    /// Whether the picture shows it; `None` where no picture was looked at.
    pub groundable: Option<bool>,
    /// Probability that the picture shows it.
    pub entailment_score: Option<f64>,
    /// Its box in pixels.
    pub bbox: Option<BoundingBox>,
    /// Confidence of the box.
    pub box_score: Option<f64>,
    /// Its mask.
    pub mask: Option<Rle>,
    /// The network's own estimate of the mask's IoU.
    pub mask_score: Option<f64>,
}

/// Predictions by the id of their post; a post that failed has `None`.
pub type Predictions = HashMap<String, Option<PredictedPost>>;

/// Why an answer cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// It is not what the route answers.
    #[error("not an answer of /v1/smner: {0}")]
    Shape(#[from] serde_json::Error),
    /// A type that is none of the four.
    #[error("`{0}` is no entity type")]
    Kind(String),
    /// A box that is not four numbers.
    #[error("a box has four numbers")]
    Bbox,
    /// A mask that is not COCO's run lengths.
    #[error("a mask is not in the form `rle` or `rle_counts`: {0}")]
    Mask(String),
}

#[derive(Deserialize)]
struct Answer {
    entities: Vec<Entity>,
}

#[derive(Deserialize)]
struct Entity {
    text: String,
    #[serde(rename = "type")]
    kind: String,
    start: usize,
    end: usize,
    score: f64,
    fine_type: Option<String>,
    groundable: Option<bool>,
    entailment_score: Option<f64>,
    #[serde(rename = "box")]
    bbox: Option<Vec<f64>>,
    box_score: Option<f64>,
    mask: Option<Mask>,
    mask_score: Option<f64>,
}

/// A mask as it goes over the wire.
#[derive(Debug, Deserialize)]
pub(super) struct Mask {
    size: [u32; 2],
    counts: Counts,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Counts {
    Compressed(String),
    Plain(Vec<u32>),
}

impl Mask {
    pub(super) fn decode(&self) -> Result<Rle, AnswerError> {
        let [height, width] = self.size;
        let rle = match &self.counts {
            Counts::Compressed(counts) => Rle::from_compressed(counts, width, height),
            Counts::Plain(counts) => Rle::from_counts(counts, width, height),
        };
        rle.map_err(|error| AnswerError::Mask(error.to_string()))
    }
}

/// Four numbers as a box.
pub(super) fn bbox(edges: &[f64]) -> Result<BoundingBox, AnswerError> {
    let &[x1, y1, x2, y2] = edges else { return Err(AnswerError::Bbox) };
    Ok(BoundingBox::new(x1 as f32, y1 as f32, x2 as f32, y2 as f32))
}

/// The masks with their scores of an answer of `POST /v1/segment`.
///
/// # Errors
/// [`AnswerError`]
pub fn masks(answer: &serde_json::Value) -> Result<Vec<(Rle, f64)>, AnswerError> {
    #[derive(Deserialize)]
    struct Answer {
        masks: Vec<Made>,
    }
    #[derive(Deserialize)]
    struct Made {
        mask: Mask,
        mask_score: f64,
    }
    let Answer { masks } = Answer::deserialize(answer)?;
    masks.iter().map(|made| Ok((made.mask.decode()?, made.mask_score))).collect()
}

impl PredictedPost {
    /// Reads an answer of `POST /v1/smner`.
    ///
    /// # Errors
    /// [`AnswerError`]
    pub fn from_answer(answer: &serde_json::Value) -> Result<Self, AnswerError> {
        let Answer { entities } = Answer::deserialize(answer)?;
        let entities = entities.into_iter().map(|entity| {
            Ok(PredictedEntity {
                kind: Some(kind_named(&entity.kind).ok_or(AnswerError::Kind(entity.kind))?),
                text: entity.text,
                span: Some((entity.start, entity.end)),
                score: Some(entity.score),
                fine: entity.fine_type,
                groundable: entity.groundable,
                entailment_score: entity.entailment_score,
                bbox: entity.bbox.as_deref().map(bbox).transpose()?,
                box_score: entity.box_score,
                mask: entity.mask.as_ref().map(Mask::decode).transpose()?,
                mask_score: entity.mask_score,
            })
        });
        Ok(Self { entities: entities.collect::<Result<_, AnswerError>>()? })
    }

    /// Decides anew which entities the picture shows, for answers that were made with a threshold
    /// of 0 so that every entity has its box.
    pub fn decide(&mut self, threshold: f64) {
        for entity in &mut self.entities {
            entity.groundable = entity.entailment_score.map(|score| score >= threshold);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer() -> serde_json::Value {
        json!({"id": "1", "entities": [{
            "text": "Anna", "type": "PER", "start": 0, "end": 4, "score": 0.9, "fine_type": "actor",
            "expression": "…", "groundable": true, "entailment_score": 0.4,
            "box": [1.0, 2.0, 3.0, 4.5], "box_score": 0.7,
            "mask": {"size": [2, 3], "counts": [1, 2, 3]}, "mask_score": 0.8,
        }]})
    }

    #[test]
    fn an_answer_is_read() {
        let mut post = PredictedPost::from_answer(&answer()).unwrap();
        let entity = &post.entities[0];
        assert_eq!((entity.kind, entity.span), (Some(EntityType::Per), Some((0, 4))));
        assert_eq!(entity.bbox.unwrap().to_array(), [1.0, 2.0, 3.0, 4.5]);
        assert_eq!(entity.mask.as_ref().unwrap().area(), 2);
        post.decide(0.5);
        assert_eq!(post.entities[0].groundable, Some(false));
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for (place, wrong, words) in [
            ("type", json!("CAT"), "CAT"),
            ("box", json!([1.0]), "four"),
            ("mask", json!({"size": [2, 3], "counts": [1, 2]}), "mask"),
            ("text", json!(7), "smner"),
        ] {
            let mut answer = answer();
            answer["entities"][0][place] = wrong;
            let error = PredictedPost::from_answer(&answer).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
