//! A weight file that is read tensor by tensor, when a network asks for one: what it does not ask for
//! is never read, and beside the network no more than one tensor is in memory.
//!
//! The file is safetensors or PyTorch's, which its first bytes say, whatever its name is.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::Value;

use super::checkpoint::{hash_reader, unreadable};
use super::located::{Located, Place};
use super::ops::WEIGHT_SCALE;
use super::pickle::{self, Fault};
use super::weight_use::Recorder;
use super::{ModelError, Result};

/// As large as the format lets a header be.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Before the header stands its length.
const LENGTH_BYTES: u64 = 8;
/// Bytes that tell the formats apart.
const START_BYTES: u64 = 512;

/// An opened weight file.
pub(super) struct StreamedTensors {
    path: PathBuf,
    file: Mutex<File>,
    tensors: HashMap<String, Located>,
    settings: Value,
    recorder: Recorder,
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
        let (path, recorder) = (path.to_owned(), Recorder::default());
        Ok(Self { path, file: Mutex::new(file), tensors, settings, recorder })
    }

    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Notes every tensor that is asked for.
    pub(super) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The bytes of one of its tensors, as they are stored and without gaps.
    pub(super) fn stored(&self, name: &str, tensor: &Located) -> candle_core::Result<Vec<u8>> {
        let bytes = self.bytes(tensor);
        bytes.map_err(|error| candle_core::Error::Msg(format!("{name}: {error}")))
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

    /// What the bytes `[outputs, inputs]` of a weight stand for: each output has a scale.
    fn scaled(
        &self,
        name: &str,
        tensor: &Located,
        bytes: &[u8],
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let scale = scale_name(name);
        if !self.tensors.contains_key(&scale) {
            return Err(Error::other(format!("{name} holds bytes, but {scale} is missing")).into());
        }
        let values: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte as i8)).collect();
        let values = Tensor::from_vec(values, tensor.shape.as_slice(), device)?;
        let outputs = tensor.shape.first().copied().unwrap_or_default();
        let scales = self.get_unchecked(&scale, DType::F32, device)?.reshape((outputs, 1))?;
        values.broadcast_mul(&scales)
    }

    /// A tensor's elements as they follow each other.
    fn bytes(&self, tensor: &Located) -> std::io::Result<Vec<u8>> {
        match &tensor.place {
            Place::Whole(start) => self.read(*start, tensor.elements() * tensor.width()),
            Place::Strided(start, strides) => {
                let span = self.read(*start, tensor.span(strides))?;
                Ok(tensor.gathered(&span, strides))
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

/// The name of the scales of the weight `name`.
pub(super) fn scale_name(name: &str) -> String {
    match name.rsplit_once('.') {
        Some((layer, _)) => format!("{layer}.{WEIGHT_SCALE}"),
        None => WEIGHT_SCALE.to_owned(),
    }
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

/// An opened weight file as the source of a `VarBuilder`, beside others who look at it.
pub(super) struct Shared(pub(super) Arc<StreamedTensors>);

impl SimpleBackend for Shared {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.0.get(shape, name, init, dtype, device)
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.0.get_unchecked(name, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.contains_tensor(name)
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
        self.recorder.note(name, &tensor.shape);
        let bytes = self.stored(name, tensor)?;
        if tensor.dtype == Dtype::I8 {
            return self.scaled(name, tensor, &bytes, device)?.to_dtype(dtype);
        }
        // Candle has no truth values.
        let stored: DType = match tensor.dtype {
            Dtype::BOOL => DType::U8,
            other => other.try_into()?,
        };
        Tensor::from_raw_buffer(&bytes, stored, &tensor.shape, device)?.to_dtype(dtype)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.recorder.note_sought(name);
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
    fn bytes_are_multiplied_by_their_scales() {
        use safetensors::tensor::TensorView;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        let scales: Vec<u8> = [0.5f32, 2.0].iter().flat_map(|scale| scale.to_le_bytes()).collect();
        let bytes = [1u8, 0xff, 127, 0, 3, 0x81];
        let weight = TensorView::new(Dtype::I8, vec![2, 3], &bytes).unwrap();
        let tensors = [
            ("a.weight", weight.clone()),
            ("a.weight_scale", TensorView::new(Dtype::F32, vec![2, 1], &scales).unwrap()),
            ("b.weight", weight),
        ];
        safetensors::serialize_to_file(tensors, None, &path).unwrap();
        let file = StreamedTensors::open(&path, None).unwrap();
        let get = |name: &str| file.get_unchecked(name, DType::F32, &Device::Cpu);
        let expected = [[0.5, -0.5, 63.5], [0.0, 6.0, -254.0]];
        assert_eq!(get("a.weight").unwrap().to_vec2::<f32>().unwrap(), expected);
        let error = get("b.weight").unwrap_err().to_string();
        assert!(error.contains("b.weight_scale"), "{error}");
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
