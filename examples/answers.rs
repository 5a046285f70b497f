//! What a network answers to inputs that lie beside its weights, written to a file of tensors.
//! `training/parity/full_size.py` compares it with PyTorch (docs/parity.md).
//!
//!     cargo run --release --example answers -- tagger|ofa|sam FOLDER f32|f16|bf16 ANSWERS

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, safetensors};
use riveg::models::Segmenter;
use riveg::models::ofa::{ModelConfig, Ofa, TextBatch, Weights};
use riveg::models::sam::{MaskOutput, Prompt, PromptedImage, Sam};
use riveg::models::tagger::{TransformerTagger, WordInput};
use riveg::vision::{BoundingBox, Picture};

type Answers = HashMap<String, Tensor>;
type Result<T> = std::result::Result<T, Box<dyn Error>>;

const CPU: Device = Device::Cpu;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, folder, dtype, to] = arguments.as_slice() else {
        return Err("usage: answers tagger|ofa|sam FOLDER f32|f16|bf16 ANSWERS".into());
    };
    let (folder, dtype) = (Path::new(folder), dtype.parse::<DType>()?);
    let answers = match kind.as_str() {
        "tagger" => tagger(folder, dtype)?,
        "ofa" => ofa(folder, dtype)?,
        "sam" => sam(folder, dtype)?,
        other => return Err(format!("no network is called {other}").into()),
    };
    Ok(safetensors::save(&answers, to)?)
}

/// Emissions and paths of the texts in `texts.json`, tagged in one batch.
fn tagger(folder: &Path, dtype: DType) -> Result<Answers> {
    let texts: Vec<Vec<String>> =
        serde_json::from_slice(&std::fs::read(folder.join("texts.json"))?)?;
    let words: Vec<Vec<&str>> =
        texts.iter().map(|text| text.iter().map(String::as_str).collect()).collect();
    let inputs: Vec<WordInput> =
        words.iter().map(|words| WordInput { words, knowledge: &[] }).collect();
    let network = TransformerTagger::load(folder, &CPU, dtype)?;
    let mut answers = Answers::new();
    for (index, labelling) in network.label(&inputs)?.into_iter().enumerate() {
        let path: Vec<i64> = labelling.path.iter().map(|&label| label as i64).collect();
        answers.insert(format!("{index}.path"), Tensor::new(path, &CPU)?);
        answers.insert(format!("{index}.emissions"), Tensor::new(labelling.emissions, &CPU)?);
    }
    Ok(answers)
}

/// Trunk, encoder, the logits after a prompt, and beam search, for the pictures and texts of
/// `inputs.safetensors`, each by itself.
fn ofa(folder: &Path, dtype: DType) -> Result<Answers> {
    let config: ModelConfig = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    let inputs = safetensors::load(folder.join("inputs.safetensors"), &CPU)?;
    let weights = Weights::open(folder, dtype, &CPU)?;
    let network = Ofa::new(&config.network(), config.grid(), weights.builder)?;
    let (encoder, decoder) = (network.encoder(), network.decoder());
    let (texts, lengths) = (inputs["ids"].to_vec2::<i64>()?, inputs["lengths"].to_vec1::<i64>()?);
    let mut answers = Answers::new();
    for (index, (text, length)) in texts.iter().zip(lengths).enumerate() {
        let text: Vec<u32> = text[..length as usize].iter().map(|&id| id as u32).collect();
        let pixels = inputs["pixels"].narrow(0, index, 1)?.permute((0, 2, 3, 1))?;
        // Of bf16 only the weights of linear layers are kept on a CPU.
        let pixels = if dtype == DType::F16 { pixels.to_dtype(dtype)? } else { pixels };
        let batch = TextBatch::new(std::slice::from_ref(&text), config.vocabulary.pad, &CPU)?;
        let encoded = encoder.forward(&encoder.image_tokens(&pixels)?, &batch)?;
        let prompt = Tensor::new(&text[..text.len() - 1], &CPU)?.unsqueeze(0)?;
        let hidden = decoder.forward(&prompt, &mut decoder.start(&encoded)?)?;
        let best = &network.generate(&encoded, &config.vocabulary, (4, 5))?[0];
        let tokens: Vec<i64> = best.tokens().iter().map(|&token| token.into()).collect();
        let trunk = encoder.trunk_features(&pixels)?.permute((0, 3, 1, 2))?;
        for (name, tensor) in [
            ("trunk", trunk.squeeze(0)?),
            ("encoder", encoded.hidden.squeeze(0)?),
            ("logits", decoder.logits(&hidden.squeeze(0)?)?),
            ("beam_tokens", Tensor::new(tokens, &CPU)?),
            ("beam_score", Tensor::new(&[best.score], &CPU)?),
        ] {
            answers.insert(format!("{index}.{name}"), plain(&tensor)?);
        }
    }
    Ok(answers)
}

/// Embedding, and every mask of every box, for the picture `rgb` and the `boxes` of
/// `inputs.safetensors`.
fn sam(folder: &Path, dtype: DType) -> Result<Answers> {
    let inputs = safetensors::load(folder.join("inputs.safetensors"), &CPU)?;
    let (height, width, _) = inputs["rgb"].dims3()?;
    let rgb = inputs["rgb"].flatten_all()?.to_vec1::<u8>()?;
    let picture = Arc::new(Picture::from_rgb(width as u32, height as u32, rgb)?);
    let edges = inputs["boxes"].to_vec2::<f32>()?;
    let boxes = edges.iter().map(|edge| BoundingBox::new(edge[0], edge[1], edge[2], edge[3]));
    let prompts: Vec<Prompt> = boxes.map(Prompt::from).collect();
    let network = Sam::load(folder, &CPU, dtype)?;
    let embedding = network.encode(&[picture])?.remove(0);
    let input = [PromptedImage { embedding: &embedding, prompts: &prompts }];
    let run = |output| network.segment_prompts(&input, output);
    let (single, multi) = (run(MaskOutput::Single)?.remove(0), run(MaskOutput::Multi)?.remove(0));
    let (mut logits, mut ious, mut bitmaps) = (Vec::new(), Vec::new(), Vec::new());
    for mask in single.iter().zip(&multi).flat_map(|(one, three)| one.iter().chain(three)) {
        logits.extend_from_slice(mask.logits.values());
        ious.push(mask.predicted_iou);
        bitmaps.extend(row_by_row(mask.logits.to_rle().counts(), width, height));
    }
    let masks = ious.len();
    let shape = (masks, logits.len() / masks.max(1));
    Ok(Answers::from([
        ("embedding".to_owned(), plain(&embedding.cells.t()?)?),
        ("logits".to_owned(), Tensor::from_vec(logits, shape, &CPU)?),
        ("iou".to_owned(), Tensor::new(ious, &CPU)?),
        ("masks".to_owned(), Tensor::from_vec(bitmaps, (masks, height, width), &CPU)?),
    ]))
}

/// As numbers that any reader knows, one row after another.
fn plain(tensor: &Tensor) -> candle_core::Result<Tensor> {
    match tensor.dtype() {
        DType::I64 => Ok(tensor.clone()),
        _ => tensor.to_dtype(DType::F32)?.contiguous(),
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
