//! What is inside a weight file.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use super::PackError;
use crate::models::{Described, describe_weights};

/// One tensor of a weight file.
#[derive(Debug, Clone, Serialize)]
pub struct TensorSummary {
    /// Its name in the state dict.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its data type as stored.
    pub dtype: String,
}

impl TensorSummary {
    /// Number of its elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64
    }
}

/// The tensors of one weight file.
#[derive(Debug, Clone)]
pub struct WeightSummary {
    /// Every tensor, by name.
    pub tensors: Vec<TensorSummary>,
    /// Number of elements in all.
    pub parameters: u64,
}

impl WeightSummary {
    /// The data types that occur.
    pub fn dtypes(&self) -> Vec<&str> {
        let dtypes: BTreeSet<_> = self.tensors.iter().map(|tensor| tensor.dtype.as_str()).collect();
        dtypes.into_iter().collect()
    }
}

/// Reads what a weight file says of its tensors; the tensors themselves are not loaded.
///
/// # Errors
/// When the file cannot be read, ends early, or is neither safetensors nor a checkpoint of PyTorch's
/// that is read here.
pub fn inspect_weights(path: &Path) -> Result<WeightSummary, PackError> {
    Ok(describe_weights(path).map_err(PackError::Weights)?.into())
}

impl From<Vec<Described>> for WeightSummary {
    fn from(described: Vec<Described>) -> Self {
        let summary = |(name, shape, dtype)| TensorSummary { name, shape, dtype };
        let tensors: Vec<TensorSummary> = described.into_iter().map(summary).collect();
        let parameters = tensors.iter().map(TensorSummary::elements).sum();
        Self { tensors, parameters }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;

    #[test]
    fn the_header_says_it_and_how_long_the_file_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let tensor =
            |shape: (usize, usize), dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
        let tensors = [("b", tensor((2, 3), DType::F32)), ("a", tensor((1, 5), DType::U8))];
        let tensors = tensors.map(|(name, tensor)| (name.to_owned(), tensor));
        candle_core::safetensors::save(&tensors.into(), &path).unwrap();
        let summary = inspect_weights(&path).unwrap();
        let told =
            summary.tensors.iter().map(|t| (t.name.as_str(), &t.shape[..], t.dtype.as_str()));
        assert_eq!(told.collect::<Vec<_>>(), [("a", &[1, 5][..], "u8"), ("b", &[2, 3][..], "f32")]);
        assert_eq!(summary.parameters, 11);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 20]).unwrap();
        assert!(inspect_weights(&path).unwrap_err().to_string().contains("announced"));
    }

    #[test]
    fn what_is_no_safetensors_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        for content in [&b"short"[..], b"version https://git-lfs.github.com/spec/v1", &[255; 8]] {
            std::fs::write(&path, content).unwrap();
            assert!(inspect_weights(&path).is_err(), "{content:?}");
        }
    }
}
