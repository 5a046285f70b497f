//! The sizes of a SAM.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::layout;
use super::tiny_vit::{STAGES, TinyVitConfig};
use crate::models::checkpoint::read_json;
use crate::models::{ModelError, Result, pyramid};

/// Which mask answers a prompt that is one box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoxOutput {
    /// The single-mask output, which SAM's authors recommend for one unambiguous box.
    Single,
    /// Of the multimask outputs the one with the highest predicted IoU.
    BestOfMultimask,
}

/// Sizes of the image encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ImageEncoderConfig {
    /// The vision transformer of the paper.
    Vit(VitConfig),
    /// MobileSAM's.
    TinyVit(TinyVitConfig),
    /// A convolutional trunk with a feature pyramid, whose finer maps the mask decoder adds while
    /// it upscales, as in SAM 2 (Ravi et al., 2024).
    Convolutional(pyramid::Config),
}

/// Sizes of a vision transformer with windowed and global attention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Width of the transformer.
    pub embed_dim: usize,
    /// Number of its blocks.
    pub depth: usize,
    /// Number of its attention heads.
    pub num_heads: usize,
    /// Width of its feed-forward layers in multiples of `embed_dim`.
    pub mlp_ratio: f64,
    /// Side of an attention window, in patches.
    pub window_size: usize,
    /// The blocks that attend to the whole picture instead of to windows.
    pub global_attn_indexes: Vec<usize>,
}

impl VitConfig {
    /// Width of the feed-forward layers.
    pub fn mlp_dim(&self) -> usize {
        (self.embed_dim as f64 * self.mlp_ratio) as usize
    }

    /// Side of the window that block `index` attends to, or `None` for the whole picture.
    pub fn window(&self, index: usize) -> Option<usize> {
        (!self.global_attn_indexes.contains(&index)).then_some(self.window_size)
    }

    /// Multiply–adds for a picture of `grid` × `grid` patches, without the neck.
    fn macs(&self, grid: usize) -> usize {
        let (tokens, dim) = (grid.pow(2), self.embed_dim);
        let patches = tokens * 3 * self.patch_size.pow(2) * dim;
        let blocks: usize = (0..self.depth)
            .map(|index| {
                let side = self.window(index).unwrap_or(grid);
                let (padded, keys) = (grid.div_ceil(side).pow(2) * side.pow(2), side.pow(2));
                let attention = padded * dim * (4 * dim + 2 * keys + 2 * side * self.num_heads);
                attention + 2 * tokens * dim * self.mlp_dim()
            })
            .sum();
        patches + blocks
    }
}

/// Pixels per cell of the embedding of all encoders but the paper's, whose patches decide.
const STRIDE: usize = 16;

/// Every size of the network, as `config.json` beside the weights states it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Side of the square that the image encoder sees, in pixels; a multiple of the patch's side,
    /// of 32 for the convolutional encoder.
    pub image_size: usize,
    /// What turns a picture into its embedding.
    pub image_encoder: ImageEncoderConfig,
    /// Channels of the image embedding: the width of prompts and mask decoder.
    pub out_chans: usize,
    /// Channels of the mask-prompt branch. Mask prompts are not offered, so it is only recorded.
    #[serde(default)]
    pub mask_in_chans: usize,
    /// Number of two-way blocks in the mask decoder.
    pub decoder_depth: usize,
    /// Number of its attention heads.
    pub decoder_num_heads: usize,
    /// Width of its feed-forward layers.
    pub decoder_mlp_dim: usize,
    /// Epsilon of the normalisations in its two-way blocks.
    #[serde(default = "decoder_norm_eps")]
    pub decoder_norm_eps: f64,
    /// Layers of the IoU head.
    pub iou_head_depth: usize,
    /// Width of the IoU head.
    pub iou_head_hidden_dim: usize,
    /// Masks of an ambiguous prompt.
    pub num_multimask_outputs: usize,
    /// Logits above this are inside the mask.
    pub mask_threshold: f32,
    /// Which mask answers a box.
    pub box_output: BoxOutput,
}

impl Config {
    /// SAM ViT-B (94 M parameters).
    pub fn vit_b() -> Self {
        Self::released(768, 12, 12, [2, 5, 8, 11])
    }

    /// SAM ViT-L (312 M parameters).
    pub fn vit_l() -> Self {
        Self::released(1024, 24, 16, [5, 11, 17, 23])
    }

    /// MobileSAM (10 M parameters): TinyViT-5M in the image encoder's place (Zhang et al., 2023).
    pub fn mobile() -> Self {
        let image_encoder = ImageEncoderConfig::TinyVit(TinyVitConfig::default());
        Self { image_encoder, ..Self::vit_b() }
    }

