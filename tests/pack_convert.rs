//! `riveg pack convert`: what it writes is the same network, and it tells what it left out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use candle_core::{DType, Device};
use riveg::models::dense::DenseGrounding;
use riveg::models::ofa::{OfaEntailer, OfaGrounder};
use riveg::models::sam::Sam;
use riveg::models::tagger::{TransformerTagger, WordInput};
use riveg::models::{
    EntailInput, Entailer, GroundInput, Grounder, Segmenter, TagInput, Tagger, WrittenAs,
};
use riveg::pack::{self, ConvertObserver, Converted, Role};
use riveg::vision::Picture;

struct Silent;

impl ConvertObserver for Silent {
    fn network(&self, _: Role) {}
    fn tensor(&self, _: usize, _: usize) {}
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn convert(source: &Path, role: Role, form: WrittenAs) -> (tempfile::TempDir, Converted) {
    let target = tempfile::tempdir().unwrap();
    let done = pack::convert_folder(source, target.path(), (role, form), &Silent).unwrap();
    (target, done)
}

fn picture() -> Arc<Picture> {
    let rgb = (0..48 * 32 * 3u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8);
    Arc::new(Picture::from_rgb(48, 32, rgb.collect()).unwrap())
}

fn entails(entailer: &dyn Entailer) -> Vec<u32> {
    let input = |expression: &str| EntailInput {
        picture: picture(),
        expression: expression.into(),
        description: None,
    };
    let inputs = [input("Rome (LOC)-a city"), input("Ann (PER)-an athlete")];
    entailer.entail(&inputs).unwrap().iter().map(|a| a.probability.to_bits()).collect()
}

fn grounds(grounder: &dyn Grounder) -> String {
    let input = GroundInput { picture: picture(), expression: "Rome (LOC)-a city".into() };
    format!("{:?}", grounder.ground(&[input]).unwrap())
}

const CPU: Device = Device::Cpu;

#[test]
fn taggers_are_the_same_afterwards() {
    for name in ["bert", "xlm_roberta", "bert_tokens"] {
        let source = golden("tagger").join(name);
        let (target, done) = convert(&source, Role::Tagger, WrittenAs::Stored);
        assert!(!done.names.read.is_empty());
        let tags = |dir: &Path| {
            let tagger = TransformerTagger::load(dir, &CPU, DType::F32).unwrap();
            let text = "Rome is where Ann met the Lakers".into();
            format!("{:?}", tagger.tag(&[TagInput { text, knowledge: None }]).unwrap())
        };
        assert_eq!(tags(target.path()), tags(&source), "{name}");
    }
}

/// Linear layers become bytes; the emissions stay near, and the same text has the same entities.
#[test]
fn bytes_are_a_quarter_and_lose_little() {
    let source = golden("tagger/xlm_roberta");
    let (target, done) = convert(&source, Role::Tagger, WrittenAs::Bytes);
    let summary = pack::inspect_weights(&done.to).unwrap();
    let bytes = summary.tensors.iter().filter(|tensor| tensor.dtype == "i8").count();
    // Six linear layers in each of two blocks, and a scale for each.
    let scales = |name: &str| name.ends_with(".weight_scale");
    assert_eq!(bytes, 12, "{:?}", summary.dtypes());
    assert_eq!(summary.tensors.iter().filter(|tensor| scales(&tensor.name)).count(), 12);
    let emissions = |dir: &Path| {
        let tagger = TransformerTagger::load(dir, &CPU, DType::F32).unwrap();
        let words = ["Rome", "is", "where", "Ann", "met"];
        let labelling = tagger.label(&[WordInput { words: &words, knowledge: &[] }]).unwrap();
        labelling[0].emissions.clone()
    };
    let (exact, rounded) = (emissions(&source), emissions(target.path()));
    let largest = exact.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let gap = exact.iter().zip(&rounded).fold(0f32, |gap, (a, b)| gap.max((a - b).abs()));
    assert!(gap > 0.0 && gap < 0.03 * largest, "{gap} of {largest}");
    // What is bytes already is not rounded again.
    let (twice, _) = convert(target.path(), Role::Tagger, WrittenAs::Bytes);
    assert_eq!(emissions(twice.path()), rounded);
}

/// A checkpoint of fairseq's alone, and a folder of the port's; both become ours.
#[test]
fn ofa_is_the_same_afterwards_whatever_its_folder_was() {
    let fairseq = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt"] {
        fs::copy(golden("ofa/fairseq").join(name), fairseq.path().join(name)).unwrap();
    }
    fs::copy(golden("ofa/fairseq.pt"), fairseq.path().join("checkpoint_best.pt")).unwrap();
    for source in [fairseq.path().to_owned(), golden("ofa/hub"), golden("ofa/fairseq")] {
        let (target, done) = convert(&source, Role::Entailer, WrittenAs::Stored);
        let load = |dir: &Path| OfaEntailer::load(dir, &CPU, DType::F32).unwrap();
        let (before, after) = (load(&source), load(target.path()));
        assert_eq!(entails(&after), entails(&before), "{}", source.display());
        let grounder = |dir: &Path| OfaGrounder::load(dir, &CPU, DType::F32).unwrap();
        assert_eq!(grounds(&grounder(target.path())), grounds(&grounder(&source)));
        assert_eq!(after.info().parameters, before.info().parameters);
        assert!(!target.path().join("configuration.json").exists());
        let is_of_decoder = |name: &String| name.starts_with("decoder.image_rel_pos_table_list");
        assert!(done.names.unused.iter().any(is_of_decoder), "{:?}", done.names);
    }
}

