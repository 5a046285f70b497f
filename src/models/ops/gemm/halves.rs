//! Rows of `f32` as rows of `f16` and a power of two for each, so that no number is too large.
//!
//! The processor multiplies twice as many `f16` as `f32` in a turn, but sums them in `f16` too. A
//! row of `x` is scaled to have its largest number in `32..64`, an output's weights to have theirs in
//! `1..2`: then no sum of a chain of 128 products ([`super::stored::Stored::CHAIN`]) passes 2¹⁴, nor
//! those of both halves of a lane together 2¹⁵, and what is lost of the smallest numbers is less
//! than 2⁻²⁴ of the largest.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use rayon::prelude::*;

/// Exponent of the largest number of a row of `x`.
const INPUT: i32 = 5;
/// Exponent of the largest weight of an output.
const WEIGHT: i32 = 0;
/// What [`crate::models::ops::simd::Lanes::add_halves`] makes of sums is undone with the weights'
/// scales.
const ADDED: i32 = 56;

/// Rows as the kernel multiplies them: two `f16` in the place of an `f32`, the last of an odd row
/// beside a zero.
pub(super) struct HalfRows {
    /// Rows of `inputs / 2` values, rounded up, and zeros.
    pub(super) values: Vec<f32>,
    /// From one row to the next.
    pub(super) apart: usize,
    /// For each row what its values are to be multiplied by; not a number where one of them is not
    /// finite.
    pub(super) scales: Vec<f32>,
}

/// Rows of `x`, `[n, inputs]`.
///
/// # Safety
/// The processor has AVX-512.
pub(super) unsafe fn inputs(x: &[f32], inputs: usize) -> HalfRows {
    // SAFETY: passed on to the caller.
    unsafe { rows(x, inputs, INPUT, spread(inputs.div_ceil(2))) }
}

/// Rows of weights, `[n, inputs]`; their scales also undo what the kernel does to its sums.
///
/// # Safety
/// The processor has AVX-512.
pub(super) unsafe fn weights(weight: &[f32], inputs: usize) -> HalfRows {
    // SAFETY: passed on to the caller.
    let mut rows = unsafe { rows(weight, inputs, WEIGHT, inputs.div_ceil(2)) };
    rows.scales.iter_mut().for_each(|scale| *scale *= 2f32.powi(ADDED));
    rows
}

/// How far from each other rows of `steps` values should lie, so that as many as a tile has do not
/// push each other out of the cache: an odd number of its lines.
fn spread(steps: usize) -> usize {
    const LINE: usize = 16;
    (steps.div_ceil(LINE) | 1) * LINE
}

/// # Safety
/// The processor has AVX-512.
unsafe fn rows(x: &[f32], inputs: usize, exponent: i32, apart: usize) -> HalfRows {
    let (rows, steps) = (x.len() / inputs.max(1), inputs.div_ceil(2));
    let mut values = Vec::with_capacity(rows * apart);
    let mut scales = vec![0f32; rows];
    let to = &mut values.spare_capacity_mut()[..rows * apart];
    let each = x.par_chunks(inputs.max(1)).zip(to.par_chunks_mut(apart.max(1)));
    each.zip(scales.par_iter_mut()).with_min_len(16).for_each(|((row, to), scale)| {
        to[steps..].fill(MaybeUninit::new(0.0));
        // SAFETY: passed on to the caller; `to` has room for half as many values, rounded up.
        *scale = unsafe { convert(row, exponent, to.as_mut_ptr().cast()) };
    });
    // SAFETY: every row has been written.
    unsafe { values.set_len(rows * apart) };
    HalfRows { values, apart, scales }
}

