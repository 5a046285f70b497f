//! Calling memory into the cache before it is needed.
#![allow(unsafe_code)]

use std::ptr::null;

use super::kernel::UNROLLED;
use crate::models::ops::simd::Lanes;

/// Bytes that come from memory at once.
const LINE: usize = 64;

/// What is needed later and comes from memory: it is called into the cache's second level while a
/// tile is computed, a few lines in every turn of the inner loop. (Many at once would take all the
/// buffers in which loads wait, and the tile with them.)
#[derive(Clone, Copy)]
pub(in crate::models::ops) struct Ahead {
    from: *const f32,
    lines: usize,
}

impl Ahead {
    /// Nothing.
    pub(in crate::models::ops) const NONE: Self = Self { from: null(), lines: 0 };

    /// For each of `tiles` tiles of `depth` steps, one after the other, its part of `values`.
    pub(in crate::models::ops) fn split<W>(
        values: &[W],
        tiles: usize,
        depth: usize,
    ) -> impl Iterator<Item = Self> {
        let turns = (depth / UNROLLED).max(1);
        let all = size_of_val(values).div_ceil(LINE);
        let lines = all.div_ceil(turns * tiles);
        let from: *const f32 = values.as_ptr().cast();
        (0..tiles).map(move |tile| {
            let first = tile * turns * lines;
            let lines = if first < all { lines } else { 0 };
            Self { from: from.wrapping_byte_add(first * LINE), lines }
        })
    }

    /// Calls what belongs to one turn.
    ///
    /// # Safety
    /// See [`Lanes`].
    #[inline(always)]
    pub(super) unsafe fn turn<L: Lanes>(&mut self) {
        for _ in 0..self.lines {
            // SAFETY: passed on to the caller.
            unsafe { L::prefetch_far(self.from) };
            self.from = self.from.wrapping_byte_add(LINE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_called_once_and_none_after_the_end() {
        for (count, tiles, depth) in [(6144, 6, 192), (6144, 1, 192), (100, 22, 96), (7, 3, 2)] {
            let values = vec![0u16; count];
            let parts: Vec<_> = Ahead::split(&values, tiles, depth).collect();
            assert_eq!(parts.len(), tiles);
            let turns = (depth / UNROLLED).max(1);
            let mut next: *const f32 = values.as_ptr().cast();
            for part in parts.iter().filter(|part| part.lines > 0) {
                assert_eq!(part.from, next);
                next = next.wrapping_byte_add(part.lines * turns * LINE);
            }
            let called = next.addr() - values.as_ptr().addr();
            // The last tile's turns all call, for want of a count of their own.
            let most = turns * parts[0].lines * LINE;
            assert!((2 * count..2 * count + most).contains(&called), "{called} of {}", 2 * count);
        }
        assert!(Ahead::split::<f32>(&[], 2, 100).all(|part| part.lines == 0));
    }
}
