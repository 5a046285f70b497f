//! Weight files of taggers: safetensors, or AdaSeq's PyTorch files.

use std::path::{Path, PathBuf};

use candle_core::pickle::PthTensors;
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

use crate::models::{ModelError, Result};

/// Names that a weight file may have, in order of preference.
const FILES: [&str; 3] = ["model.safetensors", "pytorch_model.bin", "best_model.pth"];

/// Older ModelScope trainers wrap the state dict under this key.
const WRAPPER: &str = "state_dict";

/// An opened weight file.
pub struct Weights {
    /// Reads tensors by AdaSeq's names.
    pub builder: VarBuilder<'static>,
    /// Number of parameters that the network reads.
    pub parameters: u64,
    /// Lower-case SHA-256 of the file.
    pub sha256: String,
}

impl Weights {
    /// Opens the weight file in `dir`.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn open(dir: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let path = FILES.iter().map(|name| dir.join(name)).find(|path| path.is_file());
        let path = path.ok_or_else(|| {
            ModelError::Weights(format!("none of {} in {}", FILES.join(", "), dir.display()))
        })?;
        let bytes = std::fs::read(&path)
            .map_err(|source| ModelError::File { path: PathBuf::from(&path), source })?;
        let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let (_, header) = SafeTensors::read_metadata(&bytes)
                .map_err(|error| ModelError::Weights(format!("{}: {error}", path.display())))?;
            let tensors = header.tensors();
            let sizes = tensors.iter().map(|(name, info)| {
                let size: usize = info.shape.iter().product();
                (name.as_str(), size)
            });
            let parameters = count(sizes);
            let builder = VarBuilder::from_buffered_safetensors(bytes, dtype, device)?;
            return Ok(Self { builder, parameters, sha256 });
        }
        drop(bytes);
        let tensors =
            PthTensors::new(&path, Some(WRAPPER)).or_else(|_| PthTensors::new(&path, None))?;
        let sizes = tensors.tensor_infos().iter();
        let parameters =
            count(sizes.map(|(name, info)| (name.as_str(), info.layout.shape().elem_count())));
        let builder = VarBuilder::from_backend(Box::new(tensors), dtype, device.clone());
        Ok(Self { builder, parameters, sha256 })
    }
}

/// Counts what the network reads: neither the pooler nor buffers.
fn count<'a>(sizes: impl Iterator<Item = (&'a str, usize)>) -> u64 {
    sizes
        .filter(|(name, _)| !name.contains(".pooler.") && !name.ends_with("position_ids"))
        .map(|(_, size)| size as u64)
        .sum()
}