#[test]
fn what_is_computed_anew_is_told_apart_from_what_is_not_used() {
    let (_target, done) = convert(&golden("ofa/hub"), Role::Grounder, WrittenAs::Stored);
    let names = done.names;
    assert!(names.buffers.contains(&"encoder.embed_images.bn1.num_batches_tracked".to_owned()));
    // One matrix under three names is read once.
    assert!(names.read.contains(&"encoder.embed_tokens.weight".to_owned()));
    for copy in ["decoder.embed_tokens.weight", "decoder.output_projection.weight"] {
        assert!(names.unused.contains(&copy.to_owned()), "{names:?}");
    }
    let all = names.read.len() + names.buffers.len() + names.unused.len();
    let summary = pack::inspect_weights(&done.from).unwrap();
    assert_eq!(all, summary.tensors.len());
    assert_eq!(pack::inspect_weights(&done.to).unwrap().tensors.len(), names.read.len());
}

#[test]
fn a_segmenter_from_a_pytorch_file_is_the_same_afterwards() {
    let source = tempfile::tempdir().unwrap();
    fs::copy(golden("sam/tables.pth"), source.path().join("model.pth")).unwrap();
    fs::copy(golden("sam/tables/config.json"), source.path().join("config.json")).unwrap();
    let (target, _) = convert(source.path(), Role::Segmenter, WrittenAs::Stored);
    let embedding = |dir: &Path| {
        let sam = Sam::load(dir, &CPU, DType::F32).unwrap();
        let cells = sam.encode(&[picture()]).unwrap().remove(0).cells;
        cells.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(embedding(target.path()), embedding(source.path()));
}

#[test]
fn a_dense_network_is_found_out_and_is_the_same_afterwards() {
    let source = golden("dense");
    let (target, _) = convert(&source, Role::Grounder, WrittenAs::Stored);
    let load = |dir: &Path| DenseGrounding::load(dir, &CPU, DType::F32).unwrap();
    assert_eq!(entails(&load(target.path())), entails(&load(&source)));
    assert_eq!(grounds(&load(target.path())), grounds(&load(&source)));
}

/// Weights become the type that is asked for, and nothing is rounded twice.
#[test]
fn weights_become_another_type() {
    let source = golden("tagger/bert");
    let (target, done) = convert(&source, Role::Tagger, WrittenAs::Type(DType::BF16));
    assert_eq!(pack::inspect_weights(&done.to).unwrap().dtypes(), ["bf16"]);
    let (twice, _) = convert(target.path(), Role::Tagger, WrittenAs::Type(DType::BF16));
    let bytes = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
    assert_eq!(bytes(twice.path()), bytes(target.path()));
    assert!(bytes(target.path()).len() < bytes(&source).len());
}

#[test]
fn a_tensor_that_is_missing_is_named_and_nothing_is_overwritten() {
    let source = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden("tagger/bert")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, source.path().join(path.file_name().unwrap())).unwrap();
    }
    let file = source.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &CPU).unwrap();
    tensors.remove("linear.weight").unwrap();
    candle_core::safetensors::save(&tensors, &file).unwrap();
    let target = tempfile::tempdir().unwrap();
    let convert = |source: &Path, target: &Path| {
        let done = pack::convert_folder(source, target, (Role::Tagger, WrittenAs::Stored), &Silent);
        done.unwrap_err().to_string()
    };
    let error = convert(source.path(), target.path());
    assert!(error.contains("linear.weight"), "{error}");
    fs::write(target.path().join("mine"), "kept").unwrap();
    let error = convert(&golden("tagger/bert"), target.path());
    assert!(error.contains("not empty"), "{error}");
}

fn riveg(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_riveg"))
        .args(arguments)
        .env("RIVEG_MODELS_DIR", Path::new(env!("CARGO_MANIFEST_DIR")).join("models"))
        .env_remove("RIVEG_PACK")
        .output()
        .unwrap()
}

#[test]
fn a_whole_pack_is_converted_as_a_process() {
    let target = tempfile::tempdir().unwrap();
    let folder = target.path().join("converted");
    let out = folder.to_str().unwrap();
    let output = riveg(&["pack", "convert", "nano", "-o", out, "--dtype", "bf16"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}");
    for role in ["tagger", "entailer", "segmenter"] {
        assert!(text.lines().any(|line| line.starts_with(role)), "{text}");
    }
    assert_eq!(text.matches("every one read by the network, none missing").count(), 3, "{text}");
    let verified = riveg(&["pack", "verify", out]);
    assert!(verified.status.success(), "{verified:?}");
    let again = riveg(&["pack", "convert", "nano", "-o", out]);
    let errors = String::from_utf8(again.stderr).unwrap();
    assert!(!again.status.success() && errors.contains("not empty"), "{errors}");
}

#[test]
fn one_folder_is_converted_as_a_process() {
    let target = tempfile::tempdir().unwrap();
    let out = target.path().to_str().unwrap();
    let source = golden("ofa/hub");
    let source = source.to_str().unwrap();
    let output = riveg(&["pack", "convert", source, "--role", "grounder", "-o", out]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("left out"), "{text}");
    assert!(text.contains("--all lists them"), "{text}");
    let output = riveg(&["pack", "convert", "nowhere", "--role", "tagger", "-o", out]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("has to be a directory"), "{errors}");
}
