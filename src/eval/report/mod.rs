//! What an evaluation found, for programs and for people.

mod gallery;
mod html;
mod markdown;
mod plot;

use std::collections::BTreeMap;

use serde::Serialize;

pub use gallery::{Example, Fault, examples};
pub use html::html;
pub use markdown::markdown;

use super::gold::{DataSet, Instance};
use super::metrics::{
    self, Baselines, Calibration, Confusion, DataSetCounts, IouRule, Masks, Overlaps, Pair, Prf,
    Share, Task,
};
use super::prediction::{PredictedEntity, Predictions};
use crate::mask::Rle;

/// IoU thresholds of the sweep, in per cent.
const SWEEP: std::ops::RangeInclusive<usize> = 10..=19;

/// A mask that was made from a gold box, and what the network thinks of it.
#[derive(Debug, Clone)]
pub struct MaskOfBox<'a> {
    /// The thing with its gold mask.
    pub instance: &'a Instance,
    /// The mask.
    pub mask: Rle,
    /// Its score.
    pub score: f64,
}

/// What is evaluated.
#[derive(Debug, Clone)]
pub struct Evaluated<'a> {
    /// What is right.
    pub set: &'a DataSet,
    /// What was predicted.
    pub predictions: &'a Predictions,
    /// Masks made from gold boxes.
    pub masks: &'a [MaskOfBox<'a>],
    /// Who predicted, e.g. `pack nano 2026.11.23`.
    pub source: String,
    /// When an overlap is enough.
    pub rule: IouRule,
}

/// Everything that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was measured on.
    pub data_set: String,
    /// Who predicted.
    pub source: String,
    /// The program's version.
    pub riveg: &'static str,
    /// When an overlap is enough: over 0.5, or 0.5 and over.
    pub iou_rule: IouRule,
    /// Whether the entities were given instead of found.
    pub entities_given: bool,
    /// What the set consists of.
    pub counts: DataSetCounts,
    /// Posts that could not be answered; they count as answered without entities.
    pub failed: usize,
    /// The paper's metrics, as far as the set is annotated.
    pub tasks: Vec<TaskRow>,
    /// MNER by place instead of by words, as seqeval counts.
    pub mner_by_span: Option<Scores>,
    /// GMNER if every box of a rightly grounded entity were right.
    pub gmner_upper_bound: Option<Scores>,
    /// Fine types of the entities found.
    pub fine_types: Option<Accuracy>,
    /// Visual entailment on the entities found, of all and of each group.
    pub entailment: BTreeMap<String, Entailment>,
    /// Visual grounding: Prec@0.5 on the shown entities found, of all and of each group.
    pub grounding: BTreeMap<String, Accuracy>,
    /// Masks of predicted boxes.
    pub masks: Option<Masks>,
    /// Masks of gold boxes.
    pub masks_of_gold_boxes: Option<Masks>,
    /// F1 at other IoU thresholds.
    pub sweep: Vec<SweepRow>,
    /// Whether scores can be taken at their word.
    pub calibration: Calibration,
    /// What guessing reaches on this very set.
    pub baselines: Baselines,
}

/// Precision, recall and F1 with what they are made of.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Scores {
    /// In `0..=1`.
    pub precision: f64,
    /// In `0..=1`.
    pub recall: f64,
    /// In `0..=1`.
    pub f1: f64,
    /// The counts.
    #[serde(flatten)]
    pub counts: Prf,
}

impl From<Prf> for Scores {
    fn from(counts: Prf) -> Self {
        let (precision, recall, f1) = (counts.precision(), counts.recall(), counts.f1());
        Self { precision, recall, f1, counts }
    }
}

/// One of the paper's metrics.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct TaskRow {
    /// Which.
    pub task: Task,
    /// Its scores.
    #[serde(flatten)]
    pub scores: Scores,
}

/// A share of right answers.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Accuracy {
    /// In `0..=1`.
    pub accuracy: f64,
    /// The counts.
    #[serde(flatten)]
    pub share: Share,
}

impl From<Share> for Accuracy {
    fn from(share: Share) -> Self {
        Self { accuracy: share.value(), share }
    }
}

/// Visual entailment.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Entailment {
    /// Share of right answers.
    pub accuracy: f64,
    /// Mean of the shares among shown and not shown entities.
    pub balanced_accuracy: f64,
    /// The counts.
    #[serde(flatten)]
    pub confusion: Confusion,
}

/// F1 of what depends on an IoU threshold.
#[derive(Debug, Clone, Serialize)]
pub struct SweepRow {
    /// The threshold.
    pub iou: f64,
    /// F1 by task.
    pub f1: BTreeMap<&'static str, f64>,
}

