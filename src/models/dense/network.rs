//! The whole network: trunk, text encoder, and the heads where both meet.

use candle_core::{DType, Module, Tensor};
use candle_nn::{Linear, VarBuilder, linear};

use super::config::Config;
use super::text::{TextEncoder, Tokens};
use super::trunk::{Scene, Trunk};
use crate::models::{Result, ops};

/// Offsets of a box's edges from its cell: this times the exponential of the network's output,
/// as a share of the picture.
const UNIT: f64 = 0.15;

/// Range of that output.
const OFFSETS: (f32, f32) = (-5.0, 2.5);

/// What the network sees of an expression in each cell.
#[derive(Debug, Clone)]
pub struct Maps {
    /// Logits of an instance's centre being there, row by row.
    pub presence: Vec<f32>,
    /// Logits of the cell that the box is read from, row by row.
    pub selection: Vec<f32>,
    selection_row: Tensor,
}

/// A box read from one cell.
#[derive(Debug, Clone, Copy)]
pub struct CellBox {
    /// Left, top, right and bottom edge as shares of the picture.
    pub edges: [f32; 4],
    /// Logit of the box's overlap with the truth.
    pub quality: f32,
}

/// The network.
pub struct Dense {
    trunk: Trunk,
    text: TextEncoder,
    present: Linear,
    select: Linear,
    box_cell: Linear,
    box_text: Linear,
    box_out: Linear,
    judge_cell: Linear,
    judge_scene: Linear,
    judge_text: Linear,
    judge_out: Linear,
    config: Config,
}

impl Dense {
    /// Reads the network's tensors.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(config: &Config, vb: VarBuilder) -> Result<Self> {
        let (d, e, head) = (config.text, config.embedding, config.head);
        let (cell, summary) = (config.cell(), config.trunk.summary());
        Ok(Self {
            trunk: Trunk::new(config, vb.pp("trunk"))?,
            text: TextEncoder::new(config, vb.pp("text"))?,
            present: linear(d, e + 1, vb.pp("present"))?,
            select: linear(d, e, vb.pp("select"))?,
            box_cell: linear(cell, head, vb.pp("box_cell"))?,
            box_text: linear(d, head, vb.pp("box_text"))?,
            box_out: linear(head, 5, vb.pp("box_out"))?,
            judge_cell: linear(cell, head, vb.pp("judge_cell"))?,
            judge_scene: linear(summary, head, vb.pp("judge_scene"))?,
            judge_text: linear(d, head, vb.pp("judge_text"))?,
            judge_out: linear(head + 3, 1, vb.pp("judge_out"))?,
            config: config.clone(),
        })
    }

    /// Pictures `[batch, side, side, 3]` in −1..1 to one scene each.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn look(&self, pixels: &Tensor) -> Result<Vec<Scene>> {
        self.trunk.forward(pixels)
    }

    /// An expression to its vector `[1, text]`.
    ///
    /// # Errors
    /// A tensor operation failed; an id is outside its table.
    pub fn read(&self, tokens: &Tokens) -> Result<Tensor> {
        self.text.forward(tokens)
    }

    /// Where a scene shows what a text names.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn maps(&self, scene: &Scene, text: &Tensor) -> Result<Maps> {
        let channels = self.config.embedding;
        let scale = 1.0 / (channels as f64).sqrt();
        let present = self.present.forward(text)?;
        let query = present.narrow(1, 0, channels)?.contiguous()?;
        let presence = (query.matmul(&scene.embedding)? * scale)?
            .broadcast_add(&present.narrow(1, channels, 1)?)?;
        let selection_row = (self.select.forward(text)?.matmul(&scene.embedding)? * scale)?;
        let values = |row: &Tensor| row.flatten_all()?.to_dtype(DType::F32)?.to_vec1();
        Ok(Maps { presence: values(&presence)?, selection: values(&selection_row)?, selection_row })
    }

    /// The logit of the scene showing what the text names.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn judge(&self, scene: &Scene, text: &Tensor, maps: &Maps) -> Result<f32> {
        let seen = ops::softmax_f32(&maps.selection_row)?.matmul(&scene.cells)?;
        let asked = self.judge_text.forward(text)?;
        let gate = (asked.tanh()? + 1.0)?;
        let hidden = (self.judge_cell.forward(&seen)? * gate)?;
        let hidden = ((hidden + self.judge_scene.forward(&scene.summary)?)? + asked)?;
        let hidden = ops::relu(&hidden)?;
        let statistics = statistics(&maps.presence, self.config.best);
        let statistics = Tensor::new(&[statistics], hidden.device())?.to_dtype(hidden.dtype())?;
        let logit = self.judge_out.forward(&Tensor::cat(&[hidden, statistics], 1)?)?;
        Ok(logit.flatten_all()?.get(0)?.to_dtype(DType::F32)?.to_scalar()?)
    }

    /// The boxes that the given cells answer for a text.
    ///
    /// # Errors
    /// A tensor operation failed; a cell is outside the map.
    pub fn boxes(&self, scene: &Scene, text: &Tensor, cells: &[u32]) -> Result<Vec<CellBox>> {
        let picked = scene.cells.index_select(&Tensor::new(cells, scene.cells.device())?, 0)?;
        let asked = self.box_text.forward(text)?;
        let gate = (asked.tanh()? + 1.0)?;
        let hidden = self.box_cell.forward(&picked)?.broadcast_mul(&gate)?;
        let hidden = ops::relu(&hidden.broadcast_add(&asked)?)?;
        let out = self.box_out.forward(&hidden)?.to_dtype(DType::F32)?;
        let offsets = (ops::clamp(&out.narrow(1, 0, 4)?, OFFSETS)?.exp()? * UNIT)?;
        let offsets: Vec<Vec<f32>> = offsets.to_vec2()?;
        let quality: Vec<f32> = out.narrow(1, 4, 1)?.flatten_all()?.to_vec1()?;
        let grid = self.config.grid();
        let read = |((&cell, offset), quality): ((&u32, &Vec<f32>), f32)| {
            let centre = |index: usize| (index as f32 + 0.5) / grid as f32;
            let (x, y) = (centre(cell as usize % grid), centre(cell as usize / grid));
            let edges = [x - offset[0], y - offset[1], x + offset[2], y + offset[3]];
            CellBox { edges, quality }
        };
        Ok(cells.iter().zip(&offsets).zip(quality).map(read).collect())
    }
}

/// The highest presence, the mean of the `best` highest, and the logarithm of the sum of all
/// exponentials.
fn statistics(presence: &[f32], best: usize) -> [f32; 3] {
    let mut sorted = presence.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    sorted.truncate(best);
    let highest = sorted.first().copied().unwrap_or(f32::NEG_INFINITY);
    let mean = sorted.iter().sum::<f32>() / sorted.len().max(1) as f32;
    let sum: f32 = presence.iter().map(|logit| (logit - highest).exp()).sum();
    [highest, mean, highest + sum.ln()]
}

#[cfg(test)]
mod tests {
    use super::statistics;

    #[test]
    fn statistics_of_a_map() {
        let [highest, mean, total] = statistics(&[0.0, 2.0, 1.0, -1.0], 2);
        assert_eq!((highest, mean), (2.0, 1.5));
        let expected = (1.0 + 2f32.exp() + 1f32.exp() + (-1f32).exp()).ln();
        assert!((total - expected).abs() < 1e-6);
        assert!(statistics(&[f32::NAN, 0.0], 1)[0].is_nan());
    }
}
