//! What is right about entities whose words and type were found: shown or not, where, fine types.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Pair;
use super::counts::{Share, ratio};
use super::matching::{IouRule, assign, best_box, best_mask};
use crate::eval::gold::{GoldEntity, Instance};
use crate::eval::prediction::PredictedEntity;
use crate::mask::Rle;
use crate::vision::BoundingBox;

/// The entities that were found with the right words and type: (predicted, gold).
pub(super) fn found<'a>(
    pairs: &'a [Pair<'a>],
) -> impl Iterator<Item = (&'a PredictedEntity, &'a GoldEntity)> {
    pairs.iter().flat_map(|pair| {
        let predicted = pair.predicted.map_or(&[][..], |post| &post.entities);
        let gold = &pair.gold.entities;
        let same = |p: usize, g: usize| {
            let (p, g): (&PredictedEntity, &GoldEntity) = (&predicted[p], &gold[g]);
            p.text == g.text && p.kind == Some(g.kind)
        };
        assign(predicted, gold, same).into_iter().map(|(p, g)| (&predicted[p], &gold[g]))
    })
}

/// Visual entailment: whether the picture shows an entity, against whether it was said to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Confusion {
    /// Shown, and said to be.
    pub shown_shown: usize,
    /// Shown, but said not to be.
    pub shown_hidden: usize,
    /// Not shown, but said to be.
    pub hidden_shown: usize,
    /// Not shown, and said not to be.
    pub hidden_hidden: usize,
}

impl Confusion {
    /// All of them.
    pub fn total(&self) -> usize {
        self.shown_shown + self.shown_hidden + self.hidden_shown + self.hidden_hidden
    }

    /// Share of right answers.
    pub fn accuracy(&self) -> f64 {
        ratio(self.shown_shown + self.hidden_hidden, self.total())
    }

    /// Mean of the shares of right answers among the shown and among those that are not.
    pub fn balanced(&self) -> f64 {
        let shown = ratio(self.shown_shown, self.shown_shown + self.shown_hidden);
        let hidden = ratio(self.hidden_hidden, self.hidden_hidden + self.hidden_shown);
        (shown + hidden) / 2.0
    }

    fn add(&mut self, gold: bool, predicted: bool) {
        let place = match (gold, predicted) {
            (true, true) => &mut self.shown_shown,
            (true, false) => &mut self.shown_hidden,
            (false, true) => &mut self.hidden_shown,
            (false, false) => &mut self.hidden_hidden,
        };
        *place += 1;
    }
}

/// Under the group of each entity, and under `all`.
fn grouped<T: Default>(
    rows: impl Iterator<Item = (Option<&'static str>, T)>,
    add: impl Fn(&mut T, &T),
) -> BTreeMap<String, T> {
    let mut groups: BTreeMap<String, T> = BTreeMap::new();
    for (group, row) in rows {
        for name in group.into_iter().chain(["all"]) {
            add(groups.entry(name.to_owned()).or_default(), &row);
        }
    }
    groups
}

/// The confusion of all found entities that the set speaks about, and of each group.
pub fn confusion(pairs: &[Pair]) -> BTreeMap<String, Confusion> {
    let rows = found(pairs).filter_map(|(predicted, gold)| {
        let mut one = Confusion::default();
        one.add(gold.shown?, predicted.groundable?);
        Some((gold.group, one))
    });
    grouped(rows, |total, one| {
        total.shown_shown += one.shown_shown;
        total.shown_hidden += one.shown_hidden;
        total.hidden_shown += one.hidden_shown;
        total.hidden_hidden += one.hidden_hidden;
    })
}

/// Visual grounding: the shown entities that were found and have a predicted box, and how many of
/// these boxes overlap a gold one enough.
pub fn grounding(pairs: &[Pair], rule: IouRule, threshold: f64) -> BTreeMap<String, Share> {
    let rows = boxed(pairs).map(|(predicted, gold)| {
        let right = rule.holds(best_box(predicted, gold), threshold);
        (gold.group, Share { right: usize::from(right), of: 1 })
    });
    grouped(rows, |total, one| {
        total.right += one.right;
        total.of += one.of;
    })
}

/// The found entities that are shown and have a predicted box.
pub(super) fn boxed<'a>(
    pairs: &'a [Pair<'a>],
) -> impl Iterator<Item = (&'a PredictedEntity, &'a GoldEntity)> {
    found(pairs).filter(|(predicted, gold)| {
        gold.shown == Some(true) && !gold.boxes.is_empty() && predicted.bbox.is_some()
    })
}

