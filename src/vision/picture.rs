//! A decoded picture.

/// A hash of a picture's size and pixels (SHA-256): the key under which anything computed from the
/// picture alone may be cached. Equal digests mean equal pixels, whatever file they came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PictureDigest(pub [u8; 32]);

/// A decoded, upright RGB picture: orientation applied, alpha flattened. Shared as `Arc<Picture>`.
#[derive(Debug)]
pub struct Picture {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
    digest: PictureDigest,
}

impl Picture {
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
}
