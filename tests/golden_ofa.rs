//! OFA against the port in the package `modelscope`, on small networks with random weights.
//! `training/golden/ofa.py` makes the files.

// Helper functions of tests do not count as tests for clippy.
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, safetensors};
use riveg::models::ofa::{
    ModelConfig, Ofa, OfaEntailer, OfaGrounder, TextBatch, Tokenizer, Vocabulary, Weights,
};
use riveg::models::{EntailInput, Entailer, GroundInput, Grounder, ModelError};
use riveg::vision::Picture;
use tokenizers::AddedToken;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// Largest error allowed, relative to the largest expected value.
const TOLERANCE: f32 = 1e-4;

/// The networks: fairseq's names and flags, the port's names with the opposite flags, and a folder of
/// the port's as it is downloaded, in half precision.
const NETWORKS: [&str; 3] = ["fairseq", "port", "hub"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ofa").join(name)
}

/// A network, its configuration, and what the reference answered.
struct Case {
    network: Ofa,
    config: ModelConfig,
    golden: HashMap<String, Tensor>,
}

impl Case {
    fn open(name: &str) -> Self {
        Self::with_weights(name, &folder(name))
    }

    fn with_weights(name: &str, weights: &Path) -> Self {
        let weights = Weights::open(weights, DType::F32, &Device::Cpu).unwrap();
        let config = ModelConfig::read(&folder(name), &weights, 480).unwrap();
        let network = Ofa::new(&config.network(), config.grid(), weights.builder).unwrap();
        let golden = folder(name).join("golden.safetensors");
        let golden = safetensors::load(golden, &Device::Cpu).unwrap();
        Self { network, config, golden }
    }

    fn lengths(&self) -> Vec<usize> {
        let lengths = self.golden["lengths"].to_vec1::<i64>().unwrap();
        lengths.into_iter().map(|n| n as usize).collect()
    }

    /// The texts of the batch, each without its last `drop` tokens.
    fn texts(&self, drop: usize) -> Vec<Vec<u32>> {
        let ids = self.golden["ids"].to_vec2::<i64>().unwrap();
        let rows = ids.iter().zip(self.lengths());
        rows.map(|(row, n)| row[..n - drop].iter().map(|&id| id as u32).collect()).collect()
    }

    fn batch(&self, texts: &[Vec<u32>]) -> TextBatch {
        TextBatch::new(texts, self.config.vocabulary.pad, &Device::Cpu).unwrap()
    }

    fn image(&self) -> Tensor {
        self.network.encoder().image_tokens(&self.pixels()).unwrap()
    }

    /// `[batch, side, side, 3]`; PyTorch has the channels first.
    fn pixels(&self) -> Tensor {
        self.golden["pixels"].permute((0, 2, 3, 1)).unwrap()
    }
}

/// Fails where two tensors differ, and says by how much they do.
fn assert_close(what: &str, actual: &Tensor, expected: &Tensor) {
    assert_eq!(actual.dims(), expected.dims(), "{what}");
    let largest = |t: &Tensor| {
        let values = t.abs().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(values.iter().all(|x| x.is_finite()), "{what}");
        values.into_iter().fold(0f32, f32::max)
    };
    let scale = largest(expected);
    let error = largest(&(actual - expected).unwrap()) / scale;
    println!("{what}: relative error {error:.1e} (largest value {scale:.3})");
    assert!(scale > 0.01 && error <= TOLERANCE, "{what}: {error}");
}

#[test]
fn the_trunk() {
    for name in NETWORKS {
        let case = Case::open(name);
        let features = case.network.encoder().trunk_features(&case.pixels()).unwrap();
        let features = features.permute((0, 3, 1, 2)).unwrap();
        assert_close(&format!("{name}: trunk"), &features, &case.golden["trunk"]);
    }
}

