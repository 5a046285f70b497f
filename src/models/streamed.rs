//! A weight file that is read tensor by tensor, when a network asks for one: what it does not ask for
//! is never read, and beside the network no more than one tensor is in memory.
//!
//! The file is safetensors or PyTorch's, which its first bytes say, whatever its name is.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::Value;

use super::checkpoint::{hash_reader, unreadable};
use super::pickle::{self, Fault};
use super::{ModelError, Result};

/// As large as the format lets a header be.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Before the header stands its length.
const LENGTH_BYTES: u64 = 8;
/// Bytes that tell the formats apart.
const START_BYTES: u64 = 512;

/// Where a tensor lies in its file.
#[derive(Debug, Clone)]
pub(super) struct Located {
    /// Type of its elements.
    pub(super) dtype: Dtype,
    /// Its shape.
    pub(super) shape: Vec<usize>,
    /// Its place.
    pub(super) place: Place,
}

/// The place of a tensor that lies inside its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// All its elements as they follow each other, from this byte on.
    Whole(u64),
    /// From this byte on, with so many elements from one index to the next of each dimension.
    Strided(u64, Vec<usize>),
    /// It cannot be read, for this reason.
    Unreadable(String),
}

impl Located {
    /// A tensor that cannot be read.
    pub(super) fn unreadable(shape: &[usize], why: String) -> Self {
        Self { dtype: Dtype::F32, shape: shape.to_vec(), place: Place::Unreadable(why) }
    }

    /// Number of its elements.
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    fn width(&self) -> usize {
        self.dtype.bitsize() / 8
    }
}

/// An opened weight file.
pub(super) struct StreamedTensors {
    path: PathBuf,
    file: Mutex<File>,
    tensors: HashMap<String, Located>,
    settings: Value,
}

impl StreamedTensors {
    /// Opens the file at `path` and reads what it says of its tensors. In a file of PyTorch's they may
    /// lie under the key `wrapper`.
    ///
    /// # Errors
    /// It cannot be read, is neither safetensors nor a checkpoint of PyTorch's that is read here, or
    /// ends early.
    pub(super) fn open(path: &Path, wrapper: Option<&str>) -> Result<Self> {
        let failed = |source| unreadable(path, source);
        let mut file = File::open(path).map_err(failed)?;
        let mut start = Vec::new();
        (&file).take(START_BYTES).read_to_end(&mut start).map_err(failed)?;
        let (tensors, settings) = if pickle::is_pickled(&start) {
            let read = pickle::read(&mut file, wrapper).map_err(|fault| refused(path, fault))?;
            (read.tensors.into_iter().collect(), read.settings)
        } else {
            file.seek(SeekFrom::Start(0)).map_err(failed)?;
            (safetensors(path, &mut file)?, Value::Null)
        };
        Ok(Self { path: path.to_owned(), file: Mutex::new(file), tensors, settings })
    }

    /// Every tensor by its name.
    pub(super) fn tensors(&self) -> &HashMap<String, Located> {
        &self.tensors
    }

    /// What a file of PyTorch's holds of settings beside its tensors, by the keys `cfg` and `args`.
    pub(super) fn settings(&self) -> &Value {
        &self.settings
    }

    /// SHA-256 of the opened file, which may have been replaced under its name since.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn sha256(&self) -> Result<String> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = file.seek(SeekFrom::Start(0)).and_then(|_| hash_reader(&mut *file));
        hash.map_err(|source| unreadable(&self.path, source))
    }

    /// A tensor's elements as they follow each other.
    fn bytes(&self, tensor: &Located) -> std::io::Result<Vec<u8>> {
        match &tensor.place {
            Place::Whole(start) => self.read(*start, tensor.elements() * tensor.width()),
            Place::Strided(start, strides) => {
                let last: usize = tensor.shape.iter().zip(strides).map(|(n, s)| (n - 1) * s).sum();
                let span = self.read(*start, (last + 1) * tensor.width())?;
                Ok(gathered(&span, tensor.width(), &tensor.shape, strides))
            }
            Place::Unreadable(why) => {
                let why = format!("{why}; {}", pickle::remedy(&self.path));
                Err(Error::new(ErrorKind::Unsupported, why))
            }
        }
    }

    fn read(&self, start: u64, count: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// The elements of a view, of `width` bytes each, that begins where `span` does.
fn gathered(span: &[u8], width: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let mut offsets = vec![0];
    for (&n, &stride) in shape.iter().zip(strides) {
        offsets = offsets.iter().flat_map(|at| (0..n).map(move |i| at + i * stride)).collect();
    }
    offsets.iter().flat_map(|at| &span[at * width..(at + 1) * width]).copied().collect()
}

/// An error of a checkpoint of PyTorch's, with what to do about it.
fn refused(path: &Path, fault: Fault) -> ModelError {
    match fault {
        Fault::Read(source) => unreadable(path, source),
        Fault::Damaged(_) => {
            let advice = "was it downloaded whole? (`riveg pack verify` compares hashes)";
            ModelError::Weights(format!("{}: {fault}; {advice}", path.display()))
        }
        Fault::Unknown(_) => {
            let remedy = pickle::remedy(path);
            ModelError::Weights(format!("{}: {fault}; {remedy}", path.display()))
        }
    }
}

/// The tensors of a safetensors file.
fn safetensors(path: &Path, file: &mut File) -> Result<HashMap<String, Located>> {
    let header = read_header(file).map_err(|source| unreadable(path, source))?;
    let wrong = |what: String| ModelError::Weights(format!("{}: {what}", path.display()));
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| wrong(error.to_string()))?;
    let data = LENGTH_BYTES + header.len() as u64;
    let length = file.metadata().map_err(|source| unreadable(path, source))?.len();
    if data + metadata.data_len() as u64 != length {
        let expected = data + metadata.data_len() as u64;
        return Err(wrong(format!("has {length} bytes where {expected} are announced")));
    }
    let located = metadata.tensors().into_iter().map(|(name, info)| {
        let place = Place::Whole(data + info.data_offsets.0 as u64);
        (name, Located { dtype: info.dtype, shape: info.shape.clone(), place })
    });
    Ok(located.collect())
}

