//! The markers of a JPEG file (ITU-T T.81, annex B).

use super::Size;

/// A progressive file decodes the whole picture anew for every scan, so a small file of very many
/// scans could keep a decoder busy for minutes. Encoders write about ten.
const MAX_SCANS: usize = 100;

/// The size from the frame header, after every marker up to the end of the image was seen. A file
/// that ends earlier is refused here: a decoder would fill the missing part with grey.
pub(super) fn size(bytes: &[u8]) -> Size {
    const CUT_OFF: &str = "the file ends before the end of the image";
    let mut size = None;
    let mut scans = 0;
    let mut rest = bytes.get(2..).ok_or(CUT_OFF)?;
    loop {
        let (marker, after) = next_marker(rest).ok_or(CUT_OFF)?;
        rest = after;
        match marker {
            END_OF_IMAGE if scans == 0 => return Err("the image has no scan"),
            END_OF_IMAGE => return size.ok_or("the image has no frame header"),
            // Markers that stand alone: restarts, the start of the image, and TEM.
            0x01 | 0xd0..=0xd8 => continue,
            _ => {}
        }
        let length = match rest {
            [high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])),
            _ => return Err(CUT_OFF),
        };
        let segment =
            rest.get(..length).ok_or(CUT_OFF)?.get(2..).ok_or("a segment is too short")?;
        rest = &rest[length..];
        if is_frame_header(marker) {
            if size.is_some() {
                return Err("the image has two frame headers");
            }
            size = match segment {
                [_, h1, h0, w1, w0, ..] => {
                    Some((u16::from_be_bytes([*w1, *w0]), u16::from_be_bytes([*h1, *h0])))
                }
                _ => return Err("the frame header is too short"),
            }
            .map(|(width, height)| (u32::from(width), u32::from(height)));
        } else if marker == START_OF_SCAN {
            scans += 1;
            if scans > MAX_SCANS {
                return Err("the image has too many scans");
            }
        }
    }
}

const START_OF_SCAN: u8 = 0xda;
const END_OF_IMAGE: u8 = 0xd9;

/// Whether a marker starts a frame header: SOF0 to SOF15 without DHT, JPG and DAC.
fn is_frame_header(marker: u8) -> bool {
    matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc)
}

/// The next marker's code and what follows it. Skips entropy-coded data, in which an `ff` is
/// followed by 0, and the `ff`s that may pad a marker.
fn next_marker(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let mut rest = bytes;
    loop {
        let prefix = rest.iter().position(|byte| *byte == 0xff)?;
        rest = &rest[prefix + 1..];
        match rest.first()? {
            0x00 | 0xff => {}
            marker => return Some((*marker, &rest[1..])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: &[u8] = b"\xff\xc0\0\x09\x08\0\x03\0\x05\x01\0";
    const SCAN: &[u8] = b"\xff\xda\0\x04\0\0data\xff\0data\xff\xd0data\xff\xff";
    const END: &[u8] = b"\xd9";

    fn jpeg(parts: &[&[u8]]) -> Vec<u8> {
        [&[b"\xff\xd8" as &[u8]], parts].concat().concat()
    }

    #[test]
    fn the_frame_header_tells_the_size() {
        assert_eq!(size(&jpeg(&[FRAME, SCAN, END])), Ok((5, 3)));
        assert_eq!(size(&jpeg(&[b"\xff\xe1\0\x04\xff\xd9", FRAME, SCAN, END])), Ok((5, 3)));
    }

    #[test]
    fn a_file_without_its_end_is_refused() {
        let whole = jpeg(&[FRAME, SCAN, END]);
        for length in 0..whole.len() {
            assert!(size(&whole[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn broken_structures_are_refused() {
        assert!(size(&jpeg(&[FRAME, FRAME, SCAN, END])).is_err());
        assert!(size(&jpeg(&[FRAME, b"\xff", END])).is_err());
        assert!(size(&jpeg(&[SCAN, END])).is_err());
        assert!(size(&jpeg(&[b"\xff\xe1\0\x01", FRAME, SCAN, END])).is_err());
        let scans = |count: usize| jpeg(&[FRAME, &SCAN.repeat(count), END]);
        assert!(size(&scans(MAX_SCANS)).is_ok());
        assert!(size(&scans(MAX_SCANS + 1)).is_err());
    }
}
