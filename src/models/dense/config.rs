//! Sizes of the network: `config.json`.

use serde::Deserialize;

use crate::models::{ModelError, Result};

/// Pixels per cell of the map that everything is read from.
pub(super) const STRIDE: usize = 8;

/// Pixels per cell of the trunk's coarsest map.
const COARSEST: usize = 32;

/// A row of inverted residuals of one width: `[channels, expansion, kernel, stride, blocks]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
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

/// Sizes of the network.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Side of the square that pictures are squashed to, in pixels; a multiple of 32.
    pub side: usize,
    /// Channels of the stem, a convolution that halves the sides.
    pub stem: usize,
    /// The trunk's rows of inverted residuals; they end at stride 32.
    pub stages: Vec<Stage>,
    /// Channels of the pyramid at strides 16 and 8.
    pub pyramid: [usize; 2],
    /// Channels of a cell's embedding, which texts are compared with.
    pub embedding: usize,
    /// Word pieces in the table.
    pub vocabulary: usize,
    /// Channels of a word in the table.
    pub word: usize,
    /// Channels of the text encoder.
    pub text: usize,
    /// Attention heads of the text encoder; they divide `text`.
    pub heads: usize,
    /// Hidden channels of the text encoder's feed-forward layer.
    pub hidden: usize,
    /// Word pieces of a name that are read.
    pub name_tokens: usize,
    /// Word pieces of an expansion that are read.
    pub tail_tokens: usize,
    /// Hidden channels of the heads for boxes and for entailment.
    pub head: usize,
    /// Cells whose boxes are merged into the answer.
    pub best: usize,
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
    pub fn validate(&self) -> Result<()> {
        let wrong = |what: &str| Err(ModelError::Weights(format!("config.json: {what}")));
        if self.side == 0 || !self.side.is_multiple_of(COARSEST) {
            return wrong("side must be a multiple of 32");
        }
        if self.stages.iter().any(|stage| !stage.is_sound()) {
            return wrong("a stage needs an odd kernel, stride 1 or 2, and no zero");
        }
        if self.taps().is_none() {
            return wrong("the stages must pass strides 8 and 16 and end at 32");
        }
        if self.heads == 0 || !self.text.is_multiple_of(self.heads) {
            return wrong("heads must divide text");
        }
        if self.best == 0 || self.best > self.cells() {
            return wrong("best must be between 1 and the number of cells");
        }
        if self.name_tokens == 0 || self.tail_tokens == 0 {
            return wrong("name_tokens and tail_tokens must be positive");
        }
        Ok(())
    }

    /// Cells along one side of the map.
    pub fn grid(&self) -> usize {
        self.side / STRIDE
    }

    /// Cells of the map.
    pub fn cells(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Channels of the trunk's maps at strides 8, 16 and 32, each the last of its stride; `None`
    /// where a stage is missing.
    pub fn taps(&self) -> Option<[usize; 3]> {
        let last_at = |wanted| {
            let at = self.strides().filter(|&(_, stride)| stride == wanted);
            at.last().map(|(stage, _)| stage.channels)
        };
        let ends = self.strides().last().is_some_and(|(_, stride)| stride == COARSEST);
        let maps = [last_at(STRIDE)?, last_at(2 * STRIDE)?, last_at(COARSEST)?];
        ends.then_some(maps)
    }

    /// Each stage with the stride of what comes out of it.
    pub(super) fn strides(&self) -> impl Iterator<Item = (&Stage, usize)> {
        let mut stride = 2;
        self.stages.iter().map(move |stage| {
            stride *= stage.stride;
            (stage, stride)
        })
    }

    /// Multiply–adds of the trunk for one picture.
    pub fn trunk_macs(&self) -> u64 {
        let area = |stride: usize| (self.side / stride) * (self.side / stride);
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
        let [c8, c16, c32] = self.taps().unwrap_or_default();
        let [p16, p8] = self.pyramid;
        total += c32 * c32 + c32 * p16 * area(COARSEST) + (c16 + 9 * p16 + p8) * p16 * area(16);
        total += (c8 + 9 * p8 + self.embedding) * p8 * area(STRIDE);
        total as u64
    }

    /// Multiply–adds to answer one expression about an encoded picture.
    pub fn answer_macs(&self) -> u64 {
        let tokens = (self.name_tokens + self.tail_tokens) as u64;
        let per_token = self.text * (self.word + 4 * self.text + 2 * self.hidden);
        let per_cell = 2 * self.embedding + self.pyramid[1];
        let summary = self.taps().map_or(0, |[_, _, channels]| channels);
        let head = self.head * (self.pyramid[1] * (self.best + 1) + summary + self.text);
        tokens * per_token as u64 + (per_cell * self.cells() + head) as u64
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

    /// A network small enough for tests.
    fn tiny() -> Config {
        Config {
            side: 64,
            stem: 4,
            stages: STAGES.to_vec(),
            pyramid: [10, 8],
            embedding: 16,
            vocabulary: 32,
            word: 6,
            text: 16,
            heads: 2,
            hidden: 20,
            name_tokens: 4,
            tail_tokens: 3,
            head: 12,
            best: 3,
        }
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(tiny().validate().is_ok());
        assert!(Config { side: 48, ..tiny() }.validate().is_err());
        assert!(Config { side: 0, ..tiny() }.validate().is_err());
        assert!(Config { heads: 3, ..tiny() }.validate().is_err());
        assert!(Config { best: 65, ..tiny() }.validate().is_err());
        assert!(Config { stages: STAGES[..3].to_vec(), ..tiny() }.validate().is_err());
        let even = Stage { kernel: 4, ..STAGES[0] };
        let stages = [&[even], &STAGES[1..]].concat();
        assert!(Config { stages, ..tiny() }.validate().is_err());
    }

    #[test]
    fn a_larger_picture_costs_in_proportion() {
        let (small, large) = (tiny(), Config { side: 128, ..tiny() });
        let context = (12 * 12) as u64;
        assert_eq!(4 * (small.trunk_macs() - context), large.trunk_macs() - context);
        assert!(large.answer_macs() > small.answer_macs());
    }
}
