//! Byte-level BPE to OFA's ids.
//!
//! OFA numbers the tokens of GPT-2's vocabulary by the order of `dict.txt` (that is, as BART and
//! RoBERTa do): line *n* of that file names the GPT-2 id that is OFA's id *n* + 4.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use tokenizers::Tokenizer as Bpe;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::config::Vocabulary;
use crate::models::checkpoint::unreadable;
use crate::models::{ModelError, Result};

/// First id of `dict.txt`: `<s>`, `<pad>`, `</s>` and `<unk>` come before.
const DICTIONARY_OFFSET: u32 = 4;

/// Longest text, in tokens, whatever the position table allows: RiVEG's prompts stay below 256,
/// and attention grows with the square.
const MAX_TOKENS: usize = 512;

/// Turns prompts into ids.
pub struct Tokenizer {
    bpe: Bpe,
    /// OFA's id of each GPT-2 id, where the files are GPT-2's.
    dictionary: Option<HashMap<u32, u32>>,
    vocabulary: Vocabulary,
    vocab_size: usize,
    max_tokens: usize,
}

impl Tokenizer {
    /// Reads the tokenizer in `dir`: `tokenizer.json`, or `encoder.json` and `vocab.bpe` as GPT-2
    /// names them, or `vocab.json` and `merges.txt`. With a `dict.txt` beside them, ids of a
    /// vocabulary without `<s>` are those of GPT-2 and are renumbered; others are the network's own. `sizes` are the rows of
    /// the token embedding and of the position table.
    ///
    /// # Errors
    /// A file is missing or malformed.
    pub fn open(dir: &Path, vocabulary: Vocabulary, sizes: (usize, usize)) -> Result<Self> {
        let json = dir.join("tokenizer.json");
        let bpe = if json.is_file() {
            plain(&Bpe::from_file(&json).map_err(|error| failed(&error))?)?
        } else {
            let pairs = [("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")];
            let pair = pairs.into_iter().find(|(vocab, _)| dir.join(vocab).is_file());
            let (vocab, merges) = pair.ok_or_else(|| {
                ModelError::Tokenizer(format!(
                    "none of tokenizer.json, encoder.json, vocab.json in {}",
                    dir.display()
                ))
            })?;
            byte_level(&dir.join(vocab), &dir.join(merges))?
        };
        let dictionary = dir.join("dict.txt");
        // A vocabulary that has `<s>` is numbered as the network is, whatever lies beside it.
        let renumbered = bpe.token_to_id("<s>").is_none() && dictionary.is_file();
        let dictionary = renumbered.then(|| read_dictionary(&dictionary)).transpose()?;
        let (vocab_size, positions) = sizes;
        let max_tokens = MAX_TOKENS.min(positions);
        Ok(Self { bpe, dictionary, vocabulary, vocab_size, max_tokens })
    }

    /// The ids of a text without `<s>` and `</s>`.
    ///
    /// # Errors
    /// The tokenizer failed, or its ids do not fit the network.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.bpe.encode_fast(text, false).map_err(|error| failed(&error))?;
        let ids = encoding.get_ids().iter();
        let ids: Vec<u32> = match &self.dictionary {
            Some(dictionary) => {
                ids.map(|id| dictionary.get(id).copied().unwrap_or(self.vocabulary.unk)).collect()
            }
            None => ids.copied().collect(),
        };
        match ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            Some(id) => Err(ModelError::Tokenizer(format!("id {id} is outside the vocabulary"))),
            None => Ok(ids),
        }
    }

    /// The ids of a prompt: `<s>`, text, `</s>`. What is too long loses its end; the reference
    /// has no limit of its own and fails beyond its position table.
    ///
    /// # Errors
    /// As [`Self::ids`].
    pub fn source(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = vec![self.vocabulary.bos];
        ids.extend(self.ids(text)?);
        ids.truncate(self.max_tokens - 1);
        ids.push(self.vocabulary.eos);
        Ok(ids)
    }

    /// The first id of each answer. Scoring whole answers along the tree of all answers (each
    /// step normalised over the tokens that still lead to one) comes down to these ids, provided
    /// that they differ: after the first token only one answer is left.
    ///
    /// # Errors
    /// Two answers start alike.
    pub fn first_ids<const N: usize>(&self, answers: [&str; N]) -> Result<[u32; N]> {
        let mut firsts = [self.vocabulary.unk; N];
        for (index, answer) in answers.into_iter().enumerate() {
            let first = self.ids(answer)?.first().copied();
            let first = first.filter(|id| !firsts[..index].contains(id));
            firsts[index] = first.ok_or_else(|| {
                ModelError::Tokenizer(format!("{answer:?} does not start with a token of its own"))
            })?;
        }
        Ok(firsts)
    }
}

/// A tokenizer without its added tokens: a `<bin_7>` that somebody wrote is text, not a location,
/// whether or not the file calls the token special.
fn plain(bpe: &Bpe) -> Result<Bpe> {
    let mut plain = Bpe::new(bpe.get_model().clone());
    plain.with_normalizer(bpe.get_normalizer().cloned()).map_err(|error| failed(&error))?;
    plain.with_pre_tokenizer(bpe.get_pre_tokenizer().cloned());
    Ok(plain)
}

/// GPT-2's tokenizer from its two files.
fn byte_level(vocab: &Path, merges: &Path) -> Result<Bpe> {
    let path = |path: &Path| {
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| ModelError::Tokenizer(format!("{}: not UTF-8", path.display())))
    };
    let model = BPE::from_file(&path(vocab)?, &path(merges)?).build();
    let mut bpe = Bpe::new(model.map_err(|error| failed(&error))?);
    bpe.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    Ok(bpe)
}

/// Reads `dict.txt`: one `token count` per line, the token being a GPT-2 id (the file's last lines
/// are fillers that are not).
fn read_dictionary(path: &Path) -> Result<HashMap<u32, u32>> {
    let text = fs::read_to_string(path).map_err(|source| unreadable(path, source))?;
    let tokens = text.lines().map(|line| line.split_whitespace().next().unwrap_or_default());
    let entries = (DICTIONARY_OFFSET..).zip(tokens);
    Ok(entries.filter_map(|(id, token)| Some((token.parse().ok()?, id))).collect())
}

/// An error of the tokenizer.
fn failed(error: &dyn std::fmt::Display) -> ModelError {
    ModelError::Tokenizer(error.to_string())
}
