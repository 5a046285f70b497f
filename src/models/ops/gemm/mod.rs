//! Products with weights that are packed once, at load.
//!
//! Measured reason: candle's product is as fast as PyTorch's where matrices are large; for
//! the tens of rows of a text, packing the weights again at every call costs as much as multiplying.
//! Here bias, activation and residual are applied while sums are still in registers.
//!
//! The scheme is that of Goto and van de Geijn, "Anatomy of high-performance matrix multiplication"
//! (2008): tiles in registers, panels in the first cache, blocks of rows in the second.
#![allow(unsafe_code)]

pub(super) mod kernel;
mod panels;
#[cfg(test)]
mod tests;

use std::ptr::null;

use candle_core::{Error, Result};
use rayon::prelude::*;

use super::Activation;
use super::simd::Isa;
use kernel::{Finish, Stored, Tile, call_ahead, compute};
use panels::{PackedWeights, Panels, pack_rows};

pub use panels::{Storage, int8_scales, to_int8};

/// Weights of a panel that are used at a time, 24 KiB: they then stay in the first cache.
const PANEL: usize = 6144;
/// Rows of a task: a multiple of both tile heights, so that a block of them (400 kB) stays in the
/// second.
const BLOCK_ROWS: usize = 264;
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
        let product = Product::new(self, rows, addend)?;
        if rows == 0 {
            return Ok(Vec::new());
        }
        let packed = product.pack(&self.weights.steps_of(x));
        let mut y = Vec::with_capacity(rows * outputs);
        let to = Target(y.as_mut_ptr());
        let block_rows = product.block_rows();
        let blocks = rows.div_ceil(block_rows);
        let parts = product.parts(blocks);
        let task = |index: usize| {
            let first = index / parts * block_rows;
            let block = Block {
                rows: (first, block_rows.min(rows - first)),
                panels: product.panels_of(index % parts, parts),
            };
            // SAFETY: tasks write different rows or columns of a buffer of `rows · outputs`
            // values; the block's rows start at a multiple of the tile's height.
            unsafe { product.block(&packed[first * self.weights.steps..], &block, to) };
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

/// A part of the product: rows and panels, each the first and how many.
struct Block {
    rows: (usize, usize),
    panels: (usize, usize),
}

/// Where tasks write, each its own part.
#[derive(Clone, Copy)]
pub(super) struct Target(pub(super) *mut f32);

// SAFETY: whoever shares it lets every thread write a part of its own.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

/// One product.
struct Product<'a> {
    layer: &'a PackedLinear,
    rows: usize,
    addend: Option<&'a [f32]>,
}

impl<'a> Product<'a> {
    fn new(layer: &'a PackedLinear, rows: usize, addend: Option<Addend<'a>>) -> Result<Self> {
        let addend = addend.map(|Addend(values)| values);
        let (_, outputs) = layer.shape();
        if addend
            .is_some_and(|values| values.is_empty() != (rows == 0) || values.len() % outputs != 0)
        {
            return Err(Error::msg("what is added has another width than the product"));
        }
        Ok(Self { layer, rows, addend })
    }

    /// Rows of a task: as many in each as can be, so that no core waits for a larger one.
    fn block_rows(&self) -> usize {
        let blocks = self.rows.div_ceil(BLOCK_ROWS).max(1);
        self.rows.div_ceil(blocks).next_multiple_of(self.layer.weights.isa.rows())
    }

    /// Steps that are summed at a time.
    fn depth(&self) -> usize {
        let PackedWeights { steps, isa, .. } = self.layer.weights;
        steps.div_ceil(steps.div_ceil(PANEL / isa.columns()))
    }

    /// Blocks of rows, in each the steps that are summed at a time, in these panels of a tile's
    /// height, the last as high as what is left: so a task reads one stretch of memory. (Panels of
    /// all inputs lie a multiple of 4096 bytes apart and push each other out of the cache.) Memory
    /// is not zeroed first: for large blocks the allocator asks the system for zeros, page by page.
    fn pack(&self, x: &[f32]) -> Vec<f32> {
        let (steps, height) = (self.layer.weights.steps, self.layer.weights.isa.rows());
        let depth = self.depth();
        let mut packed = Vec::with_capacity(x.len());
        let block = self.block_rows() * steps;
        let to = &mut packed.spare_capacity_mut()[..x.len()];
        x.par_chunks(block).zip(to.par_chunks_mut(block)).for_each(|(x, packed)| {
            let rows = x.len() / steps;
            packed.par_chunks_mut(rows * depth).enumerate().for_each(|(part, packed)| {
                let (first, depth) = (part * depth, packed.len() / rows);
                let panels = packed.chunks_mut(height * depth).zip(x.chunks(height * steps));
                panels.for_each(|(panel, x)| pack_rows(x, steps, (first, depth), panel));
            });
        });
        // SAFETY: every value of `x` has been written to its place, one to each.
        unsafe { packed.set_len(x.len()) };
        packed
    }

