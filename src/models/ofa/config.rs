//! Sizes and flags of the OFA networks, and a pack's `config.json`.

use serde::{Deserialize, Serialize};

use crate::models::{ModelError, Result};

/// Pixels of the picture per image token, along each side: the trunk ends at stride 16.
pub(super) const STRIDE: usize = 16;

/// Enough tokens for every step of beam search to find its five continuations.
const MIN_VOCABULARY: usize = 16;

/// Sizes of one OFA network. Field names follow the Hugging Face configuration where it has them;
/// every field is required, so that a pack never depends on a default of this code.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Width of the transformer.
    pub d_model: usize,
    /// Number of encoder layers.
    pub encoder_layers: usize,
    /// Number of decoder layers.
    pub decoder_layers: usize,
    /// Attention heads of every encoder layer.
    pub encoder_attention_heads: usize,
    /// Attention heads of every decoder layer.
    pub decoder_attention_heads: usize,
    /// Inner width of the encoder's feed-forward blocks.
    pub encoder_ffn_dim: usize,
    /// Inner width of the decoder's feed-forward blocks.
    pub decoder_ffn_dim: usize,
    /// Longest text, in tokens with `<s>` and `</s>`. The position tables hold two rows more.
    pub max_position_embeddings: usize,
    /// Half the number of relative-position buckets of texts.
    pub token_bucket_size: usize,
    /// Rows and columns of the image position table.
    pub image_bucket_size: usize,
    /// Bottleneck blocks in each of the trunk's three stages.
    pub resnet_layers: [usize; 3],
    /// Channels of the trunk's stem; its output has sixteen times as many.
    pub resnet_width: usize,
    /// Layer normalisation after attention (`attn_ln`, `self_attn_ln`, `cross_attn_ln`).
    pub scale_attn: bool,
    /// Layer normalisation inside the feed-forward block (`ffn_layernorm`).
    pub scale_fc: bool,
    /// A learned factor per attention head (`c_attn`).
    pub scale_heads: bool,
    /// Whether the encoder adds position embeddings to its inputs.
    pub entangle_encoder_positions: bool,
    /// Whether the decoder adds position embeddings to its inputs: true for fairseq checkpoints
    /// trained without `--disable-entangle`, whatever their other entangle flag says.
    pub entangle_decoder_positions: bool,
}

/// The five published sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// 33 M parameters.
    Tiny,
    /// 93 M parameters.
    Medium,
    /// 182 M parameters.
    Base,
    /// 473 M parameters.
    Large,
    /// 929 M parameters.
    Huge,
}

impl Preset {
    /// The sizes of this network, with the flags of OFA's published training scripts.
    pub fn config(self) -> Config {
        let (d_model, layers, heads, resnet_layers) = match self {
            Self::Tiny => (256, (4, 4), 4, [3, 4, 6]),
            Self::Medium => (512, (4, 4), 8, [3, 4, 23]),
            Self::Base => (768, (6, 6), 12, [3, 4, 23]),
            Self::Large => (1024, (12, 12), 16, [3, 8, 36]),
            Self::Huge => (1280, (24, 12), 16, [3, 8, 36]),
        };
        Config {
            vocab_size: 59457,
            d_model,
            encoder_layers: layers.0,
            decoder_layers: layers.1,
            encoder_attention_heads: heads,
            decoder_attention_heads: heads,
            encoder_ffn_dim: 4 * d_model,
            decoder_ffn_dim: 4 * d_model,
            max_position_embeddings: 1024,
            token_bucket_size: 256,
            image_bucket_size: 42,
            resnet_layers,
            resnet_width: 64,
            scale_attn: true,
            scale_fc: true,
            scale_heads: true,
            entangle_encoder_positions: false,
            entangle_decoder_positions: false,
        }
    }
}

/// A network in `config.json`: the name of a published size, or all fields of a [`Config`].
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Network {
    /// A published size.
    Preset(Preset),
    /// Any other size.
    Custom(Box<Config>),
}

/// Ids with a meaning of their own. The default is OFA's vocabulary of 59457 tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Vocabulary {
    /// `<s>`: starts every text and every answer.
    pub bos: u32,
    /// `<pad>`.
    pub pad: u32,
    /// `</s>`.
    pub eos: u32,
    /// `<unk>`.
    pub unk: u32,
    /// `<bin_0>`, the first location token.
    pub first_bin: u32,
    /// Number of location tokens.
    pub bins: u32,
}

