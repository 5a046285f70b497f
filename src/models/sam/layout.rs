//! The folders in which SAMs are found, and what each calls its tensors.
//!
//! - Ours: `config.json` is a [`Config`]; tensors have the names of Meta's checkpoints, with which
//!   MobileSAM's agree.
//! - Hugging Face's (`facebook/sam-vit-huge` and its like): `config.json` is transformers' `SamConfig`,
//!   tensors have the names of its `SamModel`.

use serde::Deserialize;
use serde_json::Value;

use super::config::{BoxOutput, Config, ImageEncoderConfig, VitConfig};
use crate::models::{ModelError, Result};

/// A key that only Hugging Face's configuration has.
const MARKER: &str = "vision_config";
/// What the names of Hugging Face's image encoder begin with.
const ENCODER: &str = "vision_encoder.";

/// The configuration in a `config.json` of either kind, not checked yet.
///
/// # Errors
/// It is neither, or asks for what this network does not have.
pub(super) fn configuration(json: Value) -> Result<Config> {
    let wrong = |error: serde_json::Error| ModelError::Weights(format!("config.json: {error}"));
    if json.get(MARKER).is_none() {
        return serde_json::from_value(json).map_err(wrong);
    }
    serde_json::from_value::<HuggingFace>(json).map_err(wrong)?.config()
}

