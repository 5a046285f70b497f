//! The innermost loop: a few positions of a picture times a few filters.

use crate::models::ops::lanes::Lane;

/// Positions that one tile computes.
pub(super) const ROWS: usize = 6;

/// What a filter reads from where it lies: `runs` times `length` values beside each other, `step`
/// values from one run's begin to the next's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    pub(super) runs: usize,
    pub(super) length: usize,
    pub(super) step: usize,
}

impl Reach {
    /// Values from the first to behind the last that is read.
    fn span(self) -> usize {
        (self.runs - 1) * self.step + self.length
    }
}

/// The sums of one tile: `WIDTH` vectors of filters at each position.
pub(super) type Sums<const WIDTH: usize> = [[Lane; WIDTH]; ROWS];

/// Something that computes tiles.
pub(super) trait Kernel: Copy + Send + Sync {
    /// For each position (its values begin at its offset in `x`) the products with the filters of
    /// `panel`, `[values read][WIDTH]`.
    fn tile<const WIDTH: usize>(
        self,
        x: &[f32],
        offsets: &[usize; ROWS],
        reach: Reach,
        panel: &[Lane],
    ) -> Sums<WIDTH>;
}

/// Plain Rust, for any processor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

impl Kernel for Portable {
    #[inline(always)]
    fn tile<const WIDTH: usize>(
        self,
        x: &[f32],
        offsets: &[usize; ROWS],
        reach: Reach,
        panel: &[Lane],
    ) -> Sums<WIDTH> {
        let mut sums = [[Lane::default(); WIDTH]; ROWS];
        let mut weights = panel.chunks_exact(WIDTH);
        for run in 0..reach.runs {
            let rows = offsets.map(|offset| &x[offset + run * reach.step..][..reach.length]);
            for (at, weights) in (0..reach.length).zip(&mut weights) {
                for (sums, row) in sums.iter_mut().zip(rows) {
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        for (sum, weight) in sum.0.iter_mut().zip(weight.0) {
                            *sum += row[at] * weight;
                        }
                    }
                }
            }
        }
        sums
    }
}

#[cfg(target_arch = "x86_64")]
mod fma {
    use std::arch::x86_64::{
        _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_load_ps, _mm256_setzero_ps, _mm256_store_ps,
    };

    use super::{Kernel, ROWS, Reach, Sums};
    use crate::models::ops::lanes::{Fma, Lane};

    /// Up to twelve sums stay in registers.
    impl Kernel for Fma {
        #[inline(always)]
        fn tile<const WIDTH: usize>(
            self,
            x: &[f32],
            offsets: &[usize; ROWS],
            reach: Reach,
            panel: &[Lane],
        ) -> Sums<WIDTH> {
            let fits = |&offset: &usize| offset + reach.span() <= x.len();
            assert!(offsets.iter().all(fits), "a filter leaves the picture");
            assert_eq!(panel.len(), reach.runs * reach.length * WIDTH, "another filter's panel");
            // SAFETY: a value of this type exists only where the processor has the instructions,
            // and what the function asks of its arguments was just checked.
            #[allow(unsafe_code)]
            unsafe {
                tile(x, offsets, reach, panel)
            }
        }
    }

    /// [`Kernel::tile`].
    ///
    /// # Safety
    /// From each offset on `x` must hold [`Reach::span`] values, and `panel` must hold `WIDTH`
    /// vectors for each of the `runs · length` values read.
    #[allow(unsafe_code)]
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile<const WIDTH: usize>(
        x: &[f32],
        offsets: &[usize; ROWS],
        reach: Reach,
        panel: &[Lane],
    ) -> Sums<WIDTH> {
        let mut sums = [[_mm256_setzero_ps(); WIDTH]; ROWS];
        let mut weights = panel.as_ptr();
        for run in 0..reach.runs {
            let mut rows = [x.as_ptr(); ROWS];
            for (row, offset) in rows.iter_mut().zip(offsets) {
                // SAFETY: `run · step + length` is at most the span, which lies within `x`.
                *row = unsafe { row.add(offset + run * reach.step) };
            }
            for at in 0..reach.length {
                // SAFETY: `at` is below `length`; `weights` has moved by `WIDTH` vectors for each
                // value read so far. A `Lane` is aligned to 32 bytes.
                unsafe {
                    let mut weight = [_mm256_setzero_ps(); WIDTH];
                    for (lane, weight) in weight.iter_mut().enumerate() {
                        *weight = _mm256_load_ps(weights.add(lane).cast());
                    }
                    for (sums, row) in sums.iter_mut().zip(rows) {
                        let value = _mm256_broadcast_ss(&*row.add(at));
                        for (sum, weight) in sums.iter_mut().zip(weight) {
                            *sum = _mm256_fmadd_ps(value, weight, *sum);
                        }
                    }
                    weights = weights.add(WIDTH);
                }
            }
        }
        // Loops, not `map`: that is compiled without these instructions.
        let mut lanes = [[Lane::default(); WIDTH]; ROWS];
        for (lanes, sums) in lanes.iter_mut().zip(sums) {
            for (lane, sum) in lanes.iter_mut().zip(sums) {
                // SAFETY: a `Lane` holds one vector and is aligned for it.
                unsafe { _mm256_store_ps(lane.0.as_mut_ptr(), sum) };
            }
        }
        lanes
    }
}
