//! Depthwise convolution: each channel with a filter of its own.

use candle_core::{CpuStorage, CustomOp3, DType, Error, IndexOp, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::activation::{Activation, cut};
use super::{fused, values};

/// A depthwise convolution with bias and activation.
///
/// Padding is TensorFlow's "SAME": at stride 1 as much on both sides; at stride 2 an even side gets
/// the odd row below and the odd column on the right.
#[derive(Debug, Clone)]
pub struct Depthwise {
    /// `[channels, 1, kernel, kernel]`.
    weight: Tensor,
    /// `[channels]`.
    bias: Tensor,
    kernel: usize,
    stride: usize,
    activation: Activation,
}

impl Depthwise {
    /// From `weight` `[channels, 1, kernel, kernel]` with an odd kernel, and `bias` `[channels]`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn new(
        weight: Tensor,
        bias: Tensor,
        stride: usize,
        activation: Activation,
    ) -> Result<Self> {
        let (channels, one, kernel, width) = weight.dims4()?;
        if one != 1 || kernel != width || kernel.is_multiple_of(2) || bias.dims() != [channels] {
            let (weight, bias) = (weight.shape(), bias.shape());
            return Err(Error::msg(format!("depthwise: weight {weight:?}, bias {bias:?}")));
        }
        if !(1..=2).contains(&stride) {
            return Err(Error::msg("depthwise: stride must be 1 or 2"));
        }
        Ok(Self { weight, bias, kernel, stride, activation })
    }

    /// `[batch, channels, height, width]` to `[batch, channels, ⌈height/stride⌉, ⌈width/stride⌉]`.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if fused(x) && self.activation.cuts() {
            return x.contiguous()?.apply_op3_no_bwd(&self.weight, &self.bias, self);
        }
        let exact = match x.dtype() {
            DType::F16 | DType::BF16 => DType::F32,
            other => other,
        };
        self.shifted_sum(&x.to_dtype(exact)?)?.to_dtype(x.dtype())
    }

    /// The sum over the filter's weights of the picture, shifted, times the weight. candle's own
    /// grouped convolution runs once per channel, which on a GPU is thousands of launches.
    fn shifted_sum(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, _, height, width) = x.dims4()?;
        let channels = self.bias.elem_count();
        let (rows, columns) = (height.div_ceil(self.stride), width.div_ceil(self.stride));
        let phases = self.phases(x)?;
        let taps = self.weight.flatten_from(1)?.t()?.contiguous()?.to_dtype(x.dtype())?;
        let bias = self.bias.to_dtype(x.dtype())?.reshape((1, channels, 1, 1))?;
        let mut sum = bias.broadcast_as((batch, channels, rows, columns))?.contiguous()?;
        for tap in 0..self.kernel * self.kernel {
            let (ky, kx) = (tap / self.kernel, tap % self.kernel);
            let (top, left) = (ky / self.stride, kx / self.stride);
            let (row, column) = (ky % self.stride, kx % self.stride);
            let shifted = phases.i((.., .., top..top + rows, row, left..left + columns, column))?;
            let weight = taps.get(tap)?.reshape((1, channels, 1, 1))?;
            sum = (sum + shifted.broadcast_mul(&weight)?)?;
        }
        self.activation.apply(&sum)
    }

    /// `x` with its padding as `[batch, channels, rows, stride, columns, stride]`: what one weight
    /// sees is a block of it, whatever the stride.
    fn phases(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = x.dims4()?;
        let mut x = x.clone();
        let mut shape = vec![batch, channels];
        for (dim, side) in [(2, height), (3, width)] {
            let padded = side.div_ceil(self.stride) + (self.kernel - 1) / self.stride;
            let (before, _) = self.padding(side);
            x = x.pad_with_zeros(dim, before, padded * self.stride - before - side)?;
            shape.extend([padded, self.stride]);
        }
        x.reshape(shape)
    }

    /// Zeros before and after a side of this length.
    fn padding(&self, side: usize) -> (usize, usize) {
        let out = side.div_ceil(self.stride);
        let total = ((out.max(1) - 1) * self.stride + self.kernel).saturating_sub(side);
        (total / 2, total - total / 2)
    }

    /// One channel of one picture.
    fn plane(&self, x: &[f32], from: (usize, usize), filter: &[f32], bias: f32, y: &mut [f32]) {
        let (height, width) = from;
        let columns = width.div_ceil(self.stride);
        let (above, _) = self.padding(height);
        let (left, _) = self.padding(width);
        let (low, high) = self.activation.range();
        for (row, out) in y.chunks_exact_mut(columns).enumerate() {
            out.fill(bias);
            for (ky, filter) in filter.chunks_exact(self.kernel).enumerate() {
                let Some(at) = (row * self.stride + ky).checked_sub(above) else { continue };
                if at >= height {
                    break;
                }
                let input = &x[at * width..(at + 1) * width];
                for (kx, &weight) in filter.iter().enumerate() {
                    self.tap(input, kx, left, weight, out);
                }
            }
            for value in out {
                *value = cut(*value, low, high);
            }
        }
    }

    /// Adds one weight's share to a row: `out[i] += weight · input[i · stride + kx − left]`.
    fn tap(&self, input: &[f32], kx: usize, left: usize, weight: f32, out: &mut [f32]) {
        let first = left.saturating_sub(kx).div_ceil(self.stride);
        let at = first * self.stride + kx - left;
        // Beside the padding nothing may be left of a narrow picture.
        let (Some(input), Some(out)) = (input.get(at..), out.get_mut(first..)) else { return };
        // Two loops: the compiler makes vectors only of the one without gaps.
        if self.stride == 1 {
            for (y, x) in out.iter_mut().zip(input) {
                *y += weight * x;
            }
        } else {
            for (y, x) in out.iter_mut().zip(input.iter().step_by(2)) {
                *y += weight * x;
            }
        }
    }
}

