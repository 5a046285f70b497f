//! From a file's bytes to an upright RGB picture, within limits.
//!
//! What a decoder is given has passed the limits by its header ([`probe`]), so no file makes it
//! allocate for more pixels than allowed. The rules that a file's pixels follow:
//! - the first frame of an animation; a GIF's or WebP's frame lies on its transparent canvas;
//! - palettes and grey become RGB, 16 bits become 8, CMYK as the JPEG decoder converts it; colour
//!   profiles are ignored;
//! - transparent pixels are blended onto white;
//! - the orientation in Exif data is applied; damaged Exif data is ignored;
//! - a file that ends too early is refused, even where a decoder could show a part of it.

use std::io::Cursor;
use std::panic::catch_unwind;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, metadata::Orientation};

pub use super::header::{Header, PictureFormat};
use super::{Picture, PictureSizeError};

/// How large a picture may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Bytes of the file.
    pub max_bytes: usize,
    /// Pixels of the longer side.
    pub max_side: u32,
    /// Pixels of the whole picture.
    pub max_pixels: u64,
}

/// Why a file gives no picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The file has too many bytes.
    #[error("{bytes} bytes are more than {limit}")]
    TooManyBytes {
        /// Bytes of the file.
        bytes: usize,
        /// [`DecodeLimits::max_bytes`].
        limit: usize,
    },
    /// A side is too long.
    #[error("a side of {width}×{height} is longer than {limit}")]
    SideTooLong {
        /// Width as stored.
        width: u32,
        /// Height as stored.
        height: u32,
        /// [`DecodeLimits::max_side`].
        limit: u32,
    },
    /// The picture has too many pixels.
    #[error("{width}×{height} pixels are more than {limit}")]
    TooManyPixels {
        /// Width as stored.
        width: u32,
        /// Height as stored.
        height: u32,
        /// [`DecodeLimits::max_pixels`].
        limit: u64,
    },
    /// The bytes are not those of a [`PictureFormat`].
    #[error("not a JPEG, PNG, WebP or GIF file")]
    UnsupportedFormat,
    /// The file is damaged, cut off, or uses something that the decoder lacks. The text is for
    /// logs.
    #[error("undecodable: {0}")]
    Undecodable(String),
}

impl From<PictureSizeError> for DecodeError {
    fn from(error: PictureSizeError) -> Self {
        Self::Undecodable(error.to_string())
    }
}

/// Reads a file's header and checks it against the limits; nothing is decoded or allocated.
///
/// # Errors
/// Any [`DecodeError`].
pub fn probe(bytes: &[u8], limits: &DecodeLimits) -> Result<Header, DecodeError> {
    if bytes.len() > limits.max_bytes {
        return Err(DecodeError::TooManyBytes { bytes: bytes.len(), limit: limits.max_bytes });
    }
    let header = Header::read(bytes)?;
    let (width, height) = (header.width, header.height);
    if width.max(height) > limits.max_side {
        return Err(DecodeError::SideTooLong { width, height, limit: limits.max_side });
    }
    if header.pixels() > limits.max_pixels {
        return Err(DecodeError::TooManyPixels { width, height, limit: limits.max_pixels });
    }
    Ok(header)
}

/// Decodes a file into an upright RGB picture. Takes time: not for a thread that must answer.
/// A decoder's panic is an error, too.
///
/// # Errors
/// Any [`DecodeError`].
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Picture, DecodeError> {
    let header = probe(bytes, limits)?;
    // The closure only reads, so nothing half-changed can be seen after a panic.
    let decoded = catch_unwind(|| decode_pixels(bytes, &header));
    let upright = decoded
        .map_err(|_| DecodeError::Undecodable("the decoder panicked".into()))?
        .map_err(|error| DecodeError::Undecodable(error.to_string()))?;
    let (width, height) = (upright.width(), upright.height());
    Ok(Picture::from_rgb(width, height, upright.into_rgb8().into_raw())?)
}

