//! The scheduling core against a plain model of its rules, over random histories: nothing is lost
//! or comes out twice, caps and ranks hold, order within a stage holds, what expired or is gone is
//! taken out, speculative entries wait for an idle device, and nothing starves.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use riveg::batch::scheduler::{
    Action, Entries, EntryId, LaneFull, MAX_PASSED_OVER, NewEntry, SPECULATION_GRACE, Scheduler,
    SkipReason,
};
use riveg::batch::{Cost, StageSpec};

const STAGES: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    Push {
        stage: usize,
        new: Planned,
    },
    /// Nobody waits any more for the n-th live entry.
    Leave(usize),
    /// The n-th live entry becomes ordinary and this urgent.
    Promote(usize, u64),
    Pass(u64),
    Next,
}

/// An entry to be pushed; times are milliseconds from the push.
#[derive(Debug, Clone)]
struct Planned {
    cost: u64,
    expires: Option<u64>,
    urgency: u64,
    speculative: bool,
    class: u8,
}

fn step() -> impl Strategy<Value = Step> {
    let new = (1..20u64, prop::option::of(0..80u64), 0..50u64, prop::bool::weighted(0.2), 0..2u8)
        .prop_map(|(cost, expires, urgency, speculative, class)| Planned {
            cost,
            expires,
            urgency,
            speculative,
            class,
        });
    prop_oneof![
        5 => (0..STAGES, new).prop_map(|(stage, new)| Step::Push { stage, new }),
        1 => any::<usize>().prop_map(Step::Leave),
        1 => (any::<usize>(), 0..50u64).prop_map(|(n, urgency)| Step::Promote(n, urgency)),
        2 => (0..30u64).prop_map(Step::Pass),
        3 => Just(Step::Next),
    ]
}

fn spec() -> impl Strategy<Value = StageSpec> {
    (0..3u8, 1..6usize, 5..60u64, prop_oneof![Just(0u64), 1..20u64], 1..8usize).prop_map(
        |(rank, max_batch, cost, delay, capacity)| StageSpec {
            max_batch_cost: Cost(cost),
            max_delay: Duration::from_millis(delay),
            capacity,
            ..StageSpec::new("stage", rank, max_batch)
        },
    )
}

/// What the model knows about a live entry.
#[derive(Debug, Clone)]
struct Live {
    stage: usize,
    cost: Cost,
    expires: Option<Instant>,
    urgency: Instant,
    enqueued: Instant,
    speculative: bool,
    class: u8,
    gone: bool,
}

struct World {
    specs: Vec<StageSpec>,
    scheduler: Scheduler,
    now: Instant,
    live: BTreeMap<EntryId, Live>,
    out: HashSet<EntryId>,
    passed_over: [u32; STAGES],
    /// Since when no ordinary entry was in whenever the scheduler was asked.
    idle_since: Option<Instant>,
    draining: bool,
}

struct View<'a>(&'a BTreeMap<EntryId, Live>);

impl Entries for View<'_> {
    fn is_gone(&self, _stage: usize, id: EntryId) -> bool {
        self.0[&id].gone
    }

    fn compatible(&self, _stage: usize, first: EntryId, candidate: EntryId) -> bool {
        self.0[&first].class == self.0[&candidate].class
    }
}

