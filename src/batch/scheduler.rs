//! The scheduling core: a plain state machine without threads, clocks or payloads.
//!
//! It holds one lane per stage and decides what runs next whenever the device is free:
//!
//! 1. Entries past their deadline or that nobody waits for are taken out, in every lane.
//! 2. Among the lanes with work, the latest stage (highest rank) is served. As every item of a
//!    later stage came from an earlier one this drains the pipeline, keeps batches of the early
//!    stages growing meanwhile, and keeps few requests half done. A request may also enter at a
//!    later stage, however, so a lane that was passed over [`MAX_PASSED_OVER`] times in a row is
//!    served next: the wait of any lane is bounded in batches.
//! 3. Within a lane, the most urgent entry (earliest deadline, then first come) leads the batch;
//!    compatible entries follow in order until a cap binds. Nothing overtakes an entry that did not
//!    fit, apart from entries compatible with a batch that it is not compatible with.
//! 4. Speculative entries run only once nothing else was queued anywhere for [`SPECULATION_GRACE`],
//!    one at a time, so that work that arrives meanwhile waits for one item at most.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::{Cost, StageSpec};

/// How often in a row a lane with work may be passed over for later stages.
pub const MAX_PASSED_OVER: u32 = 32;

/// How long a speculative entry waits, and how long nothing ordinary was queued, before it runs.
///
/// Between two stages of one request the queues are empty for some microseconds, up to a
/// millisecond on a busy machine. That is not idleness: whoever speculates there delays the next
/// stage by a whole item. This is several times longer than such a gap, and short beside an item
/// that is worth beginning early.
pub const SPECULATION_GRACE: Duration = Duration::from_millis(5);

/// Identifies a queued entry; grows with every push.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(u64);

/// What the scheduler is told about a new entry.
#[derive(Debug, Clone, Copy)]
pub struct NewEntry {
    /// Predicted work.
    pub cost: Cost,
    /// When the entry is to be taken out unrun.
    pub expires: Option<Instant>,
    /// Earlier is served earlier within the lane.
    pub urgency: Instant,
    /// Runs only while the device is idle: see [`SPECULATION_GRACE`].
    pub speculative: bool,
}

/// What the scheduler asks about entries while it forms a batch.
pub trait Entries {
    /// Whether nobody waits for the entry any more.
    fn is_gone(&self, stage: usize, id: EntryId) -> bool;
    /// Whether `candidate` may join a batch that `first` leads.
    fn compatible(&self, stage: usize, first: EntryId, candidate: EntryId) -> bool;
}

/// Why an entry was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneFull;

/// Why an entry was taken out unrun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// Its deadline passed.
    Expired,
    /// Nobody waits for it.
    Gone,
}

/// An entry that was taken out unrun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skipped {
    /// Its stage.
    pub stage: usize,
    /// Which one.
    pub id: EntryId,
    /// Why.
    pub reason: SkipReason,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Run these entries of one stage; never empty. They have left the queue.
    Run {
        /// The stage.
        stage: usize,
        /// The batch, the most urgent first.
        ids: Vec<EntryId>,
    },
    /// Nothing may run before this moment, unless something is pushed.
    WaitUntil(Instant),
    /// Nothing is queued.
    Idle,
}

/// What came of asking what runs next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What to do now.
    pub action: Action,
    /// The entries taken out unrun on the way; each must be answered.
    pub skipped: Vec<Skipped>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    cost: Cost,
    expires: Option<Instant>,
    enqueued: Instant,
}

/// One stage's queue.
#[derive(Debug)]
struct Lane {
    spec: StageSpec,
    queued: BTreeMap<(Instant, EntryId), Entry>,
    /// Where an entry of `queued` stands.
    urgencies: HashMap<EntryId, Instant>,
    speculative: BTreeMap<EntryId, Entry>,
    passed_over: u32,
}

/// The queues of all stages, and the choice among them. See the module's text for the rules.
#[derive(Debug, Default)]
pub struct Scheduler {
    lanes: Vec<Lane>,
    next_id: u64,
    draining: bool,
    /// Since when nothing ordinary was queued whenever that was asked.
    idle_since: Option<Instant>,
}

impl Scheduler {
    /// Without stages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a stage and returns its index.
    pub fn add_stage(&mut self, spec: StageSpec) -> usize {
        self.lanes.push(Lane::new(spec));
        self.lanes.len() - 1
    }

