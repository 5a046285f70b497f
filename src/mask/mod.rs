//! Masks: from a network's logits to full-size masks as RLE, polygons or PNG; IoU.

mod logits;
mod rle;

pub use logits::{MaskFrame, MaskLogits};
pub use rle::Rle;
