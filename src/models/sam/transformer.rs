//! The two-way transformer of the mask decoder: prompt tokens attend to the picture and the
//! picture's cells attend to the tokens.
//!
//! All prompts of a picture start from the same cells, so the first layer's projections of them are
//! computed once per picture; only from its end on does every prompt own its cells. What the
//! cells' position encoding adds to a projection does not depend on the input and is part of the
//! projection's bias.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::config::Config;
use super::ops::{Linear, attend, join_heads, split_heads};
use crate::models::ops::{self, Activation, LayerNorm, Scores, attends_by_tiles, softmax_f32};

/// The cells of several pictures and how many prompts each picture has.
#[derive(Debug, Clone)]
pub(super) struct Cells {
    /// `[pictures, grid², dim]`.
    pub(super) values: Tensor,
    /// Prompts of each picture, in order.
    pub(super) prompts: Vec<usize>,
}

impl Cells {
    /// Whether every prompt has cells of its own.
    fn owned(&self) -> bool {
        self.prompts.iter().all(|&count| count == 1)
    }

    /// Something of each picture `[pictures, …]`, repeated for each of its prompts.
    pub(super) fn repeat(&self, of_pictures: &Tensor) -> Result<Tensor> {
        if self.owned() {
            return Ok(of_pictures.clone());
        }
        self.each(|picture, _, count| {
            let one = of_pictures.narrow(0, picture, 1)?;
            let mut shape = one.dims().to_vec();
            shape[0] = count;
            one.expand(shape)
        })
    }

    /// Calls `f` with each picture's index, its first prompt and its number of prompts, and joins
    /// the results along the prompts.
    fn each(&self, f: impl Fn(usize, usize, usize) -> Result<Tensor>) -> Result<Tensor> {
        let mut first = 0;
        let mut parts = Vec::with_capacity(self.prompts.len());
        for (picture, &count) in self.prompts.iter().enumerate() {
            if count > 0 {
                parts.push(f(picture, first, count)?);
            }
            first += count;
        }
        Tensor::cat(&parts, 0)
    }
}

#[derive(Debug)]
pub(super) struct TwoWayTransformer {
    layers: Vec<Layer>,
    final_attention: TokensToCells,
    final_norm: LayerNorm,
}

impl TwoWayTransformer {
    /// `cell_pe`: position encoding of the cells, `[grid², dim]`.
    pub(super) fn load(config: &Config, cell_pe: &Tensor, vb: VarBuilder) -> Result<Self> {
        let layers = vb.pp("layers");
        let (dim, heads) = (config.out_chans, config.decoder_num_heads);
        let last = Projections::load(dim, 2, heads, vb.pp("final_attn_token_to_image"))?;
        Ok(Self {
            layers: (0..config.decoder_depth)
                .map(|index| Layer::load(config, index == 0, cell_pe, layers.pp(index)))
                .collect::<Result<_>>()?,
            final_attention: TokensToCells::new(last, cell_pe)?,
            final_norm: LayerNorm::load(dim, config.decoder_norm_eps, vb.pp("norm_final_attn"))?,
        })
    }

    /// Prompt tokens `[prompts, t, dim]` and the pictures' cells → processed tokens (same shape)
    /// and cells `[prompts, grid², dim]`.
    pub(super) fn forward(&self, tokens: &Tensor, cells: Cells) -> Result<(Tensor, Tensor)> {
        let (mut queries, mut cells) = (tokens.clone(), cells);
        for layer in &self.layers {
            (queries, cells) = layer.forward(&queries, tokens, &cells)?;
        }
        let attended = self.final_attention.forward(&(&queries + tokens)?, &cells)?;
        let queries = self.final_norm.forward(&(queries + attended)?)?;
        Ok((queries, cells.values))
    }
}

