//! Functions of vectors: polynomials that stay in registers.

use super::Lanes;
use crate::models::ops::Activation;

/// `eˣ` within 2 units in the last place for `-87.3 ≤ x ≤ 88`; outside, its value at the bound.
/// What is not a number stays so.
///
/// The argument is split into `n · ln 2 + r` with `|r| ≤ ln 2 / 2`; the polynomial for `eʳ` is
/// that of Cephes' `expf` (Moshier).
///
/// # Safety
/// See [`Lanes`].
#[inline(always)]
pub(in crate::models::ops) unsafe fn exp<L: Lanes>(x: L) -> L {
    const COEFFICIENTS: [f32; 5] = [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    // SAFETY: passed on to the caller.
    unsafe {
        let x = L::splat(88.0).min(L::splat(-87.3).max(x));
        let n = x.mul(L::splat(std::f32::consts::LOG2_E)).round();
        // ln 2 in two parts, the first of few bits, so that nothing is lost.
        let r = n.fma(L::splat(-0.693_359_4), x);
        let r = n.fma(L::splat(2.121_944_4e-4), r);
        let mut sum = L::splat(1.987_569_1e-4);
        for coefficient in COEFFICIENTS {
            sum = sum.fma(r, L::splat(coefficient));
        }
        let sum = sum.fma(r.mul(r), r.add(L::splat(1.0)));
        sum.mul(n.power_of_two())
    }
}

/// The error function within 2e-7 (Abramowitz and Stegun, 7.1.26).
#[inline(always)]
unsafe fn erf<L: Lanes>(x: L) -> L {
    const COEFFICIENTS: [f32; 4] = [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];
    // SAFETY: passed on to the caller.
    unsafe {
        // Beyond 4 the value is 1; what is left of it there is so small that some processors take
        // ten times as long to compute it.
        let magnitude = L::splat(4.0).min(x.abs());
        let one = L::splat(1.0);
        let t = one.div(L::splat(0.327_591_1).fma(magnitude, one));
        let mut sum = L::splat(1.061_405_4);
        for coefficient in COEFFICIENTS {
            sum = sum.fma(t, L::splat(coefficient));
        }
        let tail = sum.mul(t).mul(exp(L::splat(0.0).sub(magnitude.mul(magnitude))));
        // The approximation leaves a trace below zero at zero.
        let value = L::splat(0.0).max(one.sub(tail));
        value.with_sign_of(x)
    }
}

/// The activation of each lane. What is not a number stays so.
///
/// # Safety
/// See [`Lanes`].
#[inline(always)]
pub(in crate::models::ops) unsafe fn activate<L: Lanes>(activation: Activation, x: L) -> L {
    // SAFETY: passed on to the caller.
    unsafe {
        match activation {
            Activation::None => x,
            Activation::Relu => L::splat(0.0).max(x),
            Activation::Relu6 => L::splat(6.0).min(L::splat(0.0).max(x)),
            Activation::Gelu => {
                let half = x.mul(L::splat(0.5));
                half.fma(erf(x.mul(L::splat(std::f32::consts::FRAC_1_SQRT_2))), half)
            }
            Activation::GeluTanh => {
                // x (1 + tanh u) / 2 = x / (1 + exp(-2 u))
                let cube = x.mul(x).mul(x);
                let u = L::splat(0.044_715).fma(cube, x);
                let twice = L::splat(-1.595_769).mul(u);
                x.div(L::splat(1.0).add(exp(twice)))
            }
        }
    }
}
