//! Convolution with bias, residual and activation, channels-last.
//!
//! On the CPU the filters lie packed for the inner loop ([`panels`]), which reads the picture where
//! it lies: with the channels last, what a filter sees of one row is one run of values. So nothing
//! is copied but the picture's padding, and a 1×1 convolution is a matrix product.

mod kernel;
mod panels;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Error, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{Activation, activation::bias_activate, fused, values};
use kernel::Reach;
use panels::{Field, Panels, Places, Processor};

/// How a filter travels over a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Travel {
    /// Pixels from one position to the next.
    pub stride: usize,
    /// Rows of zeros above and columns of zeros on the left.
    pub before: usize,
    /// Rows of zeros below and columns of zeros on the right.
    pub after: usize,
}

impl Travel {
    /// Every pixel, without padding.
    pub const EVERY: Self = Self { stride: 1, before: 0, after: 0 };

    /// `padding` zeros on all sides.
    pub fn padded(stride: usize, padding: usize) -> Self {
        Self { stride, before: padding, after: padding }
    }

    /// Positions of a filter of this `kernel` along a side.
    fn positions(self, side: usize, kernel: usize) -> Result<usize> {
        let padded = side + self.before + self.after;
        match padded.checked_sub(kernel) {
            Some(room) if side > 0 => Ok(room / self.stride + 1),
            _ => Err(Error::msg(format!("a filter of {kernel} on {side} pixels"))),
        }
    }
}

/// A convolution with bias and activation: `[batch, height, width, in]` to
/// `[batch, height', width', out]`.
#[derive(Debug)]
pub struct Conv2d {
    filters: Filters,
    input: usize,
    kernel: usize,
    travel: Travel,
    activation: Activation,
}

/// The weights, in the one form that is used.
#[derive(Debug)]
enum Filters {
    /// For our own loops.
    Packed(Panels),
    /// For candle's: `[out, in, kernel, kernel]` and `[out]`.
    Plain(Tensor, Tensor),
}

