//! From the pipeline's answers to the wire.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::parse::SentBox;
use super::problem::{Code, Problem};
use super::types::{
    Counts, EntityOutput, ImageSize, MaskFormat, MaskOutput, PackName, ProvenanceOutput,
    SegmentResponse, SegmentedMask, SmnerResponse, TimingsOutput, TypeName,
};
use crate::mask::Rle;
use crate::models::EntityType;
use crate::pipeline::{Answer, Entity, GroundedEntity, SegmentAnswer, Timings};
use crate::vision::{BoundingBox, Picture};

/// What an answer needs to be written, besides itself.
pub struct Rendering {
    /// The caller's id, or the request's.
    pub id: String,
    /// What answered.
    pub pack: PackName,
    /// The size of the picture.
    pub image: Option<ImageSize>,
    /// How masks are to be written.
    pub mask_format: MaskFormat,
    /// How long decoding took.
    pub decode: Duration,
    /// How long everything took.
    pub total: Duration,
}

/// The answer for a post as it goes over the wire. Takes CPU time for polygons and PNG.
///
/// # Errors
/// `internal` where a mask cannot be written.
pub fn answer(answer: Answer, rendering: Rendering) -> Result<SmnerResponse, Problem> {
    let Answer { entities, provenance, timings } = answer;
    let format = rendering.mask_format;
    let timings_ms = timings_output(&timings, rendering.decode, rendering.total);
    let entities = entities.into_iter().map(|entity| entity_output(entity, format));
    Ok(SmnerResponse {
        id: rendering.id,
        pack: rendering.pack,
        image: rendering.image,
        entities: entities.collect::<Result<_, _>>()?,
        provenance: ProvenanceOutput {
            knowledge: provenance.knowledge,
            image_description: provenance.image_description,
            expression: provenance.expression,
        },
        timings_ms,
    })
}

fn entity_output(entity: Entity, format: MaskFormat) -> Result<EntityOutput, Problem> {
    let groundable = entity.entailment_score.map(|_| entity.grounded.is_some());
    let mut output = EntityOutput {
        text: entity.text,
        kind: entity.kind.into(),
        start: entity.span.start,
        end: entity.span.end,
        score: score(entity.score),
        fine_type: entity.fine.map(|fine| fine.name),
        expression: entity.expression,
        groundable,
        entailment_score: entity.entailment_score.map(score),
        bbox: None,
        box_score: None,
        mask: None,
        mask_score: None,
    };
    if let Some(GroundedEntity { bbox, score: box_score, mask }) = entity.grounded {
        output.bbox = Some(box_output(&bbox));
        output.box_score = Some(score(box_score));
        if let Some(mask) = mask {
            output.mask_score = Some(score(mask.score));
            output.mask = mask.rle.map(|rle| mask_output(&rle, format)).transpose()?;
        }
    }
    Ok(output)
}

/// The answer for boxes as it goes over the wire; each mask has its box as `sent`.
///
/// # Errors
/// `internal` where a mask cannot be written.
pub fn segments(
    answer: SegmentAnswer,
    sent: &[SentBox],
    image: ImageSize,
    format: MaskFormat,
) -> Result<SegmentResponse, Problem> {
    let masks = answer.masks.into_iter().zip(sent).map(|(segment, sent)| {
        Ok(SegmentedMask {
            bbox: sent.sent.to_vec(),
            mask: mask_output(&segment.rle, format)?,
            mask_score: score(segment.score),
            stability_score: score(segment.stability),
        })
    });
    Ok(SegmentResponse { image, masks: masks.collect::<Result<_, Problem>>()? })
}

/// A mask as it goes over the wire.
///
/// # Errors
/// `internal` where it cannot be written.
pub fn mask_output(rle: &Rle, format: MaskFormat) -> Result<MaskOutput, Problem> {
    let size = vec![rle.height(), rle.width()];
    let mut output = MaskOutput { size, counts: None, polygons: None, png: None };
    match format {
        MaskFormat::Rle => output.counts = Some(Counts::Compressed(rle.to_compressed())),
        MaskFormat::RleCounts => output.counts = Some(Counts::Plain(rle.counts().to_vec())),
        MaskFormat::Polygon => {
            output.polygons = Some(rle.to_polygons().into_iter().map(|p| p.rings).collect())
        }
        MaskFormat::Png => {
            let png = rle.to_png().map_err(|error| {
                tracing::error!(%error, "a mask could not be written as PNG");
                Problem::new(Code::Internal, Code::Internal.title())
            })?;
            output.png = Some(BASE64.encode(png));
        }
    }
    Ok(output)
}

/// The stages as `Server-Timing` (RFC-less, but every browser's developer tools show it).
pub fn server_timing(timings: &TimingsOutput) -> String {
    let TimingsOutput { decode, recognize, entail, ground, segment, queue, total } = timings;
    format!(
        "decode;dur={decode}, recognize;dur={recognize}, entail;dur={entail}, \
         ground;dur={ground}, segment;dur={segment}, queue;dur={queue}, total;dur={total}"
    )
}

/// The stages of a segment request as `Server-Timing`.
pub fn segment_timing(timings: &Timings, decode: Duration, total: Duration) -> String {
    server_timing(&timings_output(timings, decode, total))
}

fn timings_output(timings: &Timings, decode: Duration, total: Duration) -> TimingsOutput {
    TimingsOutput {
        decode: milliseconds(decode),
        recognize: milliseconds(timings.recognize),
        entail: milliseconds(timings.entail),
        ground: milliseconds(timings.ground),
        segment: milliseconds(timings.segment),
        queue: milliseconds(timings.queue),
        total: milliseconds(total),
    }
}

fn milliseconds(duration: Duration) -> f64 {
    round(duration.as_secs_f64() * 1e3, 100.0)
}

/// Scores to four places: what lies behind them is noise.
pub fn score(value: f32) -> f64 {
    round(f64::from(value), 1e4)
}

/// Boxes to a hundredth of a pixel.
pub fn box_output(bbox: &BoundingBox) -> Vec<f64> {
    bbox.to_array().into_iter().map(|edge| round(f64::from(edge), 100.0)).collect()
}

fn round(value: f64, steps: f64) -> f64 {
    (value * steps).round() / steps
}

impl From<EntityType> for TypeName {
    fn from(kind: EntityType) -> Self {
        match kind {
            EntityType::Per => Self::Per,
            EntityType::Loc => Self::Loc,
            EntityType::Org => Self::Org,
            EntityType::Misc => Self::Misc,
        }
    }
}

impl From<&Picture> for ImageSize {
    fn from(picture: &Picture) -> Self {
        Self { width: picture.width(), height: picture.height() }
    }
}
