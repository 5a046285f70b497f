//! Outlines as masks.

use crate::mask::Rle;

/// The pixels inside any of some polygons, each `x1 y1 x2 y2 …`, as pycocotools draws them; `None`
/// where there is no such mask.
pub(super) fn polygons(outlines: &[Vec<f64>], width: u32, height: u32) -> Option<Rle> {
    let drawn = hotcoco::mask::fr_polys(outlines, height, width).ok()?;
    Rle::from_counts(&drawn.counts, width, height).ok()
}

/// The pixels inside any of some masks of one size.
pub(super) fn union(masks: &[Rle]) -> Option<Rle> {
    let (first, others) = masks.split_first()?;
    if others.is_empty() {
        return Some(first.clone());
    }
    let of = |mask: &Rle| hotcoco::Rle {
        h: mask.height(),
        w: mask.width(),
        counts: mask.counts().to_vec(),
    };
    let all: Vec<_> = masks.iter().map(of).collect();
    let merged = hotcoco::mask::merge(&all, false).ok()?;
    Rle::from_counts(&merged.counts, first.width(), first.height()).ok()
}
