//! Visual entailment with OFA.

use std::path::Path;

use candle_core::{DType, Device};

use super::config::ModelConfig;
use super::loaded::Loaded;
use super::text::entailment_prompt;
use crate::models::{EntailInput, Entailer, Entailment, ModelInfo, Result, WeightUse};
use crate::vision::Picture;

/// The answers, in the order in which OFA tries them; the leading space is part of the token.
const ANSWERS: [&str; 3] = [" no", " yes", " maybe"];

/// Side of the pictures of the published checkpoints.
const SIDE: usize = 480;

/// OFA fine-tuned for visual entailment.
///
/// The decoder reads the prompt once more and answers ` no`, ` yes` or ` maybe`; RiVEG drops the
/// entity when the answer is ` no` and grounds it after both others. [`Entailment::probability`]
/// is therefore that of ` no`'s best rival against ` no` alone,
/// `p = max(p(yes), p(maybe)) / (max(p(yes), p(maybe)) + p(no))`: it is above one half exactly
/// when the answer is not ` no`, so RiVEG's rule is a threshold of 0.5. (`p(yes) + p(maybe)` is
/// not: at 0.3 + 0.3 against 0.4 the answer is ` no`.) RiVEG trains with ` yes` and ` no` only;
/// where ` maybe` has no weight the value is `p(yes)`.
pub struct OfaEntailer {
    loaded: Loaded,
    answers: [u32; 3],
}

impl OfaEntailer {
    /// Which tensors of its file the network in `dir` reads, found out by loading it; and its
    /// configuration, whichever form it has there.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn weight_use(dir: &Path) -> Result<(WeightUse, ModelConfig)> {
        Loaded::weight_use(dir, SIDE)
    }

    /// Loads the network in `dir`; see [`super`] for the files.
    ///
    /// # Errors
    /// A file is missing, malformed or contradicts another.
    pub fn load(dir: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let loaded = Loaded::open(dir, SIDE, device, dtype)?;
        let answers = loaded.tokenizer.first_ids(ANSWERS)?;
        Ok(Self { loaded, answers })
    }
}

impl Entailer for OfaEntailer {
    fn entail(&self, inputs: &[EntailInput]) -> Result<Vec<Entailment>> {
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let prompt = |input: &EntailInput| {
            let prompt = entailment_prompt(&input.expression, input.description.as_deref());
            self.loaded.tokenizer.source(&prompt)
        };
        let mut sources = inputs.iter().map(prompt).collect::<Result<Vec<_>>>()?;
        let pictures: Vec<&Picture> = inputs.iter().map(|input| &*input.picture).collect();
        let encoded = self.loaded.encode(&pictures, &sources)?;
        // The decoder reads the source without its `</s>`.
        for source in &mut sources {
            source.pop();
        }
        let prompts = self.loaded.batch(&sources)?;
        let logits = self.loaded.network.answer_logits(&encoded, &prompts, &self.answers)?;
        Ok(logits.iter().map(|row| Entailment { probability: not_no(row) }).collect())
    }

    fn picture_cost(&self) -> u64 {
        self.loaded.picture_cost()
    }

    fn cost(&self, expression: &str, description: Option<&str>) -> u64 {
        let words = expression.len() + description.map_or(0, str::len);
        self.loaded.cost(words, |text| text)
    }

    fn info(&self) -> ModelInfo {
        self.loaded.info.clone()
    }
}

/// The probability of the best other answer against ` no`, from the scores of [`ANSWERS`].
fn not_no(logits: &[f32]) -> f32 {
    let mut scores = logits.iter().copied();
    let no = scores.next().unwrap_or(f32::NEG_INFINITY);
    let rival = scores.fold(f32::NEG_INFINITY, f32::max);
    1.0 / (1.0 + (no - rival).exp())
}

#[cfg(test)]
mod tests {
    use super::not_no;

    #[test]
    fn the_threshold_is_where_the_answer_changes() {
        let [no, yes, maybe] = [0.4f32.ln(), 0.3f32.ln(), 0.3f32.ln()];
        assert!((not_no(&[no, yes, maybe]) - 3.0 / 7.0).abs() < 1e-6);
        assert!(not_no(&[0.0, -5.0, 0.1]) > 0.5);
        assert!((not_no(&[0.0, 2.0, -40.0]) - 0.880_797).abs() < 1e-6);
        assert_eq!(not_no(&[200.0, 0.0, 0.0]), 0.0);
        assert_eq!(not_no(&[-200.0, 0.0, 0.0]), 1.0);
    }
}
