//! The five metrics of the paper: which predictions are right.
//!
//! As the authors' script counts (`statistic.py`), and the paper describes: predictions are taken in
//! their order, and each is right if one of the gold entities of its post that is left has the same
//! words (and the same type, where types count) and agrees about the picture. That gold entity is
//! then used up. They agree about the picture when neither is shown, or when both are and the
//! prediction overlaps any of the gold boxes (masks) enough.

use serde::{Deserialize, Serialize};

use super::Pair;
use super::counts::Prf;
use crate::eval::gold::GoldEntity;
use crate::eval::prediction::PredictedEntity;

/// What makes a prediction right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Words and type.
    Mner,
    /// Words, type and box.
    Gmner,
    /// Words and box.
    Eeg,
    /// Words and mask.
    Ees,
    /// Words, type and mask.
    Smner,
}

impl Task {
    /// All, in the order of the paper's tables.
    pub const ALL: [Self; 5] = [Self::Gmner, Self::Mner, Self::Eeg, Self::Ees, Self::Smner];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mner => "MNER",
            Self::Gmner => "GMNER",
            Self::Eeg => "EEG",
            Self::Ees => "EES",
            Self::Smner => "SMNER",
        }
    }

    /// Whether the type has to be right.
    fn typed(self) -> bool {
        matches!(self, Self::Mner | Self::Gmner | Self::Smner)
    }

    /// Whether boxes are looked at.
    pub fn wants_boxes(self) -> bool {
        matches!(self, Self::Gmner | Self::Eeg)
    }

    /// Whether masks are looked at.
    pub fn wants_masks(self) -> bool {
        matches!(self, Self::Ees | Self::Smner)
    }
}

/// When an overlap is enough: the paper says over 0.5, its script takes 0.5 too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IouRule {
    /// Over the threshold, as the paper says.
    #[default]
    Strict,
    /// The threshold or over it, as the authors' script does.
    Inclusive,
}

impl IouRule {
    /// Whether `iou` is enough.
    pub fn holds(self, iou: f64, threshold: f64) -> bool {
        match self {
            Self::Strict => iou > threshold,
            Self::Inclusive => iou >= threshold,
        }
    }
}

/// The overlaps of every prediction with every gold entity of its post, computed once for all
/// thresholds.
#[derive(Debug, Default)]
pub struct Overlaps {
    /// Per pair and prediction, in their order, per gold entity: of the boxes, of the masks.
    of_pairs: Vec<Vec<Vec<(f64, f64)>>>,
}

impl Overlaps {
    /// Those of `pairs`. Only entities with the same words are compared, so the others have 0.
    pub fn new(pairs: &[Pair]) -> Self {
        let of_pair = |pair: &Pair| {
            let predicted = pair.predicted.map_or(&[][..], |post| &post.entities);
            let of_one = |predicted: &PredictedEntity| {
                pair.gold.entities.iter().map(|gold| overlap(predicted, gold)).collect()
            };
            predicted.iter().map(of_one).collect()
        };
        Self { of_pairs: pairs.iter().map(of_pair).collect() }
    }
}

/// The best overlap of a prediction with any box, and with any mask, of a gold entity.
fn overlap(predicted: &PredictedEntity, gold: &GoldEntity) -> (f64, f64) {
    if predicted.text != gold.text || predicted.groundable != Some(true) {
        return (0.0, 0.0);
    }
    (best_box(predicted, gold), best_mask(predicted, gold))
}

/// The best IoU of the predicted box with any gold box.
pub(super) fn best_box(predicted: &PredictedEntity, gold: &GoldEntity) -> f64 {
    let Some(bbox) = &predicted.bbox else { return 0.0 };
    gold.boxes.iter().map(|gold| f64::from(bbox.iou(gold))).fold(0.0, f64::max)
}

/// The best IoU of the predicted mask with any gold mask; 0 where the sizes differ.
pub(super) fn best_mask(predicted: &PredictedEntity, gold: &GoldEntity) -> f64 {
    let Some(mask) = &predicted.mask else { return 0.0 };
    gold.masks.iter().filter_map(|gold| mask.iou(gold).ok()).fold(0.0, f64::max)
}

/// Counts a task at an IoU threshold.
pub fn tally(
    pairs: &[Pair],
    overlaps: &Overlaps,
    task: Task,
    (rule, threshold): (IouRule, f64),
) -> Prf {
    greedy(pairs, |at, predicted, gold| {
        let same_words = predicted.text == gold.text;
        let same_type = !task.typed() || predicted.kind == Some(gold.kind);
        let (of_boxes, of_masks) = overlaps.of_pairs[at.pair][at.predicted][at.gold];
        let place = if task.wants_masks() { of_masks } else { of_boxes };
        same_words
            && same_type
            && (task == Task::Mner
                || agrees(predicted, gold)
                    .is_some_and(|shown| !shown || rule.holds(place, threshold)))
    })
}

/// What GMNER would be if every box of an entity that is rightly said to be shown were right.
pub fn upper_bound(pairs: &[Pair]) -> Prf {
    greedy(pairs, |_, predicted, gold| {
        predicted.text == gold.text
            && predicted.kind == Some(gold.kind)
            && agrees(predicted, gold).is_some()
    })
}

