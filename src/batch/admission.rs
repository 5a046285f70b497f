//! Admission in predicted cost: how much work may be under way, and when to come back.
//!
//! One unit for every form of request: a request with twenty entities takes up the room of twenty.
//!
//! Those who are refused are told to come back one after the other, as if they stood in a line. Were
//! all of them told when room for one is expected, all but one would find none when they return.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, gauge};

use super::executor::lock;
use super::metrics::counter_at_zero;
use super::{Cost, Overloaded};
use crate::telemetry::names;

/// Bounds of [`Overloaded::retry_after`]; the lower one also stands where no rate is known yet.
const RETRY_AFTER_SECONDS: (f64, f64) = (1.0, 60.0);

/// Lets requests in while there is room for their predicted cost. Cloning is cheap.
#[derive(Clone)]
pub struct Admission {
    inner: Arc<Inner>,
}

struct Inner {
    capacity: Cost,
    state: Mutex<State>,
    inflight_cost: Gauge,
    overloaded: Counter,
}

#[derive(Default)]
struct State {
    inflight: Cost,
    drain: DrainRate,
    line: Line,
}

impl Admission {
    /// With room for `capacity` under way at a time, on a machine that was measured to work off
    /// `speed` per second. Without a speed, the first answers give one.
    pub fn new(capacity: Cost, speed: Option<Cost>) -> Self {
        let inflight_cost = gauge!(names::INFLIGHT_COST);
        inflight_cost.set(0.0);
        let overloaded = counter_at_zero(names::REJECTED, "reason", "overloaded");
        let rate = speed.map(|speed| speed.0 as f64);
        let drain = DrainRate { rate, ..DrainRate::default() };
        let state = Mutex::new(State { drain, ..State::default() });
        Self { inner: Arc::new(Inner { capacity, state, inflight_cost, overloaded }) }
    }

    /// Takes up room for a request of this predicted cost. A request larger than the whole capacity
    /// is let in when nothing else is under way.
    ///
    /// # Errors
    /// There is no room; the error says when there is likely to be.
    pub fn try_admit(&self, cost: Cost) -> Result<AdmissionPermit, Overloaded> {
        let now = Instant::now();
        let mut state = lock(&self.inner.state);
        self.inner.check(&mut state, cost, now)?;
        state.take_up(cost, now);
        self.inner.inflight_cost.set(state.inflight.0 as f64);
        drop(state);
        Ok(AdmissionPermit { inner: Arc::clone(&self.inner), charged: AtomicU64::new(cost.0) })
    }

    /// Whether a request of this predicted cost would be let in now; takes up no room.
    ///
    /// # Errors
    /// As [`Admission::try_admit`].
    pub fn probe(&self, cost: Cost) -> Result<(), Overloaded> {
        self.inner.check(&mut lock(&self.inner.state), cost, Instant::now())
    }

    /// Predicted cost of everything under way.
    pub fn inflight(&self) -> Cost {
        lock(&self.inner.state).inflight
    }
}

impl Inner {
    /// Whether there is room. Where there is none, the request is counted as rejected and takes a
    /// place in the line of those who come back.
    fn check(&self, state: &mut State, cost: Cost, now: Instant) -> Result<(), Overloaded> {
        if state.inflight == Cost::ZERO || state.inflight + cost <= self.capacity {
            return Ok(());
        }
        self.overloaded.increment(1);
        Err(Overloaded { retry_after: self.retry_after(state, cost, now) })
    }

    /// Time until enough has drained for `cost` (until everything has, if it is over the capacity)
    /// and for those who were refused before and are expected back by then.
    fn retry_after(&self, state: &mut State, cost: Cost, now: Instant) -> Duration {
        let (least, most) = RETRY_AFTER_SECONDS;
        let Some(rate) = state.drain.rate() else { return Duration::from_secs_f64(least) };
        let over = (state.inflight + cost).0.saturating_sub(self.capacity.0);
        let excess = over.min(state.inflight.0) as f64;
        let ahead = state.line.join(cost, now, rate, self.capacity);
        Duration::from_secs_f64(((excess + ahead) / rate).clamp(least, most))
    }
}

/// The line of those who were refused: the cost that they will bring back. It moves on as fast as
/// work drains, whether they come or not.
#[derive(Debug, Default)]
struct Line {
    cost: f64,
    moved: Option<Instant>,
}

