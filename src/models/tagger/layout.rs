//! The folders in which taggers are found, and what each calls its parts.
//!
//! - Ours: `config.json` holds the encoder's configuration under `encoder`, and labels of its own.
//! - AdaSeq's `output_best`: `config.json` is the encoder's alone, as Hugging Face writes it; the
//!   labels stand in `configuration.json` as `id_to_label`.
//! - Hugging Face's token classifiers: `config.json` has the labels as `id2label`; there is no CRF.

use std::collections::BTreeMap;
use std::path::Path;

use candle_nn::VarBuilder;
use serde::Deserialize;
use serde_json::Value;

use super::config::{Config, CrfScope, EncoderConfig, Family, TokenTypes};
use crate::models::checkpoint::read_json;
use crate::models::{ModelError, Result};

/// What the tensors are called, and whether there is a CRF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// `embedder.transformer_model.*`, `linear.*`, `crf.*`.
    #[default]
    AdaSeq,
    /// `bert.*` or `roberta.*` and `classifier.*`; no CRF.
    TokenClassification,
}

/// The parts of a weight file.
pub(super) struct Parts {
    /// The encoder.
    pub(super) encoder: VarBuilder<'static>,
    /// The linear layer of the labels.
    pub(super) linear: VarBuilder<'static>,
    /// The CRF, where there is one.
    pub(super) crf: Option<VarBuilder<'static>>,
}

impl Layout {
    /// The name in [`ModelInfo`](crate::models::ModelInfo).
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AdaSeq => "transformer-crf",
            Self::TokenClassification => "transformer",
        }
    }

    /// The parts by their names in a file.
    pub(super) fn parts(self, family: Family, file: &VarBuilder<'static>) -> Parts {
        match self {
            Self::AdaSeq => Parts {
                encoder: file.pp("embedder.transformer_model"),
                linear: file.pp("linear"),
                crf: Some(file.pp("crf")),
            },
            Self::TokenClassification => Parts {
                encoder: file.pp(match family {
                    Family::Bert => "bert",
                    Family::XlmRoberta => "roberta",
                }),
                linear: file.pp("classifier"),
                crf: None,
            },
        }
    }
}

/// Reads the configuration of the tagger in `dir`, whichever of the three folders it is.
///
/// # Errors
/// A file is unreadable, there are no labels, or two files name different ones.
pub(super) fn read(dir: &Path) -> Result<Config> {
    let path = dir.join("config.json");
    let wrong =
        |error: serde_json::Error| ModelError::Weights(format!("{}: {error}", path.display()));
    let value: Value = read_json(&path)?;
    let of_adaseq = labels_of_adaseq(dir)?;
    if value.get("encoder").is_some() {
        let mut config: Config = serde_json::from_value(value).map_err(wrong)?;
        config.labels = agreed(config.labels, of_adaseq)?;
        return Ok(config);
    }
    let (labels, layout) = match of_adaseq {
        Some(labels) => (labels, Layout::AdaSeq),
        None => (labels_of_hugging_face(&value)?, Layout::TokenClassification),
    };
    let encoder: EncoderConfig = serde_json::from_value(value).map_err(wrong)?;
    Ok(Config {
        max_length: encoder.positions(),
        encoder,
        labels,
        // As the code that RiVEG released; without a CRF words do not see one another.
        crf_scope: match layout {
            Layout::AdaSeq => CrfScope::Sequence,
            Layout::TokenClassification => CrfScope::Sentence,
        },
        max_knowledge: None,
        token_types: TokenTypes::Zero,
        fine_labels: Vec::new(),
        layout,
    })
}

/// The labels that two files name.
fn agreed(own: Vec<String>, of_adaseq: Option<Vec<String>>) -> Result<Vec<String>> {
    match of_adaseq {
        Some(others) if own.is_empty() => Ok(others),
        Some(others) if others != own => Err(ModelError::Weights(format!(
            "config.json has the labels {}, configuration.json {}",
            own.join(" "),
            others.join(" ")
        ))),
        _ => Ok(own),
    }
}

