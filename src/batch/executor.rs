//! The executor: one thread that owns the device and runs what the scheduler picks.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::watch;

use super::attempt::{PanicLimit, PanicWindow};
use super::metrics::Rejections;
use super::scheduler::{Action, Entries, EntryId, NewEntry, Scheduler};
use super::stage::{AnyStage, Stage};
use super::{BatchModel, Health, HealthState, StageError, StageHandle, StageSpec};

/// Locks a mutex, poisoned or not: nothing that is guarded here is left half-changed by a panic.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct State {
    scheduler: Scheduler,
    /// Why nothing is taken on, where nothing is.
    refusal: Option<StageError>,
}

/// What handles and the executor thread share.
pub(super) struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    health: watch::Sender<HealthState>,
    rejections: Rejections,
}

impl Shared {
    /// Queues an entry; `store` files its item before the executor can see the entry.
    pub(super) fn push(
        &self,
        stage: usize,
        entry: NewEntry,
        now: Instant,
        store: impl FnOnce(EntryId, usize),
    ) -> Result<EntryId, StageError> {
        let mut state = lock(&self.state);
        let id = self.push_locked(&mut state, stage, entry, now)?;
        store(id, state.scheduler.depth(stage));
        drop(state);
        self.wake.notify_one();
        Ok(id)
    }

    /// Queues entries at one stroke: the executor sees all of them or none. `store` files the item
    /// of the entry with that index. Where the queue is full, those already queued are withdrawn
    /// by their receivers being dropped.
    pub(super) fn push_all(
        &self,
        stage: usize,
        entries: Vec<NewEntry>,
        now: Instant,
        mut store: impl FnMut(EntryId, usize),
    ) -> Result<(), StageError> {
        let mut state = lock(&self.state);
        let pushed = entries.into_iter().try_for_each(|entry| {
            let id = self.push_locked(&mut state, stage, entry, now)?;
            store(id, state.scheduler.depth(stage));
            Ok(())
        });
        drop(state);
        self.wake.notify_one();
        pushed
    }

    fn push_locked(
        &self,
        state: &mut State,
        stage: usize,
        entry: NewEntry,
        now: Instant,
    ) -> Result<EntryId, StageError> {
        if let Some(refusal) = state.refusal {
            match refusal {
                StageError::DeviceLost => self.rejections.device_lost.increment(1),
                _ => self.rejections.shutting_down.increment(1),
            }
            return Err(refusal);
        }
        state.scheduler.push(stage, entry, now).map_err(|_full| {
            self.rejections.queue_full.increment(1);
            StageError::QueueFull
        })
    }

    pub(super) fn promote(&self, stage: usize, id: EntryId, urgency: Instant) {
        lock(&self.state).scheduler.promote(stage, id, urgency);
        self.wake.notify_one();
    }

    /// Takes nothing more on; what is queued still runs.
    fn close(&self) {
        let mut state = lock(&self.state);
        state.refusal.get_or_insert(StageError::ShuttingDown);
        state.scheduler.drain();
        drop(state);
        self.wake.notify_one();
    }
}

/// Puts an [`Executor`] together.
pub struct ExecutorBuilder {
    shared: Arc<Shared>,
    stages: Vec<Arc<dyn AnyStage>>,
    panic_limit: PanicLimit,
}

impl Default for ExecutorBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ExecutorBuilder {
    /// Without stages. Install the metrics recorder first: see [`crate::telemetry`].
    pub fn new() -> Self {
        let state = State { scheduler: Scheduler::new(), refusal: Some(StageError::ShuttingDown) };
        let shared = Shared {
            state: Mutex::new(state),
            wake: Condvar::new(),
            health: watch::Sender::new(HealthState::Running),
            rejections: Rejections::new(),
        };
        Self { shared: Arc::new(shared), stages: Vec::new(), panic_limit: PanicLimit::default() }
    }

    /// Adds a stage. Its handle refuses everything until the executor is started.
    pub fn stage<M: BatchModel>(
        &mut self,
        spec: StageSpec,
        model: M,
    ) -> StageHandle<M::Input, M::Output> {
        let stage = Arc::new(Stage::new(spec.name, Box::new(model)));
        let index = lock(&self.shared.state).scheduler.add_stage(spec);
        self.stages.push(Arc::clone(&stage) as Arc<dyn AnyStage>);
        StageHandle::new(index, stage, Arc::clone(&self.shared))
    }

