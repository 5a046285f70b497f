//! SAM from the files of others than Meta, on tiny random weights: Hugging Face's transformers, and
//! MobileSAM with the TinyViT of segment-anything-hq (`training/golden/sam_layouts.py`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use riveg::models::sam::{Config, MaskOutput, Prompt, PromptedImage, Sam};
use riveg::models::{ImageEmbedding, MaskPrediction, Segmenter};
use riveg::vision::{BoundingBox, Picture};

const CASES: [&str; 2] = ["hugging_face", "mobile"];
const PICTURES: usize = 3;
/// Largest error allowed, relative to the largest expected value.
const TOLERANCE: f32 = 1e-4;

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sam").join(case)
}

struct Golden {
    sam: Sam,
    expected: HashMap<String, Tensor>,
}

impl Golden {
    fn open(case: &str, dtype: DType) -> Self {
        let expected = folder(case).join("expected.safetensors");
        Self {
            sam: Sam::load(&folder(case), &Device::Cpu, dtype).unwrap(),
            expected: candle_core::safetensors::load(expected, &Device::Cpu).unwrap(),
        }
    }

    fn tensor(&self, picture: usize, name: &str) -> &Tensor {
        &self.expected[&format!("{picture}.{name}")]
    }

    fn picture(&self, index: usize) -> Arc<Picture> {
        let rgb = self.tensor(index, "rgb");
        let (height, width, _) = rgb.dims3().unwrap();
        let bytes = rgb.flatten_all().unwrap().to_vec1::<u8>().unwrap();
        Arc::new(Picture::from_rgb(width as u32, height as u32, bytes).unwrap())
    }

    fn encode(&self) -> Vec<ImageEmbedding> {
        let pictures: Vec<_> = (0..PICTURES).map(|index| self.picture(index)).collect();
        self.sam.encode(&pictures).unwrap()
    }