impl CustomOp3 for Depthwise {
    fn name(&self) -> &'static str {
        "depthwise"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        shape: &Layout,
        weight: &CpuStorage,
        weight_shape: &Layout,
        bias: &CpuStorage,
        bias_shape: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, channels, height, width) = shape.shape().dims4()?;
        let x = values(x, shape, self.name())?;
        let weight = values(weight, weight_shape, self.name())?;
        let bias = values(bias, bias_shape, self.name())?;
        if channels != bias.len() {
            return Err(Error::msg(format!("depthwise: {channels} channels for {}", bias.len())));
        }
        let (rows, columns) = (height.div_ceil(self.stride), width.div_ceil(self.stride));
        let (from, to, area) = (height * width, rows * columns, self.kernel * self.kernel);
        let mut y = vec![0f32; batch * channels * to];
        if from > 0 {
            let planes = y.par_chunks_mut(to).with_min_len((1 << 13) / to + 1).enumerate();
            planes.for_each(|(plane, y)| {
                let channel = plane % channels;
                let x = &x[plane * from..(plane + 1) * from];
                let filter = &weight[channel * area..(channel + 1) * area];
                self.plane(x, (height, width), filter, bias[channel], y);
            });
        }
        Ok((CpuStorage::F32(y), Shape::from((batch, channels, rows, columns))))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use proptest::prelude::*;

    use super::*;

    /// The definition, pixel by pixel.
    fn plain(x: &Tensor, layer: &Depthwise) -> Result<Vec<f32>> {
        let (batch, channels, height, width) = x.dims4()?;
        let (k, s) = (layer.kernel, layer.stride);
        let weight = layer.weight.flatten_all()?.to_vec1::<f32>()?;
        let bias = layer.bias.to_vec1::<f32>()?;
        let x = x.flatten_all()?.to_vec1::<f32>()?;
        let before =
            |side: usize| ((side.div_ceil(s) - 1) * s + k).saturating_sub(side) as isize / 2;
        let mut out = Vec::new();
        for plane in 0..batch * channels {
            let c = plane % channels;
            for row in 0..height.div_ceil(s) {
                for column in 0..width.div_ceil(s) {
                    let mut sum = bias[c];
                    for (ky, kx) in (0..k * k).map(|i| (i / k, i % k)) {
                        let y = (row * s + ky) as isize - before(height);
                        let x_at = (column * s + kx) as isize - before(width);
                        let inside = 0..height as isize;
                        if inside.contains(&y) && (0..width as isize).contains(&x_at) {
                            let at = plane * height * width + y as usize * width + x_at as usize;
                            sum += weight[c * k * k + ky * k + kx] * x[at];
                        }
                    }
                    let (low, high) = layer.activation.range();
                    out.push(sum.clamp(low, high));
                }
            }
        }
        Ok(out)
    }

    fn near(ours: &Tensor, theirs: &[f32], tolerance: f32) -> Result<bool> {
        let ours = ours.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= tolerance;
        Ok(ours.len() == theirs.len() && ours.iter().zip(theirs).all(close))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn fused_and_composed_are_the_definition(
            batch in 1..3usize, channels in 1..4usize, height in 1..14usize, width in 1..14usize,
            half in 0..3usize, stride in 1..3usize, relu6 in any::<bool>(),
        ) {
            let cpu = Device::Cpu;
            let kernel = 2 * half + 1;
            let weight = Tensor::randn(0f32, 1.0, (channels, 1, kernel, kernel), &cpu).unwrap();
            let bias = Tensor::randn(0f32, 1.0, channels, &cpu).unwrap();
            let activation = if relu6 { Activation::Relu6 } else { Activation::None };
            let layer = Depthwise::new(weight.clone(), bias.clone(), stride, activation).unwrap();
            let x = Tensor::randn(0f32, 1.0, (batch, channels, height, width), &cpu).unwrap();
            let expected = plain(&x, &layer).unwrap();
            prop_assert!(near(&layer.forward(&x).unwrap(), &expected, 1e-4).unwrap());
            // The other path, which GPUs take, in double precision here.
            let double = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
            let layer = Depthwise::new(double(&weight), double(&bias), stride, activation).unwrap();
            prop_assert!(near(&layer.forward(&double(&x)).unwrap(), &expected, 1e-4).unwrap());
        }

        /// Half precision rounds what goes in and what comes out, not the sum between.
        #[test]
        fn half_precision_sums_exactly(
            side in 1..14usize, stride in 1..3usize, seed in 0..1000u32,
        ) {
            let half = |t: Tensor| t.to_dtype(DType::F16).unwrap();
            let value = |i: u32| ((i * 7919 + seed) % 2003) as f32 / 500.0 - 2.0;
            let values = |shape: &[usize]| {
                let count = shape.iter().product::<usize>() as u32;
                Tensor::from_iter((0..count).map(value), &Device::Cpu).unwrap().reshape(shape).unwrap()
            };
            let (weight, bias) = (half(values(&[2, 1, 5, 5])), half(values(&[2])));
            let x = half(values(&[1, 2, side, side]));
            let single = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
            let exact =
                Depthwise::new(single(&weight), single(&bias), stride, Activation::None).unwrap();
            let expected = plain(&single(&x), &exact).unwrap();
            let layer = Depthwise::new(weight, bias, stride, Activation::None).unwrap();
            let found = layer.forward(&x).unwrap();
            let found = single(&found).flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (found, expected) in found.iter().zip(&expected) {
                prop_assert!((found - expected).abs() <= 1e-3 * expected.abs().max(1.0));
            }
        }
    }

    #[test]
    fn wrong_shapes_are_errors() -> Result<()> {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
        let layer = |weight: &[usize], bias, stride| {
            Depthwise::new(zeros(weight)?, zeros(&[bias])?, stride, Activation::None)
        };
        assert!(layer(&[3, 1, 4, 4], 3, 1).is_err());
        assert!(layer(&[3, 2, 3, 3], 3, 1).is_err());
        assert!(layer(&[3, 1, 3, 3], 2, 1).is_err());
        assert!(layer(&[3, 1, 3, 3], 3, 3).is_err());
        assert!(layer(&[3, 1, 3, 3], 3, 1)?.forward(&zeros(&[1, 4, 5, 5])?).is_err());
        Ok(())
    }
}
