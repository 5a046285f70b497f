//! Operations that networks share: fused ones for the CPU, where candle's own are many times slower
//! than the hardware, and those where candle's own lose what must not be lost.
//!
//! Each fused one is a custom operation of candle for `f32` on the CPU; on any other device or type the same
//! value is composed of candle's operations. Tests hold the two together. Where this crate is built
//! without optimisation, convolutions are composed as well: candle is optimised even then.

mod activation;
mod attention;
mod conv;
mod depthwise;
mod elementwise;
mod gemm;
mod lanes;
mod linear;
mod memory_pool;
mod norm;
mod pool;
mod simd;
mod softmax;

pub use activation::{Activation, clamp, relu};
pub use attention::{RelativePositions, Scores, attend, attend_by_blocks, attends_by_tiles};
pub use conv::{Conv2d, Travel};
pub use depthwise::Depthwise;
pub use gemm::{Storage, int8_scales, to_int8};
pub use linear::{Linear, WEIGHT_SCALE, activation_type, linear_storage};
pub use memory_pool::{free_memory, has_gpu, keep_freed_memory};
pub use norm::LayerNorm;
pub use pool::max_pool_of_positive;
pub use softmax::softmax_f32;

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, DType, Error, Layout, Result, Tensor};

/// Whether the fused form serves this tensor.
fn fused(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// The values of a contiguous `f32` tensor.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout, what: &str) -> Result<&'a [f32]> {
    match (layout.contiguous_offsets(), storage) {
        (Some((start, end)), CpuStorage::F32(values)) => Ok(&values[start..end]),
        _ => Err(Error::msg(format!("{what}: needs contiguous f32"))),
    }
}

/// `length` values, written by `write` into memory that nobody had to clear before.
///
/// # Safety
/// `write` must write every value.
#[allow(unsafe_code)]
unsafe fn written(length: usize, write: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut values = Vec::with_capacity(length);
    write(&mut values.spare_capacity_mut()[..length]);
    // SAFETY: there is room for so many, and the caller says that all of them were written.
    unsafe { values.set_len(length) };
    values
}
