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

impl BoundingBox {
    /// A box from its left, top, right and bottom edges. Nothing is checked: see
    /// [`BoundingBox::is_valid`].
    pub fn new(x1: f32, y1: f32, x2: f32, y2: f32) -> Self {
        Self { x1, y1, x2, y2 }
    }

    /// The edges in the order of the wire format: `[x1, y1, x2, y2]`.
    pub fn to_array(self) -> [f32; 4] {
        [self.x1, self.y1, self.x2, self.y2]
    }

    /// Width in pixels; negative when the edges are swapped.
    pub fn width(&self) -> f32 {
        self.x2 - self.x1
    }

    /// Height in pixels; negative when the edges are swapped.
    pub fn height(&self) -> f32 {
        self.y2 - self.y1
    }

    /// Area in square pixels, 0 for a box whose edges touch or are swapped.
    pub fn area(&self) -> f32 {
        self.width().max(0.0) * self.height().max(0.0)
    }

    /// Whether all four edges are finite numbers.
    pub fn is_finite(&self) -> bool {
        self.to_array().iter().all(|edge| edge.is_finite())
    }

    /// Whether the box is finite and has positive width and height.
    pub fn is_valid(&self) -> bool {
        self.is_finite() && self.width() > 0.0 && self.height() > 0.0
    }

    /// Intersection over union, in `0..=1`. Edges are continuous coordinates: no pixel is added to
    /// widths and heights. 0 when the boxes do not overlap or one of them has no area.
    pub fn iou(&self, other: &Self) -> f32 {
        let overlap = Self {
            x1: self.x1.max(other.x1),
            y1: self.y1.max(other.y1),
            x2: self.x2.min(other.x2),
            y2: self.y2.min(other.y2),
        }
        .area();
        let union = self.area() + other.area() - overlap;
        if overlap > 0.0 && union > 0.0 { (overlap / union).min(1.0) } else { 0.0 }
    }

    /// The part of the box inside a picture of `width` × `height` pixels; `None` when nothing with
    /// positive width and height is left, or an edge is not finite.
    pub fn clip(&self, width: u32, height: u32) -> Option<Self> {
        let (width, height) = (width as f32, height as f32);
        let clipped = Self {
            x1: self.x1.clamp(0.0, width),
            y1: self.y1.clamp(0.0, height),
            x2: self.x2.clamp(0.0, width),
            y2: self.y2.clamp(0.0, height),
        };
        (self.is_finite() && clipped.is_valid()).then_some(clipped)
    }

    /// The box with horizontal edges multiplied by `sx` and vertical edges by `sy`, as after
    /// scaling the picture by these factors.
    pub fn scale(&self, sx: f32, sy: f32) -> Self {
        Self { x1: self.x1 * sx, y1: self.y1 * sy, x2: self.x2 * sx, y2: self.y2 * sy }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn iou_adds_no_pixel() {
        let a = BoundingBox::new(0.0, 0.0, 10.0, 10.0);
        let b = BoundingBox::new(5.0, 0.0, 15.0, 10.0);
        assert!((a.iou(&b) - 50.0 / 150.0).abs() < 1e-6);
        assert_eq!(a.iou(&a), 1.0);
        assert_eq!(a.iou(&BoundingBox::new(10.0, 0.0, 20.0, 10.0)), 0.0);
        assert_eq!(a.iou(&BoundingBox::new(4.0, 4.0, 4.0, 8.0)), 0.0);
    }

    #[test]
    fn clip_keeps_only_what_is_inside() {
        let inside = BoundingBox::new(-5.0, -5.0, 700.0, 100.5).clip(640, 480);
        assert_eq!(inside, Some(BoundingBox::new(0.0, 0.0, 640.0, 100.5)));
        assert_eq!(BoundingBox::new(640.0, 0.0, 700.0, 10.0).clip(640, 480), None);
        assert_eq!(BoundingBox::new(9.0, 9.0, 3.0, 12.0).clip(640, 480), None);
        assert_eq!(BoundingBox::new(f32::NAN, 0.0, 3.0, 12.0).clip(640, 480), None);
        assert_eq!(BoundingBox::new(0.0, 0.0, f32::INFINITY, 12.0).clip(640, 480), None);
    }

    #[test]
    fn validity() {
        assert!(BoundingBox::new(0.0, 0.0, 1.0, 1.0).is_valid());
        assert!(!BoundingBox::new(0.0, 0.0, 0.0, 1.0).is_valid());
        assert!(!BoundingBox::new(0.0, 2.0, 1.0, 1.0).is_valid());
        assert!(!BoundingBox::new(0.0, 0.0, f32::INFINITY, 1.0).is_valid());
        assert_eq!(BoundingBox::new(3.0, 0.0, 1.0, 5.0).area(), 0.0);
    }

    #[test]
    fn scaling_is_per_axis() {
        let scaled = BoundingBox::new(1.0, 2.0, 3.0, 4.0).scale(2.0, 0.5);
        assert_eq!(scaled.to_array(), [2.0, 1.0, 6.0, 2.0]);
    }

    fn any_box() -> impl Strategy<Value = BoundingBox> {
        (-50.0f32..50.0, -50.0f32..50.0, 0.1f32..80.0, 0.1f32..80.0)
            .prop_map(|(x, y, w, h)| BoundingBox::new(x, y, x + w, y + h))
    }

    proptest! {
        #[test]
        fn iou_is_symmetric_and_bounded(a in any_box(), b in any_box()) {
            prop_assert_eq!(a.iou(&b), b.iou(&a));
            prop_assert!((0.0..=1.0).contains(&a.iou(&b)));
        }

        #[test]
        fn a_clipped_box_lies_in_the_picture_and_in_the_box(a in any_box()) {
            if let Some(clipped) = a.clip(40, 30) {
                prop_assert!(clipped.is_valid());
                prop_assert!(clipped.x1 >= a.x1.max(0.0) && clipped.x2 <= a.x2.min(40.0));
                prop_assert!(clipped.y1 >= a.y1.max(0.0) && clipped.y2 <= a.y2.min(30.0));
            }
        }
    }
}
