//! How much memory a pack will need, from the headers of its weight files alone.

use std::path::{Path, PathBuf};

use candle_core::DType;
use serde::Serialize;

use crate::models::{ofa, tagger};

use super::{
    Manifest, PackError, RoleEntry, WeightSummary, WeightTypes, inspect_weights, is_weights,
};

/// What a process needs besides weights even with a small pack: code, thread stacks, pictures in
/// hand, cached embeddings. With `nano` about 250 MB were measured under load.
const BASE_BYTES: u64 = 256 << 20;
/// Activations, as a share of the weights. An allowance, not a measurement: batches and pictures
/// decide.
const ACTIVATION_SHARE: u64 = 4;

/// The memory of one role.
#[derive(Debug, Clone, Serialize)]
pub struct RolePlan {
    /// The role, e.g. `tagger`; several where they share a network, e.g. `entailer, grounder`.
    pub role: String,
    /// Its architecture.
    pub architecture: String,
    /// The weight file.
    pub file: PathBuf,
    /// Number of its parameters that the network uses.
    pub parameters: u64,
    /// Type of the weights on the device.
    pub dtype: String,
    /// Bytes of the weights on the device.
    pub bytes: u64,
}

/// The memory of a pack.
#[derive(Debug, Clone, Serialize)]
pub struct MemoryPlan {
    /// Each network.
    pub roles: Vec<RolePlan>,
    /// Bytes of all weights on the device.
    pub weights: u64,
    /// Allowance for everything else.
    pub working: u64,
    /// The largest tensor as it is stored: it passes through memory while its network is loaded.
    pub largest_tensor: u64,
}

impl MemoryPlan {
    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.weights + self.working.max(self.largest_tensor)
    }
}

/// Plans the memory of the pack in `directory`.
///
/// # Errors
/// When a role has no weight file, or it cannot be read.
pub fn plan(
    directory: &Path,
    manifest: &Manifest,
    types: WeightTypes,
) -> Result<MemoryPlan, PackError> {
    let mut roles: Vec<RolePlan> = Vec::new();
    let mut largest_tensor = 0;
    for (role, entry) in manifest.roles() {
        let ((file, summary), dtype) = (weights_of(directory, entry)?, types.of(entry));
        let shared = |plan: &&mut RolePlan| {
            plan.file == file
                && plan.architecture == entry.architecture
                && plan.dtype == dtype.as_str()
                // Only the dense network answers for two roles at once.
                && entry.architecture == "dense"
        };
        if let Some(plan) = roles.iter_mut().find(shared) {
            plan.role = format!("{}, {role}", plan.role);
            continue;
        }
        largest_tensor = largest_tensor.max(largest(&summary));
        roles.push(RolePlan {
            role: role.to_owned(),
            architecture: entry.architecture.clone(),
            file,
            parameters: summary.parameters,
            dtype: dtype.as_str().to_owned(),
            bytes: bytes_as(&summary, dtype),
        });
    }
    let weights = roles.iter().map(|role| role.bytes).sum::<u64>();
    let working = BASE_BYTES + weights / ACTIVATION_SHARE;
    Ok(MemoryPlan { roles, weights, working, largest_tensor })
}

/// The weight file of a role as its loader takes it, and what the network uses of it.
fn weights_of(directory: &Path, entry: &RoleEntry) -> Result<(PathBuf, WeightSummary), PackError> {
    let folder = directory.join(&entry.path);
    let described = match entry.architecture.as_str() {
        "ofa" => ofa::describe(&folder),
        "transformer-crf" => tagger::describe(&folder),
        // The others read all that is there.
        _ => {
            let file = only_weights(&folder)?;
            let summary = inspect_weights(&file)?;
            return Ok((file, summary));
        }
    };
    let (file, described) = described.map_err(PackError::Weights)?;
    Ok((file, described.into()))
}

/// The weight file of a folder; safetensors before others.
fn only_weights(folder: &Path) -> Result<PathBuf, PackError> {
    let failed = |source| PackError::File { path: folder.to_owned(), source };
    let files = std::fs::read_dir(folder).map_err(failed)?;
    let files = files.map(|file| file.map(|file| file.path())).collect::<Result<Vec<_>, _>>();
    let mut files = files.map_err(failed)?;
    files.retain(|path| is_weights(path));
    files.sort_by_key(|path| {
        (path.extension().is_none_or(|extension| extension != "safetensors"), path.clone())
    });
    files.into_iter().next().ok_or_else(|| {
        failed(std::io::Error::new(std::io::ErrorKind::NotFound, "holds no weight file"))
    })
}

/// Bytes stay bytes; everything else is converted.
fn bytes_as(summary: &WeightSummary, dtype: DType) -> u64 {
    let width = |stored: &str| if stored == "u8" { 1 } else { dtype.size_in_bytes() as u64 };
    summary.tensors.iter().map(|tensor| tensor.elements() * width(&tensor.dtype)).sum()
}

fn largest(summary: &WeightSummary) -> u64 {
    let width = |stored: &str| stored.parse::<DType>().map_or(8, |dtype| dtype.size_in_bytes());
    let bytes = summary.tensors.iter().map(|t| t.elements() * width(&t.dtype) as u64);
    bytes.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nano(types: WeightTypes) -> MemoryPlan {
        let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/models/nano"));
        plan(directory, &Manifest::read(directory).unwrap(), types).unwrap()
    }

    #[test]
    fn a_shared_network_counts_once_and_halves_with_its_type() {
        let single = nano(DType::F32.into());
        let roles: Vec<_> = single.roles.iter().map(|role| role.role.as_str()).collect();
        assert_eq!(roles, ["tagger", "entailer, grounder", "segmenter"]);
        let tagger = &single.roles[0];
        assert_eq!(tagger.bytes, 4 * tagger.parameters);
        assert_eq!(nano(DType::BF16.into()).roles[0].bytes, 2 * tagger.parameters);
        assert_eq!(single.weights, single.roles.iter().map(|role| role.bytes).sum::<u64>());
        assert!(single.total() > single.weights + BASE_BYTES);
    }

    /// What lies in a file unused, and copies of one matrix, take no memory; halves become what is
    /// asked for.
    #[test]
    fn only_what_is_used_counts() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ofa");
        let entry = |path: &str| RoleEntry {
            architecture: "ofa".to_owned(),
            path: path.into(),
            dtype: None,
        };
        let (file, used) = weights_of(&golden, &entry("hub")).unwrap();
        let whole = inspect_weights(&file).unwrap();
        let (device, dtype) = (candle_core::Device::Cpu, DType::F32);
        let weights = ofa::Weights::open(&golden.join("hub"), dtype, &device).unwrap();
        assert_eq!(used.parameters, weights.info.parameters);
        assert_eq!(bytes_as(&used, dtype), weights.info.bytes);
        assert_eq!(bytes_as(&used, DType::F16) * 2, weights.info.bytes);
        // Two more copies of a matrix of 1400 × 16.
        assert!(used.parameters + 2 * 1400 * 16 < whole.parameters);
        assert_eq!(used.dtypes(), ["f16"]);
    }
}
