//! COCO run-length encoding.

use crate::vision::BoundingBox;

/// A binary mask as COCO run lengths: column-major, alternating runs that start with background
/// (the first may be 0). The counts always add up to `width · height`, and no other count is 0, so
/// equal masks are equal values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rle {
    width: u32,
    height: u32,
    counts: Vec<u32>,
}

/// Run lengths or a compressed string that do not make a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RleError {
    /// A side is 0, or there are more pixels than a 32-bit count can tell.
    #[error("no mask has {width}×{height} pixels")]
    Size {
        /// Width of the mask.
        width: u32,
        /// Height of the mask.
        height: u32,
    },
    /// The runs do not add up to the number of pixels.
    #[error("the runs do not add up to {pixels} pixels")]
    Sum {
        /// `width · height`.
        pixels: u32,
    },
    /// A byte that compressed counts never contain.
    #[error("byte {index} of the compressed counts is not one of theirs")]
    Character {
        /// Its index in the string.
        index: usize,
    },
    /// The string ends within a count.
    #[error("the compressed counts end within a count")]
    Truncated,
    /// A count is negative or does not fit 32 bits.
    #[error("compressed count {index} is out of range")]
    Count {
        /// Its index among the counts.
        index: usize,
    },
    /// Two masks of different sizes were compared.
    #[error("masks of different sizes cannot be compared")]
    SizeMismatch,
}

impl Rle {
    /// A mask from uncompressed run lengths. Runs of length 0 after the first are allowed here and
    /// merged away.
    ///
    /// # Errors
    /// [`RleError::Size`] or [`RleError::Sum`].
    pub fn from_counts(counts: &[u32], width: u32, height: u32) -> Result<Self, RleError> {
        let pixels = pixels(width, height)?;
        let sum: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        if sum != u64::from(pixels) {
            return Err(RleError::Sum { pixels });
        }
        let mut builder = RleBuilder::new();
        for (index, count) in counts.iter().enumerate() {
            builder.push(index % 2 == 1, *count);
        }
        Ok(builder.finish(width, height))
    }

    /// A mask from its pixels in column-major order: down the first column, then the second.
    ///
    /// # Errors
    /// [`RleError::Size`], or [`RleError::Sum`] when there are not exactly `width · height` pixels.
    pub fn from_columns(
        columns: impl IntoIterator<Item = bool>,
        width: u32,
        height: u32,
    ) -> Result<Self, RleError> {
        let pixels = pixels(width, height)?;
        let mut builder = RleBuilder::new();
        let mut seen = 0u32;
        for inside in columns {
            if seen == pixels {
                return Err(RleError::Sum { pixels });
            }
            seen += 1;
            builder.push(inside, 1);
        }
        if seen != pixels {
            return Err(RleError::Sum { pixels });
        }
        Ok(builder.finish(width, height))
    }

    /// A mask from a row-major bitmap, one byte per pixel, inside where it is not 0.
    ///
    /// # Errors
    /// [`RleError::Size`], or [`RleError::Sum`] when there are not exactly `width · height` bytes.
    pub fn from_bitmap(bitmap: &[u8], width: u32, height: u32) -> Result<Self, RleError> {
        let pixels = pixels(width, height)?;
        if bitmap.len() as u64 != u64::from(pixels) {
            return Err(RleError::Sum { pixels });
        }
        let stride = width as usize;
        let columns = (0..stride).flat_map(|x| bitmap[x..].iter().step_by(stride));
        Self::from_columns(columns.map(|pixel| *pixel != 0), width, height)
    }

