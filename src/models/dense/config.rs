//! Sizes of the network: `config.json`.

use serde::Deserialize;

use crate::models::{ModelError, Result, pyramid};

/// Pixels per cell of the map that everything is read from.
pub(super) const STRIDE: usize = 8;

/// Sizes of the network.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Side of the square that pictures are squashed to, in pixels; a multiple of 32.
    pub side: usize,
    /// The part that looks at the picture alone.
    pub trunk: pyramid::Config,
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
        if self.side == 0 || !self.side.is_multiple_of(pyramid::COARSEST) {
            return wrong("side must be a multiple of 32");
        }
        self.trunk.check()?;
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

    /// Channels of a cell.
    pub fn cell(&self) -> usize {
        self.trunk.pyramid[1]
    }

    /// Multiply–adds of the trunk for one picture.
    pub fn trunk_macs(&self) -> u64 {
        self.trunk.macs(self.side) + (self.embedding * self.cell() * self.cells()) as u64
    }

    /// Multiply–adds to answer one expression about an encoded picture.
    pub fn answer_macs(&self) -> u64 {
        let tokens = (self.name_tokens + self.tail_tokens) as u64;
        let per_token = self.text * (self.word + 4 * self.text + 2 * self.hidden);
        let per_cell = 2 * self.embedding + self.cell();
        let per_head = self.cell() * (self.best + 1) + self.trunk.summary() + self.text;
        tokens * per_token as u64 + (per_cell * self.cells() + self.head * per_head) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A network small enough for tests.
    fn tiny() -> Config {
        Config {
            side: 64,
            trunk: pyramid::Config::tiny(),
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
        let trunk = pyramid::Config { stages: Vec::new(), ..pyramid::Config::tiny() };
        assert!(Config { trunk, ..tiny() }.validate().is_err());
    }

    #[test]
    fn a_larger_picture_costs_in_proportion() {
        let (small, large) = (tiny(), Config { side: 128, ..tiny() });
        let context = (12 * 12) as u64;
        assert_eq!(4 * (small.trunk_macs() - context), large.trunk_macs() - context);
        assert!(large.answer_macs() > small.answer_macs());
    }
}
