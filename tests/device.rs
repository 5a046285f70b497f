//! Every network with random weights on the device that `RIVEG_TEST_DEVICE` names (`cuda:0`), against
//! itself on the CPU in f32, which the golden tests hold to the reference implementations.
//!
//! Without that variable, on the CPU in f16: where no operation is fused, so that the
//! composed forms are run which GPUs run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use riveg::models::dense::DenseGrounding;
use riveg::models::ofa::{OfaEntailer, OfaGrounder};
use riveg::models::sam::Sam;
use riveg::models::tagger::{TransformerTagger, WordInput};
use riveg::models::{
    EntailInput, Entailer, GroundInput, Grounder, Grounding, SegmentInput, Segmenter,
};
use riveg::vision::{BoundingBox, Picture};

/// Where to run, in which type, and which error is allowed, relative to the largest value.
struct Run {
    device: Device,
    dtype: DType,
    tolerance: f32,
}

impl Run {
    /// Whether results of beam search must be the same: with rounded numbers another beam may win.
    fn is_exact(&self) -> bool {
        self.dtype == DType::F32
    }
}

fn runs() -> Vec<Run> {
    let Ok(name) = std::env::var("RIVEG_TEST_DEVICE") else {
        println!("RIVEG_TEST_DEVICE is not set: on the CPU in f16");
        return vec![Run { device: Device::Cpu, dtype: DType::F16, tolerance: 0.01 }];
    };
    let ordinal = name.strip_prefix("cuda:").and_then(|n| n.parse().ok());
    let ordinal = ordinal.unwrap_or_else(|| panic!("RIVEG_TEST_DEVICE is {name}: use cuda:N"));
    let device = Device::new_cuda(ordinal).expect("a GPU, and a build with --features cuda");
    // Three bits of a number less than f16 has make its error eight times as large.
    [(DType::F32, 1e-4), (DType::F16, 0.01), (DType::BF16, 0.08)]
        .map(|(dtype, tolerance)| Run { device: device.clone(), dtype, tolerance })
        .into()
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn close(what: &str, actual: &[f32], expected: &[f32], run: &Run) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let gap = actual.iter().zip(expected).fold(0f32, |gap, (a, b)| gap.max((a - b).abs()));
    println!("{what}, {:?}: {:.1e} of the largest value", run.dtype, gap / largest);
    // A gap that is not a number is not small either.
    assert!(gap <= run.tolerance * largest && gap.is_finite(), "{what}: {gap} at {largest}");
}

/// Two pictures that are not square, with something in them to see.
fn pictures() -> [Arc<Picture>; 2] {
    [(96, 64), (50, 131)].map(|(width, height): (u32, u32)| {
        let pixel = |i: u32| {
            let (x, y, channel) = (i / 3 % width, i / 3 / width, i % 3);
            (x * (3 + channel) + y * y / 7 * channel + 40 * (x / 16 % 2)) as u8
        };
        let rgb = (0..3 * width * height).map(pixel).collect();
        Arc::new(Picture::from_rgb(width, height, rgb).unwrap())
    })
}

const EXPRESSIONS: [&str; 3] =
    ["LeBron James (PER)-an athlete", "Rome (LOC)-a city", "The Warriors (ORG)-a sports team"];

fn entail_inputs() -> Vec<EntailInput> {
    let pair = |picture: &Arc<Picture>, expression: &str| EntailInput {
        picture: picture.clone(),
        expression: expression.into(),
        description: None,
    };
    pictures().iter().flat_map(|p| EXPRESSIONS.map(|e| pair(p, e))).collect()
}

fn ground_inputs() -> Vec<GroundInput> {
    let inputs = entail_inputs().into_iter();
    inputs.map(|i| GroundInput { picture: i.picture, expression: i.expression }).collect()
}

fn probabilities(entailer: &dyn Entailer) -> Vec<f32> {
    let answers = entailer.entail(&entail_inputs()).unwrap();
    answers.iter().map(|answer| answer.probability).collect()
}

