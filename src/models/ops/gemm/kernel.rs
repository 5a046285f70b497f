//! The inner kernel: a tile of the product in registers.
#![allow(unsafe_code)]

use super::ahead::Ahead;
use super::stored::{Needs, Stored};
use crate::models::ops::Activation;
use crate::models::ops::simd::{Isa, Lanes, activate};
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
    /// `[depth, rows]`, as the weights need them; with [`Tile::apart`], rows that lie so far from each
    /// other.
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

/// What happens to finished sums: `activation(row_scale · scale · sum + bias + addend)`. Pointers
/// are null where there is nothing; the others point at the tile's first row or column.
#[derive(Clone, Copy)]
pub(in crate::models::ops) struct Finish {
    /// The tile's rows; not for rows that lie apart.
    pub(in crate::models::ops) row_scale: *const f32,
    /// A whole tile of columns.
    pub(in crate::models::ops) scale: *const f32,
    /// Likewise.
    pub(in crate::models::ops) bias: *const f32,
    /// The columns that exist, in `period` rows `stride` apart; row `i` of the product takes row
    /// `i % period`.
    pub(in crate::models::ops) addend: *const f32,
    pub(in crate::models::ops) period: usize,
    pub(in crate::models::ops) stride: usize,
    /// The tile's first row in the product.
    pub(in crate::models::ops) row: usize,
    pub(in crate::models::ops) activation: Activation,
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
        if let Some(apart) = tile.apart {
            return match tile.rows {
                6 => apart_sums::<Avx2, W, 6>(tile, apart, finish),
                _ => one_by_one::<Avx2, W>(tile, apart, finish),
            };
        }
        match tile.rows {
            1 => sums::<Avx2, W, 1>(tile, finish),
            2 => sums::<Avx2, W, 2>(tile, finish),
            3 => sums::<Avx2, W, 3>(tile, finish),
            4 => sums::<Avx2, W, 4>(tile, finish),
            5 => sums::<Avx2, W, 5>(tile, finish),
            _ => sums::<Avx2, W, 6>(tile, finish),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn compute_avx512<W: Stored>(tile: &Tile<W>, finish: Option<&Finish>) {
    // SAFETY: passed on to the caller.
    unsafe { compute_16_lanes(tile, finish) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn compute_avx512_bf16<W: Stored>(tile: &Tile<W>, finish: Option<&Finish>) {
    // SAFETY: passed on to the caller.
    unsafe { compute_16_lanes(tile, finish) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512fp16")]
unsafe fn compute_avx512_fp16<W: Stored>(tile: &Tile<W>, finish: Option<&Finish>) {
    // SAFETY: passed on to the caller.
    unsafe { compute_16_lanes(tile, finish) }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn compute_16_lanes<W: Stored>(tile: &Tile<W>, finish: Option<&Finish>) {
    // SAFETY: passed on to the caller.
    unsafe {
        if let Some(apart) = tile.apart {
            return match tile.rows {
                12 => apart_sums::<Avx512, W, 12>(tile, apart, finish),
                _ => one_by_one::<Avx512, W>(tile, apart, finish),
            };
        }
        match tile.rows {
            1 => sums::<Avx512, W, 1>(tile, finish),
            2 => sums::<Avx512, W, 2>(tile, finish),
            3 => sums::<Avx512, W, 3>(tile, finish),
            4 => sums::<Avx512, W, 4>(tile, finish),
            5 => sums::<Avx512, W, 5>(tile, finish),
            6 => sums::<Avx512, W, 6>(tile, finish),
            7 => sums::<Avx512, W, 7>(tile, finish),
            8 => sums::<Avx512, W, 8>(tile, finish),
            9 => sums::<Avx512, W, 9>(tile, finish),
            10 => sums::<Avx512, W, 10>(tile, finish),
            11 => sums::<Avx512, W, 11>(tile, finish),
            _ => sums::<Avx512, W, 12>(tile, finish),
        }
    }
}

/// The tile's sums, in two vectors a row.
///
/// # Safety
/// See [`compute`].
#[inline(always)]
unsafe fn sums<L: Lanes, W: Stored, const ROWS: usize>(tile: &Tile<W>, finish: Option<&Finish>) {
    // SAFETY: `left` and `right` hold `depth` steps of `ROWS` and of two vectors' values.
    unsafe {
        for row in 0..ROWS {
            L::prefetch(tile.to.wrapping_add(row * tile.stride));
        }
        let mut ahead = tile.ahead;
        if W::CHAIN == usize::MAX {
            let sums = chain::<L, W, ROWS>((tile.left, tile.right), tile.depth, &mut ahead);
            return put::<L, W, ROWS>(tile, finish, sums);
        }
        let mut totals = [[L::splat(0.0); 2]; ROWS];
        for start in (0..tile.depth).step_by(W::CHAIN) {
            let depth = W::CHAIN.min(tile.depth - start);
            let from = (tile.left.add(start * ROWS), tile.right.add(start * 2 * L::WIDTH));
            let sums = chain::<L, W, ROWS>(from, depth, &mut ahead);
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
    depth: usize,
    ahead: &mut Ahead,
) -> [[L; 2]; ROWS] {
    // SAFETY: `left` and `right` hold `depth` steps of `ROWS` and of two vectors' values.
    unsafe {
        let mut sums = [[L::splat(0.0); 2]; ROWS];
        for _ in 0..depth / UNROLLED {
            L::prefetch(left.wrapping_add(AHEAD * ROWS));
            ahead.turn::<L>();
            for _ in 0..UNROLLED {
                step::<L, W, ROWS>(left, right, &mut sums);
                (left, right) = (left.add(ROWS), right.add(2 * L::WIDTH));
            }
        }
        for _ in 0..depth % UNROLLED {
            step::<L, W, ROWS>(left, right, &mut sums);
            (left, right) = (left.add(ROWS), right.add(2 * L::WIDTH));
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
    right: *const W,
    sums: &mut [[L; 2]; ROWS],
) {
    // SAFETY: passed on to the caller.
    unsafe {
        let low = W::widen::<L>(right);
        let high = W::widen::<L>(right.add(L::WIDTH));
        for (row, sums) in sums.iter_mut().enumerate() {
            let value = L::splat(*left.add(row));
            sums[0] = W::multiply(value, low, sums[0]);
            sums[1] = W::multiply(value, high, sums[1]);
        }
    }
}

/// [`sums`] for rows that are not packed.
///
/// # Safety
/// See [`compute`].
#[inline(always)]
unsafe fn apart_sums<L: Lanes, W: Stored, const ROWS: usize>(
    tile: &Tile<W>,
    apart: usize,
    finish: Option<&Finish>,
) {
    // SAFETY: `left` holds `ROWS` rows of `depth` values, `right` `depth` steps of two vectors.
    unsafe {
        let mut sums = [[L::splat(0.0); 2]; ROWS];
        let mut right = tile.right;
        for step in 0..tile.depth {
            let low = W::widen::<L>(right);
            let high = W::widen::<L>(right.add(L::WIDTH));
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = L::splat(*tile.left.add(row * apart + step));
                sums[0] = W::multiply(value, low, sums[0]);
                sums[1] = W::multiply(value, high, sums[1]);
            }
            right = right.add(2 * L::WIDTH);
        }
        put::<L, W, ROWS>(tile, finish, sums);
    }
}

/// [`apart_sums`] for the few rows that a tile's height leaves.
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
            sums::<L, W, 1>(&Tile { rows: 1, left, to, ..*tile }, finish.as_ref());
        }
    }
}

/// Finishes and stores the sums. A step at a time for all rows, so that they stay in registers and
/// every choice is made once.
///
/// # Safety
/// See [`compute`].
#[inline(always)]
unsafe fn put<L: Lanes, W, const ROWS: usize>(
    tile: &Tile<W>,
    finish: Option<&Finish>,
    mut sums: [[L; 2]; ROWS],
) {
    // SAFETY: passed on to the caller; a tile with all its columns holds two vectors in each row.
    unsafe {
        if tile.columns < 2 * L::WIDTH {
            for (row, sums) in sums.into_iter().enumerate() {
                put_some::<L, W>(tile, finish, row, sums);
            }
            return;
        }
        let at = |row: usize| tile.to.add(row * tile.stride);
        let Some(finish) = finish else {
            for (row, mut sums) in sums.into_iter().enumerate() {
                if tile.resume {
                    sums = resumed(at(row), sums);
                }
                sums[0].store(at(row));
                sums[1].store(at(row).add(L::WIDTH));
            }
            return;
        };
        if tile.resume {
            for (row, sums) in sums.iter_mut().enumerate() {
                *sums = resumed(at(row), *sums);
            }
        }
        finish_whole(finish, &mut sums);
        for (row, sums) in sums.into_iter().enumerate() {
            sums[0].store(at(row));
            sums[1].store(at(row).add(L::WIDTH));
        }
    }
}

/// A row of sums with what is there.
///
/// # Safety
/// See [`compute`].
#[inline(always)]
unsafe fn resumed<L: Lanes>(from: *const f32, sums: [L; 2]) -> [L; 2] {
    // SAFETY: a row of the tile holds two vectors.
    unsafe { [sums[0].add(L::load(from)), sums[1].add(L::load(from.add(L::WIDTH)))] }
}

/// [`Finish`] for sums of all columns.
///
/// # Safety
/// See [`compute`].
#[inline(always)]
unsafe fn finish_whole<L: Lanes, const ROWS: usize>(finish: &Finish, sums: &mut [[L; 2]; ROWS]) {
    // SAFETY: `row_scale` holds `ROWS` values; `scale`, `bias` and each row of the addend hold two
    // vectors.
    unsafe {
        if !finish.row_scale.is_null() {
            for (row, sums) in sums.iter_mut().enumerate() {
                let scale = L::splat(*finish.row_scale.add(row));
                *sums = [sums[0].mul(scale), sums[1].mul(scale)];
            }
        }
        if !finish.scale.is_null() {
            let (low, high) = (L::load(finish.scale), L::load(finish.scale.add(L::WIDTH)));
            for sums in sums.iter_mut() {
                *sums = [sums[0].mul(low), sums[1].mul(high)];
            }
        }
        if !finish.bias.is_null() {
            let (low, high) = (L::load(finish.bias), L::load(finish.bias.add(L::WIDTH)));
            for sums in sums.iter_mut() {
                *sums = [sums[0].add(low), sums[1].add(high)];
            }
        }
        if !finish.addend.is_null() {
            let mut row = finish.row % finish.period;
            for sums in sums.iter_mut() {
                let from = finish.addend.add(row * finish.stride);
                *sums = [sums[0].add(L::load(from)), sums[1].add(L::load(from.add(L::WIDTH)))];
                row = if row + 1 == finish.period { 0 } else { row + 1 };
            }
        }
        if finish.activation != Activation::None {
            for sum in sums.as_flattened_mut() {
                *sum = activate(finish.activation, *sum);
            }
        }
    }
}

/// Finishes and stores a row of sums, as many of them as the tile has columns.
///
/// # Safety
/// See [`compute`].
#[inline(always)]
unsafe fn put_some<L: Lanes, W>(tile: &Tile<W>, finish: Option<&Finish>, row: usize, sums: [L; 2]) {
    // SAFETY: offsets stay inside the tile's columns that exist; `scale` and `bias` have whole tiles.
    unsafe {
        for (half, mut sum) in sums.into_iter().enumerate() {
            let column = half * L::WIDTH;
            if column >= tile.columns {
                break;
            }
            let to = tile.to.add(row * tile.stride + column);
            let count = tile.columns - column;
            if tile.resume {
                sum = sum.add(L::load_some(to, count));
            }
            if let Some(finish) = finish {
                if !finish.row_scale.is_null() {
                    sum = sum.mul(L::splat(*finish.row_scale.add(row)));
                }
                if !finish.scale.is_null() {
                    sum = sum.mul(L::load(finish.scale.add(column)));
                }
                if !finish.bias.is_null() {
                    sum = sum.add(L::load(finish.bias.add(column)));
                }
                if !finish.addend.is_null() {
                    let row = (finish.row + row) % finish.period;
                    let from = finish.addend.add(row * finish.stride + column);
                    sum = sum.add(L::load_some(from, count));
                }
                sum = activate(finish.activation, sum);
            }
            sum.store_some(to, count);
        }
    }
}
