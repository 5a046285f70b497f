//! The mask decoder: output tokens and prompt tokens through the two-way transformer, cells
//! upscaled four times, one dot product per mask token and pixel.

use std::ops::Range;

use candle_core::{D, DType, Result, Tensor};
use candle_nn::VarBuilder;

use super::config::Config;
use super::ops::Linear;
use super::prompt::PromptEncoder;
use super::transformer::{Cells, TwoWayTransformer};
use crate::models::ops::{Activation, LayerNorm, activation_type};

/// `LayerNorm2d`'s epsilon.
const EPS: f64 = 1e-6;

/// What the decoder says about a batch of prompts.
#[derive(Debug)]
pub(super) struct Decoded {
    /// `[prompts, masks, (4 · grid)²]`, each mask row by row.
    pub(super) logits: Vec<Vec<Vec<f32>>>,
    /// Predicted IoU, `[prompts, masks]`, as the network says it (not clamped).
    pub(super) iou: Vec<Vec<f32>>,
}

#[derive(Debug)]
pub(super) struct MaskDecoder {
    grid: usize,
    /// `[1, 1 + masks, dim]`: the IoU token, then the mask tokens.
    output_tokens: Tensor,
    /// `[dim]`: what stands for "no mask was given" in every cell.
    no_mask: Tensor,
    transformer: TwoWayTransformer,
    upscale1: Linear,
    upscale_norm: LayerNorm,
    upscale2: Linear,
    hypernetworks: Vec<Mlp>,
    iou_head: Mlp,
}

impl MaskDecoder {
    /// `vb` is the root of the state dict: the decoder needs the prompt encoder's positions.
    pub(super) fn load(config: &Config, prompts: &PromptEncoder, vb: &VarBuilder) -> Result<Self> {
        let (dim, masks) = (config.out_chans, config.num_multimask_outputs + 1);
        let exact = vb.to_dtype(activation_type(vb));
        let positions = prompts.dense(config.grid(), vb.device())?.to_dtype(exact.dtype())?;
        let no_mask = exact.get((1, dim), "prompt_encoder.no_mask_embed.weight")?.squeeze(0)?;
        let (vb, exact) = (vb.pp("mask_decoder"), exact.pp("mask_decoder"));
        let iou_token = exact.get((1, dim), "iou_token.weight")?;
        let mask_tokens = exact.get((masks, dim), "mask_tokens.weight")?;
        let upscaling = vb.pp("output_upscaling");
        let hypernetworks = vb.pp("output_hypernetworks_mlps");
        let (hidden, depth) = (config.iou_head_hidden_dim, config.iou_head_depth);
        Ok(Self {
            grid: config.grid(),
            output_tokens: Tensor::cat(&[iou_token, mask_tokens], 0)?.unsqueeze(0)?,
            no_mask,
            transformer: TwoWayTransformer::load(config, &positions, vb.pp("transformer"))?,
            upscale1: upscaling_layer((dim, dim / 4), Activation::None, upscaling.pp("0"))?,
            upscale_norm: LayerNorm::load(dim / 4, EPS, upscaling.pp("1"))?,
            upscale2: upscaling_layer((dim / 4, dim / 8), Activation::Gelu, upscaling.pp("3"))?,
            hypernetworks: (0..masks)
                .map(|index| Mlp::load(&[dim, dim, dim, dim / 8], hypernetworks.pp(index)))
                .collect::<Result<_>>()?,
            iou_head: Mlp::load(
                &[vec![dim], vec![hidden; depth - 1], vec![masks]].concat(),
                vb.pp("iou_prediction_head"),
            )?,
        })
    }

