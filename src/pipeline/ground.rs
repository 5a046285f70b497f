//! Stage 2: does the picture show the entity, where, and which pixels are it?

use std::sync::Arc;
use std::time::Instant;

use tokio::time::timeout_at;

use super::progress::Passage;
use super::stages::Scene;
use super::{
    Entity, GroundedEntity, Mask, Options, Pipeline, PipelineError, Progress, SegmentAnswer,
    SegmentRequest, SegmentedBox, Task, Timings,
};
use crate::batch::RequestContext;
use crate::mask::Rle;
use crate::models::{EntailInput, GroundInput, Grounding, MaskPrediction};
use crate::vision::{BoundingBox, Picture};

impl Pipeline {
    /// Entails every entity, grounds those that the picture shows, and segments their boxes.
    pub(super) async fn ground(
        &self,
        entities: &mut [Entity],
        scene: Scene<'_>,
        options: &Options,
        passage: &mut Passage<'_>,
    ) -> Result<(), PipelineError> {
        if options.task == Task::Mner || entities.is_empty() {
            return Ok(());
        }
        let shown = self.entail(entities, scene.picture, options, passage).await?;
        (passage.observer)(Progress::Entailed { entities, shown: &shown });
        if shown.is_empty() {
            return Ok(());
        }
        self.place(entities, &shown, scene.picture, passage).await?;
        (passage.observer)(Progress::Grounded { entities, shown: &shown });
        let mut placed: Vec<_> = entities.iter_mut().filter_map(|e| e.grounded.as_mut()).collect();
        if options.task == Task::Gmner || placed.is_empty() {
            return Ok(());
        }
        let boxes = placed.iter().map(|grounded| grounded.bbox).collect();
        let (predictions, rles) = self.segment_boxes(scene, boxes, passage).await?;
        for (grounded, (prediction, rle)) in placed.iter_mut().zip(predictions.iter().zip(rles)) {
            grounded.mask = Some(rate(prediction, rle, options));
        }
        (passage.observer)(Progress::Segmented(entities));
        Ok(())
    }

    /// Writes the entailment scores, and returns the indices of the entities that are shown.
    async fn entail(
        &self,
        entities: &mut [Entity],
        picture: &Arc<Picture>,
        options: &Options,
        passage: &mut Passage<'_>,
    ) -> Result<Vec<usize>, PipelineError> {
        let questions = entities.iter().map(|entity| EntailInput {
            picture: picture.clone(),
            expression: entity.expression.as_str().into(),
            description: options.image_description.clone(),
        });
        let questions = questions.collect();
        let replies = self.stages.entailer.submit_all(questions, passage.context).await?;
        let executed = passage.waited(&replies);
        passage.timings.entail += executed;
        let threshold = options.entailment_threshold.unwrap_or(self.options.entailment_threshold);
        let mut shown = Vec::new();
        for (index, reply) in replies.into_iter().enumerate() {
            let probability = reply.output.probability;
            entities[index].entailment_score = Some(probability);
            if probability >= threshold {
                shown.push(index);
            }
        }
        Ok(shown)
    }

    /// Writes the boxes of the entities in `shown`; an entity for which the network gave no legal
    /// box is left as it is.
    async fn place(
        &self,
        entities: &mut [Entity],
        shown: &[usize],
        picture: &Arc<Picture>,
        passage: &mut Passage<'_>,
    ) -> Result<(), PipelineError> {
        let questions = shown.iter().map(|&index| GroundInput {
            picture: picture.clone(),
            expression: entities[index].expression.as_str().into(),
        });
        let questions = questions.collect();
        let replies = self.stages.grounder.submit_all(questions, passage.context).await?;
        let executed = passage.waited(&replies);
        passage.timings.ground += executed;
        for (&index, reply) in shown.iter().zip(replies) {
            let grounded = |Grounding { bbox, score }| GroundedEntity { bbox, score, mask: None };
            entities[index].grounded = reply.output.map(grounded);
        }
        Ok(())
    }

    /// Turns boxes of one picture into masks; called with at least one box.
    async fn segment_boxes(
        &self,
        scene: Scene<'_>,
        boxes: Vec<BoundingBox>,
        passage: &mut Passage<'_>,
    ) -> Result<(Vec<MaskPrediction>, Vec<Rle>), PipelineError> {
        let Passage { context, timings, .. } = passage;
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
        let mut passage = Passage { context, observer: &|_| {}, timings: Timings::default() };
        let SegmentRequest { picture, boxes } = request;
        if boxes.is_empty() {
            return Ok(SegmentAnswer { masks: Vec::new(), timings: passage.timings });
        }
        let scene = Scene { picture: &picture, early: None };
        let (predictions, rles) = self.segment_boxes(scene, boxes.clone(), &mut passage).await?;
        let masks = boxes.into_iter().zip(predictions).zip(rles);
        let masks = masks.map(|((bbox, prediction), rle)| SegmentedBox {
            bbox,
            rle,
            score: prediction.predicted_iou,
            stability: prediction.stability,
        });
        Ok(SegmentAnswer { masks: masks.collect(), timings: passage.timings })
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
