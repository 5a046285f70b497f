//! The paper's metrics and what helps to understand them.

mod baseline;
mod calibration;
mod counts;
mod decisions;
mod matching;

use super::gold::{DataSet, GoldPost};
use super::prediction::{PredictedPost, Predictions};

pub use baseline::{Baselines, baselines};
pub use calibration::{Calibration, Reliability, calibration};
pub use counts::{DataSetCounts, Prf, Share, count};
pub use decisions::{
    Confusion, Masks, confusion, fine_types, grounding, masks_of_gold_boxes, masks_of_predictions,
};
pub use matching::{IouRule, Overlaps, Task, spans, tally, upper_bound};

/// A gold post beside what was predicted for it; nothing where the prediction failed.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    /// What is right.
    pub gold: &'a GoldPost,
    /// What was predicted.
    pub predicted: Option<&'a PredictedPost>,
}

/// Each gold post with its prediction, in the order of the set. Posts that nothing was predicted
/// for are left out where `only_answered`.
pub fn pairs<'a>(
    set: &'a DataSet,
    predictions: &'a Predictions,
    only_answered: bool,
) -> Vec<Pair<'a>> {
    let pair = |gold: &'a GoldPost| Pair {
        gold,
        predicted: predictions.get(&gold.id).and_then(Option::as_ref),
    };
    let wanted = |gold: &&GoldPost| !only_answered || predictions.contains_key(&gold.id);
    set.posts.iter().filter(wanted).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use crate::eval::gold::GoldEntity;
    use crate::eval::prediction::PredictedEntity;
    use crate::models::EntityType;
    use crate::vision::BoundingBox;

    /// A gold entity that is shown where it has boxes.
    pub(super) fn gold(text: &str, kind: EntityType, boxes: &[BoundingBox]) -> GoldEntity {
        let named = GoldEntity::named(text, kind);
        GoldEntity { shown: Some(!boxes.is_empty()), boxes: boxes.to_vec(), ..named }
    }

    /// A predicted entity that is said to be shown where it has a box.
    pub(super) fn predicted(
        text: &str,
        kind: EntityType,
        bbox: Option<BoundingBox>,
    ) -> PredictedEntity {
        PredictedEntity {
            text: text.to_owned(),
            kind: Some(kind),
            span: None,
            score: None,
            fine: None,
            groundable: Some(bbox.is_some()),
            entailment_score: None,
            bbox,
            box_score: None,
            mask: None,
            mask_score: None,
        }
    }
}
