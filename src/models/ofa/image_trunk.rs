//! The image trunk by itself, to measure it apart from the rest of the network.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::config::{Config, ModelConfig};
use super::resnet::Trunk;
use super::weights::Weights;
use crate::models::Result;
use crate::models::ops::activation_type;
use crate::models::pixels::squashed;
use crate::vision::Picture;
use crate::vision::resize::Filter;

/// Side of the pictures where nothing says otherwise, as for entailment.
const SIDE: usize = 480;

/// The image trunk of an OFA, loaded without the rest.
pub struct ImageTrunk {
    trunk: Trunk,
    config: Config,
    image_size: usize,
    device: Device,
    dtype: DType,
}

impl ImageTrunk {
    /// Loads the trunk of the network in `dir`; see [`super`] for the files.
    ///
    /// # Errors
    /// A file is missing, malformed or contradicts another.
    pub fn load(dir: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let weights = Weights::open(dir, dtype, device)?;
        let model = ModelConfig::read(dir, &weights, SIDE)?;
        let config = model.network();
        let weights = weights.builder;
        let dtype = activation_type(&weights);
        let weights = weights.to_dtype(dtype);
        Ok(Self {
            trunk: Trunk::new(&config, weights.pp("encoder.embed_images"))?,
            config,
            image_size: model.image_size,
            device: device.clone(),
            dtype,
        })
    }

    /// Features of pictures, squashed to the network's size, in the trunk's own layout. Where the
    /// device computes by itself, they are there when this returns.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn forward(&self, pictures: &[&Picture]) -> Result<Tensor> {
        let to = (&self.device, self.dtype);
        let pixels = pictures.iter().map(|p| squashed(p, self.image_size, Filter::Bicubic, to));
        let features =
            self.trunk.forward(&Tensor::cat(&pixels.collect::<Result<Vec<_>>>()?, 0)?)?;
        self.device.synchronize()?;
        Ok(features)
    }

    /// Work for one picture, in millions of multiply–adds.
    pub fn cost(&self) -> u64 {
        self.config.trunk_macs(self.image_size).div_ceil(1_000_000)
    }
}
