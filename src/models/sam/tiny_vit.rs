//! MobileSAM's image encoder (Zhang et al., "Faster Segment Anything", 2023): TinyViT (Wu et al., 2022)
//! distilled from SAM's, under SAM's neck.
//!
//! Reference implementation: `tiny_vit_sam.py` as the package segment-anything-hq carries it; the
//! state dict has its names. Batch normalisation is folded into the convolutions. The classifier's
//! `norm_head` and `head`, which checkpoints hold, are not read.

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::vit::{Neck, partition, unpartition};
use crate::models::batch_norm::fold_batch_norm;
use crate::models::ops::{
    Activation, Conv2d, Depthwise, LayerNorm, Linear, Scores, Travel, activation_type, attend,
};

/// PyTorch's default, which TinyViT keeps.
const EPS: f64 = 1e-5;

/// Stages of a TinyViT: the first of convolutions, the others of windowed attention.
pub(super) const STAGES: usize = 4;

/// Sizes of a TinyViT (Wu et al., 2022) as MobileSAM uses it: the last stage keeps the third one's
/// grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TinyVitConfig {
    /// Channels of each stage.
    pub embed_dims: [usize; STAGES],
    /// Blocks of each stage.
    pub depths: [usize; STAGES],
    /// Attention heads of each stage; the first has no attention.
    pub num_heads: [usize; STAGES],
    /// Side of the attention windows of each stage, likewise.
    pub window_sizes: [usize; STAGES],
    /// Width of the feed-forward layers in multiples of the stage's.
    pub mlp_ratio: f64,
    /// Width inside the first stage's blocks in multiples of the stage's.
    pub mbconv_expand_ratio: f64,
}

impl Default for TinyVitConfig {
    /// TinyViT-5M.
    fn default() -> Self {
        Self {
            embed_dims: [64, 128, 160, 320],
            depths: [2, 2, 6, 2],
            num_heads: [2, 4, 5, 10],
            window_sizes: [7, 7, 14, 7],
            mlp_ratio: 4.0,
            mbconv_expand_ratio: 4.0,
        }
    }
}

impl TinyVitConfig {
    /// Width inside the first stage's blocks.
    pub(super) fn expanded(&self) -> usize {
        (self.embed_dims[0] as f64 * self.mbconv_expand_ratio) as usize
    }

    /// Width of a stage's feed-forward layers.
    pub(super) fn mlp_dim(&self, stage: usize) -> usize {
        (self.embed_dims[stage] as f64 * self.mlp_ratio) as usize
    }

    /// Cells along a side of a stage's maps in a picture of `image_size` pixels.
    pub(super) fn side(image_size: usize, stage: usize) -> usize {
        image_size / [4, 8, 16, 16][stage]
    }

    /// Multiply–adds for a picture, without the neck.
    pub(super) fn macs(&self, image_size: usize) -> usize {
        let [first, ..] = self.embed_dims;
        let cells = |stage: usize| Self::side(image_size, stage).pow(2);
        let stem = cells(0) * (4 * 27 * (first / 2) + 9 * first / 2 * first);
        let block = cells(0) * self.expanded() * (2 * first + 9);
        let attention = (1..STAGES).map(|stage| {
            let (dim, window) = (self.embed_dims[stage], self.window_sizes[stage]);
            let padded = Self::side(image_size, stage).next_multiple_of(window).pow(2);
            let attend = padded * dim * (4 * dim + 2 * window.pow(2));
            self.depths[stage] * (attend + cells(stage) * dim * (9 + 2 * self.mlp_dim(stage)))
        });
        let merging = (1..STAGES).map(|stage| {
            let (from, to) = (self.embed_dims[stage - 1], self.embed_dims[stage]);
            cells(stage - 1) * from * to + cells(stage) * to * (9 + to)
        });
        stem + self.depths[0] * block + attention.sum::<usize>() + merging.sum::<usize>()
    }
}

/// Pictures to image embeddings.
#[derive(Debug)]
pub(super) struct TinyVit {
    stem: [Conv2d; 2],
    convolutions: Vec<Inverted>,
    stages: Vec<Stage>,
    neck: Neck,
}

/// What makes the maps of a stage, and its blocks.
#[derive(Debug)]
struct Stage {
    merging: Merging,
    blocks: Vec<Block>,
}

