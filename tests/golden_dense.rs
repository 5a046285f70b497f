//! The dense network against PyTorch (`training/golden/dense.py`), on small random weights.

// Helpers, like the tests that call them, fail by panicking.
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use riveg::models::dense::{Config, Dense, DenseGrounding, ExpressionTokenizer};
use riveg::models::{EntailInput, Entailer, GroundInput, Grounder, Grounding, ModelError};
use riveg::vision::Picture;
use riveg::vision::resize::Filter;
use serde::Deserialize;

/// Largest error allowed, relative to the largest expected value.
const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Cases {
    tokens: Vec<TokenCase>,
    answers: Vec<AnswerCase>,
}

#[derive(Deserialize)]
struct TokenCase {
    expression: String,
    ids: Vec<u32>,
    positions: Vec<u32>,
    kind: u32,
}

#[derive(Deserialize)]
struct AnswerCase {
    picture: usize,
    expression: String,
    probability: f32,
    #[serde(rename = "box")]
    edges: [f32; 4],
    score: f32,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dense")
}

fn cases() -> Cases {
    serde_json::from_slice(&std::fs::read(folder().join("cases.json")).unwrap()).unwrap()
}

fn tensors() -> HashMap<String, Tensor> {
    candle_core::safetensors::load(folder().join("tensors.safetensors"), &Device::Cpu).unwrap()
}

fn config() -> Config {
    serde_json::from_slice(&std::fs::read(folder().join("config.json")).unwrap()).unwrap()
}

fn load() -> DenseGrounding {
    DenseGrounding::load(&folder(), &Device::Cpu, DType::F32).unwrap()
}

fn picture(tensors: &HashMap<String, Tensor>, index: usize) -> Arc<Picture> {
    let rgb = &tensors[&format!("{index}.rgb")];
    let (height, width, _) = rgb.dims3().unwrap();
    let bytes = rgb.flatten_all().unwrap().to_vec1().unwrap();
    Arc::new(Picture::from_rgb(width as u32, height as u32, bytes).unwrap())
}

