//! The tagger against transformers, with and without pytorch-crf, on small random weights
//! (`training/golden/tagger.py`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use riveg::models::tagger::crf::Crf;
use riveg::models::tagger::input::Preprocessor;
use riveg::models::tagger::labels::LabelSet;
use riveg::models::tagger::{Config, Labelling, TransformerTagger, WordInput};
use riveg::models::{ModelError, TagInput, Tagger};
use serde::Deserialize;
use tokenizers::Tokenizer;

/// Allowed error, relative to the larger of the value and one.
const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Case {
    name: String,
    words: Vec<String>,
    knowledge: Vec<String>,
    ids: Vec<u32>,
    types: Vec<u32>,
    firsts: Vec<usize>,
    sentence: usize,
    path: Vec<usize>,
    emissions: Vec<f32>,
    marginals: Option<Vec<Vec<f64>>>,
    fine: Option<Vec<Fine>>,
}

#[derive(Deserialize)]
struct Fine {
    span: (usize, usize),
    kind: String,
    name: String,
    score: f32,
}

struct Golden {
    dir: PathBuf,
    cases: Vec<Case>,
}

impl Golden {
    fn open(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tagger").join(name);
        let cases = std::fs::read(dir.join("cases.json")).unwrap();
        Self { cases: serde_json::from_slice(&cases).unwrap(), dir }
    }

    fn tagger(&self) -> TransformerTagger {
        TransformerTagger::load(&self.dir, &Device::Cpu, DType::F32).unwrap()
    }

    fn label(&self, tagger: &TransformerTagger, cases: &[&Case]) -> Vec<Labelling> {
        let words: Vec<(Vec<&str>, Vec<&str>)> =
            cases.iter().map(|case| (borrow(&case.words), borrow(&case.knowledge))).collect();
        let inputs: Vec<WordInput> =
            words.iter().map(|(words, knowledge)| WordInput { words, knowledge }).collect();
        tagger.label(&inputs).unwrap()
    }
}

fn borrow(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn assert_close(found: f64, expected: f64, what: &str) {
    let error = (found - expected).abs() / expected.abs().max(1.0);
    assert!(error <= TOLERANCE, "{what}: {found} instead of {expected}");
}

const BOTH: [&str; 2] = ["bert", "xlm_roberta"];
/// As transformers saves token classifiers.
const TOKENS: [&str; 2] = ["bert_tokens", "xlm_roberta_tokens"];

fn all() -> impl Iterator<Item = &'static str> {
    BOTH.into_iter().chain(TOKENS)
}

#[test]
fn pieces_and_truncation() {
    for name in all() {
        let golden = Golden::open(name);
        let tokenizer = Tokenizer::from_file(golden.dir.join("tokenizer.json")).unwrap();
        let config = Config::read(&golden.dir).unwrap();
        let preprocessor = Preprocessor::new(tokenizer, &config).unwrap();
        for case in &golden.cases {
            let (words, knowledge) = (borrow(&case.words), borrow(&case.knowledge));
            let input = WordInput { words: &words, knowledge: &knowledge };
            let sequence = preprocessor.sequence(&input).unwrap();
            assert_eq!(sequence.ids, case.ids, "{name}, {}", case.name);
            assert_eq!(sequence.token_types, case.types, "{name}, {}", case.name);
            assert_eq!(sequence.firsts, case.firsts, "{name}, {}", case.name);
            assert_eq!(sequence.sentence, case.sentence, "{name}, {}", case.name);
        }
    }
}

#[test]
fn emissions_and_paths_in_one_padded_batch_and_alone() {
    for name in all() {
        let golden = Golden::open(name);
        let tagger = golden.tagger();
        let all: Vec<&Case> = golden.cases.iter().collect();
        let together = golden.label(&tagger, &all);
        for (case, batched) in golden.cases.iter().zip(together) {
            let alone = golden.label(&tagger, &[case]).remove(0);
            for labelling in [batched, alone] {
                assert_eq!(labelling.emissions.len(), case.emissions.len());
                for (&found, &expected) in labelling.emissions.iter().zip(&case.emissions) {
                    assert_close(found.into(), expected.into(), &case.name);
                }
                assert_eq!(labelling.path, case.path, "{name}, {}", case.name);
                assert_eq!(labelling.sentence, case.sentence);
            }
        }
    }
}

