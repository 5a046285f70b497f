//! Weight files of random numbers, in the layouts that the networks' own loaders read.
//!
//! Which tensors a network has is asked of the network itself: it is built once from a source that
//! answers every question with zeros and notes the name and the shape. So there is no second list of
//! names that could go stale, and PyTorch reads the same files.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use safetensors::tensor::{Dtype, View, serialize_to_file};
use serde_json::{Value, json};

use super::RandomSizes;
use crate::models::{ModelError, ModelInfo, Recorder, ofa, sam, tagger};

/// Side of the pictures that OFA grounds in and entails from, as in its released checkpoints.
const OFA_SIDES: [(&str, usize); 2] = [("ofa-ground", 512), ("ofa-entail", 480)];
const WEIGHTS: &str = "model.safetensors";

/// Random weights could not be written.
#[derive(Debug, thiserror::Error)]
pub enum RandomError {
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A weight file could not be written.
    #[error("cannot write weights: {0}")]
    Weights(#[from] safetensors::SafeTensorError),
    /// A network of this size cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// Writes networks of these sizes below `directory`, as `tagger/`, `ofa-entail/`, `ofa-ground/` (the
/// same weights for other picture sizes) and `sam/`. What is there already is kept.
///
/// # Errors
/// A file cannot be written.
pub fn write(sizes: &RandomSizes, directory: &Path) -> Result<(), RandomError> {
    if let Some(config) = &sizes.tagger {
        let folder = directory.join("tagger");
        fill(&folder, config, |vb| record_tagger(config, &vb))?;
        put(&folder.join("tokenizer.json"), &tokenizer(["<s>", "<pad>", "</s>", "<unk>"]))?;
    }
    if let Some(size) = &sizes.ofa {
        let mut first: Option<PathBuf> = None;
        for (name, side) in OFA_SIDES {
            let folder = directory.join(name);
            let config = json!({"network": size, "image_size": side});
            match &first {
                None => fill(&folder, &config, |vb| record_ofa(&config, vb))?,
                Some(first) => share(first, &folder, &config)?,
            }
            put(&folder.join("tokenizer.json"), &tokenizer(["<s>", "<pad>", "</s>", "<unk>"]))?;
            first.get_or_insert(folder);
        }
    }
    if let Some(config) = &sizes.sam {
        let value = serde_json::to_value(config).map_err(|error| malformed(&error))?;
        let build = |vb| sam::Sam::new(config.clone(), vb, unsaid()).map(|_| ());
        fill(&directory.join("sam"), &value, build)?;
    }
    Ok(())
}

fn record_tagger(config: &Value, vb: &VarBuilder) -> Result<(), ModelError> {
    let config: tagger::Config =
        serde_json::from_value(config.clone()).map_err(|error| malformed(&error))?;
    let encoder = vb.pp("embedder.transformer_model");
    tagger::encoder::Encoder::load(&config.encoder, &encoder)?;
    candle_nn::linear(config.encoder.hidden_size, config.labels.len(), vb.pp("linear"))?;
    tagger::crf::Crf::load(config.labels.len(), &vb.pp("crf"))?;
    Ok(())
}

fn record_ofa(config: &Value, vb: VarBuilder) -> Result<(), ModelError> {
    let config: ofa::ModelConfig =
        serde_json::from_value(config.clone()).map_err(|error| malformed(&error))?;
    ofa::Ofa::new(&config.network(), config.grid(), vb).map(|_| ())
}

/// Writes `config.json` and the tensors that `build` asks for.
fn fill(
    folder: &Path,
    config: &Value,
    build: impl FnOnce(VarBuilder<'static>) -> Result<(), ModelError>,
) -> Result<(), RandomError> {
    put(&folder.join("config.json"), config)?;
    let path = folder.join(WEIGHTS);
    if path.is_file() {
        return Ok(());
    }
    let source = Recording::of(config);
    let recorder = source.recorder.clone();
    build(VarBuilder::from_backend(Box::new(source), DType::F32, Device::Cpu))?;
    let shapes = recorder.shapes().into_iter();
    let tensors = shapes.map(|(name, shape)| (name.clone(), RandomTensor { name, shape }));
    // Under its own name only once it is whole.
    let part = folder.join("model.part");
    serialize_to_file(tensors, None, &part)?;
    fs::rename(&part, &path).map_err(|source| RandomError::File { path, source })
}

/// A second folder with the weights of the first.
fn share(first: &Path, folder: &Path, config: &Value) -> Result<(), RandomError> {
    put(&folder.join("config.json"), config)?;
    let path = folder.join(WEIGHTS);
    if path.is_file() {
        return Ok(());
    }
    let linked = fs::hard_link(first.join(WEIGHTS), &path);
    linked.map_err(|source| RandomError::File { path, source })
}

fn put(path: &Path, value: &Value) -> Result<(), RandomError> {
    let folder = path.parent().unwrap_or(path);
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(path, value.to_string()));
    written.map_err(|source| RandomError::File { path: path.to_owned(), source })
}

/// Nobody asks a network that only names its tensors what it is.
fn unsaid() -> ModelInfo {
    ModelInfo {
        architecture: String::new(),
        parameters: 0,
        bytes: 0,
        dtype: String::new(),
        device: String::new(),
        sha256: String::new(),
    }
}

fn malformed(error: &serde_json::Error) -> ModelError {
    ModelError::Weights(error.to_string())
}

/// A tokenizer that makes one piece of every word: of letters and of the answers that OFA chooses
/// from their own, of all others the unknown one.
fn tokenizer(specials: [&str; 4]) -> Value {
    let letters = ('a'..='z').map(String::from);
    let answers = ["no", "yes", "maybe"].map(str::to_owned);
    let words = specials.map(str::to_owned).into_iter().chain(answers).chain(letters);
    let vocabulary: serde_json::Map<String, Value> =
        words.enumerate().map(|(id, word)| (word, id.into())).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}
    })
}

