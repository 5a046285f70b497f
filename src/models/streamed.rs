//! A safetensors file that is read tensor by tensor, when a network asks for one: what it does not
//! ask for is never read, and beside the network no more than one tensor is in memory.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::checkpoint::{hash_reader, unreadable};
use super::ops::WEIGHT_SCALE;
use super::{ModelError, Result};

/// As large as the format lets a header be.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Before the header stands its length.
const LENGTH_BYTES: u64 = 8;

/// An opened safetensors file.
pub(super) struct StreamedTensors {
    path: PathBuf,
    file: Mutex<File>,
    tensors: HashMap<String, TensorInfo>,
    /// Where the tensors begin.
    data: u64,
}

impl StreamedTensors {
    /// Opens the file at `path` and reads its header.
    ///
    /// # Errors
    /// It cannot be read, is not safetensors, or ends early.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(|source| unreadable(path, source))?;
        let header = read_header(&mut file).map_err(|source| unreadable(path, source))?;
        let wrong = |what: String| ModelError::Weights(format!("{}: {what}", path.display()));
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|error| wrong(error.to_string()))?;
        let data = LENGTH_BYTES + header.len() as u64;
        let length = file.metadata().map_err(|source| unreadable(path, source))?.len();
        if data + metadata.data_len() as u64 != length {
            let expected = data + metadata.data_len() as u64;
            return Err(wrong(format!("has {length} bytes where {expected} are announced")));
        }
        let tensors = metadata.tensors().into_iter().map(|(name, info)| (name, info.clone()));
        let tensors = tensors.collect();
        Ok(Self { path: path.to_owned(), file: Mutex::new(file), tensors, data })
    }

    /// Every tensor by its name.
    pub(super) fn tensors(&self) -> &HashMap<String, TensorInfo> {
        &self.tensors
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
        info: &TensorInfo,
        bytes: &[u8],
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let scale = scale_name(name);
        if !self.tensors.contains_key(&scale) {
            return Err(Error::other(format!("{name} holds bytes, but {scale} is missing")).into());
        }
        let values: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte as i8)).collect();
        let values = Tensor::from_vec(values, &info.shape[..], device)?;
        let outputs = info.shape.first().copied().unwrap_or_default();
        let scales = self.get_unchecked(&scale, DType::F32, device)?.reshape((outputs, 1))?;
        values.broadcast_mul(&scales)
    }

    fn bytes(&self, info: &TensorInfo) -> std::io::Result<Vec<u8>> {
        let (begin, end) = info.data_offsets;
        let mut bytes = vec![0; end - begin];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(self.data + begin as u64))?;
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
        let info = self
            .tensors
            .get(name)
            .ok_or_else(|| candle_core::Error::CannotFindTensor { path: name.to_owned() }.bt())?;
        let bytes = self.bytes(info).map_err(candle_core::Error::wrap)?;
        if info.dtype == Dtype::I8 {
            return self.scaled(name, info, &bytes, device)?.to_dtype(dtype);
        }
        let stored: DType = info.dtype.try_into()?;
        Tensor::from_raw_buffer(&bytes, stored, &info.shape, device)?.to_dtype(dtype)
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
        let file = StreamedTensors::open(&path).unwrap();
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
        let file = StreamedTensors::open(&path).unwrap();
        let get = |name: &str| file.get_unchecked(name, DType::F32, &Device::Cpu);
        let expected = [[0.5, -0.5, 63.5], [0.0, 6.0, -254.0]];
        assert_eq!(get("a.weight").unwrap().to_vec2::<f32>().unwrap(), expected);
        let error = get("b.weight").unwrap_err().to_string();
        assert!(error.contains("b.weight_scale"), "{error}");
    }

    #[test]
    fn what_is_missing_or_of_another_shape_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = StreamedTensors::open(&saved(directory.path()).0).unwrap();
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
            let error = StreamedTensors::open(&path).err().unwrap().to_string();
            assert!(error.contains("model.safetensors"), "{error}");
        }
    }
}
