//! The tiles of [`super::attend`].
#![allow(unsafe_code)]

use rayon::prelude::*;

use crate::models::ops::gemm::Target;
use crate::models::ops::gemm::ahead::Ahead;
use crate::models::ops::gemm::kernel::{Tile, compute};
use crate::models::ops::simd::{Isa, Lanes, exp};
#[cfg(target_arch = "x86_64")]
use crate::models::ops::simd::{avx2::Avx2, avx512::Avx512};

/// Queries of a tile, a multiple of both kernels' heights: with 4096 keys, its scores take 384 KiB.
const QUERIES: usize = 24;
/// Keys whose values are summed at a time, so that a panel of them stays in the first cache.
const DEPTH: usize = 384;

/// A view `[batch, heads, tokens, width]` whose rows lie together.
pub(super) struct Heads<'a> {
    values: &'a [f32],
    pub(super) shape: [usize; 4],
    strides: [usize; 3],
}

impl<'a> Heads<'a> {
    /// Nothing if the view reaches beyond `values`.
    pub(super) fn new(values: &'a [f32], shape: [usize; 4], strides: [usize; 3]) -> Option<Self> {
        let last: usize = shape.iter().zip(strides).map(|(&n, s)| n.saturating_sub(1) * s).sum();
        let inside = shape.contains(&0) || last + shape[3] <= values.len();
        inside.then_some(Self { values, shape, strides })
    }

    fn heads(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Everything from a token of a head on; heads are counted over the batch.
    fn from(&self, head: usize, token: usize) -> &'a [f32] {
        let (item, head) = (head / self.shape[1], head % self.shape[1]);
        &self.values[item * self.strides[0] + head * self.strides[1] + token * self.strides[2]..]
    }

    fn row(&self, head: usize, token: usize) -> &'a [f32] {
        &self.from(head, token)[..self.shape[3]]
    }
}

/// Tables of relative positions in panels, `[side, panels, d, columns]` each.
#[derive(Debug)]
pub(super) struct Positions {
    side: usize,
    width: usize,
    columns: usize,
    tables: [Vec<f32>; 2],
}

impl Positions {
    /// From the rows' and the columns' table, `[side, d, side]`.
    pub(super) fn pack(isa: Isa, (side, width): (usize, usize), tables: (&[f32], &[f32])) -> Self {
        let columns = isa.columns();
        let packed = |table: &[f32]| {
            let padded = side.next_multiple_of(columns);
            let mut packed = vec![0.0; side * width * padded];
            for (at, row) in table.chunks_exact(side).enumerate() {
                let (query, channel) = (at / width, at % width);
                for (panel, values) in row.chunks(columns).enumerate() {
                    let start = (query * padded + panel * columns) * width + channel * columns;
                    packed[start..start + values.len()].copy_from_slice(values);
                }
            }
            packed
        };
        Self { side, width, columns, tables: [packed(tables.0), packed(tables.1)] }
    }

    /// Whether these are the positions of the queries.
    pub(super) fn fit(&self, q: &Heads) -> bool {
        q.shape[2] == self.side * self.side && q.shape[3] == self.width
    }

    /// `side`, in whole panels.
    fn padded(&self) -> usize {
        self.side.next_multiple_of(self.columns)
    }

    /// A query's products with its rows or columns (`table` 0 or 1) into `to`, one for each key's.
    fn products(&self, isa: Isa, table: usize, query: &[f32], at: usize, to: &mut [f32]) {
        let (padded, columns) = (self.padded(), self.columns);
        let panels = &self.tables[table][at * padded * self.width..][..padded * self.width];
        let panels = panels.chunks_exact(self.width * columns);
        for (panel, to) in panels.zip(to.chunks_exact_mut(columns)) {
            let tile = Tile {
                rows: 1,
                columns,
                depth: self.width,
                left: query[..self.width].as_ptr(),
                apart: None,
                right: panel.as_ptr(),
                to: to.as_mut_ptr(),
                stride: columns,
                resume: false,
                ahead: Ahead::NONE,
            };
            // SAFETY: the processor has the instructions that the table was packed for, and the
            // slices hold one row of the depth, one panel and one row of columns.
            unsafe { compute(isa, &tile, None) };
        }
    }
}

/// One attention.
pub(super) struct Tiles<'a> {
    pub(super) q: Heads<'a>,
    pub(super) k: Heads<'a>,
    pub(super) v: Heads<'a>,
    pub(super) scale: f32,
    /// Each in the shape of the scores.
    pub(super) biases: Vec<Heads<'a>>,
    pub(super) positions: Option<&'a Positions>,
    pub(super) isa: Isa,
}

