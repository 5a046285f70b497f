//! The one seam between batching and models.

use std::time::Duration;

use super::Cost;
use crate::models::ModelError;

/// A model as the executor sees it.
///
/// Only the executor thread calls [`BatchModel::run`], one batch at a time; the other methods are
/// called by whoever submits.
pub trait BatchModel: Send + Sync + 'static {
    /// One item.
    type Input: Send + 'static;
    /// What the model makes of it.
    type Output: Send + 'static;

    /// Predicted work for one item.
    fn cost(&self, input: &Self::Input) -> Cost;

    /// Whether two items may share a batch. Must be an equivalence relation: candidates are only
    /// compared with the first item of a batch.
    fn compatible(&self, _first: &Self::Input, _candidate: &Self::Input) -> bool {
        true
    }

    /// Runs a batch; one output per input, in order.
    ///
    /// # Errors
    /// Fails as a whole. The executor then runs the items once more, each alone.
    fn run(&self, inputs: &[Self::Input]) -> Result<Vec<Self::Output>, ModelError>;
}

/// Default bound of a stage's queue, in items.
const DEFAULT_CAPACITY: usize = 4096;

/// How a stage is scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageSpec {
    /// Name in metrics and logs.
    pub name: &'static str,
    /// Place in the pipeline; the highest rank runs first.
    pub rank: u8,
    /// Most items of a batch; at least 1.
    pub max_batch: usize,
    /// Most predicted work of a batch. An item that is over it alone runs alone.
    pub max_batch_cost: Cost,
    /// How long the first item of a queue may wait for company while the device is free.
    pub max_delay: Duration,
    /// Most items queued; more are refused. Speculative items have a bound of their own, as large.
    pub capacity: usize,
}

impl StageSpec {
    /// A stage bounded by a batch size alone, dispatched as soon as the device is free.
    pub fn new(name: &'static str, rank: u8, max_batch: usize) -> Self {
        Self {
            name,
            rank,
            max_batch,
            max_batch_cost: Cost::MAX,
            max_delay: Duration::ZERO,
            capacity: DEFAULT_CAPACITY,
        }
    }
}

/// A stage's output for one item.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply<O> {
    /// The output.
    pub output: O,
    /// From the submit until its batch started.
    pub queued: Duration,
    /// Running time of its batch.
    pub executed: Duration,
    /// Items in its batch; 0 where a cache answered.
    pub batch_size: usize,
}
