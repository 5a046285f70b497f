//! What a directory says of its network, in whichever of the forms that OFA is published in.
//!
//! - Ours: `config.json` with `network` and `image_size` (see [`ModelConfig`]).
//! - Hugging Face's and ModelScope's: `config.json` is an `OFAConfig`; ModelScope's
//!   `configuration.json` says how pictures are fed.
//! - fairseq's: a checkpoint alone, whose `cfg` (or `args`, in older ones) has the flags of training.
//!
//! Sizes are read from the weights' shapes. What shapes cannot say is read from the flags; a flag for
//! something that the network here does not do is refused by its name.

use std::path::Path;

use serde_json::Value;

use super::config::{Config, ModelConfig, Network, Vocabulary};
use super::flags::Flags;
use super::weights::Weights;
use crate::models::checkpoint::read_json;
use crate::models::{ModelError, Result};

/// Location tokens of every published vocabulary; they are its end.
const BINS: u64 = 1000;
/// Sizes that an `OFAConfig` states, beside those of the weights.
type Stated = fn(&Config) -> usize;
const STATED: [(&str, Stated); 11] = [
    ("vocab_size", |c| c.vocab_size),
    ("d_model", |c| c.d_model),
    ("encoder_layers", |c| c.encoder_layers),
    ("decoder_layers", |c| c.decoder_layers),
    ("encoder_attention_heads", |c| c.encoder_attention_heads),
    ("decoder_attention_heads", |c| c.decoder_attention_heads),
    ("encoder_ffn_dim", |c| c.encoder_ffn_dim),
    ("decoder_ffn_dim", |c| c.decoder_ffn_dim),
    ("max_position_embeddings", |c| c.max_position_embeddings),
    ("token_bucket_size", |c| c.token_bucket_size),
    ("image_bucket_size", |c| c.image_bucket_size),
];

impl ModelConfig {
    /// The configuration of the network in `dir` with these weights; its pictures have `side` pixels
    /// where nothing says otherwise.
    ///
    /// # Errors
    /// A file is malformed, files contradict each other, or a flag is not that of this network.
    pub fn read(dir: &Path, weights: &Weights, side: usize) -> Result<Self> {
        let trained = Flags::of_checkpoint(&weights.settings);
        trained.check()?;
        let path = dir.join("config.json");
        let model = if path.is_file() {
            let value: Value = read_json(&path)?;
            match value.get("network") {
                Some(_) => ours(value, &trained, &path)?,
                None => ported(dir, value, weights, side)?,
            }
        } else {
            let mut config = shapes(weights)?;
            apply(&mut config, &trained);
            fed(config, &trained, side)
        };
        model.validate()?;
        Ok(model)
    }
}

/// A `config.json` of ours. A named size has the flags that its checkpoint was trained with; one that
/// states all its fields may not contradict them.
fn ours(value: Value, trained: &Flags, path: &Path) -> Result<ModelConfig> {
    let mut model: ModelConfig = serde_json::from_value(value)
        .map_err(|error| ModelError::Weights(format!("{}: {error}", path.display())))?;
    let stated = model.network();
    let mut applied = stated.clone();
    apply(&mut applied, trained);
    match &model.network {
        Network::Preset(_) => model.network = Network::Custom(Box::new(applied)),
        Network::Custom(_) if applied == stated => {}
        Network::Custom(_) => {
            return Err(ModelError::Weights(format!(
                "{}: entangle_encoder_positions = {} and entangle_decoder_positions = {} \
                 contradict the checkpoint, which was trained with {} and {}",
                path.display(),
                stated.entangle_encoder_positions,
                stated.entangle_decoder_positions,
                applied.entangle_encoder_positions,
                applied.entangle_decoder_positions
            )));
        }
    }
    Ok(model)
}

