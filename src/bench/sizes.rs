//! What `tagger=xlm-roberta-large,ofa=base,sam=vit-b` means.

use std::str::FromStr;

use serde_json::{Value, json};

use crate::models::sam;

/// Networks of known sizes to fill with random weights; those not named are left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RandomSizes {
    /// `config.json` of the tagger.
    pub tagger: Option<Value>,
    /// Name of OFA's size; see [`crate::models::ofa::Preset`].
    pub ofa: Option<String>,
    /// The segmenter's sizes.
    pub sam: Option<sam::Config>,
}

/// A description of networks that is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SizeError {
    /// Not of the form `role=size,…`.
    #[error("`{0}` is not of the form role=size,role=size")]
    Form(String),
    /// A size, or a role, that is not known.
    #[error(
        "`{0}` is not known: use tagger=tiny|xlm-roberta-base|xlm-roberta-large, \
         ofa=tiny|medium|base|large|huge, sam=tiny|mobile|vit-b|vit-l|vit-h"
    )]
    Unknown(String),
}

impl FromStr for RandomSizes {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let mut sizes = Self::default();
        for part in text.split(',') {
            let (role, size) =
                part.split_once('=').ok_or_else(|| SizeError::Form(text.to_owned()))?;
            let known = match role {
                "tagger" => tagger(size).map(|config| sizes.tagger = Some(config)),
                "ofa" => ofa(size).map(|name| sizes.ofa = Some(name)),
                "sam" => sam_config(size).map(|config| sizes.sam = Some(config)),
                _ => None,
            };
            known.ok_or_else(|| SizeError::Unknown(part.to_owned()))?;
        }
        Ok(sizes)
    }
}

/// A tagger over the pieces of XLM-RoBERTa with four types of entities.
fn tagger(size: &str) -> Option<Value> {
    let (hidden, layers, heads, vocabulary) = match size {
        "tiny" => (32, 2, 4, 64),
        "xlm-roberta-base" => (768, 12, 12, 250_002),
        "xlm-roberta-large" => (1024, 24, 16, 250_002),
        _ => return None,
    };
    let types = ["LOC", "MISC", "ORG", "PER"];
    let marks = |kind: &&str| ["B", "I", "E", "S"].map(|mark| format!("{mark}-{kind}"));
    let labels = [vec!["O".to_owned()], types.iter().flat_map(marks).collect()].concat();
    Some(json!({
        "encoder": {
            "model_type": "xlm-roberta", "vocab_size": vocabulary, "hidden_size": hidden,
            "num_hidden_layers": layers, "num_attention_heads": heads,
            "intermediate_size": 4 * hidden, "hidden_act": "gelu",
            "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5,
            "pad_token_id": 1
        },
        "labels": labels, "crf_scope": "sequence", "max_length": 512
    }))
}

fn ofa(size: &str) -> Option<String> {
    ["tiny", "medium", "base", "large", "huge"].contains(&size).then(|| size.to_owned())
}

fn sam_config(size: &str) -> Option<sam::Config> {
    Some(match size {
        "tiny" => sam::Config {
            image_size: 64,
            image_encoder: sam::ImageEncoderConfig::Vit(sam::VitConfig {
                patch_size: 16,
                embed_dim: 32,
                depth: 2,
                num_heads: 2,
                mlp_ratio: 2.0,
                window_size: 3,
                global_attn_indexes: vec![1],
            }),
            out_chans: 32,
            decoder_mlp_dim: 64,
            ..sam::Config::vit_b()
        },
        "mobile" => sam::Config::mobile(),
        "vit-b" => sam::Config::vit_b(),
        "vit-l" => sam::Config::vit_l(),
        "vit-h" => sam::Config::vit_h(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_by_their_names() {
        let sizes: RandomSizes = "tagger=xlm-roberta-large,sam=vit-h".parse().unwrap();
        assert_eq!(sizes.tagger.unwrap()["encoder"]["num_hidden_layers"], 24);
        assert_eq!(sizes.sam, Some(sam::Config::vit_h()));
        assert_eq!(sizes.ofa, None);
    }

    #[test]
    fn what_is_not_known_is_told() {
        let error = |text: &str| text.parse::<RandomSizes>().unwrap_err();
        assert_eq!(error("tagger"), SizeError::Form("tagger".to_owned()));
        assert_eq!(error("ofa=base,sam=vit-x"), SizeError::Unknown("sam=vit-x".to_owned()));
        assert_eq!(error("captioner=tiny"), SizeError::Unknown("captioner=tiny".to_owned()));
    }
}