/// Edges and score of each box; nothing where there is none.
fn boxes(grounder: &dyn Grounder) -> Vec<f32> {
    let numbers = |found: &Option<Grounding>| {
        found.map_or(vec![0.0; 5], |g| [&g.bbox.to_array()[..], &[g.score]].concat())
    };
    grounder.ground(&ground_inputs()).unwrap().iter().flat_map(numbers).collect()
}

#[test]
fn taggers() {
    let words: [&[&str]; 2] =
        [&["LeBron", "James", "plays", "in", "Rome"], &["The", "Warriors", "!"]];
    let inputs = words.map(|words| WordInput { words, knowledge: &["a", "city"] });
    let emissions = |name: &str, device: &Device, dtype| {
        let tagger = TransformerTagger::load(&folder(name), device, dtype).unwrap();
        let labellings = tagger.label(&inputs).unwrap();
        labellings.into_iter().flat_map(|labelling| labelling.emissions).collect::<Vec<f32>>()
    };
    for name in ["tagger/bert", "tagger/xlm_roberta", "tagger/bert_tokens"] {
        let expected = emissions(name, &Device::Cpu, DType::F32);
        for run in runs() {
            close(name, &emissions(name, &run.device, run.dtype), &expected, &run);
        }
    }
}

#[test]
fn dense_network() {
    let load = |device: &Device, dtype| {
        let network = DenseGrounding::load(&folder("dense"), device, dtype).unwrap();
        (probabilities(&network), boxes(&network))
    };
    let expected = load(&Device::Cpu, DType::F32);
    for run in runs() {
        let actual = load(&run.device, run.dtype);
        close("dense, probabilities", &actual.0, &expected.0, &run);
        if run.is_exact() {
            close("dense, boxes", &actual.1, &expected.1, &run);
        }
    }
}

#[test]
fn ofa() {
    let entail = |device: &Device, dtype| {
        probabilities(&OfaEntailer::load(&folder("ofa/fairseq"), device, dtype).unwrap())
    };
    let ground = |device: &Device, dtype| {
        boxes(&OfaGrounder::load(&folder("ofa/fairseq"), device, dtype).unwrap())
    };
    let (probabilities, boxes) =
        (entail(&Device::Cpu, DType::F32), ground(&Device::Cpu, DType::F32));
    for run in runs() {
        close("OFA, probabilities", &entail(&run.device, run.dtype), &probabilities, &run);
        let found = ground(&run.device, run.dtype);
        if run.is_exact() {
            close("OFA, boxes", &found, &boxes, &run);
        }
    }
}

#[test]
fn sam() {
    // Embeddings, then the masks of two boxes.
    let masks = |name: &str, device: &Device, dtype| {
        let sam = Sam::load(&folder(name), device, dtype).unwrap();
        let embeddings = sam.encode(&pictures()).unwrap();
        let host = |t: &Tensor| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let cells: Vec<f32> = embeddings.iter().flat_map(|e| host(&e.cells).unwrap()).collect();
        let boxes =
            [BoundingBox::new(4.0, 5.0, 30.0, 40.0), BoundingBox::new(9.0, 9.0, 45.0, 60.0)];
        let input = |embedding| SegmentInput { embedding, boxes: boxes.to_vec() };
        let inputs: Vec<_> = embeddings.into_iter().map(input).collect();
        let masks = sam.segment(&inputs).unwrap().into_iter().flatten();
        (cells, masks.flat_map(|mask| mask.logits.values().to_vec()).collect::<Vec<f32>>())
    };
    for name in ["sam/windows", "sam/tables", "sam/convolutional"] {
        let expected = masks(name, &Device::Cpu, DType::F32);
        for run in runs() {
            let actual = masks(name, &run.device, run.dtype);
            close(&format!("{name}, embeddings"), &actual.0, &expected.0, &run);
            let deeper = Run { tolerance: 2.5 * run.tolerance, ..run };
            close(&format!("{name}, masks"), &actual.1, &expected.1, &deeper);
        }
    }
}
