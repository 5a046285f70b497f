//! Visual grounding with OFA.

use std::path::Path;

use candle_core::{DType, Device};

use super::config::ModelConfig;
use super::config::Vocabulary;
use super::loaded::Loaded;
use super::search::Hypothesis;
use super::text::grounding_prompt;
use crate::models::{GroundInput, Grounder, Grounding, ModelInfo, Result, WeightUse};
use crate::vision::{BoundingBox, Picture};

/// Location tokens of a box: left, top, right, bottom.
const LENGTH: usize = 4;

/// Hypotheses that beam search follows.
const BEAM: usize = 5;

/// Side of the pictures of the published checkpoints.
const SIDE: usize = 512;

/// OFA fine-tuned for visual grounding.
///
/// The answer is four location tokens. Nothing forces the network to answer so: any other token,
/// and corners in the wrong order, are no box ([`None`]). [`Grounding::score`] is the geometric
/// mean of the tokens' probabilities, `</s>` included, as beam search ranks answers.
pub struct OfaGrounder {
    loaded: Loaded,
}

impl OfaGrounder {
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
        Ok(Self { loaded: Loaded::open(dir, SIDE, device, dtype)? })
    }
}

impl Grounder for OfaGrounder {
    fn ground(&self, inputs: &[GroundInput]) -> Result<Vec<Option<Grounding>>> {
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let prompt = |input: &GroundInput| {
            self.loaded.tokenizer.source(&grounding_prompt(&input.expression))
        };
        let sources = inputs.iter().map(prompt).collect::<Result<Vec<_>>>()?;
        let pictures: Vec<&Picture> = inputs.iter().map(|input| &*input.picture).collect();
        let encoded = self.loaded.encode(&pictures, &sources)?;
        let vocabulary = &self.loaded.vocabulary;
        let answers = self.loaded.network.generate(&encoded, vocabulary, (LENGTH, BEAM))?;
        let grounding = |(answer, picture): (&Hypothesis, &&Picture)| {
            let bbox = location(answer.tokens(), vocabulary, (picture.width(), picture.height()))?;
            Some(Grounding { bbox, score: answer.score.exp().clamp(0.0, 1.0) })
        };
        Ok(answers.iter().zip(&pictures).map(grounding).collect())
    }

    fn picture_cost(&self) -> u64 {
        self.loaded.picture_cost()
    }

    fn cost(&self, expression: &str) -> u64 {
        let rows = BEAM * LENGTH + 1;
        self.loaded.cost(expression.len(), |_| rows) + self.loaded.projection_cost(rows)
    }

    fn info(&self) -> ModelInfo {
        self.loaded.info.clone()
    }
}

/// The box of four location tokens in a picture of `size` (width, height); `None` if a token is
/// no location, or the box has no area or inverted corners.
fn location(tokens: &[u32], vocabulary: &Vocabulary, size: (u32, u32)) -> Option<BoundingBox> {
    let [x1, y1, x2, y2]: [u32; LENGTH] = tokens.try_into().ok()?;
    let coordinate = |token: u32, side: u32| {
        let bin = token.checked_sub(vocabulary.first_bin).filter(|&bin| bin < vocabulary.bins)?;
        let last = f64::from(vocabulary.bins - 1);
        Some((f64::from(bin) / last * f64::from(side)) as f32)
    };
    let bbox = BoundingBox::new(
        coordinate(x1, size.0)?,
        coordinate(y1, size.1)?,
        coordinate(x2, size.0)?,
        coordinate(y2, size.1)?,
    );
    (bbox.x2 > bbox.x1 && bbox.y2 > bbox.y1).then_some(bbox)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(bins: [u32; 4]) -> Option<BoundingBox> {
        let vocabulary = Vocabulary::default();
        location(&bins.map(|bin| vocabulary.first_bin.wrapping_add(bin)), &vocabulary, (640, 480))
    }

    #[test]
    fn the_first_and_the_last_bin_are_the_pictures_edges() {
        assert_eq!(boxed([0, 0, 999, 999]), Some(BoundingBox::new(0.0, 0.0, 640.0, 480.0)));
        let bbox = boxed([333, 0, 666, 111]).unwrap();
        assert!((bbox.x1 - 640.0 / 3.0).abs() < 1e-4 && (bbox.y2 - 480.0 / 9.0).abs() < 1e-4);
    }

    #[test]
    fn what_is_no_box_is_none() {
        for bins in [
            [5, 5, 5, 9],
            [5, 9, 9, 9],
            [9, 0, 5, 9],
            [0, 9, 5, 5],
            [u32::MAX, 0, 5, 9],
            [0, 0, 5, 1000],
        ] {
            assert_eq!(boxed(bins), None, "{bins:?}");
        }
    }
}
