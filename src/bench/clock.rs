//! Repeats, and what they say.

use std::time::Duration;

use super::Case;
use crate::models::Result;

/// How long the repeats of one case took, shortest first.
#[derive(Debug, Clone)]
pub struct Times(Vec<Duration>);

/// Runs a case `warmup` times unmeasured, then `repeats` times (at least once) by the clock.
///
/// # Errors
/// A network failed.
pub fn measure(case: &mut Case, warmup: usize, repeats: usize) -> Result<Times> {
    for _ in 0..warmup {
        case.run()?;
    }
    (0..repeats.max(1)).map(|_| case.run()).collect::<Result<_>>().map(Times::new)
}

impl Times {
    /// Takes over measured times; there must be one at least.
    fn new(mut times: Vec<Duration>) -> Self {
        times.sort();
        Self(times)
    }

    /// The time that `share` of the repeats stayed within, `0.5` for the median: the nearest of
    /// those that were measured.
    pub fn quantile(&self, share: f64) -> Duration {
        let last = self.0.len().saturating_sub(1);
        let index = (last as f64 * share).round() as usize;
        self.0.get(index.min(last)).copied().unwrap_or_default()
    }

    /// The shortest.
    pub fn min(&self) -> Duration {
        self.quantile(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let times = Times::new([5, 1, 4, 2, 3].map(Duration::from_millis).to_vec());
        assert_eq!(times.min(), Duration::from_millis(1));
        assert_eq!(times.quantile(0.5), Duration::from_millis(3));
        assert_eq!(times.quantile(0.9), Duration::from_millis(5));
        assert_eq!(Times::new(vec![Duration::from_millis(7)]).quantile(0.9).as_millis(), 7);
    }
}