impl World {
    fn new(specs: Vec<StageSpec>) -> Self {
        let mut scheduler = Scheduler::new();
        for spec in &specs {
            scheduler.add_stage(*spec);
        }
        let (live, out) = (BTreeMap::new(), HashSet::new());
        let now = Instant::now();
        let (passed_over, idle_since) = ([0; STAGES], None);
        Self { specs, scheduler, now, live, out, passed_over, idle_since, draining: false }
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Push { stage, new } => self.push(*stage, new),
            Step::Leave(n) => {
                if let Some(id) = self.nth(*n) {
                    self.live.get_mut(&id).unwrap().gone = true;
                }
            }
            Step::Promote(n, urgency) => {
                if let Some(id) = self.nth(*n) {
                    let urgency = self.now + Duration::from_millis(*urgency);
                    let live = self.live.get_mut(&id).unwrap();
                    let earlier = live.urgency.min(urgency);
                    live.urgency = if live.speculative { urgency } else { earlier };
                    live.speculative = false;
                    self.scheduler.promote(live.stage, id, urgency);
                }
            }
            Step::Pass(milliseconds) => self.now += Duration::from_millis(*milliseconds),
            Step::Next => {
                self.next();
            }
        }
        for stage in 0..STAGES {
            let live = self.live.values().filter(|live| live.stage == stage).count();
            assert_eq!(self.scheduler.depth(stage), live);
        }
    }

    fn nth(&self, n: usize) -> Option<EntryId> {
        self.live.keys().nth(n % self.live.len().max(1)).copied()
    }

    fn push(&mut self, stage: usize, new: &Planned) {
        let after = |milliseconds| self.now + Duration::from_millis(milliseconds);
        let entry = NewEntry {
            cost: Cost(new.cost),
            expires: new.expires.map(after),
            urgency: after(new.urgency),
            speculative: new.speculative,
        };
        let alike = |live: &&Live| live.stage == stage && live.speculative == new.speculative;
        let length = self.live.values().filter(alike).count();
        let pushed = self.scheduler.push(stage, entry, self.now);
        let Ok(id) = pushed else {
            assert_eq!(pushed, Err(LaneFull));
            assert!(length >= self.specs[stage].capacity, "refused although there was room");
            return;
        };
        assert!(length < self.specs[stage].capacity, "taken on over the bound");
        let live = Live {
            stage,
            cost: entry.cost,
            expires: entry.expires,
            urgency: entry.urgency,
            enqueued: self.now,
            speculative: entry.speculative,
            class: new.class,
            gone: false,
        };
        assert!(!self.out.contains(&id), "an id was used twice");
        assert!(self.live.insert(id, live).is_none(), "an id was used twice");
    }

    fn take_out(&mut self, id: EntryId) -> Live {
        assert!(self.out.insert(id), "came out twice");
        self.live.remove(&id).expect("came out although it was not in")
    }

    /// Live ordinary entries of a stage, the most urgent first.
    fn lane(&self, stage: usize) -> Vec<(EntryId, Live)> {
        let mine = |(_, live): &(&EntryId, &Live)| live.stage == stage && !live.speculative;
        let mut lane: Vec<_> =
            self.live.iter().filter(mine).map(|(&id, live)| (id, live.clone())).collect();
        lane.sort_by_key(|(id, live)| (live.urgency, *id));
        lane
    }

    fn is_ready(&self, stage: usize) -> bool {
        let (lane, spec) = (self.lane(stage), &self.specs[stage]);
        let cost: Cost = lane.iter().map(|(_, live)| live.cost).sum();
        let waited = lane.iter().any(|(_, live)| self.now - live.enqueued >= spec.max_delay);
        let full = lane.len() >= spec.max_batch || cost >= spec.max_batch_cost;
        !lane.is_empty() && (waited || full || self.draining)
    }

    /// Asks the scheduler and checks the answer against the rules. True while something ran.
    fn next(&mut self) -> bool {
        let decision = self.scheduler.next(self.now, &View(&self.live));
        for skipped in &decision.skipped {
            let live = self.take_out(skipped.id);
            assert_eq!(live.stage, skipped.stage);
            let expired = live.expires.is_some_and(|at| at <= self.now);
            let reason = if expired { SkipReason::Expired } else { SkipReason::Gone };
            assert_eq!(skipped.reason, reason);
            assert!(expired || live.gone, "skipped without a reason");
        }
        let stale = |live: &Live| live.gone || live.expires.is_some_and(|at| at <= self.now);
        assert!(!self.live.values().any(stale), "something stale was left in");
        for stage in 0..STAGES {
            if self.lane(stage).is_empty() {
                self.passed_over[stage] = 0;
            }
        }
        self.idle_since = match self.live.values().any(|live| !live.speculative) {
            true => None,
            false => self.idle_since.or(Some(self.now)),
        };
        match decision.action {
            Action::Run { stage, ids } => {
                self.check_batch(stage, &ids);
                return true;
            }
            Action::WaitUntil(wake) => {
                assert!(wake > self.now, "waiting for the past");
                assert!(!(0..STAGES).any(|stage| self.is_ready(stage)), "idle beside ready work");
                assert_eq!(wake, self.next_change().unwrap());
            }
            Action::Idle => assert!(self.live.is_empty(), "idle beside queued work"),
        }
        false
    }

    /// When something may run or expire although nothing is pushed.
    fn next_change(&self) -> Option<Instant> {
        if let Some(idle_since) = self.idle_since {
            return self.live.values().map(|live| self.speculation_due(live, idle_since)).min();
        }
        let ordinary = self.live.values().filter(|live| !live.speculative);
        let times = ordinary.flat_map(|live| {
            let waited = live.enqueued + self.specs[live.stage].max_delay;
            [Some(waited), live.expires]
        });
        times.flatten().min()
    }

    fn speculation_due(&self, live: &Live, idle_since: Instant) -> Instant {
        let grace = if self.draining { Duration::ZERO } else { SPECULATION_GRACE };
        live.enqueued.max(idle_since) + grace
    }

    fn check_batch(&mut self, stage: usize, ids: &[EntryId]) {
        assert!(!ids.is_empty());
        if self.live[&ids[0]].speculative {
            assert_eq!(ids.len(), 1, "speculative entries run one at a time");
            let ordinary = self.live.values().any(|live| !live.speculative);
            assert!(!ordinary, "a speculative entry ran beside queued work");
            let ran = self.take_out(ids[0]);
            let due = self.speculation_due(&ran, self.idle_since.unwrap());
            assert!(due <= self.now, "a gap between two stages was taken for idleness");
            return;
        }
        self.check_choice(stage);
        let (lane, spec) = (self.lane(stage), self.specs[stage]);
        assert_eq!(ids[0], lane[0].0, "the most urgent entry leads");
        let class = lane[0].1.class;
        let fitting: Vec<_> = lane.iter().filter(|(_, live)| live.class == class).collect();
        let order: Vec<_> = fitting.iter().map(|(id, _)| *id).take(ids.len()).collect();
        assert_eq!(ids, order, "order within the stage");
        let cost = |count: usize| fitting.iter().take(count).map(|(_, l)| l.cost).sum::<Cost>();
        assert!(ids.len() <= spec.max_batch);
        assert!(ids.len() == 1 || cost(ids.len()) <= spec.max_batch_cost);
        let more = ids.len() + 1;
        let room = more <= spec.max_batch.min(fitting.len()) && cost(more) <= spec.max_batch_cost;
        assert!(!room, "the batch could have been larger");
        for &id in ids {
            self.take_out(id);
        }
    }

    fn check_choice(&mut self, stage: usize) {
        assert!(self.is_ready(stage));
        let ready: Vec<usize> = (0..STAGES).filter(|&other| self.is_ready(other)).collect();
        let overdue = self.passed_over[stage] >= MAX_PASSED_OVER;
        let latest = ready.iter().all(|&other| self.specs[other].rank <= self.specs[stage].rank);
        assert!(latest || overdue, "a later stage was ready");
        for other in ready {
            self.passed_over[other] += 1;
            let bound = MAX_PASSED_OVER + STAGES as u32;
            assert!(self.passed_over[other] <= bound, "a stage starves");
        }
        self.passed_over[stage] = 0;
    }

    fn drain(&mut self) {
        self.draining = true;
        self.scheduler.drain();
        while self.next() {}
        assert!(self.live.is_empty(), "lost: {:?}", self.live);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_the_rules(
        specs in prop::collection::vec(spec(), STAGES),
        steps in prop::collection::vec(step(), 0..250),
    ) {
        let mut world = World::new(specs);
        for step in &steps {
            world.apply(step);
        }
        world.drain();
    }

    #[test]
    fn taking_everything_out_loses_nothing(
        specs in prop::collection::vec(spec(), STAGES),
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut world = World::new(specs);
        for step in &steps {
            world.apply(step);
        }
        for (stage, id) in world.scheduler.take_all() {
            prop_assert_eq!(world.take_out(id).stage, stage);
        }
        prop_assert!(world.live.is_empty());
    }
}

