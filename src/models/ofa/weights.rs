//! Weight files: safetensors, or PyTorch's zip format; tensors named as fairseq names them or as
//! the Hugging Face and ModelScope ports do.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::pickle::PthTensors;
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

use crate::models::{ModelError, Result};

/// Names that a pack's weight file may have, in order of preference.
const FILES: [&str; 3] = ["model.safetensors", "model.pt", "model.pth"];

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
    /// Number of parameters that the network reads.
    pub parameters: u64,
    /// Lower-case SHA-256 of the file.
    pub sha256: String,
}

impl Weights {
    /// Opens the weight file in `dir`: `model.safetensors`, `model.pt` or `model.pth`.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn open(dir: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let path = FILES.iter().map(|name| dir.join(name)).find(|path| path.is_file());
        let path = path.ok_or_else(|| {
            ModelError::Weights(format!("none of {} in {}", FILES.join(", "), dir.display()))
        })?;
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            Self::from_safetensors(&path, dtype, device)
        } else {
            Self::from_pickle(&path, dtype, device)
        }
    }

    fn from_safetensors(path: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let data = fs::read(path).map_err(|source| file_error(path, source))?;
        let sha256 = hex(&Sha256::digest(&data));
        let (_, header) = SafeTensors::read_metadata(&data)
            .map_err(|error| ModelError::Weights(format!("{}: {error}", path.display())))?;
        let sizes: Vec<(String, usize)> = header
            .tensors()
            .into_iter()
            .map(|(name, info)| (name, info.shape.iter().product()))
            .collect();
        let builder = VarBuilder::from_buffered_safetensors(data, dtype, device)?;
        Ok(Self::new(builder, &sizes, sha256))
    }

    fn from_pickle(path: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let sha256 = hash(path)?;
        let tensors =
            PthTensors::new(path, Some(FAIRSEQ_KEY)).or_else(|_| PthTensors::new(path, None))?;
        let infos = tensors.tensor_infos().iter();
        let sizes: Vec<(String, usize)> =
            infos.map(|(name, info)| (name.clone(), info.layout.shape().elem_count())).collect();
        if sizes.is_empty() {
            return Err(ModelError::Weights(format!("{}: no tensors", path.display())));
        }
        let builder = VarBuilder::from_backend(Box::new(tensors), dtype, device.clone());
        Ok(Self::new(builder, &sizes, sha256))
    }

    fn new(builder: VarBuilder<'static>, sizes: &[(String, usize)], sha256: String) -> Self {
        let ported = sizes
            .iter()
            .any(|(name, _)| name.contains(PORT_MARKER) || name.contains(PORT_MARKER_PLAIN));
        let builder = if ported { builder.rename_f(ported_name) } else { builder };
        Self { builder, parameters: count(sizes), sha256 }
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

/// Counts what the network reads: not the copies of tied matrices, buffers, statistics, nor the
/// decoder's image tables, which only picture generation uses.
fn count(sizes: &[(String, usize)]) -> u64 {
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
    let tied = ["encoder.embed_tokens", "decoder.embed_tokens", "decoder.output_projection"];
    let is_tied = |name: &str| tied.iter().any(|prefix| name.starts_with(prefix));
    let own = sizes
        .iter()
        .filter(|(name, _)| !is_tied(name) && !UNUSED.iter().any(|part| name.contains(part)));
    let shared = sizes.iter().find(|(name, _)| is_tied(name));
    own.chain(shared).map(|(_, size)| *size as u64).sum()
}

/// Lower-case SHA-256 of a file.
fn hash(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(|source| file_error(path, source))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(|source| file_error(path, source))?;
        if read == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}

/// Lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An error of reading `path`.
pub(super) fn file_error(path: &Path, source: std::io::Error) -> ModelError {
    ModelError::File { path: PathBuf::from(path), source }
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
        let sizes = [
            ("encoder.embed_tokens.weight", 100),
            ("decoder.embed_tokens.weight", 100),
            ("decoder.output_projection.weight", 100),
            ("encoder.token_rp_bucket", 1000),
            ("encoder.embed_images.bn1.running_mean", 7),
            ("decoder.image_pos_ln.weight", 7),
            ("encoder.layer_norm.weight", 4),
        ];
        let sizes: Vec<_> = sizes.iter().map(|&(name, n)| (name.to_owned(), n)).collect();
        assert_eq!(count(&sizes), 104);
    }
}
