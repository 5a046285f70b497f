//! A compact text-conditioned dense network that entails and grounds in one pass.
//!
//! No paper: the design is ours, in the manner of one-stage detectors. The trunk of an
//! EfficientNet-Lite and a feature pyramid give each cell (stride 8) features and an embedding; a text
//! encoder of one transformer layer over a frozen table of word vectors turns the referring
//! expression into a vector. Its products with the cells' embeddings are two maps: where instances
//! are (*presence*) and which cell to ask (*selection*). Boxes are read from the best selected cells
//! and merged; entailment is judged from the presence map, the features under the selection map and
//! the picture as a whole.
//!
//! The recipe, and the same network in PyTorch, are in `training/dense`. A pack's folder holds
//! `config.json` ([`Config`]), `model.safetensors` (batch normalisation folded into convolutions)
//! and `tokenizer.json`.
//!
//! Everything that depends on the picture alone (the [`Scene`]) is computed once per picture and
//! kept for a while, for all its entities and for both roles.

mod config;
mod decode;
mod network;
mod text;
mod trunk;

use std::path::Path;

use candle_core::{DType, Device, Tensor};

pub use config::Config;
pub use network::{CellBox, Dense, Maps};
pub use text::{ExpressionTokenizer, TextEncoder, Tokens};
pub use trunk::{Scene, Trunk};

use super::checkpoint::{Checkpoint, read_json};
use super::memo::PictureMemo;
use super::pixels::squashed;
use super::{
    EntailInput, Entailer, Entailment, GroundInput, Grounder, Grounding, ModelError, ModelInfo,
    Result, WeightUse,
};
use crate::vision::Picture;
use crate::vision::resize::Filter;

/// Bytes of scenes kept between calls: 19 pictures of the nano pack.
const CACHE_BYTES: usize = 16 << 20;

/// Both roles on one network. An `Arc` of it that fills both looks at a picture once for both.
pub struct DenseGrounding {
    loaded: Loaded,
}

struct Loaded {
    network: Dense,
    tokenizer: ExpressionTokenizer,
    config: Config,
    scenes: PictureMemo<Scene>,
    info: ModelInfo,
    device: Device,
    dtype: DType,
}

impl DenseGrounding {
    /// Loads the network in `dir`; see [`self`] for the files.
    ///
    /// # Errors
    /// A file is missing, malformed or contradicts another.
    pub fn load(dir: &Path, device: &Device, dtype: DType) -> Result<Self> {
        Ok(Self::open(dir, device, dtype)?.0)
    }

    /// Which tensors of its file the network in `dir` reads; found out by loading it.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn weight_use(dir: &Path) -> Result<WeightUse> {
        Ok(Self::open(dir, &Device::Cpu, DType::F32)?.1)
    }

    fn open(dir: &Path, device: &Device, dtype: DType) -> Result<(Self, WeightUse)> {
        let config: Config = read_json(&dir.join("config.json"))?;
        config.validate()?;
        // candle multiplies no bf16 on the CPU; this network is small enough to be widened.
        let narrow = device.is_cpu() && dtype == DType::BF16;
        let dtype = if narrow { DType::F32 } else { dtype };
        let tokenizer = ExpressionTokenizer::open(dir, &config)?;
        let weights = Checkpoint::open(dir, &["model.safetensors"], None, dtype, device)?;
        let (info, weight_use) = (weights.info("dense", |_| true), weights.weight_use());
        let loaded = Loaded {
            network: Dense::new(&config, weights.builder)?,
            tokenizer,
            config,
            scenes: PictureMemo::new(CACHE_BYTES),
            info,
            device: device.clone(),
            dtype,
        };
        Ok((Self { loaded }, weight_use))
    }
}

impl Loaded {
    /// The scenes of pictures, in their order. The trunk runs once for equal pictures, and not at
    /// all for those seen lately.
    fn scenes(&self, pictures: &[&Picture]) -> Result<Vec<Scene>> {
        self.scenes.of(pictures, |fresh| {
            let to = (&self.device, self.dtype);
            let side = self.config.side;
            let pixels = fresh.iter().map(|p| squashed(p, side, Filter::Bilinear, to));
            self.network.look(&Tensor::cat(&pixels.collect::<Result<Vec<_>>>()?, 0)?)
        })
    }