impl Line {
    /// Joins the end, and says how much cost stands ahead. The line grows no longer than
    /// `capacity`, so one client that hammers on a full server cannot send the others away for long.
    fn join(&mut self, cost: Cost, now: Instant, rate: f64, capacity: Cost) -> f64 {
        let since = self.moved.replace(now).unwrap_or(now);
        let ahead =
            (self.cost - rate * now.saturating_duration_since(since).as_secs_f64()).max(0.0);
        self.cost = (ahead + cost.0 as f64).min(capacity.0 as f64);
        ahead
    }
}

impl State {
    fn take_up(&mut self, cost: Cost, now: Instant) {
        if self.inflight == Cost::ZERO {
            self.drain.begin(now);
        }
        self.inflight += cost;
    }

    fn give_back(&mut self, cost: Cost, now: Instant) {
        self.inflight = Cost(self.inflight.0.saturating_sub(cost.0));
        self.drain.drained(cost, now, self.inflight == Cost::ZERO);
    }
}

/// Room taken up by one request; given back on drop.
pub struct AdmissionPermit {
    inner: Arc<Inner>,
    charged: AtomicU64,
}

impl AdmissionPermit {
    /// Takes up more room, e.g. because the tagger found more entities than was predicted. Never
    /// refused, so the total may pass the capacity; new requests then wait outside.
    pub fn charge_more(&self, cost: Cost) {
        self.charged.fetch_add(cost.0, Ordering::Relaxed);
        let mut state = lock(&self.inner.state);
        state.take_up(cost, Instant::now());
        self.inner.inflight_cost.set(state.inflight.0 as f64);
    }
}

impl Drop for AdmissionPermit {
    fn drop(&mut self) {
        let charged = Cost(self.charged.load(Ordering::Relaxed));
        let mut state = lock(&self.inner.state);
        state.give_back(charged, Instant::now());
        self.inner.inflight_cost.set(state.inflight.0 as f64);
    }
}

impl std::fmt::Debug for AdmissionPermit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdmissionPermit").field("charged", &self.charged).finish_non_exhaustive()
    }
}

/// Busy time over which one sample of the rate is taken.
const SAMPLE: Duration = Duration::from_millis(500);
/// Busy time after which an old sample has lost most (1 − 1/e) of its weight.
const MEMORY: Duration = Duration::from_secs(10);

/// Cost given back per second of busy time, as an exponentially weighted mean. Idle time does not
/// count, so the rate says what the server can do, not what it was asked.
#[derive(Debug, Default)]
struct DrainRate {
    rate: Option<f64>,
    busy_since: Option<Instant>,
    busy: Duration,
    drained: Cost,
}

impl DrainRate {
    /// Cost per second; `None` before the first sample.
    fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// Work begins after idleness.
    fn begin(&mut self, now: Instant) {
        self.busy_since = Some(now);
    }