    /// Sets how many panics are too many.
    pub fn panic_limit(&mut self, limit: PanicLimit) {
        self.panic_limit = limit;
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(self) -> std::io::Result<Executor> {
        let Self { shared, stages, panic_limit } = self;
        lock(&shared.state).refusal = None;
        let worker = Worker { shared: Arc::clone(&shared), stages, end: LOST_THREAD };
        let thread = std::thread::Builder::new()
            .name("executor".into())
            .spawn(move || worker.run(PanicWindow::new(panic_limit)))?;
        Ok(Executor { shared, thread: Some(thread) })
    }
}

/// The running executor. Dropping it lets queued work finish in the background;
/// [`Executor::shutdown`] also waits for that.
pub struct Executor {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Executor {
    /// A view of the executor's state.
    pub fn health(&self) -> Health {
        Health::new(self.shared.health.subscribe())
    }

    /// Refuses new submits from now on, runs what is queued, stops the thread, and says how it
    /// ended. A server drains its requests first: a request under way submits to later stages.
    pub async fn shutdown(mut self) -> HealthState {
        self.shared.close();
        let state = self.health().ended().await;
        if let Some(thread) = self.thread.take() {
            // The final state is the last thing that the thread sets, so this does not block.
            // A panic on it was latched as a lost device already.
            let _ = thread.join();
        }
        state
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// The thread's final state if it ends without having said how.
const LOST_THREAD: HealthState = HealthState::DeviceLost { reason: "the executor failed" };

/// What the thread owns.
struct Worker {
    shared: Arc<Shared>,
    stages: Vec<Arc<dyn AnyStage>>,
    /// The final state.
    end: HealthState,
}

/// The scheduler's questions, answered by the stages.
struct StageEntries<'a>(&'a [Arc<dyn AnyStage>]);

impl Entries for StageEntries<'_> {
    fn is_gone(&self, stage: usize, id: EntryId) -> bool {
        self.0[stage].is_gone(id)
    }

    fn compatible(&self, stage: usize, first: EntryId, candidate: EntryId) -> bool {
        self.0[stage].compatible(first, candidate)
    }
}

impl Worker {
    fn run(mut self, mut panics: PanicWindow) {
        loop {
            let Some((stage, ids)) = self.next_batch() else {
                self.end = HealthState::Stopped;
                return;
            };
            let outcome = self.stages[stage].run(&ids);
            if outcome.device_lost {
                self.end = HealthState::DeviceLost { reason: "the device failed" };
                return;
            }
            if outcome.succeeded {
                panics.clear();
            } else if outcome.panicked && panics.note(Instant::now()) {
                self.end = HealthState::DeviceLost { reason: "too many panics" };
                return;
            }
        }
    }

    /// Waits for the next batch; `None` when the queues are empty and closed.
    fn next_batch(&self) -> Option<(usize, Vec<EntryId>)> {
        let mut state = lock(&self.shared.state);
        loop {
            let now = Instant::now();
            let decision = state.scheduler.next(now, &StageEntries(&self.stages));
            for (index, stage) in self.stages.iter().enumerate() {
                stage.set_depth(state.scheduler.depth(index));
            }
            if !decision.skipped.is_empty() {
                drop(state);
                for skipped in &decision.skipped {
                    self.stages[skipped.stage].skip(skipped.id, skipped.reason);
                }
                state = lock(&self.shared.state);
            }
            match decision.action {
                Action::Run { stage, ids } => return Some((stage, ids)),
                // Something may have been pushed while the lock was released.
                _ if !decision.skipped.is_empty() => {}
                Action::WaitUntil(wake) => {
                    let waited = self.shared.wake.wait_timeout(state, wake - now);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Action::Idle if state.refusal.is_some() => return None,
                Action::Idle => {
                    let waited = self.shared.wake.wait(state);
                    state = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

impl Drop for Worker {
    /// Whatever ends the thread, a panic included: nothing more is taken on, everything queued is
    /// answered, and health says how it ended.
    fn drop(&mut self) {
        let refusal = match self.end {
            HealthState::DeviceLost { reason } => {
                tracing::error!(reason, "the device is given up");
                StageError::DeviceLost
            }
            HealthState::Running | HealthState::Stopped => StageError::ShuttingDown,
        };
        let mut state = lock(&self.shared.state);
        state.refusal = Some(refusal);
        let left = state.scheduler.take_all();
        drop(state);
        for (stage, id) in left {
            self.stages[stage].refuse(id, refusal);
        }
        for stage in &self.stages {
            stage.set_depth(0);
        }
        self.shared.health.send_replace(self.end);
    }
}
