//! Masks: from a network's logits to full-size masks as RLE, polygons or PNG; IoU.

mod compressed;
mod logits;
mod png;
mod polygon;
mod rle;

pub use ::png::EncodingError as PngError;
pub use logits::{MaskFrame, MaskLogits, MaskLogitsError};
pub use polygon::{Point, Polygon};
pub use rle::{Rle, RleError};
