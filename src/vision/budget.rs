//! A bound on the pixels that are being decoded at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number of pixels that all pictures in flight share. Cloning gives another handle to the same
/// budget. Nothing here waits: a caller that gets no permit decides whether to try again.
#[derive(Debug, Clone)]
pub struct PixelBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    total: u64,
    free: AtomicU64,
}

impl PixelBudget {
    /// A budget of `total` pixels.
    pub fn new(total: u64) -> Self {
        Self { shared: Arc::new(Shared { total, free: AtomicU64::new(total) }) }
    }

    /// The whole budget; no request for more can ever be granted.
    pub fn total(&self) -> u64 {
        self.shared.total
    }

    /// How many pixels are free now.
    pub fn free(&self) -> u64 {
        self.shared.free.load(Ordering::Acquire)
    }

    /// Takes `pixels` out of the budget until the permit is dropped; `None` when fewer are free.
    pub fn try_acquire(&self, pixels: u64) -> Option<PixelPermit> {
        let take = |free: u64| free.checked_sub(pixels);
        let taken = self.shared.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
        taken.ok().map(|_| PixelPermit { shared: Arc::clone(&self.shared), pixels })
    }
}

/// Pixels taken out of a [`PixelBudget`]; they return when this is dropped.
#[derive(Debug)]
pub struct PixelPermit {
    shared: Arc<Shared>,
    pixels: u64,
}

impl PixelPermit {
    /// How many pixels it stands for.
    pub fn pixels(&self) -> u64 {
        self.pixels
    }
}

impl Drop for PixelPermit {
    fn drop(&mut self) {
        self.shared.free.fetch_add(self.pixels, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_return_their_pixels() {
        let budget = PixelBudget::new(100);
        let first = budget.try_acquire(60).unwrap();
        assert!(budget.clone().try_acquire(41).is_none());
        let second = budget.clone().try_acquire(40).unwrap();
        assert_eq!((budget.free(), first.pixels(), second.pixels()), (0, 60, 40));
        drop(first);
        assert_eq!(budget.free(), 60);
        drop(second);
        assert_eq!((budget.free(), budget.total()), (100, 100));
        assert!(budget.try_acquire(101).is_none());
    }

    #[test]
    fn threads_never_take_more_than_there_is() {
        let budget = PixelBudget::new(10);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        if let Some(permit) = budget.try_acquire(4) {
                            assert!(budget.free() <= budget.total() - permit.pixels());
                        }
                    }
                });
            }
        });
        assert_eq!(budget.free(), 10);
    }
}
