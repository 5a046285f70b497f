//! What weights are stored as, and how the kernel reads them.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use crate::models::ops::simd::{Isa, Lanes};
#[cfg(target_arch = "x86_64")]
use crate::models::ops::simd::{avx2::Avx2, avx512::Avx512};

/// What weights are stored as.
pub(in crate::models::ops) trait Stored: Copy + Sync {
    /// What the kernel needs beside AVX-512's foundation.
    const NEEDS: Needs = Needs::Nothing;
    /// Steps whose sums may be kept as [`Stored::multiply`] gives them.
    const CHAIN: usize = usize::MAX;
    /// Whether making `f32` of them takes instructions of its own.
    const NARROW: bool = false;

    /// A vector of them, as [`Stored::multiply`] takes them.
    ///
    /// # Safety
    /// See [`Lanes`].
    unsafe fn widen<L: Lanes>(from: *const Self) -> L;

    /// `value · weights + sum`.
    ///
    /// # Safety
    /// See [`Lanes`].
    #[inline(always)]
    unsafe fn multiply<L: Lanes>(value: L, weights: L, sum: L) -> L {
        // SAFETY: passed on to the caller.
        unsafe { value.fma(weights, sum) }
    }

    /// The sum of a chain, added to those of the chains before it.
    ///
    /// # Safety
    /// See [`Lanes`].
    #[inline(always)]
    unsafe fn total<L: Lanes>(sum: L, total: L) -> L {
        // SAFETY: passed on to the caller.
        unsafe { sum.add(total) }
    }
}

/// Instructions that only some processors with AVX-512 have.
pub(in crate::models::ops) enum Needs {
    Nothing,
    /// [`Isa::multiplies_pairs`].
    Pairs,
    /// [`Isa::multiplies_halves`].
    Halves,
}

/// Two `bf16`, the first in the lower half: the weights of two inputs, which are multiplied at once.
#[derive(Debug, Clone, Copy, Default)]
#[repr(transparent)]
pub(in crate::models::ops) struct Pair(pub(in crate::models::ops) u32);

impl Stored for Pair {
    const NEEDS: Needs = Needs::Pairs;

    #[inline(always)]
    unsafe fn widen<L: Lanes>(from: *const Self) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::load(from.cast()) }
    }

    #[inline(always)]
    unsafe fn multiply<L: Lanes>(value: L, weights: L, sum: L) -> L {
        // SAFETY: passed on to the caller.
        unsafe { value.fma_pairs(weights, sum) }
    }
}

/// Two `f16`, the first in the lower half: the weights of two inputs, which are multiplied at once.
#[derive(Debug, Clone, Copy, Default)]
#[repr(transparent)]
pub(in crate::models::ops) struct Halves(pub(in crate::models::ops) u32);

impl Stored for Halves {
    const NEEDS: Needs = Needs::Halves;
    /// So the rounding of sums loses about as much as that of inputs to `bf16` would, and no sum is
    /// too large, see [`super::halves`].
    const CHAIN: usize = 128;

    #[inline(always)]
    unsafe fn widen<L: Lanes>(from: *const Self) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::load(from.cast()) }
    }

    #[inline(always)]
    unsafe fn multiply<L: Lanes>(value: L, weights: L, sum: L) -> L {
        // SAFETY: passed on to the caller.
        unsafe { value.fma_halves(weights, sum) }
    }

    #[inline(always)]
    unsafe fn total<L: Lanes>(sum: L, total: L) -> L {
        // SAFETY: passed on to the caller.
        unsafe { sum.add_halves(total) }
    }
}

impl Stored for f32 {
    #[inline(always)]
    unsafe fn widen<L: Lanes>(from: *const Self) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::load(from) }
    }
}

impl Stored for u16 {
    const NARROW: bool = true;

    #[inline(always)]
    unsafe fn widen<L: Lanes>(from: *const Self) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::load_bf16(from) }
    }
}

impl Stored for i8 {
    const NARROW: bool = true;

    #[inline(always)]
    unsafe fn widen<L: Lanes>(from: *const Self) -> L {
        // SAFETY: passed on to the caller.
        unsafe { L::load_i8(from) }
    }
}

/// `from`, whole vectors, as `f32`.
///
/// # Safety
/// The processor has `isa`.
pub(in crate::models::ops) unsafe fn widen<'a, W: Stored>(
    isa: Isa,
    from: &[W],
    to: &'a mut [MaybeUninit<f32>],
) -> &'a [f32] {
    let to = &mut to[..from.len()];
    // SAFETY: passed on to the caller; every value is written.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => widen_avx2(from, to),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => widen_avx512(from, to),
        }
        &*(std::ptr::from_mut(to) as *const [f32])
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn widen_avx2<W: Stored>(from: &[W], to: &mut [MaybeUninit<f32>]) {
    // SAFETY: passed on to the caller.
    unsafe { widen_vectors::<Avx2, W>(from, to) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn widen_avx512<W: Stored>(from: &[W], to: &mut [MaybeUninit<f32>]) {
    // SAFETY: passed on to the caller.
    unsafe { widen_vectors::<Avx512, W>(from, to) }
}

/// # Safety
/// See [`Lanes`].
#[inline(always)]
unsafe fn widen_vectors<L: Lanes, W: Stored>(from: &[W], to: &mut [MaybeUninit<f32>]) {
    for (from, to) in from.chunks_exact(L::WIDTH).zip(to.chunks_exact_mut(L::WIDTH)) {
        // SAFETY: both are a vector.
        unsafe { W::widen::<L>(from.as_ptr()).store(to.as_mut_ptr().cast()) };
    }
}
