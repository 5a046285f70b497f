//! Bias and activation in one pass over memory.

use candle_core::{
    CpuStorage, CustomOp1, Error, InplaceOp2, Layout, Result, Shape, Tensor, WithDType,
};
use rayon::prelude::*;

use super::simd::Isa;
use super::{elementwise, fused, values};

/// What follows a convolution or a linear layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x (1 + erf(x / √2)) / 2` (Hendrycks and Gimpel, 2016).
    Gelu,
    /// The same with the erf approximated by a hyperbolic tangent.
    GeluTanh,
}

impl Activation {
    /// Whether it does no more than cut values to [`Activation::range`].
    pub(super) fn cuts(self) -> bool {
        !matches!(self, Self::Gelu | Self::GeluTanh)
    }

    /// What is left to do where values were cut to [`Activation::range`].
    pub(super) fn finish(self, x: Tensor) -> Result<Tensor> {
        if self.cuts() { Ok(x) } else { self.apply(&x) }
    }

    /// The range that values are cut to.
    pub(super) fn range(self) -> (f32, f32) {
        match self {
            Self::None | Self::Gelu | Self::GeluTanh => (f32::NEG_INFINITY, f32::INFINITY),
            Self::Relu => (0.0, f32::INFINITY),
            Self::Relu6 => (0.0, 6.0),
        }
    }

    /// The same in a pass of its own.
    pub(super) fn apply(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::None => Ok(x.clone()),
            Self::Relu => relu(x),
            Self::Relu6 => clamp(x, (0.0, 6.0)),
            Self::Gelu | Self::GeluTanh => match Isa::best() {
                Some(isa) if fused(x) => elementwise::each(x, self, isa),
                _ if self == Self::Gelu => x.gelu_erf(),
                _ => x.gelu(),
            },
        }
    }
}

/// `max(x, 0)`, see [`clamp`].
///
/// # Errors
/// A tensor operation failed.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    clamp(x, (0.0, f32::INFINITY))
}

/// `x` cut to `low..=high`.
///
/// What is not a number stays so, as in PyTorch, so that a broken layer shows in the answer.
/// candle's `relu` makes zeros of it, and on CUDA its `maximum` and `clamp` do so in f32 as well.
///
/// # Errors
/// A tensor operation failed.
pub fn clamp(x: &Tensor, (low, high): (f32, f32)) -> Result<Tensor> {
    if x.device().is_cpu() {
        return x.contiguous()?.apply_op1_no_bwd(&Clamp(low, high));
    }
    clamp_by_comparison(x, (low, high))
}

/// [`clamp`] by operations that leave alone what compares as neither below nor above.
fn clamp_by_comparison(x: &Tensor, (low, high): (f32, f32)) -> Result<Tensor> {
    let constant =
        |value: f32| Tensor::new(value, x.device())?.to_dtype(x.dtype())?.broadcast_as(x.shape());
    let x = x.lt(low)?.where_cond(&constant(low)?, x)?;
    if high == f32::INFINITY {
        return Ok(x);
    }
    x.gt(high)?.where_cond(&constant(high)?, &x)
}

struct Clamp(f32, f32);

impl Clamp {
    fn each<T: WithDType>(&self, values: &[T], layout: &Layout) -> Result<Vec<T>> {
        let (start, end) = layout
            .contiguous_offsets()
            .ok_or_else(|| Error::msg("clamp: needs contiguous values"))?;
        let (low, high) = (T::from_f64(self.0.into()), T::from_f64(self.1.into()));
        let values = values[start..end].par_iter().with_min_len(1 << 15);
        Ok(values.map(|&value| cut(value, low, high)).collect())
    }
}

impl CustomOp1 for Clamp {
    fn name(&self) -> &'static str {
        "clamp"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = match x {
            CpuStorage::F16(x) => CpuStorage::F16(self.each(x, layout)?),
            CpuStorage::BF16(x) => CpuStorage::BF16(self.each(x, layout)?),
            CpuStorage::F32(x) => CpuStorage::F32(self.each(x, layout)?),
            CpuStorage::F64(x) => CpuStorage::F64(self.each(x, layout)?),
            _ => return Err(Error::msg("clamp: needs floating-point values")),
        };
        Ok((y, layout.shape().clone()))
    }
}

/// Adds `bias` `[channels]` to `x` `[…, channels]`, a tensor that nobody else holds, and applies the
/// activation. What is not a number stays so.
///
/// # Errors
/// The shapes do not fit, or a tensor operation failed.
pub fn bias_activate(x: Tensor, bias: &Tensor, activation: Activation) -> Result<Tensor> {
    if fused(&x) && x.is_contiguous() && activation.cuts() {
        x.inplace_op2(bias, &BiasActivation(activation))?;
        return Ok(x);
    }
    activation.apply(&x.broadcast_add(bias)?)
}

