//! SAM against Meta's `segment-anything` on tiny random weights (`training/golden/sam.py`).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use riveg::models::sam::{MaskOutput, PointPrompt, Prompt, PromptedImage, Sam};
use riveg::models::{ImageEmbedding, MaskPrediction, ModelError, SegmentInput, Segmenter};
use riveg::vision::{BoundingBox, Picture};

const CASES: [&str; 3] = ["windows", "tables", "convolutional"];
const TOLERANCE: f32 = 1e-4;

fn folder(case: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sam").join(case)
}

/// One case: the network, and what the reference says about three pictures.
struct Golden {
    sam: Sam,
    expected: HashMap<String, Tensor>,
}

impl Golden {
    fn load(case: &str) -> Self {
        let expected = folder(case).join("expected.safetensors");
        Self {
            sam: Sam::load(&folder(case), &Device::Cpu, DType::F32).unwrap(),
            expected: candle_core::safetensors::load(expected, &Device::Cpu).unwrap(),
        }
    }

    fn tensor(&self, picture: usize, name: &str) -> &Tensor {
        &self.expected[&format!("{picture}.{name}")]
    }

    fn floats(&self, picture: usize, name: &str) -> Vec<f32> {
        floats(self.tensor(picture, name))
    }

    /// What the reference's image encoder says, `[cells, channels]`.
    fn embedding(&self, index: usize) -> Tensor {
        self.tensor(index, "embedding").flatten_from(1).unwrap().t().unwrap()
    }

    fn picture(&self, index: usize) -> Arc<Picture> {
        let rgb = self.tensor(index, "rgb");
        let (height, width, _) = rgb.dims3().unwrap();
        let bytes = rgb.flatten_all().unwrap().to_vec1::<u8>().unwrap();
        Arc::new(Picture::from_rgb(width as u32, height as u32, bytes).unwrap())
    }

    fn boxes(&self, index: usize) -> Vec<BoundingBox> {
        let edges = self.tensor(index, "boxes").to_vec2::<f32>().unwrap();
        edges.iter().map(|e| BoundingBox::new(e[0], e[1], e[2], e[3])).collect()
    }

    /// The prompts of one kind: boxes alone, points alone, or a point with a box.
    fn prompts(&self, index: usize, kind: &str) -> Vec<Prompt> {
        let points = self.tensor(index, "points").to_vec3::<f32>().unwrap();
        let labels = self.tensor(index, "labels").to_vec2::<i64>().unwrap();
        let point = |p: &Vec<f32>, label: i64| PointPrompt { x: p[0], y: p[1], inside: label == 1 };
        let boxes = self.boxes(index);
        match kind {
            "box" => boxes.into_iter().map(Prompt::from).collect(),
            "point" => points
                .iter()
                .zip(&labels)
                .map(|(points, labels)| Prompt {
                    points: points.iter().zip(labels).map(|(p, &l)| point(p, l)).collect(),
                    bbox: None,
                })
                .collect(),
            _ => vec![Prompt {
                points: vec![point(&points[0][0], labels[0][0])],
                bbox: Some(boxes[0]),
            }],
        }
    }

    fn encode(&self, index: usize) -> ImageEmbedding {
        self.sam.encode(&[self.picture(index)]).unwrap().remove(0)
    }

