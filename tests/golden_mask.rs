//! Masks against pycocotools and torch: the files are made by `training/golden/mask.py`.

use riveg::mask::{MaskFrame, MaskLogits, Rle};
use safetensors::SafeTensors;

fn read(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/mask/");
    std::fs::read(format!("{folder}{name}")).unwrap()
}

#[derive(serde::Deserialize)]
struct Case {
    size: [u32; 2],
    runs: Vec<u32>,
    counts: String,
    area: u32,
    bbox: [f32; 4],
    iou_with_previous: Option<f64>,
}

#[test]
fn runs_are_those_of_pycocotools() {
    let cases: Vec<Case> = serde_json::from_slice(&read("rle.json")).unwrap();
    assert_eq!(cases.len(), 20);
    let mut previous: Option<Rle> = None;
    for (index, case) in cases.iter().enumerate() {
        let [height, width] = case.size;
        let rle = Rle::from_counts(&case.runs, width, height).unwrap();
        assert_eq!(rle.to_compressed(), case.counts, "case {index}");
        assert_eq!(Rle::from_compressed(&case.counts, width, height).unwrap(), rle);
        assert_eq!(Rle::from_bitmap(&rle.to_bitmap(), width, height).unwrap(), rle);
        assert_eq!(rle.area(), case.area, "case {index}");
        let [x, y, w, h] = case.bbox;
        let bbox = rle.bbox().map_or([0.0; 4], |bbox| bbox.to_array());
        assert_eq!(bbox, [x, y, x + w, y + h], "case {index}");
        if let (Some(expected), Some(previous)) = (case.iou_with_previous, &previous) {
            let iou = rle.iou(previous).unwrap();
            assert!((iou - expected).abs() < 1e-12, "case {index}: {iou}, not {expected}");
        }
        previous = Some(rle);
    }
}

#[test]
fn upscaling_gives_torchs_masks() {
    let bytes = read("logits.safetensors");
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let mut cases = 0;
    for (name, tensor) in golden.iter() {
        let Some(name) = name.strip_suffix(".logits") else { continue };
        let values = |data: &[u8]| -> Vec<f32> {
            data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
        };
        let frame = golden.tensor(&format!("{name}.frame")).unwrap();
        let frame: Vec<u32> = frame
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|bytes| u32::try_from(i64::from_le_bytes(*bytes)).unwrap())
            .collect();
        let &[square, rw, rh, width, height] = frame.as_slice() else { panic!("{name}") };
        let map = MaskFrame { frame: square, resized: (rw, rh), original: (width, height) };
        let shape = tensor.shape();
        let logits = MaskLogits::new(shape[1], shape[0], values(tensor.data()), map).unwrap();
        let mask = logits.to_rle();
        let packed = golden.tensor(&format!("{name}.mask")).unwrap();
        let bit = |index: usize| packed.data()[index / 8] >> (7 - index % 8) & 1;
        let expected: Vec<u8> = (0..(width * height) as usize).map(bit).collect();
        let wrong = mask.to_bitmap().iter().zip(&expected).filter(|(a, b)| a != b).count();
        // Only pixels whose value rounding carries across zero may differ.
        assert!(wrong * 10_000 <= expected.len(), "{name}: {wrong} of {}", expected.len());
        let expected = Rle::from_bitmap(&expected, width, height).unwrap();
        let alike = mask == expected || mask.iou(&expected).unwrap() >= 0.999;
        assert!(alike, "{name}: {wrong} pixels differ");
        println!("{name}: {wrong} of {} pixels differ", width * height);
        cases += 1;
    }
    assert_eq!(cases, 15);
}
