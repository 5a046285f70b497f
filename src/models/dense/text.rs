//! The text side: from a referring expression to one vector.

use std::path::Path;

use candle_core::{D, DType, Device, Module, Tensor};
use candle_nn::{Init, LayerNorm, Linear, VarBuilder, layer_norm, linear};
use tokenizers::Tokenizer;

use super::config::Config;
use crate::models::expression::Expression;
use crate::models::{EntityType, ModelError, Result, ops};

/// Epsilon of the layer normalisations.
const EPSILON: f64 = 1e-5;

/// Characters of a name or an expansion that are tokenised. Far more than the word pieces that are
/// read; it keeps the work bounded for names of any length.
const MAX_CHARACTERS: usize = 512;

/// The byte of the word table that means zero.
const ZERO: f64 = 128.0;

/// The type's row where an expression states none.
const NO_TYPE: u32 = EntityType::ALL.len() as u32;

/// An expression in the network's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Word pieces of the name, then of the expansion.
    pub ids: Vec<u32>,
    /// Their rows in the table of positions; the expansion has rows of its own.
    pub positions: Vec<u32>,
    /// The entity type's row.
    pub kind: u32,
}

/// Cuts expressions into word pieces.
pub struct ExpressionTokenizer {
    tokenizer: Tokenizer,
    name_tokens: usize,
    tail_tokens: usize,
    unknown: u32,
}

impl ExpressionTokenizer {
    /// Opens `tokenizer.json` in `dir`.
    ///
    /// # Errors
    /// The file is missing or malformed, or knows more word pieces than the table has rows.
    pub fn open(dir: &Path, config: &Config) -> Result<Self> {
        let fail = |error: tokenizers::Error| ModelError::Tokenizer(error.to_string());
        let mut tokenizer = Tokenizer::from_file(dir.join("tokenizer.json")).map_err(fail)?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(fail)?;
        if tokenizer.get_vocab_size(true) > config.vocabulary {
            return Err(ModelError::Tokenizer("more word pieces than the table's rows".into()));
        }
        let unknown = tokenizer
            .token_to_id("[UNK]")
            .ok_or_else(|| ModelError::Tokenizer("no [UNK] in the vocabulary".into()))?;
        let (name_tokens, tail_tokens) = (config.name_tokens, config.tail_tokens);
        Ok(Self { tokenizer, name_tokens, tail_tokens, unknown })
    }

    /// The word pieces of an expression; never none. A text of another form is an expansion without
    /// name or type.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn encode(&self, expression: &str) -> Result<Tokens> {
        let (name, kind, tail) = match Expression::parse(expression) {
            Some(Expression { name, kind, expansion }) => (name, kind as u32, expansion),
            None => ("", NO_TYPE, expression),
        };
        let mut ids = self.pieces(name, self.name_tokens)?;
        let mut positions: Vec<u32> = (0..ids.len() as u32).collect();
        let tail = self.pieces(tail, self.tail_tokens)?;
        positions.extend((0..tail.len()).map(|i| (self.name_tokens + i) as u32));
        ids.extend(tail);
        if ids.is_empty() {
            ids.push(self.unknown);
            positions.push(self.name_tokens as u32);
        }
        Ok(Tokens { ids, positions, kind })
    }

    fn pieces(&self, text: &str, limit: usize) -> Result<Vec<u32>> {
        let end = text.char_indices().nth(MAX_CHARACTERS).map_or(text.len(), |(at, _)| at);
        let encoding = self
            .tokenizer
            .encode_fast(&text[..end], false)
            .map_err(|error| ModelError::Tokenizer(error.to_string()))?;
        Ok(encoding.get_ids().iter().copied().take(limit).collect())
    }
}

