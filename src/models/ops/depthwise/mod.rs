//! Depthwise convolution: each channel with a filter of its own.

mod rows;

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp3, DType, Error, IndexOp, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{Activation, fused, values, written};
use rows::Row;

/// A depthwise convolution with bias and activation, channels-last.
///
/// Padding is TensorFlow's "SAME": at stride 1 as much on both sides; at stride 2 an even side gets
/// the odd row below and the odd column on the right. [`Depthwise::centred`] is PyTorch's instead.
#[derive(Debug, Clone)]
pub struct Depthwise {
    /// `[kernel², channels]`.
    taps: Tensor,
    /// `[channels]`.
    bias: Tensor,
    kernel: usize,
    stride: usize,
    activation: Activation,
    centred: bool,
}

impl Depthwise {
    /// From `weight` `[channels, 1, kernel, kernel]` with an odd kernel, and `bias` `[channels]`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn new(
        weight: &Tensor,
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
        let taps = weight.flatten_from(1)?.t()?.force_contiguous()?;
        Ok(Self { taps, bias, kernel, stride, activation, centred: false })
    }

    /// With half a kernel of zeros on every side, whatever the stride.
    pub fn centred(self) -> Self {
        Self { centred: true, ..self }
    }

    /// `[batch, height, width, channels]` to `[batch, ⌈height/stride⌉, ⌈width/stride⌉, channels]`.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if fused(x) && !cfg!(unoptimised) {
            return self.activation.finish(self.forward_fused(x)?);
        }
        let exact = match x.dtype() {
            DType::F16 | DType::BF16 => DType::F32,
            other => other,
        };
        self.shifted_sum(&x.to_dtype(exact)?)?.to_dtype(x.dtype())
    }

    /// By our own loops.
    fn forward_fused(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op3_no_bwd(&self.taps, &self.bias, self)
    }

    /// The sum over the filter's weights of the picture, shifted, times the weight. candle's own
    /// grouped convolution runs once per channel, which on a GPU is thousands of launches.
    fn shifted_sum(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, height, width, channels) = x.dims4()?;
        let (rows, columns) = (height.div_ceil(self.stride), width.div_ceil(self.stride));
        let phases = self.phases(x)?;
        let taps = self.taps.to_dtype(x.dtype())?;
        let bias = self.bias.to_dtype(x.dtype())?;
        let mut sum = bias.broadcast_as((batch, rows, columns, channels))?.contiguous()?;
        for tap in 0..self.kernel * self.kernel {
            let (ky, kx) = (tap / self.kernel, tap % self.kernel);
            let (top, left) = (ky / self.stride, kx / self.stride);
            let (row, column) = (ky % self.stride, kx % self.stride);
            let shifted = phases.i((.., top..top + rows, row, left..left + columns, column))?;
            sum = (sum + shifted.broadcast_mul(&taps.get(tap)?)?)?;
        }
        self.activation.apply(&sum)
    }

    /// `x` with its padding as `[batch, rows, stride, columns, stride, channels]`: what one weight
    /// sees is a block of it, whatever the stride.
    fn phases(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, height, width, channels) = x.dims4()?;
        let mut x = x.clone();
        let mut shape = vec![batch];
        for (dim, side) in [(1, height), (2, width)] {
            let padded = side.div_ceil(self.stride) + (self.kernel - 1) / self.stride;
            let before = self.padding(side);
            x = x.pad_with_zeros(dim, before, padded * self.stride - before - side)?;
            shape.extend([padded, self.stride]);
        }
        shape.push(channels);
        x.reshape(shape)
    }

    /// Zeros before a side of this length.
    fn padding(&self, side: usize) -> usize {
        if self.centred {
            return self.kernel / 2;
        }
        let out = side.div_ceil(self.stride);
        let total = ((out.max(1) - 1) * self.stride + self.kernel).saturating_sub(side);
        total / 2
    }
}

/// A batch of pictures in memory, `[batch, height, width, channels]`.
struct Pictures<'a> {
    values: &'a [f32],
    batch: usize,
    height: usize,
    width: usize,
}

impl Depthwise {
    /// The output for `pictures`; `compute` makes one row of it.
    ///
    /// # Safety
    /// `compute` must write every value of a row.
    #[allow(unsafe_code)]
    unsafe fn rows(
        &self,
        pictures: &Pictures,
        (taps, bias): (&[f32], &[f32]),
        compute: impl Fn(&Row, &mut [MaybeUninit<f32>]) + Sync,
    ) -> Vec<f32> {
        let Pictures { values, batch, height, width } = *pictures;
        let rows = height.div_ceil(self.stride);
        let length = width.div_ceil(self.stride) * bias.len();
        let picture = height * width * bias.len();
        let above = self.padding(height);
        let row = |(line, y): (usize, &mut [MaybeUninit<f32>])| {
            let (image, at) = (line / rows, line % rows * self.stride);
            let first = above.saturating_sub(at);
            let end = self.kernel.min(above + height - at);
            let x = &values[image * picture..(image + 1) * picture];
            let (filter_rows, first_row) = (first..end, at + first - above);
            compute(&Row { layer: self, x, taps, bias, width, filter_rows, first_row }, y);
        };
        let write = |y: &mut [MaybeUninit<f32>]| {
            let lines = y.par_chunks_mut(length.max(1)).with_min_len((1 << 12) / length.max(1) + 1);
            lines.enumerate().for_each(row);
        };
        // SAFETY: the rows are all of the output, and the caller says that each is written.
        unsafe { written(batch * rows * length, write) }
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
        taps: &CpuStorage,
        taps_shape: &Layout,
        bias: &CpuStorage,
        bias_shape: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, height, width, channels) = shape.shape().dims4()?;
        let x = values(x, shape, self.name())?;
        let taps = values(taps, taps_shape, self.name())?;
        let bias = values(bias, bias_shape, self.name())?;
        if channels != bias.len() {
            return Err(Error::msg(format!("depthwise: {channels} channels for {}", bias.len())));
        }
        let pictures = Pictures { values: x, batch, height, width };
        // SAFETY: a row writes all channels of all its columns.
        #[allow(unsafe_code)]
        let y = unsafe { self.rows(&pictures, (taps, bias), |row, y| row.compute(y)) };
        let (rows, columns) = (height.div_ceil(self.stride), width.div_ceil(self.stride));
        Ok((CpuStorage::F32(y), Shape::from((batch, rows, columns, channels))))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use proptest::prelude::*;