    /// SAM ViT-H (641 M parameters), the one that the paper uses.
    pub fn vit_h() -> Self {
        Self::released(1280, 32, 16, [7, 15, 23, 31])
    }

    /// What the three released checkpoints have in common.
    fn released(embed_dim: usize, depth: usize, num_heads: usize, global: [usize; 4]) -> Self {
        Self {
            image_size: 1024,
            image_encoder: ImageEncoderConfig::Vit(VitConfig {
                patch_size: 16,
                embed_dim,
                depth,
                num_heads,
                mlp_ratio: 4.0,
                window_size: 14,
                global_attn_indexes: global.to_vec(),
            }),
            out_chans: 256,
            mask_in_chans: 16,
            decoder_depth: 2,
            decoder_num_heads: 8,
            decoder_mlp_dim: 2048,
            decoder_norm_eps: decoder_norm_eps(),
            iou_head_depth: 3,
            iou_head_hidden_dim: 256,
            num_multimask_outputs: 3,
            mask_threshold: 0.0,
            box_output: BoxOutput::Single,
        }
    }

    /// Reads and checks a `config.json`: this, or the one that Hugging Face's `transformers` writes.
    ///
    /// # Errors
    /// When the file cannot be read, is not such a configuration, or contradicts itself.
    pub fn read(path: &Path) -> Result<Self> {
        let config = layout::configuration(read_json(path)?)?;
        config.check()?;
        Ok(config)
    }

    /// Whether the sizes fit each other.
    ///
    /// # Errors
    /// [`ModelError::Weights`] that names the first contradiction.
    pub fn check(&self) -> Result<()> {
        let divides =
            |part: usize, whole: usize| part > 0 && whole > 0 && whole.is_multiple_of(part);
        let of_encoder = match &self.image_encoder {
            ImageEncoderConfig::Vit(vit) => [
                (
                    divides(vit.patch_size, self.image_size),
                    "image_size is no multiple of patch_size",
                ),
                (divides(vit.num_heads, vit.embed_dim), "embed_dim is no multiple of num_heads"),
                (vit.window_size > 0, "window_size is 0"),
                (vit.mlp_dim() > 0, "mlp_ratio is too small"),
            ]
            .to_vec(),
            ImageEncoderConfig::TinyVit(encoder) => {
                let fit = |(&dim, &heads): (&usize, &usize)| divides(heads, dim);
                let mut attending = encoder.embed_dims.iter().zip(&encoder.num_heads).skip(1);
                [
                    (divides(STRIDE, self.image_size), "image_size is no multiple of 16"),
                    (attending.all(fit), "embed_dims are no multiples of num_heads"),
                    (encoder.embed_dims[0] > 1, "embed_dims begin too small"),
                    (!encoder.window_sizes[1..].contains(&0), "window_sizes hold a 0"),
                    (encoder.mlp_ratio >= 1.0, "mlp_ratio is too small"),
                    (encoder.mbconv_expand_ratio >= 1.0, "mbconv_expand_ratio is too small"),
                ]
                .to_vec()
            }
            ImageEncoderConfig::Convolutional(trunk) => {
                trunk.check()?;
                [(divides(pyramid::COARSEST, self.image_size), "image_size is no multiple of 32")]
                    .to_vec()
            }
        };
        let of_decoder = [
            (divides(8, self.out_chans), "out_chans is no multiple of 8"),
            (
                divides(2 * self.decoder_num_heads, self.out_chans),
                "out_chans is no multiple of twice decoder_num_heads",
            ),
            (self.decoder_depth > 0, "decoder_depth is 0"),
            (self.iou_head_depth > 0, "iou_head_depth is 0"),
            (self.mask_threshold.is_finite(), "mask_threshold is not finite"),
            (
                self.box_output == BoxOutput::Single || self.num_multimask_outputs > 0,
                "box_output wants one of no multimask outputs",
            ),
        ];
        let mut rules = of_encoder.iter().chain(&of_decoder);
        match rules.find(|(holds, _)| !holds) {
            Some((_, broken)) => Err(ModelError::Weights(format!("SAM configuration: {broken}"))),
            None => Ok(()),
        }
    }

    /// Cells of the image embedding along one side.
    pub fn grid(&self) -> usize {
        match &self.image_encoder {
            ImageEncoderConfig::Vit(vit) => self.image_size / vit.patch_size,
            ImageEncoderConfig::TinyVit(_) | ImageEncoderConfig::Convolutional(_) => {
                self.image_size / STRIDE
            }
        }
    }

