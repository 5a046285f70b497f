//! Sizes of the network: `config.json`.

use serde::Deserialize;

use crate::models::{ModelError, Result};

/// Pixels per cell of the map that everything is read from.
pub(super) const STRIDE: usize = 8;

/// Pixels per cell of the trunk's coarsest map.
const COARSEST: usize = 32;

/// Sizes of the network.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Side of the square that pictures are squashed to, in pixels; a multiple of 32.
    pub side: usize,
    /// Channels of the stem's convolutions; the first two halve the sides, the others keep them.
    pub stem: Vec<usize>,
    /// Channels and residual blocks of the stages at strides 8, 16 and 32.
    pub stages: [(usize, usize); 3],
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
        if self.stem.len() < 2 {
            return wrong("the stem needs two convolutions or more");
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

    /// Multiply–adds of the trunk for one picture.
    pub fn trunk_macs(&self) -> u64 {
        let area = |stride: usize| (self.side / stride) * (self.side / stride);
        let mut total = 0;
        let mut channels = 3;
        for (i, &out) in self.stem.iter().enumerate() {
            total += 9 * channels * out * area(if i == 0 { 2 } else { 4 });
            channels = out;
        }
        for (i, &(out, blocks)) in self.stages.iter().enumerate() {
            total += 9 * (channels + 2 * blocks * out) * out * area(STRIDE << i);
            channels = out;
        }
        let [(c8, _), (c16, _), (c32, _)] = self.stages;
        let [p16, p8] = self.pyramid;
        total += c32 * c32 + c32 * p16 * area(32) + (c16 + 9 * p16 + p8) * p16 * area(16);
        total += (c8 + 9 * p8 + self.embedding) * p8 * area(STRIDE);
        total as u64
    }

    /// Multiply–adds to answer one expression about an encoded picture.
    pub fn answer_macs(&self) -> u64 {
        let tokens = (self.name_tokens + self.tail_tokens) as u64;
        let per_token = self.text * (self.word + 4 * self.text + 2 * self.hidden);
        let per_cell = 2 * self.embedding + self.pyramid[1];
        let head = self.head * (self.pyramid[1] * (self.best + 1) + self.stages[2].0 + self.text);
        tokens * per_token as u64 + (per_cell * self.cells() + head) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A network small enough for tests.
    fn tiny() -> Config {
        Config {
            side: 64,
            stem: vec![4, 6],
            stages: [(8, 1), (10, 1), (12, 1)],
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
        assert!(Config { stem: vec![4], ..tiny() }.validate().is_err());
    }

    #[test]
    fn a_larger_picture_costs_in_proportion() {
        let (small, large) = (tiny(), Config { side: 128, ..tiny() });
        let context = (12 * 12) as u64;
        assert_eq!(4 * (small.trunk_macs() - context), large.trunk_macs() - context);
        assert!(large.answer_macs() > small.answer_macs());
    }
}