#[test]
fn the_encoder_with_padding() {
    for name in NETWORKS {
        let case = Case::open(name);
        let texts = case.batch(&case.texts(0));
        let encoded = case.network.encoder().forward(&case.image(), &texts).unwrap();
        let image = case.config.grid() * case.config.grid();
        for (row, length) in case.lengths().into_iter().enumerate() {
            let part = |t: &Tensor| t.get(row).unwrap().narrow(0, 0, image + length).unwrap();
            let (actual, expected) = (part(&encoded.hidden), part(&case.golden["encoder"]));
            assert_close(&format!("{name}: encoder, item {row}"), &actual, &expected);
        }
    }
}

#[test]
fn the_decoder_over_a_whole_prompt_and_token_by_token() {
    for name in NETWORKS {
        let case = Case::open(name);
        let (texts, prompts) = (case.texts(0), case.texts(1));
        for (row, prompt) in prompts.iter().enumerate() {
            let image = case.image().narrow(0, row, 1).unwrap();
            let text = case.batch(&texts[row..=row]);
            let encoded = case.network.encoder().forward(&image, &text).unwrap();
            let decoder = case.network.decoder();
            let ids = Tensor::new(prompt.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
            let whole = decoder.forward(&ids, &mut decoder.start(&encoded).unwrap()).unwrap();
            let expected = &case.golden["prompt_logits"].get(row).unwrap();
            let expected = expected.narrow(0, 0, prompt.len()).unwrap();
            let logits = decoder.logits(&whole.squeeze(0).unwrap()).unwrap();
            assert_close(&format!("{name}: logits, item {row}"), &logits, &expected);

            let mut state = decoder.start(&encoded).unwrap();
            let step = |t| decoder.forward(&ids.narrow(1, t, 1).unwrap(), &mut state).unwrap();
            let steps: Vec<Tensor> = (0..prompt.len()).map(step).collect();
            let steps = Tensor::cat(&steps, 1).unwrap();
            assert_close(&format!("{name}: token by token, item {row}"), &steps, &whole);
        }
    }
}

#[test]
fn the_answers_of_entailment() {
    for name in NETWORKS {
        let case = Case::open(name);
        let texts = case.batch(&case.texts(0));
        let encoded = case.network.encoder().forward(&case.image(), &texts).unwrap();
        let prompts = case.batch(&case.texts(1));
        let answers = [117, 42, 350];
        let logits = case.network.answer_logits(&encoded, &prompts, &answers).unwrap();
        let logits = Tensor::new(logits, &Device::Cpu).unwrap();
        let index = Tensor::new(&answers, &Device::Cpu).unwrap();
        let expected = case.golden["last_logits"].index_select(&index, 1).unwrap();
        assert_close(&format!("{name}: answers"), &logits, &expected);
    }
}

#[test]
fn beam_search_in_a_batch_and_alone() {
    for name in NETWORKS {
        let case = Case::open(name);
        let expected = case.golden["beam_tokens"].to_vec2::<i64>().unwrap();
        let scores = &case.golden["beam_scores"];
        let texts = case.texts(0);
        let generate = |image: &Tensor, texts: &[Vec<u32>]| {
            let encoded = case.network.encoder().forward(image, &case.batch(texts)).unwrap();
            case.network.generate(&encoded, &case.config.vocabulary, (4, 5)).unwrap()
        };
        let together = generate(&case.image(), &texts);
        for (row, text) in texts.iter().enumerate() {
            let tokens: Vec<u32> = expected[row].iter().map(|&token| token as u32).collect();
            assert_eq!(together[row].tokens(), tokens, "{name}, item {row}");
            let alone =
                generate(&case.image().narrow(0, row, 1).unwrap(), std::slice::from_ref(text));
            assert_eq!(alone[0].tokens(), tokens, "{name}, item {row}");
        }
        let actual: Vec<f32> = together.iter().map(|answer| answer.score).collect();
        let actual = Tensor::new(actual, &Device::Cpu).unwrap();
        assert_close(&format!("{name}: beam scores"), &actual, scores);
    }
}

#[test]
fn a_fairseq_checkpoint_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(folder("fairseq.pt"), dir.path().join("model.pt")).unwrap();
    let case = Case::with_weights("fairseq", dir.path());
    let texts = case.batch(&case.texts(0));
    let encoded = case.network.encoder().forward(&case.image(), &texts).unwrap();
    let first = |t: &Tensor| t.get(0).unwrap();
    assert_close("fairseq.pt: encoder", &first(&encoded.hidden), &first(&case.golden["encoder"]));
    let count = |dir: &Path| Weights::open(dir, DType::F32, &Device::Cpu).unwrap().info.parameters;
    assert_eq!(count(dir.path()), count(&folder("fairseq")));
}

