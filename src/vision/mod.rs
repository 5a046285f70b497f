//! Pictures: decoding with limits, orientation, Pillow-exact resizing, boxes.

mod boxes;
mod picture;
pub mod resize;

pub use boxes::BoundingBox;
pub use picture::{Picture, PictureDigest, PictureSizeError};
