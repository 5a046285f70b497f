//! The tagger: transformer encoder, linear layer, linear-chain CRF (or none, as in the token
//! classifiers that the world publishes), optional head for fine types.
//!
//! After PGIM (Li et al., 2023) and RiVEG (Li et al., 2024), whose code builds on AdaSeq's
//! sequence-labelling model; state-dict names are AdaSeq's (`embedder.transformer_model.*`,
//! `linear.*`, `crf.*`), so that its checkpoints load, plus `fine.*` of our own; Hugging Face's token
//! classifiers load too (see [`layout`]).
//!
//! A folder holds `config.json` (see [`Config`]), `tokenizer.json` and the weights,
//! `model.safetensors` or `pytorch_model.bin`. Known deviations: the CRF's scope is a setting (the
//! released code and the papers differ); spans are read leniently (see [`labels`]); only entities
//! of the sentence are answered, though a CRF over the whole sequence may find some in the
//! knowledge; an encoder may be told the words' case by token types (see [`TokenTypes`]).

pub mod config;
pub mod crf;
pub mod encoder;
mod fine;
pub mod input;
pub mod labels;
pub mod layout;
pub mod splitter;
mod weights;

use std::path::Path;

use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{Linear, linear};
use tokenizers::Tokenizer;

pub use config::{Config, CrfScope, TokenTypes};
pub use input::WordInput;
pub use weights::describe;

use crf::Crf;
use encoder::Encoder;
use fine::FineHead;
use input::{Preprocessor, Sequence};
use labels::{LabelSet, WordSpan};
use splitter::Word;
use weights::Weights;

use super::{CharSpan, EntityType, FineType, ModelError, ModelInfo, Result};
use super::{TagInput, TaggedEntity, Tagger, WeightUse};

/// A loaded tagger.
#[derive(Debug)]
pub struct TransformerTagger {
    preprocessor: Preprocessor,
    encoder: Encoder,
    linear: Linear,
    crf: Crf,
    fine: Option<FineHead>,
    labels: LabelSet,
    config: Config,
    device: Device,
    info: ModelInfo,
}

/// The label sequence of one input.
#[derive(Debug, Clone)]
pub struct Labelling {
    /// Emissions `[words * labels]` of the words that the CRF saw.
    pub emissions: Vec<f32>,
    /// The best label of each of these words.
    pub path: Vec<usize>,
    /// How many of these words are the sentence's; fewer than it has where it was cut.
    pub sentence: usize,
}

/// An entity over words.
#[derive(Debug, Clone, PartialEq)]
pub struct WordEntity {
    /// First word.
    pub start: usize,
    /// One past the last word.
    pub end: usize,
    /// Its coarse type.
    pub kind: EntityType,
    /// Probability of the whole span with its labels.
    pub score: f32,
    /// Its fine type, where there is a head for it.
    pub fine: Option<FineType>,
}

impl TransformerTagger {
    /// Loads the tagger in `dir`.
    ///
    /// # Errors
    /// A file is missing or unreadable, or configuration and weights contradict each other.
    pub fn load(dir: &Path, device: &Device, dtype: DType) -> Result<Self> {
        Ok(Self::open(dir, device, dtype)?.0)
    }

