//! A decoded picture.

use std::any::Any;
use std::fmt;

use sha2::{Digest, Sha256};

use super::resize::{Filter, resize_rgb};

/// A hash of a picture's size and pixels (SHA-256): the key under which anything computed from the
/// picture alone may be cached. Equal digests mean equal pixels, whatever file they came from.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PictureDigest(pub [u8; 32]);

impl fmt::Debug for PictureDigest {
    /// The first eight bytes in hexadecimal: enough to tell pictures apart in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A decoded, upright RGB picture: orientation applied, alpha flattened. Shared as `Arc<Picture>`.
pub struct Picture {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
    digest: PictureDigest,
    _held: Option<Box<dyn Any + Send + Sync>>,
}

/// Pixels that do not make a picture of the stated size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes are not a picture of {width}×{height} RGB pixels")]
pub struct PictureSizeError {
    /// The stated width.
    pub width: u32,
    /// The stated height.
    pub height: u32,
    /// How many bytes there were.
    pub bytes: usize,
}

impl Picture {
    /// A picture from its upright pixels, row by row, three bytes each (red, green, blue).
    ///
    /// # Errors
    /// When a side is 0 or `rgb` does not hold exactly `3 · width · height` bytes.
    pub fn from_rgb(width: u32, height: u32, rgb: Vec<u8>) -> Result<Self, PictureSizeError> {
        let expected = (u64::from(width) * u64::from(height)).saturating_mul(3);
        if expected == 0 || expected != rgb.len() as u64 {
            return Err(PictureSizeError { width, height, bytes: rgb.len() });
        }
        let mut hash = Sha256::new();
        hash.update(width.to_le_bytes());
        hash.update(height.to_le_bytes());
        hash.update(&rgb);
        let digest = PictureDigest(hash.finalize().into());
        Ok(Self { width, height, rgb, digest, _held: None })
    }

    /// Keeps `held` until the picture is dropped, by whoever is the last to use it: its share of a
    /// budget of memory, say.
    pub fn holding(self, held: impl Any + Send + Sync) -> Self {
        Self { _held: Some(Box::new(held)), ..self }
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The pixels, row by row, three bytes each (red, green, blue); `3 · width · height` bytes.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The hash of size and pixels.
    pub fn digest(&self) -> PictureDigest {
        self.digest
    }

    /// The pixels scaled to `width` × `height` as Pillow scales them (see [`resize_rgb`]).
    pub fn resize(&self, width: u32, height: u32, filter: Filter) -> Vec<u8> {
        resize_rgb(&self.rgb, (self.width, self.height), (width, height), filter)
    }
}

impl fmt::Debug for Picture {
    /// Size and digest, not the pixels: pictures appear in requests that are logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Picture({}×{}, {:?})", self.width, self.height, self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_must_fit_the_bytes() {
        assert!(Picture::from_rgb(2, 1, vec![0; 6]).is_ok());
        for (width, height, bytes) in [(2, 1, 5), (0, 1, 0), (1, 0, 0), (u32::MAX, u32::MAX, 3)] {
            let error = Picture::from_rgb(width, height, vec![0; bytes]).unwrap_err();
            assert_eq!(error, PictureSizeError { width, height, bytes });
        }
    }

    #[test]
    fn the_digest_tells_size_and_pixels() {
        let digest = |w, h, rgb: &[u8]| Picture::from_rgb(w, h, rgb.to_vec()).unwrap().digest();
        let wide = digest(2, 1, &[1, 2, 3, 4, 5, 6]);
        assert_eq!(wide, digest(2, 1, &[1, 2, 3, 4, 5, 6]));
        assert_ne!(wide, digest(1, 2, &[1, 2, 3, 4, 5, 6]));
        assert_ne!(wide, digest(2, 1, &[1, 2, 3, 4, 5, 7]));
    }
}
