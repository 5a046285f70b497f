//! One step of beam search, as fairseq's `SequenceGenerator` does it when the shortest and the
//! longest answer have the same length: `</s>` is forbidden until then and forced afterwards,
//! `<pad>` is never chosen, no three tokens repeat, and the score is the mean log-probability
//! with `</s>` counted. The vocabulary is not constrained otherwise.

use super::config::Vocabulary;

/// No sequence of this many tokens may occur twice in an answer (`<s>` counts as a token).
const NO_REPEAT: usize = 3;

/// An answer so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// `<s>` and the tokens after it, without `</s>`.
    tokens: Vec<u32>,
    /// Sum of log-probabilities; after [`finish`], their mean.
    pub score: f32,
}

impl Hypothesis {
    /// The empty answer.
    pub(super) fn start(bos: u32) -> Self {
        Self { tokens: vec![bos], score: 0.0 }
    }

    /// The tokens between `<s>` and `</s>`.
    pub fn tokens(&self) -> &[u32] {
        self.tokens.get(1..).unwrap_or_default()
    }

    /// The last token, `<s>` at the start.
    pub(super) fn last(&self) -> u32 {
        self.tokens.last().copied().unwrap_or_default()
    }

    /// Whether `token` would repeat a sequence of [`NO_REPEAT`] tokens.
    fn repeats(&self, token: u32) -> bool {
        let Some(from) = self.tokens.len().checked_sub(NO_REPEAT - 1) else {
            return false;
        };
        let tail = &self.tokens[from..];
        self.tokens
            .windows(NO_REPEAT)
            .any(|w| w[..NO_REPEAT - 1] == *tail && w[NO_REPEAT - 1] == token)
    }
}

/// The `beam` best continuations by one token, best first, each with the index of the hypothesis
/// that it continues. `logits` has one row per hypothesis. Equal scores rank by hypothesis, then
/// by token, so that results do not depend on anything else in the batch.
pub(super) fn extend(
    hypotheses: &[Hypothesis],
    logits: &[Vec<f32>],
    vocabulary: &Vocabulary,
    beam: usize,
) -> Vec<(usize, Hypothesis)> {
    let mut best: Vec<(f32, usize, u32)> = Vec::with_capacity(beam + 1);
    for (parent, (hypothesis, row)) in hypotheses.iter().zip(logits).enumerate() {
        let normaliser = log_sum_exp(row);
        for (token, logit) in (0u32..).zip(row) {
            let score = hypothesis.score + (logit - normaliser);
            let full = best.len() == beam;
            if full && best.last().is_some_and(|worst| score <= worst.0) {
                continue;
            }
            if score == f32::NEG_INFINITY
                || token == vocabulary.eos
                || token == vocabulary.pad
                || hypothesis.repeats(token)
            {
                continue;
            }
            if full {
                best.pop();
            }
            let at = best.partition_point(|other| other.0 >= score);
            best.insert(at, (score, parent, token));
        }
    }
    let continued = |(score, parent, token): (f32, usize, u32)| {
        let mut tokens = hypotheses[parent].tokens.clone();
        tokens.push(token);
        (parent, Hypothesis { tokens, score })
    };
    best.into_iter().map(continued).collect()
}

/// Ends every hypothesis with `</s>` and ranks them by their mean log-probability, best first,
/// each with its index before ranking.
pub(super) fn finish(
    hypotheses: &[Hypothesis],
    logits: &[Vec<f32>],
    eos: u32,
) -> Vec<(usize, Hypothesis)> {
    let ended = hypotheses.iter().zip(logits).map(|(hypothesis, row)| {
        let end = row.get(eos as usize).map_or(f32::NEG_INFINITY, |x| x - log_sum_exp(row));
        // `<s>` is not scored and `</s>` is, so the number of tokens is right as it stands.
        let score = (hypothesis.score + end) / hypothesis.tokens.len() as f32;
        Hypothesis { tokens: hypothesis.tokens.clone(), score }
    });
    let mut ranked: Vec<_> = ended.enumerate().collect();
    ranked.sort_by(|a, b| b.1.score.total_cmp(&a.1.score));
    ranked
}

/// The logarithm of the sum of exponentials.
fn log_sum_exp(row: &[f32]) -> f32 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
    max + sum.ln() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCABULARY: Vocabulary =
        Vocabulary { bos: 0, pad: 1, eos: 2, unk: 3, first_bin: 4, bins: 4 };

    fn hypothesis(tokens: &[u32], score: f32) -> Hypothesis {
        Hypothesis { tokens: tokens.to_vec(), score }
    }

    #[test]
    fn padding_and_the_end_are_never_chosen() {
        let logits = vec![vec![0.0, 9.0, 9.0, 1.0, 2.0, 1.5, 0.5, 0.1]];
        let next = extend(&[Hypothesis::start(0)], &logits, &VOCABULARY, 3);
        let tokens: Vec<_> = next.iter().map(|(_, h)| h.last()).collect();
        assert_eq!(tokens, [4, 5, 3]);
    }

    #[test]
    fn hypotheses_compete_with_each_other() {
        let hypotheses = [hypothesis(&[0, 4], -1.0), hypothesis(&[0, 5], -1.5)];
        let flat = vec![0.0; 8];
        let mut peaked = flat.clone();
        peaked[6] = 20.0;
        let next = extend(&hypotheses, &[flat, peaked], &VOCABULARY, 2);
        assert_eq!((next[0].0, next[0].1.tokens()), (1, &[5, 6][..]));
        assert!((next[0].1.score + 1.5).abs() < 1e-4);
        // Equal scores: the lower token first.
        assert_eq!((next[1].0, next[1].1.tokens()), (0, &[4, 0][..]));
        assert!((next[1].1.score + 1.0 + 8f32.ln()).abs() < 1e-5);
    }

    #[test]
    fn three_tokens_do_not_repeat() {
        assert!(hypothesis(&[0, 4, 4, 4], 0.0).repeats(4));
        assert!(!hypothesis(&[0, 4, 4], 0.0).repeats(4));
        assert!(hypothesis(&[0, 4, 5, 0, 4], 0.0).repeats(5));
        assert!(!hypothesis(&[0], 0.0).repeats(0));
    }

    #[test]
    fn the_mean_counts_the_end() {
        let uniform = vec![0.0; 8];
        let ranked = finish(
            &[hypothesis(&[0, 4, 5], -9.0), hypothesis(&[0, 4, 6], -1.0)],
            &[uniform.clone(), uniform],
            2,
        );
        assert_eq!(ranked[0].0, 1);
        assert!((ranked[0].1.score - (-1.0 - 8f32.ln()) / 3.0).abs() < 1e-6);
    }
}
