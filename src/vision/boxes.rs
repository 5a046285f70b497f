//! Axis-aligned boxes in pixels of the upright picture.

/// A box `[x1, y1, x2, y2]` in pixels of the upright picture; `x2`/`y2` are exclusive edges,
/// so a box over the whole of a 640×480 picture is `[0, 0, 640, 480]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoundingBox {
    /// Left edge.
    pub x1: f32,
    /// Top edge.
    pub y1: f32,
    /// Right edge.
    pub x2: f32,
    /// Bottom edge.
    pub y2: f32,
}
