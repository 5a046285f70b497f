//! The head that gives an entity its fine-grained type (after FMNERG's 51 types).
//!
//! Ours, not AdaSeq's: `logits = W · mean(words of the entity) + b + table[coarse type]`.

use candle_core::{D, Module, Tensor};
use candle_nn::{Embedding, Linear, VarBuilder, embedding, linear, ops};

use super::labels::WordSpan;
use crate::models::{FineType, ModelError, Result};

/// The head.
#[derive(Debug)]
pub struct FineHead {
    linear: Linear,
    kind: Embedding,
    labels: Vec<String>,
}

impl FineHead {
    /// Loads `linear.{weight [F, hidden], bias [F]}` and `kind.weight [kinds, F]`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(labels: &[String], hidden: usize, kinds: usize, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            linear: linear(hidden, labels.len(), vb.pp("linear"))?,
            kind: embedding(kinds, labels.len(), vb.pp("kind"))?,
            labels: labels.to_vec(),
        })
    }

    /// The best fine type of each span over `words [rows, hidden]` in f32; one softmax per span.
    ///
    /// # Errors
    /// A tensor operation failed, or the result is not finite.
    pub fn classify(&self, words: &Tensor, spans: &[WordSpan]) -> Result<Vec<FineType>> {
        if spans.is_empty() {
            return Ok(Vec::new());
        }
        let means = spans
            .iter()
            .map(|span| words.narrow(0, span.start, span.end - span.start)?.mean(0))
            .collect::<candle_core::Result<Vec<_>>>()?;
        let kinds: Vec<u32> = spans.iter().map(|span| span.kind as u32).collect();
        let kinds = self.kind.forward(&Tensor::new(kinds, words.device())?)?;
        let logits = (self.linear.forward(&Tensor::stack(&means, 0)?)? + kinds)?;
        let rows: Vec<Vec<f32>> = ops::softmax(&logits, D::Minus1)?.to_vec2()?;
        rows.iter().map(|row| self.best(row)).collect()
    }

    fn best(&self, probabilities: &[f32]) -> Result<FineType> {
        let best = probabilities
            .iter()
            .zip(&self.labels)
            .max_by(|a, b| a.0.total_cmp(b.0))
            .filter(|(score, _)| score.is_finite());
        let (&score, name) = best.ok_or(ModelError::NotFinite("tagger, fine types"))?;
        Ok(FineType { name: name.clone(), score: score.clamp(0.0, 1.0) })
    }
}
