//! Softmax.

use candle_core::{DType, Result, Tensor};
use candle_nn::ops::softmax_last_dim;

/// The softmax over the last dimension, computed in single precision whatever the type of `scores`.
///
/// candle sums in the tensor's own type on the CPU: a sum of 4096 in F16 stops growing at 2048. Its
/// kernels for GPUs sum in `f32` by themselves. Costs nothing where `scores` are `f32`.
///
/// # Errors
/// A tensor operation failed.
pub fn softmax_f32(scores: &Tensor) -> Result<Tensor> {
    if scores.device().is_cuda() {
        return softmax_last_dim(scores);
    }
    softmax_last_dim(&scores.to_dtype(DType::F32)?)?.to_dtype(scores.dtype())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn many_keys_in_half_precision_still_sum_to_one() -> Result<()> {
        for dtype in [DType::F16, DType::F32] {
            let scores = Tensor::zeros((2, 4096), dtype, &Device::Cpu)?;
            let weights = softmax_f32(&scores)?;
            assert_eq!(weights.dtype(), dtype);
            for row in weights.to_dtype(DType::F32)?.to_vec2::<f32>()? {
                assert!(row.iter().all(|weight| *weight == 1.0 / 4096.0), "{dtype:?}: {}", row[0]);
            }
        }
        Ok(())
    }
}
