//! Weight files: safetensors, or PyTorch's zip format; tensors named as fairseq names them or as
//! the Hugging Face and ModelScope ports do.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use serde_json::Value;

use crate::models::checkpoint::{Checkpoint, Described, describe_used};
use crate::models::{ModelInfo, Result, WeightUse};

/// Names that a pack's weight file may have, in order of preference.
const FILES: [&str; 4] = ["model.safetensors", "pytorch_model.bin", "model.pt", "model.pth"];

/// Names of the one matrix that encoder, decoder and output share; files written without shared
/// storage keep only one.
pub(super) const TOKENS: [&str; 3] = [
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "decoder.output_projection.weight",
];

/// Under this key fairseq keeps the state dict of a checkpoint.
const FAIRSEQ_KEY: &str = "model";

/// A tensor that exists in the ports' layout only.
const PORT_MARKER: &str = ".self_attn_mid_layer_norm.";
/// The same without normalisation after attention.
const PORT_MARKER_PLAIN: &str = ".cross_attn_layer_norm.";

/// An opened weight file.
pub struct Weights {
    /// Reads tensors by fairseq's names.
    pub builder: VarBuilder<'static>,
    /// What is told of the network.
    pub info: ModelInfo,
    /// Settings of training in fairseq's checkpoints, by the keys `cfg` and `args`.
    pub(super) settings: Value,
    /// What is read of the file.
    pub(super) weight_use: WeightUse,
    shapes: HashMap<String, Vec<usize>>,
    ported: bool,
}

impl Weights {
    /// Opens the weight file in `dir`: `model.safetensors`, `pytorch_model.bin`, `model.pt`,
    /// `model.pth`, or the only one that is there, whatever its name.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn open(dir: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let file = Checkpoint::open(dir, &FILES, Some(FAIRSEQ_KEY), dtype, device)?;
        let has = |marker| file.tensors.iter().any(|tensor| tensor.name.contains(marker));
        let ported = has(PORT_MARKER) || has(PORT_MARKER_PLAIN);
        let tied = tied_name(|name| file.tensors.iter().any(|tensor| tensor.name == name));
        let info = file.info("ofa", |tensor| is_used(&tensor.name, tied));
        let weight_use = file.weight_use();
        let builder = if ported { file.builder.rename_f(ported_name) } else { file.builder };
        let shapes = file.tensors.into_iter().map(|tensor| (tensor.name, tensor.shape)).collect();
        Ok(Self { builder, info, settings: file.settings, weight_use, shapes, ported })
    }

    /// The shape of the tensor that fairseq calls `name`.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        let shape = match self.ported {
            true => self.shapes.get(&ported_name(name)),
            false => self.shapes.get(name),
        };
        shape.map(Vec::as_slice)
    }

    /// The name under which the file has the token embedding.
    pub(super) fn tokens(&self) -> Option<&'static str> {
        tied_name(|name| self.shapes.contains_key(name))
    }
}

/// The name in the Hugging Face and ModelScope ports of a tensor that fairseq calls `name`.
fn ported_name(name: &str) -> String {
    let segments = name.split('.').map(|segment| match segment {
        "attn_ln" | "self_attn_ln" => "self_attn_mid_layer_norm",
        "cross_attn_ln" => "cross_attn_mid_layer_norm",
        "encoder_attn" => "cross_attn",
        "encoder_attn_layer_norm" => "cross_attn_layer_norm",
        "ffn_layernorm" => "ffn_layer_norm",
        other => other,
    });
    segments.collect::<Vec<_>>().join(".")
}

/// The weight file of the network in `dir` and the tensors that are used of it, without reading them.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn describe(dir: &Path) -> Result<(PathBuf, Vec<Described>)> {
    describe_used(dir, &FILES, |name, all| {
        is_used(name, tied_name(|name| all.iter().any(|(other, _, _)| other == name)))
    })
}

/// The name by which the one matrix under three names is read.
fn tied_name(has: impl Fn(&str) -> bool) -> Option<&'static str> {
    TOKENS.into_iter().find(|name| has(name))
}

/// Whether the network reads a tensor: not the copies of the tied matrix but `tied`, no buffers or
/// statistics, nor the decoder's image tables, which only picture generation uses.
fn is_used(name: &str, tied: Option<&str>) -> bool {
    const UNUSED: [&str; 11] = [
        "decoder.image_rel_pos_table_list.",
        "decoder.embed_image_positions.",
        "decoder.image_pos_ln.",
        "decoder.code_layernorm_embedding.",
        "_rp_bucket",
        "image_position_idx",
        "num_batches_tracked",
        "running_mean",
        "running_var",
        ".version",
        "_float_tensor",
    ];
    if TOKENS.contains(&name) {
        return tied == Some(name);
    }
    !UNUSED.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_ports() {
        for (fairseq, port) in [
            ("encoder.layers.0.attn_ln.weight", "encoder.layers.0.self_attn_mid_layer_norm.weight"),
            (
                "decoder.layers.1.self_attn_ln.bias",
                "decoder.layers.1.self_attn_mid_layer_norm.bias",
            ),
            ("decoder.layers.1.encoder_attn.c_attn", "decoder.layers.1.cross_attn.c_attn"),
            (
                "decoder.layers.1.encoder_attn_layer_norm.bias",
                "decoder.layers.1.cross_attn_layer_norm.bias",
            ),
            ("encoder.layers.0.self_attn.q_proj.bias", "encoder.layers.0.self_attn.q_proj.bias"),
        ] {
            assert_eq!(ported_name(fairseq), port);
        }
    }

    #[test]
    fn tied_matrices_count_once_and_buffers_not_at_all() {
        let used = [
            ("encoder.embed_tokens.weight", true),
            ("decoder.embed_tokens.weight", false),
            ("decoder.output_projection.weight", false),
            ("encoder.token_rp_bucket", false),
            ("encoder.embed_images.bn1.running_mean", false),
            ("decoder.image_pos_ln.weight", false),
            ("encoder.layer_norm.weight", true),
        ];
        for (name, expected) in used {
            assert_eq!(is_used(name, Some("encoder.embed_tokens.weight")), expected, "{name}");
        }
    }
}
