//! One product: how its work is split, and the order in which the kernel meets rows and weights.
#![allow(unsafe_code)]

use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::ptr::null;

use candle_core::{Error, Result};
use rayon::prelude::*;

use super::ahead::Ahead;
use super::finish::Finish;
use super::kernel::{Tile, compute};
use super::panels::{PackedWeights, Panels, Rows, pack_rows};
use super::stored::{Stored, widen};
use super::{Addend, PackedLinear, Target};

/// Weights of a panel that are used at a time: 64 KiB, of which the second cache holds several.
/// (Pieces for the first one, a quarter of it, write every sum four times as often; that is slower.)
const PANEL: usize = 16384;
/// Rows of a task: a multiple of both tile heights, so that a block of them (400 kB) stays in the
/// second.
const BLOCK_ROWS: usize = 264;
/// Tiles that use a piece of weights from which on it is made `f32` once, not by each of them.
const WIDENED_FOR: usize = 3;

/// A part of the product that one task computes.
pub(super) struct Block<'a> {
    pub(super) first_row: usize,
    pub(super) rows: usize,
    /// The first, and how many.
    pub(super) panels: (usize, usize),
    /// Starts with the block's rows, see [`Product::packed`].
    pub(super) packed: &'a [f32],
    pub(super) to: Target,
}

/// The weights of a panel that are used at a time: `depth` steps from `start` on.
struct Piece {
    panel: usize,
    start: usize,
    depth: usize,
}

/// One product.
pub(super) struct Product<'a> {
    layer: &'a PackedLinear,
    x: &'a Rows<'a>,
    rows: usize,
    addend: Option<&'a [f32]>,
}

impl<'a> Product<'a> {
    pub(super) fn new(
        layer: &'a PackedLinear,
        (x, rows): (&'a Rows<'a>, usize),
        addend: Option<Addend<'a>>,
    ) -> Result<Self> {
        let addend = addend.map(|Addend(values)| values);
        let (_, outputs) = layer.shape();
        if addend
            .is_some_and(|values| values.is_empty() != (rows == 0) || values.len() % outputs != 0)
        {
            return Err(Error::msg("what is added has another width than the product"));
        }
        Ok(Self { layer, x, rows, addend })
    }

    /// Rows of a task: as many in each as can be, so that no core waits for a larger one.
    pub(super) fn block_rows(&self) -> usize {
        let blocks = self.rows.div_ceil(BLOCK_ROWS).max(1);
        self.rows.div_ceil(blocks).next_multiple_of(self.layer.weights.isa.rows())
    }

    /// Panels of weights.
    fn panels(&self) -> usize {
        self.layer.weights.outputs.div_ceil(self.layer.weights.isa.columns())
    }

    /// Rows of a tile in a block of `rows`: as many in each as can be.
    fn height(&self, rows: usize) -> usize {
        rows.div_ceil(rows.div_ceil(self.layer.weights.isa.rows()))
    }

    /// Steps that are summed at a time.
    fn depth(&self) -> usize {
        let PackedWeights { steps, isa, .. } = self.layer.weights;
        steps.div_ceil(steps.div_ceil(PANEL / isa.columns()))
    }