impl Conv2d {
    /// From `weight` `[out, in, kernel, kernel]` and `bias` `[out]`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn new(
        weight: &Tensor,
        bias: Tensor,
        travel: Travel,
        activation: Activation,
    ) -> Result<Self> {
        let pack = fused(weight) && !cfg!(unoptimised);
        Self::stored(weight, bias, (travel, activation), pack)
    }

    /// [`Self::new`] with the form of the weights given.
    fn stored(
        weight: &Tensor,
        bias: Tensor,
        (travel, activation): (Travel, Activation),
        pack: bool,
    ) -> Result<Self> {
        let (out, input, kernel, width) = weight.dims4()?;
        let empty = [out, input, kernel, travel.stride].contains(&0);
        if kernel != width || empty || bias.dims() != [out] {
            let (weight, bias) = (weight.shape(), bias.shape());
            return Err(Error::msg(format!("convolution: weight {weight:?}, bias {bias:?}")));
        }
        let filters = if pack {
            // Each filter as it meets the picture: row by row, pixel by pixel, channel by channel.
            let rows = weight.permute((0, 2, 3, 1))?.reshape((out, kernel * kernel * input))?;
            let fastest = Processor::available()[0];
            Filters::Packed(Panels::new(&rows.to_vec2()?, bias.to_vec1()?, fastest))
        } else {
            Filters::Plain(weight.clone(), bias)
        };
        Ok(Self { filters, input, kernel, travel, activation })
    }

    /// `x` convolved.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.filters {
            Filters::Packed(_) => self.activation.finish(x.contiguous()?.apply_op1_no_bwd(self)?),
            Filters::Plain(weight, bias) => {
                bias_activate(self.convolve(x, weight)?, bias, self.activation)
            }
        }
    }

    /// `x` convolved, plus `residual` of the output's shape, then the activation.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn forward_onto(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        match &self.filters {
            Filters::Packed(_) => {
                let y = x.contiguous()?.apply_op2_no_bwd(&residual.contiguous()?, self)?;
                self.activation.finish(y)
            }
            Filters::Plain(weight, bias) => {
                let y = self.convolve(x, weight)?.broadcast_add(bias)?;
                self.activation.apply(&(y + residual)?)
            }
        }
    }

    /// By candle's operations, without the bias.
    fn convolve(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let (batch, height, width, _) = x.dims4()?;
        if self.kernel == 1 && self.travel == Travel::EVERY {
            let weight = weight.flatten_from(1)?.t()?;
            if !x.device().is_cpu() {
                let y = x.reshape(((), self.input))?.matmul(&weight)?;
                return y.reshape((batch, height, width, ()));
            }
            // Picture by picture, so that none's result depends on its batch.
            let each = |picture| x.get(picture)?.flatten_to(1)?.matmul(&weight);
            let y = Tensor::stack(&(0..batch).map(each).collect::<Result<Vec<_>>>()?, 0)?;
            return y.reshape((batch, height, width, ()));
        }
        let Travel { stride, before, after } = self.travel;
        let x = x.permute((0, 3, 1, 2))?.contiguous()?;
        let x = x.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?;
        x.conv2d(weight, 0, stride, 1, 1)?.permute((0, 2, 3, 1))?.contiguous()
    }

    /// By our own loops.
    fn multiply(&self, x: &[f32], map: Map, residual: Option<&[f32]>) -> Result<(Vec<f32>, Shape)> {
        let Filters::Packed(panels) = &self.filters else {
            return Err(Error::msg("convolution: filters are not packed"));
        };
        let Travel { stride, before, after } = self.travel;
        let rows = self.travel.positions(map.height, self.kernel)?;
        let columns = self.travel.positions(map.width, self.kernel)?;
        let shape = Shape::from((map.batch, rows, columns, panels.out()));
        if map.channels != self.input || residual.is_some_and(|r| r.len() != shape.elem_count()) {
            return Err(Error::msg(format!("convolution: {map:?} onto {shape:?}")));
        }
        let copy = (before + after > 0).then(|| map.padded(x, before, after));
        let (x, map) = match &copy {
            Some((values, map)) => (&values[..], *map),
            None => (x, map),
        };
        let line = map.width * map.channels;
        let length = self.kernel * map.channels;
        let reach = match self.kernel {
            1 => Reach { runs: 1, length, step: length },
            runs => Reach { runs, length, step: line },
        };
        let steps = [stride * map.channels, stride * line, map.height * line];
        let places = Places { pictures: map.batch, rows, columns, steps };
        let range = self.activation.range();
        Ok((panels.multiply(&Field { x, reach, places, residual, range }), shape))
    }
}

/// The shape of a batch of pictures, channels-last.
#[derive(Debug, Clone, Copy)]
struct Map {
    batch: usize,
    height: usize,
    width: usize,
    channels: usize,
}

impl Map {
    fn of(layout: &Layout) -> Result<Self> {
        let (batch, height, width, channels) = layout.shape().dims4()?;
        Ok(Self { batch, height, width, channels })
    }

    /// A copy with zeros around it.
    fn padded(self, x: &[f32], before: usize, after: usize) -> (Vec<f32>, Self) {
        let wide = |side: usize| side + before + after;
        let map = Self { height: wide(self.height), width: wide(self.width), ..self };
        let (from, to) = (self.width * self.channels, map.width * map.channels);
        let mut y = vec![0f32; map.batch * map.height * to];
        let left = before * self.channels;
        let lines = y.par_chunks_mut(to).with_min_len((1 << 14) / to + 1);
        lines.enumerate().for_each(|(line, y)| {
            let (picture, row) = (line / map.height, line % map.height);
            let Some(row) = row.checked_sub(before).filter(|row| *row < self.height) else {
                return;
            };
            let at = (picture * self.height + row) * from;
            y[left..left + from].copy_from_slice(&x[at..at + from]);
        });
        (y, map)
    }
}

impl CustomOp1 for Conv2d {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (y, shape) =
            self.multiply(values(x, layout, "convolution")?, Map::of(layout)?, None)?;
        Ok((CpuStorage::F32(y), shape))
    }
}

impl CustomOp2 for Conv2d {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let residual = values(residual, residual_layout, "convolution")?;
        let x = values(x, layout, "convolution")?;
        let (y, shape) = self.multiply(x, Map::of(layout)?, Some(residual))?;
        Ok((CpuStorage::F32(y), shape))
    }
}

#[cfg(test)]
mod tests;
