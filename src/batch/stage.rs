//! One stage: its model, the items waiting for it, and the handle through which they come.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use super::attempt::{Failure, attempt};
use super::executor::{Shared, lock};
use super::metrics::StageMetrics;
use super::scheduler::{EntryId, NewEntry, SkipReason};
use super::{BatchModel, Reply, RequestContext, StageError};

/// Orders an entry without a deadline as if it had one this far away, so that it gets its turn.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the one reply to an item goes.
pub(super) trait ReplySink<O>: Send {
    /// Whether nobody waits for the reply any more.
    fn is_gone(&self) -> bool;
    /// Delivers the reply. Called without any of the executor's locks held.
    fn deliver(self: Box<Self>, reply: Result<Reply<O>, StageError>);
}

impl<O: Send> ReplySink<O> for oneshot::Sender<Result<Reply<O>, StageError>> {
    fn is_gone(&self) -> bool {
        self.is_closed()
    }

    fn deliver(self: Box<Self>, reply: Result<Reply<O>, StageError>) {
        // A receiver that left in the meantime is no fault.
        let _ = self.send(reply);
    }
}

/// Everything about an item but the item.
struct Ticket<O> {
    sink: Box<dyn ReplySink<O>>,
    request_id: Arc<str>,
    enqueued: Instant,
    expires: Option<Instant>,
}

/// What came of a dispatch, for the executor's own state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Something ran well: the whole batch, or an item of it alone.
    pub(super) succeeded: bool,
    pub(super) panicked: bool,
    pub(super) device_lost: bool,
}

/// A stage whatever its types, as the executor thread sees it.
pub(super) trait AnyStage: Send + Sync {
    fn is_gone(&self, id: EntryId) -> bool;
    fn compatible(&self, first: EntryId, candidate: EntryId) -> bool;
    /// Answers entries that were taken out unrun.
    fn skip(&self, id: EntryId, reason: SkipReason);
    /// Answers entries that will never be run.
    fn refuse(&self, id: EntryId, error: StageError);
    /// Runs a batch and answers every entry.
    fn run(&self, ids: &[EntryId]) -> Outcome;
    fn set_depth(&self, depth: usize);
}

pub(super) type Model<I, O> = Box<dyn BatchModel<Input = I, Output = O>>;

/// A stage with its types. `items` is only locked while the scheduler's lock is held or by the
/// executor thread, never the other way round.
pub(super) struct Stage<I, O> {
    name: &'static str,
    model: Model<I, O>,
    items: Mutex<HashMap<EntryId, (I, Ticket<O>)>>,
    metrics: StageMetrics,
}

impl<I: Send + 'static, O: Send + 'static> Stage<I, O> {
    pub(super) fn new(name: &'static str, model: Model<I, O>) -> Self {
        let metrics = StageMetrics::new(name);
        Self { name, model, items: Mutex::new(HashMap::new()), metrics }
    }

    fn take(&self, id: EntryId) -> Option<(I, Ticket<O>)> {
        lock(&self.items).remove(&id)
    }

    fn answer(&self, ticket: Ticket<O>, started: Instant, size: usize, output: O) {
        let queued = started.saturating_duration_since(ticket.enqueued);
        self.metrics.queue_seconds.record(queued.as_secs_f64());
        let reply = Reply { output, queued, executed: started.elapsed(), batch_size: size };
        ticket.sink.deliver(Ok(reply));
    }

    fn answer_failure(&self, ticket: Ticket<O>, failure: &Failure) {
        let error = match failure {
            Failure::Panicked(_) => StageError::Panicked,
            Failure::DeviceLost(_) => StageError::DeviceLost,
            Failure::Model(_) | Failure::WrongCount { .. } => StageError::Failed,
        };
        let (stage, request_id) = (self.name, &*ticket.request_id);
        tracing::error!(stage, request_id, %failure, "a model failed on an item");
        self.metrics.failed.increment(1);
        ticket.sink.deliver(Err(error));
    }

    fn answer_skipped(&self, ticket: Ticket<O>, reason: SkipReason) {
        let error = match reason {
            SkipReason::Expired => {
                self.metrics.deadline_exceeded.increment(1);
                StageError::DeadlineExceeded
            }
            SkipReason::Gone => {
                self.metrics.cancelled.increment(1);
                StageError::Cancelled
            }
        };
        ticket.sink.deliver(Err(error));
    }

