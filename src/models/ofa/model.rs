//! The whole network.

use candle_core::{IndexOp, Tensor};
use candle_nn::{Embedding, VarBuilder};

use super::config::{Config, Vocabulary};
use super::decoder::Decoder;
use super::encoder::{Encoder, EncoderOutput, TextBatch};
use super::search::{self, Hypothesis};
use super::weights::TOKENS;
use crate::models::ops::activation_type;
use crate::models::{ModelError, Result};

/// Encoder and decoder with the embedding that they share.
#[derive(Debug)]
pub struct Ofa {
    encoder: Encoder,
    decoder: Decoder,
}

impl Ofa {
    /// Reads the network for pictures of `grid × grid` image tokens (16 pixels each).
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(config: &Config, grid: usize, vb: VarBuilder) -> Result<Self> {
        let shape = (config.vocab_size, config.d_model);
        let name = TOKENS.into_iter().find(|name| vb.contains_tensor(name));
        let exact = vb.to_dtype(activation_type(&vb));
        let weight = exact.get(shape, name.unwrap_or(TOKENS[0]))?;
        let tokens = Embedding::new(weight, config.d_model);
        let encoder = Encoder::new(config, grid, tokens.clone(), vb.pp("encoder"))?;
        let decoder = Decoder::new(config, encoder.positions(), tokens, vb.pp("decoder"))?;
        Ok(Self { encoder, decoder })
    }

    /// The encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    #[cfg(test)]
    pub(super) fn encoder_mut(&mut self) -> &mut Encoder {
        &mut self.encoder
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Scores of `answers` as the token that follows each text when the decoder has read it, in
    /// f32: one row per text.
    ///
    /// # Errors
    /// A tensor operation failed, or the network answered with NaN or infinity.
    pub fn answer_logits(
        &self,
        encoded: &EncoderOutput,
        prompts: &TextBatch,
        answers: &[u32],
    ) -> Result<Vec<Vec<f32>>> {
        let mut state = self.decoder.start(encoded)?;
        let hidden = self.decoder.forward(&prompts.ids, &mut state)?;
        let last = prompts.lengths.iter().enumerate();
        let last = last.map(|(row, &length)| hidden.i((row, length - 1)));
        let last = Tensor::stack(&last.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
        let logits = self.decoder.logits_of(&last, answers)?.to_vec2::<f32>()?;
        if logits.iter().flatten().any(|x| !x.is_finite()) {
            return Err(ModelError::NotFinite("ofa"));
        }
        Ok(logits)
    }

    /// The best answer of exactly `length` tokens to each item, by beam search with `beam`
    /// hypotheses. See [`super::search`] for the rules.
    ///
    /// # Errors
    /// A tensor operation failed, or the network answered with NaN or infinity.
    pub fn generate(
        &self,
        encoded: &EncoderOutput,
        vocabulary: &Vocabulary,
        (length, beam): (usize, usize),
    ) -> Result<Vec<Hypothesis>> {
        let items = encoded.hidden.dim(0)?;
        let device = encoded.hidden.device();
        let mut state = self.decoder.start(encoded)?;
        let mut beams = vec![vec![Hypothesis::start(vocabulary.bos)]; items];
        for step in 0..=length {
            let rows: Vec<u32> = beams.iter().flatten().map(Hypothesis::last).collect();
            let ids = Tensor::new(rows.as_slice(), device)?.unsqueeze(1)?;
            let hidden = self.decoder.forward(&ids, &mut state)?.squeeze(1)?;
            let mut logits = self.decoder.logits(&hidden)?.to_vec2::<f32>()?.into_iter();
            let mut parents = Vec::with_capacity(items * beam);
            let mut first_row = 0;
            for hypotheses in &mut beams {
                let own: Vec<Vec<f32>> = logits.by_ref().take(hypotheses.len()).collect();
                if own.iter().flatten().any(|x| !x.is_finite()) {
                    return Err(ModelError::NotFinite("ofa"));
                }
                let before = hypotheses.len();
                let next = if step == length {
                    search::finish(hypotheses, &own, vocabulary.eos)
                } else {
                    search::extend(hypotheses, &own, vocabulary, beam)
                };
                parents.extend(next.iter().map(|(parent, _)| (first_row + parent) as u32));
                *hypotheses = next.into_iter().map(|(_, hypothesis)| hypothesis).collect();
                first_row += before;
            }
            if step < length {
                state.reorder(&parents)?;
            }
        }
        let best = beams.into_iter().map(|ranked| ranked.into_iter().next());
        best.map(|best| best.ok_or(ModelError::NotFinite("ofa"))).collect()
    }
}
