//! The chunks of a WebP file (RFC 9649).

use super::Size;

/// The size of the canvas. Every chunk must lie within the file, and every frame, of which a
/// decoder makes room for the size that its own bitstream states, within the canvas.
pub(super) fn size(bytes: &[u8]) -> Size {
    let mut chunks = Chunks { rest: riff(bytes)?.get(12..).ok_or(CUT_OFF)? };
    let (kind, first) = chunks.next().ok_or(CUT_OFF)??;
    let canvas = match &kind {
        b"VP8X" => canvas(first)?,
        b"VP8 " | b"VP8L" => bitstream(&kind, first)?,
        _ => return Err("the first chunk is not one of an image"),
    };
    for chunk in chunks {
        let (kind, data) = chunk?;
        match &kind {
            b"ANMF" => {
                for chunk in (Chunks { rest: data.get(16..).ok_or(CUT_OFF)? }) {
                    let (kind, data) = chunk?;
                    check_frame(&kind, data, canvas)?;
                }
            }
            _ => check_frame(&kind, data, canvas)?,
        }
    }
    Ok(canvas)
}

/// The part of a file that its RIFF header claims; what follows it is not WebP.
pub(super) fn riff(bytes: &[u8]) -> Result<&[u8], &'static str> {
    match bytes {
        [_, _, _, _, a, b, c, d, ..] => {
            let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
            bytes.get(..8 + length).ok_or(CUT_OFF)
        }
        _ => Err(CUT_OFF),
    }
}

const CUT_OFF: &str = "a chunk is cut off";

/// An error when the chunk is a bitstream larger than the canvas.
fn check_frame(kind: &[u8; 4], data: &[u8], canvas: (u32, u32)) -> Result<(), &'static str> {
    if !matches!(kind, b"VP8 " | b"VP8L") {
        return Ok(());
    }
    let (width, height) = bitstream(kind, data)?;
    if width > canvas.0 || height > canvas.1 {
        return Err("a frame is larger than the canvas");
    }
    Ok(())
}

/// The canvas of an extended file: two 24-bit numbers, less one each.
fn canvas(data: &[u8]) -> Size {
    match data.get(4..10) {
        Some(&[a, b, c, d, e, f]) => {
            Ok((u32::from_le_bytes([a, b, c, 0]) + 1, u32::from_le_bytes([d, e, f, 0]) + 1))
        }
        _ => Err(CUT_OFF),
    }
}

/// The size that a lossy (`VP8 `) or lossless (`VP8L`) bitstream states: 14 bits each.
fn bitstream(kind: &[u8; 4], data: &[u8]) -> Size {
    const SIDE: u32 = 0x3fff;
    match (kind, data) {
        (b"VP8 ", [_, _, _, 0x9d, 0x01, 0x2a, a, b, c, d, ..]) => Ok((
            u32::from_le_bytes([*a, *b, 0, 0]) & SIDE,
            u32::from_le_bytes([*c, *d, 0, 0]) & SIDE,
        )),
        (b"VP8L", [0x2f, a, b, c, d, ..]) => {
            let bits = u32::from_le_bytes([*a, *b, *c, *d]);
            Ok(((bits & SIDE) + 1, ((bits >> 14) & SIDE) + 1))
        }
        _ => Err("a bitstream has no header"),
    }
}

/// The chunks of a RIFF list: their kind and data. Ends after the first error.
struct Chunks<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Result<([u8; 4], &'a [u8]), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let chunk = match self.rest {
            [k0, k1, k2, k3, a, b, c, d, rest @ ..] => {
                let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
                self.rest = rest.get(length + length % 2..).unwrap_or_default();
                rest.get(..length).map(|data| ([*k0, *k1, *k2, *k3], data))
            }
            _ => None,
        };
        if chunk.is_none() {
            self.rest = &[];
        }
        Some(chunk.ok_or(CUT_OFF))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let length = (data.len() as u32).to_le_bytes();
        let padding = &[0][..data.len() % 2];
        [kind, &length, data, padding].concat()
    }

    fn webp(chunks: &[Vec<u8>]) -> Vec<u8> {
        chunk(b"RIFF", &[b"WEBP".to_vec(), chunks.concat()].concat())
    }

    fn lossless(width: u32, height: u32) -> Vec<u8> {
        let bits = (width - 1) | (height - 1) << 14;
        chunk(b"VP8L", &[&[0x2f][..], &bits.to_le_bytes()].concat())
    }

    fn lossy(width: u16, height: u16) -> Vec<u8> {
        let (width, height) = (width.to_le_bytes(), height.to_le_bytes());
        chunk(b"VP8 ", &[&[0, 0, 0, 0x9d, 0x01, 0x2a][..], &width, &height].concat())
    }

    fn extended(width: u8, height: u8) -> Vec<u8> {
        chunk(b"VP8X", &[0, 0, 0, 0, width - 1, 0, 0, height - 1, 0, 0])
    }

    fn animated(frame: &[u8]) -> Vec<u8> {
        chunk(b"ANMF", &[&[0; 16][..], frame].concat())
    }

    #[test]
    fn the_first_chunk_tells_the_size() {
        assert_eq!(size(&webp(&[lossless(16_384, 7)])), Ok((16_384, 7)));
        assert_eq!(size(&webp(&[lossy(300, 200)])), Ok((300, 200)));
        assert_eq!(size(&webp(&[extended(30, 20), lossy(30, 20)])), Ok((30, 20)));
        assert_eq!(size(&webp(&[extended(30, 20), animated(&lossless(9, 20))])), Ok((30, 20)));
    }

    #[test]
    fn a_frame_larger_than_the_canvas_is_refused() {
        assert!(size(&webp(&[extended(30, 20), lossy(16_383, 16_383)])).is_err());
        assert!(size(&webp(&[extended(30, 20), animated(&lossless(31, 20))])).is_err());
    }

    #[test]
    fn a_chunk_beyond_the_file_is_refused() {
        let whole = webp(&[extended(30, 20), chunk(b"EXIF", &[0; 9]), lossy(30, 20)]);
        assert!(size(&whole).is_ok());
        for length in 0..whole.len() {
            assert!(size(&whole[..length]).is_err(), "{length} bytes");
        }
        let mut exif = webp(&[extended(30, 20), lossy(30, 20), chunk(b"EXIF", &[0; 8])]);
        let length = exif.len() - 12;
        exif[length..length + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(size(&exif).is_err());
    }
}
