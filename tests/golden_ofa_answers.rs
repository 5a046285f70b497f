//! OFA's answers from a picture and an expression to the end, against the port in the package
//! `modelscope`, transformers' tokenizer and Pillow (`training/golden/ofa_answers.py`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, safetensors};
use riveg::models::ofa::{
    ModelConfig, Ofa, OfaEntailer, OfaGrounder, TextBatch, Tokenizer, Weights,
};
use riveg::models::{EntailInput, Entailer, GroundInput, Grounder};
use riveg::vision::Picture;
use riveg::vision::resize::Filter;
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    picture: usize,
    expression: String,
    description: Option<String>,
    /// Of grounding and of entailment.
    prompts: [Prompt; 2],
    tokens: Vec<u32>,
    /// Nothing where the answer is no box.
    #[serde(rename = "box")]
    edges: Option<[f32; 4]>,
    /// Mean log-probability of the answer's tokens, and by how much it leads the second answer.
    score: f32,
    lead: f32,
    probability: f32,
}

#[derive(Deserialize)]
struct Prompt {
    text: String,
    ids: Vec<u32>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ofa/answers")
}

fn cases() -> Vec<Case> {
    serde_json::from_slice(&std::fs::read(folder().join("cases.json")).unwrap()).unwrap()
}

fn pictures() -> Vec<Arc<Picture>> {
    let tensors = safetensors::load(folder().join("pictures.safetensors"), &Device::Cpu).unwrap();
    let picture = |index: usize| {
        let rgb = &tensors[&index.to_string()];
        let (height, width, _) = rgb.dims3().unwrap();
        let bytes = rgb.flatten_all().unwrap().to_vec1().unwrap();
        Arc::new(Picture::from_rgb(width as u32, height as u32, bytes).unwrap())
    };
    (0..tensors.len()).map(picture).collect()
}

/// Ids of the reference's prompts; that ours are the same prompts shows in the answers.
#[test]
fn prompts_become_the_same_ids() {
    let weights = Weights::open(&folder(), DType::F32, &Device::Cpu).unwrap();
    let config = ModelConfig::read(&folder(), &weights, 480).unwrap();
    let network = config.network();
    let sizes = (network.vocab_size, network.max_position_embeddings);
    let tokenizer = Tokenizer::open(&folder(), config.vocabulary, sizes).unwrap();
    for prompt in cases().iter().flat_map(|case| &case.prompts) {
        assert_eq!(tokenizer.source(&prompt.text).unwrap(), prompt.ids, "{}", prompt.text);
    }
}

/// What beam search answers to each grounding prompt.
fn beam_tokens(cases: &[Case], pictures: &[Arc<Picture>], dtype: DType) -> Vec<Vec<u32>> {
    let weights = Weights::open(&folder(), dtype, &Device::Cpu).unwrap();
    let config = ModelConfig::read(&folder(), &weights, 480).unwrap();
    let network = Ofa::new(&config.network(), config.grid(), weights.builder).unwrap();
    // On a CPU only linear layers are kept in bf16.
    let dtype = if dtype == DType::BF16 { DType::F32 } else { dtype };
    let image = |picture: &Arc<Picture>| {
        let side = config.image_size;
        let rgb = picture.resize(side as u32, side as u32, Filter::Bicubic);
        let pixels: Vec<f32> = rgb.iter().map(|&byte| f32::from(byte) / 127.5 - 1.0).collect();
        let pixels = Tensor::from_vec(pixels, (1, side, side, 3), &Device::Cpu).unwrap();
        network.encoder().image_tokens(&pixels.to_dtype(dtype).unwrap()).unwrap()
    };
    let images: Vec<Tensor> = pictures.iter().map(image).collect();
    let answer = |case: &Case| {
        let ids = std::slice::from_ref(&case.prompts[0].ids);
        let text = TextBatch::new(ids, config.vocabulary.pad, &Device::Cpu).unwrap();
        let encoded = network.encoder().forward(&images[case.picture], &text).unwrap();
        let best = network.generate(&encoded, &config.vocabulary, (4, 5)).unwrap();
        best[0].tokens().to_vec()
    };
    cases.iter().map(answer).collect()
}