/// Copies files of the golden folder `from` to a new one.
fn copied(from: &str, files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in files {
        fs::copy(folder(from).join(name), dir.path().join(name)).unwrap();
    }
    dir
}

/// Answers about three pictures.
fn answers(dir: &Path) -> Vec<f32> {
    let entailer = OfaEntailer::load(dir, &Device::Cpu, DType::F32).unwrap();
    let input = |i: usize| EntailInput {
        picture: picture(i as u32, 60, 60),
        expression: EXPRESSIONS[i].into(),
        description: None,
    };
    let answers = entailer.entail(&[input(0), input(1), input(2)]).unwrap();
    answers.into_iter().map(|answer| answer.probability).collect()
}

#[test]
fn a_checkpoint_of_fairseqs_needs_no_configuration() {
    let dir = copied("fairseq", &["vocab.json", "merges.txt"]);
    fs::copy(folder("fairseq.pt"), dir.path().join("refcoco_best.pt")).unwrap();
    let weights = Weights::open(dir.path(), DType::F32, &Device::Cpu).unwrap();
    let read = ModelConfig::read(dir.path(), &weights, 480).unwrap();
    let stated = Case::open("fairseq").config;
    assert_eq!(read.network(), stated.network());
    assert_eq!((read.image_size, read.vocabulary), (stated.image_size, stated.vocabulary));
    assert_eq!(answers(dir.path()), answers(&folder("fairseq")));
}

#[test]
fn a_configuration_that_contradicts_the_checkpoint_is_refused() {
    let dir = copied("fairseq", &["vocab.json", "merges.txt"]);
    fs::copy(folder("fairseq.pt"), dir.path().join("model.pt")).unwrap();
    let json = fs::read_to_string(folder("fairseq").join("config.json")).unwrap();
    let other = json
        .replace("\"entangle_decoder_positions\": false", "\"entangle_decoder_positions\": true");
    assert_ne!(json, other);
    fs::write(dir.path().join("config.json"), other).unwrap();
    let error = OfaEntailer::load(dir.path(), &Device::Cpu, DType::F32).err().unwrap();
    assert!(error.to_string().contains("entangle_decoder_positions = true"), "{error}");
}

