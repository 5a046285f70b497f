//! AVX2 with FMA: eight lanes.

use std::arch::x86_64::*;

use super::Lanes;

/// Eight `f32`.
#[derive(Clone, Copy)]
pub(in crate::models::ops) struct Avx2(__m256);

// SAFETY, for every block below: callers of `Lanes` vouch for the instructions and the pointers.
impl Lanes for Avx2 {
    const WIDTH: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        // SAFETY: as above.
        unsafe {
            let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            Self(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)))
        }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: as above.
        unsafe {
            let words = _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()));
            Self(_mm256_cvtepi32_ps(words))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(to, self.0) };
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
        Self(unsafe { _mm256_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_div_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Self, term: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_fmadd_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    unsafe fn fma_pairs(self, factor: Self, term: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let first = |pair: __m256| {
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(pair)))
            };
            let upper = _mm256_castsi256_ps(_mm256_set1_epi32(-1 << 16));
            let second = |pair: __m256| _mm256_and_ps(pair, upper);
            let sum = _mm256_fmadd_ps(first(self.0), first(factor.0), term.0);
            Self(_mm256_fmadd_ps(second(self.0), second(factor.0), sum))
        }
    }

    unsafe fn fma_halves(self, _: Self, _: Self) -> Self {
        unreachable!("AVX2 does not multiply f16")
    }

    unsafe fn add_halves(self, _: Self) -> Self {
        unreachable!("AVX2 does not multiply f16")
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        // SAFETY: as above.
        Self(unsafe {
            _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)
        })
    }

    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        // SAFETY: as above.
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
            Self(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
    }

    #[inline(always)]
    unsafe fn with_sign_of(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_or_ps(_mm256_and_ps(_mm256_set1_ps(-0.0), other.0), self.0) })
    }
}