    /// The mask as a row-major bitmap: one byte per pixel, 1 inside and 0 outside.
    pub fn to_bitmap(&self) -> Vec<u8> {
        let stride = self.width as usize;
        let mut bitmap = vec![0; stride * self.height as usize];
        for strip in self.strips() {
            let start = strip.top as usize * stride + strip.x as usize;
            let pixels = bitmap[start..].iter_mut().step_by(stride);
            pixels.take((strip.bottom - strip.top) as usize).for_each(|pixel| *pixel = 1);
        }
        bitmap
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The run lengths: COCO's uncompressed `counts`.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// Number of pixels inside.
    pub fn area(&self) -> u32 {
        self.counts.iter().skip(1).step_by(2).sum()
    }

    /// The smallest box around the pixels inside; `None` for an empty mask.
    pub fn bbox(&self) -> Option<BoundingBox> {
        let mut strips = self.strips();
        let first = strips.next()?;
        let (mut top, mut bottom, mut right) = (first.top, first.bottom, first.x);
        for strip in strips {
            top = top.min(strip.top);
            bottom = bottom.max(strip.bottom);
            right = strip.x;
        }
        let (left, top) = (first.x as f32, top as f32);
        Some(BoundingBox::new(left, top, (right + 1) as f32, bottom as f32))
    }

    /// Intersection over union of two masks of the same size, in `0..=1`; 0 when both are empty.
    ///
    /// # Errors
    /// [`RleError::SizeMismatch`].
    pub fn iou(&self, other: &Self) -> Result<f64, RleError> {
        if (self.width, self.height) != (other.width, other.height) {
            return Err(RleError::SizeMismatch);
        }
        let overlap = self.overlap(other);
        let union = u64::from(self.area()) + u64::from(other.area()) - overlap;
        Ok(if union == 0 { 0.0 } else { overlap as f64 / union as f64 })
    }

    /// Number of pixels inside both masks, which have the same size: walks both lists of runs.
    fn overlap(&self, other: &Self) -> u64 {
        let (mut a, mut b) = (self.runs(), other.runs());
        let (mut left, mut right) = (a.next(), b.next());
        let mut overlap = 0;
        while let (Some(l), Some(r)) = (left, right) {
            let (start, end) = (l.0.max(r.0), l.1.min(r.1));
            overlap += u64::from(end.saturating_sub(start));
            if l.1 <= r.1 {
                left = a.next();
            } else {
                right = b.next();
            }
        }
        overlap
    }

    /// The runs inside, as ranges of column-major pixel indices.
    fn runs(&self) -> impl Iterator<Item = (u32, u32)> {
        let mut position = 0;
        self.counts.chunks(2).filter_map(move |pair| {
            let start = position + pair[0];
            let length = pair.get(1).copied()?;
            position = start + length;
            Some((start, position))
        })
    }

    /// The vertical strips of pixels inside, column by column from the left, each from the top.
    /// Within a column no two strips touch.
    pub(super) fn strips(&self) -> impl Iterator<Item = Strip> {
        let height = self.height;
        self.runs().flat_map(move |(start, end)| {
            (start / height..end.div_ceil(height)).map(move |x| Strip {
                x,
                top: start.max(x * height) - x * height,
                bottom: (end - x * height).min(height),
            })
        })
    }
}

/// Pixels inside, in column `x` from row `top` to before row `bottom`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Strip {
    pub x: u32,
    pub top: u32,
    pub bottom: u32,
}

/// Collects runs in column-major order.
pub(super) struct RleBuilder {
    counts: Vec<u32>,
    inside: bool,
    length: u32,
}

impl RleBuilder {
    /// Nothing collected yet.
    pub(super) fn new() -> Self {
        Self { counts: Vec::new(), inside: false, length: 0 }
    }

    /// Adds `length` pixels that are all inside or all outside.
    pub(super) fn push(&mut self, inside: bool, length: u32) {
        if length == 0 {
            return;
        }
        if inside != self.inside {
            self.counts.push(self.length);
            self.inside = inside;
            self.length = 0;
        }
        self.length += length;
    }

    /// The mask; the caller pushed exactly `width · height` pixels.
    pub(super) fn finish(mut self, width: u32, height: u32) -> Rle {
        self.counts.push(self.length);
        Rle { width, height, counts: self.counts }
    }
}

