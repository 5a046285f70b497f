//! The decoder, with a cache of keys and values.

use candle_core::{DType, Tensor};
use candle_nn::{Embedding, Module, VarBuilder, linear};

use super::attention::{Attention, FeedForward, KeyValues, apply, norm, optional_norm};
use super::config::Config;
use super::encoder::{EncoderOutput, Positions, tables};
use super::position::{AbsoluteBias, TokenTables};
use crate::models::Result;
use crate::models::ops::{LayerNorm, activation_type};

#[derive(Debug)]
struct Layer {
    self_attention: Attention,
    self_before: LayerNorm,
    self_after: Option<LayerNorm>,
    cross_attention: Attention,
    cross_before: LayerNorm,
    cross_after: Option<LayerNorm>,
    feed_forward: FeedForward,
}

/// Biases of one pass, shared by all layers or of one layer.
struct PassBias<'a> {
    /// `[heads, new, all]`, causal mask included.
    own: Tensor,
    /// `[1, heads, 1, new, source]`.
    cross: &'a Tensor,
    /// `[batch, 1, 1, source]`.
    source_mask: Option<&'a Tensor>,
}

/// Keys and values of one layer.
#[derive(Debug)]
struct LayerCache {
    /// Of the tokens so far, `[rows, heads, n, head width]`; `None` before the first.
    own: Option<KeyValues>,
    /// Of the encoder's output, `[batch, heads, source, head width]`: all hypotheses of an item
    /// share it.
    cross: KeyValues,
}

/// What decoding has seen so far.
#[derive(Debug)]
pub struct DecoderState {
    layers: Vec<LayerCache>,
    source_mask: Option<Tensor>,
    source: usize,
    seen: usize,
}

impl DecoderState {
    /// Lets row `i` continue from row `rows[i]`. The number of rows per item of the batch may
    /// change, items must stay in order.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn reorder(&mut self, rows: &[u32]) -> Result<()> {
        let Some(own) = self.layers.iter().find_map(|layer| layer.own.as_ref()) else {
            return Ok(());
        };
        // Once for all layers: on a GPU every upload is waited for.
        let index = Tensor::new(rows, own.keys.device())?;
        for layer in &mut self.layers {
            if let Some(own) = &mut layer.own {
                own.keys = own.keys.index_select(&index, 0)?;
                own.values = own.values.index_select(&index, 0)?;
            }
        }
        Ok(())
    }
}

impl Layer {
    fn new(config: &Config, vb: &VarBuilder) -> Result<Self> {
        let (d, heads) = (config.d_model, config.decoder_attention_heads);
        let attention = |name| Attention::new(d, heads, config.scale_heads, &vb.pp(name));
        let after = |name| optional_norm(config.scale_attn, d, vb.pp(name));
        Ok(Self {
            self_attention: attention("self_attn")?,
            self_before: norm(d, vb.pp("self_attn_layer_norm"))?,
            self_after: after("self_attn_ln")?,
            cross_attention: attention("encoder_attn")?,
            cross_before: norm(d, vb.pp("encoder_attn_layer_norm"))?,
            cross_after: after("cross_attn_ln")?,
            feed_forward: FeedForward::new(d, config.decoder_ffn_dim, config.scale_fc, vb)?,
        })
    }

    fn forward(&self, x: &Tensor, cache: &mut LayerCache, bias: &PassBias) -> Result<Tensor> {
        let h = self.attend_to_self(&self.self_before.forward(x)?, cache, &bias.own)?;
        let x = (x + apply(&self.self_after, h)?)?;
        let h = self.attend_to_source(&self.cross_before.forward(&x)?, &cache.cross, bias)?;
        self.feed_forward.forward(&(x + apply(&self.cross_after, h)?)?)
    }

    fn attend_to_self(&self, h: &Tensor, cache: &mut LayerCache, bias: &Tensor) -> Result<Tensor> {
        let new = self.self_attention.key_values(h)?;
        let all = match cache.own.take() {
            Some(old) => KeyValues {
                keys: Tensor::cat(&[old.keys, new.keys], 2)?,
                values: Tensor::cat(&[old.values, new.values], 2)?,
            },
            None => new,
        };
        let queries = self.self_attention.queries(h)?;
        let out = self.self_attention.attend(&queries, &all, &[&bias.unsqueeze(0)?])?;
        cache.own = Some(all);
        Ok(out)
    }

    /// The rows of one item attend to its source together, as if they were one longer text.
    fn attend_to_source(&self, h: &Tensor, memory: &KeyValues, bias: &PassBias) -> Result<Tensor> {
        let (rows, new, d) = h.dims3()?;
        let batch = memory.keys.dim(0)?;
        let each = rows / batch;
        let attention = &self.cross_attention;
        let queries = attention.queries(&h.reshape((batch, each * new, d))?)?;
        let heads = queries.dim(1)?;
        // Every row has the same position bias.
        let shape = (1, heads, each, new, bias.cross.dim(4)?);
        let position = bias.cross.broadcast_as(shape)?.flatten(2, 3)?;
        let parts: Vec<&Tensor> = std::iter::once(&position).chain(bias.source_mask).collect();
        let out = attention.attend(&queries, memory, &parts)?;
        Ok(out.reshape((rows, new, d))?)
    }
}

/// The decoder.
#[derive(Debug)]
pub struct Decoder {
    tokens: Embedding,
    embedding_norm: LayerNorm,
    layers: Vec<Layer>,
    norm: LayerNorm,
    self_positions: AbsoluteBias,
    cross_positions: AbsoluteBias,
    token_tables: TokenTables,
    /// Position embeddings added to the inputs, `[positions, d_model]`, where the checkpoint was
    /// trained so.
    entangled: Option<Tensor>,
}

