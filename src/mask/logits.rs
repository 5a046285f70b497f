//! What a mask decoder returns, and how it becomes a full-size mask.
//!
//! SAM (Kirillov et al., "Segment Anything", 2023) upscales its low-resolution logits twice with
//! `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`: to the square frame
//! that the image encoder saw, then, with the padding cropped, to the picture; the mask is where
//! the result exceeds a threshold. Here the two steps, the threshold and the run lengths are one
//! pass over the picture's columns, so no full-size picture of floats ever exists. The order of
//! the single-precision operations is torch's; where the threshold falls within a rounding error
//! of a value, torch's vectorised kernels may decide differently.

use super::rle::{Rle, RleBuilder, RleError, pixels};

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

/// One mask's logits as the decoder wrote them, row by row, and the threshold above which they mean
/// "inside".
#[derive(Debug, Clone)]
pub struct MaskLogits {
    width: usize,
    height: usize,
    values: Vec<f32>,
    frame: MaskFrame,
    threshold: f32,
}

/// Logits that cannot be mapped onto a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MaskLogitsError {
    /// A side of the grid is 0 or the number of values is not `width · height`.
    #[error("{values} values are not a grid of {width}×{height}")]
    Grid {
        /// Width of the grid.
        width: usize,
        /// Height of the grid.
        height: usize,
        /// Number of values.
        values: usize,
    },
    /// A side is 0, or the scaled picture is larger than the square.
    #[error("{0:?} is not a picture inside a square")]
    Frame(MaskFrame),
    /// The picture is too large for a mask.
    #[error(transparent)]
    Picture(#[from] RleError),
}

impl MaskLogits {
    /// Logits of a grid of `width` × `height`, row by row; positive means "inside".
    ///
    /// # Errors
    /// When the values do not fill the grid, `frame` contradicts itself, or the picture has more
    /// pixels than a mask can hold.
    pub fn new(
        width: usize,
        height: usize,
        values: Vec<f32>,
        frame: MaskFrame,
    ) -> Result<Self, MaskLogitsError> {
        if values.is_empty() || width.checked_mul(height) != Some(values.len()) {
            return Err(MaskLogitsError::Grid { width, height, values: values.len() });
        }
        let legal = |side: u32| (1..=frame.frame).contains(&side);
        if !legal(frame.resized.0) || !legal(frame.resized.1) {
            return Err(MaskLogitsError::Frame(frame));
        }
        pixels(frame.original.0, frame.original.1)?;
        Ok(Self { width, height, values, frame, threshold: 0.0 })
    }

    /// The same logits, "inside" above another threshold.
    pub fn above(self, threshold: f32) -> Self {
        Self { threshold, ..self }
    }

    /// Width of the grid (256 for the released SAM).
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height of the grid.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The logits, row-major: `width · height` values.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// How the grid maps onto the picture.
    pub fn frame(&self) -> MaskFrame {
        self.frame
    }

    /// The mask of the whole picture: where the upscaled logits exceed the threshold. Memory beside
    /// the result: proportional to the grid and to the picture's sides.
    pub fn to_rle(&self) -> Rle {
        let MaskFrame { frame, resized, original } = self.frame;
        let columns = chain(self.width, frame, resized.0, original.0);
        let rows = chain(self.height, frame, resized.1, original.1);
        let bands = bands(&rows);
        let sides = Sides::of(self);
        let mut runs = RleBuilder::new();
        let mut side = vec![Sides::INSIDE; self.height];
        let mut side_of = (usize::MAX, usize::MAX);
        for column in &columns {
            let span = column.span();
            if span != side_of {
                sides.common(span, &mut side);
                side_of = span;
            }
            for band in &bands {
                let common = side[band.first..=band.last].iter().fold(3, |all, one| all & one);
                if common != 0 {
                    runs.push(common == Sides::INSIDE, (band.end - band.start) as u32);
                } else {
                    for row in &rows[band.start..band.end] {
                        runs.push(self.upscaled(column, row) > self.threshold, 1);
                    }
                }
            }
        }
        runs.finish(original.0, original.1)
    }

    /// The value of one pixel of the picture after both interpolations.
    fn upscaled(&self, column: &Chain, row: &Chain) -> f32 {
        let at = |y: Tap, x: Tap| {
            let (top, bottom) = (y.low * self.width, y.high * self.width);
            let values = &self.values;
            let above = x.mix(values[top + x.low], values[top + x.high]);
            let below = x.mix(values[bottom + x.low], values[bottom + x.high]);
            y.mix(above, below)
        };
        let line = |y: Tap| column.outer.mix(at(y, column.low), at(y, column.high));
        row.outer.mix(line(row.low), line(row.high))
    }
}

/// One output position of a linear interpolation: two input positions and the second's weight.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Tap {
    low: usize,
    high: usize,
    weight: f32,
}

impl Tap {
    /// Half-pixel centres, edges repeated, in single precision, as torch computes them.
    fn new(output: usize, size: usize, new_size: usize) -> Self {
        if size == new_size {
            return Self { low: output, high: output, weight: 0.0 };
        }
        let scale = size as f32 / new_size as f32;
        let position = (scale * (output as f32 + 0.5) - 0.5).max(0.0);
        let low = (position as usize).min(size - 1);
        let high = (low + 1).min(size - 1);
        Self { low, high, weight: (position - low as f32).clamp(0.0, 1.0) }
    }

    fn mix(self, low: f32, high: f32) -> f32 {
        (1.0 - self.weight) * low + self.weight * high
    }
}

/// Both interpolations along one axis: a pixel of the picture mixes two of the frame, and each of
/// those two of the grid.
#[derive(Debug, Clone, Copy)]
struct Chain {
    outer: Tap,
    low: Tap,
    high: Tap,
}

