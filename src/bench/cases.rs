//! Stages as they are run: what is made before the clock starts, and what is timed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Networks, Stage};
use crate::models::{
    EntailInput, Entailer, GroundInput, Result, SegmentInput, Segmenter, TagInput, Tagger,
};
use crate::pipeline::FreshPictures;
use crate::vision::BoundingBox;

/// What every question names: words of one letter, which every tokenizer here makes one piece of.
pub const EXPRESSION: &str = "a b c d e f g h";
/// Entities of the post that goes through all stages.
const ENTITIES: usize = 2;
/// Pieces of a text that are not words.
const SPECIALS: usize = 2;

/// What is fed to the networks.
#[derive(Debug, Clone)]
pub struct Shapes {
    /// Items of a batch: texts, questions, pictures, or boxes of one picture.
    pub batches: Vec<usize>,
    /// Pieces of a text that is tagged, with the two that frame it.
    pub pieces: usize,
}

/// One stage at one batch size.
pub struct Case {
    /// The stage.
    pub stage: Stage,
    /// Items of the batch; 1 for [`Stage::Whole`].
    pub batch: usize,
    /// Work by the network's own count, in millions of multiply–adds.
    pub cost: u64,
    run: Box<dyn FnMut() -> Result<Duration> + Send>,
}

impl Case {
    /// Runs it once; answers how long it took without what was prepared for it.
    ///
    /// # Errors
    /// A network failed.
    pub fn run(&mut self) -> Result<Duration> {
        (self.run)()
    }

    /// `stage/batch`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.stage, self.batch)
    }
}

/// Every case that the networks allow, of these stages.
///
/// # Errors
/// A picture could not be encoded to be segmented.
pub fn cases(networks: &Networks, stages: &[Stage], shapes: &Shapes) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for &stage in stages {
        if stage == Stage::Whole {
            cases.extend(whole(networks, shapes.pieces));
            continue;
        }
        for &batch in &shapes.batches {
            cases.extend(single(networks, stage, (batch, shapes.pieces))?);
        }
    }
    Ok(cases)
}

fn single(
    networks: &Networks,
    stage: Stage,
    (batch, pieces): (usize, usize),
) -> Result<Option<Case>> {
    Ok(match stage {
        Stage::Tag => networks.tagger.clone().map(|network| tag(network, batch, pieces)),
        Stage::Entail => networks.entailer.clone().map(|network| entail(network, batch)),
        Stage::Ground => networks.ground_case(batch),
        Stage::Trunk => networks.trunk_case(batch),
        Stage::Encode => networks.segmenter.clone().map(|network| encode(network, batch)),
        Stage::Segment => {
            networks.segmenter.clone().map(|network| segment(network, batch)).transpose()?
        }
        Stage::Whole => None,
    })
}

fn text(pieces: usize) -> Arc<str> {
    let words = ('a'..='z').cycle().take(pieces.saturating_sub(SPECIALS).max(1));
    words.map(String::from).collect::<Vec<_>>().join(" ").into()
}