/// Decodes, flattens and turns a picture whose header was checked.
fn decode_pixels(bytes: &[u8], header: &Header) -> image::ImageResult<DynamicImage> {
    let format = match header.format {
        PictureFormat::Jpeg => ImageFormat::Jpeg,
        PictureFormat::Png => ImageFormat::Png,
        PictureFormat::WebP => ImageFormat::WebP,
        PictureFormat::Gif => ImageFormat::Gif,
    };
    let mut reader = ImageReader::with_format(Cursor::new(header.own_bytes(bytes)), format);
    reader.limits(decoder_limits(bytes.len(), header));
    let mut decoder = reader.into_decoder()?;
    let orientation = orientation(&mut decoder);
    if decoder.dimensions() != (header.width, header.height) {
        let kind = image::error::LimitErrorKind::DimensionError;
        return Err(image::ImageError::Limits(image::error::LimitError::from_kind(kind)));
    }
    let mut upright = flatten(DynamicImage::from_decoder(decoder)?);
    upright.apply_orientation(orientation);
    Ok(upright)
}

/// The orientation in a file's Exif data. JPEG keeps that behind a mark of six bytes, and some
/// programs write the mark into PNG and WebP files, too, where it does not belong.
fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    const JPEGS_MARK: &[u8] = b"Exif\0\0";
    let exif = decoder.exif_metadata().ok().flatten();
    let tiff = exif.as_deref().map(|exif| exif.strip_prefix(JPEGS_MARK).unwrap_or(exif));
    tiff.and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms)
}

/// Bounds on what a decoder allocates beside the picture itself: metadata, which cannot be longer
/// than the file but is counted several times over while its buffer grows, and frames, which may be as large as the picture with 16 bits per channel.
fn decoder_limits(bytes: usize, header: &Header) -> Limits {
    const BYTES_PER_PIXEL: u64 = 8;
    const COPIES_OF_METADATA: u64 = 4;
    const HOUSEKEEPING: u64 = 1 << 20;
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(header.width);
    limits.max_image_height = Some(header.height);
    let metadata = COPIES_OF_METADATA * bytes as u64;
    limits.max_alloc = Some(header.pixels() * BYTES_PER_PIXEL + metadata + HOUSEKEEPING);
    limits
}

