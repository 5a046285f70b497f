//! From a picture to what the image encoder reads: the long side scaled to the frame as Pillow
//! scales it, normalised, padded with zeros on the right and bottom, as a map or cut into patches.

use candle_core::{Device, Result, Tensor};

use crate::mask::MaskFrame;
use crate::models::pixels::uploaded;
use crate::vision::Picture;
use crate::vision::resize::Filter;

const MEAN: [f32; 3] = [123.675, 116.28, 103.53];
const STD: [f32; 3] = [58.395, 57.12, 57.375];

/// Where a picture of `width` × `height` comes to lie in the frame. A side that the reference
/// would round to 0 pixels gets 1.
pub(super) fn frame(size: usize, width: u32, height: u32) -> MaskFrame {
    let scale = size as f64 / f64::from(width.max(height));
    let scaled = |side: u32| ((f64::from(side) * scale + 0.5) as u32).max(1);
    MaskFrame {
        frame: size as u32,
        resized: (scaled(width), scaled(height)),
        original: (width, height),
    }
}

/// Pictures as patches `[pictures, (size / patch)², 3 · patch²]`: each patch channel by channel,
/// row by row, as the weight of the patch embedding lies in memory.
pub(super) fn patches(
    size: usize,
    patch: usize,
    pictures: &[&Picture],
    device: &Device,
) -> Result<Tensor> {
    if !device.is_cpu() {
        return cut(&normalised_on(device, size, pictures)?, patch);
    }
    let (grid, length) = (size / patch, 3 * patch * patch);
    let values = normalised(size, pictures, |x, y, channel| {
        let first = (y / patch * grid + x / patch) * length;
        first + (channel * patch + y % patch) * patch + x % patch
    });
    Tensor::from_vec(values, (pictures.len(), grid * grid, length), device)
}

/// Pictures as maps `[pictures, size, size, 3]`.
pub(super) fn pixels(size: usize, pictures: &[&Picture], device: &Device) -> Result<Tensor> {
    if !device.is_cpu() {
        return normalised_on(device, size, pictures);
    }
    let values = normalised(size, pictures, |x, y, channel| (y * size + x) * 3 + channel);
    Tensor::from_vec(values, (pictures.len(), size, size, 3), device)
}

/// The values of all pictures; `place` says where in its picture's part column, row and channel lie.
fn normalised(
    size: usize,
    pictures: &[&Picture],
    place: impl Fn(usize, usize, usize) -> usize,
) -> Vec<f32> {
    let mut values = vec![0f32; pictures.len() * 3 * size * size];
    for (picture, values) in pictures.iter().zip(values.chunks_exact_mut(3 * size * size)) {
        let (width, height) = frame(size, picture.width(), picture.height()).resized;
        let rgb = picture.resize(width, height, Filter::Bilinear);
        for (y, row) in rgb.chunks_exact(3 * width as usize).enumerate() {
            for (x, pixel) in row.chunks_exact(3).enumerate() {
                for (channel, &value) in pixel.iter().enumerate() {
                    let normalised = (f32::from(value) - MEAN[channel]) / STD[channel];
                    values[place(x, y, channel)] = normalised;
                }
            }
        }
    }
    values
}

/// Maps `[pictures, size, size, 3]` whose bytes travel as bytes; any device does the rest.
fn normalised_on(device: &Device, size: usize, pictures: &[&Picture]) -> Result<Tensor> {
    let (mean, std) = (Tensor::new(&MEAN, device)?, Tensor::new(&STD, device)?);
    let map = |picture: &&Picture| {
        let (width, height) = frame(size, picture.width(), picture.height()).resized;
        let rgb = picture.resize(width, height, Filter::Bilinear);
        let (width, height) = (width as usize, height as usize);
        let map = uploaded(rgb, &[height, width, 3], device)?;
        let map = map.broadcast_sub(&mean)?.broadcast_div(&std)?;
        map.pad_with_zeros(0, 0, size - height)?.pad_with_zeros(1, 0, size - width)
    };
    Tensor::stack(&pictures.iter().map(map).collect::<Result<Vec<_>>>()?, 0)
}

/// Maps cut into [`patches`].
fn cut(maps: &Tensor, patch: usize) -> Result<Tensor> {
    let (count, size, _, channels) = maps.dims4()?;
    let grid = size / patch;
    let cells = maps.reshape(&[count, grid, patch, grid, patch, channels])?;
    cells.permute([0, 1, 3, 5, 2, 4])?.reshape((count, grid * grid, channels * patch * patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_side_fills_the_frame() {
        let resized = |w, h| frame(1024, w, h).resized;
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
        let patches = patches(8, 4, &[&picture], &Device::Cpu).unwrap();
        assert_eq!(patches.dims(), [1, 4, 48]);
        let patches = patches.squeeze(0).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(patches[1][16 + 4 + 1], (255.0 - MEAN[1]) / STD[1]);
        assert_eq!(patches[0][0], -MEAN[0] / STD[0]);
        assert!(patches[2].iter().chain(&patches[3]).all(|&value| value == 0.0));
        let pixels = pixels(8, &[&picture], &Device::Cpu).unwrap().squeeze(0).unwrap();
        let pixels = pixels.to_vec3::<f32>().unwrap();
        assert_eq!(pixels[1][5][1], (255.0 - MEAN[1]) / STD[1]);
        assert!(pixels[4..].iter().flatten().flatten().all(|&value| value == 0.0));
    }

    /// The very same operations on single numbers, so not even a last digit may differ.
    #[test]
    fn it_makes_no_difference_where_bytes_are_normalised() {
        let picture = |width: u32, height: u32| {
            let rgb = (0..3 * width * height).map(|i| (i * 37 % 256) as u8).collect();
            Picture::from_rgb(width, height, rgb).unwrap()
        };
        let (wide, high) = (picture(20, 11), picture(9, 31));
        let pictures = [&wide, &high];
        let maps = normalised_on(&Device::Cpu, 16, &pictures).unwrap();
        let cut = cut(&maps, 4).unwrap();
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (patches, pixels) = (
            patches(16, 4, &pictures, &Device::Cpu).unwrap(),
            pixels(16, &pictures, &Device::Cpu).unwrap(),
        );
        assert_eq!((maps.dims(), cut.dims()), (pixels.dims(), patches.dims()));
        assert_eq!(values(&maps), values(&pixels));
        assert_eq!(values(&cut), values(&patches));
    }
}
