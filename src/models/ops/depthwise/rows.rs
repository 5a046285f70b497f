//! The convolution's inner loops: one row of the output, in tiles that fit the registers.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::Depthwise;
use crate::models::ops::lanes::{Finish, Fma, LANES, Lane};

/// Columns of a tile where the filter lies within the picture.
const COLUMNS: usize = 4;

/// What one row of the output is made of.
pub(super) struct Row<'a> {
    pub(super) layer: &'a Depthwise,
    /// One picture, `[height, width, channels]`.
    pub(super) x: &'a [f32],
    pub(super) taps: &'a [f32],
    pub(super) bias: &'a [f32],
    pub(super) width: usize,
    /// Rows of the filter that meet the picture, and the picture's row that the first of them meets.
    pub(super) filter_rows: Range<usize>,
    pub(super) first_row: usize,
}

/// Which weights meet which pixels at some columns of the output, and from which channel on.
pub(super) struct Place {
    rows: usize,
    columns: usize,
    channel: usize,
    /// Where the first pixel's values begin, and from one row of them to the next.
    pixels: usize,
    line: usize,
    /// Where the first weights begin, and from one row of them to the next.
    weights: usize,
    filter_line: usize,
    /// From one pixel or weight to the next beside it.
    step: usize,
    /// From what one column of the output reads to what the next reads.
    stride: usize,
}

impl Place {
    /// Where the last weight and the last pixel lie, if there are any.
    #[inline(always)]
    fn last_tap(&self) -> Option<(usize, usize)> {
        let (row, column) = (self.rows.checked_sub(1)?, self.columns.checked_sub(1)?);
        let weight = self.weights + row * self.filter_line + column * self.step;
        let pixel = self.pixels + row * self.line + column * self.step;
        Some((weight + self.channel, pixel + self.channel))
    }

    /// Where the weights and the pixels lie, in the order of the filter.
    #[inline(always)]
    fn taps(&self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.rows).flat_map(move |row| {
            (0..self.columns).map(move |column| {
                let weight = self.weights + row * self.filter_line + column * self.step;
                let pixel = self.pixels + row * self.line + column * self.step;
                (weight + self.channel, pixel + self.channel)
            })
        })
    }
}

/// The sums of one tile: `WIDTH` vectors of channels at each of `COUNT` columns.
pub(super) type Sums<const COUNT: usize, const WIDTH: usize> = [[Lane; WIDTH]; COUNT];

/// Something that computes tiles.
pub(super) trait Kernel: Copy {
    /// What the pixels of a place, times the weights, add up to.
    fn tile<const COUNT: usize, const WIDTH: usize>(
        self,
        row: &Row,
        place: &Place,
    ) -> Sums<COUNT, WIDTH>;
}

/// Plain Rust, for any processor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

impl Kernel for Portable {
    #[inline(always)]
    fn tile<const COUNT: usize, const WIDTH: usize>(
        self,
        row: &Row,
        place: &Place,
    ) -> Sums<COUNT, WIDTH> {
        let mut sums = [[Lane::default(); WIDTH]; COUNT];
        for (weight, pixel) in place.taps() {
            let weights = &row.taps[weight..weight + WIDTH * LANES];
            for (count, sums) in sums.iter_mut().enumerate() {
                let x = &row.x[pixel + count * place.stride..][..WIDTH * LANES];
                let products = weights.chunks_exact(LANES).zip(x.chunks_exact(LANES));
                for (sum, (weights, x)) in sums.iter_mut().zip(products) {
                    for (sum, (weight, x)) in sum.0.iter_mut().zip(weights.iter().zip(x)) {
                        *sum += weight * x;
                    }
                }
            }
        }
        sums
    }
}

#[cfg(target_arch = "x86_64")]
mod fma {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_store_ps};

    use super::{Fma, Kernel, LANES, Lane, Place, Row, Sums};

    /// Up to eight sums stay in registers, so that additions to one need not wait for each other.
    impl Kernel for Fma {
        #[inline(always)]
        fn tile<const COUNT: usize, const WIDTH: usize>(
            self,
            row: &Row,
            place: &Place,
        ) -> Sums<COUNT, WIDTH> {
            if let Some((weight, pixel)) = place.last_tap() {
                let further = (COUNT - 1) * place.stride + WIDTH * LANES;
                assert!(weight + WIDTH * LANES <= row.taps.len(), "a filter has no such weights");
                assert!(pixel + further <= row.x.len(), "a filter leaves the picture");
            }
            // SAFETY: a value of this type exists only where the processor has the instructions.
            // The last of the places, which grow, was just checked.
            #[allow(unsafe_code)]
            unsafe {
                tile(row, place)
            }
        }
    }

    /// [`Kernel::tile`].
    ///
    /// # Safety
    /// At each of the place's taps `row.taps` must hold `WIDTH` vectors, and `row.x` as many at
    /// `COUNT` columns.
    #[allow(unsafe_code)]
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile<const COUNT: usize, const WIDTH: usize>(
        row: &Row,
        place: &Place,
    ) -> Sums<COUNT, WIDTH> {
        let mut sums = [[_mm256_setzero_ps(); WIDTH]; COUNT];
        for filter_row in 0..place.rows {
            for column in 0..place.columns {
                let weight = place.weights + filter_row * place.filter_line + column * place.step;
                let pixel = place.pixels + filter_row * place.line + column * place.step;
                // SAFETY: both are among the place's taps.
                unsafe {
                    let weight = row.taps.as_ptr().add(weight + place.channel);
                    let pixel = row.x.as_ptr().add(pixel + place.channel);
                    for lane in 0..WIDTH {
                        let weight = _mm256_loadu_ps(weight.add(lane * LANES));
                        for (count, sums) in sums.iter_mut().enumerate() {
                            let x = pixel.add(count * place.stride + lane * LANES);
                            sums[lane] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(x), sums[lane]);
                        }
                    }
                }
            }
        }
        // Loops, not `map`: that is compiled without these instructions.
        let mut lanes = [[Lane::default(); WIDTH]; COUNT];
        for (lanes, sums) in lanes.iter_mut().zip(sums) {
            for (lane, sum) in lanes.iter_mut().zip(sums) {
                // SAFETY: a `Lane` holds one vector and is aligned for it.
                unsafe { _mm256_store_ps(lane.0.as_mut_ptr(), sum) };
            }
        }
        lanes
    }
}