impl TinyVit {
    /// For embeddings of `out_chans` channels.
    pub(super) fn load(config: &TinyVitConfig, out_chans: usize, vb: VarBuilder) -> Result<Self> {
        let [first, .., last] = config.embed_dims;
        let stem = vb.pp("patch_embed.seq");
        let convolution = |ends, then, index: usize| {
            convolution(ends, (3, Travel::padded(2, 1)), then, &stem.pp(index))
        };
        let blocks = |stage: usize| vb.pp("layers").pp(stage).pp("blocks");
        let stage = |stage: usize| {
            let block = |index: usize| Block::load(config, stage, &blocks(stage).pp(index));
            let merging = vb.pp("layers").pp(stage - 1).pp("downsample");
            Ok(Stage {
                merging: Merging::load(config, stage, &merging)?,
                blocks: (0..config.depths[stage]).map(block).collect::<Result<_>>()?,
            })
        };
        Ok(Self {
            stem: [
                convolution((3, first / 2), Activation::Gelu, 0)?,
                convolution((first / 2, first), Activation::None, 2)?,
            ],
            convolutions: (0..config.depths[0])
                .map(|index| Inverted::load(first, config.expanded(), &blocks(0).pp(index)))
                .collect::<Result<_>>()?,
            stages: (1..STAGES).map(stage).collect::<Result<_>>()?,
            neck: Neck::load(last, out_chans, vb.pp("neck"))?,
        })
    }

    /// Normalised pictures `[b, side, side, 3]` → embeddings `[b, side / 16, side / 16, out_chans]`.
    pub(super) fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let mut x = self.stem[1].forward(&self.stem[0].forward(pixels)?)?;
        for block in &self.convolutions {
            x = block.forward(&x)?;
        }
        for stage in &self.stages {
            x = stage.merging.forward(&x)?;
            for block in &stage.blocks {
                x = block.forward(&x)?;
            }
        }
        self.neck.forward(&x)
    }
}

/// Reads a convolution `c` and folds the batch normalisation `bn` into it.
fn convolution(
    (from, to): (usize, usize),
    (kernel, travel): (usize, Travel),
    then: Activation,
    vb: &VarBuilder,
) -> Result<Conv2d> {
    let (weight, bias) = folded((to, from, kernel, kernel), vb)?;
    Conv2d::new(&weight, bias, travel, then)
}

/// A 1×1 convolution, likewise.
fn pointwise(ends: (usize, usize), then: Activation, vb: &VarBuilder) -> Result<Conv2d> {
    convolution(ends, (1, Travel::EVERY), then, vb)
}

/// A 3×3 convolution of each channel by itself, likewise.
fn depthwise(
    channels: usize,
    stride: usize,
    then: Activation,
    vb: &VarBuilder,
) -> Result<Depthwise> {
    let (weight, bias) = folded((channels, 1, 3, 3), vb)?;
    Ok(Depthwise::new(&weight, bias, stride, then)?.centred())
}

fn folded(shape: (usize, usize, usize, usize), vb: &VarBuilder) -> Result<(Tensor, Tensor)> {
    let (exact, kept) = (vb.to_dtype(DType::F32), activation_type(vb));
    let weight = exact.pp("c").get(shape, "weight")?;
    let (weight, bias) = fold_batch_norm(&weight, &exact.pp("bn"))?;
    Ok((weight.to_dtype(kept)?, bias.to_dtype(kept)?))
}

/// A block of the first stage: widened, filtered channel by channel, narrowed again.
#[derive(Debug)]
struct Inverted {
    expand: Conv2d,
    filter: Depthwise,
    project: Conv2d,
}