/// The header's JSON.
fn read_header(file: &mut File) -> std::io::Result<Vec<u8>> {
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        return Err(Error::new(ErrorKind::InvalidData, "not safetensors"));
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header)?;
    match header.len() as u64 == length {
        true => Ok(header),
        false => Err(Error::new(ErrorKind::UnexpectedEof, "ends inside its header")),
    }
}

impl SimpleBackend for StreamedTensors {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let tensor = self.get_unchecked(name, dtype, device)?;
        if tensor.shape() == &shape {
            return Ok(tensor);
        }
        let got = tensor.shape().clone();
        let msg = format!("shape mismatch for {name}");
        Err(candle_core::Error::UnexpectedShape { msg, expected: shape, got }.bt())
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let tensor = self
            .tensors
            .get(name)
            .ok_or_else(|| candle_core::Error::CannotFindTensor { path: name.to_owned() }.bt())?;
        let bytes = self.bytes(tensor);
        let bytes = bytes.map_err(|error| candle_core::Error::Msg(format!("{name}: {error}")))?;
        // Candle has no truth values.
        let stored: DType = match tensor.dtype {
            Dtype::BOOL => DType::U8,
            other => other.try_into()?,
        };
        Tensor::from_raw_buffer(&bytes, stored, &tensor.shape, device)?.to_dtype(dtype)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(directory: &Path) -> (PathBuf, HashMap<String, Tensor>) {
        let tensor = |from: f32, shape: (usize, usize)| {
            let count = shape.0 * shape.1;
            let values = (0..count).map(|i| from + i as f32).collect::<Vec<_>>();
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        let half = tensor(100.0, (2, 2)).to_dtype(DType::BF16).unwrap();
        let tensors = [("a", tensor(0.0, (2, 3))), ("half", half), ("z", tensor(7.0, (1, 5)))];
        let tensors = HashMap::from(tensors.map(|(name, tensor)| (name.to_owned(), tensor)));
        let path = directory.join("model.safetensors");
        candle_core::safetensors::save(&tensors, &path).unwrap();
        (path, tensors)
    }

    #[test]
    fn tensors_come_as_they_were_saved() {
        let directory = tempfile::tempdir().unwrap();
        let (path, tensors) = saved(directory.path());
        let file = StreamedTensors::open(&path, None).unwrap();
        assert_eq!(file.sha256().unwrap(), super::super::hash_file(&path).unwrap());
        for (name, expected) in &tensors {
            let read = file.get_unchecked(name, DType::F32, &Device::Cpu).unwrap();
            let values = |tensor: &Tensor| {
                tensor
                    .to_dtype(DType::F32)
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .to_vec1::<f32>()
                    .unwrap()
            };
            assert_eq!((read.dims(), values(&read)), (expected.dims(), values(expected)), "{name}");
        }
    }

    #[test]
    fn what_is_missing_or_of_another_shape_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = StreamedTensors::open(&saved(directory.path()).0, None).unwrap();
        let get = |name, shape: (usize, usize)| {
            let init = Init::Const(0.0);
            file.get(shape.into(), name, init, DType::F32, &Device::Cpu).unwrap_err().to_string()
        };
        assert!(get("absent", (2, 3)).contains("absent"));
        assert!(get("a", (3, 2)).contains("[3, 2]"), "{}", get("a", (3, 2)));
    }

    #[test]
    fn a_file_that_was_cut_or_is_something_else_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let (path, _) = saved(directory.path());
        let whole = std::fs::read(&path).unwrap();
        for content in [
            &whole[..whole.len() - 1],
            &whole[..20],
            &whole[..4],
            &[255; 30],
            b"version https://git-lfs.github.com/spec/v1",
        ] {
            std::fs::write(&path, content).unwrap();
            let error = StreamedTensors::open(&path, None).err().unwrap().to_string();
            assert!(error.contains("model.safetensors"), "{error}");
        }
    }
}
