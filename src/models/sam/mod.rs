//! SAM: box- and point-prompted segmentation (Kirillov et al., "Segment Anything", 2023).
//!
//! Reference implementation: Meta's `segment-anything` 1.0; the state dict has its names
//! (`image_encoder.*`, `prompt_encoder.*`, `mask_decoder.*`), so a released checkpoint loads as it
//! is, under the name `model.pth`. Every size comes from [`Config`]; [`Config::vit_b`], [`Config::vit_l`] and
//! [`Config::vit_h`] are the released ones, [`Config::mobile`] is MobileSAM. Held to the reference by `tests/golden_sam.rs`.
//!
//! A convolutional encoder may take the vision transformer's place
//! ([`ImageEncoderConfig::Convolutional`]); the reference has none, so for it the same tests compare
//! with the network that we train.
//!
//! Deviations: mask prompts are not offered; where a checkpoint was made for another picture size,
//! the absolute positions are interpolated as the relative ones are (the reference refuses); a side
//! that would be scaled to less than half a pixel becomes one pixel; the stability score looks at
//! the part of the low-resolution grid that the picture covers, not at the upscaled mask.

mod config;
mod image_encoder;
mod layout;
mod mask_decoder;
mod ops;
mod preprocess;
mod prompt;
mod tiny_vit;
mod transformer;
mod vit;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

pub use config::{BoxOutput, Config, ImageEncoderConfig, VitConfig};
pub use prompt::{PointPrompt, Prompt};
pub use tiny_vit::TinyVitConfig;

use crate::mask::{MaskFrame, MaskLogits};
use crate::models::checkpoint::Checkpoint;
use crate::models::ops::activation_type;
use crate::models::{
    ImageEmbedding, MaskPrediction, ModelError, ModelInfo, Result, SegmentInput, Segmenter,
    WeightUse,
};
use crate::vision::Picture;

use image_encoder::ImageEncoder;
use layout::HuggingFaceNames;
use mask_decoder::{Decoded, MaskDecoder};
use prompt::PromptEncoder;
use transformer::Cells;

/// Names that a pack's weight file may have, in order of preference.
const FILES: [&str; 4] = ["model.safetensors", "model.pth", "model.pt", "pytorch_model.bin"];
/// How many prompts are decoded in one pass: what a prompt needs on the way (cells, upscaled cells)
/// is much larger than its mask.
const PROMPTS_AT_ONCE: usize = 16;
/// A mask is stable when logits this far above and below the threshold agree.
const STABILITY_OFFSET: f32 = 1.0;

/// Which of the decoder's masks to answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskOutput {
    /// The one mask for prompts that are not ambiguous.
    Single,
    /// The masks for ambiguous prompts, e.g. one point: whole, part and sub-part.
    Multi,
}

/// The prompts of one encoded picture.
#[derive(Debug, Clone)]
pub struct PromptedImage<'a> {
    /// The encoded picture.
    pub embedding: &'a ImageEmbedding,
    /// What to segment in it.
    pub prompts: &'a [Prompt],
}

/// A loaded SAM.
#[derive(Debug)]
pub struct Sam {
    config: Config,
    device: Device,
    dtype: DType,
    image_encoder: ImageEncoder,
    prompt_encoder: PromptEncoder,
    mask_decoder: MaskDecoder,
    info: ModelInfo,
}

/// One prompt of a batch: its picture and its place among the picture's prompts.
struct Place {
    image: usize,
    prompt: usize,
}

/// Whether the network reads a tensor: mask prompts are not offered, nor is TinyViT's classifier,
/// and positions that a file has twice count once.
fn is_used(name: &str) -> bool {
    const UNUSED: [&str; 6] = [
        "prompt_encoder.mask_downscaling.",
        "prompt_encoder.mask_embed.",
        "prompt_encoder.shared_embedding.",
        "image_encoder.norm_head.",
        "image_encoder.head.",
        "num_batches_tracked",
    ];
    !UNUSED.iter().any(|part| name.contains(part))
}

impl Sam {
    /// Loads `config.json` and the weight file from `dir`, whose tensors are called as by Meta,
    /// MobileSAM or Hugging Face. Weights are converted to `dtype`.
    ///
    /// # Errors
    /// When a file is missing, is not what it should be, or lacks a tensor of the right shape.
    pub fn load(dir: &Path, device: &Device, dtype: DType) -> Result<Self> {
        Ok(Self::open(dir, device, dtype)?.0)
    }