/// ModelScope's folder says how large pictures are; Hugging Face's does not, so that the role decides.
#[test]
fn folders_of_the_port_load_as_they_are_downloaded() {
    let files = ["config.json", "pytorch_model.bin", "vocab.json", "merges.txt"];
    let weights = Weights::open(&folder("hub"), DType::F32, &Device::Cpu).unwrap();
    let side = |dir: &Path| ModelConfig::read(dir, &weights, 480).unwrap().image_size;
    let hugging_face = copied("hub", &files);
    assert_eq!((side(&folder("hub")), side(hugging_face.path())), (48, 480));
    let config = ModelConfig::read(&folder("hub"), &weights, 480).unwrap();
    assert_eq!((config.vocabulary.first_bin, config.vocabulary.bins), (400, 1000));
    assert_ne!(answers(hugging_face.path()), answers(&folder("hub")), "the side matters");
    // A list of GPT-2's ids beside a vocabulary that is numbered as the network is changes nothing.
    let before = answers(hugging_face.path());
    fs::write(hugging_face.path().join("dict.txt"), "13 1\n262 1\n").unwrap();
    assert_eq!(answers(hugging_face.path()), before);
    let json = fs::read_to_string(folder("hub").join("config.json")).unwrap();
    for (stated, other, told) in [
        ("\"d_model\": 16", "\"d_model\": 32", "d_model is 32, the weights have 16"),
        ("\"use_ofasys\": false", "\"use_ofasys\": true", "use_ofasys"),
        ("\"share_attn_bias\": false", "\"share_attn_bias\": true", "share_attn_bias"),
    ] {
        assert!(json.contains(stated), "{stated}");
        fs::write(hugging_face.path().join("config.json"), json.replace(stated, other)).unwrap();
        let error = ModelConfig::read(hugging_face.path(), &weights, 480).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

/// A folder with GPT-2's files as far as the texts need them, and a `dict.txt` with fillers.
fn gpt2_subset(subset: &serde_json::Value, dir: &Path) {
    fs::write(dir.join("encoder.json"), subset["encoder"].to_string()).unwrap();
    let merges = subset["merges"].as_array().unwrap().iter().map(|m| m.as_str().unwrap());
    let merges: Vec<_> = std::iter::once("#version: 0.2").chain(merges).collect();
    fs::write(dir.join("vocab.bpe"), merges.join("\n") + "\n").unwrap();
    let lines = subset["dictionary_lines"].as_u64().unwrap();
    let line = |n: u64| match subset["dictionary"].get((n + 4).to_string()) {
        Some(gpt2) => format!("{gpt2} 1\n"),
        None => format!("madeupword{n} 0\n"),
    };
    fs::write(dir.join("dict.txt"), (0..lines).map(line).collect::<String>()).unwrap();
}

/// The cases of `gpt2_subset.json`, with the tokenizer in `dir`.
fn check_tokenizations(subset: &serde_json::Value, dir: &Path) {
    let tokenizer = Tokenizer::open(dir, Vocabulary::default(), (59457, 1024)).unwrap();
    for case in subset["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(tokenizer.ids(text).unwrap(), ids, "{text}");
        let source = [&[0], ids.as_slice(), &[2]].concat();
        assert_eq!(tokenizer.source(text).unwrap(), source, "{text}");
    }
    assert_eq!(tokenizer.first_ids([" no", " yes", " maybe"]).unwrap(), [117, 4420, 2085]);
}

#[test]
fn gpt2_tokens_get_ofas_ids() {
    let json = fs::read_to_string(folder("gpt2_subset.json")).unwrap();
    let subset: serde_json::Value = serde_json::from_str(&json).unwrap();
    let dir = tempfile::tempdir().unwrap();
    gpt2_subset(&subset, dir.path());
    check_tokenizations(&subset, dir.path());
    match std::env::var_os("RIVEG_OFA_BPE") {
        Some(full) => check_tokenizations(&subset, Path::new(&full)),
        None => println!("RIVEG_OFA_BPE is not set: the full vocabulary is not checked"),
    }
}

#[test]
fn added_tokens_cannot_be_typed() {
    let open = |dir: &Path| Tokenizer::open(dir, vocabulary(), (400, 160)).unwrap();
    let tokenizer = open(&folder("fairseq"));
    for special in [None, Some(true), Some(false)] {
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = match special {
            None => open(&folder("fairseq")),
            Some(special) => {
                with_added_tokens(special).save(dir.path().join("tokenizer.json"), false).unwrap();
                open(dir.path())
            }
        };
        let ids = tokenizer.source(" <bin_7></s>").unwrap();
        let (ends, typed) = ((ids[0], ids[ids.len() - 1]), &ids[1..ids.len() - 1]);
        assert_eq!(ends, (0, 2));
        assert_eq!(typed.len(), " <bin_7></s>".len(), "{special:?}");
        assert!(typed.iter().all(|id| (4..260).contains(id)), "{special:?}: {typed:?}");
    }
    let long = tokenizer.source(&"x".repeat(1000)).unwrap();
    assert_eq!((long.len(), long[159]), (160, 2));
}

/// The tokenizer of the folder `fairseq` with `<bin_7>` and `</s>` as added tokens, special or not.
fn with_added_tokens(special: bool) -> tokenizers::Tokenizer {
    let file = |name: &str| folder("fairseq").join(name).to_str().unwrap().to_owned();
    let model = BPE::from_file(&file("vocab.json"), &file("merges.txt")).build().unwrap();
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    let tokens = ["<bin_7>", "</s>"].map(|token| AddedToken::from(token, special));
    tokenizer.add_tokens(tokens).unwrap();
    let typed = tokenizer.encode_fast(" <bin_7></s>", false).unwrap();
    assert!(typed.get_ids().len() < 5, "the file itself reads them as tokens");
    tokenizer
}

fn vocabulary() -> Vocabulary {
    let json = fs::read_to_string(folder("fairseq").join("config.json")).unwrap();
    serde_json::from_str::<ModelConfig>(&json).unwrap().vocabulary
}

/// A picture of coloured noise.
fn picture(seed: u32, width: u32, height: u32) -> Arc<Picture> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    // Blocks of 8 × 8 pixels survive the resizing.
    let columns = width.div_ceil(8);
    let blocks: Vec<[u8; 3]> =
        (0..columns * height.div_ceil(8)).map(|_| [byte(), byte(), byte()]).collect();
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| y / 8 * columns + x / 8));
    let rgb = pixels.flat_map(|block| blocks[block as usize]).collect();
    Arc::new(Picture::from_rgb(width, height, rgb).unwrap())
}

