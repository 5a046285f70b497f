//! What is computed from a picture alone, computed once: single flight, then a byte-bounded LRU.
//!
//! A *flight* is one computation under way. It belongs to nobody: whoever asks for its key joins
//! it, and it is given up only when nobody is interested any more before it ran. Its result goes
//! into the cache from the executor thread, so it is kept even if everybody left while it ran.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, counter, gauge};
use tokio::sync::watch;
use tokio::time::timeout_at;

use super::executor::lock;
use super::metrics::counter_at_zero;
use super::scheduler::EntryId;
use super::stage::{ReplySink, Terms};
use super::{Reply, RequestContext, StageError, StageHandle};
use crate::models::{ByteLru, ImageEmbedding};
use crate::telemetry::names;
use crate::vision::{Picture, PictureDigest};

/// The segmenter's image embeddings, by picture.
pub type EmbeddingCache = FlightCache<PictureDigest, Arc<Picture>, ImageEmbedding>;

impl EmbeddingCache {
    /// In front of the stage that encodes pictures, keeping up to `capacity` bytes; 0 keeps none.
    pub fn for_embeddings(
        stage: StageHandle<Arc<Picture>, ImageEmbedding>,
        capacity: usize,
    ) -> Self {
        Self::new(stage, capacity, ImageEmbedding::bytes)
    }
}

/// A cache in front of a stage whose output depends on a key alone. Cloning is cheap.
pub struct FlightCache<K, I, V> {
    inner: Arc<Inner<K, I, V>>,
}

impl<K, I, V> Clone for FlightCache<K, I, V> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<K, I, V> {
    stage: StageHandle<I, V>,
    weigh: fn(&V) -> usize,
    state: Mutex<State<K, V>>,
    metrics: CacheMetrics,
}

struct State<K, V> {
    kept: ByteLru<K, V>,
    flights: HashMap<K, Arc<Flight<V>>>,
}

struct CacheMetrics {
    hit: Counter,
    joined: Counter,
    miss: Counter,
    speculations: Counter,
    bytes: Gauge,
}

impl CacheMetrics {
    fn new() -> Self {
        let outcome = |value| counter_at_zero(names::EMBEDDING_CACHE, "outcome", value);
        let speculations = counter!(names::EMBEDDING_SPECULATIONS);
        speculations.increment(0);
        let bytes = gauge!(names::EMBEDDING_CACHE_BYTES);
        bytes.set(0.0);
        let (hit, joined, miss) = (outcome("hit"), outcome("joined"), outcome("miss"));
        Self { hit, joined, miss, speculations, bytes }
    }
}

type Landing<V> = Option<Result<Reply<V>, StageError>>;

/// One computation under way.
struct Flight<V> {
    /// How many wait for it, or may yet.
    interest: AtomicUsize,
    /// Its place in the stage's queue; set under the cache's lock, right after it was queued.
    entry: OnceLock<EntryId>,
    landing: watch::Sender<Landing<V>>,
}

impl<V: Clone> Flight<V> {
    /// The reply, where there is one already and it is a value.
    fn landed_reply(&self) -> Option<Reply<V>> {
        self.landing.borrow().as_ref()?.as_ref().ok().cloned()
    }
}

/// Somebody's interest in a flight; the flight may be given up once all are dropped.
pub struct Interest<V> {
    flight: Arc<Flight<V>>,
    since: Instant,
}

impl<V> Interest<V> {
    fn new(flight: &Arc<Flight<V>>) -> Self {
        flight.interest.fetch_add(1, Ordering::Relaxed);
        Self { flight: Arc::clone(flight), since: Instant::now() }
    }

    /// A landed flight's value, and its running time as far as the interest was there to see it.
    fn reply(&self, landed: Reply<V>, waited: Duration) -> Reply<V> {
        let executed = landed.executed.min(self.since.elapsed());
        Reply { queued: waited.saturating_sub(executed), executed, ..landed }
    }
}