    /// Which tensors of its file the network in `dir` reads; found out by loading it.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn weight_use(dir: &Path) -> Result<WeightUse> {
        Ok(Self::open(dir, &Device::Cpu, DType::BF16)?.1)
    }

    fn open(dir: &Path, device: &Device, dtype: DType) -> Result<(Self, WeightUse)> {
        let config = Config::read(&dir.join("config.json"))?;
        let weights = Checkpoint::open(dir, &FILES, None, dtype, device)?;
        let info = weights.info("sam", |tensor| is_used(&tensor.name));
        let weight_use = weights.weight_use();
        let names = weights.tensors.iter().map(|tensor| tensor.name.as_str());
        let builder = match HuggingFaceNames::of(&config, names) {
            Some(names) => weights.builder.rename_f(move |name: &str| names.name(name)),
            None => weights.builder,
        };
        Ok((Self::new(config, builder, info)?, weight_use))
    }

    /// Builds the network from the state dict's root.
    ///
    /// # Errors
    /// When the configuration contradicts itself or a tensor is missing or has another shape.
    pub fn new(config: Config, vb: VarBuilder, info: ModelInfo) -> Result<Self> {
        config.check()?;
        let prompt_encoder = PromptEncoder::load(&config, &vb.pp("prompt_encoder"))?;
        Ok(Self {
            device: vb.device().clone(),
            dtype: activation_type(&vb),
            image_encoder: ImageEncoder::load(&config, vb.pp("image_encoder"))?,
            mask_decoder: MaskDecoder::load(&config, &prompt_encoder, &vb)?,
            prompt_encoder,
            config,
            info,
        })
    }

    /// The sizes of the network.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Segments the prompts of several pictures in one batch: per picture and prompt one mask
    /// ([`MaskOutput::Single`]) or [`Config::num_multimask_outputs`].
    ///
    /// # Errors
    /// When a tensor operation fails, or the network's output is not finite.
    pub fn segment_prompts(
        &self,
        inputs: &[PromptedImage],
        output: MaskOutput,
    ) -> Result<Vec<Vec<Vec<MaskPrediction>>>> {
        let mut answers = self.decode_all(inputs, output)?;
        for mask in answers.iter_mut().flatten().flatten() {
            mask.predicted_iou = mask.predicted_iou.clamp(0.0, 1.0);
        }
        Ok(answers)
    }

    /// What [`Self::segment_prompts`] answers, with the IoUs as the network says them.
    fn decode_all(
        &self,
        inputs: &[PromptedImage],
        output: MaskOutput,
    ) -> Result<Vec<Vec<Vec<MaskPrediction>>>> {
        let mut places: Vec<Place> = inputs
            .iter()
            .enumerate()
            .flat_map(|(image, input)| {
                (0..input.prompts.len()).map(move |prompt| Place { image, prompt })
            })
            .collect();
        // One pass takes prompts of equally many tokens; the sort is stable, so the prompts of a
        // picture stay together.
        let tokens = |place: &Place| inputs[place.image].prompts[place.prompt].tokens();
        places.sort_by_key(tokens);
        let mut answers: Vec<Vec<Vec<MaskPrediction>>> =
            inputs.iter().map(|input| vec![Vec::new(); input.prompts.len()]).collect();
        for places in places.chunk_by(|a, b| tokens(a) == tokens(b)) {
            for places in places.chunks(PROMPTS_AT_ONCE) {
                let decoded = self.decode(inputs, places, self.masks(output))?;
                let masks = decoded.logits.into_iter().zip(decoded.iou);
                for (place, (logits, iou)) in places.iter().zip(masks) {
                    let frame = inputs[place.image].embedding.frame;
                    let masks = logits.into_iter().zip(iou);
                    answers[place.image][place.prompt] = masks
                        .map(|(logits, iou)| self.prediction(logits, iou, frame))
                        .collect::<Result<_>>()?;
                }
            }
        }
        Ok(answers)
    }

    /// The mask tokens that make up an output.
    fn masks(&self, output: MaskOutput) -> Range<usize> {
        match output {
            MaskOutput::Single => 0..1,
            MaskOutput::Multi => 1..1 + self.config.num_multimask_outputs,
        }
    }

    /// One pass of the decoder over prompts of equally many tokens.
    fn decode(
        &self,
        inputs: &[PromptedImage],
        places: &[Place],
        masks: Range<usize>,
    ) -> Result<Decoded> {
        let (mut embeddings, mut fine) = (Vec::new(), Vec::new());
        let mut counts = Vec::new();
        let mut prompts = Vec::with_capacity(places.len());
        for of_image in places.chunk_by(|a, b| a.image == b.image) {
            let PromptedImage { embedding, prompts: all } = &inputs[of_image[0].image];
            let MaskFrame { resized, original, .. } = embedding.frame;
            let sx = resized.0 as f32 / original.0 as f32;
            let sy = resized.1 as f32 / original.1 as f32;
            prompts.extend(of_image.iter().map(|place| all[place.prompt].scale(sx, sy)));
            embeddings.push(&embedding.cells);
            fine.push(&embedding.fine);
            counts.push(of_image.len());
        }
        let prompts = self.prompt_encoder.encode(&prompts, &self.device)?.to_dtype(self.dtype)?;
        let cells = Cells { values: Tensor::stack(&embeddings, 0)?, prompts: counts };
        let levels = fine.first().map_or(0, |maps| maps.len());
        let fine = (0..levels)
            .map(|level| {
                Tensor::stack(&fine.iter().map(|maps| &maps[level]).collect::<Vec<_>>(), 0)
            })
            .collect::<candle_core::Result<Vec<_>>>()?;
        Ok(self.mask_decoder.forward(cells, &fine, &prompts, masks)?)
    }

    /// One mask with its scores; the IoU is the network's, which may lie outside `0..=1`.
    fn prediction(&self, logits: Vec<f32>, iou: f32, frame: MaskFrame) -> Result<MaskPrediction> {
        if !iou.is_finite() || logits.iter().any(|logit| !logit.is_finite()) {
            return Err(ModelError::NotFinite("sam mask decoder"));
        }
        let side = 4 * self.config.grid();
        let threshold = self.config.mask_threshold;
        let stability = stability(&logits, side, &frame, threshold);
        let logits = MaskLogits::new(side, side, logits, frame)
            .map_err(|error| ModelError::Weights(format!("SAM mask: {error}")))?
            .above(threshold);
        Ok(MaskPrediction { logits, predicted_iou: iou, stability })
    }
}

