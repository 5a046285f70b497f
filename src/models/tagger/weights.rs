//! Weight files of taggers: safetensors, or PyTorch's.

use std::path::Path;

use candle_core::{DType, Device};
use candle_nn::VarBuilder;

use super::layout::Layout;
use crate::models::checkpoint::Checkpoint;
use crate::models::{ModelInfo, Result, WeightUse};

/// Names that a weight file may have, in order of preference.
const FILES: [&str; 3] = ["model.safetensors", "pytorch_model.bin", "best_model.pth"];

/// Older ModelScope trainers wrap the state dict under this key.
const WRAPPER: &str = "state_dict";

/// An opened weight file.
pub struct Weights {
    /// Reads tensors by the file's own names.
    pub builder: VarBuilder<'static>,
    /// What is told of the network.
    pub info: ModelInfo,
    /// What is read of the file.
    pub(super) weight_use: WeightUse,
}

impl Weights {
    /// Opens the weight file in `dir`.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn open(dir: &Path, layout: Layout, dtype: DType, device: &Device) -> Result<Self> {
        let file = Checkpoint::open(dir, &FILES, Some(WRAPPER), dtype, device)?;
        // Neither the pooler nor buffers are read.
        let info = file.info(layout.name(), |tensor| {
            !tensor.name.contains(".pooler.") && !tensor.name.ends_with("position_ids")
        });
        let weight_use = file.weight_use();
        Ok(Self { builder: file.builder, info, weight_use })
    }
}