    /// Into how many parts the columns are split, so that every core has work, and as much.
    fn parts(&self, blocks: usize) -> usize {
        let panels = self.layer.weights.outputs.div_ceil(self.layer.weights.isa.columns());
        let threads = rayon::current_num_threads();
        let least = (4 * threads).div_ceil(blocks);
        let even = (least..least + threads).find(|parts| (parts * blocks).is_multiple_of(threads));
        even.unwrap_or(least).clamp(1, panels.max(1))
    }

    /// The panels of one of `parts` parts.
    fn panels_of(&self, part: usize, parts: usize) -> (usize, usize) {
        let panels = self.layer.weights.outputs.div_ceil(self.layer.weights.isa.columns());
        let (start, end) = (part * panels / parts, (part + 1) * panels / parts);
        (start, end - start)
    }

    /// # Safety
    /// `packed` starts with the block's rows, see [`Product::pack`]; `to` has room for the product.
    unsafe fn block(&self, packed: &[f32], block: &Block, to: Target) {
        // SAFETY: passed on to the caller.
        unsafe {
            match &self.layer.weights.panels {
                Panels::F32(panels) => self.block_of(packed, panels, block, to),
                Panels::Bf16(panels) => self.block_of(packed, panels, block, to),
                Panels::Pairs(panels) => self.block_of(packed, panels, block, to),
                Panels::Int8(panels) => self.block_of(packed, panels, block, to),
            }
        }
    }

    /// # Safety
    /// See [`Product::block`].
    unsafe fn block_of<W: Stored>(&self, packed: &[f32], panels: &[W], block: &Block, to: Target) {
        let PackedWeights { isa, steps, outputs, .. } = self.layer.weights;
        let ((first_row, rows), (first_panel, count)) = (block.rows, block.panels);
        let (height, width) = (isa.rows(), isa.columns());
        let depth = self.depth();
        for start in (0..steps).step_by(depth) {
            let depth = depth.min(steps - start);
            let last = start + depth == steps;
            for panel in first_panel..first_panel + count {
                let column = panel * width;
                let right = &panels[panel * steps * width + start * width..];
                // The next panel comes from memory, which takes longer than a tile: it is called in
                // pieces while this one is used.
                let next = panels.get((panel + 1) * steps * width + start * width..);
                let piece = (depth * width).div_ceil(rows.div_ceil(height));
                let mut pieces = next.unwrap_or_default().chunks(piece);
                for row in (0..rows).step_by(height) {
                    call_ahead(pieces.next().unwrap_or_default());
                    let high = height.min(rows - row);
                    let left = &packed[start * rows + row * depth..];
                    let finish = last.then(|| self.finish(first_row + row, column));
                    // SAFETY: the processor has the instructions, for which the weights were
                    // packed; the slices hold `depth` steps of the tile, and the target the tile.
                    unsafe {
                        let tile = Tile {
                            rows: high,
                            columns: width.min(outputs - column),
                            depth,
                            left: left.as_ptr(),
                            apart: None,
                            right: right.as_ptr(),
                            to: to.0.add((first_row + row) * outputs + column),
                            stride: outputs,
                            resume: start > 0,
                        };
                        compute(isa, &tile, finish.as_ref());
                    }
                }
            }
        }
    }

    /// What follows the sums of the tile at `row` and `column`.
    fn finish(&self, row: usize, column: usize) -> Finish {
        let outputs = self.layer.weights.outputs;
        let at = |values: Option<&[f32]>| values.map_or(null(), |values| values[column..].as_ptr());
        Finish {
            scale: at(self.layer.weights.scales.as_deref()),
            bias: at(self.layer.bias.as_deref()),
            addend: at(self.addend),
            period: self.addend.map_or(self.rows, |values| values.len() / outputs),
            stride: outputs,
            row,
            activation: self.layer.activation,
        }
    }
}