/// One transformer layer over the word pieces, and attention pooling.
pub struct TextEncoder {
    /// Bytes `[vocabulary, word]`; 128 is zero.
    table: Tensor,
    /// The value of one step of each row `[vocabulary, 1]`.
    step: Tensor,
    word: Linear,
    position: Tensor,
    kind: Tensor,
    norms: [LayerNorm; 3],
    qkv: Linear,
    out: Linear,
    up: Linear,
    back: Linear,
    pool: Linear,
    last: Linear,
    heads: usize,
    device: Device,
}

impl TextEncoder {
    /// Reads the encoder's tensors.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(config: &Config, vb: VarBuilder) -> Result<Self> {
        let d = config.text;
        let positions = config.name_tokens + config.tail_tokens;
        Ok(Self {
            table: vb.get_with_hints_dtype(
                (config.vocabulary, config.word),
                "table",
                Init::Const(ZERO),
                DType::U8,
            )?,
            step: vb.get(config.vocabulary, "table_step")?.unsqueeze(1)?,
            word: linear(config.word, d, vb.pp("word"))?,
            position: vb.get((positions, d), "position")?,
            kind: vb.get((NO_TYPE as usize + 1, d), "kind")?,
            norms: [
                layer_norm(d, EPSILON, vb.pp("norm1"))?,
                layer_norm(d, EPSILON, vb.pp("norm2"))?,
                layer_norm(d, EPSILON, vb.pp("norm3"))?,
            ],
            qkv: linear(d, 3 * d, vb.pp("qkv"))?,
            out: linear(d, d, vb.pp("out"))?,
            up: linear(d, config.hidden, vb.pp("up"))?,
            back: linear(config.hidden, d, vb.pp("back"))?,
            pool: linear(d, 1, vb.pp("pool"))?,
            last: linear(d, d, vb.pp("final"))?,
            heads: config.heads,
            device: vb.device().clone(),
        })
    }

    /// One expression to `[1, text]`.
    ///
    /// Expressions go one at a time: they are short, and without padding an answer does not depend
    /// on what else was asked, down to the last bit.
    ///
    /// # Errors
    /// A tensor operation failed; an id or a position is outside its table.
    pub fn forward(&self, tokens: &Tokens) -> Result<Tensor> {
        let index = |rows: &[u32]| Tensor::new(rows, &self.device);
        let ids = index(&tokens.ids)?;
        let step = self.step.index_select(&ids, 0)?;
        let steps = self.table.index_select(&ids, 0)?.to_dtype(step.dtype())?;
        let words = (steps - ZERO)?.broadcast_mul(&step)?;
        let position = self.position.index_select(&index(&tokens.positions)?, 0)?;
        let kind = self.kind.narrow(0, tokens.kind as usize, 1)?;
        let x = (self.word.forward(&words)? + position)?.broadcast_add(&kind)?;
        let [before, between, after] = &self.norms;
        let x = (&x + self.attention(&before.forward(&x)?)?)?;
        let hidden = ops::relu(&self.up.forward(&between.forward(&x)?)?)?;
        let x = after.forward(&(&x + self.back.forward(&hidden)?)?)?;
        let weights = ops::softmax_f32(&self.pool.forward(&x)?.t()?.contiguous()?)?;
        Ok(ops::relu(&self.last.forward(&weights.matmul(&x)?)?)?)
    }

    fn attention(&self, x: &Tensor) -> Result<Tensor> {
        let (tokens, d) = x.dims2()?;
        let width = d / self.heads;
        let qkv = self.qkv.forward(x)?.reshape((tokens, 3, self.heads, width))?;
        let part = |i: usize| qkv.narrow(1, i, 1)?.squeeze(1)?.transpose(0, 1)?.contiguous();
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let scores = (q.matmul(&k.t()?.contiguous()?)? / (width as f64).sqrt())?;
        let mixed = ops::softmax_f32(&scores)?.matmul(&v)?;
        Ok(self.out.forward(&mixed.transpose(0, 1)?.contiguous()?.flatten_from(D::Minus2)?)?)
    }
}
