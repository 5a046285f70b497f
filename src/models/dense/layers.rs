//! Convolutions with bias, as both parts of the trunk use them. Batch normalisation is folded into
//! them when a checkpoint is exported.

use candle_core::Tensor;
use candle_nn::{Conv2d, Conv2dConfig, VarBuilder};

use crate::models::Result;

/// A 1×1 convolution: a matrix product, which candle does faster than a convolution.
pub(super) struct Pointwise {
    weight: Tensor,
    bias: Tensor,
}

impl Pointwise {
    pub(super) fn new(from: usize, to: usize, vb: VarBuilder) -> Result<Self> {
        let weight = vb.get((to, from, 1, 1), "weight")?.reshape((to, from))?;
        let bias = vb.get(to, "bias")?.reshape((1, to, 1))?;
        Ok(Self { weight, bias })
    }

    /// `[batch, from, height, width]` to `[batch, to, height, width]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, _, height, width) = x.dims4()?;
        let flat = x.flatten_from(2)?;
        let y = self.weight.broadcast_matmul(&flat)?.broadcast_add(&self.bias)?;
        Ok(y.reshape((batch, (), height, width))?)
    }
}

/// A 3×3 convolution with padding 1.
pub(super) fn conv3(from: usize, to: usize, stride: usize, vb: VarBuilder) -> Result<Conv2d> {
    let config = Conv2dConfig { padding: 1, stride, ..Default::default() };
    Ok(candle_nn::conv2d(from, to, 3, config, vb)?)
}