    /// Runs inputs as one batch and notes what it took.
    fn attempt(&self, inputs: &[I], outcome: &mut Outcome) -> Result<Vec<O>, Failure> {
        self.metrics.batch_size.record(inputs.len() as f64);
        let started = Instant::now();
        let result = attempt(self.model.as_ref(), inputs);
        self.metrics.execute_seconds.record(started.elapsed().as_secs_f64());
        match &result {
            Ok(_) => outcome.succeeded = true,
            Err(Failure::Panicked(_)) => {
                self.metrics.panics.increment(1);
                outcome.panicked = true;
            }
            Err(Failure::DeviceLost(_)) => outcome.device_lost = true,
            _ => {}
        }
        result
    }

    /// Runs the items of a failed batch again, each alone.
    fn run_singly(&self, inputs: &[I], tickets: Vec<Ticket<O>>, outcome: &mut Outcome) {
        for (input, ticket) in inputs.iter().zip(tickets) {
            if outcome.device_lost {
                ticket.sink.deliver(Err(StageError::DeviceLost));
                continue;
            }
            let started = Instant::now();
            if ticket.expires.is_some_and(|at| at <= started) {
                self.answer_skipped(ticket, SkipReason::Expired);
                continue;
            }
            if ticket.sink.is_gone() {
                self.answer_skipped(ticket, SkipReason::Gone);
                continue;
            }
            let result = self.attempt(std::slice::from_ref(input), outcome);
            match result.map(|mut outputs| outputs.pop()) {
                Ok(Some(output)) => self.answer(ticket, started, 1, output),
                Ok(None) => {
                    let failure = Failure::WrongCount { inputs: 1, outputs: 0 };
                    self.answer_failure(ticket, &failure);
                }
                Err(failure) => self.answer_failure(ticket, &failure),
            }
        }
    }
}

impl<I: Send + 'static, O: Send + 'static> AnyStage for Stage<I, O> {
    fn is_gone(&self, id: EntryId) -> bool {
        lock(&self.items).get(&id).is_none_or(|(_, ticket)| ticket.sink.is_gone())
    }

    fn compatible(&self, first: EntryId, candidate: EntryId) -> bool {
        let items = lock(&self.items);
        match (items.get(&first), items.get(&candidate)) {
            (Some((first, _)), Some((candidate, _))) => self.model.compatible(first, candidate),
            _ => false,
        }
    }

    fn skip(&self, id: EntryId, reason: SkipReason) {
        if let Some((_, ticket)) = self.take(id) {
            self.answer_skipped(ticket, reason);
        }
    }

    fn refuse(&self, id: EntryId, error: StageError) {
        if let Some((_, ticket)) = self.take(id) {
            ticket.sink.deliver(Err(error));
        }
    }

    fn run(&self, ids: &[EntryId]) -> Outcome {
        let (inputs, tickets): (Vec<I>, Vec<Ticket<O>>) =
            ids.iter().filter_map(|&id| self.take(id)).unzip();
        let mut outcome = Outcome::default();
        let started = Instant::now();
        match self.attempt(&inputs, &mut outcome) {
            Ok(outputs) => {
                for (ticket, output) in tickets.into_iter().zip(outputs) {
                    self.answer(ticket, started, inputs.len(), output);
                }
            }
            Err(failure) if outcome.device_lost || inputs.len() == 1 => {
                for ticket in tickets {
                    self.answer_failure(ticket, &failure);
                }
            }
            Err(failure) => {
                let (stage, size) = (self.name, inputs.len());
                tracing::warn!(stage, size, %failure, "a batch failed; running its items singly");
                self.metrics.retried_batches.increment(1);
                self.run_singly(&inputs, tickets, &mut outcome);
            }
        }
        outcome
    }

    fn set_depth(&self, depth: usize) {
        self.metrics.queue_depth.set(depth as f64);
    }
}

/// The way into a stage; cloning is cheap.
pub struct StageHandle<I, O> {
    index: usize,
    stage: Arc<Stage<I, O>>,
    shared: Arc<Shared>,
}

impl<I, O> Clone for StageHandle<I, O> {
    fn clone(&self) -> Self {
        let (stage, shared) = (Arc::clone(&self.stage), Arc::clone(&self.shared));
        Self { index: self.index, stage, shared }
    }
}

/// How an item is queued.
pub(super) struct Terms {
    pub(super) request_id: Arc<str>,
    /// Taken out unrun after this.
    pub(super) expires: Option<Instant>,
    /// Orders the item within its stage; [`PATIENCE`] from now where `None`.
    pub(super) wanted_by: Option<Instant>,
    pub(super) speculative: bool,
}

