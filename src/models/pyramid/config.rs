//! Sizes of a trunk and its feature pyramid.

use serde::{Deserialize, Serialize};

use crate::models::{ModelError, Result};

/// Pixels per cell of the trunk's coarsest map.
pub const COARSEST: usize = 32;

/// A row of inverted residuals of one width: `[channels, expansion, kernel, stride, blocks]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Channels that come out.
    pub channels: usize,
    /// How many times wider a block is inside.
    pub expansion: usize,
    /// Side of the depthwise filters, odd.
    pub kernel: usize,
    /// Stride of the first block, 1 or 2; the others keep the sides.
    pub stride: usize,
    /// Blocks in the row.
    pub blocks: usize,
}

/// Sizes of a trunk and its feature pyramid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Channels of the stem, a convolution that halves the sides.
    pub stem: usize,
    /// The trunk's rows of inverted residuals; they pass strides 4, 8 and 16 and end at 32.
    pub stages: Vec<Stage>,
    /// Channels of the pyramid at strides 16 and 8.
    pub pyramid: [usize; 2],
}

impl Stage {
    fn is_sound(&self) -> bool {
        let Self { channels, expansion, kernel, stride, blocks } = *self;
        channels > 0 && expansion > 0 && kernel % 2 == 1 && (1..=2).contains(&stride) && blocks > 0
    }
}

impl Config {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// A size is zero or contradicts another.
    pub fn check(&self) -> Result<()> {
        self.taps().map(|_| ())
    }

    /// Channels of the trunk's maps at strides 4, 8, 16 and 32, each the last of its stride.
    ///
    /// # Errors
    /// When a stage is missing or makes no sense.
    pub fn taps(&self) -> Result<[usize; 4]> {
        let wrong = |what: &str| ModelError::Weights(format!("config.json: {what}"));
        if !self.stages.iter().all(Stage::is_sound) {
            return Err(wrong("a stage needs an odd kernel, stride 1 or 2, and no zero"));
        }
        let last_at = |wanted| {
            let at = self.strides().filter(|&(_, stride)| stride == wanted);
            at.last().map(|(stage, _)| stage.channels)
        };
        let ends = self.strides().last().is_some_and(|(_, stride)| stride == COARSEST);
        match (last_at(4), last_at(8), last_at(16), last_at(COARSEST)) {
            (Some(c4), Some(c8), Some(c16), Some(c32)) if ends => Ok([c4, c8, c16, c32]),
            _ => Err(wrong("the stages must pass strides 4, 8 and 16 and end at 32")),
        }
    }

    /// Channels of the summary of a whole picture.
    pub fn summary(&self) -> usize {
        self.stages.last().map_or(0, |stage| stage.channels)
    }

    /// Each stage with the stride of what comes out of it.
    pub(super) fn strides(&self) -> impl Iterator<Item = (&Stage, usize)> {
        let mut stride = 2;
        self.stages.iter().map(move |stage| {
            stride *= stage.stride;
            (stage, stride)
        })
    }

    /// Multiply–adds for one picture of `side` pixels; 0 where [`Config::check`] fails.
    pub fn macs(&self, side: usize) -> u64 {
        let Ok([_, c8, c16, c32]) = self.taps() else { return 0 };
        let area = |stride: usize| (side / stride) * (side / stride);
        let mut total = 9 * 3 * self.stem * area(2);
        let mut channels = self.stem;
        for (stage, stride) in self.strides() {
            for block in 0..stage.blocks {
                let wide = channels * stage.expansion;
                let entry = if block == 0 { stride / stage.stride } else { stride };
                if stage.expansion > 1 {
                    total += channels * wide * area(entry);
                }
                let filter = stage.kernel * stage.kernel;
                total += wide * (filter + stage.channels) * area(stride);
                channels = stage.channels;
            }
        }
        let [p16, p8] = self.pyramid;
        total += c32 * c32 + c32 * p16 * area(COARSEST) + (c16 + 9 * p16 + p8) * p16 * area(16);
        total += (c8 + 9 * p8) * p8 * area(8);
        total as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGES: [Stage; 4] = [
        Stage { channels: 6, expansion: 1, kernel: 3, stride: 2, blocks: 1 },
        Stage { channels: 8, expansion: 2, kernel: 5, stride: 2, blocks: 2 },
        Stage { channels: 10, expansion: 2, kernel: 3, stride: 2, blocks: 1 },
        Stage { channels: 12, expansion: 2, kernel: 3, stride: 2, blocks: 1 },
    ];

    impl Config {
        /// A trunk small enough for tests.
        pub(in crate::models) fn tiny() -> Self {
            Self { stem: 4, stages: STAGES.to_vec(), pyramid: [10, 8] }
        }
    }

    #[test]
    fn contradictions_are_refused() {
        assert_eq!(Config::tiny().taps().unwrap(), [6, 8, 10, 12]);
        assert!(Config { stages: STAGES[..3].to_vec(), ..Config::tiny() }.check().is_err());
        let even = Stage { kernel: 4, ..STAGES[0] };
        let stages = [&[even], &STAGES[1..]].concat();
        assert!(Config { stages, ..Config::tiny() }.check().is_err());
    }

    #[test]
    fn a_larger_picture_costs_in_proportion() {
        let context = (12 * 12) as u64;
        assert_eq!(4 * (Config::tiny().macs(64) - context), Config::tiny().macs(128) - context);
    }
}
