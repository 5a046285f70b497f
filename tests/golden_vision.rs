//! Pictures against Pillow: the files are made by `training/golden/vision.py`.

use riveg::vision::Picture;
use riveg::vision::decode::{DecodeError, DecodeLimits, decode, probe};
use riveg::vision::resize::{Filter, resize_rgb};
use safetensors::SafeTensors;

const LIMITS: DecodeLimits =
    DecodeLimits { max_bytes: 1 << 20, max_side: 4096, max_pixels: 1 << 20 };

/// The generator of the script's `noise`.
fn noise(width: u32, height: u32) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..3 * width * height).map(|_| next()).collect()
}

fn read(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/vision/");
    std::fs::read(format!("{folder}{name}")).unwrap()
}

#[test]
fn resizing_gives_pillows_bytes() {
    let bytes = read("resize.safetensors");
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(golden.len(), 24);
    for (name, expected) in golden.iter() {
        let parts: Vec<&str> = name.split('-').collect();
        let size = |text: &str| -> (u32, u32) {
            let (width, height) = text.split_once('x').unwrap();
            (width.parse().unwrap(), height.parse().unwrap())
        };
        let (from, to) = (size(parts[0]), size(parts[1]));
        let filter = match parts[2] {
            "bilinear" => Filter::Bilinear,
            "bicubic" => Filter::Bicubic,
            other => panic!("{other}"),
        };
        let resized = resize_rgb(&noise(from.0, from.1), from, to, filter);
        let wrong = resized.iter().zip(expected.data()).filter(|(a, b)| a != b).count();
        assert_eq!(resized.len(), expected.data().len(), "{name}");
        assert_eq!(wrong, 0, "{name}: {wrong} of {} bytes differ", resized.len());
    }
}

/// The files of the golden archive: name, bytes, and the pixels that Pillow reads from them.
fn for_each_file(mut check: impl FnMut(&str, &[u8], (u32, u32), &[u8])) {
    let archive = read("decode.safetensors");
    let golden = SafeTensors::deserialize(&archive).unwrap();
    let mut files = 0;
    for (name, file) in golden.iter() {
        let Some(name) = name.strip_suffix(".file") else { continue };
        let pixels = golden.tensor(&format!("{name}.pixels")).unwrap();
        let size = (pixels.shape()[1] as u32, pixels.shape()[0] as u32);
        check(name, file.data(), size, pixels.data());
        files += 1;
    }
    assert_eq!(files, 56);
}

fn differences(picture: &Picture, expected: &[u8]) -> (u8, f64) {
    assert_eq!(picture.rgb().len(), expected.len());
    let differences = || picture.rgb().iter().zip(expected).map(|(a, b)| a.abs_diff(*b));
    let sum: f64 = differences().map(f64::from).sum();
    (differences().max().unwrap(), sum / expected.len() as f64)
}

#[test]
fn files_decode_to_pillows_pixels() {
    for_each_file(|name, file, size, expected| {
        let picture = decode(file, &LIMITS).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((picture.width(), picture.height()), size, "{name}");
        let (most, mean) = differences(&picture, expected);
        // Lossless formats must agree (blending may round differently); decoders of lossy ones
        // differ in how they round and interpolate.
        let lossy = name.starts_with("jpeg") || name.starts_with("webp-lossy");
        let (most_allowed, mean_allowed) = match name {
            _ if lossy => (6, 0.5),
            _ if name.ends_with("alpha") || name.ends_with("rgba") => (1, 0.5),
            // Blended onto the empty canvas.
            "webp-part" => (1, 0.5),
            // Pillow keeps the upper eight bits, which is not rounding.
            "png-rgb_16" => (1, 0.6),
            _ => (0, 0.0),
        };
        assert!(most <= most_allowed && mean <= mean_allowed, "{name}: most {most}, mean {mean}");
    });
}

#[test]
fn the_header_tells_the_stored_size() {
    for_each_file(|name, file, _, _| {
        let header = probe(file, &LIMITS).unwrap();
        assert_eq!((header.width, header.height), (40, 26), "{name}");
        assert!(header.format.media_type().ends_with(name.split('-').next().unwrap()), "{name}");
    });
}

/// A file cut off anywhere is refused, unless all of the picture is there.
#[test]
fn files_cut_off_are_refused() {
    for_each_file(|name, file, _, _| {
        if name.contains("orientation") {
            return;
        }
        let whole = decode(file, &LIMITS).unwrap();
        for length in 12..file.len() {
            match decode(&file[..length], &LIMITS) {
                Ok(picture) => assert_eq!(picture.digest(), whole.digest(), "{name}, {length}"),
                Err(DecodeError::Undecodable(_)) => {}
                Err(error) => panic!("{name} cut to {length}: {error:?}"),
            }
        }
        // Half of an animation may hold all of the first frame.
        if name.contains("animated") {
            return;
        }
        let half = decode(&file[..file.len() / 2], &LIMITS);
        assert!(matches!(half, Err(DecodeError::Undecodable(_))), "{name}: {half:?}");
    });
}