fn ordinary() -> Planned {
    Planned { cost: 1, expires: None, urgency: 0, speculative: false, class: 0 }
}

#[test]
fn the_earliest_stage_progresses_under_sustained_load() {
    let specs: Vec<_> = (0..STAGES).map(|rank| StageSpec::new("stage", rank as u8, 2)).collect();
    let mut world = World::new(specs);
    world.push(0, &ordinary());
    let first = world.nth(0).unwrap();
    let mut dispatches = 0;
    // Later stages never run dry.
    while world.live.contains_key(&first) {
        for stage in 1..STAGES {
            world.push(stage, &ordinary());
            world.push(stage, &ordinary());
        }
        assert!(world.next());
        dispatches += 1;
        assert!(dispatches <= MAX_PASSED_OVER + STAGES as u32, "starved");
    }
    assert!(dispatches > 1, "the later stages went first");
}

#[test]
fn speculation_waits_out_the_gaps_between_stages() {
    let specs: Vec<_> = (0..STAGES).map(|rank| StageSpec::new("stage", rank as u8, 2)).collect();
    let mut world = World::new(specs);
    let millisecond = Duration::from_millis(1);
    let speculative = Planned { speculative: true, ..ordinary() };
    assert!(!world.next());
    world.now += 100 * SPECULATION_GRACE;
    world.push(1, &speculative);
    assert!(!world.next(), "however long the device was idle before, it is not begun at once");
    world.now += SPECULATION_GRACE - millisecond;
    world.push(0, &ordinary());
    assert!(world.next());
    world.now += SPECULATION_GRACE - millisecond;
    assert!(!world.next(), "idle only since the ordinary entry had run");
    world.now += SPECULATION_GRACE;
    assert!(world.next());
    assert!(world.live.is_empty());
}

#[test]
fn each_batch_is_carried_through_before_the_next_begins() {
    let specs: Vec<_> = (0..STAGES).map(|rank| StageSpec::new("stage", rank as u8, 4)).collect();
    let mut world = World::new(specs);
    for _ in 0..8 {
        world.push(0, &ordinary());
    }
    let mut order = Vec::new();
    loop {
        let before: Vec<usize> = (0..STAGES).map(|stage| world.lane(stage).len()).collect();
        if !world.next() {
            break;
        }
        let ran = (0..STAGES).find(|&stage| world.lane(stage).len() < before[stage]).unwrap();
        order.push(ran);
        // What a stage finished goes on to the next.
        for _ in world.lane(ran).len()..before[ran] {
            if ran + 1 < STAGES {
                world.push(ran + 1, &ordinary());
            }
        }
    }
    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
}