/// The largest difference, relative to the largest expected value.
fn difference(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

fn close_within(tolerance: f32, ours: &[f32], theirs: &[f32], what: &str) {
    let difference = difference(ours, theirs);
    assert!(difference <= tolerance, "{what}: differs by {difference}");
}

fn close(ours: &[f32], theirs: &[f32], what: &str) {
    close_within(TOLERANCE, ours, theirs, what);
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn questions() -> (Vec<EntailInput>, Vec<GroundInput>, Vec<AnswerCase>) {
    let tensors = tensors();
    let pictures = [picture(&tensors, 0), picture(&tensors, 1)];
    let answers = cases().answers;
    let picture = |case: &AnswerCase| pictures[case.picture].clone();
    let entail = answers.iter().map(|case| EntailInput {
        picture: picture(case),
        expression: case.expression.as_str().into(),
        description: None,
    });
    let ground = answers.iter().map(|case| GroundInput {
        picture: picture(case),
        expression: case.expression.as_str().into(),
    });
    (entail.collect(), ground.collect(), answers)
}

#[test]
fn expressions_become_the_same_word_pieces() {
    let tokenizer = ExpressionTokenizer::open(&folder(), &config()).unwrap();
    for case in cases().tokens {
        let tokens = tokenizer.encode(&case.expression).unwrap();
        assert_eq!(tokens.ids, case.ids, "{}", case.expression);
        assert_eq!(tokens.positions, case.positions, "{}", case.expression);
        assert_eq!(tokens.kind, case.kind, "{}", case.expression);
    }
}

#[test]
fn maps_are_pytorchs() {
    let data = std::fs::read(folder().join("model.safetensors")).unwrap();
    let vb = VarBuilder::from_buffered_safetensors(data, DType::F32, &Device::Cpu).unwrap();
    let network = Dense::new(&config(), vb).unwrap();
    let tokenizer = ExpressionTokenizer::open(&folder(), &config()).unwrap();
    let tensors = tensors();
    let pixels = Tensor::cat(&[&tensors["0.pixels"], &tensors["1.pixels"]], 0).unwrap();
    let pixels = pixels.permute((0, 2, 3, 1)).unwrap();
    for (k, scene) in network.look(&pixels).unwrap().iter().enumerate() {
        close(&values(&scene.cells), &values(&tensors[&format!("{k}.cells")]), "cells");
        for (row, case) in cases().tokens.iter().enumerate() {
            let text = network.read(&tokenizer.encode(&case.expression).unwrap()).unwrap();
            let maps = network.maps(scene, &text).unwrap();
            let golden = |name: &str| values(&tensors[&format!("{k}.{name}")].get(row).unwrap());
            close(&maps.presence, &golden("presence"), &case.expression);
            close(&maps.selection, &golden("selection"), &case.expression);
        }
    }
}

#[test]
fn pixels_are_pillows() {
    let tensors = tensors();
    for k in 0..2 {
        let side = config().side as u32;
        let rgb = picture(&tensors, k).resize(side, side, Filter::Bilinear);
        let golden = tensors[&format!("{k}.pixels")].get(0).unwrap().permute((1, 2, 0)).unwrap();
        let ours: Vec<f32> = rgb.iter().map(|&byte| f32::from(byte) / 127.5 - 1.0).collect();
        close(&ours, &values(&golden), "pixels");
    }
}

#[test]
fn answers_are_pytorchs() {
    answers_agree(&load(), TOLERANCE);
}

/// Asserts that probabilities, boxes and scores are the golden ones. A box always has area here: it
/// reaches a thousandth of the picture to each side of its cell at the least.
fn answers_agree(model: &DenseGrounding, tolerance: f32) {
    let (entail, ground, answers) = questions();
    let probabilities = model.entail(&entail).unwrap();
    let groundings = model.ground(&ground).unwrap();
    for ((case, entailment), grounding) in answers.iter().zip(probabilities).zip(groundings) {
        let what = &case.expression;
        let grounding = grounding.unwrap();
        close_within(tolerance, &[entailment.probability], &[case.probability], what);
        close_within(tolerance, &grounding.bbox.to_array(), &case.edges, what);
        close_within(tolerance, &[grounding.score], &[case.score], what);
    }
}

/// Answers that were the same for both pictures would say nothing about the half of the network that
/// looks at pictures.
#[test]
fn golden_answers_depend_on_the_picture() {
    let answers = cases().answers;
    let (first, second): (Vec<_>, Vec<_>) = answers.iter().partition(|case| case.picture == 0);
    let apart = |a: f32, b: f32| difference(&[a], &[b]) > 100.0 * TOLERANCE;
    for (a, b) in first.iter().zip(&second) {
        assert_eq!(a.expression, b.expression);
        assert!(apart(a.probability, b.probability), "{}", a.expression);
    }
    let scores = first.iter().zip(&second).filter(|(a, b)| apart(a.score, b.score)).count();
    assert!(scores * 2 > first.len(), "{scores} scores of {} differ", first.len());
}

/// Half precision is for accelerators, but the whole way must work in it.
#[test]
fn half_precision_stays_close() {
    let model = DenseGrounding::load(&folder(), &Device::Cpu, DType::F16).unwrap();
    answers_agree(&model, 0.02);
    let model = DenseGrounding::load(&folder(), &Device::Cpu, DType::BF16).unwrap();
    answers_agree(&model, 0.02);
}

#[test]
fn an_answer_does_not_depend_on_its_batch() {
    let (entail, ground, _) = questions();
    let together = (load().entail(&entail).unwrap(), load().ground(&ground).unwrap());
    let model = load();
    let alone = |input: &GroundInput| model.ground(std::slice::from_ref(input)).unwrap()[0];
    assert_eq!(together.1, ground.iter().map(alone).collect::<Vec<Option<Grounding>>>());
    for (input, expected) in entail.iter().zip(&together.0) {
        assert_eq!(model.entail(std::slice::from_ref(input)).unwrap(), [*expected]);
    }
    assert!(model.entail(&[]).unwrap().is_empty() && model.ground(&[]).unwrap().is_empty());
}

#[test]
fn what_is_not_finite_is_an_error() {
    let (entail, ground, _) = questions();
    for name in
        ["trunk.stem.weight", "trunk.stages.0.0.depth.bias", "trunk.embed.bias", "text.up.bias"]
    {
        let model = poisoned(name);
        assert!(matches!(model.entail(&entail[..1]), Err(ModelError::NotFinite(_))), "{name}");
        assert!(matches!(model.ground(&ground[..1]), Err(ModelError::NotFinite(_))), "{name}");
    }
    for name in ["judge_cell.weight", "judge_scene.bias"] {
        let answer = poisoned(name).entail(&entail[..1]);
        assert!(matches!(answer, Err(ModelError::NotFinite(_))), "{name}");
    }
    let answer = poisoned("box_cell.weight").ground(&ground[..1]);
    assert!(matches!(answer, Err(ModelError::NotFinite(_))));
}

/// The network with one tensor that is not a number.
fn poisoned(name: &str) -> DenseGrounding {
    let spoiled = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json"] {
        std::fs::copy(folder().join(name), spoiled.path().join(name)).unwrap();
    }
    let weights = folder().join("model.safetensors");
    let mut weights = candle_core::safetensors::load(weights, &Device::Cpu).unwrap();
    let nan = weights[name].affine(0.0, f64::NAN).unwrap();
    weights.insert(name.to_owned(), nan);
    candle_core::safetensors::save(&weights, spoiled.path().join("model.safetensors")).unwrap();
    DenseGrounding::load(spoiled.path(), &Device::Cpu, DType::F32).unwrap()
}

#[test]
fn missing_files_are_named() {
    let empty = tempfile::tempdir().unwrap();
    let Err(error) = DenseGrounding::load(empty.path(), &Device::Cpu, DType::F32) else {
        panic!("loaded from an empty folder");
    };
    assert!(error.to_string().contains("config.json"), "{error}");
}