#[derive(Debug)]
struct Layer {
    /// The first layer's self-attention replaces its input and adds no position encoding.
    is_first: bool,
    self_attention: Projections,
    norm1: LayerNorm,
    tokens_to_cells: TokensToCells,
    norm2: LayerNorm,
    up: Linear,
    down: Linear,
    norm3: LayerNorm,
    cells_to_tokens: CellsToTokens,
    norm4: LayerNorm,
}

impl Layer {
    fn load(config: &Config, is_first: bool, cell_pe: &Tensor, vb: VarBuilder) -> Result<Self> {
        let (dim, heads) = (config.out_chans, config.decoder_num_heads);
        let hidden = config.decoder_mlp_dim;
        let cross = |name: &str| Projections::load(dim, 2, heads, vb.pp(name));
        let norm = |name: &str| LayerNorm::load(dim, config.decoder_norm_eps, vb.pp(name));
        Ok(Self {
            is_first,
            self_attention: Projections::load(dim, 1, heads, vb.pp("self_attn"))?,
            norm1: norm("norm1")?,
            tokens_to_cells: TokensToCells::new(cross("cross_attn_token_to_image")?, cell_pe)?,
            norm2: norm("norm2")?,
            up: Linear::load_active((dim, hidden), Activation::Relu, vb.pp("mlp.lin1"))?,
            down: Linear::load(hidden, dim, vb.pp("mlp.lin2"))?,
            norm3: norm("norm3")?,
            cells_to_tokens: CellsToTokens::new(cross("cross_attn_image_to_token")?, cell_pe)?,
            norm4: norm("norm4")?,
        })
    }

    fn forward(&self, queries: &Tensor, pe: &Tensor, cells: &Cells) -> Result<(Tensor, Cells)> {
        let queries = if self.is_first {
            self.self_attention.attend_to_self(queries, queries)?
        } else {
            (queries + self.self_attention.attend_to_self(&(queries + pe)?, queries)?)?
        };
        let queries = self.norm1.forward(&queries)?;
        let attended = self.tokens_to_cells.forward(&(&queries + pe)?, cells)?;
        let queries = self.norm2.forward(&(queries + attended)?)?;
        let hidden = self.up.forward(&queries)?;
        let queries = self.norm3.forward(&self.down.forward_adding(&hidden, &queries)?)?;
        let values = self.cells_to_tokens.forward(cells, &(&queries + pe)?, &queries)?;
        let values = self.norm4.forward(&values)?;
        let prompts = vec![1; values.dim(0)?];
        Ok((queries, Cells { values, prompts }))
    }
}

/// The four projections of one attention, whose inner width is `dim / downsample`.
#[derive(Debug)]
struct Projections {
    heads: usize,
    /// Applied to the tokens' side of every product, which is the small one.
    scale: f64,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
}

impl Projections {
    fn load(dim: usize, downsample: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
        let inner = dim / downsample;
        Ok(Self {
            heads,
            scale: ((inner / heads) as f64).powf(-0.5),
            q: Linear::load(dim, inner, vb.pp("q_proj"))?,
            k: Linear::load(dim, inner, vb.pp("k_proj"))?,
            v: Linear::load(dim, inner, vb.pp("v_proj"))?,
            out: Linear::load(inner, dim, vb.pp("out_proj"))?,
        })
    }

    /// Tokens `[p, t, dim]` among themselves; `x` makes queries and keys, `values` the values.
    fn attend_to_self(&self, x: &Tensor, values: &Tensor) -> Result<Tensor> {
        let q = split_heads(&(self.q.forward(x)? * self.scale)?, self.heads)?;
        let k = split_heads(&self.k.forward(x)?, self.heads)?;
        let v = split_heads(&self.v.forward(values)?, self.heads)?;
        self.out.forward(&attend_by_head(&q, &k, &v)?)
    }
}

/// Scores that are nothing but products.
const PRODUCTS: Scores = Scores { scale: 1.0, bias: &[] };

