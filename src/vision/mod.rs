//! Pictures: decoding with limits, orientation, Pillow-exact resizing, normalisation, boxes.

mod boxes;
mod picture;

pub use boxes::BoundingBox;
pub use picture::{Picture, PictureDigest};