    /// Decodes prompts. `cells.values` are image embeddings `[pictures, grid², dim]`, `fine` what
    /// the encoder has to add to the upscaled ones; `prompts` are `[prompts, tokens, dim]`, the
    /// pictures' prompts one after another; `masks` says which mask tokens to answer for (0 is the
    /// single mask).
    pub(super) fn forward(
        &self,
        cells: Cells,
        fine: &[Tensor],
        prompts: &Tensor,
        masks: Range<usize>,
    ) -> Result<Decoded> {
        let fine = fine.iter().map(|map| cells.repeat(map)).collect::<Result<Vec<_>>>()?;
        let count = prompts.dim(0)?;
        let (_, outputs, dim) = self.output_tokens.dims3()?;
        let outputs = self.output_tokens.broadcast_as((count, outputs, dim))?;
        let tokens = Tensor::cat(&[&outputs, prompts], 1)?;
        let values = cells.values.broadcast_add(&self.no_mask)?;
        let (tokens, values) = self.transformer.forward(&tokens, Cells { values, ..cells })?;
        let token = |index: usize| tokens.narrow(1, index, 1)?.squeeze(1)?.contiguous();
        let weights = masks
            .clone()
            .map(|mask| self.hypernetworks[mask].forward(&token(1 + mask)?))
            .collect::<Result<Vec<_>>>()?;
        let weights = Tensor::stack(&weights, D::Minus1)?;
        let logits = self.upscale(&values, &fine)?.matmul(&weights)?.transpose(1, 2)?;
        let logits = logits.to_dtype(DType::F32)?.contiguous()?.to_vec3::<f32>()?;
        let iou = self.iou_head.forward(&token(0)?)?.to_dtype(DType::F32)?;
        let iou = iou.narrow(1, masks.start, masks.len())?.contiguous()?.to_vec2::<f32>()?;
        let rows = |masks: Vec<Vec<f32>>| masks.iter().map(|mask| self.row_by_row(mask)).collect();
        Ok(Decoded { logits: logits.into_iter().map(rows).collect(), iou })
    }

    /// Cells `[b, grid², dim]` → pixels `[b, 16 · grid², dim / 8]`, ordered by cell, then by
    /// quarter of the cell, then by sixteenth: every step up to the masks is pointwise, so that
    /// only the finished masks need reordering. `fine` is nothing, or in that order what to add to
    /// the quarters and to the sixteenths.
    fn upscale(&self, cells: &Tensor, fine: &[Tensor]) -> Result<Tensor> {
        let (batch, count, dim) = cells.dims3()?;
        let quarters = self.upscale1.forward(cells)?.reshape((batch, 4 * count, dim / 4))?;
        let quarters = plus(quarters, fine.first())?;
        let quarters = self.upscale_norm.forward_active(&quarters, Activation::Gelu)?;
        let pixels = match fine.get(1) {
            Some(fine) => self
                .upscale2
                .forward_adding(&quarters, &fine.reshape((batch, 4 * count, dim / 2))?)?,
            None => self.upscale2.forward(&quarters)?,
        };
        pixels.reshape((batch, 16 * count, dim / 8))
    }

    /// Reorders one mask from [`MaskDecoder::upscale`]'s order to rows.
    fn row_by_row(&self, mask: &[f32]) -> Vec<f32> {
        let side = 4 * self.grid;
        let mut rows = vec![0.0; side * side];
        for (cell, pixels) in mask.chunks_exact(16).enumerate() {
            let corner = 4 * (cell / self.grid * side + cell % self.grid);
            for (index, &value) in pixels.iter().enumerate() {
                let (quarter, sixteenth) = (index / 4, index % 4);
                let y = 2 * (quarter / 2) + sixteenth / 2;
                let x = 2 * (quarter % 2) + sixteenth % 2;
                rows[corner + y * side + x] = value;
            }
        }
        rows
    }
}

fn plus(x: Tensor, more: Option<&Tensor>) -> Result<Tensor> {
    more.map_or(Ok(x.clone()), |more| x + more)
}

/// A transposed 2×2 convolution of stride 2 as one matrix product `input` → `4 · output`.
fn upscaling_layer(
    (input, output): (usize, usize),
    activation: Activation,
    vb: VarBuilder,
) -> Result<Linear> {
    let weight = vb.get((input, output, 2, 2), "weight")?;
    let weight = weight.permute((2, 3, 1, 0))?.reshape((4 * output, input))?;
    Linear::new(&weight, Some(&vb.get(output, "bias")?.repeat(4)?), activation)
}

/// Linear layers with ReLU between them.
#[derive(Debug)]
struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    fn load(widths: &[usize], vb: VarBuilder) -> Result<Self> {
        let vb = vb.pp("layers");
        let last = widths.len() - 2;
        let layer = |(index, ends): (usize, &[usize])| {
            let then = if index < last { Activation::Relu } else { Activation::None };
            Linear::load_active((ends[0], ends[1]), then, vb.pp(index))
        };
        Ok(Self { layers: widths.windows(2).enumerate().map(layer).collect::<Result<_>>()? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.layers.iter().try_fold(x.clone(), |x, layer| layer.forward(&x))
    }
}
