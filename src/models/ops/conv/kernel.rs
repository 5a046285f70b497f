//! The innermost loop: a few positions of a picture times a few filters.

use crate::models::ops::lanes::Lane;

/// Most positions of a tile.
pub(super) const MOST_ROWS: usize = 12;

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

/// The sums of a tile: its positions' vectors of filters, from the first of each on.
pub(super) type Sums = [[Lane; 4]; MOST_ROWS];

/// Something that computes tiles.
pub(super) trait Kernel: Copy + Send + Sync {
    /// Positions of a tile, at most [`MOST_ROWS`].
    const ROWS: usize;
    /// How many [`Lane`]s its vectors are; a tile is two vectors wide, or one.
    const LANES: usize;

    /// For each of [`Self::ROWS`] positions (its values begin at its offset in `x`) the products with
    /// the filters of `panel`, `[values read][WIDTH · LANES]`.
    fn tile<const WIDTH: usize>(
        self,
        x: &[f32],
        offsets: &[usize],
        reach: Reach,
        panel: &[Lane],
        sums: &mut Sums,
    );
}

/// Plain Rust, for any processor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

impl Kernel for Portable {
    const ROWS: usize = 6;
    const LANES: usize = 1;

    #[inline(always)]
    fn tile<const WIDTH: usize>(
        self,
        x: &[f32],
        offsets: &[usize],
        reach: Reach,
        panel: &[Lane],
        sums: &mut Sums,
    ) {
        for (sums, offset) in sums.iter_mut().zip(offsets) {
            let mut own = [Lane::default(); WIDTH];
            let mut weights = panel.chunks_exact(WIDTH);
            for run in 0..reach.runs {
                let row = &x[offset + run * reach.step..][..reach.length];
                for (value, weights) in row.iter().zip(&mut weights) {
                    for (sum, weight) in own.iter_mut().zip(weights) {
                        for (sum, weight) in sum.0.iter_mut().zip(weight.0) {
                            *sum += value * weight;
                        }
                    }
                }
            }
            sums[..WIDTH].copy_from_slice(&own);
        }
    }
}

/// The loop of a processor that multiplies and adds whole vectors: `$tile`, with its instructions.
#[cfg(target_arch = "x86_64")]
macro_rules! vectors {
    ($kernel:ty, $tile:ident, $features:literal, $rows:literal, $lanes:literal, $vector:ty,
     $zero:ident, $load:ident, $splat:ident, $fma:ident, $store:ident) => {
        impl Kernel for $kernel {
            const ROWS: usize = $rows;
            const LANES: usize = $lanes;

            #[inline(always)]
            fn tile<const WIDTH: usize>(
                self,
                x: &[f32],
                offsets: &[usize],
                reach: Reach,
                panel: &[Lane],
                sums: &mut Sums,
            ) {
                let offsets = offsets.first_chunk::<$rows>().expect("a tile's positions");
                let fits = |&offset: &usize| offset + reach.span() <= x.len();
                assert!(offsets.iter().all(fits), "a filter leaves the picture");
                let values = reach.runs * reach.length;
                assert_eq!(panel.len(), values * WIDTH * $lanes, "another filter's panel");
                // SAFETY: a value of this type exists only where the processor has the
                // instructions, and what the function asks of its arguments was just checked.
                #[allow(unsafe_code)]
                unsafe {
                    $tile::<WIDTH>(x, offsets, reach, panel, sums);
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
        #[target_feature(enable = $features)]
        unsafe fn $tile<const WIDTH: usize>(
            x: &[f32],
            offsets: &[usize; $rows],
            reach: Reach,
            panel: &[Lane],
            sums: &mut Sums,
        ) {
            let mut own = [[$zero(); WIDTH]; $rows];
            let mut weights = panel.as_ptr();
            for run in 0..reach.runs {
                let mut rows = [x.as_ptr(); $rows];
                for (row, offset) in rows.iter_mut().zip(offsets) {
                    // SAFETY: `run · step + length` is at most the span, which lies within `x`.
                    *row = unsafe { row.add(offset + run * reach.step) };
                }
                for at in 0..reach.length {
                    // SAFETY: `at` is below `length`; `weights` has moved by `WIDTH` vectors for
                    // each value read so far.
                    unsafe {
                        let mut weight = [$zero(); WIDTH];
                        for (vector, weight) in weight.iter_mut().enumerate() {
                            *weight = $load(weights.add(vector * $lanes).cast());
                        }
                        for (sums, row) in own.iter_mut().zip(rows) {
                            let value: $vector = $splat(*row.add(at));
                            for (sum, weight) in sums.iter_mut().zip(weight) {
                                *sum = $fma(value, weight, *sum);
                            }
                        }
                        weights = weights.add(WIDTH * $lanes);
                    }
                }
            }
            // Loops, not `map`: that is compiled without these instructions.
            for (sums, own) in sums.iter_mut().zip(own) {
                for (sums, own) in sums.chunks_exact_mut($lanes).zip(own) {
                    // SAFETY: the chunk holds one vector.
                    unsafe { $store(sums.as_mut_ptr().cast(), own) };
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Kernel, Reach, Sums};
    use crate::models::ops::lanes::{Avx512, Fma, Lane};

    // Up to twelve sums of sixteen registers, up to twenty-four of thirty-two.
    vectors!(
        Fma,
        tile_fma,
        "avx2,fma",
        6,
        1,
        __m256,
        _mm256_setzero_ps,
        _mm256_loadu_ps,
        _mm256_set1_ps,
        _mm256_fmadd_ps,
        _mm256_storeu_ps
    );
    vectors!(
        Avx512,
        tile_avx512,
        "avx512f",
        12,
        2,
        __m512,
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        _mm512_set1_ps,
        _mm512_fmadd_ps,
        _mm512_storeu_ps
    );
}
