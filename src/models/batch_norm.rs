//! Batch normalisation, which at inference is a part of the convolution before it.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// PyTorch's default.
const EPSILON: f64 = 1e-5;

/// `weight` `[out, …]` of a convolution without bias, and what `vb` holds of the normalisation behind
/// it, as the weight and bias `[out]` of one convolution. Both should be f32: the statistics may be
/// far apart.
///
/// # Errors
/// A tensor is missing or has another shape.
pub(super) fn fold_batch_norm(weight: &Tensor, vb: &VarBuilder) -> Result<(Tensor, Tensor)> {
    let out = weight.dim(0)?;
    let deviation = (vb.get(out, "running_var")? + EPSILON)?.sqrt()?;
    let factor = (vb.get(out, "weight")? / deviation)?;
    let bias = (vb.get(out, "bias")? - (vb.get(out, "running_mean")? * &factor)?)?;
    let mut shape = vec![1; weight.rank()];
    shape[0] = out;
    Ok((weight.broadcast_mul(&factor.reshape(shape)?)?, bias))
}
