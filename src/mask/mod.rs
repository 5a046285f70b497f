//! Masks: from a network's logits to full-size masks as RLE, polygons or PNG; IoU.

mod compressed;
mod logits;
mod rle;

pub use logits::{MaskFrame, MaskLogits, MaskLogitsError};
pub use rle::{Rle, RleError};