/// MNER by place instead of by words, as `seqeval` counts it: the same characters and type.
pub fn spans(pairs: &[Pair]) -> Prf {
    greedy(pairs, |_, predicted, gold| {
        let span = gold.span.map(|span| (span.start, span.end));
        predicted.kind == Some(gold.kind) && span.is_some() && predicted.span == span
    })
}

/// Whether the entity is shown, where both say the same.
fn agrees(predicted: &PredictedEntity, gold: &GoldEntity) -> Option<bool> {
    let shown = gold.shown?;
    (predicted.groundable == Some(shown)).then_some(shown)
}

/// Where in its pair a comparison stands.
struct At {
    pair: usize,
    predicted: usize,
    gold: usize,
}

/// Counts right predictions, each gold entity once.
fn greedy(pairs: &[Pair], right: impl Fn(&At, &PredictedEntity, &GoldEntity) -> bool) -> Prf {
    let mut total = Prf::default();
    for (pair, Pair { gold, predicted }) in pairs.iter().enumerate() {
        let predicted = predicted.map_or(&[][..], |post| &post.entities);
        total.predicted += predicted.len();
        total.gold += gold.entities.len();
        let found = assign(predicted, &gold.entities, |p, g| {
            right(&At { pair, predicted: p, gold: g }, &predicted[p], &gold.entities[g])
        });
        total.correct += found.len();
    }
    total
}

/// Predictions in their order, each with the first gold entity left that it is `right` for.
pub(super) fn assign<P, G>(
    predicted: &[P],
    gold: &[G],
    right: impl Fn(usize, usize) -> bool,
) -> Vec<(usize, usize)> {
    let mut left: Vec<usize> = (0..gold.len()).collect();
    let mut found = Vec::new();
    for p in 0..predicted.len() {
        if let Some(at) = left.iter().position(|&g| right(p, g)) {
            found.push((p, left.remove(at)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::gold::GoldPost;
    use crate::eval::metrics::tests::{gold, predicted};
    use crate::eval::prediction::PredictedPost;
    use crate::models::EntityType::{Misc, Per};
    use crate::vision::BoundingBox;

    fn f1s(gold: Vec<GoldEntity>, predicted: Vec<PredictedEntity>, rule: IouRule) -> [usize; 5] {
        let gold = GoldPost { entities: gold, ..GoldPost::default() };
        let predicted = PredictedPost { entities: predicted };
        let pairs = [Pair { gold: &gold, predicted: Some(&predicted) }];
        let overlaps = Overlaps::new(&pairs);
        Task::ALL.map(|task| tally(&pairs, &overlaps, task, (rule, 0.5)).correct)
    }

    fn at(x: f32) -> BoundingBox {
        BoundingBox::new(x, 0.0, x + 10.0, 10.0)
    }

    #[test]
    fn a_gold_entity_is_found_once() {
        let answers = vec![predicted("Anna", Per, None), predicted("Anna", Per, None)];
        assert_eq!(f1s(vec![gold("Anna", Per, &[])], answers, IouRule::Strict), [1, 1, 1, 1, 1]);
    }

    #[test]
    fn types_count_only_where_they_should() {
        let answers = vec![predicted("Anna", Misc, None)];
        assert_eq!(f1s(vec![gold("Anna", Per, &[])], answers, IouRule::Strict), [0, 0, 1, 1, 0]);
    }

    #[test]
    fn any_of_the_boxes_will_do() {
        let entity = || gold("Anna", Per, &[at(0.0), at(50.0)]);
        let answer = |x| vec![predicted("Anna", Per, Some(at(x)))];
        assert_eq!(f1s(vec![entity()], answer(51.0), IouRule::Strict)[0], 1);
        assert_eq!(f1s(vec![entity()], answer(20.0), IouRule::Strict)[..3], [0, 1, 0]);
    }

    #[test]
    fn who_is_not_shown_must_not_be_boxed() {
        let shown = predicted("Anna", Per, Some(at(0.0)));
        assert_eq!(f1s(vec![gold("Anna", Per, &[])], vec![shown], IouRule::Strict)[0], 0);
        let hidden = predicted("Anna", Per, None);
        assert_eq!(f1s(vec![gold("Anna", Per, &[at(0.0)])], vec![hidden], IouRule::Strict)[0], 0);
    }

    #[test]
    fn the_rules_differ_at_the_threshold_alone() {
        // Two boxes of 10 × 10 that share 20/3 × 10 have an IoU of 0.5 exactly; so have these.
        let half = BoundingBox::new(0.0, 0.0, 10.0, 5.0);
        let answers = || vec![predicted("Anna", Per, Some(half))];
        let entity = || vec![gold("Anna", Per, &[at(0.0)])];
        assert_eq!(f1s(entity(), answers(), IouRule::Strict)[0], 0);
        assert_eq!(f1s(entity(), answers(), IouRule::Inclusive)[0], 1);
    }

    /// The first gold entity with the same words may be one that does not agree about the picture.
    #[test]
    fn a_later_namesake_is_tried() {
        let entities = vec![gold("Anna", Per, &[at(0.0)]), gold("Anna", Per, &[])];
        let answers = vec![predicted("Anna", Per, None), predicted("Anna", Per, Some(at(0.0)))];
        assert_eq!(f1s(entities, answers, IouRule::Strict)[0], 2);
    }
}