/// Of transformers' `SamConfig` what decides about the network. What a file leaves out has
/// transformers' default, which is ViT-B.
#[derive(Debug, Deserialize)]
struct HuggingFace {
    vision_config: Vision,
    #[serde(default)]
    prompt_encoder_config: Prompts,
    #[serde(default)]
    mask_decoder_config: Masks,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct Vision {
    hidden_size: usize,
    output_channels: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_channels: usize,
    image_size: usize,
    patch_size: usize,
    hidden_act: String,
    qkv_bias: bool,
    mlp_ratio: f64,
    mlp_dim: Option<usize>,
    use_abs_pos: bool,
    use_rel_pos: bool,
    window_size: usize,
    global_attn_indexes: Vec<usize>,
}

impl Default for Vision {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            output_channels: 256,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 1024,
            patch_size: 16,
            hidden_act: "gelu".to_owned(),
            qkv_bias: true,
            mlp_ratio: 4.0,
            mlp_dim: None,
            use_abs_pos: true,
            use_rel_pos: true,
            window_size: 14,
            global_attn_indexes: vec![2, 5, 8, 11],
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct Prompts {
    mask_input_channels: usize,
    num_point_embeddings: usize,
    hidden_act: String,
}

impl Default for Prompts {
    fn default() -> Self {
        Self { mask_input_channels: 16, num_point_embeddings: 4, hidden_act: "gelu".to_owned() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct Masks {
    hidden_size: usize,
    hidden_act: String,
    mlp_dim: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    attention_downsample_rate: usize,
    num_multimask_outputs: usize,
    iou_head_depth: usize,
    iou_head_hidden_dim: usize,
    layer_norm_eps: f64,
}

impl Default for Masks {
    fn default() -> Self {
        Self {
            hidden_size: 256,
            hidden_act: "relu".to_owned(),
            mlp_dim: 2048,
            num_hidden_layers: 2,
            num_attention_heads: 8,
            attention_downsample_rate: 2,
            num_multimask_outputs: 3,
            iou_head_depth: 3,
            iou_head_hidden_dim: 256,
            layer_norm_eps: 1e-6,
        }
    }
}

impl HuggingFace {
    fn config(self) -> Result<Config> {
        let (vision, prompts, masks) =
            (self.vision_config, self.prompt_encoder_config, self.mask_decoder_config);
        let needs = [
            (vision.hidden_act == "gelu", "vision_config.hidden_act is not gelu"),
            (vision.qkv_bias, "vision_config.qkv_bias is false"),
            (vision.use_abs_pos, "vision_config.use_abs_pos is false"),
            (vision.use_rel_pos, "vision_config.use_rel_pos is false"),
            (vision.num_channels == 3, "vision_config.num_channels is not 3"),
            (prompts.hidden_act == "gelu", "prompt_encoder_config.hidden_act is not gelu"),
            (prompts.num_point_embeddings == 4, "num_point_embeddings is not 4"),
            (masks.hidden_act == "relu", "mask_decoder_config.hidden_act is not relu"),
            (masks.attention_downsample_rate == 2, "attention_downsample_rate is not 2"),
            (masks.hidden_size == vision.output_channels, "mask_decoder_config has another width"),
            (vision.hidden_size > 0, "vision_config.hidden_size is 0"),
        ];
        if let Some((_, missing)) = needs.iter().find(|(met, _)| !met) {
            let message =
                format!("SAM configuration: {missing}, which this network does not offer");
            return Err(ModelError::Weights(message));
        }
        let mlp_ratio = match vision.mlp_dim {
            Some(dim) => dim as f64 / vision.hidden_size as f64,
            None => vision.mlp_ratio,
        };
        Ok(Config {
            image_size: vision.image_size,
            image_encoder: ImageEncoderConfig::Vit(VitConfig {
                patch_size: vision.patch_size,
                embed_dim: vision.hidden_size,
                depth: vision.num_hidden_layers,
                num_heads: vision.num_attention_heads,
                mlp_ratio,
                window_size: vision.window_size,
                global_attn_indexes: vision.global_attn_indexes,
            }),
            out_chans: vision.output_channels,
            mask_in_chans: prompts.mask_input_channels,
            decoder_depth: masks.num_hidden_layers,
            decoder_num_heads: masks.num_attention_heads,
            decoder_mlp_dim: masks.mlp_dim,
            decoder_norm_eps: masks.layer_norm_eps,
            iou_head_depth: masks.iou_head_depth,
            iou_head_hidden_dim: masks.iou_head_hidden_dim,
            num_multimask_outputs: masks.num_multimask_outputs,
            mask_threshold: 0.0,
            box_output: BoxOutput::Single,
        })
    }
}

/// Hugging Face's names for the tensors that a [`Config`] asks for by Meta's.
#[derive(Debug, Clone)]
pub(super) struct HuggingFaceNames {
    iou_head_depth: usize,
    /// Under which of its two names the file has the frequencies of positions.
    frequencies: &'static str,
}

impl HuggingFaceNames {
    /// If a file with tensors of these names is Hugging Face's.
    pub(super) fn of<'a>(
        config: &Config,
        mut names: impl Iterator<Item = &'a str> + Clone,
    ) -> Option<Self> {
        const SHARED: &str = "shared_image_embedding.positional_embedding";
        const PROMPTS: &str = "prompt_encoder.shared_embedding.positional_embedding";
        let shared = names.clone().any(|name| name == SHARED);
        names.any(|name| name.starts_with(ENCODER)).then_some(Self {
            iou_head_depth: config.iou_head_depth,
            frequencies: if shared { SHARED } else { PROMPTS },
        })
    }

    /// The name of the tensor that Meta calls `name`.
    pub(super) fn name(&self, name: &str) -> String {
        if name == "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix" {
            return self.frequencies.to_owned();
        }
        match name.split_once('.') {
            Some(("image_encoder", rest)) => format!("{ENCODER}{}", of_encoder(rest)),
            Some(("prompt_encoder", rest)) => {
                format!("prompt_encoder.{}", rest.replace("point_embeddings.", "point_embed."))
            }
            Some(("mask_decoder", rest)) => format!("mask_decoder.{}", self.of_decoder(rest)),
            _ => name.to_owned(),
        }
    }

    fn of_decoder(&self, name: &str) -> String {
        if let Some(rest) = name.strip_prefix("iou_prediction_head.layers.") {
            return format!("iou_prediction_head.{}", of_mlp(rest, self.iou_head_depth));
        }
        if let Some(rest) = name.strip_prefix("output_hypernetworks_mlps.")
            && let Some((index, rest)) = rest.split_once(".layers.")
        {
            const DEPTH: usize = 3;
            return format!("output_hypernetworks_mlps.{index}.{}", of_mlp(rest, DEPTH));
        }
        let upscaling = [("0", "conv1"), ("1", "layer_norm"), ("3", "conv2")];
        for (index, other) in upscaling {
            if let Some(rest) = name.strip_prefix(&format!("output_upscaling.{index}.")) {
                return format!("upscale_{other}.{rest}");
            }
        }
        let name = name.replace("norm_final_attn", "layer_norm_final_attn");
        (1..=4).fold(name, |name, index| {
            name.replace(&format!(".norm{index}."), &format!(".layer_norm{index}."))
        })
    }
}

/// A tensor of the image encoder.
fn of_encoder(name: &str) -> String {
    let neck = [("0", "conv1"), ("1", "layer_norm1"), ("2", "conv2"), ("3", "layer_norm2")];
    for (index, other) in neck {
        if let Some(rest) = name.strip_prefix(&format!("neck.{index}.")) {
            return format!("neck.{other}.{rest}");
        }
    }
    if let Some(rest) = name.strip_prefix("patch_embed.proj.") {
        return format!("patch_embed.projection.{rest}");
    }
    match name.strip_prefix("blocks.") {
        Some(rest) => {
            let rest = rest.replace(".norm1.", ".layer_norm1.");
            format!("layers.{}", rest.replace(".norm2.", ".layer_norm2."))
        }
        None => name.to_owned(),
    }
}

/// Of `depth` layers the first and the last have names of their own.
fn of_mlp(rest: &str, depth: usize) -> String {
    match rest.split_once('.').map(|(index, rest)| (index.parse::<usize>(), rest)) {
        Some((Ok(0), rest)) => format!("proj_in.{rest}"),
        Some((Ok(index), rest)) if index + 1 == depth => format!("proj_out.{rest}"),
        Some((Ok(index), rest)) => format!("layers.{}.{rest}", index - 1),
        _ => rest.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_file_leaves_out_is_vit_b() {
        // transformers normalises with another epsilon than Meta.
        let like = |config: Config| Config { decoder_norm_eps: 1e-6, ..config };
        let plain = configuration(json!({"vision_config": {}})).unwrap();
        assert_eq!(plain, like(Config::vit_b()));
        let huge = json!({
            "architectures": ["SamModel"],
            "vision_config": {
                "hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "mlp_dim": 5120,
                "global_attn_indexes": [7, 15, 23, 31], "layer_norm_eps": 1e-6, "num_pos_feats": 128,
            },
            "mask_decoder_config": {"mlp_dim": 2048},
        });
        assert_eq!(configuration(huge).unwrap(), like(Config::vit_h()));
    }

    #[test]
    fn what_is_not_offered_is_refused_by_name() {
        for (part, key, value) in [
            ("vision_config", "use_rel_pos", json!(false)),
            ("vision_config", "hidden_act", json!("relu")),
            ("mask_decoder_config", "attention_downsample_rate", json!(1)),
        ] {
            let mut config = json!({"vision_config": {}});
            config[part][key] = value;
            let message = configuration(config).unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
        assert!(configuration(json!({"vision_config": {"image_size": "large"}})).is_err());
        assert!(configuration(json!([])).is_err());
    }

    #[test]
    fn names_of_both() {
        let config = Config::vit_b();
        let both = ["vision_encoder.pos_embed", "shared_image_embedding.positional_embedding"];
        let names = HuggingFaceNames::of(&config, both.into_iter()).unwrap();
        let only = HuggingFaceNames::of(&config, both[..1].iter().copied()).unwrap();
        assert!(HuggingFaceNames::of(&config, ["image_encoder.pos_embed"].into_iter()).is_none());
        let frequencies = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix";
        assert_eq!(names.name(frequencies), both[1]);
        assert!(only.name(frequencies).starts_with("prompt_encoder.shared_embedding."));
        for (meta, other) in [
            ("image_encoder.pos_embed", "vision_encoder.pos_embed"),
            ("image_encoder.blocks.11.norm2.bias", "vision_encoder.layers.11.layer_norm2.bias"),
            ("image_encoder.neck.3.weight", "vision_encoder.neck.layer_norm2.weight"),
            ("prompt_encoder.point_embeddings.2.weight", "prompt_encoder.point_embed.2.weight"),
            ("prompt_encoder.not_a_point_embed.weight", "prompt_encoder.not_a_point_embed.weight"),
            (
                "mask_decoder.transformer.layers.1.norm4.weight",
                "mask_decoder.transformer.layers.1.layer_norm4.weight",
            ),
            (
                "mask_decoder.transformer.norm_final_attn.bias",
                "mask_decoder.transformer.layer_norm_final_attn.bias",
            ),
            ("mask_decoder.output_upscaling.3.bias", "mask_decoder.upscale_conv2.bias"),
            (
                "mask_decoder.output_hypernetworks_mlps.3.layers.2.bias",
                "mask_decoder.output_hypernetworks_mlps.3.proj_out.bias",
            ),
            (
                "mask_decoder.iou_prediction_head.layers.1.bias",
                "mask_decoder.iou_prediction_head.layers.0.bias",
            ),
        ] {
            assert_eq!(names.name(meta), other);
        }
    }
}
