//! COCO run-length encoding.

/// A binary mask as COCO run lengths: column-major, alternating runs that start with background
/// (the first may be 0). The counts always add up to `width · height`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rle {
    width: u32,
    height: u32,
    counts: Vec<u32>,
}
