//! The part that looks at the picture alone: residual trunk and feature pyramid.

use candle_core::{D, Module, Tensor};
use candle_nn::{Conv2d, Linear, VarBuilder, linear};

use super::config::Config;
use super::layers::{Pointwise, conv3};
use crate::models::Result;

/// Two convolutions around a shortcut.
struct Block {
    first: Conv2d,
    second: Conv2d,
}

impl Block {
    fn new(channels: usize, vb: VarBuilder) -> Result<Self> {
        let first = conv3(channels, channels, 1, vb.pp("a"))?;
        let second = conv3(channels, channels, 1, vb.pp("b"))?;
        Ok(Self { first, second })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.second.forward(&self.first.forward(x)?.relu()?)?;
        Ok((x + y)?.relu()?)
    }
}

/// A convolution that halves the sides, and residual blocks.
struct Stage {
    entry: Conv2d,
    blocks: Vec<Block>,
}

impl Stage {
    fn new(from: usize, (to, blocks): (usize, usize), vb: VarBuilder) -> Result<Self> {
        let entry = conv3(from, to, 2, vb.pp(0))?;
        let blocks = (1..=blocks).map(|i| Block::new(to, vb.pp(i))).collect::<Result<_>>()?;
        Ok(Self { entry, blocks })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.entry.forward(x)?.relu()?;
        self.blocks.iter().try_fold(x, |x, block| block.forward(&x))
    }
}

/// What is known of a picture before anything is asked about it. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Scene {
    /// Features of each cell, row by row: `[cells, pyramid]`.
    pub cells: Tensor,
    /// What texts are compared with: `[embedding, cells]`.
    pub embedding: Tensor,
    /// The whole picture in one vector: `[1, channels]`.
    pub summary: Tensor,
}

impl Scene {
    /// Bytes that the tensors take on the device.
    pub fn bytes(&self) -> usize {
        let size = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        size(&self.cells) + size(&self.embedding) + size(&self.summary)
    }
}

/// Trunk and pyramid.
pub struct Trunk {
    stem: Vec<Conv2d>,
    stages: [Stage; 3],
    context: Linear,
    top: Pointwise,
    mid: Pointwise,
    merge: Conv2d,
    down: Pointwise,
    low: Pointwise,
    fine: Conv2d,
    embed: Pointwise,
}

impl Trunk {
    /// Reads the trunk's tensors.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(config: &Config, vb: VarBuilder) -> Result<Self> {
        let mut channels = 3;
        let mut stem = Vec::new();
        for (i, &out) in config.stem.iter().enumerate() {
            let stride = if i < 2 { 2 } else { 1 };
            stem.push(conv3(channels, out, stride, vb.pp("stem").pp(i))?);
            channels = out;
        }
        let [s8, s16, s32] = config.stages;
        let stages = vb.pp("stages");
        let [p16, p8] = config.pyramid;
        Ok(Self {
            stem,
            stages: [
                Stage::new(channels, s8, stages.pp(0))?,
                Stage::new(s8.0, s16, stages.pp(1))?,
                Stage::new(s16.0, s32, stages.pp(2))?,
            ],
            context: linear(s32.0, s32.0, vb.pp("context"))?,
            top: Pointwise::new(s32.0, p16, vb.pp("top"))?,
            mid: Pointwise::new(s16.0, p16, vb.pp("mid"))?,
            merge: conv3(p16, p16, 1, vb.pp("merge"))?,
            down: Pointwise::new(p16, p8, vb.pp("down"))?,
            low: Pointwise::new(s8.0, p8, vb.pp("low"))?,
            fine: conv3(p8, p8, 1, vb.pp("fine"))?,
            embed: Pointwise::new(p8, config.embedding, vb.pp("embed"))?,
        })
    }

    /// Pictures `[batch, 3, side, side]` in −1..1 to one scene each.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn forward(&self, pixels: &Tensor) -> Result<Vec<Scene>> {
        let mut x = pixels.clone();
        for conv in &self.stem {
            x = conv.forward(&x)?.relu()?;
        }
        let [s8, s16, s32] = &self.stages;
        let c8 = s8.forward(&x)?;
        let c16 = s16.forward(&c8)?;
        let c32 = s32.forward(&c16)?;
        let summary = c32.mean((2, 3))?;
        let context = self.context.forward(&summary)?.unsqueeze(D::Minus1)?;
        let c32 = c32.broadcast_add(&context.unsqueeze(D::Minus1)?)?;
        let middle = (self.mid.forward(&c16)? + double(&self.top.forward(&c32)?)?)?.relu()?;
        let middle = self.merge.forward(&middle)?.relu()?;
        let fine = (self.low.forward(&c8)? + double(&self.down.forward(&middle)?)?)?.relu()?;
        let fine = self.fine.forward(&fine)?.relu()?;
        let embedding = self.embed.forward(&fine)?;
        (0..pixels.dim(0)?)
            .map(|i| {
                // Copies, so that keeping one picture does not keep its whole batch.
                Ok(Scene {
                    cells: fine.get(i)?.flatten_from(1)?.t()?.force_contiguous()?,
                    embedding: embedding.get(i)?.flatten_from(1)?.force_contiguous()?,
                    summary: summary.narrow(0, i, 1)?.force_contiguous()?,
                })
            })
            .collect()
    }
}

/// Twice the sides, each value four times.
fn double(x: &Tensor) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    Ok(x.upsample_nearest2d(2 * height, 2 * width)?)
}
