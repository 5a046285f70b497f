//! Pictures: decoding with limits, orientation, Pillow-exact resizing, boxes.

mod boxes;
mod budget;
pub mod decode;
mod header;
mod picture;
pub mod resize;

pub use boxes::BoundingBox;
pub use budget::{PixelBudget, PixelPermit};
pub use decode::{DecodeError, DecodeLimits, decode, probe};
pub use picture::{Picture, PictureDigest, PictureSizeError};