impl Terms {
    /// What a request asks for.
    fn of(ctx: &RequestContext) -> Self {
        Self {
            request_id: Arc::clone(ctx.request_id()),
            expires: ctx.deadline(),
            wanted_by: ctx.deadline(),
            speculative: false,
        }
    }

    fn ticket<O>(self, sink: Box<dyn ReplySink<O>>, enqueued: Instant) -> Ticket<O> {
        Ticket { sink, request_id: self.request_id, enqueued, expires: self.expires }
    }
}

/// Waits for the one reply, until the deadline.
async fn receive<O>(
    receiver: oneshot::Receiver<Result<Reply<O>, StageError>>,
    deadline: Option<Instant>,
) -> Result<Reply<O>, StageError> {
    let received = match deadline {
        Some(at) => {
            timeout_at(at.into(), receiver).await.map_err(|_| StageError::DeadlineExceeded)?
        }
        None => receiver.await,
    };
    // Every ticket is answered before it is dropped, so a closed channel cannot be seen.
    received.unwrap_or(Err(StageError::ShuttingDown))
}

impl<I: Send + 'static, O: Send + 'static> StageHandle<I, O> {
    pub(super) fn new(index: usize, stage: Arc<Stage<I, O>>, shared: Arc<Shared>) -> Self {
        Self { index, stage, shared }
    }

    /// Queues an item and waits for its output.
    ///
    /// Dropping the future withdraws the item, unless it runs already.
    ///
    /// # Errors
    /// See [`StageError`]; `DeadlineExceeded` comes at the context's deadline at the latest.
    pub async fn submit(&self, input: I, ctx: &RequestContext) -> Result<Reply<O>, StageError> {
        let (sender, receiver) = oneshot::channel();
        self.enqueue(input, || Box::new(sender), Terms::of(ctx))?;
        receive(receiver, ctx.deadline()).await
    }

    /// Queues items at one stroke and waits for all outputs, in order. On an idle executor the
    /// batches that they form depend on the items alone, not on how fast the thread wakes up.
    ///
    /// # Errors
    /// The first failure of any item; the others are withdrawn.
    pub async fn submit_all(
        &self,
        inputs: Vec<I>,
        ctx: &RequestContext,
    ) -> Result<Vec<Reply<O>>, StageError> {
        let enqueued = Instant::now();
        let entries = inputs.iter().map(|input| self.entry(input, &Terms::of(ctx), enqueued));
        let entries = entries.collect();
        let mut inputs = inputs.into_iter();
        let mut receivers = Vec::with_capacity(inputs.len());
        self.shared.push_all(self.index, entries, enqueued, |id, depth| {
            let (sender, receiver) = oneshot::channel();
            receivers.push(receive(receiver, ctx.deadline()));
            if let Some(input) = inputs.next() {
                let ticket = Terms::of(ctx).ticket(Box::new(sender), enqueued);
                lock(&self.stage.items).insert(id, (input, ticket));
            }
            self.stage.set_depth(depth);
        })?;
        try_join_all(receivers).await
    }

    /// Queues an item whose reply goes to what `sink` makes; it is called only where the item is
    /// taken on.
    pub(super) fn enqueue(
        &self,
        input: I,
        sink: impl FnOnce() -> Box<dyn ReplySink<O>>,
        terms: Terms,
    ) -> Result<EntryId, StageError> {
        let enqueued = Instant::now();
        let entry = self.entry(&input, &terms, enqueued);
        self.shared.push(self.index, entry, enqueued, |id, depth| {
            let ticket = terms.ticket(sink(), enqueued);
            lock(&self.stage.items).insert(id, (input, ticket));
            self.stage.set_depth(depth);
        })
    }

    fn entry(&self, input: &I, terms: &Terms, enqueued: Instant) -> NewEntry {
        NewEntry {
            cost: self.stage.model.cost(input),
            expires: terms.expires,
            urgency: terms.wanted_by.unwrap_or(enqueued + PATIENCE),
            speculative: terms.speculative,
        }
    }

    /// Makes a queued item ordinary, and at least as urgent as said.
    pub(super) fn promote(&self, id: EntryId, wanted_by: Option<Instant>) {
        let urgency = wanted_by.unwrap_or_else(|| Instant::now() + PATIENCE);
        self.shared.promote(self.index, id, urgency);
    }
}