/// Fine types of the found entities that have one.
pub fn fine_types(pairs: &[Pair]) -> Share {
    let mut share = Share::default();
    for (predicted, gold) in found(pairs) {
        if let Some(fine) = &gold.fine {
            share.add(predicted.fine.as_ref() == Some(fine));
        }
    }
    share
}

/// How well masks fit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Masks {
    /// Masks.
    pub count: usize,
    /// Their mean IoU with the gold mask.
    pub mean_iou: f64,
    /// Share of them with an IoU over 0.5.
    pub over_half: f64,
    /// Mean IoU of the filled gold box with the gold mask, to compare.
    pub filled_box: Option<f64>,
}

impl Masks {
    fn of(ious: &[f64]) -> Option<Self> {
        (!ious.is_empty()).then(|| Self {
            count: ious.len(),
            mean_iou: mean(ious),
            over_half: ratio(ious.iter().filter(|&&iou| iou > 0.5).count(), ious.len()),
            filled_box: None,
        })
    }
}

/// The masks of shown entities that were found and boxed; `None` without any.
pub fn masks_of_predictions(pairs: &[Pair]) -> Option<Masks> {
    let rows = found(pairs)
        .filter(|(predicted, gold)| !gold.masks.is_empty() && predicted.groundable == Some(true));
    Masks::of(&rows.map(|(predicted, gold)| best_mask(predicted, gold)).collect::<Vec<_>>())
}

/// Masks that were made from the boxes of instances; `None` without any.
pub fn masks_of_gold_boxes(rows: &[(&Rle, &Instance)]) -> Option<Masks> {
    let ious: Vec<f64> =
        rows.iter().map(|(mask, gold)| mask.iou(&gold.mask).unwrap_or_default()).collect();
    let filled: Vec<f64> =
        rows.iter().map(|(_, gold)| filled_box(&gold.mask, &gold.bbox)).collect();
    Masks::of(&ious).map(|masks| Masks { filled_box: Some(mean(&filled)), ..masks })
}

/// IoU of all pixels of a box with a mask.
fn filled_box(gold: &Rle, bbox: &BoundingBox) -> f64 {
    let (width, height) = (gold.width(), gold.height());
    let [x1, y1, x2, y2] = bbox.to_array().map(|edge| edge.round().max(0.0) as u32);
    let inside = |x: u32, y: u32| (x1..x2).contains(&x) && (y1..y2).contains(&y);
    let columns = (0..width).flat_map(|x| (0..height).map(move |y| (x, y)));
    let filled = Rle::from_columns(columns.map(|(x, y)| inside(x, y)), width, height);
    filled.ok().and_then(|filled| filled.iou(gold).ok()).unwrap_or_default()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::gold::GoldPost;
    use crate::eval::metrics::tests::{gold, predicted};
    use crate::eval::prediction::PredictedPost;
    use crate::models::EntityType::Per;

    #[test]
    fn only_found_entities_are_asked_about() {
        let bbox = BoundingBox::new(0.0, 0.0, 10.0, 10.0);
        let post = GoldPost {
            entities: vec![gold("A", Per, &[bbox]), gold("B", Per, &[]), gold("C", Per, &[bbox])],
            ..GoldPost::default()
        };
        let answers = vec![
            predicted("A", Per, Some(bbox)),
            predicted("B", Per, Some(bbox)),
            predicted("D", Per, None),
        ];
        let answers = PredictedPost { entities: answers };
        let pairs = [Pair { gold: &post, predicted: Some(&answers) }];
        let all = confusion(&pairs)["all"];
        assert_eq!(all, Confusion { shown_shown: 1, hidden_shown: 1, ..Confusion::default() });
        assert_eq!((all.accuracy(), all.balanced()), (0.5, 0.5));
        let boxes = grounding(&pairs, IouRule::Strict, 0.5)["all"];
        assert_eq!(boxes, Share { right: 1, of: 1 });
    }

    #[test]
    fn a_filled_box_is_measured_in_pixels() {
        let mask = Rle::from_bitmap(&[1, 1, 0, 1, 1, 0], 3, 2).unwrap();
        let gold = Instance { bbox: BoundingBox::new(0.0, 0.0, 3.0, 2.0), mask: mask.clone() };
        let masks = masks_of_gold_boxes(&[(&mask, &gold)]).unwrap();
        assert_eq!((masks.mean_iou, masks.filled_box), (1.0, Some(4.0 / 6.0)));
    }
}
