//! What a tagger's configuration says.

use std::path::Path;

use candle_nn::Activation;
use serde::Deserialize;

use super::layout::{self, Layout};
use crate::models::{ModelError, Result};

/// Configuration of a tagger: its `config.json`, or what that of another project comes to.
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    /// The encoder's own configuration, in Hugging Face's names.
    pub encoder: EncoderConfig,
    /// Label names in the order of the emissions, e.g. `O`, `B-LOC`, `I-LOC`, `E-LOC`, `S-LOC`, …;
    /// may stand in AdaSeq's `configuration.json` instead.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Which words the CRF sees.
    pub crf_scope: CrfScope,
    /// Pieces of a sequence, `[CLS]` and `[SEP]` included; what is over is cut from the end, so
    /// knowledge goes before the sentence does.
    pub max_length: usize,
    /// Pieces that may follow the sentence (`<EOS>` and knowledge); no bound but `max_length` if
    /// absent.
    #[serde(default)]
    pub max_knowledge: Option<usize>,
    /// What the token type ids say.
    #[serde(default)]
    pub token_types: TokenTypes,
    /// Names of the fine types in the order of the head's logits; empty without that head.
    #[serde(default)]
    pub fine_labels: Vec<String>,
    /// What the tensors are called.
    #[serde(skip)]
    pub layout: Layout,
}

/// Which words the CRF sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CrfScope {
    /// The sentence, `<EOS>` and the knowledge, as PGIM's released code.
    Sequence,
    /// The sentence alone, as the papers say and as AdaSeq does.
    Sentence,
}

/// What the token type ids say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenTypes {
    /// Nothing: all zero, as AdaSeq.
    #[default]
    Zero,
    /// Each word's case (0 no capital, 1 only the first letter, 2 all capitals, 3 otherwise), plus
    /// 4 in the knowledge: lets an uncased vocabulary see capitals.
    WordCase,
}

/// The encoder family, which decides positions and special pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Family {
    /// BERT: positions from 0.
    #[serde(rename = "bert")]
    Bert,
    /// XLM-RoBERTa: positions from the padding id + 1.
    #[serde(rename = "xlm-roberta")]
    XlmRoberta,
}

/// Hugging Face's configuration of a BERT or XLM-RoBERTa encoder.
#[derive(Debug, Clone, Deserialize)]
pub struct EncoderConfig {
    /// The family.
    pub model_type: Family,
    /// Number of pieces in the vocabulary.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Heads of each layer.
    pub num_attention_heads: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Activation inside the feed-forward block; `gelu` is the exact one.
    pub hidden_act: Activation,
    /// Rows of the position table.
    pub max_position_embeddings: usize,
    /// Rows of the token type table.
    pub type_vocab_size: usize,
    /// Added to the variance in layer normalisation.
    pub layer_norm_eps: f64,
    /// Piece id of padding; 0 for BERT if absent. XLM-RoBERTa must state it, because its positions
    /// are counted from there.
    #[serde(default)]
    pub pad_token_id: Option<u32>,
}

impl Config {
    /// Reads and checks the configuration in `dir` (see [`layout`](super::layout)).
    ///
    /// # Errors
    /// The file is unreadable, or its values contradict each other.
    pub fn read(dir: &Path) -> Result<Self> {
        let config = layout::read(dir)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        let encoder = &self.encoder;
        let refuse = |what: &str| Err(ModelError::Weights(what.to_owned()));
        if encoder.num_attention_heads == 0
            || !encoder.hidden_size.is_multiple_of(encoder.num_attention_heads)
        {
            return refuse("hidden_size is not a multiple of num_attention_heads");
        }
        if encoder.model_type == Family::XlmRoberta && encoder.pad_token_id.is_none() {
            return refuse("xlm-roberta without pad_token_id");
        }
        if self.max_length < 3 || self.max_length > encoder.positions() {
            return refuse("max_length is under 3 or over the encoder's positions");
        }
        if self.token_types == TokenTypes::WordCase && encoder.type_vocab_size < 8 {
            return refuse("token types by word case need type_vocab_size 8");
        }
        Ok(())
    }
}

impl EncoderConfig {
    /// Piece id of padding.
    pub fn pad(&self) -> u32 {
        self.pad_token_id.unwrap_or(0)
    }

    /// The longest sequence that the position table has rows for.
    pub fn positions(&self) -> usize {
        match self.model_type {
            Family::Bert => self.max_position_embeddings,
            Family::XlmRoberta => {
                self.max_position_embeddings.saturating_sub(self.pad() as usize + 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(change: impl Fn(&mut serde_json::Value)) -> Result<Config> {
        let mut value = serde_json::json!({
            "encoder": {
                "model_type": "xlm-roberta", "vocab_size": 10, "hidden_size": 8,
                "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
                "hidden_act": "gelu", "max_position_embeddings": 34, "type_vocab_size": 1,
                "layer_norm_eps": 1e-5, "pad_token_id": 1
            },
            "labels": ["O", "B-PER", "I-PER"], "crf_scope": "sequence", "max_length": 32
        });
        change(&mut value);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), value.to_string()).unwrap();
        Config::read(dir.path())
    }

    #[test]
    fn released_checkpoints_need_no_options_of_ours() {
        let config = parse(|_| ()).unwrap();
        assert_eq!(config.token_types, TokenTypes::Zero);
        assert_eq!((config.max_knowledge, config.fine_labels.len()), (None, 0));
        assert_eq!(config.crf_scope, CrfScope::Sequence);
    }

    #[test]
    fn only_bert_has_a_default_padding() {
        let without = |family: &str| {
            parse(|v| {
                v["encoder"]["model_type"] = family.into();
                v["encoder"].as_object_mut().unwrap().remove("pad_token_id");
            })
        };
        assert_eq!(without("bert").unwrap().encoder.pad(), 0);
        let error = without("xlm-roberta").unwrap_err();
        assert!(error.to_string().contains("pad_token_id"), "{error}");
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(parse(|v| v["max_length"] = 33.into()).is_err());
        assert!(parse(|v| v["encoder"]["num_attention_heads"] = 3.into()).is_err());
        assert!(parse(|v| v["token_types"] = "word_case".into()).is_err());
        assert!(parse(|v| v["encoder"]["model_type"] = "gpt2".into()).is_err());
        assert!(Config::read(Path::new("no such folder")).is_err());
    }
}
