//! Model stubs and an executor over them. A stub that blocks holds the device until it is released,
//! so tests decide what is queued together; nothing depends on time passing.

use std::collections::HashSet;
use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};

use futures_util::poll;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use super::executor::lock;
use super::*;
use crate::models::ModelError;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Act {
    Echo,
    Fail,
    /// Fails when it is run for the first time, alone or not.
    FailOnce,
    Panic,
    LoseDevice,
    /// Panics over a lost device.
    LoseDeviceInPanic,
    /// Does as `Echo`, and shares no batch with anything else.
    EchoApart,
    /// Gives no output.
    Forget,
    /// Holds the device until released.
    Block,
}

pub(super) type Item = (u32, Act);
pub(super) type Log = Arc<Mutex<Vec<(&'static str, Vec<u32>)>>>;
pub(super) type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Does as its items say, and notes every batch.
pub(super) struct Stub {
    name: &'static str,
    log: Log,
    entered: mpsc::Sender<()>,
    release: Arc<Mutex<mpsc::Receiver<()>>>,
    failed: Mutex<HashSet<u32>>,
}

impl Stub {
    /// One that is never asked to block.
    pub(super) fn unblocking() -> Self {
        let (entered, _) = mpsc::channel();
        let (_, release) = mpsc::channel();
        let release = Arc::new(Mutex::new(release));
        Self { name: "stub", log: Log::default(), entered, release, failed: Mutex::default() }
    }
}

impl BatchModel for Stub {
    type Input = Item;
    type Output = u32;

    fn cost(&self, _item: &Item) -> Cost {
        Cost(1)
    }

    fn compatible(&self, first: &Item, candidate: &Item) -> bool {
        (first.1 == Act::EchoApart) == (candidate.1 == Act::EchoApart)
    }

    fn run(&self, items: &[Item]) -> Result<Vec<u32>, ModelError> {
        lock(&self.log).push((self.name, items.iter().map(|item| item.0).collect()));
        let failure = |text: &str| ModelError::Tensor(candle_core::Error::Msg(text.into()));
        let mut outputs = Vec::new();
        for &(id, act) in items {
            match act {
                Act::Echo | Act::EchoApart => {}
                Act::Fail => return Err(failure("no")),
                Act::FailOnce if lock(&self.failed).insert(id) => return Err(failure("not yet")),
                Act::FailOnce => {}
                // Unlike `panic!` this does not print.
                Act::Panic => resume_unwind(Box::new("stub")),
                Act::LoseDevice => return Err(failure("DriverError(CUDA_ERROR_LAUNCH_FAILED)")),
                Act::LoseDeviceInPanic => resume_unwind(Box::new("CUDA_ERROR_UNKNOWN")),
                Act::Forget => continue,
                Act::Block => {
                    self.entered.send(()).unwrap();
                    lock(&self.release).recv().unwrap();
                }
            }
            outputs.push(id + 100);
        }
        Ok(outputs)
    }
}

/// Two stages over one executor, and the test's hand on the device.
pub(super) struct Bench {
    pub(super) early: StageHandle<Item, u32>,
    pub(super) late: StageHandle<Item, u32>,
    pub(super) executor: Executor,
    pub(super) log: Log,
    recorder: PrometheusRecorder,
    entered: mpsc::Receiver<()>,
    pub(super) release: mpsc::Sender<()>,
}

pub(super) fn bench() -> Bench {
    bench_with(StageSpec::new("early", 0, 8), PanicLimit::default())
}

pub(super) fn bench_with(early: StageSpec, limit: PanicLimit) -> Bench {
    let recorder = PrometheusBuilder::new().build_recorder();
    let log = Log::default();
    let (entered_in, entered) = mpsc::channel();
    let (release, release_out) = mpsc::channel();
    let release_out = Arc::new(Mutex::new(release_out));
    let stub = |name| Stub {
        name,
        log: Arc::clone(&log),
        entered: entered_in.clone(),
        release: Arc::clone(&release_out),
        failed: Mutex::default(),
    };
    let (early, late, executor) = ::metrics::with_local_recorder(&recorder, || {
        let mut builder = ExecutorBuilder::new();
        builder.panic_limit(limit);
        let early = builder.stage(early, stub("early"));
        let late = builder.stage(StageSpec::new("late", 1, 8), stub("late"));
        (early, late, builder.start().unwrap())
    });
    Bench { early, late, executor, log, recorder, entered, release }
}

impl Bench {
    /// Holds the device with an item of `early`; the returned future ends once it is released.
    pub(super) async fn block(&self) -> Pending<'static, Result<Reply<u32>, StageError>> {
        let early = self.early.clone();
        let mut blocked: Pending<_> =
            Box::pin(async move { early.submit((0, Act::Block), &context()).await });
        assert!(poll!(&mut blocked).is_pending());
        self.entered();
        lock(&self.log).clear();
        blocked
    }

    /// Waits until a blocking item holds the device.
    pub(super) fn entered(&self) {
        self.entered.recv().unwrap();
    }

    pub(super) fn release(&self) {
        self.release.send(()).unwrap();
    }

    pub(super) fn ran(&self) -> Vec<(&'static str, Vec<u32>)> {
        lock(&self.log).clone()
    }

    /// Makes something whose metrics are to be read here.
    pub(super) fn with_metrics<T>(&self, make: impl FnOnce() -> T) -> T {
        ::metrics::with_local_recorder(&self.recorder, make)
    }

    pub(super) fn metric(&self, line: &str) -> f64 {
        let text = self.recorder.handle().render();
        let found = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {line} in\n{text}")).parse().unwrap()
    }
}

pub(super) fn context() -> RequestContext {
    RequestContext::unadmitted("test".into(), None)
}
