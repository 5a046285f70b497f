//! The few operations that image encoder and mask decoder share. Activations are channels-last,
//! so a channel normalisation is a layer normalisation and a 1×1 convolution a matrix product.

use candle_core::{D, Result, Tensor};
use candle_nn::VarBuilder;

use crate::models::ops::{self, Activation, Scores, attend_by_blocks};

/// A linear layer, with a bias that may differ from row to row.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    layer: ops::Linear,
    /// `[rows, out]`: something that the rows bring along.
    rows: Option<Tensor>,
}

impl Linear {
    /// Reads `weight` `[out, in]` and `bias` `[out]`.
    pub(super) fn load(input: usize, output: usize, vb: VarBuilder) -> Result<Self> {
        Self::load_active((input, output), Activation::None, vb)
    }

    /// [`Linear::load`], followed by an activation.
    pub(super) fn load_active(
        (input, output): (usize, usize),
        activation: Activation,
        vb: VarBuilder,
    ) -> Result<Self> {
        let layer = ops::Linear::load_active((input, output), activation, vb)?;
        Ok(Self { layer, rows: None })
    }

    /// From `weight` `[out, in]` and `bias` `[out]`.
    pub(super) fn new(
        weight: &Tensor,
        bias: Option<&Tensor>,
        activation: Activation,
    ) -> Result<Self> {
        Ok(Self { layer: ops::Linear::new(weight, bias, activation)?, rows: None })
    }

    /// A layer that also adds `rows` `[rows, out]`.
    pub(super) fn with_rows(self, rows: Tensor) -> Self {
        Self { rows: Some(rows), ..self }
    }

    /// A layer that answers for `x` what this one answers for `x + constant`, `[rows, in]`.
    pub(super) fn absorbing(&self, constant: &Tensor) -> Result<Self> {
        let nothing = constant.narrow(0, 0, 1)?.zeros_like()?;
        let rows = self.forward(constant)?.broadcast_sub(&self.forward(&nothing)?)?;
        Ok(self.clone().with_rows(rows))
    }

    /// `[…, in]` → `[…, out]`; with rows of its own `[…, rows, in]` → `[…, rows, out]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.rows {
            Some(rows) => self.layer.forward_adding(x, rows),
            None => self.layer.forward(x),
        }
    }

    /// What a layer without rows answers, plus `addend`, before the activation.
    pub(super) fn forward_adding(&self, x: &Tensor, addend: &Tensor) -> Result<Tensor> {
        self.layer.forward_adding(x, addend)
    }
}

/// `softmax(q kᵀ) v` for `q` `[b, n, d]`, `k` `[b, m, d]`, `v` `[b, m, e]` → `[b, n, e]`.
/// Any scale or bias is part of `q` and `k`.
pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let scores = Scores { scale: 1.0, bias: &[] };
    attend_by_blocks(&q.unsqueeze(0)?, &k.unsqueeze(0)?, &v.unsqueeze(0)?, scores)?.squeeze(0)
}

/// `[b, n, heads · d]` → `[b, heads, n, d]`, a view.
pub(super) fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, tokens, dim) = x.dims3()?;
    x.reshape((batch, tokens, heads, dim / heads))?.transpose(1, 2)
}

/// `[b, heads, n, d]` → `[b, n, heads · d]`.
pub(super) fn join_heads(x: &Tensor) -> Result<Tensor> {
    x.transpose(1, 2)?.flatten_from(2)
}

/// The matrix `[size, table]` that interpolates a table linearly to `size` entries, half-pixel
/// centres, edges repeated: `torch.nn.functional.interpolate(mode="linear")`.
fn interpolation(table: usize, size: usize) -> Vec<f32> {
    let mut matrix = vec![0.0; size * table];
    let scale = table as f32 / size as f32;
    for (output, row) in matrix.chunks_exact_mut(table).enumerate() {
        let position = ((output as f32 + 0.5) * scale - 0.5).max(0.0);
        let low = (position as usize).min(table - 1);
        let weight = (position - low as f32).clamp(0.0, 1.0);
        row[low] += 1.0 - weight;
        row[(low + 1).min(table - 1)] += weight;
    }
    matrix
}

/// Interpolates the first dimension of `[entries, …]` linearly to `size` entries.
pub(super) fn resize_table(table: &Tensor, size: usize) -> Result<Tensor> {
    let entries = table.dim(0)?;
    if entries == size {
        return Ok(table.clone());
    }
    let matrix = Tensor::from_vec(interpolation(entries, size), (size, entries), table.device())?;
    let mut shape = table.dims().to_vec();
    shape[0] = size;
    let flat = table.reshape((entries, ()))?;
    matrix.to_dtype(table.dtype())?.matmul(&flat)?.reshape(shape)
}

/// A 3×3 convolution with padding 1 and without bias, channels-last.
#[derive(Debug)]
pub(super) struct Conv3x3 {
    /// Over the nine shifted copies, row by row.
    taps: Linear,
}

impl Conv3x3 {
    /// Reads `weight` `[out, in, 3, 3]`.
    pub(super) fn load(input: usize, output: usize, vb: VarBuilder) -> Result<Self> {
        let weight = vb.get((output, input, 3, 3), "weight")?;
        let weight = weight.permute((0, 2, 3, 1))?.reshape((output, 9 * input))?;
        Ok(Self { taps: Linear::new(&weight, None, Activation::None)? })
    }

    /// `[b, h, w, in]` → `[b, h, w, out]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, height, width, _) = x.dims4()?;
        let x = x.pad_with_zeros(1, 1, 1)?.pad_with_zeros(2, 1, 1)?;
        let shifted = (0..9)
            .map(|tap| x.narrow(1, tap / 3, height)?.narrow(2, tap % 3, width))
            .collect::<Result<Vec<_>>>()?;
        self.taps.forward(&Tensor::cat(&shifted, D::Minus1)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
        let gap = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
        gap.max(0).unwrap().to_scalar().unwrap()
    }

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn a_convolution_is_a_matrix_product() {
        let (x, weight) = (random(&[2, 5, 4, 3]), random(&[6, 3, 3, 3]));
        let expected = x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
        let expected = expected.conv2d(&weight, 1, 1, 1, 1).unwrap().permute((0, 2, 3, 1)).unwrap();
        let tensors = [("weight".to_owned(), weight)].into();
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let actual = Conv3x3::load(3, 6, vb).unwrap().forward(&x).unwrap();
        assert!(largest_difference(&actual, &expected) < 1e-4);
    }

    #[test]
    fn a_constant_input_moves_into_the_bias() {
        let layer = Linear::new(&random(&[4, 3]), Some(&random(&[4])), Activation::None).unwrap();
        let (x, constant) = (random(&[2, 5, 3]), random(&[5, 3]));
        let expected = layer.forward(&x.broadcast_add(&constant).unwrap()).unwrap();
        let actual = layer.absorbing(&constant).unwrap().forward(&x).unwrap();
        assert!(largest_difference(&actual, &expected) < 1e-5);
    }

    #[test]
    fn tables_are_interpolated_between_centres() {
        assert_eq!(interpolation(2, 4), [1.0, 0.0, 0.75, 0.25, 0.25, 0.75, 0.0, 1.0]);
        assert_eq!(interpolation(4, 2), [0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.5, 0.5]);
    }
}