    /// The answers to several prompt kinds of one picture, all mask tokens in the reference's
    /// order.
    fn decode(&self, embedding: &ImageEmbedding, prompts: &[Prompt]) -> Vec<Vec<MaskPrediction>> {
        let input = [PromptedImage { embedding, prompts }];
        let run = |output| self.sam.segment_prompts(&input, output).unwrap().remove(0);
        let (single, multi) = (run(MaskOutput::Single), run(MaskOutput::Multi));
        single.into_iter().zip(multi).map(|(a, b)| [a, b].concat()).collect()
    }
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Asserts that the largest difference is small against the largest expected value.
fn assert_close(what: &str, actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let gap = actual.iter().zip(expected).fold(0f32, |gap, (a, b)| gap.max((a - b).abs()));
    assert!(gap <= tolerance * largest, "{what}: differs by {gap} at a largest value of {largest}");
}

fn logits(masks: &[Vec<MaskPrediction>]) -> Vec<f32> {
    masks.iter().flatten().flat_map(|mask| mask.logits.values().to_vec()).collect()
}

#[test]
fn image_embeddings_agree() {
    for case in CASES {
        let golden = Golden::load(case);
        for index in 0..3 {
            let embedding = golden.encode(index);
            let expected = golden.embedding(index);
            assert_eq!(embedding.cells.dims(), expected.dims());
            let what = format!("{case} {index}");
            assert_close(&what, &floats(&embedding.cells), &floats(&expected), TOLERANCE);
        }
    }
}

#[test]
fn masks_and_scores_agree() {
    for case in CASES {
        let golden = Golden::load(case);
        for index in 0..3 {
            let embedding = golden.encode(index);
            for kind in ["box", "point", "both"] {
                let what = |name: &str| format!("{case} {index} {kind} {name}");
                let value = |name: &str| golden.floats(index, &format!("{kind}.{name}"));
                let masks = golden.decode(&embedding, &golden.prompts(index, kind));
                assert_close(&what("logits"), &logits(&masks), &value("logits"), TOLERANCE);
                let masks: Vec<&MaskPrediction> = masks.iter().flatten().collect();
                let iou: Vec<f32> = masks.iter().map(|mask| mask.predicted_iou).collect();
                let clamped: Vec<f32> = value("iou").iter().map(|v| v.clamp(0.0, 1.0)).collect();
                assert_close(&what("iou"), &iou, &clamped, TOLERANCE);
                let stability: Vec<f32> = masks.iter().map(|mask| mask.stability).collect();
                assert_close(&what("stability"), &stability, &value("stability"), TOLERANCE);
            }
        }
    }
}

/// Clamping hides differences, so most predicted IoUs must be untouched by it; some must not be.
#[test]
fn the_references_ious_are_mostly_within_reach() {
    let mut over = 0;
    for case in CASES {
        let golden = Golden::load(case);
        let ious = (0..3).flat_map(|index| {
            ["box", "point", "both"].map(|kind| golden.floats(index, &format!("{kind}.iou")))
        });
        let ious: Vec<f32> = ious.flatten().collect();
        let within = ious.iter().filter(|iou| (0.1..0.9).contains(*iou)).count();
        assert!(within * 3 > ious.len() * 2, "{case}: {within} of {}", ious.len());
        over += ious.iter().filter(|&&iou| iou > 1.0).count();
    }
    assert!(over > 0);
}

/// The state dict as PyTorch saves it, which is how Meta released theirs.
#[test]
fn a_pytorch_file_is_the_same_network() {
    let (golden, dir) = (Golden::load("tables"), tempfile::tempdir().unwrap());
    std::fs::copy(folder("tables.pth"), dir.path().join("model.pth")).unwrap();
    std::fs::copy(folder("tables").join("config.json"), dir.path().join("config.json")).unwrap();
    let sam = Sam::load(dir.path(), &Device::Cpu, DType::F32).unwrap();
    assert_eq!(sam.info().parameters, golden.sam.info().parameters);
    let embedding = sam.encode(&[golden.picture(0)]).unwrap().remove(0);
    assert_close("embedding", &floats(&embedding.cells), &floats(&golden.embedding(0)), TOLERANCE);
    let masks = Golden { sam, ..golden };
    let expected = masks.floats(0, "box.logits");
    let masks = masks.decode(&embedding, &masks.prompts(0, "box"));
    assert_close("logits", &logits(&masks), &expected, TOLERANCE);
}

/// The whole chain to the picture's pixels: both bilinear steps, cropping, threshold. A pixel may
/// differ only where rounding puts the reference's logit on the other side of the threshold.
#[test]
fn full_size_masks_agree() {
    for case in CASES {
        let golden = Golden::load(case);
        for index in 0..3 {
            let embedding = golden.encode(index);
            for kind in ["box", "point", "both"] {
                let masks = golden.decode(&embedding, &golden.prompts(index, kind));
                let packed = golden.tensor(index, &format!("{kind}.mask"));
                let packed = packed.to_vec1::<u8>().unwrap();
                let mut bits =
                    packed.iter().flat_map(|byte| (0..8).map(move |i| byte >> (7 - i) & 1));
                for mask in masks.iter().flatten() {
                    let rle = mask.logits.to_rle();
                    let (width, height) = (rle.width() as usize, rle.height() as usize);
                    let expected: Vec<u8> = bits.by_ref().take(width * height).collect();
                    let actual = bitmap(rle.counts(), width, height);
                    let differing = actual.iter().zip(&expected).filter(|(a, b)| a != b).count();
                    assert!(differing <= 1, "{case} {index} {kind}: {differing} pixels differ");
                }
            }
        }
    }
}

/// Column-major runs as a row-major bitmap.
fn bitmap(counts: &[u32], width: usize, height: usize) -> Vec<u8> {
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
fn a_batch_of_pictures_and_boxes_equals_single_calls() {
    for case in CASES {
        let golden = Golden::load(case);
        let pictures: Vec<_> = [0, 1, 2, 0].map(|index| golden.picture(index)).into();
        let together = golden.sam.encode(&pictures).unwrap();
        let inputs: Vec<SegmentInput> = together
            .iter()
            .enumerate()
            .map(|(index, embedding)| SegmentInput {
                embedding: embedding.clone(),
                // Three boxes, none, one, and so many that they take several passes.
                boxes: match index {
                    0 => golden.boxes(0),
                    1 => Vec::new(),
                    2 => golden.boxes(2),
                    _ => golden.boxes(0).repeat(11),
                },
            })
            .collect();
        let batched = golden.sam.segment(&inputs).unwrap();
        for ((picture, input), masks) in pictures.iter().zip(&inputs).zip(&batched) {
            assert_eq!(masks.len(), input.boxes.len());
            let embedding = golden.sam.encode(std::slice::from_ref(picture)).unwrap().remove(0);
            let features = floats(&input.embedding.cells);
            assert_close(case, &features, &floats(&embedding.cells), 1e-5);
            assert_eq!(embedding.digest, picture.digest());
            for (&bbox, mask) in input.boxes.iter().zip(masks) {
                let alone = SegmentInput { embedding: embedding.clone(), boxes: vec![bbox] };
                let alone = &golden.sam.segment(&[alone]).unwrap()[0][0];
                assert_close(case, mask.logits.values(), alone.logits.values(), 1e-5);
                assert!((mask.predicted_iou - alone.predicted_iou).abs() < 1e-5);
                assert_eq!(mask.logits.frame(), alone.logits.frame());
            }
        }
    }
}

#[test]
fn half_precision_stays_close() {
    for (case, dtype, tolerance) in [
        ("windows", DType::F16, 0.02),
        ("convolutional", DType::F16, 0.02),
        ("windows", DType::BF16, 0.06),
        ("convolutional", DType::BF16, 0.06),
    ] {
        let golden = Golden::load(case);
        let sam = Sam::load(&folder(case), &Device::Cpu, dtype).unwrap();
        let embedding = sam.encode(&[golden.picture(0)]).unwrap().remove(0);
        let cells = embedding.cells.to_dtype(DType::F32).unwrap();
        assert_close("embedding", &floats(&cells), &floats(&golden.embedding(0)), tolerance);
        let input = SegmentInput { embedding, boxes: golden.boxes(0) };
        let masks: Vec<_> = sam.segment(&[input]).unwrap().remove(0);
        let expected = golden.tensor(0, "box.logits").narrow(1, 0, 1).unwrap();
        let masks: Vec<_> = masks.into_iter().map(|mask| vec![mask]).collect();
        assert_close("logits", &logits(&masks), &floats(&expected), 2.5 * tolerance);
    }
}

#[test]
fn nothing_in_nothing_out() {
    let golden = Golden::load("tables");
    assert!(golden.sam.encode(&[]).unwrap().is_empty());
    assert!(golden.sam.segment(&[]).unwrap().is_empty());
    let empty = SegmentInput { embedding: golden.encode(0), boxes: Vec::new() };
    assert!(golden.sam.segment(&[empty]).unwrap()[0].is_empty());
}

/// Loads a copy of a case whose files `change` was let at.
fn load_case(
    case: &str,
    change: impl Fn(&mut HashMap<String, Tensor>, &mut String),
) -> Result<Sam, ModelError> {
    let (from, to) = (folder(case), tempfile::tempdir().unwrap());
    let mut tensors =
        candle_core::safetensors::load(from.join("model.safetensors"), &Device::Cpu).unwrap();
    let mut config = std::fs::read_to_string(from.join("config.json")).unwrap();
    change(&mut tensors, &mut config);
    candle_core::safetensors::save(&tensors, to.path().join("model.safetensors")).unwrap();
    std::fs::write(to.path().join("config.json"), config).unwrap();
    Sam::load(to.path(), &Device::Cpu, DType::F32)
}

fn load_changed(
    change: impl Fn(&mut HashMap<String, Tensor>, &mut String),
) -> Result<Sam, ModelError> {
    load_case("tables", change)
}

fn poison(tensors: &mut HashMap<String, Tensor>, name: &str) {
    let nan = tensors[name].affine(0.0, f64::NAN).unwrap();
    tensors.insert(name.to_owned(), nan);
}

#[test]
fn nan_in_the_weights_is_reported() {
    let golden = Golden::load("tables");
    for (case, name) in [
        ("tables", "blocks.0.mlp.lin1.weight"),
        ("convolutional", "stem.weight"),
        ("convolutional", "stages.0.0.depth.weight"),
        ("convolutional", "mid.bias"),
    ] {
        let sam = load_case(case, |t, _| poison(t, &format!("image_encoder.{name}"))).unwrap();
        let error = sam.encode(&[golden.picture(0)]).unwrap_err();
        assert!(matches!(error, ModelError::NotFinite(_)), "{name}: {error}");
    }

    let segment = |sam: &Sam| {
        let embedding = sam.encode(&[golden.picture(0)]).unwrap().remove(0);
        sam.segment(&[SegmentInput { embedding, boxes: golden.boxes(0) }]).unwrap_err()
    };
    for name in [
        "output_upscaling.3.bias",
        "iou_prediction_head.layers.0.bias",
        "iou_prediction_head.layers.1.bias",
        "output_hypernetworks_mlps.0.layers.0.weight",
        "transformer.layers.0.mlp.lin1.bias",
    ] {
        let sam = load_changed(|t, _| poison(t, &format!("mask_decoder.{name}"))).unwrap();
        assert!(matches!(segment(&sam), ModelError::NotFinite(_)), "{name}");
    }
}

#[test]
fn wrong_files_are_refused_with_a_reason() {
    let missing = load_changed(|t, _| {
        t.remove("mask_decoder.iou_token.weight");
    });
    assert!(missing.unwrap_err().to_string().contains("iou_token"));
    let shape = load_changed(|_, c| *c = c.replace("\"out_chans\": 16", "\"out_chans\": 32"));
    assert!(matches!(shape.unwrap_err(), ModelError::Tensor(_)));
    let size = load_changed(|_, c| *c = c.replace("\"patch_size\": 16", "\"patch_size\": 15"));
    assert!(size.unwrap_err().to_string().contains("patch_size"));
    let absent = Sam::load(&folder("absent"), &Device::Cpu, DType::F32).unwrap_err();
    assert!(matches!(absent, ModelError::File { .. }));
}

/// With `best_of_multimask` a box is answered by the mask that the network trusts most.
#[test]
fn the_best_of_three_can_answer_a_box() {
    let sam = load_changed(|_, c| *c = c.replace("\"single\"", "\"best_of_multimask\"")).unwrap();
    let golden = Golden::load("tables");
    let embedding = golden.encode(0);
    let boxes = golden.boxes(0);
    let all = golden.decode(&embedding, &golden.prompts(0, "box"));
    let chosen = &sam.segment(&[SegmentInput { embedding, boxes }]).unwrap()[0];
    for (masks, chosen) in all.iter().zip(chosen) {
        let best = masks[1..].iter().map(|mask| mask.predicted_iou).fold(0.0, f32::max);
        assert_eq!(chosen.predicted_iou, best);
    }
}

/// IoUs above 1 still rank; of equals the first answers.
#[test]
fn the_best_of_three_is_chosen_before_clamping() {
    let sam = load_changed(|tensors, config| {
        *config = config.replace("\"single\"", "\"best_of_multimask\"");
        let head = "mask_decoder.iou_prediction_head.layers.1";
        let weight = tensors[&format!("{head}.weight")].zeros_like().unwrap();
        tensors.insert(format!("{head}.weight"), weight);
        let bias = Tensor::new(&[9f32, 1.2, 1.5, 1.5], &Device::Cpu).unwrap();
        tensors.insert(format!("{head}.bias"), bias);
    });
    let (sam, golden) = (sam.unwrap(), Golden::load("tables"));
    let embedding = golden.encode(0);
    let all = golden.decode(&embedding, &golden.prompts(0, "box"));
    let input = SegmentInput { embedding, boxes: golden.boxes(0) };
    for (masks, chosen) in all.iter().zip(&sam.segment(&[input]).unwrap()[0]) {
        assert_eq!(chosen.predicted_iou, 1.0);
        assert_close("chosen", chosen.logits.values(), masks[2].logits.values(), 1e-5);
    }
}

/// Another picture size than the checkpoint was made for: positions are interpolated.
#[test]
fn another_picture_size_loads() {
    let sam =
        load_changed(|_, c| *c = c.replace("\"image_size\": 64", "\"image_size\": 96")).unwrap();
    let golden = Golden::load("tables");
    let embedding = sam.encode(&[golden.picture(0)]).unwrap().remove(0);
    assert_eq!(embedding.cells.dims(), [36, 16]);
    let expected = golden.expected["resized.embedding"].flatten_from(1).unwrap().t().unwrap();
    assert_close("embedding", &floats(&embedding.cells), &floats(&expected), TOLERANCE);
    let input = SegmentInput { embedding, boxes: golden.boxes(0) };
    let masks = sam.segment(&[input]).unwrap().remove(0);
    assert_eq!((masks[0].logits.width(), masks[0].logits.height()), (24, 24));
    let single = golden.expected["resized.box.logits"].narrow(1, 0, 1).unwrap();
    let masks: Vec<_> = masks.into_iter().map(|mask| vec![mask]).collect();
    assert_close("logits", &logits(&masks), &floats(&single), TOLERANCE);
}

#[test]
fn what_is_loaded_is_told() {
    let info = Golden::load("tables").sam.info();
    assert_eq!((info.architecture.as_str(), info.device.as_str()), ("sam", "cpu"));
    assert_eq!(info.bytes, 4 * info.parameters);
    assert_eq!(info.sha256.len(), 64);
}
