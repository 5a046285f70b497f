//! From a picture to what the image encoder reads: the long side scaled to the frame as Pillow
//! scales it, normalised, padded with zeros on the right and bottom, cut into patches.

use candle_core::{Device, Result, Tensor};

use super::config::Config;
use crate::mask::MaskFrame;
use crate::vision::Picture;
use crate::vision::resize::Filter;

const MEAN: [f32; 3] = [123.675, 116.28, 103.53];
const STD: [f32; 3] = [58.395, 57.12, 57.375];

/// Where a picture of `width` × `height` comes to lie in the frame. A side that the reference
/// would round to 0 pixels gets 1.
pub(super) fn frame(config: &Config, width: u32, height: u32) -> MaskFrame {
    let scale = config.image_size as f64 / f64::from(width.max(height));
    let scaled = |side: u32| ((f64::from(side) * scale + 0.5) as u32).max(1);
    MaskFrame {
        frame: config.image_size as u32,
        resized: (scaled(width), scaled(height)),
        original: (width, height),
    }
}

/// Pictures as patches `[pictures, grid², 3 · patch²]`: each patch channel by channel, row by row,
/// as the weight of the patch embedding lies in memory.
pub(super) fn patches(config: &Config, pictures: &[&Picture], device: &Device) -> Result<Tensor> {
    let (grid, patch) = (config.grid(), config.patch_size);
    let length = 3 * patch * patch;
    let mut values = vec![0f32; pictures.len() * grid * grid * length];
    for (picture, values) in pictures.iter().zip(values.chunks_exact_mut(grid * grid * length)) {
        let (width, height) = frame(config, picture.width(), picture.height()).resized;
        let rgb = picture.resize(width, height, Filter::Bilinear);
        for (y, row) in rgb.chunks_exact(3 * width as usize).enumerate() {
            for (x, pixel) in row.chunks_exact(3).enumerate() {
                let first = (y / patch * grid + x / patch) * length;
                let place = first + y % patch * patch + x % patch;
                for (channel, &value) in pixel.iter().enumerate() {
                    let normalised = (f32::from(value) - MEAN[channel]) / STD[channel];
                    values[place + channel * patch * patch] = normalised;
                }
            }
        }
    }
    Tensor::from_vec(values, (pictures.len(), grid * grid, length), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config { image_size: 8, patch_size: 4, ..Config::vit_b() }
    }

    #[test]
    fn the_long_side_fills_the_frame() {
        let resized = |w, h| frame(&Config::vit_b(), w, h).resized;
        assert_eq!(resized(640, 480), (1024, 768));
        assert_eq!(resized(333, 500), (682, 1024));
        assert_eq!(resized(1, 1), (1024, 1024));
        assert_eq!(resized(12_000, 9), (1024, 1));
        assert_eq!(resized(12_000, 3), (1024, 1));
    }

    #[test]
    fn a_pixel_lands_in_its_patch_and_padding_is_zero() {
        let mut rgb = vec![0u8; 3 * 8 * 4];
        rgb[3 * (8 + 5) + 1] = 255; // green at x 5, y 1
        let picture = Picture::from_rgb(8, 4, rgb).unwrap();
        let patches = patches(&config(), &[&picture], &Device::Cpu).unwrap();
        assert_eq!(patches.dims(), [1, 4, 48]);
        let patches = patches.squeeze(0).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(patches[1][16 + 4 + 1], (255.0 - MEAN[1]) / STD[1]);
        assert_eq!(patches[0][0], -MEAN[0] / STD[0]);
        assert!(patches[2].iter().chain(&patches[3]).all(|&value| value == 0.0));
    }
}
