//! From cells to one box.

use super::network::CellBox;
use crate::vision::BoundingBox;

/// Overlap with the best cell's box from which a box says the same thing.
const SAME: f32 = 0.5;

/// The `count` cells with the highest selection logits, best first; the earlier cell where equal.
pub(super) fn best_cells(selection: &[f32], count: usize) -> Vec<u32> {
    let mut cells: Vec<u32> = (0..selection.len() as u32).collect();
    cells.sort_by(|&a, &b| selection[b as usize].total_cmp(&selection[a as usize]));
    cells.truncate(count);
    cells
}

/// The mean of the boxes that agree with the best one, as shares of the picture, and the best one's
/// quality. A box ranks by its cell's selection logit (`logits`) and its own quality, and counts by
/// the softmax of that. `None` when there is no box with area.
pub(super) fn merge(boxes: &[CellBox], logits: &[f32]) -> Option<(BoundingBox, f32)> {
    let of = |cell: &CellBox| {
        let [x1, y1, x2, y2] = cell.edges;
        BoundingBox::new(x1, y1, x2, y2)
    };
    let ranked: Vec<(&CellBox, f32)> =
        boxes.iter().zip(logits).map(|(b, logit)| (b, logit + log_sigmoid(b.quality))).collect();
    // The first of equals, as `argmax` has it.
    let (best, highest) = ranked.iter().copied().reduce(|a, b| if b.1 > a.1 { b } else { a })?;
    let mut sum = [0.0; 4];
    let mut total = 0.0;
    for (cell, rank) in ranked {
        // A box without area does not even agree with itself, and is no answer.
        if of(cell).iou(&of(best)) <= SAME {
            continue;
        }
        let weight = (rank - highest).exp();
        total += weight;
        for (edge, value) in sum.iter_mut().zip(cell.edges) {
            *edge += weight * value;
        }
    }
    if total <= 0.0 {
        return None;
    }
    let [x1, y1, x2, y2] = sum.map(|edge| edge / total);
    Some((BoundingBox::new(x1, y1, x2, y2), best.quality))
}

/// The logarithm of the logistic function, without overflow.
fn log_sigmoid(logit: f32) -> f32 {
    logit.min(0.0) - (-logit.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(edges: [f32; 4]) -> CellBox {
        CellBox { edges, quality: 0.0 }
    }

    #[test]
    fn cells_come_best_first_and_in_order_where_equal() {
        assert_eq!(best_cells(&[0.0, 3.0, 1.0, 3.0], 3), [1, 3, 2]);
    }

    #[test]
    fn only_boxes_that_agree_are_merged() {
        let boxes =
            [cell([0.0, 0.0, 1.0, 1.0]), cell([0.0, 0.0, 1.0, 0.8]), cell([0.6, 0.6, 0.9, 0.9])];
        let (merged, _) = merge(&boxes, &[1.0, 1.0, 1.0]).unwrap();
        assert!((merged.y2 - 0.9).abs() < 1e-6 && merged.x2 == 1.0);
        assert!(merge(&[cell([0.5, 0.5, 0.5, 0.5])], &[0.0]).is_none());
        assert!(merge(&[], &[]).is_none());
    }

    #[test]
    fn quality_weighs_as_much_as_selection() {
        let poor = CellBox { edges: [0.0, 0.0, 0.2, 0.2], quality: -3.0 };
        let good = CellBox { edges: [0.5, 0.5, 1.0, 1.0], quality: 3.0 };
        let (merged, quality) = merge(&[poor, good], &[1.0, 0.0]).unwrap();
        assert_eq!((merged.x1, quality), (0.5, 3.0));
        assert!((log_sigmoid(-200.0) + 200.0).abs() < 1e-3 && log_sigmoid(200.0) == 0.0);
    }
}