struct BiasActivation(Activation);

impl InplaceOp2 for BiasActivation {
    fn name(&self) -> &'static str {
        "bias-activation"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        shape: &Layout,
        bias: &CpuStorage,
        bias_shape: &Layout,
    ) -> Result<()> {
        let bias = values(bias, bias_shape, self.name())?;
        let (Some((start, end)), CpuStorage::F32(x)) = (shape.contiguous_offsets(), x) else {
            return Err(Error::msg("bias-activation: needs contiguous f32"));
        };
        let channels = shape.dims().last().copied().unwrap_or(0);
        if channels != bias.len() || channels == 0 {
            return Err(Error::msg(format!("{} biases for {channels} channels", bias.len())));
        }
        let (low, high) = self.0.range();
        let rows = x[start..end].par_chunks_exact_mut(channels);
        rows.with_min_len((1 << 15) / channels + 1).for_each(|row| {
            for (value, bias) in row.iter_mut().zip(bias) {
                *value = cut(*value + bias, low, high);
            }
        });
        Ok(())
    }
}

/// `value` within `low..=high`. Unlike `f32::max` it keeps what is not a number, so that a broken
/// network shows in its answer; it is two instructions a vector all the same.
pub(super) fn cut<T: PartialOrd>(value: T, low: T, high: T) -> T {
    let value = if value < low { low } else { value };
    if value > high { high } else { value }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn the_fused_form_is_the_composed_one() -> Result<()> {
        let x = Tensor::randn(0f32, 5.0, (2, 4, 5, 3), &Device::Cpu)?;
        let bias = Tensor::new(&[-1f32, 0.5, 3.0], &Device::Cpu)?;
        for activation in [Activation::None, Activation::Relu, Activation::Relu6, Activation::Gelu]
        {
            let plain = activation.apply(&x.broadcast_add(&bias)?)?.flatten_all()?;
            let fused = bias_activate(x.copy()?, &bias, activation)?.flatten_all()?;
            assert_eq!(fused.to_vec1::<f32>()?, plain.to_vec1::<f32>()?, "{activation:?}");
            let half =
                bias_activate(x.to_dtype(DType::F16)?, &bias.to_dtype(DType::F16)?, activation)?;
            let half = half.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            let near = |(a, b): (&f32, f32)| (a - b).abs() < 0.02;
            assert!(half.iter().zip(fused.to_vec1::<f32>()?).all(near), "{activation:?}");
        }
        Ok(())
    }

    #[test]
    fn both_ways_to_clamp_keep_what_is_not_a_number() -> Result<()> {
        let values = [f32::NAN, -1.5, 0.0, 2.0, 7.0, f32::INFINITY, f32::NEG_INFINITY];
        let expected = [f32::NAN, 0.0, 0.0, 2.0, 6.0, 6.0, 0.0];
        let x = Tensor::new(&[values, values], &Device::Cpu)?.t()?;
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
            let x = x.to_dtype(dtype)?;
            for way in [clamp, clamp_by_comparison] {
                let y = way(&x, (0.0, 6.0))?.to_dtype(DType::F32)?.t()?.to_vec2::<f32>()?;
                for row in y {
                    let same = |(a, b): (&f32, &f32)| a == b || a.is_nan() && b.is_nan();
                    assert!(row.iter().zip(&expected).all(same), "{dtype:?}: {row:?}");
                }
                let y = way(&x, (0.0, f32::INFINITY))?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
                assert!(y[0][0].is_nan() && y[5][0] == f32::INFINITY, "{dtype:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn what_is_not_a_number_stays_visible() -> Result<()> {
        let x = Tensor::new(&[[f32::NAN, f32::INFINITY]], &Device::Cpu)?;
        let bias = Tensor::zeros(2, DType::F32, &Device::Cpu)?;
        for dtype in [DType::F32, DType::F64] {
            let (x, bias) = (x.copy()?.to_dtype(dtype)?, bias.to_dtype(dtype)?);
            let y = bias_activate(x, &bias, Activation::Relu6)?.to_dtype(DType::F32)?;
            let y = y.flatten_all()?.to_vec1::<f32>()?;
            assert!(y[0].is_nan(), "{dtype:?}");
            assert_eq!(y[1], 6.0, "{dtype:?}");
        }
        Ok(())
    }

    #[test]
    fn a_bias_of_another_length_is_an_error() -> Result<()> {
        let x = Tensor::zeros((1, 2, 3), DType::F32, &Device::Cpu)?;
        let bias = Tensor::zeros(2, DType::F32, &Device::Cpu)?;
        assert!(bias_activate(x, &bias, Activation::Relu).is_err());
        Ok(())
    }
}
