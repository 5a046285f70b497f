//! Runs every role before the first request: with one item to get warm, then by the clock with the
//! largest batch that its stage's caps allow (of long items; a single item that is larger still runs
//! alone). Memory is faulted in, kernels are chosen, a network that cannot run such a batch says so
//! at start-up, and the machine's speed is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::{PipelineOptions, Roles};
use crate::batch::stages::{
    EncodeStage, EntailStage, GroundStage, LONG_EXPRESSION, LONG_TEXT, TagStage,
};
use crate::batch::{BatchModel, Cost};
use crate::models::{EntailInput, GroundInput, ModelError, SegmentInput, TagInput};
use crate::vision::{BoundingBox, Picture};

const WIDTH: u32 = 640;
const HEIGHT: u32 = 480;

/// What warming up showed.
#[derive(Debug, Clone, Copy)]
pub struct WarmUp {
    /// Predicted cost of what was run.
    pub cost: Cost,
    /// How long it took.
    pub took: Duration,
}

impl WarmUp {
    /// The predicted cost that this machine works off in `time`; at least 1.
    pub fn cost_of(&self, time: Duration) -> Cost {
        let share = time.as_secs_f64() / self.took.as_secs_f64().max(1e-6);
        Cost(((self.cost.0 as f64 * share) as u64).max(1))
    }
}

/// Runs every role with one item, then with its largest batch; the second round is the one that is
/// timed. What it still has to fault in makes the machine look a little slower than it is, which is
/// the safe side for those who are told when to come back.
///
/// # Errors
/// When a network fails, e.g. because the batch does not fit into the device's memory.
pub fn warm_up(roles: &Roles, options: &PipelineOptions) -> Result<WarmUp, ModelError> {
    let mut pictures = FreshPictures::default();
    Round::new((1, 1), &mut pictures)?.run(roles)?;
    let largest = (options.max_batch, options.max_encode_batch);
    let round = Round::new(largest, &mut pictures)?;
    let begun = Instant::now();
    round.run(roles)?;
    Ok(WarmUp { cost: round.cost(roles), took: begun.elapsed() })
}

/// One batch for every role. No picture is shown twice, not even to two roles: networks remember
/// what they made of a picture, and a remembered answer would make the machine look faster.
struct Round {
    tag: Vec<TagInput>,
    entail: Vec<EntailInput>,
    ground: Vec<GroundInput>,
    encode: Vec<Arc<Picture>>,
}

impl Round {
    /// `batch` items for every role, `encode` pictures for the encoder.
    fn new(
        (batch, encode): (usize, usize),
        pictures: &mut FreshPictures,
    ) -> Result<Self, ModelError> {
        let expression: Arc<str> = LONG_EXPRESSION.into();
        let question = |picture| EntailInput {
            picture,
            expression: expression.clone(),
            description: Some(LONG_TEXT.into()),
        };
        let place = |picture| GroundInput { picture, expression: expression.clone() };
        Ok(Self {
            tag: vec![TagInput { text: LONG_TEXT.into(), knowledge: None }; batch],
            entail: pictures.take(batch)?.into_iter().map(question).collect(),
            ground: pictures.take(batch)?.into_iter().map(place).collect(),
            encode: pictures.take(encode)?,
        })
    }

    fn run(&self, roles: &Roles) -> Result<(), ModelError> {
        roles.tagger.tag(&self.tag)?;
        roles.entailer.entail(&self.entail)?;
        roles.grounder.ground(&self.ground)?;
        let embeddings = roles.segmenter.encode(&self.encode)?;
        let bbox = BoundingBox::new(100.0, 100.0, 300.0, 400.0);
        let segment: Vec<_> = embeddings
            .into_iter()
            .cycle()
            .take(self.tag.len())
            .map(|embedding| SegmentInput { embedding, boxes: vec![bbox] })
            .collect();
        roles.segmenter.segment(&segment)?;
        Ok(())
    }

    /// By the stages' own prices: every picture is new, so each question pays for one.
    fn cost(&self, roles: &Roles) -> Cost {
        fn all<M: BatchModel>(stage: M, inputs: &[M::Input]) -> Cost {
            inputs.iter().map(|input| stage.cost(input)).sum()
        }
        all(TagStage(roles.tagger.clone()), &self.tag)
            + all(EntailStage(roles.entailer.clone()), &self.entail)
            + all(GroundStage(roles.grounder.clone()), &self.ground)
            + all(EncodeStage(roles.segmenter.clone()), &self.encode)
            + Cost(roles.segmenter.decode_cost()).times(self.tag.len())
    }
}

/// Pictures with some structure in them, told apart by a number in their first pixels. None is made
/// twice in a process: whoever measures after another would find what networks remember.
pub struct FreshPictures {
    gradient: Vec<u8>,
}

/// How many were made.
static MADE: AtomicU32 = AtomicU32::new(0);

impl Default for FreshPictures {
    fn default() -> Self {
        let pixel = |x: u32, y: u32| [(x * 255 / WIDTH) as u8, (y * 255 / HEIGHT) as u8, 128];
        let gradient = (0..HEIGHT).flat_map(|y| (0..WIDTH).flat_map(move |x| pixel(x, y)));
        Self { gradient: gradient.collect() }
    }
}

impl FreshPictures {
    /// So many new pictures.
    ///
    /// # Errors
    /// Never: the size is a constant that is legal.
    pub fn take(&mut self, count: usize) -> Result<Vec<Arc<Picture>>, ModelError> {
        (0..count).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> Result<Arc<Picture>, ModelError> {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let mut pixels = self.gradient.clone();
        pixels[..4].copy_from_slice(&number.to_le_bytes());
        Picture::from_rgb(WIDTH, HEIGHT, pixels)
            .map(Arc::new)
            .map_err(|error| ModelError::Weights(error.to_string()))
    }
}
