//! Layer normalisation.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp3, Layout, Module, Result, Shape, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::simd::{Isa, Lanes, activate};
#[cfg(target_arch = "x86_64")]
use super::simd::{avx2::Avx2, avx512::Avx512};
use super::{Activation, activation_type, fused, values, written};

/// Layer normalisation over the last dimension (Ba et al., 2016), with weight and bias.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl LayerNorm {
    /// Reads `weight` and `bias`, `[width]`, in the type of the activations.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(width: usize, epsilon: f64, vb: VarBuilder) -> Result<Self> {
        let vb = vb.to_dtype(activation_type(&vb));
        Ok(Self { weight: vb.get(width, "weight")?, bias: vb.get(width, "bias")?, epsilon })
    }

    /// `[…, width]` → the same shape.
    ///
    /// # Errors
    /// The shapes do not fit, or a tensor operation failed.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_active(x, Activation::None)
    }

    /// [`LayerNorm::forward`], followed by an activation.
    ///
    /// # Errors
    /// The shapes do not fit, or a tensor operation failed.
    pub fn forward_active(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        match Isa::best() {
            Some(isa) if fused(x) && fused(&self.weight) => self.fused(x, activation, isa),
            _ => activation.apply(&self.composed(x)?),
        }
    }

    fn fused(&self, x: &Tensor, activation: Activation, isa: Isa) -> Result<Tensor> {
        let op = Normalise { epsilon: self.epsilon as f32, activation, isa };
        x.contiguous()?.apply_op3_no_bwd(&self.weight, &self.bias, &op)
    }

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let norm = candle_nn::LayerNorm::new(self.weight.clone(), self.bias.clone(), self.epsilon);
        norm.forward(x)
    }
}

impl Module for LayerNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Self::forward(self, x)
    }
}

struct Normalise {
    epsilon: f32,
    activation: Activation,
    isa: Isa,
}

impl CustomOp3 for Normalise {
    fn name(&self) -> &'static str {
        "layer normalisation"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = values(x, layout, self.name())?;
        let weight = values(weight, weight_layout, self.name())?;
        let bias = values(bias, bias_layout, self.name())?;
        let width = weight.len();
        if width == 0 || layout.dims().last() != Some(&width) {
            let message = format!("normalisation of {:?} over {width}", layout.dims());
            return Err(candle_core::Error::msg(message));
        }
        let write = |y: &mut [MaybeUninit<f32>]| {
            let rows = y.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width));
            rows.with_min_len((1 << 14) / width + 1).for_each(|(y, x)| {
                let row = Row {
                    x,
                    weight,
                    bias: &bias[..width],
                    epsilon: self.epsilon,
                    activation: self.activation,
                };
                // SAFETY: the processor has the instructions, and all slices have one length.
                unsafe {
                    match self.isa {
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx2 => row.normalise_avx2(y),
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx512 => row.normalise_avx512(y),
                    }
                }
            });
        };
        // SAFETY: `x` is whole rows, as its last dimension says, and each is written.
        let y = unsafe { written(x.len(), write) };
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }
}

/// One row, all slices of one length.
struct Row<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    epsilon: f32,
    activation: Activation,
}

impl Row<'_> {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn normalise_avx2(&self, y: &mut [MaybeUninit<f32>]) {
        // SAFETY: passed on to the caller.
        unsafe { self.normalise::<Avx2>(y) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn normalise_avx512(&self, y: &mut [MaybeUninit<f32>]) {
        // SAFETY: passed on to the caller.
        unsafe { self.normalise::<Avx512>(y) }
    }

    /// # Safety
    /// The processor has the instructions; `y` is as long as the row.
    #[inline(always)]
    unsafe fn normalise<L: Lanes>(&self, y: &mut [MaybeUninit<f32>]) {
        let width = self.x.len() as f32;
        // SAFETY: passed on to the caller.
        unsafe {
            let mean = self.sum::<L>() / width;
            let centre = L::splat(mean);
            let variance = self.squares::<L>(mean) / width;
            let factor = L::splat(1.0 / (variance + self.epsilon).sqrt());
            for at in (0..self.x.len()).step_by(L::WIDTH) {
                let count = self.x.len() - at;
                let off = read::<L>(&self.x[at..]).sub(centre).mul(factor);
                let value = off.fma(read(&self.weight[at..]), read(&self.bias[at..]));
                let value = activate(self.activation, value);
                if count >= L::WIDTH {
                    value.store(y[at..].as_mut_ptr().cast());
                } else {
                    value.store_some(y[at..].as_mut_ptr().cast(), count);
                }
            }
        }
    }

    /// # Safety
    /// See [`Row::normalise`].
    #[inline(always)]
    unsafe fn sum<L: Lanes>(&self) -> f32 {
        // SAFETY: passed on to the caller; only whole vectors are read.
        unsafe {
            let (mut sums, values) = (L::splat(0.0), self.x.chunks_exact(L::WIDTH));
            let rest: f32 = values.remainder().iter().sum();
            for values in values {
                sums = sums.add(L::load(values.as_ptr()));
            }
            rest + sums.lanes(0.0).iter().sum::<f32>()
        }
    }

    /// The sum of squared distances from the mean.
    ///
    /// # Safety
    /// See [`Row::normalise`].
    #[inline(always)]
    unsafe fn squares<L: Lanes>(&self, mean: f32) -> f32 {
        // SAFETY: passed on to the caller; only whole vectors are read.
        unsafe {
            let (mut sums, values) = (L::splat(0.0), self.x.chunks_exact(L::WIDTH));
            let rest: f32 = values.remainder().iter().map(|x| (x - mean) * (x - mean)).sum();
            for values in values {
                let off = L::load(values.as_ptr()).sub(L::splat(mean));
                sums = off.fma(off, sums);
            }
            rest + sums.lanes(0.0).iter().sum::<f32>()
        }
    }
}

/// A vector from the start of `from`, zeros where it ends.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn read<L: Lanes>(from: &[f32]) -> L {
    // SAFETY: no more is read than is there.
    unsafe {
        if from.len() >= L::WIDTH {
            L::load(from.as_ptr())
        } else {
            L::load_some(from.as_ptr(), from.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn every_kernel_is_the_plain_normalisation() {
        let random =
            |shape: &[usize], mean| Tensor::randn(mean, 1.5f32, shape, &Device::Cpu).unwrap();
        for width in [1, 5, 8, 16, 17, 31, 256, 770] {
            let (weight, bias) = (random(&[width], 1.0), random(&[width], 0.0));
            let norm = LayerNorm { weight, bias, epsilon: 1e-5 };
            for isa in Isa::available() {
                for rows in [1, 3, 200] {
                    let x = random(&[rows, 2, width], 2.0);
                    let y = norm.fused(&x, Activation::Relu, isa).unwrap();
                    let expected = norm.composed(&x).unwrap().relu().unwrap();
                    let gap = (y - expected).unwrap().abs().unwrap().flatten_all().unwrap();
                    let gap: f32 = gap.max(0).unwrap().to_scalar().unwrap();
                    assert!(gap < 2e-4, "{isa:?} {width} {rows}: {gap}");
                }
                assert_eq!(
                    norm.fused(&random(&[0, width], 0.0), Activation::None, isa).unwrap().dims(),
                    [0, width]
                );
                assert!(norm.fused(&random(&[2, width + 1], 0.0), Activation::None, isa).is_err());
            }
        }
    }
}
