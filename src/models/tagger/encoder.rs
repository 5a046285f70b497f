//! BERT (Devlin et al., 2019) and XLM-RoBERTa (Conneau et al., 2020) encoders, after Hugging
//! Face's `BertModel` and `XLMRobertaModel` without the pooler, with their state-dict names.
//!
//! Both are one post-norm transformer; only the position ids differ. candle-transformers' own
//! XLM-RoBERTa computes those in the weights' data type, which is wrong in BF16 past 256 pieces;
//! here they are integers. Known deviation: inference only, so no dropout.

use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{Activation, Embedding, VarBuilder, embedding};

use super::config::{EncoderConfig, Family};
use crate::models::Result;
use crate::models::ops::{
    self, LayerNorm, Linear, Scores, Storage, activation_type, attend, linear_storage,
};

/// The encoder.
#[derive(Debug)]
pub struct Encoder {
    words: Embedding,
    positions: Embedding,
    token_types: Embedding,
    norm: LayerNorm,
    /// The type of the hidden states.
    activations: DType,
    layers: Vec<Layer>,
    family: Family,
    pad: u32,
}

/// A padded batch of sequences, on the host.
#[derive(Debug, Clone)]
pub struct PieceBatch {
    /// Piece ids, one row per sequence, all rows of one length.
    pub ids: Vec<Vec<u32>>,
    /// Token type ids, likewise.
    pub token_types: Vec<Vec<u32>>,
    /// Pieces of each sequence that are not padding.
    pub lengths: Vec<usize>,
}

impl Encoder {
    /// Loads the encoder from names such as `embeddings.word_embeddings.weight`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(config: &EncoderConfig, vb: &VarBuilder) -> Result<Self> {
        let hidden = config.hidden_size;
        let vb_embeddings = vb.pp("embeddings");
        let table = |rows, name: &str| embedding(rows, hidden, vb_embeddings.pp(name));
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::load(config, &vb.pp("encoder.layer").pp(index)))
            .collect::<Result<_>>()?;
        Ok(Self {
            words: table(config.vocab_size, "word_embeddings")?,
            positions: table(config.max_position_embeddings, "position_embeddings")?,
            token_types: table(config.type_vocab_size, "token_type_embeddings")?,
            norm: LayerNorm::load(hidden, config.layer_norm_eps, vb_embeddings.pp("LayerNorm"))?,
            activations: activation_type(vb),
            layers,
            family: config.model_type,
            pad: config.pad(),
        })
    }

    /// Last hidden states `[batch, length, hidden]`.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn forward(&self, batch: &PieceBatch, device: &Device) -> Result<Tensor> {
        let positions: Vec<Vec<u32>> = batch.ids.iter().map(|row| self.position_ids(row)).collect();
        let ids = Tensor::new(batch.ids.clone(), device)?;
        let token_types = Tensor::new(batch.token_types.clone(), device)?;
        let positions = Tensor::new(positions, device)?;
        let look_up = |table: &Embedding, ids| table.forward(ids)?.to_dtype(self.activations);
        let sum = (look_up(&self.words, &ids)? + look_up(&self.token_types, &token_types)?)?;
        let mut hidden = self.norm.forward(&(sum + look_up(&self.positions, &positions)?)?)?;
        let bias = padding_bias(batch, hidden.dtype(), device)?;
        for layer in &self.layers {
            hidden = layer.forward(&hidden, bias.as_ref())?;
        }
        Ok(hidden)
    }

    /// Position ids of one padded row, as Hugging Face computes them.
    fn position_ids(&self, row: &[u32]) -> Vec<u32> {
        match self.family {
            Family::Bert => (0..row.len() as u32).collect(),
            Family::XlmRoberta => {
                let mut position = self.pad;
                row.iter()
                    .map(|&id| {
                        if id == self.pad {
                            return self.pad;
                        }
                        position += 1;
                        position
                    })
                    .collect()
            }
        }
    }
}

