//! Vectors of `f32` lanes, one type for each instruction set that the fused operations are compiled
//! for, and the functions that activations and softmax need of them.
//!
//! Everything is generic over [`Lanes`] and inlined into a function with `#[target_feature]`, so
//! that one source serves every instruction set. Which one runs is chosen at run time: [`Isa::best`].
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
mod functions;

#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

pub(super) use functions::{activate, exp};

/// An instruction set that this processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    /// 8 lanes, 16 registers.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 16 lanes, 32 registers.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// All that this processor has, the fastest first.
    pub(super) fn available() -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                found.push(Self::Avx512);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                found.push(Self::Avx2);
            }
        }
        found
    }

    /// The fastest; nothing where candle's operations are to be used: on other processors, and in a
    /// build without optimisation, where candle's are compiled better than ours.
    pub(super) fn best() -> Option<Self> {
        if cfg!(unoptimised) { None } else { Self::available().first().copied() }
    }

    /// Whether [`Lanes::fma_pairs`] can be used: AVX2 does it in two steps, AVX-512 needs an instruction
    /// of its own.
    pub(super) fn multiplies_pairs(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512bf16"),
        }
    }

    /// Whether that is faster than multiplying numbers one by one. Measured once in a process.
    pub(super) fn gains_by_pairs(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        static MEASURED: OnceLock<bool> = OnceLock::new();
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => false,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                // SAFETY: the processor has the instructions.
                let measured = || unsafe { avx512::gains_by_pairs() };
                self.multiplies_pairs() && *MEASURED.get_or_init(measured)
            }
        }
    }

    /// Whether [`Lanes::fma_halves`] can be used.
    pub(super) fn multiplies_halves(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => false,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512fp16"),
        }
    }

    /// Columns of a kernel's tile: two vectors.
    pub(super) fn columns(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 16,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 32,
        }
    }

    /// Rows of a kernel's tile: as many as leave registers for a row's value and two vectors.
    pub(super) fn rows(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 6,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 12,
        }
    }
}

/// A vector of `f32`.
///
/// # Safety
/// Every function needs the processor's instruction set that the type is named after; those with
/// pointers need [`Lanes::WIDTH`] elements there, aligned or not.
pub(super) trait Lanes: Copy {
    /// Lanes of a vector, at most [`MAX_WIDTH`].
    const WIDTH: usize;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    /// Upper halves of `f32`s, exact.
    unsafe fn load_bf16(from: *const u16) -> Self;
    unsafe fn load_i8(from: *const i8) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Asks for the cache line at `from`, which may be anywhere.
    unsafe fn prefetch(from: *const f32);
    /// The same, for the cache's second level.
    unsafe fn prefetch_far(from: *const f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self · factor + term`.
    unsafe fn fma(self, factor: Self, term: Self) -> Self;
    /// `self · factor + term` where each lane of the factors is two `bf16`, whose products are added.
    /// Needs [`Isa::multiplies_pairs`].
    unsafe fn fma_pairs(self, factor: Self, term: Self) -> Self;
    /// `self · factor + term` where each lane is two `f16`, multiplied and added each by itself. Needs
    /// [`Isa::multiplies_halves`].
    unsafe fn fma_halves(self, factor: Self, term: Self) -> Self;
    /// `term` and 2⁻⁵⁶ times the sum of both `f16` of each lane, which is rounded to `f16`. (With that
    /// factor shifting bits makes an `f32` of it, without the processor's slower conversion.) Needs
    /// [`Isa::multiplies_halves`] and finite numbers.
    unsafe fn add_halves(self, term: Self) -> Self;
    /// The smaller; `other` if one is not a number.
    unsafe fn min(self, other: Self) -> Self;
    /// The larger; `other` if one is not a number.
    unsafe fn max(self, other: Self) -> Self;
    /// To the nearest whole number.
    unsafe fn round(self) -> Self;
    /// `2ⁿ` for whole `-126 ≤ n ≤ 127`.
    unsafe fn power_of_two(self) -> Self;
    unsafe fn abs(self) -> Self;
    /// A value that is not negative, with the sign of `other`.
    unsafe fn with_sign_of(self, other: Self) -> Self;

    /// The first `count` lanes from memory, the others zero.
    #[inline(always)]
    unsafe fn load_some(from: *const f32, count: usize) -> Self {
        let mut values = [0f32; MAX_WIDTH];
        // SAFETY: the caller has `count` elements there, and the array has room for any vector.
        unsafe {
            values.as_mut_ptr().copy_from_nonoverlapping(from, count.min(Self::WIDTH));
            Self::load(values.as_ptr())
        }
    }

    /// Stores the first `count` lanes.
    #[inline(always)]
    unsafe fn store_some(self, to: *mut f32, count: usize) {
        let mut values = [0f32; MAX_WIDTH];
        // SAFETY: the caller has room for `count` elements, and the array for any vector.
        unsafe {
            self.store(values.as_mut_ptr());
            to.copy_from_nonoverlapping(values.as_ptr(), count.min(Self::WIDTH));
        }
    }

    /// The lanes, and `fill` beyond them.
    #[inline(always)]
    unsafe fn lanes(self, fill: f32) -> [f32; MAX_WIDTH] {
        let mut values = [fill; MAX_WIDTH];
        // SAFETY: the array has room for any vector.
        unsafe { self.store(values.as_mut_ptr()) };
        values
    }
}

/// Lanes of the widest vector.
pub(super) const MAX_WIDTH: usize = 16;
