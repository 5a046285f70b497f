//! Pictures as some networks see them.

use candle_core::{DType, Device, Tensor};

use super::Result;
use crate::vision::Picture;
use crate::vision::resize::Filter;

/// A picture squashed to a square of `side` pixels, from 0..255 to −1..1: `[1, side, side, 3]`.
///
/// # Errors
/// A tensor operation failed.
pub(super) fn squashed(
    picture: &Picture,
    side: usize,
    filter: Filter,
    (device, dtype): (&Device, DType),
) -> Result<Tensor> {
    let rgb = picture.resize(side as u32, side as u32, filter);
    let shape = [1, side, side, 3];
    let scaled = if device.is_cpu() { scaled(rgb, shape)? } else { scaled_on(device, rgb, shape)? };
    Ok(scaled.to_dtype(dtype)?)
}

/// Bytes from −1 to 1, on the CPU in one pass.
fn scaled(rgb: Vec<u8>, shape: [usize; 4]) -> Result<Tensor> {
    let scaled: Vec<f32> = rgb.into_iter().map(|byte| f32::from(byte) / 127.5 - 1.0).collect();
    Ok(Tensor::from_vec(scaled, &shape, &Device::Cpu)?)
}

/// [`scaled`], but the bytes travel as bytes and any device does the rest.
fn scaled_on(device: &Device, rgb: Vec<u8>, shape: [usize; 4]) -> Result<Tensor> {
    Ok(uploaded(rgb, &shape, device)?.affine(1.0 / 127.5, -1.0)?)
}

/// Bytes as `f32` on the device; a quarter of that is what travels there.
///
/// # Errors
/// There are not as many as `shape` says, or a tensor operation failed.
pub(super) fn uploaded(
    bytes: Vec<u8>,
    shape: &[usize],
    device: &Device,
) -> candle_core::Result<Tensor> {
    Tensor::from_vec(bytes, shape, device)?.to_dtype(DType::F32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_reach_from_minus_one_to_one() {
        let rgb = [0, 51, 255, 255, 0, 51].repeat(2);
        let picture = Picture::from_rgb(2, 2, rgb).unwrap();
        let pixels = squashed(&picture, 2, Filter::Bicubic, (&Device::Cpu, DType::F32)).unwrap();
        assert_eq!(pixels.dims(), [1, 2, 2, 3]);
        let values = pixels.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expected = [-1.0, -0.6, 1.0, 1.0, -1.0, -0.6].repeat(2);
        assert!(values.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{values:?}");
    }

    #[test]
    fn it_makes_no_difference_where_bytes_are_scaled() {
        let rgb: Vec<u8> = (0..=255).cycle().take(3 * 16 * 16).collect();
        let shape = [1, 16, 16, 3];
        let on_device = scaled_on(&Device::Cpu, rgb.clone(), shape).unwrap();
        let gap = (on_device - scaled(rgb, shape).unwrap()).unwrap().abs().unwrap();
        // A factor instead of a quotient: one unit in the last place.
        assert!(gap.max_all().unwrap().to_scalar::<f32>().unwrap() <= 1.2e-7);
    }
}