impl Segmenter for Sam {
    fn encode(&self, pictures: &[Arc<Picture>]) -> Result<Vec<ImageEmbedding>> {
        if pictures.is_empty() {
            return Ok(Vec::new());
        }
        let borrowed: Vec<&Picture> = pictures.iter().map(Arc::as_ref).collect();
        let size = self.config.image_size;
        let encoded = self.image_encoder.forward(&borrowed, size, (&self.device, self.dtype))?;
        for tensor in encoded.fine.iter().chain([&encoded.cells]) {
            if !tensor.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?.is_finite() {
                return Err(ModelError::NotFinite("sam image encoder"));
            }
        }
        // Copies, so that no cached embedding keeps its whole batch alive.
        let part = |of: &Tensor, index| of.get(index)?.force_contiguous();
        let embedding = |(index, picture): (usize, &Arc<Picture>)| {
            let fine = encoded.fine.iter().map(|map| part(map, index));
            Ok(ImageEmbedding {
                cells: part(&encoded.cells, index)?,
                fine: fine.collect::<candle_core::Result<_>>()?,
                frame: preprocess::frame(size, picture.width(), picture.height()),
                digest: picture.digest(),
            })
        };
        pictures.iter().enumerate().map(embedding).collect()
    }

    fn segment(&self, inputs: &[SegmentInput]) -> Result<Vec<Vec<MaskPrediction>>> {
        let prompts: Vec<Vec<Prompt>> = inputs
            .iter()
            .map(|input| input.boxes.iter().map(|&bbox| bbox.into()).collect())
            .collect();
        let prompted: Vec<PromptedImage> = inputs
            .iter()
            .zip(&prompts)
            .map(|(input, prompts)| PromptedImage { embedding: &input.embedding, prompts })
            .collect();
        let output = match self.config.box_output {
            BoxOutput::Single => MaskOutput::Single,
            BoxOutput::BestOfMultimask => MaskOutput::Multi,
        };
        let masks = self.decode_all(&prompted, output)?;
        Ok(masks.into_iter().map(|masks| masks.into_iter().filter_map(best).collect()).collect())
    }

    fn encode_cost(&self) -> u64 {
        self.config.encode_cost()
    }

    fn decode_cost(&self) -> u64 {
        self.config.decode_cost()
    }

    fn info(&self) -> ModelInfo {
        self.info.clone()
    }
}

/// The mask that the network trusts most, the first of equals. Its IoU is clamped only then: two
/// may lie above 1.
fn best(masks: Vec<MaskPrediction>) -> Option<MaskPrediction> {
    let better = |a: MaskPrediction, b: MaskPrediction| match b.predicted_iou > a.predicted_iou {
        true => b,
        false => a,
    };
    let mut best = masks.into_iter().reduce(better)?;
    best.predicted_iou = best.predicted_iou.clamp(0.0, 1.0);
    Some(best)
}

/// IoU of the mask at a higher and at a lower threshold, over the cells whose centre the picture
/// covers; 0 where even the lower threshold leaves nothing.
fn stability(logits: &[f32], side: usize, frame: &MaskFrame, threshold: f32) -> f32 {
    let covered = |resized: u32| {
        let cells = f64::from(resized) * side as f64 / f64::from(frame.frame);
        ((cells + 0.5) as usize).clamp(1, side)
    };
    let (columns, rows) = (covered(frame.resized.0), covered(frame.resized.1));
    let (mut inner, mut outer) = (0u32, 0u32);
    for row in logits.chunks_exact(side).take(rows) {
        for &logit in &row[..columns] {
            inner += u32::from(logit > threshold + STABILITY_OFFSET);
            outer += u32::from(logit > threshold - STABILITY_OFFSET);
        }
    }
    if outer == 0 { 0.0 } else { inner as f32 / outer as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stability_ignores_the_padding() {
        let frame = MaskFrame { frame: 16, resized: (16, 8), original: (32, 16) };
        let mut logits = vec![-5.0; 16];
        logits[0] = 3.0;
        logits[1] = 0.5;
        logits[15] = 9.0; // in the padding
        assert_eq!(stability(&logits, 4, &frame, 0.0), 0.5);
        assert_eq!(stability(&[-5.0; 16], 4, &frame, 0.0), 0.0);
    }
}
