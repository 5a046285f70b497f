//! Multi-head attention with an additive position bias, and the feed-forward block.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use super::position::attention_scale;
use crate::models::Result;
use crate::models::ops::{self, Activation, LayerNorm, Linear, Scores, linear_storage};

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
        let query = exact.pp("q_proj");
        let scale = attention_scale(d / heads);
        let scaled = |t: Tensor| (t * scale)?.to_dtype(dtype);
        let query_weight = scaled(query.get((d, d), "weight")?)?;
        let query_bias = scaled(query.get(d, "bias")?)?;
        let mut output = exact.get((d, d), "out_proj.weight")?;
        if scale_heads {
            let factors = exact.get(heads, "c_attn")?.reshape((heads, 1))?;
            let factors = factors.broadcast_as((heads, d / heads))?.reshape((1, d))?;
            output = output.broadcast_mul(&factors)?;
        }
        // Where bytes are kept, the factors of the heads have them rounded once more.
        let kept = linear_storage(&vb.pp("q_proj"));
        Ok(Self {
            query: Linear::new_stored(kept, &query_weight, Some(&query_bias), Activation::None)?,
            key: Linear::load(d, d, vb.pp("k_proj"))?,
            value: Linear::load(d, d, vb.pp("v_proj"))?,
            output: Linear::new_stored(
                linear_storage(&vb.pp("out_proj")),
                &output.to_dtype(dtype)?,
                Some(&vb.get(d, "out_proj.bias")?),
                Activation::None,
            )?,
            heads,
        })
    }

    /// Splits `[batch, n, d]` into heads: `[batch, heads, n, head width]`, a view.
    fn split(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, n, d) = x.dims3()?;
        let x = x.reshape((batch, n, self.heads, d / self.heads))?;
        Ok(x.transpose(1, 2)?)
    }

    /// Scaled queries of `[batch, n, d]`: `[batch, heads, n, head width]`.
    pub(super) fn queries(&self, x: &Tensor) -> Result<Tensor> {
        self.split(&self.query.forward(x)?)
    }

    /// Keys and values of `[batch, n, d]`.
    pub(super) fn key_values(&self, x: &Tensor) -> Result<KeyValues> {
        Ok(KeyValues {
            keys: self.split(&self.key.forward(x)?)?.contiguous()?,
            values: self.split(&self.value.forward(x)?)?.contiguous()?,
        })
    }

    /// Attends with `queries` `[batch, heads, q, head width]`; `bias` broadcasts to
    /// `[batch, heads, q, k]`. Returns what the heads gathered, projected: `[batch, q, d]`.
    pub(super) fn attend(
        &self,
        queries: &Tensor,
        memory: &KeyValues,
        bias: &[&Tensor],
    ) -> Result<Tensor> {
        let scores = Scores { scale: 1.0, bias };
        let joined = ops::attend(queries, &memory.keys, &memory.values, scores)?;
        Ok(self.output.forward(&joined)?)
    }
}

/// Reads a layer normalisation of width `d`.
pub(super) fn norm(d: usize, vb: VarBuilder) -> Result<LayerNorm> {
    Ok(LayerNorm::load(d, EPS, vb)?)
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
            up: Linear::load_active((d, ffn), Activation::Gelu, vb.pp("fc1"))?,
            inner: optional_norm(scale_fc, ffn, vb.pp("ffn_layernorm"))?,
            down: Linear::load(ffn, d, vb.pp("fc2"))?,
        })
    }

    /// `[batch, n, d]` to the same shape.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.up.forward(&self.before.forward(x)?)?;
        Ok(self.down.forward_adding(&apply(&self.inner, h)?, x)?)
    }
}