impl Row<'_> {
    /// Computes the row into `y`, `[columns, channels]`, with vectors as wide as the processor has.
    pub(super) fn compute(&self, y: &mut [MaybeUninit<f32>]) {
        match Fma::detect() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the kernel's value says that the processor has the instructions.
            #[allow(unsafe_code)]
            Some(kernel) => unsafe { self.compute_fma(kernel, y) },
            _ => self.compute_by(Portable, y),
        }
    }

    /// [`Self::compute_by`] compiled for AVX2 and fused multiply–adds.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn compute_fma(&self, kernel: Fma, y: &mut [MaybeUninit<f32>]) {
        self.compute_by(kernel, y);
    }

    /// Columns whose filter lies within the picture go several at a time, those at the edges alone.
    #[inline(always)]
    pub(super) fn compute_by<K: Kernel>(&self, kernel: K, y: &mut [MaybeUninit<f32>]) {
        let Depthwise { kernel: side, stride, .. } = *self.layer;
        let channels = self.bias.len();
        let columns = y.len() / channels;
        let left = self.layer.padding(self.width);
        let mut column = 0;
        while column < columns {
            let at = column * stride;
            let reached = at + (COLUMNS - 1) * stride + side;
            let inside = at >= left && reached <= left + self.width;
            let count = if inside && column + COLUMNS <= columns { COLUMNS } else { 1 };
            let filter_columns =
                left.saturating_sub(at)..side.min((left + self.width).saturating_sub(at));
            let place = self.place(at + filter_columns.start - left, filter_columns);
            let y = &mut y[column * channels..(column + count) * channels];
            if count == 1 {
                self.columns::<K, 1, 8>(kernel, place, y);
            } else {
                self.columns::<K, COLUMNS, 2>(kernel, place, y);
            }
            column += count;
        }
    }

    /// Where some columns of the filter lie, the first of them on `first_column` of the picture.
    #[inline(always)]
    fn place(&self, first_column: usize, filter_columns: Range<usize>) -> Place {
        let channels = self.bias.len();
        let kernel = self.layer.kernel;
        Place {
            rows: self.filter_rows.len(),
            columns: filter_columns.len(),
            channel: 0,
            pixels: (self.first_row * self.width + first_column) * channels,
            line: self.width * channels,
            weights: (self.filter_rows.start * kernel + filter_columns.start) * channels,
            filter_line: kernel * channels,
            step: channels,
            stride: self.layer.stride * channels,
        }
    }

    /// All channels of `COUNT` columns: `WIDTH` vectors at a time, then one by one, then what does
    /// not fill a vector.
    #[inline(always)]
    fn columns<K: Kernel, const COUNT: usize, const WIDTH: usize>(
        &self,
        kernel: K,
        mut place: Place,
        y: &mut [MaybeUninit<f32>],
    ) {
        let channels = self.bias.len();
        while place.channel + WIDTH * LANES <= channels {
            let sums = kernel.tile::<COUNT, WIDTH>(self, &place);
            self.write(&place, &sums, y);
            place.channel += WIDTH * LANES;
        }
        while place.channel + LANES <= channels {
            let sums = kernel.tile::<COUNT, 1>(self, &place);
            self.write(&place, &sums, y);
            place.channel += LANES;
        }
        if place.channel < channels {
            self.write(&place, &self.rest::<COUNT>(&place), y);
        }
    }

    /// The channels that do not fill a vector.
    fn rest<const COUNT: usize>(&self, place: &Place) -> Sums<COUNT, 1> {
        let left = self.bias.len() - place.channel;
        let mut sums = [[Lane::default()]; COUNT];
        for (weight, pixel) in place.taps() {
            for (count, [sums]) in sums.iter_mut().enumerate() {
                let x = &self.x[pixel + count * place.stride..][..left];
                let products = self.taps[weight..weight + left].iter().zip(x);
                for (sum, (weight, x)) in sums.0.iter_mut().zip(products) {
                    *sum += weight * x;
                }
            }
        }
        sums
    }

    /// Writes the sums of a tile into its columns.
    #[inline(always)]
    fn write<const COUNT: usize, const WIDTH: usize>(
        &self,
        place: &Place,
        sums: &Sums<COUNT, WIDTH>,
        y: &mut [MaybeUninit<f32>],
    ) {
        let channels = self.bias.len();
        let part = place.channel..channels.min(place.channel + WIDTH * LANES);
        let range = self.layer.activation.range();
        let finish = Finish { bias: &self.bias[part.clone()], residual: None, range };
        for (y, sums) in y.chunks_exact_mut(channels).zip(sums) {
            finish.write(sums, &mut y[part.clone()]);
        }
    }
}
