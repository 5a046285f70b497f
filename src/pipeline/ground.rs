//! Stage 2: does the picture show the entity, where, and which pixels are it?

use std::sync::Arc;
use std::time::Instant;

use tokio::time::timeout_at;

use super::recognize::Found;
use super::stages::Scene;
use super::{
    GroundedEntity, Mask, Options, Pipeline, PipelineError, SegmentAnswer, SegmentRequest,
    SegmentedBox, Task, Timings,
};
use crate::batch::{Reply, RequestContext};
use crate::mask::Rle;
use crate::models::{EntailInput, GroundInput, Grounding, MaskPrediction};
use crate::vision::{BoundingBox, Picture};

impl Pipeline {
    /// Entails every entity, grounds those that the picture shows, and segments their boxes.
    pub(super) async fn ground(
        &self,
        found: &mut [Found],
        scene: Scene<'_>,
        options: &Options,
        context: &RequestContext,
        timings: &mut Timings,
    ) -> Result<(), PipelineError> {
        if options.task == Task::Mner || found.is_empty() {
            return Ok(());
        }
        let picture = scene.picture;
        let shown = self.entail(found, picture, options, context, timings).await?;
        let placed = self.place(found, &shown, picture, context, timings).await?;
        let boxes: Vec<_> = placed.iter().map(|(_, grounding)| grounding.bbox).collect();
        let masks = if options.task == Task::Smner && !boxes.is_empty() {
            let (predictions, rles) = self.segment_boxes(scene, boxes, context, timings).await?;
            predictions.iter().zip(rles).map(|(p, rle)| Some(rate(p, rle, options))).collect()
        } else {
            vec![None; placed.len()]
        };
        for ((index, grounding), mask) in placed.into_iter().zip(masks) {
            let Grounding { bbox, score } = grounding;
            found[index].entity.grounded = Some(GroundedEntity { bbox, score, mask });
        }
        Ok(())
    }

    /// Writes the entailment scores, and returns the indices of the entities that are shown.
    async fn entail(
        &self,
        found: &mut [Found],
        picture: &Arc<Picture>,
        options: &Options,
        context: &RequestContext,
        timings: &mut Timings,
    ) -> Result<Vec<usize>, PipelineError> {
        let questions = found.iter().map(|f| EntailInput {
            picture: picture.clone(),
            expression: f.entity.expression.as_str().into(),
            description: options.image_description.clone(),
        });
        let replies = self.stages.entailer.submit_all(questions.collect(), context).await?;
        let (executed, queued) = longest(&replies);
        timings.entail += executed;
        timings.queue += queued;
        let threshold = options.entailment_threshold.unwrap_or(self.options.entailment_threshold);
        let mut shown = Vec::new();
        for (index, reply) in replies.into_iter().enumerate() {
            let probability = reply.output.probability;
            found[index].entity.entailment_score = Some(probability);
            if probability >= threshold {
                shown.push(index);
            }
        }
        Ok(shown)
    }

    /// The boxes of the entities in `shown`; an entity for which the network gave no legal box is
    /// left out.
    async fn place(
        &self,
        found: &[Found],
        shown: &[usize],
        picture: &Arc<Picture>,
        context: &RequestContext,
        timings: &mut Timings,
    ) -> Result<Vec<(usize, Grounding)>, PipelineError> {
        let questions = shown.iter().map(|&index| GroundInput {
            picture: picture.clone(),
            expression: found[index].entity.expression.as_str().into(),
        });
        let replies = self.stages.grounder.submit_all(questions.collect(), context).await?;
        let (executed, queued) = longest(&replies);
        timings.ground += executed;
        timings.queue += queued;
        let boxes = shown.iter().zip(replies);
        Ok(boxes.filter_map(|(&index, reply)| Some((index, reply.output?))).collect())
    }