/// Of several equal boxes none would be decoded twice as fast; they differ all the same.
fn boxes(count: usize) -> Vec<BoundingBox> {
    let at = |index: usize| 20.0 * (index % 16) as f32;
    (0..count).map(|i| BoundingBox::new(at(i), at(i), at(i) + 200.0, at(i) + 160.0)).collect()
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<Duration> {
    let begun = Instant::now();
    let answer = work()?;
    let took = begun.elapsed();
    drop(answer);
    Ok(took)
}

fn tag(network: Arc<dyn Tagger>, batch: usize, pieces: usize) -> Case {
    let inputs = vec![TagInput { text: text(pieces), knowledge: None }; batch];
    // Networks tell a text's cost from its bytes, four a piece; these words have two.
    let ordinary = "abc ".repeat(pieces.saturating_sub(SPECIALS));
    let ordinary = TagInput { text: ordinary.into(), knowledge: None };
    let cost = batch as u64 * network.cost(&ordinary);
    let run = move || timed(|| network.tag(&inputs));
    Case { stage: Stage::Tag, batch, cost, run: Box::new(run) }
}

fn entail(network: Arc<dyn Entailer>, batch: usize) -> Case {
    let cost = batch as u64 * (network.picture_cost() + network.cost(EXPRESSION, None));
    let mut pictures = FreshPictures::default();
    let run = move || {
        let pictures = pictures.take(batch)?.into_iter();
        let inputs: Vec<_> = pictures.map(|picture| question(picture, EXPRESSION)).collect();
        timed(|| network.entail(&inputs))
    };
    Case { stage: Stage::Entail, batch, cost, run: Box::new(run) }
}

fn question(picture: Arc<crate::vision::Picture>, expression: &str) -> EntailInput {
    EntailInput { picture, expression: expression.into(), description: None }
}

impl Networks {
    fn ground_case(&self, batch: usize) -> Option<Case> {
        let network = self.grounder.clone()?;
        let cost = batch as u64 * (network.picture_cost() + network.cost(EXPRESSION));
        let mut pictures = FreshPictures::default();
        let run = move || {
            let pictures = pictures.take(batch)?.into_iter();
            let place = |picture| GroundInput { picture, expression: EXPRESSION.into() };
            let inputs: Vec<_> = pictures.map(place).collect();
            timed(|| network.ground(&inputs))
        };
        Some(Case { stage: Stage::Ground, batch, cost, run: Box::new(run) })
    }

    fn trunk_case(&self, batch: usize) -> Option<Case> {
        let trunk = self.trunk.clone()?;
        let cost = batch as u64 * trunk.cost();
        let mut pictures = FreshPictures::default();
        let run = move || {
            let pictures = pictures.take(batch)?;
            let pictures: Vec<_> = pictures.iter().map(Arc::as_ref).collect();
            timed(|| trunk.forward(&pictures))
        };
        Some(Case { stage: Stage::Trunk, batch, cost, run: Box::new(run) })
    }
}

fn encode(network: Arc<dyn Segmenter>, batch: usize) -> Case {
    let cost = batch as u64 * network.encode_cost();
    let mut pictures = FreshPictures::default();
    let run = move || {
        let pictures = pictures.take(batch)?;
        timed(|| network.encode(&pictures))
    };
    Case { stage: Stage::Encode, batch, cost, run: Box::new(run) }
}

fn segment(network: Arc<dyn Segmenter>, batch: usize) -> Result<Case> {
    let cost = batch as u64 * network.decode_cost();
    let embeddings = network.encode(&FreshPictures::default().take(1)?)?;
    let input = |embedding| SegmentInput { embedding, boxes: boxes(batch) };
    let inputs: Vec<_> = embeddings.into_iter().map(input).collect();
    let run = move || timed(|| network.segment(&inputs));
    Ok(Case { stage: Stage::Segment, batch, cost, run: Box::new(run) })
}

/// One text, one picture, [`ENTITIES`] questions about it, whatever the networks answer.
fn whole(networks: &Networks, pieces: usize) -> Option<Case> {
    let tagger = networks.tagger.clone()?;
    let entailer = networks.entailer.clone()?;
    let grounder = networks.grounder.clone()?;
    let segmenter = networks.segmenter.clone()?;
    let tag = [TagInput { text: text(pieces), knowledge: None }];
    let questions = ENTITIES as u64;
    let cost = tagger.cost(&tag[0])
        + entailer.picture_cost()
        + questions * (entailer.cost(EXPRESSION, None) + grounder.cost(EXPRESSION))
        + grounder.picture_cost()
        + segmenter.encode_cost()
        + questions * segmenter.decode_cost();
    let mut pictures = FreshPictures::default();
    let run = move || {
        let pictures = pictures.take(1)?;
        let expressions = (0..ENTITIES).map(|i| format!("{EXPRESSION} {}", ['i', 'j'][i % 2]));
        let entail: Vec<_> = expressions.map(|e| question(pictures[0].clone(), &e)).collect();
        let place = |q: &EntailInput| GroundInput {
            picture: q.picture.clone(),
            expression: q.expression.clone(),
        };
        let ground: Vec<_> = entail.iter().map(place).collect();
        timed(|| {
            tagger.tag(&tag)?;
            entailer.entail(&entail)?;
            grounder.ground(&ground)?;
            let embeddings = segmenter.encode(&pictures)?;
            let input = |embedding| SegmentInput { embedding, boxes: boxes(ENTITIES) };
            segmenter.segment(&embeddings.into_iter().map(input).collect::<Vec<_>>())
        })
    };
    Some(Case { stage: Stage::Whole, batch: 1, cost, run: Box::new(run) })
}