impl Default for Vocabulary {
    fn default() -> Self {
        Self { bos: 0, pad: 1, eos: 2, unk: 3, first_bin: 58457, bins: 1000 }
    }
}

/// A pack's `config.json`: the network and how it is fed.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The network.
    pub network: Network,
    /// Side of the square that pictures are resized to: 480 for entailment and 512 for grounding
    /// in the published checkpoints. A multiple of 16.
    pub image_size: usize,
    /// The vocabulary's special ids.
    #[serde(default)]
    pub vocabulary: Vocabulary,
}

impl ModelConfig {
    /// The network's sizes.
    pub fn network(&self) -> Config {
        match &self.network {
            Network::Preset(preset) => preset.config(),
            Network::Custom(config) => (**config).clone(),
        }
    }

    /// Image tokens along one side of the picture.
    pub fn grid(&self) -> usize {
        self.image_size / STRIDE
    }

    /// Checks that the numbers fit each other.
    ///
    /// # Errors
    /// [`ModelError::Weights`] names the first contradiction.
    pub fn validate(&self) -> Result<()> {
        let c = self.network();
        let v = self.vocabulary;
        let specials = [v.bos, v.pad, v.eos, v.unk];
        let fits = |id: u32| (id as usize) < c.vocab_size;
        let problem = if c.encoder_attention_heads == 0
            || c.decoder_attention_heads == 0
            || !c.d_model.is_multiple_of(c.encoder_attention_heads)
            || !c.d_model.is_multiple_of(c.decoder_attention_heads)
        {
            "the attention heads do not divide d_model"
        } else if self.image_size == 0 || !self.image_size.is_multiple_of(STRIDE) {
            "image_size is not a multiple of 16"
        } else if self.grid() > c.image_bucket_size {
            "image_size has more image tokens a side than image_bucket_size"
        } else if c.token_bucket_size < 4 || !c.token_bucket_size.is_multiple_of(2) {
            "token_bucket_size is odd or below 4"
        } else if c.max_position_embeddings < 3 {
            "max_position_embeddings is below 3"
        } else if c.resnet_layers.contains(&0) || c.resnet_width == 0 {
            "the trunk has an empty stage"
        } else if c.vocab_size < MIN_VOCABULARY {
            "the vocabulary is too small for beam search"
        } else if !specials.into_iter().all(fits) {
            "a special token is outside the vocabulary"
        } else if v.bins < 2 || v.first_bin as usize + v.bins as usize > c.vocab_size {
            "the location tokens are outside the vocabulary"
        } else {
            return Ok(());
        };
        Err(ModelError::Weights(format!("config.json: {problem}")))
    }
}

