//! What entailer and grounder have in common: a loaded network with its tokenizer, and the way
//! from pictures and prompts to the encoder's output.

use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::cache::ImageTokenCache;
use super::config::{Config, ModelConfig, Vocabulary};
use super::encoder::{EncoderOutput, TextBatch};
use super::model::Ofa;
use super::tokenizer::Tokenizer;
use super::weights::{Weights, file_error};
use crate::models::{ModelError, ModelInfo, Result};
use crate::vision::resize::Filter;
use crate::vision::{Picture, PictureDigest};

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
    cache: ImageTokenCache,
    device: Device,
    dtype: DType,
}

impl Loaded {
    /// Loads `config.json`, the tokenizer and the weights in `dir`.
    pub(super) fn open(dir: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let path = dir.join("config.json");
        let json = fs::read_to_string(&path).map_err(|source| file_error(&path, source))?;
        let model: ModelConfig = serde_json::from_str(&json)
            .map_err(|error| ModelError::Weights(format!("{}: {error}", path.display())))?;
        model.validate()?;
        let config = model.network();
        let sizes = (config.vocab_size, config.max_position_embeddings);
        let tokenizer = Tokenizer::open(dir, model.vocabulary, sizes)?;
        let weights = Weights::open(dir, dtype, device)?;
        let network = Ofa::new(&config, model.grid(), weights.builder)?;
        let info = ModelInfo {
            architecture: "ofa".to_owned(),
            parameters: weights.parameters,
            bytes: weights.parameters * dtype.size_in_bytes() as u64,
            dtype: dtype.as_str().to_owned(),
            device: device_name(device),
            sha256: weights.sha256,
        };
        Ok(Self {
            network,
            tokenizer,
            vocabulary: model.vocabulary,
            info,
            config,
            image_size: model.image_size,
            cache: ImageTokenCache::new(CACHE_BYTES),
            device: device.clone(),
            dtype,
        })
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
        let mut known: Vec<(PictureDigest, Tensor)> = Vec::new();
        let mut fresh: Vec<&Picture> = Vec::new();
        for &picture in pictures {
            let digest = picture.digest();
            if known.iter().any(|(other, _)| *other == digest)
                || fresh.iter().any(|other| other.digest() == digest)
            {
                continue;
            }
            match self.cache.get(&digest) {
                Some(tokens) => known.push((digest, tokens)),
                None => fresh.push(picture),
            }
        }
        if !fresh.is_empty() {
            let pixels = fresh.iter().map(|picture| self.pixels(picture));
            let pixels = Tensor::cat(&pixels.collect::<Result<Vec<_>>>()?, 0)?;
            let tokens = self.network.encoder().image_tokens(&pixels)?;
            for (row, picture) in fresh.iter().enumerate() {
                // A copy, so that keeping one picture does not keep its whole batch.
                let tokens = tokens.get(row)?.force_contiguous()?;
                self.cache.put(picture.digest(), tokens.clone());
                known.push((picture.digest(), tokens));
            }
        }
        let of = |picture: &&Picture| known.iter().find(|(digest, _)| *digest == picture.digest());
        let rows: Vec<&Tensor> = pictures.iter().filter_map(of).map(|(_, tokens)| tokens).collect();
        Ok(Tensor::stack(&rows, 0)?)
    }

    /// A picture squashed to the network's square, bicubic, from 0..255 to −1..1:
    /// `[1, 3, side, side]`.
    fn pixels(&self, picture: &Picture) -> Result<Tensor> {
        let side = self.image_size;
        let rgb = picture.resize(side as u32, side as u32, Filter::Bicubic);
        let normalised: Vec<f32> =
            rgb.into_iter().map(|byte| (f32::from(byte) / 255.0 - 0.5) / 0.5).collect();
        let pixels = Tensor::from_vec(normalised, (1, side, side, 3), &self.device)?;
        Ok(pixels.permute((0, 3, 1, 2))?.contiguous()?.to_dtype(self.dtype)?)
    }

    /// Work for one picture and prompt, in millions of multiply–adds: the trunk (as if the
    /// picture were new), the encoder, and a decoder of `steps(text tokens)` rows. `characters`
    /// are those of the prompt's own words; four of them count as one token.
    pub(super) fn cost(&self, characters: usize, steps: impl Fn(usize) -> usize) -> u64 {
        /// Tokens of a prompt's fixed words.
        const FRAME: usize = 16;
        let text = (FRAME + characters / 4).min(self.config.max_position_embeddings);
        let side = self.image_size / super::config::STRIDE;
        let source = side * side + text;
        let macs = self.config.trunk_macs(self.image_size)
            + self.config.encoder_macs(source)
            + self.config.decoder_macs(steps(text), source);
        macs.div_ceil(1_000_000)
    }

    /// Work of the output projection for `rows` rows, in millions of multiply–adds.
    pub(super) fn projection_cost(&self, rows: usize) -> u64 {
        let macs = rows as u64 * self.config.vocab_size as u64 * self.config.d_model as u64;
        macs.div_ceil(1_000_000)
    }
}

/// The device as `ModelInfo` names it.
fn device_name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".to_owned(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}
