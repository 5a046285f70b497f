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

/// The mean of the boxes that agree with the first, weighted by the softmax of their `logits`; as
/// shares of the picture. `None` when there is no box.
pub(super) fn merge(boxes: &[CellBox], logits: &[f32]) -> Option<BoundingBox> {
    let of = |cell: &CellBox| {
        let [x1, y1, x2, y2] = cell.edges;
        BoundingBox::new(x1, y1, x2, y2)
    };
    let first = of(boxes.first()?);
    let highest = logits.first()?;
    let mut sum = [0.0; 4];
    let mut total = 0.0;
    for (cell, logit) in boxes.iter().zip(logits) {
        // Not `iou > SAME || first`: a box without area is nobody's neighbour, and no answer.
        if of(cell).iou(&first) <= SAME {
            continue;
        }
        let weight = (logit - highest).exp();
        total += weight;
        for (edge, value) in sum.iter_mut().zip(cell.edges) {
            *edge += weight * value;
        }
    }
    if total <= 0.0 {
        return None;
    }
    let [x1, y1, x2, y2] = sum.map(|edge| edge / total);
    Some(BoundingBox::new(x1, y1, x2, y2))
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
        let merged = merge(&boxes, &[1.0, 1.0, 1.0]).unwrap();
        assert!((merged.y2 - 0.9).abs() < 1e-6 && merged.x2 == 1.0);
        assert!(merge(&[cell([0.5, 0.5, 0.5, 0.5])], &[0.0]).is_none());
        assert!(merge(&[], &[]).is_none());
    }
}
