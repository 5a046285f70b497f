//! Predicted work, the one unit of admission and of batch caps.

use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// Predicted work in millions of multiply–adds. Sums saturate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cost(pub u64);

impl Cost {
    /// No work.
    pub const ZERO: Self = Self(0);
    /// More work than anything has: a cap that never binds.
    pub const MAX: Self = Self(u64::MAX);

    /// That of so many.
    #[must_use]
    pub fn times(self, count: usize) -> Self {
        Self(self.0.saturating_mul(count as u64))
    }
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::ZERO, Add::add)
    }
}
