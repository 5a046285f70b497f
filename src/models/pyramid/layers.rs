//! Convolutions of the trunk, read from a checkpoint. Batch normalisation is folded into them when it
//! is exported.

use candle_nn::VarBuilder;

use crate::models::Result;
use crate::models::ops::{Activation, Conv2d, Depthwise, Travel};

/// A 1×1 convolution.
pub(in crate::models) fn pointwise(
    (from, to): (usize, usize),
    activation: Activation,
    vb: VarBuilder,
) -> Result<Conv2d> {
    let weight = vb.get((to, from, 1, 1), "weight")?;
    Ok(Conv2d::new(&weight, vb.get(to, "bias")?, Travel::EVERY, activation)?)
}

/// A 3×3 convolution that keeps even sides or halves them (then padded below and on the right).
pub(super) fn conv3(
    (from, to): (usize, usize),
    stride: usize,
    activation: Activation,
    vb: VarBuilder,
) -> Result<Conv2d> {
    let weight = vb.get((to, from, 3, 3), "weight")?;
    let travel = Travel { stride, before: 2 - stride, after: 1 };
    Ok(Conv2d::new(&weight, vb.get(to, "bias")?, travel, activation)?)
}

/// A depthwise convolution with ReLU6.
pub(super) fn depthwise(
    channels: usize,
    (kernel, stride): (usize, usize),
    vb: VarBuilder,
) -> Result<Depthwise> {
    let weight = vb.get((channels, 1, kernel, kernel), "weight")?;
    Ok(Depthwise::new(&weight, vb.get(channels, "bias")?, stride, Activation::Relu6)?)
}
