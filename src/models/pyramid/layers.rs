//! Convolutions with bias and activation. Batch normalisation is folded into them when a checkpoint
//! is exported.

use candle_core::{D, Tensor};
use candle_nn::VarBuilder;

use crate::models::Result;
use crate::models::ops::{Activation, Depthwise, bias_activate};

/// A 1×1 convolution: a matrix product, which candle does faster than a convolution.
#[derive(Debug)]
pub(in crate::models) struct Pointwise {
    weight: Tensor,
    bias: Tensor,
    activation: Activation,
}

impl Pointwise {
    pub(in crate::models) fn new(
        (from, to): (usize, usize),
        activation: Activation,
        vb: VarBuilder,
    ) -> Result<Self> {
        let weight = vb.get((to, from, 1, 1), "weight")?.reshape((to, from))?;
        Ok(Self::of(weight, vb.get(to, "bias")?, activation))
    }

    /// From `weight` `[to, from]` and `bias` `[to]`.
    pub(in crate::models) fn of(weight: Tensor, bias: Tensor, activation: Activation) -> Self {
        Self { weight, bias, activation }
    }

    /// `[batch, from, height, width]` to `[batch, to, height, width]`.
    pub(in crate::models) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, _, height, width) = x.dims4()?;
        let y = self.weight.broadcast_matmul(&x.flatten_from(2)?)?;
        let y = bias_activate(y, &self.bias, self.activation)?;
        Ok(y.reshape((batch, (), height, width))?)
    }
}

/// A 3×3 convolution that keeps the sides or halves them (then padded below and on the right).
#[derive(Debug)]
pub(in crate::models) struct Conv3 {
    weight: Tensor,
    bias: Tensor,
    stride: usize,
    activation: Activation,
}

impl Conv3 {
    pub(in crate::models) fn new(
        (from, to): (usize, usize),
        stride: usize,
        activation: Activation,
        vb: VarBuilder,
    ) -> Result<Self> {
        let weight = vb.get((to, from, 3, 3), "weight")?;
        Ok(Self { weight, bias: vb.get(to, "bias")?, stride, activation })
    }

    /// `[batch, from, height, width]` with even sides to `[batch, to, height/stride, width/stride]`.
    pub(in crate::models) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = if self.stride == 1 {
            x.conv2d(&self.weight, 1, 1, 1, 1)?
        } else {
            let x = x.pad_with_zeros(D::Minus2, 0, 1)?.pad_with_zeros(D::Minus1, 0, 1)?;
            x.conv2d(&self.weight, 0, self.stride, 1, 1)?
        };
        Ok(bias_activate(y, &self.bias, self.activation)?)
    }
}

/// A depthwise convolution with ReLU6.
pub(in crate::models) fn depthwise(
    channels: usize,
    (kernel, stride): (usize, usize),
    vb: VarBuilder,
) -> Result<Depthwise> {
    let weight = vb.get((channels, 1, kernel, kernel), "weight")?;
    Ok(Depthwise::new(weight, vb.get(channels, "bias")?, stride, Activation::Relu6)?)
}