    /// The masks of every box: the single one, then those for ambiguous prompts.
    fn masks(&self, index: usize, embedding: &ImageEmbedding) -> Vec<MaskPrediction> {
        let edges = self.tensor(index, "boxes").to_vec2::<f32>().unwrap();
        let prompts = edges.iter().map(|e| BoundingBox::new(e[0], e[1], e[2], e[3]));
        let prompts: Vec<Prompt> = prompts.map(Prompt::from).collect();
        let input = [PromptedImage { embedding, prompts: &prompts }];
        let run = |output| self.sam.segment_prompts(&input, output).unwrap().remove(0);
        let (single, multi) = (run(MaskOutput::Single), run(MaskOutput::Multi));
        single.into_iter().zip(multi).flat_map(|(a, b)| [a, b].concat()).collect()
    }
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference as a share of the largest expected value.
fn gap(actual: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(actual.len(), expected.len());
    let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    actual.iter().zip(expected).fold(0f32, |gap, (a, b)| gap.max((a - b).abs())) / largest
}

fn embedding_gap(golden: &Golden, index: usize, embedding: &ImageEmbedding) -> f32 {
    let expected = golden.tensor(index, "embedding").flatten_from(1).unwrap().t().unwrap();
    assert_eq!(embedding.cells.dims(), expected.dims());
    gap(&floats(&embedding.cells), &floats(&expected))
}

#[test]
fn embeddings_masks_and_scores_agree() {
    for case in CASES {
        let golden = Golden::open(case, DType::F32);
        for (index, embedding) in golden.encode().iter().enumerate() {
            let found = embedding_gap(&golden, index, embedding);
            assert!(found <= TOLERANCE, "{case} {index}: embedding {found}");
            let masks = golden.masks(index, embedding);
            let logits: Vec<f32> =
                masks.iter().flat_map(|mask| mask.logits.values().to_vec()).collect();
            let found = gap(&logits, &floats(golden.tensor(index, "logits")));
            assert!(found <= TOLERANCE, "{case} {index}: logits {found}");
            let ious: Vec<f32> = masks.iter().map(|mask| mask.predicted_iou).collect();
            let expected = floats(golden.tensor(index, "iou"));
            let expected: Vec<f32> = expected.iter().map(|iou| iou.clamp(0.0, 1.0)).collect();
            let found = gap(&ious, &expected);
            assert!(found <= TOLERANCE, "{case} {index}: IoUs {found}");
        }
    }
}

/// To the picture's pixels. A pixel may differ where rounding puts a logit on the other side of the
/// threshold.
#[test]
fn full_size_masks_agree() {
    for case in CASES {
        let golden = Golden::open(case, DType::F32);
        for (index, embedding) in golden.encode().iter().enumerate() {
            let packed = golden.tensor(index, "mask").to_vec1::<u8>().unwrap();
            let mut bits = packed.iter().flat_map(|byte| (0..8).map(move |i| byte >> (7 - i) & 1));
            for mask in golden.masks(index, embedding) {
                let rle = mask.logits.to_rle();
                let (width, height) = (rle.width() as usize, rle.height() as usize);
                let expected: Vec<u8> = bits.by_ref().take(width * height).collect();
                let actual = row_by_row(rle.counts(), width, height);
                let differing = actual.iter().zip(&expected).filter(|(a, b)| a != b).count();
                assert!(differing <= 1, "{case} {index}: {differing} pixels differ");
            }
        }
    }
}

/// Column-major runs as a row-major bitmap.
fn row_by_row(counts: &[u32], width: usize, height: usize) -> Vec<u8> {
    let mut pixels = vec![0; width * height];
    let mut position = 0;
    for (run, &count) in counts.iter().enumerate() {
        for place in position..position + count as usize {
            pixels[place % height * width + place / height] = (run % 2) as u8;
        }
        position += count as usize;
    }
    pixels
}

#[test]
fn half_precision_stays_close() {
    for case in CASES {
        for (dtype, tolerance) in [(DType::F16, 0.02), (DType::BF16, 0.06)] {
            let golden = Golden::open(case, dtype);
            for (index, embedding) in golden.encode().iter().enumerate() {
                let found = embedding_gap(&golden, index, embedding);
                assert!(found > 0.0 && found < tolerance, "{case} {dtype:?}: {found}");
            }
        }
    }
}

/// Every weight that the network has is counted once, and nothing else.
#[test]
fn what_is_loaded_is_told() {
    for case in CASES {
        let info = Golden::open(case, DType::F32).sam.info();
        assert_eq!(info.architecture, "sam");
        assert_eq!(info.bytes, 4 * info.parameters);
        assert!(info.parameters > 10_000, "{case}: {}", info.parameters);
    }
}

#[test]
fn a_tensor_that_is_missing_is_named_as_the_file_would() {
    let (from, to) = (folder("hugging_face"), tempfile::tempdir().unwrap());
    let weights = from.join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(weights, &Device::Cpu).unwrap();
    tensors.remove("mask_decoder.upscale_conv1.bias").unwrap();
    let saved = to.path().join("model.safetensors");
    candle_core::safetensors::save(&tensors, saved).unwrap();
    std::fs::copy(from.join("config.json"), to.path().join("config.json")).unwrap();
    let error = Sam::load(to.path(), &Device::Cpu, DType::F32).unwrap_err().to_string();
    assert!(error.contains("upscale_conv1.bias"), "{error}");
}

#[test]
fn contradictions_of_a_tiny_vit_are_named() {
    let text = std::fs::read_to_string(folder("mobile").join("config.json")).unwrap();
    for (key, value) in [
        ("num_heads", serde_json::json!([2, 5, 4, 3])),
        ("window_sizes", serde_json::json!([7, 7, 0, 7])),
        ("mlp_ratio", serde_json::json!(0.1)),
    ] {
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config["image_encoder"][key] = value;
        let config: Config = serde_json::from_value(config).unwrap();
        let message = config.check().unwrap_err().to_string();
        assert!(message.contains(key), "{message}");
    }
}
