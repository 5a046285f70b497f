//! The image trunk: a ResNet (v1.5 bottlenecks) without its fourth stage, batch normalisation
//! folded into the convolutions at load.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use super::config::Config;
use crate::models::Result;
use crate::models::batch_norm::fold_batch_norm;
use crate::models::ops::{Activation, Conv2d, Travel, max_pool_of_positive};

/// Shape of one convolution.
#[derive(Debug, Clone, Copy)]
struct Shape {
    input: usize,
    output: usize,
    kernel: usize,
    stride: usize,
    activation: Activation,
}

impl Shape {
    /// Reads `conv` and the batch normalisation `bn` below `vb`, and folds one into the other.
    fn read(self, vb: &VarBuilder, conv: &str, bn: &str) -> Result<Conv2d> {
        let Self { input, output, kernel, stride, activation } = self;
        let dtype = vb.dtype();
        let exact = vb.to_dtype(DType::F32);
        let weight = exact.pp(conv).get((output, input, kernel, kernel), "weight")?;
        let (weight, bias) = fold_batch_norm(&weight, &exact.pp(bn))?;
        let (weight, bias) = (weight.to_dtype(dtype)?, bias.to_dtype(dtype)?);
        let travel = Travel::padded(stride, kernel / 2);
        Ok(Conv2d::new(&weight, bias, travel, activation)?)
    }
}

/// 1×1, 3×3 (with the stride), 1×1, and the shortcut.
#[derive(Debug)]
struct Bottleneck {
    reduce: Conv2d,
    spatial: Conv2d,
    expand: Conv2d,
    shortcut: Option<Conv2d>,
}

impl Bottleneck {
    /// Reads one block; `first` blocks of a stage have a projection as their shortcut.
    fn new(
        input: usize,
        planes: usize,
        stride: usize,
        first: bool,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let (plain, active) = (Activation::None, Activation::Relu);
        let shape = |input, output, kernel, stride, activation| Shape {
            input,
            output,
            kernel,
            stride,
            activation,
        };
        let wide = planes * 4;
        Ok(Self {
            reduce: shape(input, planes, 1, 1, active).read(vb, "conv1", "bn1")?,
            spatial: shape(planes, planes, 3, stride, active).read(vb, "conv2", "bn2")?,
            // Active only once the shortcut was added.
            expand: shape(planes, wide, 1, 1, active).read(vb, "conv3", "bn3")?,
            shortcut: first
                .then(|| shape(input, wide, 1, stride, plain).read(&vb.pp("downsample"), "0", "1"))
                .transpose()?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.spatial.forward(&self.reduce.forward(x)?)?;
        let shortcut = self.shortcut.as_ref().map(|shortcut| shortcut.forward(x)).transpose()?;
        Ok(self.expand.forward_onto(&y, shortcut.as_ref().unwrap_or(x))?)
    }
}

/// The trunk.
#[derive(Debug)]
pub struct Trunk {
    stem: Conv2d,
    blocks: Vec<Bottleneck>,
}

impl Trunk {
    /// Reads the trunk of `encoder.embed_images`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(config: &Config, vb: VarBuilder) -> Result<Self> {
        let width = config.resnet_width;
        let stem =
            Shape { input: 3, output: width, kernel: 7, stride: 2, activation: Activation::Relu };
        let stem = stem.read(&vb, "conv1", "bn1")?;
        let mut blocks = Vec::new();
        let mut input = width;
        for (stage, &count) in config.resnet_layers.iter().enumerate() {
            let planes = width << stage;
            let vb = vb.pp(format!("layer{}", stage + 1));
            for block in 0..count {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                blocks.push(Bottleneck::new(input, planes, stride, block == 0, &vb.pp(block))?);
                input = planes * 4;
            }
        }
        Ok(Self { stem, blocks })
    }

    /// Normalised pictures `[batch, side, side, 3]` to features
    /// `[batch, side / 16, side / 16, 16 · width]`.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let mut x = max_pool_of_positive(&self.stem.forward(pixels)?)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        Ok(x)
    }
}