/// Writes `row`, scaled to have its largest number at `exponent`, and a zero if it is odd; gives
/// what undoes that.
///
/// # Safety
/// The processor has AVX-512, and there is room.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn convert(row: &[f32], exponent: i32, to: *mut u16) -> f32 {
    const WIDTH: usize = 16;
    let (vectors, rest) = row.split_at(row.len() / WIDTH * WIDTH);
    // SAFETY: every load and store is inside `row` and the room for it.
    unsafe {
        let mut largest = _mm512_setzero_si512();
        let magnitude = |values: __m512| {
            _mm512_and_si512(_mm512_castps_si512(values), _mm512_set1_epi32(i32::MAX))
        };
        for values in vectors.chunks_exact(WIDTH) {
            // As whole numbers, magnitudes have the order of the numbers, and above them infinity
            // and what is not a number.
            largest = _mm512_max_epi32(largest, magnitude(_mm512_loadu_ps(values.as_ptr())));
        }
        let mut last = [0f32; WIDTH];
        last[..rest.len()].copy_from_slice(rest);
        let last = _mm512_loadu_ps(last.as_ptr());
        largest = _mm512_max_epi32(largest, magnitude(last));
        let largest = f32::from_bits(_mm512_reduce_max_epi32(largest).cast_unsigned());

        let (scale, undo) = scale_for(largest, exponent);
        let scale = _mm512_set1_ps(scale);
        let half = |values: __m512| {
            _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm512_mul_ps(values, scale))
        };
        for (index, values) in vectors.chunks_exact(WIDTH).enumerate() {
            let halves = half(_mm512_loadu_ps(values.as_ptr()));
            _mm256_storeu_si256(to.add(index * WIDTH).cast(), halves);
        }
        let mut halves = [0u16; WIDTH];
        _mm256_storeu_si256(halves.as_mut_ptr().cast(), half(last));
        let count = rest.len().next_multiple_of(2);
        to.add(vectors.len()).copy_from_nonoverlapping(halves.as_ptr(), count);
        undo
    }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn convert(_: &[f32], _: i32, _: *mut u16) -> f32 {
    unreachable!("only processors with AVX-512 multiply f16 here")
}

/// The power of two that brings `largest` to `exponent`, and the one that undoes it.
fn scale_for(largest: f32, exponent: i32) -> (f32, f32) {
    if !largest.is_finite() {
        return (1.0, f32::NAN);
    }
    // Below the normal numbers there is nothing that would be worth more than this.
    let biased = (largest.to_bits() >> 23).max(1).cast_signed();
    let power = (biased - 127 - exponent).clamp(-126, 126);
    (2f32.powi(-power), 2f32.powi(power))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::ops::simd::Isa;
    use half::f16;

    fn numbers(rows: &HalfRows, steps: usize) -> Vec<Vec<f32>> {
        let both = |value: &f32| {
            let bits = value.to_bits();
            [bits as u16, (bits >> 16) as u16].map(|half| f32::from(f16::from_bits(half)))
        };
        let row = |(values, scale): (&[f32], &f32)| {
            values.iter().flat_map(both).map(|value| value * scale).collect()
        };
        rows.values.chunks_exact(steps).zip(&rows.scales).map(row).collect()
    }

    #[test]
    fn rows_are_scaled_each_by_itself() {
        if !Isa::available().contains(&Isa::Avx512) {
            return eprintln!("skipped: no AVX-512");
        }
        for width in [1, 2, 15, 16, 33, 50] {
            let factors = [1.0, 3e-30, 2e38, 0.0, 1e-42, 7.0];
            let row = |factor: f32| {
                (0..width).map(move |i| factor * if i % 3 == 0 { 1.5 } else { -0.01 * i as f32 })
            };
            let x: Vec<f32> = factors.into_iter().flat_map(row).collect();
            // SAFETY: the processor has it.
            let halves = unsafe { inputs(&x, width) };
            let back = numbers(&halves, halves.apart);
            for ((back, exact), factor) in back.iter().zip(x.chunks_exact(width)).zip(factors) {
                for (back, exact) in back.iter().zip(exact) {
                    let gap = (back - exact).abs();
                    assert!(gap <= exact.abs() / 2048.0 + factor * 1e-9 + 1e-44, "{back} {exact}");
                }
                assert!(back[width..].iter().all(|&beyond| beyond == 0.0));
            }
        }
    }

    #[test]
    fn the_largest_number_stays_below_its_bound() {
        for largest in [1e-35, 0.3, 1.0, 1.999, 2.0, 127.9, 65504.0, f32::MAX] {
            let (scale, undo) = scale_for(largest, INPUT);
            assert!((32.0..64.0).contains(&(largest * scale)), "{largest}: {scale}");
            assert_eq!(scale * undo, 1.0);
        }
        assert_eq!(scale_for(0.0, INPUT).0 * 0.0, 0.0);
        assert!(scale_for(f32::INFINITY, INPUT).1.is_nan());
        assert!(scale_for(f32::NAN, WEIGHT).1.is_nan());
    }
}
