//! The inner kernel: a tile of the product in registers.
#![allow(unsafe_code)]

use super::ahead::Ahead;
use super::finish::{Finish, put};
use super::stored::{Needs, Stored};
use crate::models::ops::simd::{Isa, Lanes};
#[cfg(target_arch = "x86_64")]
use crate::models::ops::simd::{avx2::Avx2, avx512::Avx512};

/// Steps of a turn of the inner loop.
pub(super) const UNROLLED: usize = 4;
/// How many inputs ahead the packed rows are called into the cache: they come from its second level.
const AHEAD: usize = 16;

/// One tile: `rows` × `columns` sums over `depth` inputs.
#[derive(Clone, Copy)]
pub(in crate::models::ops) struct Tile<W> {
    /// Rows of the tile, `1..=Isa::rows`.
    pub(in crate::models::ops) rows: usize,
    /// Columns that exist, `1..=Isa::columns`.
    pub(in crate::models::ops) columns: usize,
    pub(in crate::models::ops) depth: usize,
    /// `[depth, rows]`, as the weights need them; with [`Tile::apart`], as [`Needs::Halves`] has it,
    /// rows that lie so far from each other.
    pub(in crate::models::ops) left: *const f32,
    pub(in crate::models::ops) apart: Option<usize>,
    /// `[depth, Isa::columns]`.
    pub(in crate::models::ops) right: *const W,
    /// Where the tile goes, rows `stride` apart.
    pub(in crate::models::ops) to: *mut f32,
    pub(in crate::models::ops) stride: usize,
    /// Whether the sums go on from what is there.
    pub(in crate::models::ops) resume: bool,
    /// What the kernel calls from memory meanwhile; not for rows that lie apart.
    pub(in crate::models::ops) ahead: Ahead,
}

