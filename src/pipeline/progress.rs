//! What is known of a post before its whole answer is.

use std::time::Duration;

use super::{Entity, Timings};
use crate::batch::{Reply, RequestContext};

/// How far a post has come. Each happens at most once, in this order; one that has nothing to do
/// (no entities, none that is shown, no masks asked for) does not happen.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// The text was tagged and every entity has its expression. Always happens.
    Recognized(&'a [Entity]),
    /// Every entity has its entailment score.
    Entailed {
        /// All of them.
        entities: &'a [Entity],
        /// Indices of those that the picture shows, ascending.
        shown: &'a [usize],
    },
    /// Every entity that the picture shows has its box, unless the network gave no legal one.
    Grounded {
        /// All of them.
        entities: &'a [Entity],
        /// Indices of those that were looked for, ascending.
        shown: &'a [usize],
    },
    /// Every entity with a box has its mask.
    Segmented(&'a [Entity]),
}

/// Hears of a post's progress, between two stages: it must neither block nor take long.
pub type Observer<'a> = &'a (dyn Fn(Progress<'_>) + Send + Sync);

/// What goes along with one post through the stages.
pub(super) struct Passage<'a> {
    pub context: &'a RequestContext,
    pub observer: Observer<'a>,
    pub timings: Timings,
}

impl Passage<'_> {
    /// Adds what the items of one stage waited in its queue, and says how long they ran. They go
    /// side by side, so what a request waited for is the slowest of them.
    pub fn waited<T>(&mut self, replies: &[Reply<T>]) -> Duration {
        let queued = replies.iter().map(|reply| reply.queued).max();
        self.timings.queue += queued.unwrap_or_default();
        replies.iter().map(|reply| reply.executed).max().unwrap_or_default()
    }
}