    /// Which tensors of its file the tagger in `dir` reads; found out by loading it.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn weight_use(dir: &Path) -> Result<WeightUse> {
        Ok(Self::open(dir, &Device::Cpu, DType::BF16)?.1)
    }

    fn open(dir: &Path, device: &Device, dtype: DType) -> Result<(Self, WeightUse)> {
        let config = Config::read(dir)?;
        let labels = LabelSet::parse(&config.labels)?;
        let tokenizer = Tokenizer::from_file(dir.join("tokenizer.json"))
            .map_err(|error| ModelError::Tokenizer(error.to_string()))?;
        let weights = Weights::open(dir, config.layout, dtype, device)?;
        let Weights { builder: vb, info, weight_use } = weights;
        let parts = config.layout.parts(config.encoder.model_type, &vb);
        let hidden = config.encoder.hidden_size;
        // What decides between labels is small: it stays exact whatever the encoder's type.
        let exact = vb.to_dtype(DType::F32);
        let fine = (!config.fine_labels.is_empty()).then(|| {
            FineHead::load(&config.fine_labels, hidden, labels.types().len(), &exact.pp("fine"))
        });
        let tagger = Self {
            preprocessor: Preprocessor::new(tokenizer, &config)?,
            encoder: Encoder::load(&config.encoder, &parts.encoder)?,
            linear: linear(hidden, labels.count(), parts.linear.to_dtype(DType::F32))?,
            crf: match &parts.crf {
                Some(crf) => Crf::load(labels.count(), crf)?,
                None => Crf::independent(labels.count()),
            },
            fine: fine.transpose()?,
            labels,
            config,
            device: device.clone(),
            info,
        };
        Ok((tagger, weight_use))
    }

    /// Emissions and best labels of inputs that are already split to words.
    ///
    /// # Errors
    /// A tensor operation failed, or the emissions are not finite.
    pub fn label(&self, inputs: &[WordInput]) -> Result<Vec<Labelling>> {
        Ok(self.run(inputs)?.into_iter().map(|(labelling, _)| labelling).collect())
    }

    /// The entities of inputs that are already split to words, e.g. of a data set.
    ///
    /// # Errors
    /// A tensor operation failed, or the network's output is not finite.
    pub fn tag_words(&self, inputs: &[WordInput]) -> Result<Vec<Vec<WordEntity>>> {
        self.run(inputs)?.iter().map(|(labelling, rows)| self.entities(labelling, rows)).collect()
    }

    /// Labels with the word representations `[words, hidden]` beneath them, in f32.
    fn run(&self, inputs: &[WordInput]) -> Result<Vec<(Labelling, Tensor)>> {
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let sequences: Vec<Sequence> =
            inputs.iter().map(|input| self.preprocessor.sequence(input)).collect::<Result<_>>()?;
        let batch = self.preprocessor.batch(&sequences);
        let hidden = self.encoder.forward(&batch, &self.device)?;
        let labellings = sequences.iter().enumerate().map(|(index, sequence)| {
            let words = match self.config.crf_scope {
                CrfScope::Sequence => sequence.firsts.len(),
                CrfScope::Sentence => sequence.sentence,
            };
            let firsts: Vec<u32> = sequence.firsts[..words].iter().map(|&i| i as u32).collect();
            let rows = Tensor::new(firsts, &self.device)?;
            let rows = hidden.get(index)?.index_select(&rows, 0)?.to_dtype(DType::F32)?;
            let labelling = self.decode(&rows, sequence.sentence)?;
            Ok((labelling, rows))
        });
        labellings.collect()
    }

    fn decode(&self, rows: &Tensor, sentence: usize) -> Result<Labelling> {
        if rows.dim(0)? == 0 {
            return Ok(Labelling { emissions: Vec::new(), path: Vec::new(), sentence });
        }
        let emissions: Vec<f32> = self.linear.forward(rows)?.flatten_all()?.to_vec1()?;
        if emissions.iter().any(|emission| !emission.is_finite()) {
            return Err(ModelError::NotFinite("tagger"));
        }
        let path = self.crf.viterbi(&emissions);
        Ok(Labelling { emissions, path, sentence })
    }

    fn entities(&self, labelling: &Labelling, rows: &Tensor) -> Result<Vec<WordEntity>> {
        let Labelling { emissions, path, sentence } = labelling;
        let mut spans = self.labels.spans(path);
        spans.retain(|span| span.end <= *sentence);
        if spans.is_empty() {
            return Ok(Vec::new());
        }
        let lattice = self.crf.lattice(emissions);
        let mut fine = match &self.fine {
            Some(head) => head.classify(rows, &spans)?.into_iter().map(Some).collect(),
            None => vec![None; spans.len()],
        };
        let entity = |(span, fine): (WordSpan, Option<FineType>)| {
            let score = self.crf.span_probability(&lattice, emissions, path, span, &self.labels);
            WordEntity {
                start: span.start,
                end: span.end,
                kind: self.labels.types()[span.kind],
                score: score as f32,
                fine,
            }
        };
        Ok(spans.into_iter().zip(fine.drain(..)).map(entity).collect())
    }
}

impl Tagger for TransformerTagger {
    fn tag(&self, inputs: &[TagInput]) -> Result<Vec<Vec<TaggedEntity>>> {
        let split: Vec<Vec<Word>> = inputs.iter().map(|i| splitter::split(&i.text)).collect();
        let words: Vec<Vec<&str>> =
            split.iter().map(|words| words.iter().map(|word| word.text).collect()).collect();
        let knowledge: Vec<Vec<&str>> = inputs
            .iter()
            .map(|i| i.knowledge.as_deref().map_or(Vec::new(), |z| z.split_whitespace().collect()))
            .collect();
        // A text without words never reaches the network.
        let present: Vec<usize> = (0..inputs.len()).filter(|&i| !words[i].is_empty()).collect();
        let word_inputs: Vec<WordInput> = present
            .iter()
            .map(|&i| WordInput { words: &words[i], knowledge: &knowledge[i] })
            .collect();
        let mut answers = vec![Vec::new(); inputs.len()];
        for (&index, entities) in present.iter().zip(self.tag_words(&word_inputs)?) {
            answers[index] =
                entities.into_iter().map(|entity| located(entity, &split[index])).collect();
        }
        Ok(answers)
    }

    fn cost(&self, input: &TagInput) -> u64 {
        // About four bytes a piece; exactness would cost the tokenizer's work twice.
        let bytes = input.text.len() + input.knowledge.as_ref().map_or(0, |z| z.len());
        let pieces = (bytes / 4 + 2).min(self.config.max_length) as u64;
        let encoder = &self.config.encoder;
        let (hidden, inner) = (encoder.hidden_size as u64, encoder.intermediate_size as u64);
        let per_piece = 4 * hidden * hidden + 2 * hidden * inner + 2 * hidden * pieces;
        (encoder.num_hidden_layers as u64 * per_piece * pieces).div_ceil(1_000_000)
    }

    fn info(&self) -> ModelInfo {
        self.info.clone()
    }
}

/// Puts an entity over words back into its text.
fn located(entity: WordEntity, words: &[Word]) -> TaggedEntity {
    let span =
        CharSpan { start: words[entity.start].span.start, end: words[entity.end - 1].span.end };
    TaggedEntity { span, kind: entity.kind, score: entity.score, fine: entity.fine }
}
