//! Filters packed for the inner loop, and the loops around it.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::kernel::{Kernel, MOST_ROWS, Portable, Reach};
use crate::models::ops::lanes::{Avx512, Finish, Fma, LANES, Lane};
use crate::models::ops::written;

/// Most positions that a thread works on at a time: what they read should stay in its cache while
/// one panel of filters after another passes.
const POSITIONS: usize = 8 * MOST_ROWS;

/// What the processor has for the inner loop.
#[derive(Debug, Clone, Copy)]
pub(super) enum Processor {
    Avx512(Avx512),
    Fma(Fma),
    Any,
}

impl Processor {
    /// All that can be used, the fastest first.
    pub(super) fn available() -> Vec<Self> {
        let found = [Avx512::detect().map(Self::Avx512), Fma::detect().map(Self::Fma)];
        found.into_iter().flatten().chain([Self::Any]).collect()
    }

    /// How many [`Lane`]s its vectors are.
    fn lanes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => Avx512::LANES,
            _ => Portable::LANES,
        }
    }
}

/// Filters and their biases, packed for one kind of processor. Two vectors of filters lie together,
/// value by value; a single one is left at the end where the number of filters wants it. Missing
/// filters are zeros.
#[derive(Debug)]
pub(super) struct Panels {
    processor: Processor,
    lanes: Vec<Lane>,
    /// Values that a filter has.
    values: usize,
    bias: Vec<f32>,
}

/// What the filters are applied to.
pub(super) struct Field<'a> {
    pub(super) x: &'a [f32],
    pub(super) reach: Reach,
    pub(super) places: Places,
    /// `[positions, out]`, where there is something to add.
    pub(super) residual: Option<&'a [f32]>,
    /// What sums are cut to.
    pub(super) range: (f32, f32),
}

/// Where the filters are applied: row by row, in one picture after another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) pictures: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Values from one position to the next, one row of them to the next, one picture to the next.
    pub(super) steps: [usize; 3],
}

impl Places {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.pictures * self.rows * self.columns
    }

    /// Where the values of the positions from `first` on begin.
    fn offsets(self, first: usize) -> impl Iterator<Item = usize> {
        let (line, mut column) = (first / self.columns, first % self.columns);
        let (mut picture, mut row) = (line / self.rows, line % self.rows);
        std::iter::from_fn(move || {
            let [along, down, on] = self.steps;
            let offset = picture * on + row * down + column * along;
            column += 1;
            if column == self.columns {
                (column, row) = (0, row + 1);
            }
            if row == self.rows {
                (row, picture) = (0, picture + 1);
            }
            Some(offset)
        })
    }
}

impl Panels {
    /// From one row per filter and a bias each.
    pub(super) fn new(filters: &[Vec<f32>], bias: Vec<f32>, processor: Processor) -> Self {
        let values = filters.first().map_or(0, Vec::len);
        let vector = processor.lanes() * LANES;
        let mut lanes = Vec::with_capacity(filters.len().next_multiple_of(vector) / LANES * values);
        for panel in filters.chunks(2 * vector) {
            let vectors = panel.len().div_ceil(vector);
            for at in 0..values {
                for first in (0..vectors * vector).step_by(LANES) {
                    let mut lane = Lane::default();
                    for (weight, filter) in lane.0.iter_mut().zip(panel.iter().skip(first)) {
                        *weight = filter[at];
                    }
                    lanes.push(lane);
                }
            }
        }
        Self { processor, lanes, values, bias }
    }

    /// How many filters there are.
    pub(super) fn out(&self) -> usize {
        self.bias.len()
    }

    /// All filters at all positions, `[positions, out]`.
    #[allow(unsafe_code)]
    pub(super) fn multiply(&self, field: &Field) -> Vec<f32> {
        // SAFETY: a part is written whole. The kernel's value says that the processor has the
        // instructions.
        unsafe {
            match self.processor {
                #[cfg(target_arch = "x86_64")]
                Processor::Avx512(kernel) => {
                    self.by_parts(field, |first, y| self.part_avx512(kernel, field, first, y))
                }
                #[cfg(target_arch = "x86_64")]
                Processor::Fma(kernel) => {
                    self.by_parts(field, |first, y| self.part_fma(kernel, field, first, y))
                }
                _ => self.by_parts(field, |first, y| self.part(Portable, field, first, y)),
            }
        }
    }