/// `id_to_label`, wherever it stands in AdaSeq's `configuration.json`, if there is that file.
fn labels_of_adaseq(dir: &Path) -> Result<Option<Vec<String>>> {
    let path = dir.join("configuration.json");
    if !path.is_file() {
        return Ok(None);
    }
    let value: Value = read_json(&path)?;
    find(&value, "id_to_label").map(|map| in_order(map, "id_to_label")).transpose()
}

fn labels_of_hugging_face(config: &Value) -> Result<Vec<String>> {
    let map = config.get("id2label").ok_or_else(|| {
        ModelError::Weights(
            "config.json has no labels, no id2label, and there is no configuration.json with \
             id_to_label"
                .to_owned(),
        )
    })?;
    in_order(map, "id2label")
}

/// The value under `key`, at any depth.
fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(map) => {
            map.get(key).or_else(|| map.values().find_map(|value| find(value, key)))
        }
        Value::Array(list) => list.iter().find_map(|value| find(value, key)),
        _ => None,
    }
}

/// The names of `{"0": name, "1": name, …}`.
fn in_order(map: &Value, what: &str) -> Result<Vec<String>> {
    let names = BTreeMap::<usize, String>::deserialize(map)
        .map_err(|error| ModelError::Weights(format!("{what}: {error}")))?;
    match names.keys().copied().eq(0..names.len()) {
        true => Ok(names.into_values().collect()),
        false => Err(ModelError::Weights(format!("{what} does not count from 0"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn encoder() -> Value {
        json!({
            "model_type": "xlm-roberta", "vocab_size": 10, "hidden_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
            "hidden_act": "gelu", "max_position_embeddings": 34, "type_vocab_size": 1,
            "layer_norm_eps": 1e-5, "pad_token_id": 1
        })
    }

    fn config(config: &Value, configuration: Option<Value>) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        if let Some(value) = configuration {
            std::fs::write(dir.path().join("configuration.json"), value.to_string()).unwrap();
        }
        Config::read(dir.path())
    }

    #[test]
    fn a_token_classifier_has_its_labels_in_the_order_of_their_numbers() {
        let mut flat = encoder();
        let names: serde_json::Map<_, _> =
            (0..11).map(|i| (format!("{i}"), json!(format!("B-{i}")))).collect();
        flat["id2label"] = names.into();
        let read = config(&flat, None).unwrap();
        assert_eq!((read.labels[2].as_str(), read.labels[10].as_str()), ("B-2", "B-10"));
        assert_eq!((read.layout, read.max_length), (Layout::TokenClassification, 32));
        flat["id2label"] = json!({"1": "O"});
        assert!(config(&flat, None).unwrap_err().to_string().contains("from 0"));
        flat["id2label"] = json!({"a": "O"});
        assert!(config(&flat, None).is_err());
    }

    #[test]
    fn labels_of_adaseq_stand_in_a_file_of_their_own() {
        let labels = json!({"model": {"id_to_label": {"0": "O", "1": "B-PER", "2": "I-PER"}}});
        let read = config(&encoder(), Some(labels.clone())).unwrap();
        assert_eq!((read.labels.len(), read.layout), (3, Layout::AdaSeq));
        let mut own = json!({"encoder": encoder(), "crf_scope": "sentence", "max_length": 32});
        assert_eq!(config(&own, Some(labels.clone())).unwrap().labels.len(), 3);
        own["labels"] = json!(["O", "I-PER", "B-PER"]);
        let error = config(&own, Some(labels)).unwrap_err().to_string();
        assert!(error.contains("O I-PER B-PER") && error.contains("O B-PER I-PER"), "{error}");
        assert!(config(&own, Some(json!({"framework": "pytorch"}))).is_ok());
    }

    #[test]
    fn a_folder_without_labels_is_told() {
        let error = config(&encoder(), None).unwrap_err().to_string();
        assert!(error.contains("id2label") && error.contains("configuration.json"), "{error}");
    }
}
