//! What a mask decoder returns, and how it maps onto the picture.

/// How a mask decoder's low-resolution grid maps onto the picture: the grid covers a square of
/// `frame` × `frame` pixels, whose top-left `resized` part holds the scaled picture (the rest is
/// padding), which in turn is the `original` picture scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskFrame {
    /// Side of the square that the image encoder saw, in pixels (1024 for the released SAM).
    pub frame: u32,
    /// Width and height of the scaled picture inside the square.
    pub resized: (u32, u32),
    /// Width and height of the upright picture.
    pub original: (u32, u32),
}

/// One mask's logits as the decoder wrote them, row by row; positive means "inside".
#[derive(Debug, Clone)]
pub struct MaskLogits {
    /// Width of the grid (256 for the released SAM).
    pub width: usize,
    /// Height of the grid.
    pub height: usize,
    /// `width · height` values, row-major.
    pub values: Vec<f32>,
    /// How the grid maps onto the picture.
    pub frame: MaskFrame,
}