    /// Queues an entry.
    ///
    /// # Errors
    /// The lane is at its bound.
    pub fn push(
        &mut self,
        stage: usize,
        entry: NewEntry,
        now: Instant,
    ) -> Result<EntryId, LaneFull> {
        let id = EntryId(self.next_id);
        self.lanes[stage].push(id, entry, now)?;
        self.next_id += 1;
        Ok(id)
    }

    /// Makes a speculative entry an ordinary one and an ordinary one at least this urgent. Does
    /// nothing for an entry that has left the queue.
    pub fn promote(&mut self, stage: usize, id: EntryId, urgency: Instant) {
        self.lanes[stage].promote(id, urgency);
    }

    /// From now on nothing waits for company.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Entries queued for a stage, speculative ones included.
    pub fn depth(&self, stage: usize) -> usize {
        self.lanes[stage].queued.len() + self.lanes[stage].speculative.len()
    }

    /// Takes everything out, e.g. because the device is lost.
    pub fn take_all(&mut self) -> Vec<(usize, EntryId)> {
        let mut all = Vec::new();
        for (stage, lane) in self.lanes.iter_mut().enumerate() {
            all.extend(lane.queued.keys().map(|&(_, id)| (stage, id)));
            all.extend(lane.speculative.keys().map(|&id| (stage, id)));
            *lane = Lane::new(lane.spec);
        }
        all
    }

    /// Decides what runs now that the device is free.
    pub fn next(&mut self, now: Instant, entries: &impl Entries) -> Decision {
        let mut skipped = Vec::new();
        for (stage, lane) in self.lanes.iter_mut().enumerate() {
            lane.sweep(
                now,
                |id| entries.is_gone(stage, id),
                |id, reason| {
                    skipped.push(Skipped { stage, id, reason });
                },
            );
        }
        Decision { action: self.decide(now, entries), skipped }
    }

    fn decide(&mut self, now: Instant, entries: &impl Entries) -> Action {
        if let Some(stage) = self.choose(now) {
            self.idle_since = None;
            let ids = self.lanes[stage].form(|first, id| entries.compatible(stage, first, id));
            return Action::Run { stage, ids };
        }
        if let Some(wake) = self.lanes.iter().filter_map(Lane::wake_at).min() {
            self.idle_since = None;
            return Action::WaitUntil(wake);
        }
        let idle_since = *self.idle_since.get_or_insert(now);
        self.next_speculative(now, idle_since)
    }

    /// The lane to serve, and the bookkeeping of those passed over.
    fn choose(&mut self, now: Instant) -> Option<usize> {
        let draining = self.draining;
        let ready: Vec<usize> = (0..self.lanes.len())
            .filter(|&stage| self.lanes[stage].is_ready(now, draining))
            .collect();
        let overdue = |&&stage: &&usize| self.lanes[stage].passed_over >= MAX_PASSED_OVER;
        let chosen = *ready
            .iter()
            .filter(overdue)
            .max_by_key(|&&stage| (self.lanes[stage].passed_over, Reverse(stage)))
            .or_else(|| {
                ready.iter().max_by_key(|&&stage| (self.lanes[stage].spec.rank, Reverse(stage)))
            })?;
        for stage in ready {
            self.lanes[stage].passed_over += 1;
        }
        self.lanes[chosen].passed_over = 0;
        Some(chosen)
    }

    /// With nothing ordinary queued since `idle_since`: the oldest speculative entry of the latest
    /// stage that has one whose time has come.
    fn next_speculative(&mut self, now: Instant, idle_since: Instant) -> Action {
        let grace = if self.draining { Duration::ZERO } else { SPECULATION_GRACE };
        let oldest = self.lanes.iter().enumerate().filter_map(|(stage, lane)| {
            let (&id, entry) = lane.speculative.first_key_value()?;
            Some((entry.enqueued.max(idle_since) + grace, stage, id))
        });
        let oldest: Vec<_> = oldest.collect();
        let due = oldest.iter().filter(|(at, ..)| *at <= now);
        let latest =
            due.max_by_key(|(_, stage, _)| (self.lanes[*stage].spec.rank, Reverse(*stage)));
        if let Some(&(_, stage, id)) = latest {
            self.lanes[stage].speculative.remove(&id);
            return Action::Run { stage, ids: vec![id] };
        }
        oldest.iter().map(|(at, ..)| *at).min().map_or(Action::Idle, Action::WaitUntil)
    }
}

