//! Weight files on disk: safetensors, or PyTorch's checkpoints.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, DeviceLocation};
use candle_nn::VarBuilder;
use safetensors::Dtype;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::streamed::{Shared, StreamedTensors};
use super::weight_use::WeightUse;
use super::{ModelError, ModelInfo, Result};

/// An opened weight file.
pub(super) struct Checkpoint {
    /// Reads the tensors by the file's own names.
    pub(super) builder: VarBuilder<'static>,
    /// The tensors that the file holds.
    pub(super) tensors: Vec<StoredTensor>,
    /// What a file of PyTorch's holds of settings, by the keys `cfg` and `args`; `Null` without.
    pub(super) settings: Value,
    /// Lower-case SHA-256 of the file.
    sha256: String,
    file: Arc<StreamedTensors>,
}

/// A tensor in a file.
pub(super) struct StoredTensor {
    /// The file's name for it.
    pub(super) name: String,
    /// Its shape.
    pub(super) shape: Vec<usize>,
    /// Whether its elements are bytes, which stay bytes on the device.
    pub(super) is_bytes: bool,
}

impl StoredTensor {
    /// Number of its elements.
    fn elements(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64
    }
}

impl Checkpoint {
    /// Opens the first of `files` that `dir` holds, or the only weight file that it holds. A PyTorch file's state dict may lie under the
    /// key `wrapper`, or under one that is usual.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub(super) fn open(
        dir: &Path,
        files: &[&str],
        wrapper: Option<&str>,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let path = weight_file(dir, files)?;
        let file = StreamedTensors::open(&path, wrapper)?;
        let sha256 = file.sha256()?;
        let tensors = file.tensors().iter().map(|(name, info)| StoredTensor {
            name: name.clone(),
            shape: info.shape.clone(),
            is_bytes: info.dtype == Dtype::U8,
        });
        let (tensors, settings) = (tensors.collect(), file.settings().clone());
        let file = Arc::new(file);
        let shared = Box::new(Shared(file.clone()));
        let builder = VarBuilder::from_backend(shared, dtype, device.clone());
        Ok(Self { builder, tensors, settings, sha256, file })
    }

    /// The file, with what is read of it from here on.
    pub(super) fn weight_use(&self) -> WeightUse {
        WeightUse::of(self.file.clone())
    }

    /// What is told of a model that holds the tensors for which `used` is true.
    pub(super) fn info(
        &self,
        architecture: &str,
        used: impl Fn(&StoredTensor) -> bool,
    ) -> ModelInfo {
        let dtype = self.builder.dtype();
        let width = |tensor: &StoredTensor| match tensor.is_bytes {
            true => 1,
            false => dtype.size_in_bytes() as u64,
        };
        let used = || self.tensors.iter().filter(|tensor| used(tensor));
        ModelInfo {
            architecture: architecture.to_owned(),
            parameters: used().map(|tensor| tensor.elements()).sum(),
            bytes: used().map(|tensor| tensor.elements() * width(tensor)).sum(),
            dtype: dtype.as_str().to_owned(),
            device: device_name(self.builder.device()),
            sha256: self.sha256.clone(),
        }
    }
}

/// What describes a stored tensor: name, shape and data type.
pub type Described = (String, Vec<usize>, String);

/// The weight file that a network in `dir` is read from, and those of its tensors that are `used`.
pub(super) fn describe_used(
    dir: &Path,
    files: &[&str],
    used: impl Fn(&str, &[Described]) -> bool,
) -> Result<(PathBuf, Vec<Described>)> {
    let path = weight_file(dir, files)?;
    let all = describe_weights(&path)?;
    let kept = all.iter().filter(|(name, _, _)| used(name, &all)).cloned().collect();
    Ok((path, kept))
}

