//! The image trunk: a ResNet (v1.5 bottlenecks) without its fourth stage, batch normalisation
//! folded into the convolutions at load.

use candle_core::{DType, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, Module, VarBuilder};

use super::config::Config;
use crate::models::Result;
use crate::models::ops::{Activation, relu};
use crate::models::pyramid::Pointwise;

/// Epsilon of batch normalisation.
const EPS: f64 = 1e-5;

/// A convolution with its batch normalisation folded in.
#[derive(Debug)]
enum Conv {
    /// 1×1 with stride 1: one matrix product.
    Pointwise(Pointwise),
    /// Any other.
    Spatial(Conv2d),
}

/// Shape of one convolution.
#[derive(Debug, Clone, Copy)]
struct Shape {
    input: usize,
    output: usize,
    kernel: usize,
    stride: usize,
}

impl Conv {
    /// Reads `conv` and the batch normalisation `bn` below `vb`.
    fn new(shape: Shape, vb: &VarBuilder, conv: &str, bn: &str) -> Result<Self> {
        let Shape { input, output, kernel, stride } = shape;
        let dtype = vb.dtype();
        let exact = vb.to_dtype(DType::F32);
        let weight = exact.pp(conv).get((output, input, kernel, kernel), "weight")?;
        let bn = exact.pp(bn);
        let deviation = (bn.get(output, "running_var")? + EPS)?.sqrt()?;
        let factor = (bn.get(output, "weight")? / deviation)?;
        let bias = (bn.get(output, "bias")? - (bn.get(output, "running_mean")? * &factor)?)?;
        let weight = weight.broadcast_mul(&factor.reshape((output, 1, 1, 1))?)?.to_dtype(dtype)?;
        let bias = bias.to_dtype(dtype)?;
        if kernel == 1 && stride == 1 {
            let weight = weight.reshape((output, input))?;
            return Ok(Self::Pointwise(Pointwise::of(weight, bias, Activation::None)));
        }
        let config = Conv2dConfig { padding: kernel / 2, stride, ..Conv2dConfig::default() };
        Ok(Self::Spatial(Conv2d::new(weight, Some(bias), config)))
    }

    /// `[batch, in, rows, columns]` to `[batch, out, rows / stride, columns / stride]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Pointwise(conv) => conv.forward(x),
            Self::Spatial(conv) => Ok(conv.forward(x)?),
        }
    }
}

/// 1×1, 3×3 (with the stride), 1×1, and the shortcut.
#[derive(Debug)]
struct Bottleneck {
    reduce: Conv,
    spatial: Conv,
    expand: Conv,
    shortcut: Option<Conv>,
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
        let shape = |input, output, kernel, stride| Shape { input, output, kernel, stride };
        Ok(Self {
            reduce: Conv::new(shape(input, planes, 1, 1), vb, "conv1", "bn1")?,
            spatial: Conv::new(shape(planes, planes, 3, stride), vb, "conv2", "bn2")?,
            expand: Conv::new(shape(planes, planes * 4, 1, 1), vb, "conv3", "bn3")?,
            shortcut: first
                .then(|| {
                    let shape = shape(input, planes * 4, 1, stride);
                    Conv::new(shape, &vb.pp("downsample"), "0", "1")
                })
                .transpose()?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = relu(&self.reduce.forward(x)?)?;
        let y = relu(&self.spatial.forward(&y)?)?;
        let y = self.expand.forward(&y)?;
        let y = match &self.shortcut {
            Some(shortcut) => (y + shortcut.forward(x)?)?,
            None => (y + x)?,
        };
        Ok(relu(&y)?)
    }
}

/// The trunk.
#[derive(Debug)]
pub struct Trunk {
    stem: Conv,
    blocks: Vec<Bottleneck>,
}

impl Trunk {
    /// Reads the trunk of `encoder.embed_images`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(config: &Config, vb: VarBuilder) -> Result<Self> {
        let width = config.resnet_width;
        let stem = Shape { input: 3, output: width, kernel: 7, stride: 2 };
        let stem = Conv::new(stem, &vb, "conv1", "bn1")?;
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

    /// Normalised pictures `[batch, 3, side, side]` to features
    /// `[batch, 16 · width, side / 16, side / 16]`.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let x = relu(&self.stem.forward(pixels)?)?;
        // After the ReLU nothing is negative, so padding with zeros pads with the minimum.
        let x = x.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?;
        let mut x = x.max_pool2d_with_stride(3, 2)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        Ok(x)
    }
}
