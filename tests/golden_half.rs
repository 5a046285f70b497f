//! Decisions in half precision on the CPU against the references of the other goldens: label paths,
//! masks in the picture's pixels, boxes. OFA's are in `golden_ofa_answers.rs`. In bf16 a CPU keeps
//! only the weights of linear layers so and computes in f32 (the dense network keeps none so); f16
//! is computed in f16, by candle's operations.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use riveg::mask::Rle;
use riveg::models::dense::DenseGrounding;
use riveg::models::sam::Sam;
use riveg::models::tagger::{TransformerTagger, WordInput};
use riveg::models::{EntailInput, Entailer, GroundInput, Grounder, SegmentInput, Segmenter};
use riveg::vision::{BoundingBox, Picture};
use serde::Deserialize;
use serde::de::DeserializeOwned;

const HALF: [DType; 2] = [DType::F16, DType::BF16];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn json<T: DeserializeOwned>(file: PathBuf) -> T {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn tensors(file: PathBuf) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(file, &Device::Cpu).unwrap()
}

fn picture(rgb: &Tensor) -> Arc<Picture> {
    let (height, width, _) = rgb.dims3().unwrap();
    let bytes = rgb.flatten_all().unwrap().to_vec1::<u8>().unwrap();
    Arc::new(Picture::from_rgb(width as u32, height as u32, bytes).unwrap())
}

#[derive(Deserialize)]
struct Sentence {
    name: String,
    words: Vec<String>,
    knowledge: Vec<String>,
    path: Vec<usize>,
}

fn borrow(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

#[test]
fn label_paths_are_the_references() {
    for name in ["bert", "xlm_roberta", "bert_tokens", "xlm_roberta_tokens"] {
        let folder = folder("tagger").join(name);
        let sentences: Vec<Sentence> = json(folder.join("cases.json"));
        for dtype in HALF {
            let tagger = TransformerTagger::load(&folder, &Device::Cpu, dtype).unwrap();
            for sentence in &sentences {
                let words = borrow(&sentence.words);
                let knowledge = borrow(&sentence.knowledge);
                let input = WordInput { words: &words, knowledge: &knowledge };
                let found = tagger.label(&[input]).unwrap().remove(0);
                assert_eq!(found.path, sentence.path, "{name} {dtype:?}, {}", sentence.name);
            }
        }
    }
}

/// The folders of SAM's goldens, and where each keeps the masks of boxes.
const SAMS: [(&str, &str); 5] = [
    ("windows", "box.mask"),
    ("tables", "box.mask"),
    ("convolutional", "box.mask"),
    ("hugging_face", "mask"),
    ("mobile", "mask"),
];

/// The reference's masks of the boxes in a picture: the first of every four.
fn masks(expected: &HashMap<String, Tensor>, name: &str, picture: &Picture) -> Vec<Rle> {
    let (width, height) = (picture.width(), picture.height());
    let packed = expected[name].to_vec1::<u8>().unwrap();
    let bits: Vec<u8> =
        packed.iter().flat_map(|byte| (0..8).map(move |i| byte >> (7 - i) & 1)).collect();
    let every = bits.chunks_exact((width * height) as usize).step_by(4);
    every.map(|bitmap| Rle::from_bitmap(bitmap, width, height).unwrap()).collect()
}

/// The least overlap of the masks of all boxes in all pictures with the reference's.
fn least_overlap((case, mask): (&str, &str), dtype: DType) -> f64 {
    let folder = folder("sam").join(case);
    let sam = Sam::load(&folder, &Device::Cpu, dtype).unwrap();
    let expected = tensors(folder.join("expected.safetensors"));
    let mut least = 1f64;
    for index in 0..3 {
        let picture = picture(&expected[&format!("{index}.rgb")]);
        let edges = expected[&format!("{index}.boxes")].to_vec2::<f32>().unwrap();
        let boxes = edges.iter().map(|e| BoundingBox::new(e[0], e[1], e[2], e[3])).collect();
        let embedding = sam.encode(std::slice::from_ref(&picture)).unwrap().remove(0);
        let found = sam.segment(&[SegmentInput { embedding, boxes }]).unwrap().remove(0);
        let references = masks(&expected, &format!("{index}.{mask}"), &picture);
        assert_eq!(found.len(), references.len(), "{case}");
        for (found, reference) in found.iter().zip(&references) {
            least = least.min(found.logits.to_rle().iou(reference).unwrap());
        }
    }
    println!("{case} {dtype:?}: {least:.4}");
    least
}

#[test]
fn masks_overlap_the_references() {
    for sam in SAMS {
        for (dtype, overlap) in [(DType::F32, 0.999), (DType::F16, 0.96), (DType::BF16, 0.92)] {
            let least = least_overlap(sam, dtype);
            assert!(least >= overlap, "{sam:?} {dtype:?}: {least}");
        }
    }
}

#[derive(Deserialize)]
struct Answers {
    answers: Vec<Answer>,
}

#[derive(Deserialize)]
struct Answer {
    picture: usize,
    expression: String,
    probability: f32,
    #[serde(rename = "box")]
    edges: [f32; 4],
}

#[test]
fn the_dense_networks_boxes_overlap_the_references() {
    let folder = folder("dense");
    let answers = json::<Answers>(folder.join("cases.json")).answers;
    let expected = tensors(folder.join("tensors.safetensors"));
    let pictures = ["0.rgb", "1.rgb"].map(|name| picture(&expected[name]));
    let ground = |answer: &Answer| GroundInput {
        picture: pictures[answer.picture].clone(),
        expression: answer.expression.as_str().into(),
    };
    let ground: Vec<GroundInput> = answers.iter().map(ground).collect();
    let entail = |input: &GroundInput| EntailInput {
        picture: input.picture.clone(),
        expression: input.expression.clone(),
        description: None,
    };
    let entail: Vec<EntailInput> = ground.iter().map(entail).collect();
    for (dtype, overlap, tolerance) in [(DType::F16, 0.98, 0.01), (DType::BF16, 0.999, 1e-4)] {
        let network = DenseGrounding::load(&folder, &Device::Cpu, dtype).unwrap();
        let (found, judged) = (network.ground(&ground).unwrap(), network.entail(&entail).unwrap());
        let (mut least, mut largest) = (1f32, 0f32);
        for ((answer, found), judged) in answers.iter().zip(found).zip(judged) {
            let [x1, y1, x2, y2] = answer.edges;
            least = least.min(found.unwrap().bbox.iou(&BoundingBox::new(x1, y1, x2, y2)));
            largest = largest.max((judged.probability - answer.probability).abs());
        }
        println!("{dtype:?}: boxes overlap {least:.4}, probabilities differ {largest:.4}");
        assert!(least >= overlap, "{dtype:?}: boxes overlap {least}");
        assert!(largest < tolerance, "{dtype:?}: probabilities differ {largest}");
    }
}
