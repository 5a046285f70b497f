//! Products with weights that are packed once, at load.
//!
//! Measured reason: candle's product is as fast as PyTorch's where matrices are large; for
//! the tens of rows of a text, packing the weights again at every call costs as much as multiplying.
//! Here bias, activation and residual are applied while sums are still in registers.
//!
//! The scheme is that of Goto and van de Geijn, "Anatomy of high-performance matrix multiplication"
//! (2008): tiles in registers, blocks of rows and pieces of panels in the second cache.
#![allow(unsafe_code)]

pub(super) mod ahead;
mod finish;
mod halves;
pub(super) mod kernel;
mod panels;
mod product;
mod stored;
#[cfg(test)]
mod tests;

use candle_core::{Error, Result};
use rayon::prelude::*;

use super::Activation;
use super::simd::Isa;
use panels::PackedWeights;
use product::{Block, Product};

pub use panels::{Storage, int8_scales, to_int8};

/// Products of fewer multiplications than this run on the calling thread.
const SERIAL: usize = 1 << 17;

/// `activation(x Wᵀ + bias + addend)` with packed weights. Exists only where the processor has a
/// kernel for it.
#[derive(Debug)]
pub(super) struct PackedLinear {
    weights: PackedWeights,
    /// Padded to whole panels.
    bias: Option<Vec<f32>>,
    pub(super) activation: Activation,
}

/// Something of the product's width that is added before the activation: row `i % rows` to row `i`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addend<'a>(pub(super) &'a [f32]);

impl PackedLinear {
    /// Packs `weight`, `[outputs, inputs]` row by row, for `isa`; `bias` has `outputs` values.
    pub(super) fn new(
        (weight, inputs): (&[f32], usize),
        bias: Option<&[f32]>,
        activation: Activation,
        (storage, isa): (Storage, Isa),
    ) -> Self {
        let weights = PackedWeights::new(weight, inputs, storage, isa);
        let bias = bias.map(|bias| {
            let mut bias = bias.to_vec();
            bias.resize(weights.outputs.next_multiple_of(isa.columns()), 0.0);
            bias
        });
        Self { weights, bias, activation }
    }

    /// Inputs and outputs.
    pub(super) fn shape(&self) -> (usize, usize) {
        (self.weights.inputs, self.weights.outputs)
    }

    /// Bytes that the weights take.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.weights.bytes()
    }

    /// Rows `x`, `[n, inputs]` → `[n, outputs]`.
    ///
    /// # Errors
    /// `x` or `addend` are not whole rows.
    pub(super) fn forward(&self, x: &[f32], addend: Option<Addend>) -> Result<Vec<f32>> {
        let (inputs, outputs) = self.shape();
        if inputs == 0 || outputs == 0 || !x.len().is_multiple_of(inputs) {
            return Err(Error::msg(format!("{} values in rows of {inputs}", x.len())));
        }
        let rows = x.len() / inputs;
        let x = self.weights.rows(x);
        let product = Product::new(self, (&x, rows), addend)?;
        if rows == 0 {
            return Ok(Vec::new());
        }
        let packed = product.packed();
        let mut y = Vec::with_capacity(rows * outputs);
        let to = Target(y.as_mut_ptr());
        let block_rows = product.block_rows();
        let blocks = rows.div_ceil(block_rows);
        let parts = product.parts(blocks);
        let task = |index: usize| {
            let first = index / parts * block_rows;
            let block = Block {
                first_row: first,
                rows: block_rows.min(rows - first),
                panels: product.panels_of(index % parts, parts),
                packed: &packed[first * product.row_size()..],
                to,
            };
            // SAFETY: tasks write different rows or columns of a buffer of `rows · outputs`
            // values; the block's rows start where those of another one end.
            unsafe { product.block(&block) };
        };
        if rows * inputs * outputs < SERIAL {
            (0..blocks * parts).for_each(task);
        } else {
            (0..blocks * parts).into_par_iter().with_max_len(1).for_each(task);
        }
        // SAFETY: the tasks have written every row and every column.
        unsafe { y.set_len(rows * outputs) };
        Ok(y)
    }
}

/// Where tasks write, each its own part.
#[derive(Clone, Copy)]
pub(super) struct Target(pub(super) *mut f32);

// SAFETY: whoever shares it lets every thread write a part of its own.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}