/// `[batch, 1, 1, length]`, minus infinity on padding; nothing where nothing is padded.
fn padding_bias(
    batch: &PieceBatch,
    dtype: DType,
    device: &Device,
) -> candle_core::Result<Option<Tensor>> {
    let length = batch.ids.first().map_or(0, Vec::len);
    if batch.lengths.iter().all(|&own| own == length) {
        return Ok(None);
    }
    let bias: Vec<f32> = batch
        .lengths
        .iter()
        .flat_map(|&own| (0..length).map(move |i| if i < own { 0.0 } else { f32::NEG_INFINITY }))
        .collect();
    let bias = Tensor::from_vec(bias, (batch.lengths.len(), 1, 1, length), device)?;
    bias.to_dtype(dtype).map(Some)
}

/// Attention, then feed-forward, each followed by a residual sum and normalisation.
#[derive(Debug)]
struct Layer {
    /// Queries, keys and values in one product.
    projection: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    /// What the feed-forward block's first product does not do itself.
    activation: Option<Activation>,
    output: Linear,
    output_norm: LayerNorm,
    heads: usize,
}

impl Layer {
    fn load(config: &EncoderConfig, vb: &VarBuilder) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let norm = |name: &str| LayerNorm::load(hidden, config.layer_norm_eps, vb.pp(name));
        let fused = fused(config.hidden_act);
        let then = fused.unwrap_or_default();
        Ok(Self {
            projection: projection(hidden, &vb.pp("attention.self"))?,
            attention_output: Linear::load(hidden, hidden, vb.pp("attention.output.dense"))?,
            attention_norm: norm("attention.output.LayerNorm")?,
            intermediate: Linear::load_active((hidden, inner), then, vb.pp("intermediate.dense"))?,
            activation: fused.is_none().then_some(config.hidden_act),
            output: Linear::load(inner, hidden, vb.pp("output.dense"))?,
            output_norm: norm("output.LayerNorm")?,
            heads: config.num_attention_heads,
        })
    }

    fn forward(&self, x: &Tensor, bias: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let attended = self.attention_output.forward_adding(&self.attend(x, bias)?, x)?;
        let x = self.attention_norm.forward(&attended)?;
        let mut inner = self.intermediate.forward(&x)?;
        if let Some(activation) = &self.activation {
            inner = activation.forward(&inner)?;
        }
        self.output_norm.forward(&self.output.forward_adding(&inner, &x)?)
    }

    fn attend(&self, x: &Tensor, bias: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let (batch, length, hidden) = x.dims3()?;
        let (heads, width) = (self.heads, hidden / self.heads);
        let projected = self.projection.forward(x)?.reshape((batch, length, 3 * heads, width))?;
        let part = |index: usize| projected.narrow(2, index * heads, heads)?.transpose(1, 2);
        let scores = Scores { scale: (width as f64).powf(-0.5), bias: bias.as_slice() };
        attend(&part(0)?, &part(1)?, &part(2)?, scores)
    }
}

/// Queries, keys and values of width `hidden`, one after another.
fn projection(hidden: usize, vb: &VarBuilder) -> candle_core::Result<Linear> {
    let parts = ["query", "key", "value"].map(|name| vb.pp(name));
    let weights: Vec<_> = parts.iter().map(|vb| vb.get((hidden, hidden), "weight")).collect();
    let biases: Vec<_> = parts.iter().map(|vb| vb.get(hidden, "bias")).collect();
    let join = |parts: Vec<candle_core::Result<Tensor>>| {
        Tensor::cat(&parts.into_iter().collect::<candle_core::Result<Vec<_>>>()?, 0)
    };
    let (weight, bias) = (join(weights)?, join(biases)?);
    // Each is asked: what none reads as bytes is not converted to bytes.
    let [query, key, value] = parts.each_ref().map(linear_storage);
    let storage = if query == key && key == value { query } else { Storage::F32 };
    Linear::new_stored(storage, &weight, Some(&bias), ops::Activation::None)
}

/// The activation that a linear layer applies itself.
fn fused(activation: Activation) -> Option<ops::Activation> {
    match activation {
        Activation::Gelu => Some(ops::Activation::Gelu),
        Activation::NewGelu | Activation::GeluPytorchTanh => Some(ops::Activation::GeluTanh),
        Activation::Relu => Some(ops::Activation::Relu),
        _ => None,
    }
}
