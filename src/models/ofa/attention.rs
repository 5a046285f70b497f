//! Multi-head attention with an additive position bias, and the feed-forward block.

use candle_core::{D, DType, Tensor};
use candle_nn::{LayerNorm, Linear, Module, VarBuilder, layer_norm, linear};

use super::position::attention_scale;
use crate::models::Result;
use crate::models::ops::softmax_f32;

/// Epsilon of every layer normalisation.
pub(super) const EPS: f64 = 1e-5;

/// Multi-head attention. The scale of the queries and the learned factor per head are folded into
/// the projections when the weights are read.
#[derive(Debug)]
pub(super) struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: usize,
}

/// Keys and values, each `[batch, heads, n, head width]`.
#[derive(Debug, Clone)]
pub(super) struct KeyValues {
    pub(super) keys: Tensor,
    pub(super) values: Tensor,
}

impl Attention {
    /// Reads one attention block of width `d` from `vb`.
    pub(super) fn new(d: usize, heads: usize, scale_heads: bool, vb: &VarBuilder) -> Result<Self> {
        let dtype = vb.dtype();
        let exact = vb.to_dtype(DType::F32);
        let query = linear(d, d, exact.pp("q_proj"))?;
        let scale = attention_scale(d / heads);
        let mut output = exact.get((d, d), "out_proj.weight")?;
        if scale_heads {
            let factors = exact.get(heads, "c_attn")?.reshape((heads, 1))?;
            let factors = factors.broadcast_as((heads, d / heads))?.reshape((1, d))?;
            output = output.broadcast_mul(&factors)?;
        }
        Ok(Self {
            query: scaled(&query, scale, dtype)?,
            key: linear(d, d, vb.pp("k_proj"))?,
            value: linear(d, d, vb.pp("v_proj"))?,
            output: Linear::new(output.to_dtype(dtype)?, Some(vb.get(d, "out_proj.bias")?)),
            heads,
        })
    }

    /// Splits `[batch, n, d]` into heads: `[batch, heads, n, head width]`.
    fn split(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, n, d) = x.dims3()?;
        let x = x.reshape((batch, n, self.heads, d / self.heads))?;
        Ok(x.transpose(1, 2)?.contiguous()?)
    }

    /// Scaled queries of `[batch, n, d]`: `[batch, heads, n, head width]`.
    pub(super) fn queries(&self, x: &Tensor) -> Result<Tensor> {
        self.split(&self.query.forward(x)?)
    }

    /// Keys and values of `[batch, n, d]`.
    pub(super) fn key_values(&self, x: &Tensor) -> Result<KeyValues> {
        Ok(KeyValues {
            keys: self.split(&self.key.forward(x)?)?,
            values: self.split(&self.value.forward(x)?)?,
        })
    }

    /// Attends with `queries` `[batch, heads, q, head width]`; `bias` broadcasts to
    /// `[batch, heads, q, k]`. Returns the heads' outputs in the shape of the queries.
    pub(super) fn attend(
        &self,
        queries: &Tensor,
        memory: &KeyValues,
        bias: &[&Tensor],
    ) -> Result<Tensor> {
        let mut scores = queries.matmul(&memory.keys.transpose(2, 3)?)?;
        for part in bias {
            scores = scores.broadcast_add(part)?;
        }
        Ok(softmax_f32(&scores)?.matmul(&memory.values)?)
    }

    /// Joins heads, `[batch, heads, n, head width]`, and projects: `[batch, n, d]`.
    pub(super) fn project(&self, heads: &Tensor) -> Result<Tensor> {
        let joined = heads.transpose(1, 2)?.contiguous()?.flatten_from(D::Minus2)?;
        Ok(self.output.forward(&joined)?)
    }
}

/// A linear layer times a constant, in `dtype`.
fn scaled(layer: &Linear, scale: f64, dtype: DType) -> Result<Linear> {
    let weight = (layer.weight() * scale)?.to_dtype(dtype)?;
    let bias = layer.bias().map(|b| (b * scale)?.to_dtype(dtype)).transpose()?;
    Ok(Linear::new(weight, bias))
}

/// Reads a layer normalisation of width `d`.
pub(super) fn norm(d: usize, vb: VarBuilder) -> Result<LayerNorm> {
    Ok(layer_norm(d, EPS, vb)?)
}

/// Reads a layer normalisation where a flag says that the checkpoint has one.
pub(super) fn optional_norm(present: bool, d: usize, vb: VarBuilder) -> Result<Option<LayerNorm>> {
    present.then(|| norm(d, vb)).transpose()
}

/// Applies a layer normalisation where there is one.
pub(super) fn apply(norm: &Option<LayerNorm>, x: Tensor) -> Result<Tensor> {
    match norm {
        Some(norm) => Ok(norm.forward(&x)?),
        None => Ok(x),
    }
}

/// The feed-forward block with its residual: `x + fc2(LN(gelu(fc1(LN(x)))))`.
#[derive(Debug)]
pub(super) struct FeedForward {
    before: LayerNorm,
    up: Linear,
    inner: Option<LayerNorm>,
    down: Linear,
}

impl FeedForward {
    /// Reads the block of a layer of width `d` and inner width `ffn`.
    pub(super) fn new(d: usize, ffn: usize, scale_fc: bool, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            before: norm(d, vb.pp("final_layer_norm"))?,
            up: linear(d, ffn, vb.pp("fc1"))?,
            inner: optional_norm(scale_fc, ffn, vb.pp("ffn_layernorm"))?,
            down: linear(ffn, d, vb.pp("fc2"))?,
        })
    }

    /// `[batch, n, d]` to the same shape.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.up.forward(&self.before.forward(x)?)?.gelu_erf()?;
        Ok((x + self.down.forward(&apply(&self.inner, h)?)?)?)
    }
}
