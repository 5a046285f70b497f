//! Bias and activation in one pass over memory.

use candle_core::{CpuStorage, Error, InplaceOp2, Layout, Result, Tensor};
use rayon::prelude::*;

use super::{fused, values};

/// What follows a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
}

impl Activation {
    /// The range that values are cut to.
    pub(super) fn range(self) -> (f32, f32) {
        match self {
            Self::None => (f32::NEG_INFINITY, f32::INFINITY),
            Self::Relu => (0.0, f32::INFINITY),
            Self::Relu6 => (0.0, 6.0),
        }
    }

    /// The same by candle's operations.
    pub(super) fn compose(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::None => Ok(x.clone()),
            Self::Relu => x.relu(),
            Self::Relu6 => x.clamp(0f32, 6f32),
        }
    }
}

/// Adds `bias` `[channels]` to `x` `[batch, channels, …]`, a tensor that nobody else holds, and
/// applies the activation. What is not a number stays so.
///
/// # Errors
/// The shapes do not fit, or a tensor operation failed.
pub fn bias_activate(x: Tensor, bias: &Tensor, activation: Activation) -> Result<Tensor> {
    if fused(&x) && x.is_contiguous() {
        x.inplace_op2(bias, &BiasActivation(activation))?;
        return Ok(x);
    }
    let mut shape = vec![1; x.rank()];
    if let Some(channels) = shape.get_mut(1) {
        *channels = bias.elem_count();
    }
    activation.compose(&x.broadcast_add(&bias.reshape(shape)?)?)
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
        let channels = shape.dims().get(1).copied().unwrap_or(0);
        if channels != bias.len() {
            return Err(Error::msg(format!("{} biases for {channels} channels", bias.len())));
        }
        let plane = shape.dims().iter().skip(2).product::<usize>().max(1);
        let (low, high) = self.0.range();
        let rows = x[start..end].par_chunks_mut(plane).with_min_len((1 << 15) / plane + 1);
        rows.enumerate().for_each(|(row, values)| {
            let bias = bias[row % channels];
            for value in values {
                *value = cut(*value + bias, low, high);
            }
        });
        Ok(())
    }
}

/// `value` within `low..=high`. Unlike `f32::max` it keeps what is not a number, so that a broken
/// network shows in its answer; it is two instructions a vector all the same.
pub(super) fn cut(value: f32, low: f32, high: f32) -> f32 {
    let value = if value < low { low } else { value };
    if value > high { high } else { value }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn the_fused_form_is_the_composed_one() -> Result<()> {
        let x = Tensor::randn(0f32, 5.0, (2, 3, 4, 5), &Device::Cpu)?;
        let bias = Tensor::new(&[-1f32, 0.5, 3.0], &Device::Cpu)?;
        for activation in [Activation::None, Activation::Relu, Activation::Relu6] {
            let plain = activation
                .compose(&x.broadcast_add(&bias.reshape((1, 3, 1, 1))?)?)?
                .flatten_all()?;
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
    fn what_is_not_a_number_stays_visible() -> Result<()> {
        let x = Tensor::new(&[[f32::NAN, f32::INFINITY]], &Device::Cpu)?;
        let bias = Tensor::zeros(2, DType::F32, &Device::Cpu)?;
        let y = bias_activate(x, &bias, Activation::Relu6)?.flatten_all()?.to_vec1::<f32>()?;
        assert!(y[0].is_nan());
        assert_eq!(y[1], 6.0);
        Ok(())
    }

    #[test]
    fn a_bias_of_another_length_is_an_error() -> Result<()> {
        let x = Tensor::zeros((1, 3, 2), DType::F32, &Device::Cpu)?;
        let bias = Tensor::zeros(2, DType::F32, &Device::Cpu)?;
        assert!(bias_activate(x, &bias, Activation::Relu).is_err());
        Ok(())
    }
}
