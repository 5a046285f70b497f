//! What is inside a weight file.

use std::path::Path;

use super::PackError;

/// One tensor of a weight file.
#[derive(Debug, Clone)]
pub struct TensorSummary {
    /// Its name in the state dict.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its data type as stored.
    pub dtype: String,
}

/// The tensors of one weight file.
#[derive(Debug, Clone)]
pub struct WeightSummary {
    /// Every tensor, by name.
    pub tensors: Vec<TensorSummary>,
    /// Number of elements in all.
    pub parameters: u64,
}

/// Reads the header of a safetensors file; the tensors themselves are not loaded.
///
/// # Errors
/// When the file cannot be read or is not a safetensors file.
pub fn inspect_weights(path: &Path) -> Result<WeightSummary, PackError> {
    let file =
        std::fs::read(path).map_err(|source| PackError::File { path: path.to_owned(), source })?;
    let parsed = safetensors::SafeTensors::deserialize(&file).map_err(|e| PackError::Manifest {
        path: path.to_owned(),
        message: format!("not safetensors: {e}"),
    })?;
    let mut tensors: Vec<_> = parsed
        .iter()
        .map(|(name, view)| TensorSummary {
            name: name.to_owned(),
            shape: view.shape().to_vec(),
            dtype: format!("{:?}", view.dtype()).to_lowercase(),
        })
        .collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let parameters = tensors.iter().map(|t| t.shape.iter().product::<usize>() as u64).sum();
    Ok(WeightSummary { tensors, parameters })
}