impl Lane {
    fn new(spec: StageSpec) -> Self {
        Self {
            spec,
            queued: BTreeMap::new(),
            urgencies: HashMap::new(),
            speculative: BTreeMap::new(),
            passed_over: 0,
        }
    }

    fn push(&mut self, id: EntryId, new: NewEntry, now: Instant) -> Result<(), LaneFull> {
        let entry = Entry { cost: new.cost, expires: new.expires, enqueued: now };
        let length = if new.speculative { self.speculative.len() } else { self.queued.len() };
        if length >= self.spec.capacity {
            return Err(LaneFull);
        }
        if new.speculative {
            self.speculative.insert(id, entry);
        } else {
            self.insert(id, new.urgency, entry);
        }
        Ok(())
    }

    fn insert(&mut self, id: EntryId, urgency: Instant, entry: Entry) {
        self.queued.insert((urgency, id), entry);
        self.urgencies.insert(id, urgency);
    }

    fn remove(&mut self, id: EntryId) -> Option<Entry> {
        let urgency = self.urgencies.remove(&id)?;
        self.queued.remove(&(urgency, id))
    }

    fn promote(&mut self, id: EntryId, urgency: Instant) {
        if let Some(entry) = self.speculative.remove(&id) {
            self.insert(id, urgency, entry);
        } else if self.urgencies.get(&id).is_some_and(|&current| urgency < current)
            && let Some(entry) = self.remove(id)
        {
            self.insert(id, urgency, entry);
        }
    }

    /// Takes out what is expired or gone.
    fn sweep(
        &mut self,
        now: Instant,
        is_gone: impl Fn(EntryId) -> bool,
        mut skip: impl FnMut(EntryId, SkipReason),
    ) {
        let mut keep = |id: EntryId, entry: &Entry| {
            let reason = if entry.expires.is_some_and(|at| at <= now) {
                SkipReason::Expired
            } else if is_gone(id) {
                SkipReason::Gone
            } else {
                return true;
            };
            skip(id, reason);
            false
        };
        self.speculative.retain(|&id, entry| keep(id, entry));
        let urgencies = &mut self.urgencies;
        self.queued.retain(|&(_, id), entry| {
            let kept = keep(id, entry);
            if !kept {
                urgencies.remove(&id);
            }
            kept
        });
        if self.queued.is_empty() {
            self.passed_over = 0;
        }
    }

    /// Whether a batch may be formed now: delays are over, or it would be full anyway.
    fn is_ready(&self, now: Instant, draining: bool) -> bool {
        if self.queued.is_empty() {
            return false;
        }
        let full = || {
            self.queued.len() >= self.spec.max_batch
                || self.queued.values().map(|entry| entry.cost).sum::<Cost>()
                    >= self.spec.max_batch_cost
        };
        let waited = |entry: &Entry| now.saturating_duration_since(entry.enqueued);
        draining
            || self.spec.max_delay.is_zero()
            || self.queued.values().any(|entry| waited(entry) >= self.spec.max_delay)
            || full()
    }

    /// When the lane has to be looked at again although nothing was pushed.
    fn wake_at(&self) -> Option<Instant> {
        let ready = |entry: &Entry| entry.enqueued.checked_add(self.spec.max_delay);
        self.queued.values().flat_map(|entry| [ready(entry), entry.expires]).flatten().min()
    }

    /// Takes a batch out: the most urgent entry and those compatible with it, within the caps.
    fn form(&mut self, compatible: impl Fn(EntryId, EntryId) -> bool) -> Vec<EntryId> {
        let mut batch: Vec<EntryId> = Vec::new();
        let mut cost = Cost::ZERO;
        for (&(_, id), entry) in &self.queued {
            let Some(&first) = batch.first() else {
                batch.push(id);
                cost = entry.cost;
                continue;
            };
            if batch.len() >= self.spec.max_batch {
                break;
            }
            if !compatible(first, id) {
                continue;
            }
            if cost + entry.cost > self.spec.max_batch_cost {
                break;
            }
            batch.push(id);
            cost += entry.cost;
        }
        for &id in &batch {
            self.remove(id);
        }
        batch
    }
}
