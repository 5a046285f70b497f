//! What every handler shares.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;

use super::body::BodyReader;
use super::limits::Limits;
use super::origins::Origins;
use super::picture::Decoder;
use super::problem::{Code, Problem};
use super::types::PackName;
use crate::batch::HealthState;
use crate::models::ModelInfo;
use crate::pipeline::Pipeline;

/// How often collected samples are folded into their histograms.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// What the operator set for the door.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// What clients may ask for.
    pub limits: Limits,
    /// Decoded pixels held at once by all requests.
    pub pixel_budget: u64,
    /// How long a request's body may take to arrive.
    pub body_timeout: Duration,
    /// A stream of events in which nothing happened for this long carries a comment, so that nobody
    /// on the way takes its connection for dead.
    pub keep_alive: Duration,
    /// Origins that browsers may call from.
    pub allowed_origins: Origins,
}

/// What was loaded.
#[derive(Debug, Clone)]
pub struct ServiceInfo {
    /// The pack's name.
    pub pack_name: String,
    /// The pack's version.
    pub pack_version: String,
    /// The pack's entailment threshold.
    pub entailment_threshold: f32,
    /// Every model by role.
    pub models: Vec<(&'static str, ModelInfo)>,
}

const LOADING: &str = "models are loading";
const SHUTTING_DOWN: &str = "the server is shutting down";
const DEVICE_LOST: &str = "the device is lost";

/// Where the server is in its life.
#[derive(Clone)]
enum Phase {
    Loading,
    Ready(Arc<Pipeline>),
    /// With the reason.
    Draining(&'static str),
}

impl Phase {
    /// The pipeline, or why there is none.
    fn pipeline(&self) -> Result<&Arc<Pipeline>, &'static str> {
        match self {
            Self::Loading => Err(LOADING),
            Self::Draining(reason) => Err(reason),
            Self::Ready(pipeline) => match pipeline.health().state() {
                HealthState::Running => Ok(pipeline),
                HealthState::DeviceLost { .. } => Err(DEVICE_LOST),
                HealthState::Stopped => Err(SHUTTING_DOWN),
            },
        }
    }
}

/// What every handler shares. Cloning is cheap.
#[derive(Clone)]
pub struct AppState {
    inner: Arc<Inner>,
}

struct Inner {
    phase: watch::Sender<Phase>,
    info: OnceLock<ServiceInfo>,
    options: HttpOptions,
    metrics: PrometheusHandle,
    bodies: BodyReader,
    decoder: Decoder,
}

impl AppState {
    /// A server that is still loading.
    pub fn new(options: HttpOptions, metrics: PrometheusHandle) -> Self {
        let bodies = BodyReader::new(options.limits.max_body_bytes, options.body_timeout);
        let decoder = Decoder::new(&options.limits, options.pixel_budget);
        let phase = watch::Sender::new(Phase::Loading);
        let info = OnceLock::new();
        Self { inner: Arc::new(Inner { phase, info, options, metrics, bodies, decoder }) }
    }

    /// Loading is done: requests are answered from now on.
    pub fn ready(&self, pipeline: Arc<Pipeline>, info: ServiceInfo) {
        // A second pack in one process is not foreseen; the first one's description stays.
        let _ = self.inner.info.set(info);
        self.inner.phase.send_replace(Phase::Ready(pipeline));
    }

    /// Nothing new is taken on from now on. Requests under way keep the pipeline alive.
    pub fn drain(&self) {
        self.inner.phase.send_modify(|phase| {
            let reason = match phase.pipeline() {
                Err(DEVICE_LOST) => DEVICE_LOST,
                _ => SHUTTING_DOWN,
            };
            *phase = Phase::Draining(reason);
        });
    }

    /// The pipeline, where the server is ready.
    ///
    /// # Errors
    /// `unavailable`, with the reason.
    pub fn pipeline(&self) -> Result<Arc<Pipeline>, Problem> {
        let phase = self.inner.phase.borrow();
        phase.pipeline().cloned().map_err(|reason| Problem::new(Code::Unavailable, reason))
    }

    /// What was loaded.
    ///
    /// # Errors
    /// `unavailable` while loading is not done.
    pub fn info(&self) -> Result<&ServiceInfo, Problem> {
        self.inner.info.get().ok_or_else(|| Problem::new(Code::Unavailable, LOADING))
    }

    /// The pack's name and version, as answers carry them.
    pub fn pack(&self) -> PackName {
        let info = self.inner.info.get();
        PackName {
            name: info.map(|info| info.pack_name.clone()).unwrap_or_default(),
            version: info.map(|info| info.pack_version.clone()).unwrap_or_default(),
        }
    }

    /// What clients may ask for.
    pub fn limits(&self) -> &Limits {
        &self.inner.options.limits
    }

    /// What the operator set.
    pub fn options(&self) -> &HttpOptions {
        &self.inner.options
    }

    /// Every metric as Prometheus reads it.
    pub fn render_metrics(&self) -> String {
        self.inner.metrics.render()
    }

    /// Keeps what the metrics take up bounded; never ends. Without it, histograms collect every
    /// sample until somebody reads them.
    pub async fn keep_metrics_small(self) {
        let mut ticks = tokio::time::interval(METRICS_UPKEEP);
        loop {
            ticks.tick().await;
            self.inner.metrics.run_upkeep();
        }
    }

    /// Reads bodies.
    pub fn bodies(&self) -> &BodyReader {
        &self.inner.bodies
    }

    /// Decodes pictures.
    pub fn decoder(&self) -> &Decoder {
        &self.inner.decoder
    }
}