    /// The vector and the maps of an expression about a scene.
    fn ask(&self, scene: &Scene, expression: &str) -> Result<(Tensor, Maps)> {
        let text = self.network.read(&self.tokenizer.encode(expression)?)?;
        let maps = self.network.maps(scene, &text)?;
        if maps.presence.iter().chain(&maps.selection).all(|logit| logit.is_finite()) {
            Ok((text, maps))
        } else {
            Err(ModelError::NotFinite("dense grounding"))
        }
    }

    fn entail(&self, scene: &Scene, expression: &str) -> Result<Entailment> {
        let (text, maps) = self.ask(scene, expression)?;
        let logit = self.network.judge(scene, &text, &maps)?;
        if logit.is_finite() {
            Ok(Entailment { probability: sigmoid(logit) })
        } else {
            Err(ModelError::NotFinite("dense entailment"))
        }
    }

    fn ground(&self, scene: &Scene, input: &GroundInput) -> Result<Option<Grounding>> {
        let (text, maps) = self.ask(scene, &input.expression)?;
        let cells = decode::best_cells(&maps.selection, self.config.best);
        let boxes = self.network.boxes(scene, &text, &cells)?;
        let finite = |b: &CellBox| b.quality.is_finite() && b.edges.iter().all(|e| e.is_finite());
        if !boxes.iter().all(finite) {
            return Err(ModelError::NotFinite("dense grounding"));
        }
        let logits: Vec<f32> = cells.iter().map(|&cell| maps.selection[cell as usize]).collect();
        let (width, height) = (input.picture.width(), input.picture.height());
        Ok(decode::merge(&boxes, &logits).and_then(|(bbox, quality)| {
            let bbox = bbox.scale(width as f32, height as f32).clip(width, height)?;
            Some(Grounding { bbox, score: sigmoid(quality) })
        }))
    }

    /// Work for one picture, in millions of multiply–adds.
    fn picture_cost(&self) -> u64 {
        self.config.trunk_macs().div_ceil(1_000_000)
    }

    /// Work for one expression about a picture whose scene is known, in millions of multiply–adds.
    fn answer_cost(&self) -> u64 {
        self.config.answer_macs().div_ceil(1_000_000)
    }
}

impl Entailer for DenseGrounding {
    /// The description is not used.
    fn entail(&self, inputs: &[EntailInput]) -> Result<Vec<Entailment>> {
        let pictures: Vec<&Picture> = inputs.iter().map(|input| &*input.picture).collect();
        let scenes = self.loaded.scenes(&pictures)?;
        let pairs = scenes.iter().zip(inputs);
        pairs.map(|(scene, input)| self.loaded.entail(scene, &input.expression)).collect()
    }

    fn picture_cost(&self) -> u64 {
        self.loaded.picture_cost()
    }

    fn cost(&self, _expression: &str, _description: Option<&str>) -> u64 {
        self.loaded.answer_cost()
    }

    fn info(&self) -> ModelInfo {
        self.loaded.info.clone()
    }
}

impl Grounder for DenseGrounding {
    fn ground(&self, inputs: &[GroundInput]) -> Result<Vec<Option<Grounding>>> {
        let pictures: Vec<&Picture> = inputs.iter().map(|input| &*input.picture).collect();
        let scenes = self.loaded.scenes(&pictures)?;
        scenes.iter().zip(inputs).map(|(scene, input)| self.loaded.ground(scene, input)).collect()
    }

    fn picture_cost(&self) -> u64 {
        self.loaded.picture_cost()
    }

    fn cost(&self, _expression: &str) -> u64 {
        self.loaded.answer_cost()
    }

    fn info(&self) -> ModelInfo {
        self.loaded.info.clone()
    }
}

fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}