impl Decoder {
    /// Reads the decoder below `vb`. `tokens` is the embedding that encoder, decoder and output
    /// share, `source` the encoder's positions.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub(super) fn new(
        config: &Config,
        source: &Positions,
        tokens: Embedding,
        vb: VarBuilder,
    ) -> Result<Self> {
        let d = config.d_model;
        let heads = config.decoder_attention_heads;
        let exact = vb.to_dtype(DType::F32);
        let kept = vb.to_dtype(activation_type(&vb));
        let rows = config.max_position_embeddings;
        let raw = exact.get((rows + 2, d), "embed_positions.weight")?.narrow(0, 0, rows)?;
        let raw = raw.contiguous()?;
        let own = norm(d, exact.pp("pos_ln"))?.forward(&raw)?;
        let read = |name| linear(d, d, exact.pp(name));
        let (self_q, self_k) = (read("self_pos_q_linear")?, read("self_pos_k_linear")?);
        let (cross_q, cross_k) = (read("cross_pos_q_linear")?, read("cross_pos_k_linear")?);
        let cross_key = (&cross_k, &source.normalised);
        let layers = (0..config.decoder_layers).map(|i| Layer::new(config, &vb.pp("layers").pp(i)));
        let shape = (2 * config.token_bucket_size - 1, heads);
        let tables = tables(config.decoder_layers, shape, &kept.pp("token_rel_pos_table_list"))?;
        let entangle = config.entangle_decoder_positions;
        Ok(Self {
            tokens,
            embedding_norm: norm(d, vb.pp("layernorm_embedding"))?,
            layers: layers.collect::<Result<_>>()?,
            norm: norm(d, vb.pp("layer_norm"))?,
            self_positions: AbsoluteBias::new(
                (&self_q, &own),
                (&self_k, &own),
                heads,
                kept.dtype(),
            )?,
            cross_positions: AbsoluteBias::new((&cross_q, &own), cross_key, heads, kept.dtype())?,
            token_tables: TokenTables::new(tables, config.token_bucket_size)?,
            entangled: entangle.then(|| raw.to_dtype(kept.dtype())).transpose()?,
        })
    }

    /// Starts decoding from an encoder's output, one row per item.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn start(&self, encoded: &EncoderOutput) -> Result<DecoderState> {
        let cache = |layer: &Layer| {
            let cross = layer.cross_attention.key_values(&encoded.hidden)?;
            Ok(LayerCache { own: None, cross })
        };
        Ok(DecoderState {
            layers: self.layers.iter().map(cache).collect::<Result<_>>()?,
            source_mask: encoded.mask.clone(),
            source: encoded.hidden.dim(1)?,
            seen: 0,
        })
    }

    /// Reads the next tokens of every row, `[rows, new]` as `u32`, and returns their final hidden
    /// states, `[rows, new, d_model]`. Rows are ordered by item; a row's tokens see themselves,
    /// what stands before them, and the item's source.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn forward(&self, ids: &Tensor, state: &mut DecoderState) -> Result<Tensor> {
        let new = ids.dim(1)?;
        let seen = state.seen;
        let mut x = self.tokens.forward(ids)?;
        if let Some(positions) = &self.entangled {
            x = x.broadcast_add(&positions.narrow(0, seen, new)?)?;
        }
        let mut x = self.embedding_norm.forward(&x)?;
        let absolute = self.self_positions.block((seen, new), (0, seen + new))?;
        let absolute = match new {
            // Nothing is later.
            1 => absolute,
            _ => absolute.broadcast_add(&causal_mask(seen, new, &absolute)?)?,
        };
        let cross = self.cross_positions.block((seen, new), (0, state.source))?;
        let cross = cross.unsqueeze(0)?.unsqueeze(2)?;
        let relative = self.token_tables.rows(seen, new)?;
        for (index, (layer, cache)) in self.layers.iter().zip(&mut state.layers).enumerate() {
            let bias = PassBias {
                own: (&absolute + relative.bias(index)?)?,
                cross: &cross,
                source_mask: state.source_mask.as_ref(),
            };
            x = layer.forward(&x, cache, &bias)?;
        }
        state.seen += new;
        Ok(self.norm.forward(&x)?)
    }

    /// Scores of all tokens of the vocabulary after hidden states `[n, d_model]`, in f32:
    /// `[n, vocab_size]`.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = hidden.matmul(&self.tokens.embeddings().t()?)?;
        Ok(logits.to_dtype(DType::F32)?)
    }

    /// Scores of some tokens after hidden states `[n, d_model]`, computed in f32, since answers may
    /// be close: `[n, tokens.len()]`.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn logits_of(&self, hidden: &Tensor, tokens: &[u32]) -> Result<Tensor> {
        let index = Tensor::new(tokens, hidden.device())?;
        let rows = self.tokens.embeddings().index_select(&index, 0)?.to_dtype(DType::F32)?;
        Ok(hidden.to_dtype(DType::F32)?.matmul(&rows.t()?)?)
    }
}

/// Minus infinity where a new token would see a later one, `[new, seen + new]`, in the data type
/// and on the device of `like`.
fn causal_mask(seen: usize, new: usize, like: &Tensor) -> Result<Tensor> {
    let all = seen + new;
    let later = |q: usize, k: usize| if k > seen + q { f32::NEG_INFINITY } else { 0.0 };
    let mask: Vec<f32> = (0..new).flat_map(|q| (0..all).map(move |k| later(q, k))).collect();
    Ok(Tensor::from_vec(mask, (new, all), like.device())?.to_dtype(like.dtype())?)
}
