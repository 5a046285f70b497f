//! What entailer and grounder have in common: a loaded network with its tokenizer, and the way
//! from pictures and prompts to the encoder's output.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::config::{Config, ModelConfig, Vocabulary};
use super::encoder::{EncoderOutput, TextBatch};
use super::model::Ofa;
use super::tokenizer::Tokenizer;
use super::weights::Weights;
use crate::models::memo::PictureMemo;
use crate::models::ops::activation_type;
use crate::models::pixels::squashed;
use crate::models::{ModelInfo, Result, WeightUse};
use crate::vision::Picture;
use crate::vision::resize::Filter;

/// Bytes of image tokens kept between calls: 17 pictures for OFA-large at 480, in f32.
const CACHE_BYTES: usize = 64 << 20;

/// A network ready for use.
pub(super) struct Loaded {
    pub(super) network: Ofa,
    pub(super) tokenizer: Tokenizer,
    pub(super) vocabulary: Vocabulary,
    pub(super) info: ModelInfo,
    config: Config,
    image_size: usize,
    image_tokens: PictureMemo<Tensor>,
    device: Device,
    dtype: DType,
}

impl Loaded {
    /// Loads the network in `dir`, whose pictures have `side` pixels where nothing says otherwise.
    pub(super) fn open(dir: &Path, side: usize, device: &Device, dtype: DType) -> Result<Self> {
        let weights = Weights::open(dir, dtype, device)?;
        Self::of(dir, side, weights)
    }

    fn of(dir: &Path, side: usize, weights: Weights) -> Result<Self> {
        let device = weights.builder.device().clone();
        let model = ModelConfig::read(dir, &weights, side)?;
        let config = model.network();
        let sizes = (config.vocab_size, config.max_position_embeddings);
        let tokenizer = Tokenizer::open(dir, model.vocabulary, sizes)?;
        let info = weights.info;
        let dtype = activation_type(&weights.builder);
        let network = Ofa::new(&config, model.grid(), weights.builder)?;
        Ok(Self {
            network,
            tokenizer,
            vocabulary: model.vocabulary,
            info,
            config,
            image_size: model.image_size,
            image_tokens: PictureMemo::new(CACHE_BYTES),
            device,
            dtype,
        })
    }

    /// Which tensors of its file the network in `dir` reads, found out by loading it; and its
    /// configuration.
    pub(super) fn weight_use(dir: &Path, side: usize) -> Result<(WeightUse, ModelConfig)> {
        let weights = Weights::open(dir, DType::BF16, &Device::Cpu)?;
        let (weight_use, config) =
            (weights.weight_use.clone(), ModelConfig::read(dir, &weights, side)?);
        Self::of(dir, side, weights)?;
        Ok((weight_use, config))
    }

    /// Encodes each picture with its prompt (ids with `<s>` and `</s>`).
    pub(super) fn encode(
        &self,
        pictures: &[&Picture],
        sources: &[Vec<u32>],
    ) -> Result<EncoderOutput> {
        let image = self.image_tokens(pictures)?;
        self.network.encoder().forward(&image, &self.batch(sources)?)
    }

    /// Pads texts into one batch on the device.
    pub(super) fn batch(&self, texts: &[Vec<u32>]) -> Result<TextBatch> {
        TextBatch::new(texts, self.vocabulary.pad, &self.device)
    }

    /// The image tokens of pictures, `[batch, image tokens, d_model]`. The trunk runs once for
    /// equal pictures, and not at all for those seen lately.
    fn image_tokens(&self, pictures: &[&Picture]) -> Result<Tensor> {
        let rows = self.image_tokens.of(pictures, |fresh| {
            let to = (&self.device, self.dtype);
            let pixels = fresh.iter().map(|p| squashed(p, self.image_size, Filter::Bicubic, to));
            let pixels = Tensor::cat(&pixels.collect::<Result<Vec<_>>>()?, 0)?;
            let tokens = self.network.encoder().image_tokens(&pixels)?;
            // Copies, so that keeping one picture does not keep its whole batch.
            (0..fresh.len()).map(|row| Ok(tokens.get(row)?.force_contiguous()?)).collect()
        })?;
        Ok(Tensor::stack(&rows, 0)?)
    }

    /// Work of the trunk for one picture, in millions of multiply–adds.
    pub(super) fn picture_cost(&self) -> u64 {
        self.config.trunk_macs(self.image_size).div_ceil(1_000_000)
    }

    /// Work for one prompt about a picture whose image tokens are known, in millions of
    /// multiply–adds: the encoder, and a decoder of `steps(text tokens)` rows. `characters` are
    /// those of the prompt's own words; four of them count as one token.
    pub(super) fn cost(&self, characters: usize, steps: impl Fn(usize) -> usize) -> u64 {
        /// Tokens of a prompt's fixed words.
        const FRAME: usize = 16;
        let text = (FRAME + characters / 4).min(self.config.max_position_embeddings);
        let side = self.image_size / super::config::STRIDE;
        let source = side * side + text;
        let macs = self.config.encoder_macs(source) + self.config.decoder_macs(steps(text), source);
        macs.div_ceil(1_000_000)
    }

    /// Work of the output projection for `rows` rows, in millions of multiply–adds.
    pub(super) fn projection_cost(&self, rows: usize) -> u64 {
        let macs = rows as u64 * self.config.vocab_size as u64 * self.config.d_model as u64;
        macs.div_ceil(1_000_000)
    }
}
