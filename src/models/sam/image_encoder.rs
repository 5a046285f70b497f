//! From pictures to what the mask decoder reads, by any kind of image encoder.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use super::config::{Config, ImageEncoderConfig};
use super::preprocess;
use super::tiny_vit::TinyVit;
use super::vit::Vit;
use crate::models::Result;
use crate::models::ops::{Activation, Conv2d, activation_type};
use crate::models::pyramid::{Pyramid, pointwise};
use crate::vision::Picture;

/// What is known of a batch of pictures.
pub(super) struct Encoded {
    /// `[pictures, grid², out_chans]`.
    pub(super) cells: Tensor,
    /// What the mask decoder adds to its first and second upscaled cells, in their order (see
    /// [`super::mask_decoder`]): `[pictures, 4 · grid², out_chans / 4]` and
    /// `[pictures, 16 · grid², out_chans / 8]`; or nothing.
    pub(super) fine: Vec<Tensor>,
}

/// Any kind of image encoder.
#[derive(Debug)]
pub(super) enum ImageEncoder {
    Vit { vit: Vit, patch: usize },
    TinyVit(Box<TinyVit>),
    Convolutional(Box<Convolutional>),
}

impl ImageEncoder {
    pub(super) fn load(config: &Config, vb: VarBuilder) -> Result<Self> {
        Ok(match &config.image_encoder {
            ImageEncoderConfig::Vit(vit) => Self::Vit {
                vit: Vit::load(vit, config.grid(), config.out_chans, vb)?,
                patch: vit.patch_size,
            },
            ImageEncoderConfig::TinyVit(encoder) => {
                Self::TinyVit(Box::new(TinyVit::load(encoder, config.out_chans, vb)?))
            }
            ImageEncoderConfig::Convolutional(trunk) => {
                let vb = vb.to_dtype(activation_type(&vb));
                let [c4, ..] = trunk.taps()?;
                let ([middle, fine], out) = (trunk.pyramid, config.out_chans);
                let project = |sizes, name| pointwise(sizes, Activation::None, vb.pp(name));
                Self::Convolutional(Box::new(Convolutional {
                    embed: project((middle, out), "embed")?,
                    at_8: project((fine, out / 4), "at_8")?,
                    at_4: project((c4, out / 8), "at_4")?,
                    pyramid: Pyramid::new(trunk, vb)?,
                }))
            }
        })
    }

    /// Encodes pictures, scaled to `size` pixels.
    pub(super) fn forward(
        &self,
        pictures: &[&Picture],
        size: usize,
        (device, dtype): (&Device, DType),
    ) -> Result<Encoded> {
        match self {
            Self::Vit { vit, patch } => {
                let patches = preprocess::patches(size, *patch, pictures, device)?;
                let cells = vit.forward(&patches.to_dtype(dtype)?)?.flatten(1, 2)?;
                Ok(Encoded { cells, fine: Vec::new() })
            }
            Self::TinyVit(network) => {
                let pixels = preprocess::pixels(size, pictures, device)?;
                let cells = network.forward(&pixels.to_dtype(dtype)?)?.flatten(1, 2)?;
                Ok(Encoded { cells, fine: Vec::new() })
            }
            Self::Convolutional(network) => {
                let pixels = preprocess::pixels(size, pictures, device)?;
                network.forward(&pixels.to_dtype(dtype)?)
            }
        }
    }
}

/// A trunk of convolutions with its pyramid: the embedding comes from stride 16, what is added
/// later from strides 8 and 4.
#[derive(Debug)]
pub(super) struct Convolutional {
    pyramid: Pyramid,
    embed: Conv2d,
    at_8: Conv2d,
    at_4: Conv2d,
}

impl Convolutional {
    fn forward(&self, pixels: &Tensor) -> Result<Encoded> {
        let maps = self.pyramid.forward(pixels)?;
        let cells = self.embed.forward(&maps.middle)?.flatten(1, 2)?;
        let at_8 = by_cell(&self.at_8.forward(&maps.fine)?, 1)?;
        let at_4 = by_cell(&self.at_4.forward(&maps.quarter)?, 2)?;
        Ok(Encoded { cells, fine: vec![at_8, at_4] })
    }
}

/// A map `[b, 2ⁿ · grid, 2ⁿ · grid, c]` for `n` halvings as `[b, 4ⁿ · grid², c]`: cell by cell, in
/// each by quarter, in each by quarter of it, as the mask decoder upscales.
fn by_cell(map: &Tensor, halvings: usize) -> Result<Tensor> {
    let (batch, height, width, channels) = map.dims4()?;
    let mut shape = vec![batch];
    for side in [height, width] {
        shape.push(side >> halvings);
        shape.extend(std::iter::repeat_n(2, halvings));
    }
    shape.push(channels);
    // From batch, (row, its halves), (column, its halves), channel to rows beside their columns.
    let mut order = vec![0];
    order.extend((0..=halvings).flat_map(|level| [1 + level, 2 + halvings + level]));
    order.push(3 + 2 * halvings);
    Ok(map.reshape(shape)?.permute(order)?.reshape((batch, height * width, channels))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_by_cell() {
        let map = Tensor::arange(0u32, 64, &Device::Cpu).unwrap().reshape((1, 8, 8, 1)).unwrap();
        let values = |halvings| {
            by_cell(&map, halvings).unwrap().flatten_all().unwrap().to_vec1::<u32>().unwrap()
        };
        assert_eq!(values(0), (0..64).collect::<Vec<_>>());
        assert_eq!(values(1)[..8], [0, 1, 8, 9, 2, 3, 10, 11]);
        assert_eq!(values(2)[..8], [0, 1, 8, 9, 2, 3, 10, 11]);
        assert_eq!(values(2)[8..18], [16, 17, 24, 25, 18, 19, 26, 27, 4, 5]);
    }
}
