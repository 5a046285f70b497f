//! The part that looks at the picture alone.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::config::Config;
use crate::models::Result;
use crate::models::memo::Footprint;
use crate::models::ops::{Activation, Conv2d};
use crate::models::pyramid::{Pyramid, pointwise};

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

impl Footprint for Scene {
    fn bytes(&self) -> usize {
        self.cells.bytes() + self.embedding.bytes() + self.summary.bytes()
    }
}

/// A feature pyramid and what texts are compared with.
pub struct Trunk {
    pyramid: Pyramid,
    embed: Conv2d,
}

impl Trunk {
    /// Reads the trunk's tensors.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(config: &Config, vb: VarBuilder) -> Result<Self> {
        let embed = (config.cell(), config.embedding);
        Ok(Self {
            pyramid: Pyramid::new(&config.trunk, vb.clone())?,
            embed: pointwise(embed, Activation::None, vb.pp("embed"))?,
        })
    }

    /// Pictures `[batch, side, side, 3]` in −1..1 to one scene each.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn forward(&self, pixels: &Tensor) -> Result<Vec<Scene>> {
        let maps = self.pyramid.forward(pixels)?;
        let embedding = self.embed.forward(&maps.fine)?;
        (0..pixels.dim(0)?)
            .map(|i| {
                // Copies, so that keeping one picture does not keep its whole batch.
                Ok(Scene {
                    cells: maps.fine.get(i)?.flatten_to(1)?.force_contiguous()?,
                    embedding: embedding.get(i)?.flatten_to(1)?.t()?.force_contiguous()?,
                    summary: maps.summary.narrow(0, i, 1)?.force_contiguous()?,
                })
            })
            .collect()
    }
}