impl Config {
    /// Multiply–adds of the trunk for a square picture of `size` pixels.
    pub fn trunk_macs(&self, size: usize) -> u64 {
        let stem_side = size.div_ceil(2) as u64;
        let width = self.resnet_width as u64;
        let mut macs = stem_side * stem_side * 49 * 3 * width;
        let mut side = stem_side.div_ceil(2);
        let mut input = width;
        for (stage, &blocks) in self.resnet_layers.iter().enumerate() {
            let planes = width << stage;
            for block in 0..blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let before = side * side;
                side = u64::div_ceil(side, stride);
                let after = side * side;
                macs += before * input * planes + after * planes * planes * (9 + 4);
                if block == 0 {
                    macs += after * input * planes * 4;
                }
                input = planes * 4;
            }
        }
        macs
    }

    /// Multiply–adds of the encoder for `tokens` image and text tokens together.
    pub fn encoder_macs(&self, tokens: usize) -> u64 {
        let (n, d, f) = (tokens as u64, self.d_model as u64, self.encoder_ffn_dim as u64);
        self.encoder_layers as u64 * (n * (4 * d * d + 2 * d * f) + 2 * n * n * d)
    }

    /// Multiply–adds of the decoder for `steps` rows of one token each, reading `source` encoder
    /// tokens, without the output projection.
    pub fn decoder_macs(&self, steps: usize, source: usize) -> u64 {
        let (t, s, d) = (steps as u64, source as u64, self.d_model as u64);
        let f = self.decoder_ffn_dim as u64;
        let per_row = 6 * d * d + 2 * d * f + 2 * s * d + 2 * t * d;
        self.decoder_layers as u64 * (t * per_row + 2 * s * d * d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> ModelConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_preset_is_named_and_the_vocabulary_defaults_to_ofas() {
        let config = parse(r#"{"network": "large", "image_size": 512}"#);
        config.validate().unwrap();
        assert_eq!(config.grid(), 32);
        assert_eq!(config.vocabulary, Vocabulary::default());
        let network = config.network();
        assert_eq!((network.d_model, network.encoder_layers), (1024, 12));
        assert_eq!(network.resnet_layers, [3, 8, 36]);
        assert_eq!(network.encoder_ffn_dim, 4096);
    }

    #[test]
    fn contradictions_are_named() {
        for (json, word) in [
            (r#"{"network": "tiny", "image_size": 500}"#, "multiple of 16"),
            (r#"{"network": "tiny", "image_size": 688}"#, "image_bucket_size"),
            (
                r#"{"network": "tiny", "image_size": 64, "vocabulary":
                    {"bos":0,"pad":1,"eos":2,"unk":3,"first_bin":59000,"bins":1000}}"#,
                "location tokens",
            ),
        ] {
            let error = parse(json).validate().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    /// Parameters of the published network of this size, by the tensors that its checkpoint holds.
    fn parameters(c: &Config) -> usize {
        let d = c.d_model;
        let linear = |from: usize, to: usize| (from + 1) * to;
        let norm = 2 * d;
        let attention = |heads: usize| heads + 4 * linear(d, d);
        let feed_forward = |f: usize| linear(d, f) + linear(f, d) + 2 * f + norm;
        let relative = |heads: usize| {
            let side = 2 * c.image_bucket_size - 1;
            (2 * c.token_bucket_size - 1 + side * side + 3) * heads
        };
        let image_positions = c.image_bucket_size * c.image_bucket_size + 1;
        let positions = (c.max_position_embeddings + 2 + image_positions) * d + 2 * norm;
        let encoder_layer =
            attention(c.encoder_attention_heads) + 2 * norm + feed_forward(c.encoder_ffn_dim);
        let encoder_layer = encoder_layer + relative(c.encoder_attention_heads);
        let decoder_layer =
            2 * attention(c.decoder_attention_heads) + 4 * norm + feed_forward(c.decoder_ffn_dim);
        let decoder_layer = decoder_layer + relative(c.decoder_attention_heads);
        let image = trunk_parameters(c) + linear(16 * c.resnet_width, d);
        let encoder = image + positions + 3 * norm + 2 * d + 2 * linear(d, d);
        let decoder = positions + 3 * norm + 4 * linear(d, d);
        c.vocab_size * d
            + encoder
            + c.encoder_layers * encoder_layer
            + decoder
            + c.decoder_layers * decoder_layer
    }

    fn trunk_parameters(c: &Config) -> usize {
        let convolution =
            |from: usize, to: usize, kernel: usize| from * to * kernel * kernel + 2 * to;
        let mut total = convolution(3, c.resnet_width, 7);
        let mut input = c.resnet_width;
        for (stage, &blocks) in c.resnet_layers.iter().enumerate() {
            let planes = c.resnet_width << stage;
            total += convolution(input, 4 * planes, 1);
            for _ in 0..blocks {
                total += convolution(input, planes, 1);
                total += convolution(planes, planes, 3) + convolution(planes, 4 * planes, 1);
                input = 4 * planes;
            }
        }
        total
    }

    /// As counted in PyTorch over the authors' own networks.
    #[test]
    fn presets_have_the_published_numbers_of_parameters() {
        for (preset, count) in [
            (Preset::Tiny, 33_488_336),
            (Preset::Medium, 92_892_000),
            (Preset::Base, 182_238_536),
            (Preset::Large, 472_977_152),
            (Preset::Huge, 929_486_848),
        ] {
            assert_eq!(parameters(&preset.config()), count, "{preset:?}");
        }
    }

    #[test]
    fn unknown_fields_are_refused() {
        let json = r#"{"network": "tiny", "image_size": 64, "patch": 14}"#;
        assert!(serde_json::from_str::<ModelConfig>(json).is_err());
    }

    /// torchvision reports 7.8 G multiply–adds for ResNet-101 at 224 with its fourth stage, which
    /// has three blocks of 0.2 to 0.4 G each, and the classifier.
    #[test]
    fn the_trunk_cost_is_that_of_resnet_101_without_its_last_stage() {
        let macs = Preset::Base.config().trunk_macs(224) as f64 / 1e9;
        assert!((6.9..7.2).contains(&macs), "{macs}");
    }
}
