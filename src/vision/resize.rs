//! Resizing exactly as Pillow does it, byte for byte.
//!
//! Networks were trained on pictures that Pillow had scaled; other resamplers differ from it by
//! several grey levels. The arithmetic (weights normalised in double precision, rounded to 22
//! fractional bits, the horizontal pass first, 8-bit pixels in between) is that of Pillow's
//! `Image.resize(size, resample)` without `box` or `reducing_gap` up to Pillow 11, checked in
//! `tests/golden_vision.rs`. Pillow 12 and 13 make the vertical pass first for very tall pictures
//! and where a picture becomes wider and lower at once; the networks were trained before, so the
//! older order is kept.

use rayon::prelude::*;

/// How pixels are weighted. When shrinking, the filter widens with the scale (antialiasing).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Triangle filter, one pixel to each side (Pillow's `BILINEAR`).
    Bilinear,
    /// Keys' cubic with a = -0.5, two pixels to each side (Pillow's `BICUBIC`).
    Bicubic,
}

/// Fractional bits of a weight: 32 less 8 for the pixel and 2 for sign and overshoot.
const PRECISION_BITS: u32 = 22;
const HALF: i32 = 1 << (PRECISION_BITS - 1);
/// Below this many multiply–adds the threads cost more than they save.
const PARALLEL_FROM: usize = 1 << 20;

impl Filter {
    /// Pixels to each side of the centre that the unscaled filter reaches.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    /// Weight at distance `x` from the centre.
    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// Which input pixels make one output pixel: `weights` (fixed point) from input pixel `first` on.
struct Window {
    first: usize,
    weights: Vec<i32>,
}

/// Scales RGB pixels of size `from` (width, height) to size `to`; returns `3 · to.0 · to.1` bytes,
/// none when a side of `from` or `to` is 0. Large pictures are spread over rayon's threads; the
/// result does not depend on it. Memory: one picture of `to.0` × `from.1` between the passes.
///
/// # Panics
/// When `rgb` does not hold exactly `3 · from.0 · from.1` bytes.
pub fn resize_rgb(rgb: &[u8], from: (u32, u32), to: (u32, u32), filter: Filter) -> Vec<u8> {
    let (width, height) = (from.0 as usize, from.1 as usize);
    let (new_width, new_height) = (to.0 as usize, to.1 as usize);
    assert_eq!(rgb.len(), 3 * width * height, "pixels do not fit {width}×{height}");
    if rgb.is_empty() || new_width == 0 || new_height == 0 {
        return Vec::new();
    }
    let wide =
        (new_width != width).then(|| resize_rows(rgb, width, &windows(width, new_width, filter)));
    let rows = wide.as_deref().unwrap_or(rgb);
    if new_height == height {
        return wide.unwrap_or_else(|| rgb.to_vec());
    }
    resize_columns(rows, 3 * new_width, &windows(height, new_height, filter))
}

/// The windows of all output pixels along one axis.
fn windows(size: usize, new_size: usize, filter: Filter) -> Vec<Window> {
    let scale = size as f64 / new_size as f64;
    let filter_scale = scale.max(1.0);
    let support = filter.support() * filter_scale;
    let inverse = 1.0 / filter_scale;
    let window = |output: usize| {
        let center = (output as f64 + 0.5) * scale;
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(size);
        let exact: Vec<f64> = (first..end)
            .map(|input| filter.weight((input as f64 - center + 0.5) * inverse))
            .collect();
        let sum: f64 = exact.iter().sum();
        let quantise = |weight: &f64| {
            let normalised = if sum == 0.0 { *weight } else { weight / sum };
            // `round` is half away from zero, as Pillow's addition of ±0.5 before the cast.
            (normalised * f64::from(1 << PRECISION_BITS)).round() as i32
        };
        Window { first, weights: exact.iter().map(quantise).collect() }
    };
    (0..new_size).map(window).collect()
}

/// Fixed point back to a pixel.
fn to_pixel(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Scales every row; `width` is in pixels.
fn resize_rows(rgb: &[u8], width: usize, windows: &[Window]) -> Vec<u8> {
    let mut output = vec![0; rgb.len() / width * windows.len()];
    let resize_row = |(target, source): (&mut [u8], &[u8])| {
        for (pixel, window) in target.chunks_exact_mut(3).zip(windows) {
            let mut sums = [HALF; 3];
            let reached = source[3 * window.first..].chunks_exact(3);
            for (weight, input) in window.weights.iter().zip(reached) {
                for (sum, channel) in sums.iter_mut().zip(input) {
                    *sum += weight * i32::from(*channel);
                }
            }
            for (channel, sum) in pixel.iter_mut().zip(sums) {
                *channel = to_pixel(sum);
            }
        }
    };
    let (row, new_row) = (3 * width, 3 * windows.len());
    if is_large(output.len(), windows) {
        output.par_chunks_exact_mut(new_row).zip(rgb.par_chunks_exact(row)).for_each(resize_row);
    } else {
        output.chunks_exact_mut(new_row).zip(rgb.chunks_exact(row)).for_each(resize_row);
    }
    output
}

/// Scales every column; `row` is the length of a row in bytes.
fn resize_columns(rgb: &[u8], row: usize, windows: &[Window]) -> Vec<u8> {
    let mut output = vec![0; row * windows.len()];
    let make_row = |sums: &mut Vec<i32>, (target, window): (&mut [u8], &Window)| {
        sums.clear();
        sums.resize(row, HALF);
        let reached = rgb[row * window.first..].chunks_exact(row);
        for (weight, source) in window.weights.iter().zip(reached) {
            for (sum, channel) in sums.iter_mut().zip(source) {
                *sum += weight * i32::from(*channel);
            }
        }
        for (channel, sum) in target.iter_mut().zip(sums.iter()) {
            *channel = to_pixel(*sum);
        }
    };
    if is_large(output.len(), windows) {
        let pairs = output.par_chunks_exact_mut(row).zip(windows.par_iter());
        pairs.for_each_init(Vec::new, make_row);
    } else {
        let mut sums = Vec::new();
        output.chunks_exact_mut(row).zip(windows).for_each(|pair| make_row(&mut sums, pair));
    }
    output
}

/// Whether a pass that writes `bytes` bytes is worth the threads.
fn is_large(bytes: usize, windows: &[Window]) -> bool {
    let taps = windows.first().map_or(0, |window| window.weights.len());
    bytes.saturating_mul(taps) >= PARALLEL_FROM
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_same_size_changes_nothing() {
        let rgb: Vec<u8> = (0..60).collect();
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            assert_eq!(resize_rgb(&rgb, (5, 4), (5, 4), filter), rgb);
        }
    }

    #[test]
    fn no_pixels_in_or_out() {
        assert!(resize_rgb(&[], (0, 4), (5, 4), Filter::Bilinear).is_empty());
        assert!(resize_rgb(&[1, 2, 3], (1, 1), (0, 4), Filter::Bicubic).is_empty());
    }

    #[test]
    fn weights_of_a_window_add_up_to_one() {
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            for window in windows(1000, 37, filter) {
                let sum: i32 = window.weights.iter().sum();
                let rounding = window.weights.len() as i32;
                assert!((sum - (1 << PRECISION_BITS)).abs() <= rounding);
            }
        }
    }

