//! What is inside a weight file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use candle_core::pickle::PthTensors;
use safetensors::tensor::Metadata;
use serde::Serialize;

use super::PackError;
use super::files::failed;

/// As large as the format lets a header be.
const MAX_HEADER_BYTES: u64 = 100_000_000;

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

/// Keys under which PyTorch files keep their state dict, where not at the top.
const WRAPPERS: [Option<&str>; 3] = [Some("model"), Some("state_dict"), None];

/// Whether a file's name is that of weights.
pub fn is_weights(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("safetensors" | "bin" | "pt" | "pth"))
}

/// Reads what a weight file says of its tensors; the tensors themselves are not loaded.
///
/// # Errors
/// When the file cannot be read or is neither safetensors nor PyTorch's.
pub fn inspect_weights(path: &Path) -> Result<WeightSummary, PackError> {
    let mut tensors = match path.extension().is_some_and(|extension| extension == "safetensors") {
        true => safetensors(path)?,
        false => pickled(path)?,
    };
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let parameters = tensors.iter().map(TensorSummary::elements).sum();
    Ok(WeightSummary { tensors, parameters })
}

fn pickled(path: &Path) -> Result<Vec<TensorSummary>, PackError> {
    let open = |key| PthTensors::new(path, key).ok().filter(|file| !file.tensor_infos().is_empty());
    let file = WRAPPERS.into_iter().find_map(open).ok_or_else(|| PackError::Manifest {
        path: path.to_owned(),
        message: "no tensors of PyTorch's zip format".to_owned(),
    })?;
    let tensors = file.tensor_infos().iter().map(|(name, info)| TensorSummary {
        name: name.clone(),
        shape: info.layout.shape().dims().to_vec(),
        dtype: info.dtype.as_str().to_owned(),
    });
    Ok(tensors.collect())
}

fn safetensors(path: &Path) -> Result<Vec<TensorSummary>, PackError> {
    let header = read_header(path).map_err(|source| failed(path, source))?;
    let header: Metadata = serde_json::from_slice(&header).map_err(|e| PackError::Manifest {
        path: path.to_owned(),
        message: format!("not safetensors: {e}"),
    })?;
    let tensors = header.tensors().into_iter().map(|(name, info)| TensorSummary {
        name,
        shape: info.shape.clone(),
        dtype: format!("{:?}", info.dtype).to_lowercase(),
    });
    Ok(tensors.collect())
}

/// The header's JSON: its length in eight bytes, little end first, comes before it.
fn read_header(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length).min(MAX_HEADER_BYTES);
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header)?;
    Ok(header)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;

    #[test]
    fn the_header_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let tensor =
            |shape: (usize, usize), dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
        let tensors = [("b", tensor((2, 3), DType::F32)), ("a", tensor((1, 5), DType::U8))];
        let tensors = tensors.map(|(name, tensor)| (name.to_owned(), tensor));
        candle_core::safetensors::save(&tensors.into(), &path).unwrap();
        // Whatever follows the header is not looked at.
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 20]).unwrap();
        let summary = inspect_weights(&path).unwrap();
        let told =
            summary.tensors.iter().map(|t| (t.name.as_str(), &t.shape[..], t.dtype.as_str()));
        assert_eq!(told.collect::<Vec<_>>(), [("a", &[1, 5][..], "u8"), ("b", &[2, 3][..], "f32")]);
        assert_eq!(summary.parameters, 11);
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