/// [`attend`] for `[b, heads, n, d]`, the heads joined: `[b, n, heads · d]`.
fn attend_by_head(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    if attends_by_tiles(q) {
        return ops::attend(q, k, v, PRODUCTS);
    }
    let (batch, heads, queries, dim) = q.dims4()?;
    let attended = attend(&q.flatten_to(1)?, &k.flatten_to(1)?, &v.flatten_to(1)?)?;
    join_heads(&attended.reshape((batch, heads, queries, dim))?)
}

/// Tokens attend to cells.
#[derive(Debug)]
struct TokensToCells(Projections);

impl TokensToCells {
    fn new(mut projections: Projections, cell_pe: &Tensor) -> Result<Self> {
        projections.k = projections.k.absorbing(cell_pe)?;
        Ok(Self(projections))
    }

    /// Tokens `[prompts, t, dim]`, position encoding added → what they gather, the same shape.
    fn forward(&self, tokens: &Tensor, cells: &Cells) -> Result<Tensor> {
        let Projections { heads, scale, q, k, v, out } = &self.0;
        let q = split_heads(&(q.forward(tokens)? * *scale)?, *heads)?;
        let k = split_heads(&k.forward(&cells.values)?, *heads)?;
        let v = split_heads(&v.forward(&cells.values)?, *heads)?;
        let attended = if cells.owned() {
            attend_by_head(&q, &k, &v)?
        } else {
            let (_, _, length, dim) = q.dims4()?;
            cells.each(|picture, first, count| {
                let rows = q.narrow(0, first, count)?.transpose(0, 1)?;
                let rows = rows.reshape((1, *heads, count * length, dim))?;
                let of = |all: &Tensor| all.narrow(0, picture, 1);
                attend_by_head(&rows, &of(&k)?, &of(&v)?)?.reshape((count, length, ()))
            })?
        };
        out.forward(&attended)
    }
}

/// Cells attend to tokens.
#[derive(Debug)]
struct CellsToTokens(Projections);

impl CellsToTokens {
    fn new(mut projections: Projections, cell_pe: &Tensor) -> Result<Self> {
        projections.q = projections.q.absorbing(cell_pe)?;
        Ok(Self(projections))
    }

    /// Cells plus what they gather from each prompt's tokens: `[prompts, grid², dim]`. `tokens`
    /// have the position encoding added, `values` have not; both are `[prompts, t, dim]`.
    fn forward(&self, cells: &Cells, tokens: &Tensor, values: &Tensor) -> Result<Tensor> {
        let Projections { heads, scale, q, k, v, out } = &self.0;
        let q = split_heads(&q.forward(&cells.values)?, *heads)?;
        let k = split_heads(&(k.forward(tokens)? * *scale)?, *heads)?;
        let v = split_heads(&v.forward(values)?, *heads)?;
        if cells.owned() {
            return out.forward_adding(&attend_by_head(&q, &k, &v)?, &cells.values);
        }
        let (_, _, length, dim) = k.dims4()?;
        let count_cells = q.dim(2)?;
        cells.each(|picture, first, count| {
            let own = cells.values.get(picture)?;
            let values = v.narrow(0, first, count)?;
            if attends_by_tiles(&q) {
                let (_, heads, cells, dim) = q.dims4()?;
                let q = q.narrow(0, picture, 1)?.broadcast_as((count, heads, cells, dim))?;
                let attended = ops::attend(&q, &k.narrow(0, first, count)?, &values, PRODUCTS)?;
                return out.forward_adding(&attended, &own);
            }
            let keys = k.narrow(0, first, count)?.transpose(0, 1)?;
            let keys = keys.reshape((*heads, count * length, dim))?.transpose(1, 2)?;
            let scores = q.get(picture)?.contiguous()?.matmul(&keys.contiguous()?)?;
            let scores = scores.reshape((*heads, count_cells, count, length))?;
            let weights = softmax_f32(&scores.permute((2, 0, 1, 3))?.contiguous()?)?;
            let attended = weights.matmul(&values.contiguous()?)?;
            out.forward_adding(&join_heads(&attended)?, &own)
        })
    }
}
