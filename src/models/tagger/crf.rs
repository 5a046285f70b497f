//! Linear-chain conditional random field: Viterbi decoding and exact span probabilities.
//!
//! Scores as pytorch-crf (Lafferty et al., 2001): `start[y₁] + e₁[y₁] + Σ (trans[yᵢ₋₁, yᵢ] +
//! eᵢ[yᵢ]) + end[yₙ]`, `transitions[from, to]`, no hard constraints. Runs on the host: a sequence
//! is a few kilobytes.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use super::labels::{LabelSet, WordSpan};
use crate::models::{ModelError, Result};

/// The parameters, on the host.
#[derive(Debug, Clone)]
pub struct Crf {
    labels: usize,
    start: Vec<f32>,
    end: Vec<f32>,
    /// `[from * labels + to]`.
    transitions: Vec<f32>,
}

/// Forward and backward log scores of one sequence, `[words * labels]`.
pub struct Lattice {
    forward: Vec<f64>,
    backward: Vec<f64>,
    log_partition: f64,
}

impl Crf {
    /// Reads `start_transitions [L]`, `end_transitions [L]`, `transitions [L, L]`, in single
    /// precision whatever the type of the network: they are few, and decide between labels.
    ///
    /// # Errors
    /// A tensor is missing, has another shape, or holds a value that is not finite: decoding
    /// compares, and comparisons hide it.
    pub fn load(labels: usize, vb: &VarBuilder) -> Result<Self> {
        let vb = vb.to_dtype(DType::F32);
        let host = |tensor: Tensor| -> Result<Vec<f32>> {
            let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
            match values.iter().all(|value| value.is_finite()) {
                true => Ok(values),
                false => Err(ModelError::NotFinite("tagger, transitions")),
            }
        };
        Ok(Self {
            labels,
            start: host(vb.get(labels, "start_transitions")?)?,
            end: host(vb.get(labels, "end_transitions")?)?,
            transitions: host(vb.get((labels, labels), "transitions")?)?,
        })
    }

    /// Without preferences: each word has its best label by itself, and probabilities are those of a
    /// softmax over each word's labels.
    pub fn independent(labels: usize) -> Self {
        let zeros = vec![0.0; labels];
        Self { labels, start: zeros.clone(), end: zeros, transitions: vec![0.0; labels * labels] }
    }

    /// The best label sequence for `emissions [words * labels]`; the first label wins a tie, as in
    /// pytorch-crf. Empty for no words.
    pub fn viterbi(&self, emissions: &[f32]) -> Vec<usize> {
        let mut rows = emissions.chunks_exact(self.labels);
        let Some(first) = rows.next() else { return Vec::new() };
        let mut scores: Vec<f32> = self.start.iter().zip(first).map(|(s, e)| s + e).collect();
        let mut history = Vec::new();
        for row in rows {
            let steps = (0..self.labels).map(|to| {
                let candidates = (0..self.labels)
                    .map(|from| scores[from] + self.transitions[from * self.labels + to] + row[to]);
                first_maximum(candidates)
            });
            let (from, next): (Vec<usize>, Vec<f32>) = steps.unzip();
            history.push(from);
            scores = next;
        }
        let (mut label, _) = first_maximum(scores.iter().zip(&self.end).map(|(s, e)| s + e));
        let mut path = vec![label];
        for from in history.iter().rev() {
            label = from[label];
            path.push(label);
        }
        path.reverse();
        path
    }

