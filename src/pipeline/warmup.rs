//! Runs every role once at its largest batch before the first request: memory is faulted in,
//! kernels are chosen, a network that cannot run says so at start-up, and the machine's speed is
//! known.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{PipelineOptions, Roles};
use crate::batch::Cost;
use crate::models::{EntailInput, GroundInput, ModelError, SegmentInput, TagInput};
use crate::vision::{BoundingBox, Picture};

const TEXT: &str = "Ada Lovelace met Charles Babbage at the Royal Society in London";
const EXPRESSION: &str = "Ada Lovelace (PER)-a person";
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

/// Runs every role twice at its largest batch; the second round is the one that is timed.
///
/// # Errors
/// When a network fails, e.g. because the batch does not fit into the device's memory.
pub fn warm_up(roles: &Roles, options: &PipelineOptions) -> Result<WarmUp, ModelError> {
    run_once(roles, options)?;
    let begun = Instant::now();
    let cost = run_once(roles, options)?;
    Ok(WarmUp { cost, took: begun.elapsed() })
}

fn run_once(roles: &Roles, options: &PipelineOptions) -> Result<Cost, ModelError> {
    let batch = options.max_batch;
    // Distinct pictures: nothing that is kept per picture may make the machine look faster.
    let pictures = (0..batch.max(options.max_encode_batch)).map(|i| gradient(i as u8));
    let pictures = pictures.collect::<Result<Vec<_>, _>>()?;
    let tag = TagInput { text: TEXT.into(), knowledge: None };
    roles.tagger.tag(&vec![tag.clone(); batch])?;
    let expression: Arc<str> = EXPRESSION.into();
    let questions = |picture: &Arc<Picture>| EntailInput {
        picture: picture.clone(),
        expression: expression.clone(),
        description: None,
    };
    let entail: Vec<_> = pictures.iter().take(batch).map(questions).collect();
    roles.entailer.entail(&entail)?;
    let places = |picture: &Arc<Picture>| GroundInput {
        picture: picture.clone(),
        expression: expression.clone(),
    };
    let ground: Vec<_> = pictures.iter().take(batch).map(places).collect();
    roles.grounder.ground(&ground)?;
    let embeddings = roles.segmenter.encode(&pictures[..options.max_encode_batch])?;
    let bbox = BoundingBox::new(100.0, 100.0, 300.0, 400.0);
    let segment: Vec<_> = embeddings
        .into_iter()
        .cycle()
        .take(batch)
        .map(|embedding| SegmentInput { embedding, boxes: vec![bbox] })
        .collect();
    roles.segmenter.segment(&segment)?;
    let entailing: u64 = entail.iter().map(|input| roles.entailer.cost(input)).sum();
    let grounding: u64 = ground.iter().map(|input| roles.grounder.cost(input)).sum();
    let texts_and_boxes = (roles.tagger.cost(&tag) + roles.segmenter.decode_cost()) * batch as u64;
    let encoding = roles.segmenter.encode_cost() * options.max_encode_batch as u64;
    Ok(Cost(texts_and_boxes + entailing + grounding + encoding))
}

/// A picture with some structure in it; another one for every `shade`.
fn gradient(shade: u8) -> Result<Arc<Picture>, ModelError> {
    let pixels = (0..HEIGHT).flat_map(|y| {
        (0..WIDTH).flat_map(move |x| [(x * 255 / WIDTH) as u8, (y * 255 / HEIGHT) as u8, shade])
    });
    Picture::from_rgb(WIDTH, HEIGHT, pixels.collect())
        .map(Arc::new)
        .map_err(|error| ModelError::Weights(error.to_string()))
}