    /// Some cost was given back; `idle` when nothing is left.
    fn drained(&mut self, cost: Cost, now: Instant, idle: bool) {
        let since = self.busy_since.replace(now).unwrap_or(now);
        if idle {
            self.busy_since = None;
        }
        self.busy += now.saturating_duration_since(since);
        self.drained += cost;
        if self.busy >= SAMPLE && self.drained > Cost::ZERO {
            let sample = self.drained.0 as f64 / self.busy.as_secs_f64();
            let weight = 1.0 - (-self.busy.as_secs_f64() / MEMORY.as_secs_f64()).exp();
            self.rate = Some(self.rate.map_or(sample, |rate| rate + weight * (sample - rate)));
            (self.busy, self.drained) = (Duration::ZERO, Cost::ZERO);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_up_and_given_back() {
        let admission = Admission::new(Cost(10), None);
        let first = admission.try_admit(Cost(6)).unwrap();
        assert!(admission.try_admit(Cost(5)).is_err());
        let second = admission.try_admit(Cost(4)).unwrap();
        assert_eq!(admission.inflight(), Cost(10));
        drop(first);
        assert_eq!(admission.inflight(), Cost(4));
        drop(second);
        assert_eq!(admission.inflight(), Cost(0));
    }

    #[test]
    fn probing_takes_up_no_room() {
        let admission = Admission::new(Cost(10), Some(Cost(1)));
        assert_eq!(admission.probe(Cost(50)), Ok(()), "it would run alone");
        let _permit = admission.try_admit(Cost(6)).unwrap();
        assert_eq!(admission.probe(Cost(4)), Ok(()));
        assert_eq!(admission.inflight(), Cost(6));
        let refused = Overloaded { retry_after: Duration::from_secs(3) };
        assert_eq!(admission.probe(Cost(7)), Err(refused));
    }

    #[test]
    fn more_than_the_capacity_runs_alone() {
        let admission = Admission::new(Cost(10), None);
        let small = admission.try_admit(Cost(1)).unwrap();
        assert!(admission.try_admit(Cost(50)).is_err());
        drop(small);
        let large = admission.try_admit(Cost(50)).unwrap();
        assert!(admission.try_admit(Cost(1)).is_err());
        drop(large);
        assert_eq!(admission.inflight(), Cost::ZERO);
    }

    #[test]
    fn charging_more_may_overdraw_and_is_given_back() {
        let admission = Admission::new(Cost(10), None);
        let permit = admission.try_admit(Cost(8)).unwrap();
        permit.charge_more(Cost(30));
        assert_eq!(admission.inflight(), Cost(38));
        assert!(admission.try_admit(Cost(1)).is_err());
        drop(permit);
        assert_eq!(admission.inflight(), Cost::ZERO);
    }

    #[test]
    fn the_drain_rate_ignores_idle_time() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut state = State::default();
        state.take_up(Cost(300), at(0));
        state.give_back(Cost(300), at(300));
        assert_eq!(state.drain.rate(), None, "too short a sample");
        state.take_up(Cost(700), at(100_000));
        state.give_back(Cost(700), at(100_700));
        assert!((state.drain.rate().unwrap() - 1000.0).abs() < 1e-6);
    }

    #[test]
    fn the_drain_rate_follows_change() {
        let start = Instant::now();
        let mut state = State::default();
        state.take_up(Cost(1_000_000), start);
        for second in 1..=100 {
            let cost = if second <= 50 { 100 } else { 1000 };
            state.give_back(Cost(cost), start + Duration::from_secs(second));
        }
        let rate = state.drain.rate().unwrap();
        assert!(rate > 980.0 && rate <= 1000.0, "{rate}");
    }

    fn retry_after(admission: &Admission, cost: u64, now: Instant) -> Duration {
        admission.inner.retry_after(&mut lock(&admission.inner.state), Cost(cost), now)
    }

    #[test]
    fn retry_after_is_the_time_until_there_is_room() {
        let now = Instant::now();
        let expected = |speed, cost| {
            let admission = Admission::new(Cost(1000), speed);
            let _permit = admission.try_admit(Cost(1000)).unwrap();
            retry_after(&admission, cost, now)
        };
        assert_eq!(expected(None, 100), Duration::from_secs(1), "no rate known yet");
        assert_eq!(expected(Some(Cost(20)), 100), Duration::from_secs(5));
        assert_eq!(expected(Some(Cost(20)), 1), Duration::from_secs(1));
        assert_eq!(expected(Some(Cost(20)), 5000), Duration::from_secs(50));
        assert_eq!(expected(Some(Cost(1)), 500), Duration::from_secs(60));
    }

    #[test]
    fn the_refused_are_sent_back_one_after_the_other() {
        let start = Instant::now();
        let admission = Admission::new(Cost(1000), Some(Cost(20)));
        let _permit = admission.try_admit(Cost(1000)).unwrap();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(retry_after(&admission, 100, start), Duration::from_secs(5));
        assert_eq!(retry_after(&admission, 100, start), Duration::from_secs(10));
        assert_eq!(retry_after(&admission, 100, after(5)), Duration::from_secs(10), "one has left");
        assert_eq!(retry_after(&admission, 100, after(60)), Duration::from_secs(5), "all have");
    }

    #[test]
    fn hammering_does_not_lengthen_the_line_without_end() {
        let now = Instant::now();
        let admission = Admission::new(Cost(1000), Some(Cost(100)));
        let _permit = admission.try_admit(Cost(1000)).unwrap();
        let last = (0..1000).map(|_| retry_after(&admission, 100, now)).max().unwrap();
        assert_eq!(last, Duration::from_secs(11));
    }
}