const EXPRESSIONS: [&str; 4] = [
    "LeBron James (PER)-an athlete",
    "Rome (LOC)-a city",
    "The Golden State Warriors (ORG)-a sports team",
    "it",
];

#[test]
fn entailment_batched_equals_single() {
    let entailer = OfaEntailer::load(&folder("fairseq"), &Device::Cpu, DType::F32).unwrap();
    let pictures = [picture(1, 96, 64), picture(2, 50, 131)];
    let input = |i: usize| EntailInput {
        picture: pictures[i % 2].clone(),
        expression: EXPRESSIONS[i % 4].into(),
        description: i.is_multiple_of(3).then(|| "a man with a ball".into()),
    };
    let inputs: Vec<_> = (0..8).map(input).collect();
    let together = entailer.entail(&inputs).unwrap();
    for (input, batched) in inputs.iter().zip(&together) {
        // Another loaded network, so that nothing is in its cache.
        let fresh = OfaEntailer::load(&folder("fairseq"), &Device::Cpu, DType::F32).unwrap();
        let input = std::slice::from_ref(input);
        for single in [fresh.entail(input), entailer.entail(input)] {
            let error = (single.unwrap()[0].probability - batched.probability).abs();
            assert!(error < 1e-5, "{error}");
        }
    }
    let mut values: Vec<f32> = together.iter().map(|e| e.probability).collect();
    assert!(values.iter().all(|p| (0.0..=1.0).contains(p)), "{values:?}");
    values.sort_by(f32::total_cmp);
    assert!(values[7] - values[0] > 0.01, "pictures and texts must matter: {values:?}");
    assert!(entailer.entail(&[]).unwrap().is_empty());
    let cost = |description| entailer.cost(EXPRESSIONS[0], description);
    assert!(cost(Some("a man with a ball on a wide green field")) > cost(None));
    assert!(entailer.picture_cost() > 0);
    assert_eq!(entailer.info().architecture, "ofa");
}

#[test]
fn grounding_batched_equals_single() {
    let grounder = OfaGrounder::load(&folder("fairseq"), &Device::Cpu, DType::F32).unwrap();
    let inputs: Vec<_> = (0..24)
        .map(|i| GroundInput {
            picture: picture(i / 2, 40 + i, 90),
            expression: EXPRESSIONS[i as usize % 4].into(),
        })
        .collect();
    let together = grounder.ground(&inputs).unwrap();
    for (input, batched) in inputs.iter().zip(&together) {
        let single = grounder.ground(std::slice::from_ref(input)).unwrap()[0];
        assert_eq!(single.map(|g| g.bbox), batched.map(|g| g.bbox));
        let Some((single, batched)) = single.zip(*batched) else { continue };
        assert!((single.score - batched.score).abs() < 1e-5);
        assert!(batched.score > 0.0 && batched.score <= 1.0);
        let size = (input.picture.width(), input.picture.height());
        assert_eq!(batched.bbox.clip(size.0, size.1), Some(batched.bbox));
        assert!(batched.bbox.area() > 0.0);
    }
    let found = together.iter().flatten().count();
    println!("{found} of {} answers are boxes", together.len());
    assert!(found > 0 && found < together.len(), "both kinds of answers must occur");
    assert!(grounder.cost(EXPRESSIONS[0]) > 0 && grounder.picture_cost() > 0);
}

