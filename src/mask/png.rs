//! Masks as 1-bit PNG files.

use png::{BitDepth, ColorType, Encoder, EncodingError};

use super::rle::Rle;

impl Rle {
    /// The mask as a PNG file of 1-bit grey: white inside, black outside. Memory beside the file:
    /// one bit per pixel.
    ///
    /// # Errors
    /// When the encoder fails, e.g. at a side of more than 2³¹ - 1 pixels.
    pub fn to_png(&self) -> Result<Vec<u8>, EncodingError> {
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, self.width(), self.height());
        encoder.set_color(ColorType::Grayscale);
        encoder.set_depth(BitDepth::One);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.to_packed_rows())?;
        writer.finish()?;
        Ok(file)
    }

    /// The rows, eight pixels to a byte from the highest bit, each row padded to whole bytes.
    fn to_packed_rows(&self) -> Vec<u8> {
        let stride = (self.width() as usize).div_ceil(8);
        let mut rows = vec![0; stride * self.height() as usize];
        for strip in self.strips() {
            let bit = 0x80 >> (strip.x % 8);
            let start = strip.top as usize * stride + (strip.x / 8) as usize;
            let bytes = rows[start..].iter_mut().step_by(stride);
            bytes.take((strip.bottom - strip.top) as usize).for_each(|byte| *byte |= bit);
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_file_holds_the_mask(
            (width, height, bitmap) in (1u32..30, 1u32..12).prop_flat_map(|(width, height)| {
                let pixels = proptest::collection::vec(0u8..2, (width * height) as usize);
                (Just(width), Just(height), pixels)
            })
        ) {
            let file = Rle::from_bitmap(&bitmap, width, height).unwrap().to_png().unwrap();
            // Bytes 24 and 25 of a PNG file: bit depth 1, colour type 0 (grey).
            prop_assert_eq!(&file[24..26], &[1, 0]);
            let read = image::load_from_memory(&file).unwrap().into_luma8();
            prop_assert_eq!(read.dimensions(), (width, height));
            let expected: Vec<u8> = bitmap.iter().map(|pixel| pixel * 255).collect();
            prop_assert_eq!(read.into_raw(), expected);
        }
    }
}