    /// Forward–backward in log space over `emissions [words * labels]`; at least one word.
    pub fn lattice(&self, emissions: &[f32]) -> Lattice {
        let labels = self.labels;
        let words = emissions.len() / labels;
        let emission = |word: usize, label: usize| f64::from(emissions[word * labels + label]);
        let step = |from: usize, to: usize| f64::from(self.transitions[from * labels + to]);
        let mut forward = vec![0.0; words * labels];
        let mut backward = vec![0.0; words * labels];
        for label in 0..labels {
            forward[label] = f64::from(self.start[label]) + emission(0, label);
            backward[(words - 1) * labels + label] = f64::from(self.end[label]);
        }
        for word in 1..words {
            for to in 0..labels {
                let before = &forward[(word - 1) * labels..word * labels];
                let sum = log_sum_exp((0..labels).map(|from| before[from] + step(from, to)));
                forward[word * labels + to] = sum + emission(word, to);
            }
        }
        for word in (0..words - 1).rev() {
            for from in 0..labels {
                let after = &backward[(word + 1) * labels..(word + 2) * labels];
                backward[word * labels + from] = log_sum_exp(
                    (0..labels).map(|to| step(from, to) + emission(word + 1, to) + after[to]),
                );
            }
        }
        let last = &forward[(words - 1) * labels..];
        let log_partition =
            log_sum_exp(last.iter().zip(&self.end).map(|(f, &end)| f + f64::from(end)));
        Lattice { forward, backward, log_partition }
    }

    /// Probability that exactly `span` with exactly the labels of `path` is read out: the labels
    /// inside agree, and neither neighbour carries the entity on.
    pub fn span_probability(
        &self,
        lattice: &Lattice,
        emissions: &[f32],
        path: &[usize],
        span: WordSpan,
        set: &LabelSet,
    ) -> f64 {
        let labels = self.labels;
        let words = emissions.len() / labels;
        let emission = |word: usize, label: usize| f64::from(emissions[word * labels + label]);
        let step = |from: usize, to: usize| f64::from(self.transitions[from * labels + to]);
        let (first, last) = (span.start, span.end - 1);
        let head = if first == 0 {
            f64::from(self.start[path[first]])
        } else {
            let before = (0..labels).filter(|&label| !set.continues(label, path[first]));
            log_sum_exp(before.map(|label| {
                lattice.forward[(first - 1) * labels + label] + step(label, path[first])
            }))
        };
        let inside: f64 = (first..=last)
            .map(|word| {
                let entry = if word > first { step(path[word - 1], path[word]) } else { 0.0 };
                entry + emission(word, path[word])
            })
            .sum();
        let tail = if last + 1 == words {
            f64::from(self.end[path[last]])
        } else {
            let after = (0..labels).filter(|&label| !set.continues(path[last], label));
            log_sum_exp(after.map(|label| {
                step(path[last], label)
                    + emission(last + 1, label)
                    + lattice.backward[(last + 1) * labels + label]
            }))
        };
        (head + inside + tail - lattice.log_partition).exp().clamp(0.0, 1.0)
    }
}

impl Lattice {
    /// Marginal probability of `label` at `word`, of `labels` labels.
    pub fn marginal(&self, word: usize, label: usize, labels: usize) -> f64 {
        let at = word * labels + label;
        (self.forward[at] + self.backward[at] - self.log_partition).exp()
    }
}

/// Index and value of the first maximum.
fn first_maximum(values: impl Iterator<Item = f32>) -> (usize, f32) {
    values.enumerate().fold((0, f32::NEG_INFINITY), |best, (index, value)| {
        if value > best.1 { (index, value) } else { best }
    })
}

fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let maximum = values.clone().fold(f64::NEG_INFINITY, f64::max);
    if maximum == f64::NEG_INFINITY {
        return maximum;
    }
    maximum + values.map(|value| (value - maximum).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::Device;

    use super::*;

    fn tiny() -> (Crf, LabelSet) {
        let set = LabelSet::parse(&["O", "B-PER", "I-PER"]).unwrap();
        let crf = Crf {
            labels: 3,
            start: vec![0.2, -0.1, -2.0],
            end: vec![0.1, 0.0, 0.3],
            transitions: vec![0.5, 0.1, -3.0, -0.2, -0.4, 0.9, 0.3, -0.6, 0.4],
        };
        (crf, set)
    }

    /// All of BIOES with one type, and one label of another.
    fn bioes() -> (Crf, LabelSet) {
        let names = ["O", "B-PER", "I-PER", "E-PER", "S-PER", "E-LOC"];
        let n = names.len();
        let value = |i: usize| ((i * 37 + 11) % 23) as f32 / 10.0 - 1.1;
        let crf = Crf {
            labels: n,
            start: (0..n).map(value).collect(),
            end: (5..5 + n).map(value).collect(),
            transitions: (9..9 + n * n).map(value).collect(),
        };
        (crf, LabelSet::parse(&names).unwrap())
    }

    /// Every label sequence of `words` words with its unnormalised probability.
    fn all_paths(crf: &Crf, emissions: &[f32]) -> Vec<(Vec<usize>, f64)> {
        let labels = crf.labels;
        let words = emissions.len() / labels;
        (0..labels.pow(words as u32))
            .map(|code| {
                let path: Vec<usize> =
                    (0..words).map(|i| code / labels.pow(i as u32) % labels).collect();
                let mut score = crf.start[path[0]] + crf.end[path[words - 1]];
                for (i, &label) in path.iter().enumerate() {
                    score += emissions[i * labels + label];
                    if i > 0 {
                        score += crf.transitions[path[i - 1] * labels + label];
                    }
                }
                (path, f64::from(score).exp())
            })
            .collect()
    }

    #[test]
    fn span_probability_is_the_share_of_sequences_that_read_the_span() {
        for ((crf, set), words) in [(tiny(), 4), (bioes(), 3)] {
            let emission = |i: usize| ((i * 29 + 7) % 17) as f32 / 8.0 - 1.0;
            let emissions: Vec<f32> = (0..words * crf.labels).map(emission).collect();
            let all = all_paths(&crf, &emissions);
            let total: f64 = all.iter().map(|(_, weight)| weight).sum();
            let best = all.iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
            assert_eq!(crf.viterbi(&emissions), best.0);
            let lattice = crf.lattice(&emissions);
            for (path, _) in &all {
                for span in set.spans(path) {
                    let range = span.start..span.end;
                    let same = all.iter().filter(|(other, _)| {
                        other[range.clone()] == path[range.clone()]
                            && set.spans(other).contains(&span)
                    });
                    let expected = same.map(|(_, weight)| weight).sum::<f64>() / total;
                    let found = crf.span_probability(&lattice, &emissions, path, span, &set);
                    let what = format!("{path:?} {span:?} {found} {expected}");
                    assert!((found - expected).abs() < 1e-6, "{what}");
                }
            }
        }
    }

    #[test]
    fn half_precision_does_not_reach_the_parameters() {
        let values = |shape: &[usize]| Tensor::full(0.1f32, shape, &Device::Cpu).unwrap();
        let tensors = [("start_transitions", 3), ("end_transitions", 3)];
        let mut tensors: HashMap<String, Tensor> =
            tensors.into_iter().map(|(name, n)| (name.to_owned(), values(&[n]))).collect();
        tensors.insert("transitions".to_owned(), values(&[3, 3]));
        let vb = VarBuilder::from_tensors(tensors, DType::F16, &Device::Cpu);
        let crf = Crf::load(3, &vb).unwrap();
        assert!([crf.start, crf.end, crf.transitions].iter().flatten().all(|&value| value == 0.1));
    }

    #[test]
    fn ties_go_to_the_first_label() {
        let crf =
            Crf { labels: 3, start: vec![0.0; 3], end: vec![0.0; 3], transitions: vec![0.0; 9] };
        assert_eq!(crf.viterbi(&[1.0, 1.0, 0.0, 0.0, 2.0, 2.0]), [0, 1]);
        assert!(crf.viterbi(&[]).is_empty());
    }

    #[test]
    fn long_sequences_do_not_overflow() {
        let (crf, _) = tiny();
        let emissions = vec![40.0; 3 * 2000];
        let lattice = crf.lattice(&emissions);
        let sum: f64 = (0..3).map(|label| lattice.marginal(1000, label, 3)).sum();
        assert!((sum - 1.0).abs() < 1e-6);
    }
}