/// Half precision is for accelerators, but the whole way must work in it. Only the encoder runs in
/// it: emissions are not rounded to F16.
#[test]
fn half_precision_stays_close() {
    for name in all() {
        let golden = Golden::open(name);
        let tagger = TransformerTagger::load(&golden.dir, &Device::Cpu, DType::F16).unwrap();
        let small = TransformerTagger::load(&golden.dir, &Device::Cpu, DType::BF16).unwrap();
        let all: Vec<&Case> = golden.cases.iter().collect();
        for (case, labelling) in all.iter().zip(golden.label(&small, &all)) {
            let largest = case.emissions.iter().fold(0f32, |max, value| max.max(value.abs()));
            for (found, expected) in labelling.emissions.iter().zip(&case.emissions) {
                let error = (found - expected).abs() / largest;
                assert!(error < 0.04, "{name}, {}, BF16: {found} for {expected}", case.name);
            }
        }
        let mut rounded = true;
        for (case, labelling) in all.iter().zip(golden.label(&tagger, &all)) {
            let largest = case.emissions.iter().fold(0f32, |max, value| max.max(value.abs()));
            for (found, expected) in labelling.emissions.iter().zip(&case.emissions) {
                let error = (found - expected).abs() / largest;
                assert!(error < 0.01, "{name}, {}: {found} for {expected}", case.name);
            }
            let emissions = Tensor::new(labelling.emissions.as_slice(), &Device::Cpu).unwrap();
            let half = emissions.to_dtype(DType::F16).unwrap().to_dtype(DType::F32).unwrap();
            rounded &= half.to_vec1::<f32>().unwrap() == labelling.emissions;
            assert_eq!(labelling.path, case.path, "{name}, {}", case.name);
        }
        assert!(!rounded, "{name}");
    }
}

#[test]
fn marginals_are_those_of_brute_force() {
    for name in BOTH {
        let golden = Golden::open(name);
        let labels = Config::read(&golden.dir).unwrap().labels.len();
        let weights = std::fs::read(golden.dir.join("model.safetensors")).unwrap();
        let vb = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu).unwrap();
        let crf = Crf::load(labels, &vb.pp("crf")).unwrap();
        let mut compared = 0;
        for case in &golden.cases {
            let Some(marginals) = &case.marginals else { continue };
            let lattice = crf.lattice(&case.emissions);
            for (word, row) in marginals.iter().enumerate() {
                for (label, &expected) in row.iter().enumerate() {
                    assert_close(lattice.marginal(word, label, labels), expected, &case.name);
                    compared += 1;
                }
            }
        }
        assert!(compared > 50, "{name}: only {compared} marginals");
    }
}

/// The scope decides how many words the CRF sees.
#[test]
fn both_scopes() {
    for (name, sees_knowledge) in [("bert", false), ("xlm_roberta", true)] {
        let golden = Golden::open(name);
        let case = golden.cases.iter().find(|case| case.name == "knowledge").unwrap();
        let labelling = golden.label(&golden.tagger(), &[case]).remove(0);
        let seen = if sees_knowledge { case.firsts.len() } else { case.sentence };
        assert_eq!(labelling.path.len(), seen, "{name}");
    }
}

/// A CRF over the whole sequence finds entities in the knowledge too; none of them is answered.
#[test]
fn entities_of_the_knowledge_are_no_answers() {
    let golden = Golden::open("xlm_roberta");
    let tagger = golden.tagger();
    let labels = LabelSet::parse(&Config::read(&golden.dir).unwrap().labels).unwrap();
    let mut outside = 0;
    for case in golden.cases.iter().filter(|case| !case.knowledge.is_empty()) {
        let (words, knowledge) = (borrow(&case.words), borrow(&case.knowledge));
        let input = WordInput { words: &words, knowledge: &knowledge };
        let found = tagger.tag_words(&[input]).unwrap().remove(0);
        let found: Vec<_> = found.iter().map(|entity| (entity.start, entity.end)).collect();
        let all = labels.spans(&case.path).into_iter().map(|span| (span.start, span.end));
        let (inside, beyond): (Vec<_>, Vec<_>) = all.partition(|span| span.1 <= case.sentence);
        assert_eq!(found, inside, "{}", case.name);
        outside += beyond.len();

        let text: Arc<str> = case.words.join(" ").into();
        let knowledge = Some(case.knowledge.join(" ").into());
        let answer = tagger.tag(&[TagInput { text: text.clone(), knowledge }]).unwrap().remove(0);
        let length = text.chars().count();
        assert!(answer.iter().all(|entity| entity.span.end <= length), "{}", case.name);
    }
    assert!(outside > 0, "no entity is beyond its sentence");
}

#[test]
fn fine_types_of_tagged_entities() {
    let golden = Golden::open("bert");
    let tagger = golden.tagger();
    let mut compared = 0;
    for case in &golden.cases {
        let (words, knowledge) = (borrow(&case.words), borrow(&case.knowledge));
        let input = WordInput { words: &words, knowledge: &knowledge };
        for entity in tagger.tag_words(&[input]).unwrap().remove(0) {
            assert!((0.0..=1.0).contains(&entity.score));
            let found = entity.fine.unwrap();
            let expected = case.fine.iter().flatten().find(|fine| {
                fine.span == (entity.start, entity.end) && entity.kind.name() == fine.kind
            });
            let expected = expected.unwrap();
            assert_eq!(found.name, expected.name, "{}", case.name);
            assert_close(found.score.into(), expected.score.into(), &case.name);
            compared += 1;
        }
    }
    assert!(compared > 0, "no tagged entity is among the golden ones");
}