/// Keys and values of all heads in panels: `[keys / columns, d, columns]` and
/// `[e / columns, keys, columns]`.
struct Packed {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// What a thread works with.
struct Scratch {
    /// `[QUERIES, padded keys]`.
    scores: Vec<f32>,
    /// A query's products with its row's and its column's positions.
    positions: [Vec<f32>; 2],
}

impl Tiles<'_> {
    /// `[batch, queries, heads · e]`.
    pub(super) fn attend(&self) -> Vec<f32> {
        let ([batch, heads, queries, _], width) = (self.q.shape, self.v.shape[3]);
        let size = batch * heads * queries * width;
        if size == 0 || self.k.shape[2] == 0 {
            return vec![0.0; size];
        }
        let packed = self.pack();
        let mut y = Vec::with_capacity(size);
        let to = Target(y.as_mut_ptr());
        let tiles = queries.div_ceil(QUERIES);
        let scratch = || self.scratch();
        (0..batch * heads * tiles).into_par_iter().with_max_len(8).for_each_init(
            scratch,
            |scratch, index| {
                // SAFETY: every index is another tile of queries of a head, and `y` has room for all.
                unsafe {
                    self.tile(&packed, scratch, (index / tiles, index % tiles * QUERIES), to)
                };
            },
        );
        // SAFETY: the tiles have written every query's part of every head.
        unsafe { y.set_len(size) };
        y
    }

    fn scratch(&self) -> Scratch {
        let side = self.positions.map_or(0, Positions::padded);
        let keys = self.k.shape[2].next_multiple_of(self.isa.columns());
        Scratch { scores: vec![0.0; QUERIES * keys], positions: [vec![0.0; side], vec![0.0; side]] }
    }

    fn pack(&self) -> Packed {
        let columns = self.isa.columns();
        let ([_, _, keys, d], e) = (self.k.shape, self.v.shape[3]);
        let mut packed = Packed {
            keys: vec![0.0; self.k.heads() * keys.next_multiple_of(columns) * d],
            values: vec![0.0; self.v.heads() * e.next_multiple_of(columns) * keys],
        };
        let sizes = (packed.keys.len() / self.k.heads(), packed.values.len() / self.v.heads());
        let heads = packed.keys.par_chunks_mut(sizes.0.max(1));
        let heads = heads.zip(packed.values.par_chunks_mut(sizes.1)).enumerate();
        heads.for_each(|(head, (to_keys, to_values))| {
            for (panel, to) in to_keys.chunks_exact_mut(columns * d.max(1)).enumerate() {
                for column in 0..columns.min(keys - panel * columns) {
                    let key = self.k.row(head, panel * columns + column);
                    for (values, &value) in to.chunks_exact_mut(columns).zip(key) {
                        values[column] = value;
                    }
                }
            }
            for key in 0..keys {
                for (panel, values) in self.v.row(head, key).chunks(columns).enumerate() {
                    let start = (panel * keys + key) * columns;
                    to_values[start..start + values.len()].copy_from_slice(values);
                }
            }
        });
        packed
    }

    /// # Safety
    /// `to` has room for the answer; nobody else writes this head's part of these queries.
    unsafe fn tile(
        &self,
        packed: &Packed,
        scratch: &mut Scratch,
        (head, first): (usize, usize),
        to: Target,
    ) {
        let count = QUERIES.min(self.q.shape[2] - first);
        self.multiply_keys(packed, &mut scratch.scores, (head, first), count);
        let padded = scratch.scores.len() / QUERIES;
        let mut sums = [1f32; QUERIES];
        for (row, sum) in sums.iter_mut().enumerate().take(count) {
            let query = first + row;
            if let Some(positions) = self.positions {
                let values = self.q.row(head, query);
                let at = [query / positions.side, query % positions.side];
                for (table, to) in scratch.positions.iter_mut().enumerate() {
                    positions.products(self.isa, table, values, at[table], to);
                }
            }
            let scores = &mut scratch.scores[row * padded..(row + 1) * padded];
            *sum = self.soften(scores, &scratch.positions, (head, query));
        }
        // SAFETY: passed on to the caller.
        unsafe { self.multiply_values(packed, &scratch.scores, (head, first), &sums[..count], to) };
    }

    /// Products of a tile's queries and all keys.
    fn multiply_keys(
        &self,
        packed: &Packed,
        scores: &mut [f32],
        (head, first): (usize, usize),
        count: usize,
    ) {
        let (columns, height, d) = (self.isa.columns(), self.isa.rows(), self.q.shape[3]);
        let padded = scores.len() / QUERIES;
        let keys = &packed.keys[head * padded * d..(head + 1) * padded * d];
        for panel in 0..padded / columns {
            for row in (0..count).step_by(height) {
                let rows = height.min(count - row);
                // The last row must be there whole.
                self.q.row(head, first + row + rows - 1);
                let tile = Tile {
                    rows,
                    columns,
                    depth: d,
                    left: self.q.from(head, first + row).as_ptr(),
                    apart: Some(self.q.strides[2]),
                    right: keys[panel * columns * d..].as_ptr(),
                    to: scores[row * padded + panel * columns..].as_mut_ptr(),
                    stride: padded,
                    resume: false,
                    ahead: Ahead::NONE,
                };
                // SAFETY: the processor has the instructions; the rows are inside the view, the
                // panel and the tile inside their slices.
                unsafe { compute(self.isa, &tile, None) };
            }
        }
    }

