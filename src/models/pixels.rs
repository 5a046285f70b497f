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
    let scaled: Vec<f32> = rgb.into_iter().map(|byte| f32::from(byte) / 127.5 - 1.0).collect();
    Ok(Tensor::from_vec(scaled, (1, side, side, 3), device)?.to_dtype(dtype)?)
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
}
