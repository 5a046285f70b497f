//! Weight files of taggers: safetensors, or PyTorch's.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use candle_nn::VarBuilder;

use super::layout::Layout;
use crate::models::checkpoint::{Checkpoint, Described, describe_used};
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
        let info = file.info(layout.name(), |tensor| is_used(&tensor.name));
        let weight_use = file.weight_use();
        Ok(Self { builder: file.builder, info, weight_use })
    }
}

/// Neither the pooler nor buffers are read.
fn is_used(name: &str) -> bool {
    !name.contains(".pooler.") && !name.ends_with("position_ids")
}

/// The weight file of the tagger in `dir` and the tensors that are used of it, without reading them.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn describe(dir: &Path) -> Result<(PathBuf, Vec<Described>)> {
    describe_used(dir, &FILES, |name, _| is_used(name))
}