#[test]
fn entities_carry_code_point_offsets() {
    let tagger = Golden::open("bert").tagger();
    let text = "🏀 LeBron's lakers, \u{1F1FA}\u{1F1F8} new york café!";
    let inputs: Vec<TagInput> = [text, "", " \n\t", "🎉"]
        .iter()
        .map(|&text| TagInput { text: text.into(), knowledge: None })
        .collect();
    let answers = tagger.tag(&inputs).unwrap();
    assert_eq!(answers.len(), 4);
    assert!(answers[1].is_empty() && answers[2].is_empty());
    assert!(!answers[0].is_empty());
    let length = text.chars().count();
    let mut at = 0;
    for entity in &answers[0] {
        assert!(at <= entity.span.start && entity.span.start < entity.span.end);
        assert!(entity.span.end <= length);
        at = entity.span.end;
    }
    for (input, expected) in inputs.iter().zip(&answers) {
        let alone = tagger.tag(std::slice::from_ref(input)).unwrap().remove(0);
        let spans = |found: &[riveg::models::TaggedEntity]| {
            found.iter().map(|entity| (entity.span, entity.kind)).collect::<Vec<_>>()
        };
        assert_eq!(spans(&alone), spans(expected));
    }
}

#[test]
fn weights_that_are_not_finite_are_an_error() {
    let input = TagInput { text: "lakers".into(), knowledge: None };
    for name in ["linear.bias", "embedder.transformer_model.embeddings.word_embeddings.weight"] {
        let answer = poisoned(name).unwrap().tag(std::slice::from_ref(&input));
        assert!(matches!(answer, Err(ModelError::NotFinite(_))), "{name}");
    }
    for name in ["start_transitions", "end_transitions", "transitions"] {
        let loaded = poisoned(&format!("crf.{name}"));
        assert!(matches!(loaded, Err(ModelError::NotFinite(_))), "{name}");
    }
}

/// The tagger with one tensor that is not a number.
fn poisoned(name: &str) -> Result<TransformerTagger, ModelError> {
    let golden = Golden::open("bert");
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(golden.dir.join(file), dir.path().join(file)).unwrap();
    }
    let mut tensors =
        candle_core::safetensors::load(golden.dir.join("model.safetensors"), &Device::Cpu).unwrap();
    let nan = tensors[name].affine(0.0, f64::NAN).unwrap();
    tensors.insert(name.to_owned(), nan);
    candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
    TransformerTagger::load(dir.path(), &Device::Cpu, DType::F32)
}

#[test]
fn a_folder_without_weights_is_an_error() {
    let golden = Golden::open("bert");
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(golden.dir.join(file), dir.path().join(file)).unwrap();
    }
    let found = TransformerTagger::load(dir.path(), &Device::Cpu, DType::F32);
    assert!(matches!(found, Err(ModelError::Weights(_))));
}

/// Of a word that is an entity by itself, the score is the softmax of its label, less what neighbours
/// that carry it on take away; without neighbours of its type, nothing.
#[test]
fn scores_without_a_crf_are_softmax() {
    let golden = Golden::open("bert_tokens");
    let tagger = golden.tagger();
    let case = golden.cases.iter().find(|case| case.name == "one word").unwrap();
    let words = borrow(&case.words);
    let tagged =
        tagger.tag_words(&[WordInput { words: &words, knowledge: &[] }]).unwrap().remove(0);
    let marginal = case.marginals.as_ref().unwrap()[0][case.path[0]];
    let labels = Config::read(&golden.dir).unwrap().labels;
    assert_eq!(tagged.len(), usize::from(labels[case.path[0]] != "O"));
    for entity in tagged {
        assert_close(entity.score.into(), marginal, "score");
    }
}

/// AdaSeq's `output_best`: the encoder's own config.json, and the labels beside it.
#[test]
fn the_folder_that_adaseq_writes() {
    let golden = Golden::open("xlm_roberta");
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &serde_json::Value| {
        std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    };
    let own: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden.dir.join("config.json")).unwrap()).unwrap();
    let names = own["labels"].as_array().unwrap();
    let ids: serde_json::Map<_, _> =
        names.iter().enumerate().map(|(id, name)| (id.to_string(), name.clone())).collect();
    write("config.json", &own["encoder"]);
    write("configuration.json", &serde_json::json!({"model": {"id_to_label": ids}}));
    for file in ["model.safetensors", "tokenizer.json"] {
        std::fs::copy(golden.dir.join(file), dir.path().join(file)).unwrap();
    }
    let tagger = TransformerTagger::load(dir.path(), &Device::Cpu, DType::F32).unwrap();
    let cases: Vec<&Case> = golden.cases.iter().collect();
    for (case, labelling) in cases.iter().zip(golden.label(&tagger, &cases)) {
        assert_eq!(labelling.path, case.path, "{}", case.name);
    }
}
