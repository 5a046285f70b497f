//! AVX-512 (its foundation, F, alone, but for pairs of `bf16`): sixteen lanes.

use std::arch::x86_64::*;
use std::hint::black_box;
use std::mem::transmute;
use std::time::{Duration, Instant};

use super::Lanes;

/// Sixteen `f32`.
#[derive(Clone, Copy)]
pub(in crate::models::ops) struct Avx512(__m512);

// SAFETY, for every block below: callers of `Lanes` vouch for the instructions and the pointers.
impl Lanes for Avx512 {
    const WIDTH: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        // SAFETY: as above.
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)))
        }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: as above.
        unsafe {
            let words = _mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()));
            Self(_mm512_cvtepi32_ps(words))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(to, self.0) };
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const f32) {
        // SAFETY: as above; no address is wrong.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) };
    }

    #[inline(always)]
    unsafe fn prefetch_far(from: *const f32) {
        // SAFETY: as above; no address is wrong.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) };
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_div_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Self, term: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    unsafe fn fma_pairs(self, factor: Self, term: Self) -> Self {
        // SAFETY: as above; the types are of one size, and every pattern of bits is a value.
        unsafe {
            let pairs = |bits: __m512| transmute::<__m512, __m512bh>(bits);
            Self(_mm512_dpbf16_ps(term.0, pairs(self.0), pairs(factor.0)))
        }
    }

    #[inline(always)]
    unsafe fn fma_halves(self, factor: Self, term: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let halves = |bits: Self| _mm512_castps_ph(bits.0);
            let sum = _mm512_fmadd_ph(halves(self), halves(factor), halves(term));
            Self(_mm512_castph_ps(sum))
        }
    }

    #[inline(always)]
    unsafe fn add_halves(self, term: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let swapped = _mm512_castsi512_ph(_mm512_rol_epi32::<16>(bits));
            let sums = _mm512_castph_si512(_mm512_add_ph(swapped, _mm512_castsi512_ph(bits)));
            // Sign, exponent and fraction to where an f32 has them: 2⁻¹¹² times the number.
            let placed = _mm512_and_si512(
                _mm512_srai_epi32::<3>(sums),
                _mm512_set1_epi32(0x8fff_e000_u32.cast_signed()),
            );
            let power = _mm512_castsi512_ps(_mm512_set1_epi32((127 + 56) << 23));
            Self(_mm512_fmadd_ps(_mm512_castsi512_ps(placed), power, term.0))
        }
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        // SAFETY: as above.
        Self(unsafe {
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)
        })
    }

    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        // SAFETY: as above.
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent)))
        }
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_abs_ps(self.0) })
    }

    #[inline(always)]
    unsafe fn with_sign_of(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let sign = _mm512_and_si512(_mm512_set1_epi32(i32::MIN), _mm512_castps_si512(other.0));
            Self(_mm512_castsi512_ps(_mm512_or_si512(sign, _mm512_castps_si512(self.0))))
        }
    }
}

/// Whether [`Lanes::fma_pairs`] multiplies faster than [`Lanes::fma`], by a quarter at least. Processors
/// that have both differ: it should take half the time for the same work, and takes twice as long on
/// an Intel Xeon of the fifth generation. Runs for some hundred microseconds.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn gains_by_pairs() -> bool {
    const ROUNDS: usize = 8;
    let time = |run: &dyn Fn()| {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    let (mut single, mut pairs) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        single = single.min(time(&|| multiplications::<false>()));
        pairs = pairs.min(time(&|| multiplications::<true>()));
    }
    // A multiplication of pairs does the work of two.
    2.0 * single.as_secs_f64() > 1.25 * pairs.as_secs_f64()
}

/// Enough of them to tell, none of which waits for another one.
#[target_feature(enable = "avx512f,avx512bf16")]
fn multiplications<const PAIRS: bool>() {
    const TURNS: usize = 1000;
    // SAFETY: the processor has the instructions.
    unsafe {
        let value = black_box(Avx512::splat(0.0));
        let mut sums = [value; 16];
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = if PAIRS { value.fma_pairs(value, *sum) } else { value.fma(value, *sum) };
            }
        }
        black_box(sums);
    }
}