#[test]
fn weights_that_are_not_finite_are_an_error() {
    let copy = |name: &str| {
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(folder("fairseq")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
        let file = dir.path().join("model.safetensors");
        let mut tensors = safetensors::load(&file, &Device::Cpu).unwrap();
        let nan = tensors[name].affine(0.0, f64::NAN).unwrap();
        tensors.insert(name.to_owned(), nan);
        safetensors::save(&tensors, &file).unwrap();
        dir
    };
    let trunk = "encoder.embed_images";
    for name in ["conv1.weight", "bn1.bias", "layer1.0.conv2.weight", "layer3.0.bn3.bias"] {
        let dir = copy(&format!("{trunk}.{name}"));
        let entailer = OfaEntailer::load(dir.path(), &Device::Cpu, DType::F32).unwrap();
        let grounder = OfaGrounder::load(dir.path(), &Device::Cpu, DType::F32).unwrap();
        let (picture, expression) = (picture(1, 64, 64), EXPRESSIONS[0].into());
        let ground = GroundInput { picture, expression };
        let entail = EntailInput {
            picture: ground.picture.clone(),
            expression: ground.expression.clone(),
            description: None,
        };
        assert!(matches!(entailer.entail(&[entail]), Err(ModelError::NotFinite(_))), "{name}");
        assert!(matches!(grounder.ground(&[ground]), Err(ModelError::NotFinite(_))), "{name}");
    }
}

/// Half precision is for accelerators, but the whole way must work in it (candle multiplies no
/// BF16 matrices on the CPU, so F16 stands for both).
#[test]
fn half_precision_stays_near() {
    let entail = |dtype| {
        let entailer = OfaEntailer::load(&folder("fairseq"), &Device::Cpu, dtype).unwrap();
        let input = |i: usize| EntailInput {
            picture: picture(i as u32, 60, 60),
            expression: EXPRESSIONS[i].into(),
            description: None,
        };
        let answers = entailer.entail(&[input(0), input(1), input(2), input(3)]).unwrap();
        answers.into_iter().map(|a| a.probability).collect::<Vec<_>>()
    };
    let (exact, half) = (entail(DType::F32), entail(DType::F16));
    let error = exact.iter().zip(&half).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    println!("F16: {error:.1e}");
    assert!(error < 0.01, "{exact:?} {half:?}");
    let small = entail(DType::BF16);
    let error = exact.iter().zip(&small).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    println!("BF16: {error:.1e}");
    assert!(error > 0.0 && error < 0.02, "{exact:?} {small:?}");
    // Unlike its tokens, the answers' scores are not rounded to F16.
    let case = Case::open("fairseq");
    let weights = Weights::open(&folder("fairseq"), DType::F16, &Device::Cpu).unwrap();
    let network = Ofa::new(&case.config.network(), case.config.grid(), weights.builder).unwrap();
    let pixels = case.pixels().to_dtype(DType::F16).unwrap();
    let image = network.encoder().image_tokens(&pixels).unwrap();
    let encoded = network.encoder().forward(&image, &case.batch(&case.texts(0))).unwrap();
    let prompts = case.batch(&case.texts(1));
    let logits = network.answer_logits(&encoded, &prompts, &[117, 42, 350]).unwrap();
    let logits = Tensor::new(logits, &Device::Cpu).unwrap();
    let rounded = logits.to_dtype(DType::F16).unwrap().to_dtype(DType::F32).unwrap();
    let lost = (logits - rounded).unwrap().abs().unwrap().max_all().unwrap();
    assert!(lost.to_scalar::<f32>().unwrap() > 0.0);
    let grounder = OfaGrounder::load(&folder("fairseq"), &Device::Cpu, DType::F16).unwrap();
    let input = GroundInput { picture: picture(1, 64, 64), expression: EXPRESSIONS[0].into() };
    grounder.ground(&[input.clone(), input]).unwrap();
}