/// The first of `files` that `dir` holds; without, its only weight file, whatever its name.
fn weight_file(dir: &Path, files: &[&str]) -> Result<PathBuf> {
    if let Some(path) = files.iter().map(|name| dir.join(name)).find(|path| path.is_file()) {
        return Ok(path);
    }
    let listed = fs::read_dir(dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let listed = listed.map_err(|source| unreadable(dir, source))?.into_iter();
    let mut others: Vec<PathBuf> =
        listed.map(|entry| entry.path()).filter(|path| is_weights(path)).collect();
    match (others.pop(), others.len()) {
        (Some(only), 0) => Ok(only),
        (Some(_), more) => Err(ModelError::Weights(format!(
            "{}: has {} weight files and none of {}; call the one that is meant {}, and merge those \
             that are parts of one",
            dir.display(),
            more + 1,
            files.join(", "),
            files[0]
        ))),
        _ => Err(ModelError::Weights(format!("none of {} in {}", files.join(", "), dir.display()))),
    }
}

/// What trainers leave beside the weights in files named like them.
const NO_WEIGHTS: [&str; 4] =
    ["optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth"];

/// Whether a file's name is that of weights.
pub fn is_weights(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let other = name.starts_with('.') || NO_WEIGHTS.contains(&&*name);
    !other && matches!(extension, Some("safetensors" | "bin" | "pt" | "pth"))
}

/// Name, shape and stored data type of every tensor in a weight file, by name.
///
/// # Errors
/// The file cannot be read, is no weight file, or ends early.
pub fn describe_weights(path: &Path) -> Result<Vec<Described>> {
    let file = StreamedTensors::open(path, None)?;
    let described = file.tensors().iter().map(|(name, tensor)| {
        let dtype = format!("{:?}", tensor.dtype).to_lowercase();
        (name.clone(), tensor.shape.clone(), dtype)
    });
    let mut described: Vec<_> = described.collect();
    described.sort();
    Ok(described)
}

/// The JSON file at `path`.
///
/// # Errors
/// It is missing, or not what `T` is read from.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).map_err(|source| unreadable(path, source))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| ModelError::Weights(format!("{}: {error}", path.display())))
}

/// An error of reading `path`.
pub(super) fn unreadable(path: &Path, source: std::io::Error) -> ModelError {
    ModelError::File { path: PathBuf::from(path), source }
}

/// The device as [`ModelInfo`] spells it: `cpu`, `cuda:0`, …
pub fn device_name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => "cpu".to_owned(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// Lower-case SHA-256 of a file that may be large.
///
/// # Errors
/// It cannot be read.
pub fn hash_file(path: &Path) -> std::io::Result<String> {
    hash_reader(&mut File::open(path)?)
}

/// Lower-case SHA-256 of all that follows.
pub(super) fn hash_reader(reader: &mut impl Read) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;

    use super::*;

    #[test]
    fn a_file_says_what_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let cpu = Device::Cpu;
        let tensors = std::collections::HashMap::from([
            ("table".to_owned(), Tensor::zeros((3, 5), DType::U8, &cpu).unwrap()),
            ("weight".to_owned(), Tensor::zeros((2, 4), DType::F16, &cpu).unwrap()),
            ("unused".to_owned(), Tensor::zeros(100, DType::F32, &cpu).unwrap()),
        ]);
        let path = dir.path().join("model.safetensors");
        candle_core::safetensors::save(&tensors, &path).unwrap();
        let files = ["model.pt", "model.safetensors"];
        let file = Checkpoint::open(dir.path(), &files, None, DType::F32, &cpu).unwrap();
        let info = file.info("test", |tensor| tensor.name != "unused");
        assert_eq!((info.parameters, info.bytes), (15 + 8, 15 + 8 * 4));
        assert_eq!((info.device.as_str(), info.dtype.as_str()), ("cpu", "f32"));
        assert_eq!(info.sha256, hash_file(&path).unwrap());
        assert_eq!(file.builder.get((2, 4), "weight").unwrap().dtype(), DType::F32);
    }

    #[test]
    fn what_is_missing_or_broken_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            let files = ["model.safetensors", "model.pt"];
            match Checkpoint::open(dir.path(), &files, Some("model"), DType::F32, &Device::Cpu) {
                Ok(_) => panic!("opened"),
                Err(error) => error.to_string(),
            }
        };
        assert!(open().contains("none of model.safetensors, model.pt"), "{}", open());
        fs::write(dir.path().join("model.pt"), b"not a zip").unwrap();
        assert!(!open().contains("none of"), "{}", open());
        fs::write(dir.path().join("model.safetensors"), b"short").unwrap();
        assert!(open().contains("model.safetensors"), "{}", open());
        let read = read_json::<Vec<u32>>(&dir.path().join("model.pt")).unwrap_err();
        assert!(read.to_string().contains("model.pt"), "{read}");
    }
}