/// An `OFAConfig`, with ModelScope's `configuration.json` where there is one.
fn ported(dir: &Path, value: Value, weights: &Weights, side: usize) -> Result<ModelConfig> {
    let mut config = shapes(weights)?;
    for (name, actual) in STATED {
        let stated = value.get(name).and_then(Value::as_u64);
        if stated.is_some_and(|stated| stated != actual(&config) as u64) {
            return Err(ModelError::Weights(format!(
                "config.json: {name} is {}, the weights have {}",
                stated.unwrap_or_default(),
                actual(&config)
            )));
        }
    }
    let around = dir.join("configuration.json");
    let around: Value = if around.is_file() { read_json(&around)? } else { Value::Null };
    let flags = Flags::of_port(&value, &around);
    flags.check()?;
    let entangled = flags.is_on("entangle_position_embedding").unwrap_or(false);
    config.entangle_encoder_positions = entangled;
    let disabled = flags.is_on("disable_entangle").unwrap_or(false);
    config.entangle_decoder_positions = entangled && !disabled;
    Ok(fed(config, &flags, side))
}

/// Applies what fairseq's flags say of positions.
fn apply(config: &mut Config, flags: &Flags) {
    if let Some(entangled) = flags.is_on("entangle_position_embedding") {
        config.entangle_encoder_positions = entangled;
    }
    // In fairseq's decoder this flag alone decides.
    if let Some(disabled) = flags.is_on("disable_entangle") {
        config.entangle_decoder_positions = !disabled;
    }
}

/// A network with what is known of its pictures and its vocabulary.
fn fed(config: Config, flags: &Flags, side: usize) -> ModelConfig {
    let bins = flags.count("num_bins").unwrap_or(BINS) as u32;
    let first_bin = (config.vocab_size as u32).saturating_sub(bins);
    ModelConfig {
        image_size: flags.count("patch_image_size").map_or(side, |side| side as usize),
        vocabulary: Vocabulary { first_bin, bins, ..Vocabulary::default() },
        network: Network::Custom(Box::new(config)),
    }
}

/// The sizes of the network that these weights are of; positions are not added to inputs.
fn shapes(weights: &Weights) -> Result<Config> {
    let missing = |name: &str| ModelError::Weights(format!("there is no tensor {name} for OFA"));
    let size = |name: &str, dimension: usize| {
        let size = weights.shape(name).and_then(|shape| shape.get(dimension));
        size.copied().ok_or_else(|| missing(name))
    };
    let has = |name: &str| weights.shape(name).is_some();
    let count = |name: &dyn Fn(usize) -> String| (0..).take_while(|&i| has(&name(i))).count();
    let layers = |stack: &str| count(&|i| format!("{stack}.layers.{i}.fc1.weight"));
    let blocks =
        |stage: usize| count(&|i| format!("encoder.embed_images.layer{stage}.{i}.conv3.weight"));
    let tokens = weights.tokens().ok_or_else(|| missing("encoder.embed_tokens.weight"))?;
    let relative = size("encoder.image_rel_pos_table_list.0.weight", 0)?;
    let config = Config {
        vocab_size: size(tokens, 0)?,
        d_model: size(tokens, 1)?,
        encoder_layers: layers("encoder"),
        decoder_layers: layers("decoder"),
        encoder_attention_heads: size("encoder.token_rel_pos_table_list.0.weight", 1)?,
        decoder_attention_heads: size("decoder.token_rel_pos_table_list.0.weight", 1)?,
        encoder_ffn_dim: size("encoder.layers.0.fc1.weight", 0)?,
        decoder_ffn_dim: size("decoder.layers.0.fc1.weight", 0)?,
        max_position_embeddings: size("encoder.embed_positions.weight", 0)?.saturating_sub(2),
        token_bucket_size: size("encoder.token_rel_pos_table_list.0.weight", 0)?.div_ceil(2),
        // The table has (2 · size − 1)² + 3 rows.
        image_bucket_size: relative.saturating_sub(3).isqrt().div_ceil(2),
        resnet_layers: [blocks(1), blocks(2), blocks(3)],
        resnet_width: size("encoder.embed_images.conv1.weight", 0)?,
        scale_attn: has("encoder.layers.0.attn_ln.weight"),
        scale_fc: has("encoder.layers.0.ffn_layernorm.weight"),
        scale_heads: has("encoder.layers.0.self_attn.c_attn"),
        entangle_encoder_positions: false,
        entangle_decoder_positions: false,
    };
    Ok(config)
}
