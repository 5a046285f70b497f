//! Stand-ins for the networks, so that everything around them can be tested without weights.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use riveg::batch::Cost;
use riveg::mask::{MaskFrame, MaskLogits};
use riveg::models::{
    CharSpan, EntailInput, Entailer, Entailment, EntityType, FineType, GroundInput, Grounder,
    Grounding, ImageEmbedding, MaskPrediction, ModelError, ModelInfo, Result, SegmentInput,
    Segmenter, TagInput, TaggedEntity, Tagger, TypeExpander,
};
use riveg::pipeline::{PipelineOptions, Roles};
use riveg::vision::{BoundingBox, Picture};

fn info(architecture: &str) -> ModelInfo {
    ModelInfo {
        architecture: architecture.into(),
        parameters: 1,
        bytes: 4,
        dtype: "f32".into(),
        device: "cpu".into(),
        sha256: "0".repeat(64),
    }
}

/// Tags every word that begins with a capital letter: `PER`, with the fine type `athlete` where
/// the word is `Federer`. Fails on a text with `!fail`, panics on one with `!panic`.
#[derive(Default)]
pub struct StubTagger {
    pub delay: Duration,
    pub runs: AtomicUsize,
}

impl Tagger for StubTagger {
    fn tag(&self, inputs: &[TagInput]) -> Result<Vec<Vec<TaggedEntity>>> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(self.delay);
        inputs.iter().map(|input| tag_capitals(&input.text)).collect()
    }

    fn cost(&self, _input: &TagInput) -> u64 {
        10
    }

    fn info(&self) -> ModelInfo {
        info("stub-tagger")
    }
}

fn tag_capitals(text: &str) -> Result<Vec<TaggedEntity>> {
    assert!(!text.contains("!panic"), "asked to panic");
    if text.contains("!fail") {
        return Err(ModelError::NotFinite("stub"));
    }
    let mut found = Vec::new();
    let mut start = 0;
    for word in text.split(' ') {
        let end = start + word.chars().count();
        if word.chars().next().is_some_and(char::is_uppercase) {
            let fine =
                (word == "Federer").then(|| FineType { name: "athlete".into(), score: 0.75 });
            let span = CharSpan { start, end };
            found.push(TaggedEntity { span, kind: EntityType::Per, score: 0.9, fine });
        }
        start = end + 1;
    }
    Ok(found)
}

/// Says 0.1 where the expression names something `Absent`, else 0.8.
pub struct StubEntailer;

impl Entailer for StubEntailer {
    fn entail(&self, inputs: &[EntailInput]) -> Result<Vec<Entailment>> {
        let answer = |input: &EntailInput| {
            let absent = input.expression.starts_with("Absent");
            Entailment { probability: if absent { 0.1 } else { 0.8 } }
        };
        Ok(inputs.iter().map(answer).collect())
    }

    fn picture_cost(&self) -> u64 {
        15
    }

    fn cost(&self, _expression: &str, _description: Option<&str>) -> u64 {
        5
    }

    fn info(&self) -> ModelInfo {
        info("stub-entailer")
    }
}

/// The middle half of the picture; no legal box for `Nowhere`.
pub struct StubGrounder;

impl Grounder for StubGrounder {
    fn ground(&self, inputs: &[GroundInput]) -> Result<Vec<Option<Grounding>>> {
        let place = |input: &GroundInput| {
            let (w, h) = (input.picture.width() as f32, input.picture.height() as f32);
            let bbox = BoundingBox::new(w / 4.0, h / 4.0, w * 0.75, h * 0.75);
            (!input.expression.starts_with("Nowhere")).then_some(Grounding { bbox, score: 0.7 })
        };
        Ok(inputs.iter().map(place).collect())
    }

    fn picture_cost(&self) -> u64 {
        15
    }

    fn cost(&self, _expression: &str) -> u64 {
        5
    }

    fn info(&self) -> ModelInfo {
        info("stub-grounder")
    }
}

/// Masks that fill their boxes.
#[derive(Default)]
pub struct StubSegmenter {
    pub encoded: AtomicUsize,
}

const GRID: usize = 64;

impl Segmenter for StubSegmenter {
    fn encode(&self, pictures: &[Arc<Picture>]) -> Result<Vec<ImageEmbedding>> {
        self.encoded.fetch_add(pictures.len(), Ordering::SeqCst);
        pictures.iter().map(|picture| embed(picture)).collect()
    }

    fn segment(&self, inputs: &[SegmentInput]) -> Result<Vec<Vec<MaskPrediction>>> {
        let masks = |input: &SegmentInput| {
            input.boxes.iter().map(|bbox| fill(bbox, input.embedding.frame)).collect()
        };
        Ok(inputs.iter().map(masks).collect())
    }

    fn encode_cost(&self) -> u64 {
        50
    }

    fn decode_cost(&self) -> u64 {
        5
    }

    fn info(&self) -> ModelInfo {
        info("stub-segmenter")
    }
}

fn embed(picture: &Picture) -> Result<ImageEmbedding> {
    let side = picture.width().max(picture.height()) as f32;
    let scaled = |length: u32| ((length as f32 * 256.0 / side + 0.5) as u32).max(1);
    let frame = MaskFrame {
        frame: 256,
        resized: (scaled(picture.width()), scaled(picture.height())),
        original: (picture.width(), picture.height()),
    };
    let cells = Tensor::zeros((1, 1, 1), DType::F32, &Device::Cpu)?;
    Ok(ImageEmbedding { cells, fine: Vec::new(), frame, digest: picture.digest() })
}

fn fill(bbox: &BoundingBox, frame: MaskFrame) -> MaskPrediction {
    let scale = |resized: u32, original: u32| {
        resized as f32 / original as f32 * GRID as f32 / frame.frame as f32
    };
    let sx = scale(frame.resized.0, frame.original.0);
    let sy = scale(frame.resized.1, frame.original.1);
    let inside = bbox.scale(sx, sy);
    let values = (0..GRID * GRID).map(|i| {
        let (x, y) = ((i % GRID) as f32 + 0.5, (i / GRID) as f32 + 0.5);
        let is_in = x > inside.x1 && x < inside.x2 && y > inside.y1 && y < inside.y2;
        if is_in { 4.0 } else { -4.0 }
    });
    let logits = MaskLogits::new(GRID, GRID, values.collect(), frame).unwrap();
    MaskPrediction { logits, predicted_iou: 0.9, stability: 1.0 }
}

/// Roles filled with stand-ins.
pub fn roles() -> Roles {
    roles_with(StubTagger::default(), Arc::new(StubSegmenter::default()))
}

/// Roles filled with these two and stand-ins.
pub fn roles_with(tagger: StubTagger, segmenter: Arc<StubSegmenter>) -> Roles {
    Roles {
        tagger: Arc::new(tagger),
        expander: Arc::new(TypeExpander),
        entailer: Arc::new(StubEntailer),
        grounder: Arc::new(StubGrounder),
        segmenter,
    }
}

/// Options with room for everything.
pub fn options() -> PipelineOptions {
    PipelineOptions {
        speed: None,
        entailment_threshold: 0.5,
        max_entities: 20,
        max_batch: 8,
        max_encode_batch: 2,
        embedding_cache_bytes: 1 << 20,
        max_inflight: Cost(1_000_000),
    }
}