    /// Turns a query's products into weights; their sum.
    fn soften(
        &self,
        scores: &mut [f32],
        positions: &[Vec<f32>; 2],
        (head, query): (usize, usize),
    ) -> f32 {
        let keys = self.k.shape[2];
        let work = Row {
            keys,
            scale: self.scale,
            biases: &self.biases,
            at: (head, query),
            positions: self.positions.map(|p| (p.side, positions)),
        };
        // SAFETY: the processor has the instructions.
        unsafe {
            match self.isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => work.soften_avx2(scores),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => work.soften_avx512(scores),
            }
        }
    }

    /// Weighted values of a tile, divided by the weights' sums, into their place.
    ///
    /// # Safety
    /// See [`Tiles::tile`].
    unsafe fn multiply_values(
        &self,
        packed: &Packed,
        weights: &[f32],
        (head, first): (usize, usize),
        sums: &[f32],
        to: Target,
    ) {
        let ([_, heads, queries, _], [_, _, keys, e]) = (self.q.shape, self.v.shape);
        let (columns, height) = (self.isa.columns(), self.isa.rows());
        let padded = weights.len() / QUERIES;
        let panels = e.div_ceil(columns);
        let values = &packed.values[head * panels * keys * columns..][..panels * keys * columns];
        let start = ((head / heads * queries + first) * heads + head % heads) * e;
        for panel in 0..panels {
            for key in (0..keys).step_by(DEPTH) {
                for row in (0..sums.len()).step_by(height) {
                    // SAFETY: the processor has the instructions; weights, values and target
                    // hold the tile.
                    unsafe {
                        let tile = Tile {
                            rows: height.min(sums.len() - row),
                            columns: columns.min(e - panel * columns),
                            depth: DEPTH.min(keys - key),
                            left: weights[row * padded + key..].as_ptr(),
                            apart: Some(padded),
                            right: values[(panel * keys + key) * columns..].as_ptr(),
                            to: to.0.add(start + row * heads * e + panel * columns),
                            stride: heads * e,
                            resume: key > 0,
                            ahead: Ahead::NONE,
                        };
                        compute(self.isa, &tile, None);
                    }
                }
            }
        }
        for (row, sum) in sums.iter().enumerate() {
            // SAFETY: the row has just been written and is this tile's own.
            let row =
                unsafe { std::slice::from_raw_parts_mut(to.0.add(start + row * heads * e), e) };
            row.iter_mut().for_each(|value| *value /= sum);
        }
    }
}

/// What a query's products are turned into weights with.
struct Row<'a> {
    keys: usize,
    scale: f32,
    biases: &'a [Heads<'a>],
    /// Head and query.
    at: (usize, usize),
    positions: Option<(usize, &'a [Vec<f32>; 2])>,
}

impl Row<'_> {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn soften_avx2(&self, scores: &mut [f32]) -> f32 {
        // SAFETY: passed on to the caller.
        unsafe { self.soften::<Avx2>(scores) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn soften_avx512(&self, scores: &mut [f32]) -> f32 {
        // SAFETY: passed on to the caller.
        unsafe { self.soften::<Avx512>(scores) }
    }

    /// # Safety
    /// The processor has the instructions; `scores` are whole vectors.
    #[inline(always)]
    unsafe fn soften<L: Lanes>(&self, scores: &mut [f32]) -> f32 {
        let (own, beyond) = scores.split_at_mut(self.keys);
        own.iter_mut().for_each(|score| *score *= self.scale);
        for bias in self.biases {
            let bias = bias.row(self.at.0, self.at.1);
            own.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
        }
        if let Some((side, [rows, columns])) = self.positions {
            for (scores, row) in own.chunks_exact_mut(side).zip(rows) {
                let terms = columns.iter().map(|column| row + column);
                scores.iter_mut().zip(terms).for_each(|(score, term)| *score += term);
            }
        }
        beyond.fill(f32::NEG_INFINITY);
        // SAFETY: every step reads and writes a whole vector inside `scores`.
        unsafe {
            let mut largest = L::splat(f32::NEG_INFINITY);
            for values in scores.chunks_exact(L::WIDTH) {
                largest = largest.max(L::load(values.as_ptr()));
            }
            let largest =
                largest.lanes(f32::NEG_INFINITY).into_iter().fold(f32::NEG_INFINITY, f32::max);
            let (largest, mut sum) = (L::splat(largest), L::splat(0.0));
            for values in scores.chunks_exact_mut(L::WIDTH) {
                let weights = exp(L::load(values.as_ptr()).sub(largest));
                weights.store(values.as_mut_ptr());
                sum = sum.add(weights);
            }
            sum.lanes(0.0).iter().sum()
        }
    }
}