    /// Multiply–adds to encode one picture, in millions.
    pub fn encode_cost(&self) -> u64 {
        let (grid, out) = (self.grid(), self.out_chans);
        let macs = match &self.image_encoder {
            ImageEncoderConfig::Vit(vit) => {
                vit.macs(grid) + grid.pow(2) * out * (vit.embed_dim + 9 * out)
            }
            ImageEncoderConfig::TinyVit(encoder) => {
                let last = encoder.embed_dims[STAGES - 1];
                encoder.macs(self.image_size) + grid.pow(2) * out * (last + 9 * out)
            }
            ImageEncoderConfig::Convolutional(trunk) => {
                let [middle, fine] = trunk.pyramid;
                let quarter = trunk.taps().map_or(0, |[c4, ..]| c4);
                trunk.macs(self.image_size) as usize
                    + grid.pow(2) * out * (middle + fine + 2 * quarter)
            }
        };
        millions(macs)
    }

    /// Multiply–adds to decode one box, in millions.
    pub fn decode_cost(&self) -> u64 {
        let (image, dim) = (self.grid().pow(2), self.out_chans);
        let tokens = 3 + self.num_multimask_outputs + 1;
        let cross = dim * dim * (image + tokens) + image * tokens * dim;
        let own = tokens * dim * (4 * dim + 2 * self.decoder_mlp_dim);
        let upscaling = image * dim * dim + image * 4 * (dim / 4) * (dim / 2);
        let masks = 16 * image * (dim / 8);
        millions(self.decoder_depth * (2 * cross + own) + cross + upscaling + masks)
    }
}

/// PyTorch's default, as in Meta's code.
fn decoder_norm_eps() -> f64 {
    1e-5
}

fn millions(multiply_adds: usize) -> u64 {
    (multiply_adds as u64).div_ceil(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_released_sizes_are_legal() {
        for config in [Config::vit_b(), Config::vit_l(), Config::vit_h(), Config::mobile()] {
            config.check().unwrap();
            assert_eq!(config.grid(), 64);
        }
        let ImageEncoderConfig::Vit(vit) = Config::vit_b().image_encoder else { panic!() };
        assert_eq!(vit.window(2), None);
        assert_eq!(vit.window(3), Some(14));
    }

    fn convolutional() -> Config {
        let image_encoder = ImageEncoderConfig::Convolutional(pyramid::Config::tiny());
        Config { image_size: 320, image_encoder, ..Config::vit_b() }
    }

    #[test]
    fn contradictions_are_named() {
        let config = Config { image_size: 1000, ..Config::vit_b() };
        let message = config.check().unwrap_err().to_string();
        assert!(message.contains("image_size"), "{message}");
        assert!(Config { out_chans: 100, ..Config::vit_b() }.check().is_err());
        let ImageEncoderConfig::Vit(vit) = Config::vit_b().image_encoder else { panic!() };
        let image_encoder = ImageEncoderConfig::Vit(VitConfig { num_heads: 0, ..vit });
        assert!(Config { image_encoder, ..Config::vit_b() }.check().is_err());
        assert!(convolutional().check().is_ok());
        assert_eq!(convolutional().grid(), 20);
        assert!(Config { image_size: 336, ..convolutional() }.check().is_err());
    }

    #[test]
    fn a_configuration_survives_json() {
        for config in [Config::vit_l(), Config::mobile(), convolutional()] {
            let text = serde_json::to_string(&config).unwrap();
            assert!(text.contains(r#""box_output":"single""#));
            assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
            for place in ["{", r#""image_encoder":{"#] {
                let unknown = text.replacen(place, &format!(r#"{place}"colour": 1, "#), 1);
                assert!(serde_json::from_str::<Config>(&unknown).is_err(), "{unknown}");
            }
        }
    }

    /// Nothing reads it, so nobody need state it.
    #[test]
    fn the_mask_prompt_branch_may_be_left_out() {
        let mut value = serde_json::to_value(Config::vit_b()).unwrap();
        value.as_object_mut().unwrap().remove("mask_in_chans");
        assert!(serde_json::from_value::<Config>(value).unwrap().check().is_ok());
    }

    /// By hand for ViT-B: 4096 tokens × 12 blocks × 12·768² = 348 billion in the linear layers (a
    /// fifth more where windows are padded), 4 × 2·4096²·768 = 103 billion in global attention.
    /// ViT-H comes to 2981 billion by the same count.
    #[test]
    fn costs_have_the_right_magnitude() {
        assert!((450_000..520_000).contains(&Config::vit_b().encode_cost()));
        assert!((2_800_000..3_100_000).contains(&Config::vit_h().encode_cost()));
        assert!((30_000..50_000).contains(&Config::mobile().encode_cost()));
        assert!((1_000..6_000).contains(&Config::vit_b().decode_cost()));
    }
}
