//! Activations in a pass of their own, where what comes before cannot apply them.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::simd::{Isa, Lanes, activate};
#[cfg(target_arch = "x86_64")]
use super::simd::{avx2::Avx2, avx512::Avx512};
use super::{Activation, values, written};

/// Values that a thread takes at a time.
const CHUNK: usize = 1 << 14;

/// The activation of each value of an `f32` tensor on the CPU.
pub(super) fn each(x: &Tensor, activation: Activation, isa: Isa) -> Result<Tensor> {
    x.contiguous()?.apply_op1_no_bwd(&Each { activation, isa })
}

struct Each {
    activation: Activation,
    isa: Isa,
}

impl CustomOp1 for Each {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(x, layout, self.name())?;
        let write = |y: &mut [MaybeUninit<f32>]| {
            y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
                // SAFETY: the processor has the instructions, and both slices have one length.
                unsafe {
                    match self.isa {
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx2 => self.part_avx2(x, y),
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx512 => self.part_avx512(x, y),
                    }
                }
            });
        };
        // SAFETY: the chunks are all of it, and each is written.
        let y = unsafe { written(x.len(), write) };
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }
}

impl Each {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn part_avx2(&self, x: &[f32], y: &mut [MaybeUninit<f32>]) {
        // SAFETY: passed on to the caller.
        unsafe { self.part::<Avx2>(x, y) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn part_avx512(&self, x: &[f32], y: &mut [MaybeUninit<f32>]) {
        // SAFETY: passed on to the caller.
        unsafe { self.part::<Avx512>(x, y) }
    }

    /// # Safety
    /// The processor has the instructions; `y` is as long as `x`.
    #[inline(always)]
    unsafe fn part<L: Lanes>(&self, x: &[f32], y: &mut [MaybeUninit<f32>]) {
        for (x, y) in x.chunks(L::WIDTH).zip(y.chunks_mut(L::WIDTH)) {
            // SAFETY: both chunks hold as many values as are read and written.
            unsafe {
                if x.len() == L::WIDTH {
                    activate(self.activation, L::load(x.as_ptr())).store(y.as_mut_ptr().cast());
                } else {
                    let some = L::load_some(x.as_ptr(), x.len());
                    activate(self.activation, some).store_some(y.as_mut_ptr().cast(), x.len());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn it_is_the_plain_function_at_every_place() {
        for isa in Isa::available() {
            for count in [0, 1, 7, 8, 33, CHUNK + 5] {
                let x = Tensor::randn(0f32, 3.0, count, &Device::Cpu).unwrap();
                let plain = x.gelu_erf().unwrap().to_vec1::<f32>().unwrap();
                let own = each(&x, Activation::Gelu, isa).unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(own.len(), plain.len());
                for (own, plain) in own.iter().zip(&plain) {
                    assert!((own - plain).abs() < 2e-6, "{isa:?} {count}: {own} for {plain}");
                }
            }
        }
    }
}
