//! Which tensors of its file a network reads, and writing those to a file of their own.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device};
use candle_nn::var_builder::SimpleBackend;
use safetensors::Dtype;
use safetensors::tensor::{View, serialize_to_file};

use super::checkpoint::unreadable;
use super::located::Located;
use super::ops::WEIGHT_SCALE;
use super::streamed::StreamedTensors;
use super::{ModelError, Result};

/// Ends of the names of what modules keep beside their weights: counters, versions, and tables of
/// numbers that are computed anew.
const BUFFERS: [&str; 8] = [
    "position_ids",
    "num_batches_tracked",
    "version",
    "_float_tensor",
    "rp_bucket",
    "image_position_idx",
    "attention_bias_idxs",
    "relative_position_index",
];

/// Notes which tensors a network asks for. Clones note to the same list.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Mutex<BTreeMap<String, Vec<usize>>>>);

impl Recorder {
    /// Notes a tensor.
    pub fn note(&self, name: &str, shape: &[usize]) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.insert(name.to_owned(), shape.to_vec());
    }

    /// Shapes of the tensors noted so far, by name.
    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A weight file and which of its tensors a network read while it was built.
#[derive(Clone)]
pub struct WeightUse(Arc<StreamedTensors>);

/// What a file's tensors are to a network, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorNames {
    /// Read.
    pub read: Vec<String>,
    /// Not read, and of the kind that is computed anew or counts training steps.
    pub buffers: Vec<String>,
    /// Not read, and maybe of a part that the network lacks.
    pub unused: Vec<String>,
}

impl WeightUse {
    /// Of a file that a network was, or is about to be, built from.
    pub(super) fn of(file: Arc<StreamedTensors>) -> Self {
        Self(file)
    }

    /// The weight file.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Its tensors by what the network made of them.
    pub fn names(&self) -> TensorNames {
        let noted = self.0.recorder().shapes();
        let mut names: Vec<&String> = self.0.tensors().keys().collect();
        names.sort();
        let (read, rest): (Vec<_>, Vec<_>) =
            names.into_iter().cloned().partition(|name| noted.contains_key(name));
        let is_buffer = |name: &String| BUFFERS.iter().any(|end| name.ends_with(end));
        let (buffers, unused) = rest.into_iter().partition(is_buffer);
        TensorNames { read, buffers, unused }
    }

    /// Writes the tensors that were read to a safetensors file at `target`, one after the other;
    /// weights as `dtype` where one is given, else as they are stored. `progress` is told each
    /// tensor's place in the file, and how many there are.
    ///
    /// # Errors
    /// A tensor cannot be read or converted, or the file cannot be written.
    pub fn write(
        &self,
        target: &Path,
        dtype: Option<DType>,
        progress: &dyn Fn(usize, usize),
    ) -> Result<()> {
        let read = self.names().read;
        let writing = Writing {
            file: &self.0,
            total: read.len(),
            written: Mutex::new(0),
            failed: Mutex::new(None),
            progress,
        };
        let tensors = read.iter().map(|name| {
            let located = &self.0.tensors()[name];
            let stored = located.dtype;
            // Scales of bytes stay exact.
            let wanted = dtype.filter(|_| !name.ends_with(WEIGHT_SCALE));
            let dtype = wanted.map_or(stored, |dtype| converted(stored, dtype));
            let tensor = TensorToWrite { name, located, dtype, writing: &writing };
            (name.as_str(), tensor)
        });
        let written = serialize_to_file(tensors, None, target);
        // A tensor that cannot be read is the cause of whatever else goes wrong.
        if let Some(error) = writing.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        written.map_err(|error| unreadable(target, std::io::Error::other(error)))
    }
}

/// The type in which a tensor is written: of weights the one that is wanted, others stay.
fn converted(stored: Dtype, wanted: DType) -> Dtype {
    match stored {
        Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64 => wanted.into(),
        other => other,
    }
}

/// What is common to all tensors of a file that is written.
struct Writing<'a> {
    file: &'a StreamedTensors,
    total: usize,
    written: Mutex<usize>,
    /// The first error.
    failed: Mutex<Option<ModelError>>,
    progress: &'a dyn Fn(usize, usize),
}

/// A tensor that is read when it is written.
struct TensorToWrite<'a> {
    name: &'a str,
    located: &'a Located,
    dtype: Dtype,
    writing: &'a Writing<'a>,
}

impl TensorToWrite<'_> {
    fn bytes(&self) -> Result<Vec<u8>> {
        let file = self.writing.file;
        if self.dtype == self.located.dtype {
            return file.stored(self.name, self.located).map_err(Into::into);
        }
        let dtype: DType = self.dtype.try_into()?;
        let tensor = file.get_unchecked(self.name, dtype, &Device::Cpu)?;
        Ok(View::data(&tensor).into_owned())
    }
}

impl View for TensorToWrite<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.located.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = self.bytes().unwrap_or_else(|error| {
            let mut failed = self.writing.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert(error);
            Vec::new()
        });
        let mut written = self.writing.written.lock().unwrap_or_else(PoisonError::into_inner);
        *written += 1;
        (self.writing.progress)(*written, self.writing.total);
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.located.elements() * self.dtype.bitsize() / 8
    }
}