    /// Turns boxes of one picture into masks; called with at least one box.
    async fn segment_boxes(
        &self,
        scene: Scene<'_>,
        boxes: Vec<BoundingBox>,
        context: &RequestContext,
        timings: &mut Timings,
    ) -> Result<(Vec<MaskPrediction>, Vec<Rle>), PipelineError> {
        let encoded = self.stages.encode(scene, context).await?;
        let reply = self.stages.decode(encoded.output, boxes, context).await?;
        timings.segment += encoded.executed + reply.executed;
        timings.queue += encoded.queued + reply.queued;
        let begun = Instant::now();
        let (predictions, rles) = upscale(reply.output, context.deadline()).await?;
        timings.segment += begun.elapsed();
        Ok((predictions, rles))
    }

    /// Answers boxes of one picture that were admitted.
    ///
    /// # Errors
    /// See [`PipelineError`]. Dropping the future cancels what is still queued.
    pub async fn segment(
        &self,
        request: SegmentRequest,
        context: &RequestContext,
    ) -> Result<SegmentAnswer, PipelineError> {
        let mut timings = Timings::default();
        let SegmentRequest { picture, boxes } = request;
        if boxes.is_empty() {
            return Ok(SegmentAnswer { masks: Vec::new(), timings });
        }
        let scene = Scene { picture: &picture, early: None };
        let (predictions, rles) =
            self.segment_boxes(scene, boxes.clone(), context, &mut timings).await?;
        let masks = boxes.into_iter().zip(predictions).zip(rles);
        let masks = masks.map(|((bbox, prediction), rle)| SegmentedBox {
            bbox,
            rle,
            score: prediction.predicted_iou,
            stability: prediction.stability,
        });
        Ok(SegmentAnswer { masks: masks.collect(), timings })
    }
}

/// Upscales, thresholds and encodes mask by mask, off the async threads. Past the deadline the rest
/// is left undone: nobody waits for it.
async fn upscale(
    predictions: Vec<MaskPrediction>,
    deadline: Option<Instant>,
) -> Result<(Vec<MaskPrediction>, Vec<Rle>), PipelineError> {
    let is_late = move || deadline.is_some_and(|at| at <= Instant::now());
    let work = tokio::task::spawn_blocking(move || {
        let encode = |p: &MaskPrediction| (!is_late()).then(|| p.logits.to_rle());
        let rles = predictions.iter().map(encode).collect::<Option<Vec<_>>>();
        rles.map(|rles| (predictions, rles)).ok_or(PipelineError::DeadlineExceeded)
    });
    let done = match deadline {
        Some(at) => {
            timeout_at(at.into(), work).await.map_err(|_| PipelineError::DeadlineExceeded)?
        }
        None => work.await,
    };
    done.map_err(|error| {
        tracing::error!(%error, "upscaling masks failed");
        PipelineError::Internal
    })?
}

fn rate(prediction: &MaskPrediction, rle: Rle, options: &Options) -> Mask {
    let score = prediction.predicted_iou;
    Mask { rle: (score >= options.min_mask_score).then_some(rle), score }
}

/// Items of one stage run side by side: what a request waited for is the slowest of them.
fn longest<T>(replies: &[Reply<T>]) -> (std::time::Duration, std::time::Duration) {
    let executed = replies.iter().map(|reply| reply.executed).max();
    let queued = replies.iter().map(|reply| reply.queued).max();
    (executed.unwrap_or_default(), queued.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::{MaskFrame, MaskLogits};

    fn prediction() -> MaskPrediction {
        let frame = MaskFrame { frame: 8, resized: (8, 8), original: (8, 8) };
        let logits = MaskLogits::new(2, 2, vec![1.0; 4], frame).unwrap();
        MaskPrediction { logits, predicted_iou: 0.9, stability: 1.0 }
    }

    #[tokio::test]
    async fn upscaling_ends_at_the_deadline() {
        let late = upscale(vec![prediction()], Some(Instant::now())).await;
        assert_eq!(late.unwrap_err(), PipelineError::DeadlineExceeded);
        let (_, rles) = upscale(vec![prediction()], None).await.unwrap();
        assert_eq!((rles[0].width(), rles[0].height()), (8, 8));
    }
}