/// Measures everything that the set is annotated for.
pub fn report(evaluated: &Evaluated) -> Report {
    let Evaluated { set, predictions, masks, source, rule } = evaluated;
    let (set, rule) = (*set, *rule);
    let pairs = metrics::pairs(set, predictions, false);
    let overlaps = Overlaps::new(&pairs);
    let tasks = tasks_of(set, &pairs);
    let row = |&task: &Task| TaskRow {
        task,
        scores: metrics::tally(&pairs, &overlaps, task, (rule, 0.5)).into(),
    };
    let by_span = set.entities().any(|entity| entity.span.is_some()) && !set.questions;
    let of_boxes: Vec<_> = masks.iter().map(|made| (&made.mask, made.instance)).collect();
    let mask_scores: Vec<_> = masks
        .iter()
        .map(|made| (made.score, made.mask.iou(&made.instance.mask).unwrap_or_default()))
        .collect();
    let fine = metrics::fine_types(&pairs);
    let entailment = entailment(&pairs);
    Report {
        data_set: set.name.clone(),
        source: source.clone(),
        riveg: crate::telemetry::VERSION,
        iou_rule: rule,
        entities_given: set.questions,
        counts: metrics::count(set),
        failed: set.posts.iter().filter(|p| matches!(predictions.get(&p.id), Some(None))).count(),
        tasks: tasks.iter().map(row).collect(),
        mner_by_span: by_span.then(|| metrics::spans(&pairs).into()),
        gmner_upper_bound: (set.annotated.boxes && !set.questions)
            .then(|| metrics::upper_bound(&pairs).into())
            .filter(|_| !entailment.is_empty()),
        fine_types: (fine.of > 0).then(|| fine.into()),
        entailment,
        grounding: metrics::grounding(&pairs, rule, 0.5)
            .into_iter()
            .map(|(group, share)| (group, share.into()))
            .collect(),
        masks: metrics::masks_of_predictions(&pairs),
        masks_of_gold_boxes: metrics::masks_of_gold_boxes(&of_boxes),
        sweep: sweep(&pairs, &overlaps, &tasks, rule),
        calibration: metrics::calibration(&pairs, rule, &mask_scores),
        baselines: metrics::baselines(set, rule),
    }
}

/// The metrics that the set's annotation and the predictions allow. Where nobody looked at a picture
/// there is nothing to say about pictures.
fn tasks_of(set: &DataSet, pairs: &[Pair]) -> Vec<Task> {
    if set.questions {
        return Vec::new();
    }
    let any = |of: fn(&PredictedEntity) -> bool| {
        let posts = pairs.iter().filter_map(|pair| pair.predicted);
        posts.flat_map(|post| &post.entities).any(of)
    };
    let looked = any(|entity| entity.groundable.is_some());
    // Released predictions may say that something is shown without saying where.
    let unplaced = |place: fn(&PredictedEntity) -> bool| {
        any(|entity| entity.groundable == Some(true)) && !any(place)
    };
    let (no_boxes, no_masks) = (unplaced(|e| e.bbox.is_some()), unplaced(|e| e.mask.is_some()));
    Task::ALL
        .into_iter()
        .filter(|&task| {
            task == Task::Mner
                || looked
                    && (!task.wants_boxes() || set.annotated.boxes && !no_boxes)
                    && (!task.wants_masks() || set.annotated.masks && !no_masks)
        })
        .collect()
}

fn entailment(pairs: &[Pair]) -> BTreeMap<String, Entailment> {
    let told = |confusion: Confusion| Entailment {
        accuracy: confusion.accuracy(),
        balanced_accuracy: confusion.balanced(),
        confusion,
    };
    metrics::confusion(pairs).into_iter().map(|(group, found)| (group, told(found))).collect()
}

/// F1 over IoU thresholds from 0.5 to 0.95, as in the paper's figure 9.
fn sweep(pairs: &[Pair], overlaps: &Overlaps, tasks: &[Task], rule: IouRule) -> Vec<SweepRow> {
    let placed: Vec<Task> = tasks.iter().copied().filter(|&task| task != Task::Mner).collect();
    if placed.is_empty() {
        return Vec::new();
    }
    SWEEP
        .map(|step| {
            let iou = step as f64 / 20.0;
            let f1 = |&task: &Task| {
                (task.name(), metrics::tally(pairs, overlaps, task, (rule, iou)).f1())
            };
            SweepRow { iou, f1: placed.iter().map(f1).collect() }
        })
        .collect()
}