/// Computes a tile; sums that are not finished yet have no `finish`.
///
/// # Safety
/// The processor has `isa` and [`Stored::NEEDS`], and the pointers are valid for what [`Tile`] and
/// [`Finish`] say.
#[inline]
pub(in crate::models::ops) unsafe fn compute<W: Stored>(
    isa: Isa,
    tile: &Tile<W>,
    finish: Option<&Finish>,
) {
    // SAFETY: passed on to the caller.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => compute_avx2(tile, finish),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => match W::NEEDS {
                Needs::Nothing => compute_avx512(tile, finish),
                Needs::Pairs => compute_avx512_bf16(tile, finish),
                Needs::Halves => compute_avx512_fp16(tile, finish),
            },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn compute_avx2<W: Stored>(tile: &Tile<W>, finish: Option<&Finish>) {
    // SAFETY: passed on to the caller.
    unsafe {
        match (tile.rows, tile.apart) {
            (6, Some(apart)) => sums::<Avx2, W, 6>(tile, Apart(apart), finish),
            (_, Some(apart)) => one_by_one::<Avx2, W>(tile, apart, finish),
            (1, None) => sums::<Avx2, W, 1>(tile, Packed, finish),
            (2, None) => sums::<Avx2, W, 2>(tile, Packed, finish),
            (3, None) => sums::<Avx2, W, 3>(tile, Packed, finish),
            (4, None) => sums::<Avx2, W, 4>(tile, Packed, finish),
            (5, None) => sums::<Avx2, W, 5>(tile, Packed, finish),
            (_, None) => sums::<Avx2, W, 6>(tile, Packed, finish),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn compute_avx512<W: Stored>(tile: &Tile<W>, finish: Option<&Finish>) {
    // SAFETY: passed on to the caller.
    unsafe {
        match (tile.rows, tile.apart) {
            (12, Some(apart)) => sums::<Avx512, W, 12>(tile, Apart(apart), finish),
            (_, Some(apart)) => one_by_one::<Avx512, W>(tile, apart, finish),
            (_, None) => compute_16_lanes(tile, Packed, finish),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn compute_avx512_bf16<W: Stored>(tile: &Tile<W>, finish: Option<&Finish>) {
    // SAFETY: passed on to the caller.
    unsafe { compute_16_lanes(tile, Packed, finish) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512fp16")]
unsafe fn compute_avx512_fp16<W: Stored>(tile: &Tile<W>, finish: Option<&Finish>) {
    // SAFETY: passed on to the caller.
    unsafe { compute_16_lanes(tile, Apart(tile.apart.unwrap_unchecked()), finish) }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn compute_16_lanes<W: Stored>(tile: &Tile<W>, rows: impl Rows, finish: Option<&Finish>) {
    // SAFETY: passed on to the caller.
    unsafe {
        match tile.rows {
            1 => sums::<Avx512, W, 1>(tile, rows, finish),
            2 => sums::<Avx512, W, 2>(tile, rows, finish),
            3 => sums::<Avx512, W, 3>(tile, rows, finish),
            4 => sums::<Avx512, W, 4>(tile, rows, finish),
            5 => sums::<Avx512, W, 5>(tile, rows, finish),
            6 => sums::<Avx512, W, 6>(tile, rows, finish),
            7 => sums::<Avx512, W, 7>(tile, rows, finish),
            8 => sums::<Avx512, W, 8>(tile, rows, finish),
            9 => sums::<Avx512, W, 9>(tile, rows, finish),
            10 => sums::<Avx512, W, 10>(tile, rows, finish),
            11 => sums::<Avx512, W, 11>(tile, rows, finish),
            _ => sums::<Avx512, W, 12>(tile, rows, finish),
        }
    }
}

/// How a tile's rows lie.
trait Rows: Copy {
    /// From one row to the next.
    fn row(self) -> usize;
    /// From one step of `rows` rows to the next.
    fn step(self, rows: usize) -> usize;

    /// Calls what a turn of `rows` rows from `left` on will need, into the cache's first level.
    ///
    /// # Safety
    /// See [`Lanes`].
    #[inline(always)]
    unsafe fn ahead<L: Lanes>(self, left: *const f32, rows: usize) {
        // SAFETY: passed on to the caller; no address is wrong.
        unsafe { L::prefetch(left.wrapping_add(AHEAD * rows)) };
    }
}

/// What belongs to one step lies together.
#[derive(Clone, Copy)]
struct Packed;

/// What belongs to one row lies together, the rows so far from each other.
#[derive(Clone, Copy)]
struct Apart(usize);

impl Rows for Packed {
    #[inline(always)]
    fn row(self) -> usize {
        1
    }

    #[inline(always)]
    fn step(self, rows: usize) -> usize {
        rows
    }
}

impl Rows for Apart {
    #[inline(always)]
    fn row(self) -> usize {
        self.0
    }

    #[inline(always)]
    fn step(self, _: usize) -> usize {
        1
    }

    #[inline(always)]
    unsafe fn ahead<L: Lanes>(self, _: *const f32, _: usize) {
        // The processor sees that every row goes on; calls as above make it no faster.
    }
}

/// The tile's sums, in two vectors a row.
///
/// # Safety
/// See [`compute`].
#[inline(always)]
unsafe fn sums<L: Lanes, W: Stored, const ROWS: usize>(
    tile: &Tile<W>,
    rows: impl Rows,
    finish: Option<&Finish>,
) {
    // SAFETY: `left` and `right` hold `depth` steps of `ROWS` and of two vectors' values.
    unsafe {
        for row in 0..ROWS {
            L::prefetch(tile.to.wrapping_add(row * tile.stride));
        }
        let mut ahead = tile.ahead;
        if W::CHAIN == usize::MAX {
            let from = (tile.left, tile.right);
            let sums = chain::<L, W, ROWS>(from, rows, tile.depth, &mut ahead);
            return put::<L, W, ROWS>(tile, finish, sums);
        }
        let mut totals = [[L::splat(0.0); 2]; ROWS];
        for start in (0..tile.depth).step_by(W::CHAIN) {
            let depth = W::CHAIN.min(tile.depth - start);
            let left = tile.left.add(start * rows.step(ROWS));
            let from = (left, tile.right.add(start * 2 * L::WIDTH));
            let sums = chain::<L, W, ROWS>(from, rows, depth, &mut ahead);
            for (totals, sums) in totals.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
                *totals = W::total(*sums, *totals);
            }
        }
        put::<L, W, ROWS>(tile, finish, totals);
    }
}

/// The sums of `depth` steps of `left` and `right`.
///
/// # Safety
/// Both hold them; see [`compute`].
#[inline(always)]
unsafe fn chain<L: Lanes, W: Stored, const ROWS: usize>(
    (mut left, mut right): (*const f32, *const W),
    rows: impl Rows,
    depth: usize,
    ahead: &mut Ahead,
) -> [[L; 2]; ROWS] {
    // SAFETY: `left` and `right` hold `depth` steps of `ROWS` and of two vectors' values.
    unsafe {
        let mut sums = [[L::splat(0.0); 2]; ROWS];
        for _ in 0..depth / UNROLLED {
            rows.ahead::<L>(left, ROWS);
            ahead.turn::<L>();
            for _ in 0..UNROLLED {
                step::<L, W, ROWS>(left, rows, right, &mut sums);
                (left, right) = (left.add(rows.step(ROWS)), right.add(2 * L::WIDTH));
            }
        }
        for _ in 0..depth % UNROLLED {
            step::<L, W, ROWS>(left, rows, right, &mut sums);
            (left, right) = (left.add(rows.step(ROWS)), right.add(2 * L::WIDTH));
        }
        sums
    }
}

/// What one input adds to the sums.
///
/// # Safety
/// `left` holds `ROWS` values and `right` two vectors; see [`Lanes`].
#[inline(always)]
unsafe fn step<L: Lanes, W: Stored, const ROWS: usize>(
    left: *const f32,
    rows: impl Rows,
    right: *const W,
    sums: &mut [[L; 2]; ROWS],
) {
    // SAFETY: passed on to the caller.
    unsafe {
        let low = W::widen::<L>(right);
        let high = W::widen::<L>(right.add(L::WIDTH));
        for (row, sums) in sums.iter_mut().enumerate() {
            let value = L::splat(*left.add(row * rows.row()));
            sums[0] = W::multiply(value, low, sums[0]);
            sums[1] = W::multiply(value, high, sums[1]);
        }
    }
}

/// [`sums`] of the few rows that a tile's height leaves, where they lie apart.
///
/// # Safety
/// See [`compute`].
#[inline(always)]
unsafe fn one_by_one<L: Lanes, W: Stored>(tile: &Tile<W>, apart: usize, finish: Option<&Finish>) {
    for row in 0..tile.rows {
        // SAFETY: the tile has the row.
        unsafe {
            let (left, to) = (tile.left.add(row * apart), tile.to.add(row * tile.stride));
            let finish = finish.map(|finish| Finish { row: finish.row + row, ..*finish });
            sums::<L, W, 1>(&Tile { rows: 1, left, to, ..*tile }, Packed, finish.as_ref());
        }
    }
}