    use super::*;

    /// The definition, pixel by pixel.
    fn plain(x: &Tensor, layer: &Depthwise) -> Result<Vec<f32>> {
        let (batch, height, width, channels) = x.dims4()?;
        let (k, s) = (layer.kernel, layer.stride);
        let weight = layer.taps.flatten_all()?.to_vec1::<f32>()?;
        let bias = layer.bias.to_vec1::<f32>()?;
        let x = x.flatten_all()?.to_vec1::<f32>()?;
        let before = |side: usize| match layer.centred {
            true => (k / 2) as isize,
            false => ((side.div_ceil(s) - 1) * s + k).saturating_sub(side) as isize / 2,
        };
        let (rows, columns) = (height.div_ceil(s), width.div_ceil(s));
        let outputs = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let mut out = Vec::new();
        for picture in 0..batch {
            for (row, column) in outputs.clone() {
                for c in 0..channels {
                    let mut sum = bias[c];
                    for (ky, kx) in (0..k * k).map(|i| (i / k, i % k)) {
                        let y = (row * s + ky) as isize - before(height);
                        let x_at = (column * s + kx) as isize - before(width);
                        let inside = 0..height as isize;
                        if inside.contains(&y) && (0..width as isize).contains(&x_at) {
                            let at = (picture * height + y as usize) * width + x_at as usize;
                            sum += weight[(ky * k + kx) * channels + c] * x[at * channels + c];
                        }
                    }
                    let (low, high) = layer.activation.range();
                    out.push(sum.clamp(low, high));
                }
            }
        }
        Ok(out)
    }

    /// The fused form without the processor's own instructions.
    fn portable(layer: &Depthwise, x: &Tensor) -> Result<Tensor> {
        let (batch, height, width, _) = x.dims4()?;
        let flat = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        let pictures = Pictures { values: &flat(x)?, batch, height, width };
        let weights = (flat(&layer.taps)?, flat(&layer.bias)?);
        let portable = |row: &Row, y: &mut [_]| row.compute_by(rows::Portable, y);
        // SAFETY: a row writes all channels of all its columns.
        #[allow(unsafe_code)]
        let y = unsafe { layer.rows(&pictures, (&weights.0, &weights.1), portable) };
        Tensor::new(y, x.device())
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
            batch in 1..3usize, channels in 1..90usize, height in 1..14usize, width in 1..14usize,
            half in 0..3usize, stride in 1..3usize, relu6 in any::<bool>(),
            centred in any::<bool>(),
        ) {
            let cpu = Device::Cpu;
            let kernel = 2 * half + 1;
            let weight = Tensor::randn(0f32, 1.0, (channels, 1, kernel, kernel), &cpu).unwrap();
            let bias = Tensor::randn(0f32, 1.0, channels, &cpu).unwrap();
            let activation = if relu6 { Activation::Relu6 } else { Activation::None };
            let placed = |layer: Depthwise| if centred { layer.centred() } else { layer };
            let layer = Depthwise::new(&weight, bias.clone(), stride, activation).unwrap();
            let layer = placed(layer);
            let x = Tensor::randn(0f32, 1.0, (batch, height, width, channels), &cpu).unwrap();
            let expected = plain(&x, &layer).unwrap();
            prop_assert!(near(&layer.forward_fused(&x).unwrap(), &expected, 1e-4).unwrap());
            prop_assert!(near(&portable(&layer, &x).unwrap(), &expected, 1e-4).unwrap());
            // The composed form, which GPUs take, in double precision here.
            let double = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
            let layer = Depthwise::new(&double(&weight), double(&bias), stride, activation).unwrap();
            prop_assert!(near(&placed(layer).forward(&double(&x)).unwrap(), &expected, 1e-4).unwrap());
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
            let x = half(values(&[1, side, side, 2]));
            let single = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
            let exact =
                Depthwise::new(&single(&weight), single(&bias), stride, Activation::None).unwrap();
            let expected = plain(&single(&x), &exact).unwrap();
            let layer = Depthwise::new(&weight, bias, stride, Activation::None).unwrap();
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
            Depthwise::new(&zeros(weight)?, zeros(&[bias])?, stride, Activation::None)
        };
        assert!(layer(&[3, 1, 4, 4], 3, 1).is_err());
        assert!(layer(&[3, 2, 3, 3], 3, 1).is_err());
        assert!(layer(&[3, 1, 3, 3], 2, 1).is_err());
        assert!(layer(&[3, 1, 3, 3], 3, 3).is_err());
        assert!(layer(&[3, 1, 3, 3], 3, 1)?.forward_fused(&zeros(&[1, 5, 5, 4])?).is_err());
        Ok(())
    }
}
