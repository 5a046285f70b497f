//! Pictures: decoding with limits, orientation, Pillow-exact resizing, boxes.

mod boxes;
pub mod decode;
mod header;
mod picture;
pub mod resize;

pub use boxes::BoundingBox;
pub use decode::{DecodeError, DecodeLimits, decode, probe};
pub use picture::{Picture, PictureDigest, PictureSizeError};
