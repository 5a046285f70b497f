//! What several networks look at a picture with: a trunk of inverted residuals (EfficientNet-Lite,
//! Tan and Le 2019 without squeeze-and-excitation, ReLU6 for swish) and a feature pyramid.

mod config;
mod layers;

use candle_core::{Module, Tensor};
use candle_nn::{Linear, VarBuilder, linear};

pub use config::{COARSEST, Config, Stage};
pub(in crate::models) use layers::pointwise;
use layers::{conv3, depthwise};

use super::Result;
use super::ops::{Activation, Conv2d, Depthwise};

/// Expand, filter each channel, project; around a shortcut where sides and channels stay.
#[derive(Debug)]
struct Inverted {
    expand: Option<Conv2d>,
    depth: Depthwise,
    project: Conv2d,
    shortcut: bool,
}

impl Inverted {
    fn new(from: usize, stage: &Stage, stride: usize, vb: VarBuilder) -> Result<Self> {
        let wide = from * stage.expansion;
        let expand = (stage.expansion > 1)
            .then(|| pointwise((from, wide), Activation::Relu6, vb.pp("expand")))
            .transpose()?;
        let to = (wide, stage.channels);
        Ok(Self {
            expand,
            depth: depthwise(wide, (stage.kernel, stride), vb.pp("depth"))?,
            project: pointwise(to, Activation::None, vb.pp("project"))?,
            shortcut: stride == 1 && from == stage.channels,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let expanded = self.expand.as_ref().map(|layer| layer.forward(x)).transpose()?;
        let y = self.depth.forward(expanded.as_ref().unwrap_or(x))?;
        let project = &self.project;
        Ok(if self.shortcut { project.forward_onto(&y, x)? } else { project.forward(&y)? })
    }
}

/// What the pyramid says about a batch of pictures, channels-last.
pub struct Maps {
    /// The trunk at stride 4: `[batch, side/4, side/4, c4]`.
    pub quarter: Tensor,
    /// The pyramid at stride 16: `[batch, side/16, side/16, pyramid[0]]`.
    pub middle: Tensor,
    /// The pyramid at stride 8: `[batch, side/8, side/8, pyramid[1]]`.
    pub fine: Tensor,
    /// Each whole picture in one vector: `[batch, c32]`.
    pub summary: Tensor,
}

/// Trunk and pyramid.
#[derive(Debug)]
pub struct Pyramid {
    stem: Conv2d,
    /// Rows of blocks, each with the stride of what comes out.
    stages: Vec<(Vec<Inverted>, usize)>,
    context: Linear,
    top: Conv2d,
    mid: Conv2d,
    merge: Conv2d,
    down: Conv2d,
    low: Conv2d,
    fine: Conv2d,
}

impl Pyramid {
    /// Reads the tensors.
    ///
    /// # Errors
    /// A tensor is missing or has another shape; the sizes contradict each other.
    pub fn new(config: &Config, vb: VarBuilder) -> Result<Self> {
        let [_, c8, c16, c32] = config.taps()?;
        let mut channels = config.stem;
        let mut stages = Vec::new();
        for (i, (stage, at)) in config.strides().enumerate() {
            let vb = vb.pp("stages").pp(i);
            let mut blocks = Vec::new();
            for block in 0..stage.blocks {
                let stride = if block == 0 { stage.stride } else { 1 };
                blocks.push(Inverted::new(channels, stage, stride, vb.pp(block))?);
                channels = stage.channels;
            }
            stages.push((blocks, at));
        }
        let [p16, p8] = config.pyramid;
        let (plain, active) = (Activation::None, Activation::Relu);
        Ok(Self {
            stem: conv3((3, config.stem), 2, Activation::Relu6, vb.pp("stem"))?,
            stages,
            context: linear(c32, c32, vb.pp("context"))?,
            top: pointwise((c32, p16), plain, vb.pp("top"))?,
            mid: pointwise((c16, p16), active, vb.pp("mid"))?,
            merge: conv3((p16, p16), 1, active, vb.pp("merge"))?,
            down: pointwise((p16, p8), plain, vb.pp("down"))?,
            low: pointwise((c8, p8), active, vb.pp("low"))?,
            fine: conv3((p8, p8), 1, active, vb.pp("fine"))?,
        })
    }

    /// Pictures `[batch, side, side, 3]`, `side` a multiple of [`COARSEST`].
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn forward(&self, pixels: &Tensor) -> Result<Maps> {
        let [quarter, c8, c16, c32] = self.trunk(pixels)?;
        let summary = c32.mean((1, 2))?;
        let context = self.context.forward(&summary)?.unsqueeze(1)?.unsqueeze(1)?;
        let c32 = c32.broadcast_add(&context)?;
        let middle = self.mid.forward_onto(&c16, &double(&self.top.forward(&c32)?)?)?;
        let middle = self.merge.forward(&middle)?;
        let fine = self.low.forward_onto(&c8, &double(&self.down.forward(&middle)?)?)?;
        let fine = self.fine.forward(&fine)?;
        Ok(Maps { quarter, middle, fine, summary })
    }

    /// The trunk's maps at strides 4, 8, 16 and 32.
    fn trunk(&self, pixels: &Tensor) -> Result<[Tensor; 4]> {
        let mut x = self.stem.forward(pixels)?;
        let [mut c4, mut c8, mut c16] = [x.clone(), x.clone(), x.clone()];
        for (blocks, stride) in &self.stages {
            for block in blocks {
                x = block.forward(&x)?;
            }
            match stride {
                4 => c4 = x.clone(),
                8 => c8 = x.clone(),
                16 => c16 = x.clone(),
                _ => {}
            }
        }
        Ok([c4, c8, c16, x])
    }
}

/// Twice the sides, each value four times: `[batch, 2 · height, 2 · width, channels]`.
fn double(x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let x = x.reshape((batch, height, 1, width, 1, channels))?;
    let x = x.broadcast_as((batch, height, 2, width, 2, channels))?;
    Ok(x.reshape((batch, 2 * height, 2 * width, channels))?)
}