impl Inverted {
    fn load(dim: usize, inner: usize, vb: &VarBuilder) -> Result<Self> {
        let gelu = Activation::Gelu;
        Ok(Self {
            expand: pointwise((dim, inner), gelu, &vb.pp("conv1"))?,
            filter: depthwise(inner, 1, gelu, &vb.pp("conv2"))?,
            // Active only once the input was added.
            project: pointwise((inner, dim), gelu, &vb.pp("conv3"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.project.forward_onto(&self.filter.forward(&self.expand.forward(x)?)?, x)
    }
}

/// From one stage's maps to the next one's.
#[derive(Debug)]
struct Merging {
    expand: Conv2d,
    filter: Depthwise,
    project: Conv2d,
}

impl Merging {
    /// What makes the maps of `stage`.
    fn load(config: &TinyVitConfig, stage: usize, vb: &VarBuilder) -> Result<Self> {
        let (from, to) = (config.embed_dims[stage - 1], config.embed_dims[stage]);
        let stride = if stage + 1 < STAGES { 2 } else { 1 };
        Ok(Self {
            expand: pointwise((from, to), Activation::Gelu, &vb.pp("conv1"))?,
            filter: depthwise(to, stride, Activation::Gelu, &vb.pp("conv2"))?,
            project: pointwise((to, to), Activation::None, &vb.pp("conv3"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.project.forward(&self.filter.forward(&self.expand.forward(x)?)?)
    }
}

/// A block of windowed attention, a convolution and a feed-forward part.
#[derive(Debug)]
struct Block {
    attention: Attention,
    convolution: Depthwise,
    norm: LayerNorm,
    up: Linear,
    down: Linear,
}

impl Block {
    fn load(config: &TinyVitConfig, stage: usize, vb: &VarBuilder) -> Result<Self> {
        let (dim, inner) = (config.embed_dims[stage], config.mlp_dim(stage));
        let mlp = vb.pp("mlp");
        Ok(Self {
            attention: Attention::load(config, stage, &vb.pp("attn"))?,
            convolution: depthwise(dim, 1, Activation::None, &vb.pp("local_conv"))?,
            norm: LayerNorm::load(dim, EPS, mlp.pp("norm"))?,
            up: Linear::load_active((dim, inner), Activation::Gelu, mlp.pp("fc1"))?,
            down: Linear::load(inner, dim, mlp.pp("fc2"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.convolution.forward(&(x + self.attention.forward(x)?)?)?;
        self.down.forward_adding(&self.up.forward(&self.norm.forward(&x)?)?, &x)
    }
}

/// Attention inside windows, with a bias for each distance of two cells. Where windows reach over the
/// map's edge, the zeros there are normalised and attended to as if they were cells.
#[derive(Debug)]
struct Attention {
    window: usize,
    heads: usize,
    norm: LayerNorm,
    qkv: Linear,
    project: Linear,
    /// `[1, heads, window², window²]`.
    bias: Tensor,
}

impl Attention {
    fn load(config: &TinyVitConfig, stage: usize, vb: &VarBuilder) -> Result<Self> {
        let (dim, heads) = (config.embed_dims[stage], config.num_heads[stage]);
        let window = config.window_sizes[stage];
        let table = vb.to_dtype(activation_type(vb));
        let table = table.get((heads, window * window), "attention_biases")?;
        Ok(Self {
            window,
            heads,
            norm: LayerNorm::load(dim, EPS, vb.pp("norm"))?,
            qkv: Linear::load(dim, 3 * dim, vb.pp("qkv"))?,
            project: Linear::load(dim, dim, vb.pp("proj"))?,
            bias: spread(&table, window)?,
        })
    }

    /// `[b, height, width, dim]` → the same shape.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, height, width, dim) = x.dims4()?;
        let windows = partition(x, self.window)?.flatten(1, 2)?;
        let (count, cells, _) = windows.dims3()?;
        let qkv = self.qkv.forward(&self.norm.forward(&windows)?)?;
        // Head by head: its queries, its keys, its values.
        let each = dim / self.heads;
        let qkv = qkv.reshape((count, cells, self.heads, 3 * each))?;
        let part = |index: usize| qkv.narrow(3, index * each, each)?.transpose(1, 2);
        let scores = Scores { scale: (each as f64).powf(-0.5), bias: &[&self.bias] };
        let attended = attend(&part(0)?, &part(1)?, &part(2)?, scores)?;
        let attended = self.project.forward(&attended)?;
        let attended = attended.reshape((count, self.window, self.window, dim))?;
        unpartition(&attended, self.window, height, width)
    }
}

/// Biases `[heads, side²]` by rows and columns between two cells as `[1, heads, side², side²]`.
fn spread(table: &Tensor, side: usize) -> Result<Tensor> {
    let cells = side * side;
    let distance = |a: usize, b: usize| {
        let (rows, columns) = ((a / side).abs_diff(b / side), (a % side).abs_diff(b % side));
        (rows * side + columns) as u32
    };
    let distances: Vec<u32> =
        (0..cells).flat_map(|a| (0..cells).map(move |b| distance(a, b))).collect();
    let distances = Tensor::from_vec(distances, cells * cells, table.device())?;
    table.index_select(&distances, 1)?.reshape((1, table.dim(0)?, cells, cells))
}
