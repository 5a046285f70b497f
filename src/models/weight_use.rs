//! Which tensors of its file a network reads, and writing those to a file of their own.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device};
use candle_nn::var_builder::SimpleBackend;
use safetensors::Dtype;
use safetensors::tensor::{View, serialize_to_file};

use super::checkpoint::unreadable;
use super::located::Located;
use super::ops::{WEIGHT_SCALE, int8_scales, to_int8};
use super::streamed::{StreamedTensors, scale_name};
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

/// How weights are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrittenAs {
    /// Each as it is stored.
    Stored,
    /// In this type.
    Type(DType),
    /// Those of linear layers as bytes, with a scale for each output ([`super::ops::Storage::Int8`]);
    /// others as they are stored.
    Bytes,
}

/// Notes which tensors a network asks for. Clones note to the same list.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    shapes: BTreeMap<String, Vec<usize>>,
    /// Names of which the network asked whether they are there.
    sought: BTreeSet<String>,
}

impl Recorder {
    /// Notes a tensor.
    pub fn note(&self, name: &str, shape: &[usize]) {
        self.noted().shapes.insert(name.to_owned(), shape.to_vec());
    }

    /// Notes that the network asked whether there is such a tensor.
    pub(super) fn note_sought(&self, name: &str) {
        self.noted().sought.insert(name.to_owned());
    }

    /// Shapes of the tensors noted so far, by name.
    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.noted().shapes.clone()
    }

    fn sought(&self, name: &str) -> bool {
        self.noted().sought.contains(name)
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Writes the tensors that were read to a safetensors file at `target`, one after the other, and
    /// returns their names, sorted. `progress` is told each tensor's place in the file, and how many
    /// there are.
    ///
    /// # Errors
    /// A tensor cannot be read or converted, or the file cannot be written.
    pub fn write(
        &self,
        target: &Path,
        form: WrittenAs,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Vec<String>> {
        let read = self.names().read;
        let planned = |source: &String| {
            let source = source.clone();
            self.planned(&source, form)
                .into_iter()
                .map(move |(name, form)| (name, form, source.clone()))
        };
        let plans: Vec<(String, Form, String)> = read.iter().flat_map(planned).collect();
        let mut names: Vec<String> = plans.iter().map(|(name, ..)| name.clone()).collect();
        names.sort();
        let writing = Writing {
            file: &self.0,
            total: plans.len(),
            written: Mutex::new(0),
            failed: Mutex::new(None),
            progress,
        };
        let tensors = plans.into_iter().map(|(name, form, source)| {
            let located = &self.0.tensors()[&source];
            let shape = form.shape(located);
            (name, TensorToWrite { source, form, shape, located, writing: &writing })
        });
        let written = serialize_to_file(tensors, None, target);
        // A tensor that cannot be read is the cause of whatever else goes wrong.
        if let Some(error) = writing.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        written.map_err(|error| unreadable(target, std::io::Error::other(error)))?;
        Ok(names)
    }

    /// What the tensor `name` becomes: names and what is written under them.
    fn planned(&self, name: &str, form: WrittenAs) -> Vec<(String, Form)> {
        let stored = self.0.tensors()[name].dtype;
        let scale = scale_name(name);
        match form {
            // Scales of bytes stay exact.
            WrittenAs::Type(dtype) if !name.ends_with(WEIGHT_SCALE) => {
                vec![(name.to_owned(), Form::As(converted(stored, dtype)))]
            }
            WrittenAs::Bytes
                if name.ends_with(".weight")
                    && is_float(stored)
                    && self.0.recorder().sought(&scale) =>
            {
                vec![(name.to_owned(), Form::Bytes), (scale, Form::Scales)]
            }
            _ => vec![(name.to_owned(), Form::As(stored))],
        }
    }
}

fn is_float(stored: Dtype) -> bool {
    matches!(stored, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64)
}

/// What is written of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Its values in this type.
    As(Dtype),
    /// Its values in steps of their output's scale.
    Bytes,
    /// The scales.
    Scales,
}

impl Form {
    /// The shape of what is written of the tensor.
    fn shape(self, tensor: &Located) -> Vec<usize> {
        match self {
            Self::Scales => vec![tensor.shape.first().copied().unwrap_or(1), 1],
            Self::As(_) | Self::Bytes => tensor.shape.clone(),
        }
    }
}

/// The type in which a tensor is written: of weights the one that is wanted, others stay.
fn converted(stored: Dtype, wanted: DType) -> Dtype {
    if is_float(stored) { wanted.into() } else { stored }
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
    /// Its name in the file that is read.
    source: String,
    form: Form,
    shape: Vec<usize>,
    located: &'a Located,
    writing: &'a Writing<'a>,
}

impl TensorToWrite<'_> {
    fn bytes(&self) -> Result<Vec<u8>> {
        let (file, name) = (self.writing.file, self.source.as_str());
        let read = |dtype| file.get_unchecked(name, dtype, &Device::Cpu);
        match self.form {
            Form::As(dtype) if dtype == self.located.dtype => {
                file.stored(name, self.located).map_err(Into::into)
            }
            Form::As(dtype) => Ok(View::data(&read(dtype.try_into()?)?).into_owned()),
            Form::Bytes | Form::Scales => {
                let inputs = self.located.shape.last().copied().unwrap_or(1).max(1);
                let values = read(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
                if values.iter().any(|value| !value.is_finite()) {
                    return Err(ModelError::Weights(format!("{name} holds what is no number")));
                }
                let scales = int8_scales(&values, inputs);
                if self.form == Form::Scales {
                    return Ok(scales.iter().flat_map(|scale| scale.to_le_bytes()).collect());
                }
                let rows = values.chunks(inputs).zip(scales);
                let bytes = rows.flat_map(|(row, scale)| {
                    row.iter().map(move |&value| to_int8(value, scale) as u8)
                });
                Ok(bytes.collect())
            }
        }
    }
}

impl View for TensorToWrite<'_> {
    fn dtype(&self) -> Dtype {
        match self.form {
            Form::As(dtype) => dtype,
            Form::Bytes => Dtype::I8,
            Form::Scales => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
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
        self.shape.iter().product::<usize>() * View::dtype(self).bitsize() / 8
    }
}