/// Number of pixels, where it fits COCO's 32-bit counts and no side is 0.
pub(super) fn pixels(width: u32, height: u32) -> Result<u32, RleError> {
    match width.checked_mul(height) {
        None | Some(0) => Err(RleError::Size { width, height }),
        Some(pixels) => Ok(pixels),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_bitmap() -> impl Strategy<Value = (u32, u32, Vec<u8>)> {
        (1u32..24, 1u32..24).prop_flat_map(|(width, height)| {
            let pixels = (width * height) as usize;
            (Just(width), Just(height), proptest::collection::vec(0u8..2, pixels))
        })
    }

    #[test]
    fn counts_run_down_the_columns() {
        let rle = Rle::from_bitmap(&[1, 0, 0, 1, 1, 0], 3, 2).unwrap();
        assert_eq!(rle.counts(), [0, 2, 1, 1, 2]);
        assert_eq!(Rle::from_counts(&[0, 2, 1, 1, 2], 3, 2).unwrap(), rle);
        assert_eq!(rle.area(), 3);
        assert_eq!(rle.bbox(), Some(BoundingBox::new(0.0, 0.0, 2.0, 2.0)));
    }

    #[test]
    fn empty_and_full() {
        let empty = Rle::from_counts(&[6], 3, 2).unwrap();
        let full = Rle::from_counts(&[0, 6], 3, 2).unwrap();
        assert_eq!((empty.area(), empty.bbox()), (0, None));
        assert_eq!(full.bbox(), Some(BoundingBox::new(0.0, 0.0, 3.0, 2.0)));
        assert_eq!(empty.iou(&empty), Ok(0.0));
        assert_eq!(full.iou(&full), Ok(1.0));
        assert_eq!(full.iou(&empty), Ok(0.0));
    }

    #[test]
    fn runs_of_length_zero_are_merged() {
        let rle = Rle::from_counts(&[1, 2, 0, 1, 2, 0], 3, 2).unwrap();
        assert_eq!(rle.counts(), [1, 3, 2]);
    }

    #[test]
    fn what_is_no_mask_is_refused() {
        let size = |width, height| Err(RleError::Size { width, height });
        assert_eq!(Rle::from_counts(&[], 0, 2), size(0, 2));
        assert_eq!(Rle::from_counts(&[1], 1 << 16, 1 << 16), size(1 << 16, 1 << 16));
        assert_eq!(Rle::from_counts(&[5], 3, 2), Err(RleError::Sum { pixels: 6 }));
        assert_eq!(Rle::from_counts(&[u32::MAX, 7], 3, 2), Err(RleError::Sum { pixels: 6 }));
        assert_eq!(Rle::from_bitmap(&[0; 7], 3, 2), Err(RleError::Sum { pixels: 6 }));
        assert_eq!(Rle::from_columns([true; 7], 3, 2), Err(RleError::Sum { pixels: 6 }));
        assert_eq!(Rle::from_columns([true; 5], 3, 2), Err(RleError::Sum { pixels: 6 }));
        let other = Rle::from_counts(&[6], 2, 3).unwrap();
        let mask = Rle::from_counts(&[6], 3, 2).unwrap();
        assert_eq!(mask.iou(&other), Err(RleError::SizeMismatch));
    }

    proptest! {
        #[test]
        fn a_bitmap_comes_back((width, height, bitmap) in any_bitmap()) {
            let rle = Rle::from_bitmap(&bitmap, width, height).unwrap();
            prop_assert_eq!(rle.to_bitmap(), bitmap.clone());
            prop_assert_eq!(rle.counts().iter().sum::<u32>(), width * height);
            prop_assert!(rle.counts().iter().skip(1).all(|count| *count > 0));
            prop_assert_eq!(rle.area(), bitmap.iter().map(|pixel| u32::from(*pixel)).sum::<u32>());
            let inside = |x: u32, y: u32| bitmap[(y * width + x) as usize] == 1;
            let all = || (0..width).flat_map(|x| (0..height).map(move |y| (x, y)));
            let inside = || all().filter(|(x, y)| inside(*x, *y));
            let expected = inside().next().map(|_| BoundingBox {
                x1: inside().map(|p| p.0).min().unwrap() as f32,
                y1: inside().map(|p| p.1).min().unwrap() as f32,
                x2: inside().map(|p| p.0 + 1).max().unwrap() as f32,
                y2: inside().map(|p| p.1 + 1).max().unwrap() as f32,
            });
            prop_assert_eq!(rle.bbox(), expected);
        }

        #[test]
        fn iou_counts_pixels(
            (a, b) in proptest::collection::vec((0u8..2, 0u8..2), 7 * 5).prop_map(|pairs| {
                pairs.into_iter().unzip::<u8, u8, Vec<_>, Vec<_>>()
            })
        ) {
            let both = a.iter().zip(&b).filter(|(a, b)| **a & **b == 1).count();
            let any = a.iter().zip(&b).filter(|(a, b)| **a | **b == 1).count();
            let expected = if any == 0 { 0.0 } else { both as f64 / any as f64 };
            let a = Rle::from_bitmap(&a, 7, 5).unwrap();
            let b = Rle::from_bitmap(&b, 7, 5).unwrap();
            prop_assert_eq!(a.iou(&b).unwrap(), expected);
            prop_assert_eq!(b.iou(&a).unwrap(), expected);
        }
    }
}