/// The picture as 8-bit RGB on white.
fn flatten(decoded: DynamicImage) -> DynamicImage {
    if !decoded.color().has_alpha() {
        return DynamicImage::ImageRgb8(decoded.into_rgb8());
    }
    let rgba = decoded.into_rgba8();
    let (width, height) = rgba.dimensions();
    let blend = |channel: u8, alpha: u8| {
        let sum = u32::from(channel) * u32::from(alpha) + 255 * u32::from(255 - alpha);
        ((sum + 127) / 255) as u8
    };
    let rgb = image::RgbImage::from_fn(width, height, |x, y| {
        let [red, green, blue, alpha] = rgba.get_pixel(x, y).0;
        image::Rgb([blend(red, alpha), blend(green, alpha), blend(blue, alpha)])
    });
    DynamicImage::ImageRgb8(rgb)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: DecodeLimits = DecodeLimits { max_bytes: 4000, max_side: 100, max_pixels: 2000 };

    fn encoded(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
        let picture = image::RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([x as u8, y as u8, (x * y) as u8])
        });
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn limits_hold_exactly() {
        let file = |width, height| encoded(width, height, ImageFormat::Png);
        assert!(decode(&file(100, 20), &LIMITS).is_ok());
        assert_eq!(
            decode(&file(101, 2), &LIMITS).unwrap_err(),
            DecodeError::SideTooLong { width: 101, height: 2, limit: 100 }
        );
        assert_eq!(
            decode(&file(87, 23), &LIMITS).unwrap_err(),
            DecodeError::TooManyPixels { width: 87, height: 23, limit: 2000 }
        );
        let bytes = file(40, 40);
        let fits = DecodeLimits { max_bytes: bytes.len(), ..LIMITS };
        assert!(probe(&bytes, &fits).is_ok());
        let limit = bytes.len() - 1;
        assert_eq!(
            probe(&bytes, &DecodeLimits { max_bytes: limit, ..LIMITS }),
            Err(DecodeError::TooManyBytes { bytes: bytes.len(), limit })
        );
    }

    #[test]
    fn other_formats_are_unsupported() {
        for bytes in [&b""[..], b"text", b"<svg/>", b"BM\0\0\0\0\0\0\0\0", b"II*\0\0\0\0\0"] {
            assert_eq!(decode(bytes, &LIMITS).unwrap_err(), DecodeError::UnsupportedFormat);
        }
    }

    #[test]
    fn any_shape_within_the_limits() {
        let limits = DecodeLimits { max_bytes: 1 << 20, max_side: 12_000, max_pixels: 1 << 20 };
        for (width, height) in [(1, 1), (12_000, 9), (9, 12_000)] {
            for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP]
            {
                let picture = decode(&encoded(width, height, format), &limits).unwrap();
                assert_eq!((picture.width(), picture.height()), (width, height), "{format:?}");
            }
        }
    }

    /// A small file that claims a huge picture is refused by its header.
    #[test]
    fn bombs_are_refused_unopened() {
        let limits = DecodeLimits { max_side: u32::MAX, ..LIMITS };
        let mut png = encoded(4, 4, ImageFormat::Png);
        png[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
        let mut gif = encoded(4, 4, ImageFormat::Gif);
        gif[6..10].copy_from_slice(&[0xff; 4]);
        for bytes in [png, gif] {
            assert_eq!(
                decode(&bytes, &limits).unwrap_err(),
                DecodeError::TooManyPixels { width: 65_535, height: 65_535, limit: 2000 }
            );
        }
    }

    /// A whole frame of this side on a canvas of 4 × 4.
    fn frame_on_a_small_canvas(side: u32) -> Vec<u8> {
        let mut gif = Cursor::new(Vec::new());
        image::RgbImage::new(side, side).write_to(&mut gif, ImageFormat::Gif).unwrap();
        let mut gif = gif.into_inner();
        gif[6..10].copy_from_slice(&[4, 0, 4, 0]);
        gif
    }

    /// A frame may lie on a small canvas and be huge itself. Nothing is wrong with either file but
    /// the room that the frame takes.
    #[test]
    fn a_gif_frame_far_beyond_the_canvas_is_refused() {
        let limits = DecodeLimits { max_bytes: 1 << 20, ..LIMITS };
        let small = decode(&frame_on_a_small_canvas(8), &limits).unwrap();
        assert_eq!((small.width(), small.height()), (4, 4));
        let huge = decode(&frame_on_a_small_canvas(3000), &limits);
        assert!(matches!(huge, Err(DecodeError::Undecodable(_))), "{huge:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Files cut off or damaged anywhere give a picture of the size that passed the limits, or
        /// an error; no decoder panics.
        #[test]
        fn damaged_files_are_as_large_as_their_headers_say_or_refused(
            format in 0usize..4,
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            length in any::<prop::sample::Index>(),
        ) {
            let formats =
                [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif];
            let mut bytes = encoded(24, 17, formats[format]);
            bytes.truncate(length.index(bytes.len()) + 1);
            for (index, value) in damage {
                let index = index.index(bytes.len());
                bytes[index] = value;
            }
            match (probe(&bytes, &LIMITS), decode(&bytes, &LIMITS)) {
                (Ok(header), Ok(picture)) => {
                    let (width, height) = (picture.width(), picture.height());
                    let stored = (header.width, header.height);
                    prop_assert!(stored == (width, height) || stored == (height, width));
                }
                (Ok(_), Err(error)) => prop_assert!(!error.to_string().contains("panicked")),
                (Err(header), decoded) => prop_assert_eq!(decoded.unwrap_err(), header),
            }
        }
    }

    /// Editors write megabytes of XMP.
    #[test]
    fn a_long_text_chunk_is_no_damage() {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, 256, 256);
        encoder.set_color(png::ColorType::Rgb);
        encoder.add_itxt_chunk("XML:com.adobe.xmp".to_owned(), "x".repeat(6 << 20)).unwrap();
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&vec![7; 3 * 256 * 256]).unwrap();
        writer.finish().unwrap();
        let limits = DecodeLimits { max_bytes: 20 << 20, max_side: 1000, max_pixels: 1_000_000 };
        assert_eq!(decode(&file, &limits).unwrap().width(), 256);
    }
}
