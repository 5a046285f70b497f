//! From words to pieces: `[CLS] s <EOS> z [SEP]`, and back from pieces to words.
//!
//! As AdaSeq's sequence-labelling preprocessor: every word is cut to pieces alone, a word without
//! pieces becomes one unknown piece, and the first piece stands for the word. Words are added
//! until `max_length - 1` pieces are reached; the last word may be cut, later ones are dropped.

use tokenizers::Tokenizer;

use super::config::{Config, Family, TokenTypes};
use super::encoder::PieceBatch;
use crate::models::{ModelError, Result};

/// The literal word between a sentence and its knowledge.
pub const END_OF_SENTENCE: &str = "<EOS>";

/// Added to a knowledge word's token type under [`TokenTypes::WordCase`].
const KNOWLEDGE_TYPE: u32 = 4;

/// A sentence and its knowledge as words.
#[derive(Debug, Clone, Copy)]
pub struct WordInput<'a> {
    /// The sentence.
    pub words: &'a [&'a str],
    /// The knowledge; empty without any.
    pub knowledge: &'a [&'a str],
}

/// One sequence of pieces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Piece ids.
    pub ids: Vec<u32>,
    /// Token type ids.
    pub token_types: Vec<u32>,
    /// Index of the first piece of each word that is left: the sentence's, then `<EOS>` and the
    /// knowledge's.
    pub firsts: Vec<usize>,
    /// How many of `firsts` are the sentence's.
    pub sentence: usize,
}

/// Cuts words to pieces.
#[derive(Debug)]
pub struct Preprocessor {
    tokenizer: Tokenizer,
    first: u32,
    last: u32,
    unknown: u32,
    pad: u32,
    max_length: usize,
    max_knowledge: usize,
    token_types: TokenTypes,
}

impl Preprocessor {
    /// Takes over a tokenizer.
    ///
    /// # Errors
    /// The tokenizer lacks a special piece of the encoder's family.
    pub fn new(mut tokenizer: Tokenizer, config: &Config) -> Result<Self> {
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|error| ModelError::Tokenizer(error.to_string()))?;
        let special = |name: &str| {
            tokenizer
                .token_to_id(name)
                .ok_or_else(|| ModelError::Tokenizer(format!("no special piece {name}")))
        };
        let (first, last, unknown) = match config.encoder.model_type {
            Family::Bert => ("[CLS]", "[SEP]", "[UNK]"),
            Family::XlmRoberta => ("<s>", "</s>", "<unk>"),
        };
        Ok(Self {
            first: special(first)?,
            last: special(last)?,
            unknown: special(unknown)?,
            pad: config.encoder.pad(),
            max_length: config.max_length,
            max_knowledge: config.max_knowledge.unwrap_or(usize::MAX),
            token_types: config.token_types,
            tokenizer,
        })
    }

    /// The pieces of one input.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn sequence(&self, input: &WordInput) -> Result<Sequence> {
        let budget = self.max_length - 1;
        let mut sequence =
            Sequence { ids: vec![self.first], token_types: vec![0], ..Sequence::default() };
        self.add(&mut sequence, input.words.iter().copied(), budget, 0)?;
        sequence.sentence = sequence.firsts.len();
        if !input.knowledge.is_empty() {
            let end = budget.min(sequence.ids.len().saturating_add(self.max_knowledge));
            let words = [END_OF_SENTENCE].into_iter().chain(input.knowledge.iter().copied());
            self.add(&mut sequence, words, end, KNOWLEDGE_TYPE)?;
        }
        sequence.ids.push(self.last);
        sequence.token_types.push(0);
        Ok(sequence)
    }

    /// Adds words until the sequence has `end` pieces.
    fn add<'a>(
        &self,
        sequence: &mut Sequence,
        words: impl Iterator<Item = &'a str>,
        end: usize,
        base: u32,
    ) -> Result<()> {
        for word in words {
            if sequence.ids.len() >= end {
                break;
            }
            let encoding = self
                .tokenizer
                .encode_fast(word, false)
                .map_err(|error| ModelError::Tokenizer(error.to_string()))?;
            let pieces = match encoding.get_ids() {
                [] => &[self.unknown],
                ids => ids,
            };
            sequence.firsts.push(sequence.ids.len());
            sequence.ids.extend_from_slice(pieces);
            sequence.ids.truncate(end);
            let token_type = match self.token_types {
                TokenTypes::Zero => 0,
                TokenTypes::WordCase => base + word_case(word),
            };
            sequence.token_types.resize(sequence.ids.len(), token_type);
        }
        Ok(())
    }

    /// Pads sequences on the right to the longest.
    pub fn batch(&self, sequences: &[Sequence]) -> PieceBatch {
        let longest = sequences.iter().map(|sequence| sequence.ids.len()).max().unwrap_or(0);
        let padded = |values: &[u32], fill: u32| {
            let mut row = values.to_vec();
            row.resize(longest, fill);
            row
        };
        PieceBatch {
            ids: sequences.iter().map(|sequence| padded(&sequence.ids, self.pad)).collect(),
            token_types: sequences.iter().map(|s| padded(&s.token_types, 0)).collect(),
            lengths: sequences.iter().map(|sequence| sequence.ids.len()).collect(),
        }
    }
}

/// Case of a word: 0 no capital, 1 only the first letter, 2 all capitals, 3 any other mixture.
fn word_case(word: &str) -> u32 {
    match word.chars().filter(|c| c.is_uppercase()).count() {
        0 => 0,
        1 if word.starts_with(char::is_uppercase) => 1,
        1 => 3,
        _ if word.chars().any(char::is_lowercase) => 3,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_of_words() {
        for (word, case) in [
            ("lakers", 0),
            ("2016", 0),
            ("", 0),
            ("Lakers", 1),
            ("I", 1),
            ("Éire", 1),
            ("NBA", 2),
            ("U2S", 2),
            ("LeBron", 3),
            ("iPhone", 3),
            ("3D", 3),
        ] {
            assert_eq!(word_case(word), case, "{word}");
        }
    }
}