impl<V> Drop for Interest<V> {
    fn drop(&mut self) {
        self.flight.interest.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a key leads to.
enum Found<V> {
    Kept(V),
    Joined(Interest<V>),
    Started(Interest<V>),
}

impl<K, I, V> FlightCache<K, I, V>
where
    K: Copy + Eq + Hash + Send + Sync + 'static,
    I: Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// In front of `stage`, keeping values of up to `capacity` bytes in all as `weigh` counts them.
    /// 0 keeps none; computations under way are shared all the same.
    pub fn new(stage: StageHandle<I, V>, capacity: usize, weigh: fn(&V) -> usize) -> Self {
        let state = State { kept: ByteLru::new(capacity), flights: HashMap::new() };
        let (state, metrics) = (Mutex::new(state), CacheMetrics::new());
        Self { inner: Arc::new(Inner { stage, weigh, state, metrics }) }
    }

    /// Starts computing a value early, while the device is idle. The computation is given up when
    /// the returned interest is dropped before it ran and nobody else joined. `None` where the
    /// value is kept already, or where the stage takes nothing on.
    pub fn speculate(&self, key: K, input: I, ctx: &RequestContext) -> Option<Interest<V>> {
        let found = self.find(key, input, ctx, true).ok()?;
        match found {
            Found::Started(interest) => {
                self.inner.metrics.miss.increment(1);
                self.inner.metrics.speculations.increment(1);
                Some(interest)
            }
            Found::Joined(interest) => {
                self.inner.metrics.joined.increment(1);
                Some(interest)
            }
            Found::Kept(_) => None,
        }
    }

    /// The value of a key: kept, from a flight that is joined (and made ordinary if it was
    /// speculative), or computed. Waiting counts as `queued` up to the flight's running time.
    ///
    /// # Errors
    /// As [`StageHandle::submit`]. If a flight that was joined fails, the value is asked for once
    /// more; `input` is what a new flight would compute from.
    pub async fn get(&self, key: K, input: I, ctx: &RequestContext) -> Result<Reply<V>, StageError>
    where
        I: Clone,
    {
        self.get_or_claim(None, key, input, ctx).await
    }

    /// As [`FlightCache::get`], of a value that was asked for early: its running time is told
    /// although it may have run before, and it is not counted a second time.
    ///
    /// # Errors
    /// As [`FlightCache::get`].
    pub async fn claim(
        &self,
        early: Interest<V>,
        key: K,
        input: I,
        ctx: &RequestContext,
    ) -> Result<Reply<V>, StageError>
    where
        I: Clone,
    {
        match early.flight.landed_reply() {
            Some(reply) => Ok(early.reply(reply, Duration::ZERO)),
            None => self.get_or_claim(Some(early), key, input, ctx).await,
        }
    }

    async fn get_or_claim(
        &self,
        early: Option<Interest<V>>,
        key: K,
        input: I,
        ctx: &RequestContext,
    ) -> Result<Reply<V>, StageError>
    where
        I: Clone,
    {
        let started = Instant::now();
        let mut counted = early.is_some();
        let mut may_retry = true;
        loop {
            let found = self.find(key, input.clone(), ctx, false)?;
            if !std::mem::replace(&mut counted, true) {
                self.inner.metrics.count(&found);
            }
            let (interest, joined) = match found {
                Found::Kept(output) => return Ok(kept_reply(output)),
                Found::Joined(interest) => (interest, true),
                Found::Started(interest) => (interest, false),
            };
            match interest.landed(ctx.deadline()).await {
                Ok(reply) => {
                    let same = early.filter(|early| Arc::ptr_eq(&early.flight, &interest.flight));
                    let interest = same.unwrap_or(interest);
                    return Ok(interest.reply(reply, started.elapsed()));
                }
                // Given up just before it was joined: that says nothing about this request.
                Err(StageError::Cancelled) => {}
                Err(StageError::Failed | StageError::Panicked) if joined && may_retry => {
                    may_retry = false;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Looks a key up; starts a flight where there is none.
    fn find(
        &self,
        key: K,
        input: I,
        ctx: &RequestContext,
        speculative: bool,
    ) -> Result<Found<V>, StageError> {
        let mut state = lock(&self.inner.state);
        if let Some(value) = state.kept.get(&key) {
            return Ok(Found::Kept(value));
        }
        if let Some(flight) = state.flights.get(&key) {
            let interest = Interest::new(flight);
            if !speculative && let Some(&entry) = flight.entry.get() {
                self.inner.stage.promote(entry, ctx.deadline());
            }
            return Ok(Found::Joined(interest));
        }
        let landing = watch::Sender::new(None);
        let (interest, entry) = (AtomicUsize::new(0), OnceLock::new());
        let flight = Arc::new(Flight { interest, entry, landing });
        let interest = Interest::new(&flight);
        let (queued, inner) = (Arc::clone(&flight), Arc::clone(&self.inner));
        // Made only once it is queued: dropping a ticket takes the lock that is held here.
        let ticket = || Box::new(FlightTicket { key, flight: queued, inner }) as Box<_>;
        // The flight outlives any one deadline; those who wait watch their own.
        let request_id = Arc::clone(ctx.request_id());
        let terms = Terms { request_id, expires: None, wanted_by: ctx.deadline(), speculative };
        let entry = self.inner.stage.enqueue(input, ticket, terms)?;
        // Set once only, here; `set` cannot fail.
        let _ = flight.entry.set(entry);
        state.flights.insert(key, flight);
        Ok(Found::Started(interest))
    }
}

impl CacheMetrics {
    fn count<V>(&self, found: &Found<V>) {
        match found {
            Found::Kept(_) => self.hit.increment(1),
            Found::Joined(_) => self.joined.increment(1),
            Found::Started(_) => self.miss.increment(1),
        }
    }
}

impl<V: Clone> Interest<V> {
    /// Waits for the flight's result.
    async fn landed(&self, deadline: Option<Instant>) -> Result<Reply<V>, StageError> {
        let mut landing = self.flight.landing.subscribe();
        let landed = landing.wait_for(Option::is_some);
        let landed = match deadline {
            Some(at) => {
                timeout_at(at.into(), landed).await.map_err(|_| StageError::DeadlineExceeded)?
            }
            None => landed.await,
        };
        // The sender lives in the flight, which `self` holds, and `wait_for` checked for `Some`.
        let landed = landed.map_err(|_| StageError::ShuttingDown)?;
        landed.clone().unwrap_or(Err(StageError::ShuttingDown))
    }
}

fn kept_reply<V>(output: V) -> Reply<V> {
    Reply { output, queued: Duration::ZERO, executed: Duration::ZERO, batch_size: 0 }
}

/// Lands a flight: files its result and wakes all who wait.
struct FlightTicket<K: Eq + Hash, I, V> {
    key: K,
    flight: Arc<Flight<V>>,
    inner: Arc<Inner<K, I, V>>,
}

impl<K: Eq + Hash, I, V> FlightTicket<K, I, V> {
    /// From now on whoever asks for the key does not find this flight any more.
    fn take_off(&self, state: &mut State<K, V>) {
        if state.flights.get(&self.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            state.flights.remove(&self.key);
        }
    }
}

impl<K: Eq + Hash, I, V> Drop for FlightTicket<K, I, V> {
    /// Nobody waits for ever: a ticket that is dropped undelivered (the executor's thread died over
    /// it) lands its flight as lost.
    fn drop(&mut self) {
        if self.flight.landing.borrow().is_none() {
            self.take_off(&mut lock(&self.inner.state));
            self.flight.landing.send_replace(Some(Err(StageError::DeviceLost)));
        }
    }
}

impl<K, I, V> ReplySink<V> for FlightTicket<K, I, V>
where
    K: Copy + Eq + Hash + Send + Sync + 'static,
    I: Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn is_gone(&self) -> bool {
        self.flight.interest.load(Ordering::Relaxed) == 0
    }

    fn deliver(self: Box<Self>, reply: Result<Reply<V>, StageError>) {
        let mut state = lock(&self.inner.state);
        self.take_off(&mut state);
        if let Ok(reply) = &reply {
            let bytes = (self.inner.weigh)(&reply.output);
            state.kept.insert(self.key, reply.output.clone(), bytes);
            self.inner.metrics.bytes.set(state.kept.bytes() as f64);
        }
        drop(state);
        self.flight.landing.send_replace(Some(reply));
    }
}
