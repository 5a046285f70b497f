//! Eight values beside each other, as the inner loops of convolutions take them.

use std::mem::MaybeUninit;

use super::activation::cut;

/// Values of a [`Lane`].
pub(super) const LANES: usize = 8;

/// One vector's worth of values, aligned so that loading it never touches two cache lines.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(32))]
pub(super) struct Lane(pub(super) [f32; LANES]);

/// Whether the processor has AVX2 and fused multiply–adds: a value of this type exists only then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fma(());

impl Fma {
    /// A value where the processor has them.
    pub(super) fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Some(Self(()));
        }
        None
    }
}

/// Whether the processor has AVX-512: a value of this type exists only then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    /// A value where the processor has it.
    pub(super) fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            return Some(Self(()));
        }
        None
    }
}

/// What happens to finished sums.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finish<'a> {
    /// One for each of the values.
    pub(super) bias: &'a [f32],
    /// One for each of the values, where there is something to add.
    pub(super) residual: Option<&'a [f32]>,
    /// What they are cut to.
    pub(super) range: (f32, f32),
}

impl Finish<'_> {
    /// Writes as many sums as `y` has room for.
    #[inline(always)]
    pub(super) fn write(&self, sums: &[Lane], y: &mut [MaybeUninit<f32>]) {
        let mut done = 0;
        for sums in sums {
            let rest = &mut y[done..];
            if let Some(y) = rest.first_chunk_mut::<LANES>() {
                self.write_all(done, sums, y);
            } else {
                self.write_some(done, sums, rest);
            }
            done = (done + LANES).min(y.len());
        }
    }

    #[inline(always)]
    fn write_all(&self, at: usize, sums: &Lane, y: &mut [MaybeUninit<f32>; LANES]) {
        let (low, high) = self.range;
        let mut sums = sums.0;
        for (sum, bias) in sums.iter_mut().zip(&self.bias[at..at + LANES]) {
            *sum += bias;
        }
        if let Some(residual) = self.residual {
            for (sum, more) in sums.iter_mut().zip(&residual[at..at + LANES]) {
                *sum += more;
            }
        }
        for (y, sum) in y.iter_mut().zip(sums) {
            y.write(cut(sum, low, high));
        }
    }

    fn write_some(&self, at: usize, sums: &Lane, y: &mut [MaybeUninit<f32>]) {
        let (low, high) = self.range;
        for (index, (y, sum)) in y.iter_mut().zip(sums.0).enumerate() {
            let more = self.residual.map_or(0.0, |residual| residual[at + index]);
            y.write(cut(sum + self.bias[at + index] + more, low, high));
        }
    }
}
