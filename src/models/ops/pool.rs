//! Max pooling, channels-last.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{fused, values};

/// The largest of 3×3 pixels at every second one, of a map `[batch, height, width, channels]` in
/// which nothing is negative: to `[batch, ⌈height/2⌉, ⌈width/2⌉, channels]`. What is not a number
/// stays so. ResNet's pooling after its stem (kernel 3, stride 2, padding 1).
///
/// # Errors
/// A tensor operation failed.
pub fn max_pool_of_positive(x: &Tensor) -> Result<Tensor> {
    if fused(x) {
        return x.contiguous()?.apply_op1_no_bwd(&MaxPool);
    }
    // Where nothing is negative, padding with zeros pads with the minimum.
    let x = x.permute((0, 3, 1, 2))?.contiguous()?;
    let x = x.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?;
    x.max_pool2d_with_stride(3, 2)?.permute((0, 2, 3, 1))?.contiguous()
}

struct MaxPool;

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max-pool"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, height, width, channels) = layout.shape().dims4()?;
        let x = values(x, layout, self.name())?;
        let (rows, columns) = (height.div_ceil(2), width.div_ceil(2));
        let mut y = vec![0f32; batch * rows * columns * channels];
        let pixels =
            y.par_chunks_mut(channels.max(1)).with_min_len((1 << 12) / channels.max(1) + 1);
        pixels.enumerate().for_each(|(pixel, y)| {
            let (line, column) = (pixel / columns, pixel % columns);
            let (picture, row) = (line / rows, line % rows);
            for at in around(row, height) {
                for x_at in around(column, width) {
                    let from = ((picture * height + at) * width + x_at) * channels;
                    for (y, &x) in y.iter_mut().zip(&x[from..from + channels]) {
                        *y = larger(*y, x);
                    }
                }
            }
        });
        Ok((CpuStorage::F32(y), Shape::from((batch, rows, columns, channels))))
    }
}

/// The positions that output `index` looks at along a side of this length.
fn around(index: usize, side: usize) -> std::ops::Range<usize> {
    (2 * index).saturating_sub(1)..(2 * index + 2).min(side)
}

/// The larger; what is not a number wins, once and for all.
fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn fused_and_composed_agree() -> Result<()> {
        for (height, width, channels) in [(1, 1, 1), (5, 8, 3), (8, 7, 20), (2, 9, 5)] {
            let shape = (2, height, width, channels);
            let x = Tensor::randn(0f32, 1.0, shape, &Device::Cpu)?.relu()?;
            let ours = max_pool_of_positive(&x)?;
            assert_eq!(ours.dims(), [2, height.div_ceil(2), width.div_ceil(2), channels]);
            let composed = max_pool_of_positive(&x.to_dtype(DType::F64)?)?;
            let composed = composed.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            assert_eq!(ours.flatten_all()?.to_vec1::<f32>()?, composed);
        }
        Ok(())
    }

    #[test]
    fn what_is_not_a_number_stays_visible() -> Result<()> {
        let mut pixels = [1f32; 25];
        pixels[6] = f32::NAN;
        let y = max_pool_of_positive(&Tensor::new(&pixels, &Device::Cpu)?.reshape((1, 5, 5, 1))?)?;
        let y = y.flatten_all()?.to_vec1::<f32>()?;
        let broken: Vec<bool> = y.iter().map(|value| value.is_nan()).collect();
        let (yes, no) = (true, false);
        assert_eq!(broken, [yes, yes, no, yes, yes, no, no, no, no]);
        Ok(())
    }
}