    /// The rows as tiles need them: as they are if they may lie apart, else packed.
    pub(super) fn packed(&self) -> Cow<'_, [f32]> {
        match self.x.apart {
            Some(_) => Cow::Borrowed(&self.x.values),
            None => self.pack(&self.x.values).into(),
        }
    }

    /// From one row of [`Product::packed`] to the next, on an average.
    pub(super) fn row_size(&self) -> usize {
        self.x.apart.unwrap_or(self.layer.weights.steps)
    }

    /// Blocks of rows, in each the steps that are summed at a time, in these panels of a tile's
    /// height, the last as high as what is left: so a task reads one stretch of memory. (Panels of
    /// all inputs lie a multiple of 4096 bytes apart and push each other out of the cache.) Memory
    /// is not zeroed first: for large blocks the allocator asks the system for zeros, page by page.
    fn pack(&self, x: &[f32]) -> Vec<f32> {
        let steps = self.layer.weights.steps;
        let depth = self.depth();
        let mut packed = Vec::with_capacity(x.len());
        let block = self.block_rows() * steps;
        let to = &mut packed.spare_capacity_mut()[..x.len()];
        x.par_chunks(block).zip(to.par_chunks_mut(block)).for_each(|(x, packed)| {
            let rows = x.len() / steps;
            let height = self.height(rows);
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
    pub(super) fn parts(&self, blocks: usize) -> usize {
        let panels = self.panels();
        let threads = rayon::current_num_threads();
        let least = (16 * threads).div_ceil(blocks);
        let even = (least..least + threads).find(|parts| (parts * blocks).is_multiple_of(threads));
        even.unwrap_or(least).clamp(1, panels.max(1))
    }

    /// The panels of one of `parts` parts.
    pub(super) fn panels_of(&self, part: usize, parts: usize) -> (usize, usize) {
        let panels = self.panels();
        let (start, end) = (part * panels / parts, (part + 1) * panels / parts);
        (start, end - start)
    }

    /// # Safety
    /// The target has room for the product.
    pub(super) unsafe fn block(&self, block: &Block) {
        // SAFETY: passed on to the caller.
        unsafe {
            match &self.layer.weights.panels {
                Panels::F32(panels) => self.block_of(block, panels),
                Panels::Bf16(panels) => self.block_of(block, panels),
                Panels::Pairs(panels) => self.block_of(block, panels),
                Panels::Halves(panels) => self.block_of(block, panels),
                Panels::Int8(panels) => self.block_of(block, panels),
            }
        }
    }

    /// # Safety
    /// See [`Product::block`].
    unsafe fn block_of<W: Stored>(&self, block: &Block, panels: &[W]) {
        let PackedWeights { isa, steps, .. } = self.layer.weights;
        let tiles = block.rows.div_ceil(self.height(block.rows));
        let right = |piece: &Piece| {
            let first = (piece.panel * steps + piece.start) * isa.columns();
            &panels[first..][..piece.depth * isa.columns()]
        };
        let mut wide = [MaybeUninit::uninit(); PANEL];
        let mut pieces = self.pieces(block.panels).peekable();
        // What the next task, most likely this thread's, begins with.
        let beyond = block.panels.0 + block.panels.1;
        let following = self.pieces((beyond, 1)).next().filter(|_| beyond < self.panels());
        while let Some(piece) = pieces.next() {
            let next = pieces.peek().or(following.as_ref()).map_or(&[][..], right);
            let ahead = Ahead::split(next, tiles, piece.depth);
            // SAFETY: the processor has the instructions, for which the weights were packed.
            unsafe {
                if W::NARROW && tiles >= WIDENED_FOR {
                    self.tiles(block, &piece, widen(isa, right(&piece), &mut wide), ahead);
                } else {
                    self.tiles(block, &piece, right(&piece), ahead);
                }
            }
        }
    }

    /// The pieces of weights of some panels, in the order in which they are used.
    fn pieces(&self, (first, count): (usize, usize)) -> impl Iterator<Item = Piece> {
        let (steps, depth) = (self.layer.weights.steps, self.depth());
        (0..steps).step_by(depth).flat_map(move |start| {
            let depth = depth.min(steps - start);
            (first..first + count).map(move |panel| Piece { panel, start, depth })
        })
    }

    /// A block's tiles over one piece of weights, `right`.
    ///
    /// # Safety
    /// See [`Product::block`]; the processor has the instructions.
    unsafe fn tiles<W: Stored>(
        &self,
        block: &Block,
        piece: &Piece,
        right: &[W],
        ahead: impl Iterator<Item = Ahead>,
    ) {
        let PackedWeights { isa, steps, outputs, .. } = self.layer.weights;
        let (rows, height, column) =
            (block.rows, self.height(block.rows), piece.panel * isa.columns());
        let &Piece { start, depth, .. } = piece;
        for (row, ahead) in (0..rows).step_by(height).zip(ahead) {
            let left = match self.x.apart {
                Some(apart) => &block.packed[row * apart + start..],
                None => &block.packed[start * rows + row * depth..],
            };
            let to = (block.first_row + row) * outputs + column;
            let last = start + depth == steps;
            let finish = last.then(|| self.finish(block.first_row + row, column));
            // SAFETY: the slices hold `depth` steps of the tile, and the target the tile.
            unsafe {
                let tile = Tile {
                    rows: height.min(rows - row),
                    columns: isa.columns().min(outputs - column),
                    depth,
                    left: left.as_ptr(),
                    apart: self.x.apart,
                    right: right.as_ptr(),
                    to: block.to.0.add(to),
                    stride: outputs,
                    resume: start > 0,
                    ahead,
                };
                compute(isa, &tile, finish.as_ref());
            }
        }
    }

    /// What follows the sums of the tile at `row` and `column`.
    fn finish(&self, row: usize, column: usize) -> Finish {
        let outputs = self.layer.weights.outputs;
        let at = |values: Option<&[f32]>| values.map_or(null(), |values| values[column..].as_ptr());
        let at_row =
            |values: Option<&[f32]>| values.map_or(null(), |values| values[row..].as_ptr());
        Finish {
            row_scale: at_row(self.x.scales.as_deref()),
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
