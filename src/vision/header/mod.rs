//! What a picture file says about itself, read without decoding or allocating anything.
//!
//! The limits are checked on what is found here, so everything that a decoder would allocate for
//! has to be found: not only the picture's own size but also, in WebP, that of each frame.

mod jpeg;
mod webp;

use super::decode::DecodeError;

/// A picture format that can be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PictureFormat {
    /// JPEG, baseline or progressive.
    Jpeg,
    /// PNG; of an animated one, the default image.
    Png,
    /// WebP, lossy or lossless; of an animated one, the first frame.
    WebP,
    /// GIF; the first frame.
    Gif,
}

impl PictureFormat {
    /// All formats.
    pub const ALL: [Self; 4] = [Self::Jpeg, Self::Png, Self::WebP, Self::Gif];

    /// The media type, e.g. `image/jpeg`.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::WebP => "image/webp",
            Self::Gif => "image/gif",
        }
    }

    /// The format that the first bytes of a file tell, whatever its name says.
    pub fn guess(bytes: &[u8]) -> Option<Self> {
        let webp = bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP");
        match bytes {
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            _ if bytes.starts_with(b"\x89PNG\r\n\x1a\n") => Some(Self::Png),
            _ if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") => Some(Self::Gif),
            _ if webp => Some(Self::WebP),
            _ => None,
        }
    }
}

/// What a picture file says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The format, by content.
    pub format: PictureFormat,
    /// Width in pixels as stored, before any orientation is applied.
    pub width: u32,
    /// Height in pixels as stored, before any orientation is applied.
    pub height: u32,
}

impl Header {
    /// Number of pixels: what a decoder will have to make room for.
    pub fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// The part of a file that holds the picture: a WebP file ends where its header says, since
    /// what may follow was not checked.
    pub(super) fn own_bytes<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        match self.format {
            PictureFormat::WebP => webp::riff(bytes).unwrap_or(bytes),
            _ => bytes,
        }
    }

    /// Reads a file's header.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let format = PictureFormat::guess(bytes).ok_or(DecodeError::UnsupportedFormat)?;
        let size = match format {
            PictureFormat::Jpeg => jpeg::size(bytes),
            PictureFormat::Png => png_size(bytes),
            PictureFormat::WebP => webp::size(bytes),
            PictureFormat::Gif => gif_size(bytes),
        };
        let (width, height) = size.map_err(|reason| DecodeError::Undecodable(reason.into()))?;
        if width == 0 || height == 0 {
            return Err(DecodeError::Undecodable("a side is 0".into()));
        }
        Ok(Self { format, width, height })
    }
}

/// Width and height, or why the header is no header.
type Size = Result<(u32, u32), &'static str>;

/// The size from the IHDR chunk, which must come first (PNG, section 5.6).
fn png_size(bytes: &[u8]) -> Size {
    let header = bytes.get(8..24).ok_or("the header is cut off")?;
    match header {
        [0, 0, 0, 13, b'I', b'H', b'D', b'R', a, b, c, d, e, f, g, h] => {
            Ok((u32::from_be_bytes([*a, *b, *c, *d]), u32::from_be_bytes([*e, *f, *g, *h])))
        }
        _ => Err("the first chunk is not IHDR"),
    }
}

/// The size of the logical screen (GIF89a, section 18).
fn gif_size(bytes: &[u8]) -> Size {
    match bytes.get(6..10) {
        Some(&[a, b, c, d]) => {
            Ok((u16::from_le_bytes([a, b]).into(), u16::from_le_bytes([c, d]).into()))
        }
        _ => Err("the header is cut off"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_tell_the_format() {
        for (bytes, format) in [
            (&b"\xff\xd8\xff\xe0"[..], Some(PictureFormat::Jpeg)),
            (b"\x89PNG\r\n\x1a\n", Some(PictureFormat::Png)),
            (b"GIF87a", Some(PictureFormat::Gif)),
            (b"GIF89a", Some(PictureFormat::Gif)),
            (b"RIFF\0\0\0\0WEBP", Some(PictureFormat::WebP)),
            (b"RIFF\0\0\0\0WAVE", None),
            (b"BM", None),
            (b"", None),
        ] {
            assert_eq!(PictureFormat::guess(bytes), format);
        }
    }

    #[test]
    fn sizes_of_png_and_gif() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\x01\0\x02\0\0\0\x03";
        assert_eq!(png_size(png), Ok((65_538, 3)));
        assert!(png_size(&png[..23]).is_err());
        assert_eq!(gif_size(b"GIF89a\x01\x02\x03\x00"), Ok((513, 3)));
        assert!(gif_size(b"GIF89a\x01\x02\x03").is_err());
    }

    proptest! {
        /// No bytes make a header parser panic.
        #[test]
        fn any_bytes_are_read_or_refused(
            format in 0usize..4,
            mut tail in proptest::collection::vec(any::<u8>(), 0..200),
            markers in proptest::collection::vec((0usize..200, 0xc0u8..), 0..20),
        ) {
            for (index, marker) in markers {
                if let Some([ff, code]) = tail.get_mut(index..index + 2) {
                    (*ff, *code) = (0xff, marker);
                }
            }
            let start: [&[u8]; 4] = [
                b"\xff\xd8",
                b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR",
                b"GIF89a",
                b"RIFF\x60\0\0\0WEBPVP8X\x0a\0\0\0",
            ];
            let bytes = [start[format], &tail].concat();
            if let Ok(header) = Header::read(&bytes) {
                prop_assert!(header.pixels() > 0);
            }
        }
    }
}