impl Chain {
    /// First and last position of the grid that the pixel depends on.
    fn span(&self) -> (usize, usize) {
        (self.low.low, self.high.high)
    }
}

/// The chains of all pixels along one axis.
fn chain(grid: usize, frame: u32, resized: u32, original: u32) -> Vec<Chain> {
    let (frame, resized, original) = (frame as usize, resized as usize, original as usize);
    let pixel = |output: usize| {
        let outer = Tap::new(output, resized, original);
        let inner = |position| Tap::new(position, grid, frame);
        Chain { outer, low: inner(outer.low), high: inner(outer.high) }
    };
    (0..original).map(pixel).collect()
}

/// Neighbouring rows of the picture, `start..end`, that depend on the same rows of the grid.
struct Band {
    start: usize,
    end: usize,
    first: usize,
    last: usize,
}

fn bands(rows: &[Chain]) -> Vec<Band> {
    let mut start = 0;
    let same = rows.chunk_by(|above, below| above.span() == below.span());
    same.map(|rows| {
        let (first, last) = rows[0].span();
        let band = Band { start, end: start + rows.len(), first, last };
        start = band.end;
        band
    })
    .collect()
}

/// On which side of the threshold each value of the grid lies, column by column. Interpolation
/// never leaves the range of the values that it mixes, so a pixel whose values all lie on one side
/// need not be computed. Values closer to the threshold than rounding could carry them count as
/// neither.
struct Sides {
    height: usize,
    sides: Vec<u8>,
}

impl Sides {
    const OUTSIDE: u8 = 1;
    const INSIDE: u8 = 2;
    /// Six roundings of half an ulp each, with room to spare.
    const MARGIN: f32 = 16.0 * f32::EPSILON;

    fn of(logits: &MaskLogits) -> Self {
        let threshold = logits.threshold;
        let largest = logits.values.iter().fold(threshold.abs(), |max, value| max.max(value.abs()));
        let margin = largest * Self::MARGIN;
        let side = |value: f32| match value {
            _ if value > threshold + margin => Self::INSIDE,
            _ if value < threshold - margin => Self::OUTSIDE,
            _ => 0,
        };
        let column = |x: usize| logits.values[x..].iter().step_by(logits.width);
        let sides = (0..logits.width).flat_map(column).map(|value| side(*value)).collect();
        Self { height: logits.height, sides }
    }

    /// For every row of the grid, the side that all columns `span.0..=span.1` share, or 0.
    fn common(&self, span: (usize, usize), common: &mut [u8]) {
        common.fill(Self::INSIDE | Self::OUTSIDE);
        for column in self.sides.chunks_exact(self.height).take(span.1 + 1).skip(span.0) {
            for (common, side) in common.iter_mut().zip(column) {
                *common &= side;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(frame: u32, resized: (u32, u32), original: (u32, u32)) -> MaskFrame {
        MaskFrame { frame, resized, original }
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() {
        let good = frame(8, (8, 6), (20, 15));
        assert!(MaskLogits::new(2, 2, vec![0.0; 4], good).is_ok());
        assert!(MaskLogits::new(2, 2, vec![0.0; 5], good).is_err());
        assert!(MaskLogits::new(0, 2, vec![], good).is_err());
        for bad in [
            frame(8, (9, 6), (20, 15)),
            frame(8, (8, 0), (20, 15)),
            frame(0, (0, 0), (20, 15)),
            frame(8, (8, 6), (0, 15)),
            frame(8, (8, 6), (1 << 16, 1 << 16)),
        ] {
            assert!(MaskLogits::new(2, 2, vec![0.0; 4], bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn one_sign_gives_a_full_or_an_empty_mask() {
        let map = frame(64, (64, 48), (200, 150));
        let full = MaskLogits::new(16, 16, vec![0.5; 256], map).unwrap();
        assert_eq!(full.to_rle().counts(), [0, 30_000]);
        assert_eq!(full.above(0.5).to_rle().counts(), [30_000]);
        let unknown = MaskLogits::new(16, 16, vec![f32::NAN; 256], map).unwrap();
        assert_eq!(unknown.to_rle().counts(), [30_000]);
    }

    fn any_logits() -> impl Strategy<Value = MaskLogits> {
        let sides = (1usize..12, 1usize..12, 1u32..40);
        let picture = (0.01f64..1.0, 0.01f64..1.0, 1u32..60, 1u32..60);
        (sides, picture).prop_flat_map(|((width, height, square), (rw, rh, ow, oh))| {
            let part = |part: f64| (part * f64::from(square)).ceil() as u32;
            let map = frame(square, (part(rw), part(rh)), (ow, oh));
            // Few distinct values, so that ties with the threshold and flat areas do occur.
            let value = prop_oneof![-3.0f32..3.0, Just(0.0), Just(1.0), Just(-1.0)];
            proptest::collection::vec(value, width * height)
                .prop_map(move |values| MaskLogits::new(width, height, values, map).unwrap())
        })
    }

    proptest! {
        /// Skipping what is certain changes no pixel.
        #[test]
        fn every_pixel_is_the_upscaled_value(logits in any_logits(), threshold in -1.5f32..1.5) {
            for threshold in [0.0, 1.0, threshold] {
                let logits = logits.clone().above(threshold);
                let map = logits.frame;
                let columns = chain(logits.width, map.frame, map.resized.0, map.original.0);
                let rows = chain(logits.height, map.frame, map.resized.1, map.original.1);
                let pixels = columns.iter().flat_map(|column| {
                    rows.iter().map(|row| logits.upscaled(column, row) > threshold)
                });
                let expected =
                    Rle::from_columns(pixels, map.original.0, map.original.1).unwrap();
                prop_assert_eq!(logits.to_rle(), expected);
            }
        }
    }
}
