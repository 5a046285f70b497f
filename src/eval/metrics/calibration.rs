//! Whether scores can be taken at their word.

use serde::Serialize;

use super::Pair;
use super::decisions::{boxed, found};
use super::matching::{IouRule, assign, best_box, best_mask};

/// Bins of equal width.
const BINS: usize = 10;

/// How scores relate to the truth.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reliability {
    /// Expected calibration error over ten bins of equal width.
    pub ece: f64,
    /// How many scores there are.
    pub count: usize,
    /// The bins that are not empty.
    pub bins: Vec<Bin>,
}

/// Scores of about the same size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bin {
    /// Scores from here on.
    pub from: f64,
    /// How many.
    pub count: usize,
    /// Their mean.
    pub score: f64,
    /// The mean of the truth.
    pub truth: f64,
}

impl Reliability {
    /// Of (score, truth) rows, both in `0..=1`; `None` without rows.
    pub fn of(rows: &[(f64, f64)]) -> Option<Self> {
        if rows.is_empty() {
            return None;
        }
        let mut sums = [(0usize, 0.0, 0.0); BINS];
        for (score, truth) in rows {
            let bin = &mut sums[((score * BINS as f64) as usize).min(BINS - 1)];
            *bin = (bin.0 + 1, bin.1 + score, bin.2 + truth);
        }
        let filled = sums.iter().enumerate().filter(|(_, (count, ..))| *count > 0);
        let bins: Vec<Bin> = filled
            .map(|(index, &(count, score, truth))| Bin {
                from: index as f64 / BINS as f64,
                count,
                score: score / count as f64,
                truth: truth / count as f64,
            })
            .collect();
        let gap = |bin: &Bin| bin.count as f64 * (bin.score - bin.truth).abs();
        let ece = bins.iter().map(gap).sum::<f64>() / rows.len() as f64;
        Some(Self { ece, count: rows.len(), bins })
    }
}

/// The calibration of every score that is there.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Calibration {
    /// `score`: the entity's words and type are right.
    pub score: Option<Reliability>,
    /// `entailment_score`: the picture shows it; of the entities found.
    pub entailment_score: Option<Reliability>,
    /// `box_score`: the box overlaps a gold one enough; of the shown entities found.
    pub box_score: Option<Reliability>,
    /// `mask_score`: the mask's IoU itself.
    pub mask_score: Option<Reliability>,
}

/// Calibration of all scores. `masks` are (score, IoU) of masks made from gold boxes; without any,
/// those of predicted boxes are taken.
pub fn calibration(pairs: &[Pair], rule: IouRule, masks: &[(f64, f64)]) -> Calibration {
    let number = |truth: bool| f64::from(u8::from(truth));
    let entailments: Vec<_> = found(pairs)
        .filter_map(|(p, gold)| Some((p.entailment_score?, number(gold.shown?))))
        .collect();
    let boxes: Vec<_> = boxed(pairs)
        .filter_map(|(p, gold)| Some((p.box_score?, number(rule.holds(best_box(p, gold), 0.5)))))
        .collect();
    let predicted: Vec<_> = found(pairs)
        .filter(|(_, gold)| !gold.masks.is_empty())
        .filter_map(|(p, gold)| Some((p.mask_score?, best_mask(p, gold))))
        .collect();
    Calibration {
        score: Reliability::of(&span_scores(pairs)),
        entailment_score: Reliability::of(&entailments),
        box_score: Reliability::of(&boxes),
        mask_score: Reliability::of(if masks.is_empty() { &predicted } else { masks }),
    }
}

/// Every predicted entity's score, and whether its words and type are right.
fn span_scores(pairs: &[Pair]) -> Vec<(f64, f64)> {
    let mut rows = Vec::new();
    for pair in pairs {
        let predicted = pair.predicted.map_or(&[][..], |post| &post.entities);
        let gold = &pair.gold.entities;
        let same = |p: usize, g: usize| {
            predicted[p].text == gold[g].text && predicted[p].kind == Some(gold[g].kind)
        };
        let right: Vec<usize> = assign(predicted, gold, same).into_iter().map(|(p, _)| p).collect();
        rows.extend(predicted.iter().enumerate().filter_map(|(index, entity)| {
            Some((entity.score?, f64::from(u8::from(right.contains(&index)))))
        }));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_the_mean_gap_of_the_bins() {
        let rows = [(0.95, 1.0), (0.85, 0.0), (0.85, 1.0), (1.0, 1.0)];
        let found = Reliability::of(&rows).unwrap();
        assert_eq!(found.bins.len(), 2);
        assert_eq!((found.bins[0].count, found.bins[0].truth), (2, 0.5));
        let expected = (2.0 * (0.85f64 - 0.5) + 2.0 * (1.0f64 - 0.975)) / 4.0;
        assert!((found.ece - expected).abs() < 1e-12);
        assert_eq!(Reliability::of(&[]), None);
    }
}