    #[test]
    fn threads_do_not_matter() {
        let rgb: Vec<u8> = (0..3 * 700 * 500usize).map(|i| (i * 31 + i / 97) as u8).collect();
        let columns = windows(700, 650, Filter::Bicubic);
        assert!(is_large(3 * 650 * 500, &columns));
        let whole = resize_rows(&rgb, 700, &columns);
        let by_row: Vec<u8> =
            rgb.chunks(2100).flat_map(|row| resize_rows(row, 700, &columns)).collect();
        assert!(whole == by_row);
    }

    proptest! {
        /// A picture of one colour keeps it at any size, up to the rounding of the weights.
        #[test]
        fn one_colour_stays(
            from in (1u32..40, 1u32..40),
            to in (1u32..40, 1u32..40),
            colour in any::<[u8; 3]>(),
        ) {
            let rgb = colour.repeat((from.0 * from.1) as usize);
            for filter in [Filter::Bilinear, Filter::Bicubic] {
                let resized = resize_rgb(&rgb, from, to, filter);
                prop_assert_eq!(resized.len(), (3 * to.0 * to.1) as usize);
                for pixel in resized.chunks(3) {
                    for (channel, expected) in pixel.iter().zip(colour) {
                        prop_assert!(channel.abs_diff(expected) <= 1);
                    }
                }
            }
        }
    }
}