/// How far the answers of one type are from the reference's.
#[derive(Debug, Default)]
struct Distance {
    /// Answers of other tokens, and the largest lead that the reference's answer had among them.
    others: usize,
    lead: f32,
    /// Of answers of the same tokens: the largest difference of their edges, in bins, and of their
    /// mean log-probabilities.
    bins: f32,
    score: f32,
    /// The largest difference of probabilities of entailment.
    probability: f32,
}

impl Distance {
    fn of(dtype: DType) -> Self {
        let (cases, pictures) = (cases(), pictures());
        let grounder = OfaGrounder::load(&folder(), &Device::Cpu, dtype).unwrap();
        let entailer = OfaEntailer::load(&folder(), &Device::Cpu, dtype).unwrap();
        let picture = |case: &Case| pictures[case.picture].clone();
        let expression = |case: &Case| case.expression.as_str().into();
        let ground = |case| GroundInput { picture: picture(case), expression: expression(case) };
        let entail = |case: &Case| EntailInput {
            picture: picture(case),
            expression: expression(case),
            description: case.description.as_deref().map(Into::into),
        };
        let tokens = beam_tokens(&cases, &pictures, dtype);
        let found = grounder.ground(&cases.iter().map(ground).collect::<Vec<_>>()).unwrap();
        let judged = entailer.entail(&cases.iter().map(entail).collect::<Vec<_>>()).unwrap();
        let mut distance = Self::default();
        for (((case, tokens), found), judged) in cases.iter().zip(tokens).zip(found).zip(judged) {
            let gap = (judged.probability - case.probability).abs();
            distance.probability = distance.probability.max(gap);
            if tokens != case.tokens {
                distance.others += 1;
                distance.lead = distance.lead.max(case.lead);
                continue;
            }
            assert_eq!(found.is_some(), case.edges.is_some(), "{}", case.expression);
            let Some((found, edges)) = found.zip(case.edges) else { continue };
            let size = [picture(case).width() as f32, picture(case).height() as f32];
            for (side, (ours, theirs)) in found.bbox.to_array().iter().zip(edges).enumerate() {
                distance.bins = distance.bins.max((ours - theirs).abs() / size[side % 2] * 99.0);
            }
            distance.score = distance.score.max((found.score.ln() - case.score).abs());
        }
        println!("{dtype:?}: {distance:?} of {} answers", cases.len());
        distance
    }
}

#[test]
fn answers_are_the_references() {
    let distance = Distance::of(DType::F32);
    assert_eq!(distance.others, 0, "{distance:?}");
    assert!(distance.bins < 1e-3, "{distance:?}");
    assert!(distance.score < 1e-4, "{distance:?}");
    assert!(distance.probability < 1e-4, "{distance:?}");
}

/// Answers may differ where the reference itself is all but undecided.
#[test]
fn half_precision_answers_with_the_same_boxes() {
    for (dtype, undecided, tolerance) in [(DType::F16, 0.03, 0.02), (DType::BF16, 0.06, 0.05)] {
        let distance = Distance::of(dtype);
        assert!(distance.others <= 3, "{dtype:?}: {distance:?}");
        assert!(distance.lead < undecided, "{dtype:?}: {distance:?}");
        assert!(distance.bins < 0.01, "{dtype:?}: {distance:?}");
        assert!(distance.score > 0.0 && distance.score < tolerance, "{dtype:?}: {distance:?}");
        assert!(distance.probability > 0.0, "{dtype:?}: {distance:?}");
        assert!(distance.probability < tolerance, "{dtype:?}: {distance:?}");
    }
}

/// Answers that were all the same would say little.
#[test]
fn the_reference_answers_differ_and_lead() {
    let cases = cases();
    let boxes: Vec<_> = cases.iter().filter_map(|case| case.edges).collect();
    assert!(boxes.len() >= 5 && boxes.len() < cases.len(), "{} boxes", boxes.len());
    let yes = cases.iter().filter(|case| case.probability > 0.5).count();
    assert!(yes >= 6 && cases.len() - yes >= 6, "{yes} of {}", cases.len());
    assert!(cases.iter().all(|case| case.lead > 1e-3), "a near tie");
}