    /// Has `compute` write parts of the output, each from a position on.
    ///
    /// # Safety
    /// `compute` must write every value of a part.
    #[allow(unsafe_code)]
    unsafe fn by_parts(
        &self,
        field: &Field,
        compute: impl Fn(usize, &mut [MaybeUninit<f32>]) + Sync,
    ) -> Vec<f32> {
        let (out, positions) = (self.out(), field.places.count());
        // Three shares for each thread, so that none waits long for another.
        let share = positions.div_ceil(3 * rayon::current_num_threads());
        let count = share.next_multiple_of(MOST_ROWS).min(POSITIONS);
        let write = |y: &mut [MaybeUninit<f32>]| {
            let parts = y.par_chunks_mut(count * out).enumerate();
            parts.for_each(|(part, y)| compute(part * count, y));
        };
        // SAFETY: the parts are all of the output, and the caller says that each is written.
        unsafe { written(positions * out, write) }
    }

    /// [`Self::part`] compiled for AVX2 and fused multiply–adds.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn part_fma(&self, kernel: Fma, field: &Field, first: usize, y: &mut [MaybeUninit<f32>]) {
        self.part(kernel, field, first, y);
    }

    /// [`Self::part`] compiled for AVX-512.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn part_avx512(&self, kernel: Avx512, field: &Field, first: usize, y: &mut [MaybeUninit<f32>]) {
        self.part(kernel, field, first, y);
    }

    /// The positions from `first` on, as many as `y` has room for. Writes all of `y`: every panel of
    /// filters at every position.
    #[inline(always)]
    fn part<K: Kernel>(&self, kernel: K, field: &Field, first: usize, y: &mut [MaybeUninit<f32>]) {
        let out = self.out();
        let count = y.len() / out;
        let mut offsets = [0; POSITIONS];
        for (offset, value) in offsets.iter_mut().take(count).zip(field.places.offsets(first)) {
            *offset = value;
        }
        // A tile that has positions left over repeats the last.
        let whole = count.next_multiple_of(K::ROWS);
        let last = offsets[count - 1];
        offsets[count..whole].fill(last);
        let vector = K::LANES * self.values;
        let mut sums = [[Lane::default(); 4]; MOST_ROWS];
        for (panel, lanes) in self.lanes.chunks(2 * vector).enumerate() {
            let width = 2 * K::LANES * LANES;
            let channels = panel * width..out.min((panel + 1) * width);
            for (tile, offsets) in offsets[..whole].chunks_exact(K::ROWS).enumerate() {
                let target = Target { out, first, row: tile * K::ROWS, channels: channels.clone() };
                if lanes.len() > vector {
                    kernel.tile::<2>(field.x, offsets, field.reach, lanes, &mut sums);
                } else {
                    kernel.tile::<1>(field.x, offsets, field.reach, lanes, &mut sums);
                }
                self.finish(field, &target, &sums[..K::ROWS], y);
            }
        }
    }

    /// Writes the sums of a tile.
    #[inline(always)]
    fn finish(
        &self,
        field: &Field,
        target: &Target,
        sums: &[[Lane; 4]],
        y: &mut [MaybeUninit<f32>],
    ) {
        let Target { out, first, row, channels } = target;
        let bias = &self.bias[channels.clone()];
        for (y, (sums, row)) in y.chunks_exact_mut(*out).skip(*row).zip(sums.iter().zip(*row..)) {
            let at = (first + row) * out + channels.start;
            let residual = field.residual.map(|values| &values[at..at + bias.len()]);
            let finish = Finish { bias, residual, range: field.range };
            finish.write(sums, &mut y[channels.clone()]);
        }
    }
}

/// Where the sums of a tile go.
struct Target {
    /// Filters in all.
    out: usize,
    /// The part's first position.
    first: usize,
    /// The tile's first position in its part.
    row: usize,
    channels: std::ops::Range<usize>,
}
