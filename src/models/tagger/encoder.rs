//! BERT (Devlin et al., 2019) and XLM-RoBERTa (Conneau et al., 2020) encoders, after Hugging
//! Face's `BertModel` and `XLMRobertaModel` without the pooler, with their state-dict names.
//!
//! Both are one post-norm transformer; only the position ids differ. candle-transformers' own
//! XLM-RoBERTa computes those in the weights' data type, which is wrong in BF16 past 256 pieces;
//! here they are integers. Known deviation: inference only, so no dropout.

use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{
    Activation, Embedding, LayerNorm, Linear, VarBuilder, embedding, layer_norm, linear,
};

use super::config::{EncoderConfig, Family};
use crate::models::Result;
use crate::models::ops::{relu, softmax_f32};

/// The encoder.
#[derive(Debug)]
pub struct Encoder {
    words: Embedding,
    positions: Embedding,
    token_types: Embedding,
    norm: LayerNorm,
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
            norm: layer_norm(hidden, config.layer_norm_eps, vb_embeddings.pp("LayerNorm"))?,
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
        let sum = (self.words.forward(&ids)? + self.token_types.forward(&token_types)?)?;
        let mut hidden = self.norm.forward(&(sum + self.positions.forward(&positions)?)?)?;
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
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    activation: Activation,
    output: Linear,
    output_norm: LayerNorm,
    heads: usize,
}

impl Layer {
    fn load(config: &EncoderConfig, vb: &VarBuilder) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let norm = |name: &str| layer_norm(hidden, config.layer_norm_eps, vb.pp(name));
        let attention = |name: &str| linear(hidden, hidden, vb.pp("attention").pp(name));
        Ok(Self {
            query: attention("self.query")?,
            key: attention("self.key")?,
            value: attention("self.value")?,
            attention_output: attention("output.dense")?,
            attention_norm: norm("attention.output.LayerNorm")?,
            intermediate: linear(hidden, inner, vb.pp("intermediate.dense"))?,
            activation: config.hidden_act,
            output: linear(inner, hidden, vb.pp("output.dense"))?,
            output_norm: norm("output.LayerNorm")?,
            heads: config.num_attention_heads,
        })
    }

    fn forward(&self, x: &Tensor, bias: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let attended = self.attention_output.forward(&self.attend(x, bias)?)?;
        let x = self.attention_norm.forward(&(attended + x)?)?;
        let inner = self.activate(&self.intermediate.forward(&x)?)?;
        self.output_norm.forward(&(self.output.forward(&inner)? + x)?)
    }

    fn activate(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self.activation {
            Activation::Relu => relu(x),
            other => other.forward(x),
        }
    }

    fn attend(&self, x: &Tensor, bias: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let (batch, length, hidden) = x.dims3()?;
        let split = |projected: Tensor| {
            projected
                .reshape((batch, length, self.heads, hidden / self.heads))?
                .transpose(1, 2)?
                .contiguous()
        };
        let query = split(self.query.forward(x)?)?;
        let key = split(self.key.forward(x)?)?;
        let value = split(self.value.forward(x)?)?;
        let scale = 1.0 / ((hidden / self.heads) as f64).sqrt();
        let mut scores = (query.matmul(&key.t()?)? * scale)?;
        if let Some(bias) = bias {
            scores = scores.broadcast_add(bias)?;
        }
        let context = softmax_f32(&scores)?.matmul(&value)?;
        context.transpose(1, 2)?.reshape((batch, length, hidden))
    }
}