/// A source of zeros that notes which tensors a network asks for.
struct Recording {
    recorder: Recorder,
    /// Where a network takes a tensor as it comes: the ends of its names, and its shape.
    as_they_come: Vec<(String, Vec<usize>)>,
}

impl Recording {
    /// For a network with this `config.json`.
    fn of(config: &Value) -> Self {
        let as_they_come = match (
            serde_json::from_value::<ofa::ModelConfig>(config.clone()),
            serde_json::from_value::<sam::Config>(config.clone()),
        ) {
            (Ok(ofa), _) => ofa_tables(&ofa.network()),
            (_, Ok(sam)) => sam_tables(&sam),
            _ => Vec::new(),
        };
        Self { recorder: Recorder::default(), as_they_come }
    }
}

fn ofa_tables(network: &ofa::Config) -> Vec<(String, Vec<usize>)> {
    let rows = network.image_bucket_size.pow(2) + 1;
    vec![("embed_image_positions.weight".to_owned(), vec![rows, network.d_model])]
}

fn sam_tables(config: &sam::Config) -> Vec<(String, Vec<usize>)> {
    let sam::ImageEncoderConfig::Vit(vit) = &config.image_encoder else { return Vec::new() };
    let grid = config.grid();
    let relative = (0..vit.depth).flat_map(|block| {
        let rows = 2 * vit.window(block).unwrap_or(grid) - 1;
        let name = |side| format!("blocks.{block}.attn.rel_pos_{side}");
        ["h", "w"].map(|side| (name(side), vec![rows, vit.embed_dim / vit.num_heads]))
    });
    let absolute = ("pos_embed".to_owned(), vec![1, grid, grid, vit.embed_dim]);
    relative.chain([absolute]).collect()
}

impl SimpleBackend for Recording {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.recorder.note(name, shape.dims());
        Tensor::zeros(shape, dtype, device)
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let known = self.as_they_come.iter().find(|(end, _)| name.ends_with(end.as_str()));
        let (_, shape) = known
            .ok_or_else(|| candle_core::Error::CannotFindTensor { path: name.to_owned() }.bt())?;
        self.recorder.note(name, shape);
        Tensor::zeros(shape.as_slice(), dtype, device)
    }

    /// Only asked where a tensor has several names; the first is taken.
    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// A tensor whose values follow from its name; made when it is written.
struct RandomTensor {
    name: String,
    shape: Vec<usize>,
}

impl RandomTensor {
    /// Mean and deviation with which activations neither vanish nor grow on the way through.
    fn distribution(&self) -> (f32, f32) {
        let scales = ["weight", "c_attn", "running_var"];
        if self.shape.len() == 1 {
            let is_scale = scales.iter().any(|end| self.name.ends_with(end));
            return if is_scale { (1.0, 0.02) } else { (0.0, 0.02) };
        }
        let inputs: usize = self.shape[1..].iter().product();
        (0.0, (inputs.max(1) as f32).powf(-0.5))
    }
}

impl View for RandomTensor {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let (mean, deviation) = self.distribution();
        let mut state = seed(&self.name);
        let count = self.data_len() / size_of::<f32>();
        // A uniform distribution of this width has that deviation.
        let width = deviation * 12f32.sqrt();
        let value = |_| mean + width * (next(&mut state) - 0.5);
        Cow::Owned((0..count).map(value).flat_map(f32::to_le_bytes).collect())
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * size_of::<f32>()
    }
}

/// FNV-1a.
fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// SplitMix64 (Steele et al., 2014), as a number in `0..1`.
fn next(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What OFA takes as it comes and where it has a choice of names are the two special cases.
    #[test]
    fn a_network_says_itself_which_tensors_it_has() {
        let config = json!({"network": "tiny", "image_size": 64});
        let source = Recording::of(&config);
        let recorder = source.recorder.clone();
        let vb = VarBuilder::from_backend(Box::new(source), DType::F32, Device::Cpu);
        record_ofa(&config, vb).unwrap();
        let shapes = recorder.shapes();
        assert_eq!(shapes["encoder.embed_tokens.weight"], [59457, 256]);
        assert!(!shapes.contains_key("decoder.embed_tokens.weight"));
        assert_eq!(shapes["encoder.embed_image_positions.weight"], [42 * 42 + 1, 256]);
        assert_eq!(shapes["encoder.embed_images.layer3.5.conv2.weight"], [256, 256, 3, 3]);
    }

    #[test]
    fn random_values_have_the_deviation_that_was_asked_for() {
        let tensor = RandomTensor { name: "layer.weight".to_owned(), shape: vec![100, 400] };
        let bytes = tensor.data();
        assert_eq!(bytes.len(), tensor.data_len());
        let values: Vec<f32> =
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 1e-3 && (variance.sqrt() - 0.05).abs() < 1e-3, "{mean} {variance}");
        assert_eq!(bytes, tensor.data());
        let other = RandomTensor { name: "other.weight".to_owned(), shape: vec![100, 400] };
        assert_ne!(bytes, other.data());
    }
}
