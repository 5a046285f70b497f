//! What becomes of a tile's sums.
#![allow(unsafe_code)]

use super::kernel::Tile;
use crate::models::ops::Activation;
use crate::models::ops::simd::{Lanes, activate};

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

/// Finishes and stores the sums. A step at a time for all rows, so that they stay in registers and
/// every choice is made once.
///
/// # Safety
/// See [`super::kernel::compute`].
#[inline(always)]
pub(super) unsafe fn put<L: Lanes, W, const ROWS: usize>(
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
/// See [`super::kernel::compute`].
#[inline(always)]
unsafe fn resumed<L: Lanes>(from: *const f32, sums: [L; 2]) -> [L; 2] {
    // SAFETY: a row of the tile holds two vectors.
    unsafe { [sums[0].add(L::load(from)), sums[1].add(L::load(from.add(L::WIDTH)))] }
}

/// [`Finish`] for sums of all columns.
///
/// # Safety
/// See [`super::kernel::compute`].
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
/// See [`super::kernel::compute`].
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
