//! What every handler shares.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;

use super::body::BodyReader;
use super::limits::Limits;
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
    /// Origins that browsers may call from.
    pub allowed_origins: Vec<String>,
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

/// Where the server is in its life.
#[derive(Clone)]
enum Phase {
    Loading,
    Ready(Arc<Pipeline>),
    Draining,
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
        self.inner.phase.send_replace(Phase::Draining);
    }

    /// The pipeline, where the server is ready.
    ///
    /// # Errors
    /// `unavailable`, with the reason.
    pub fn pipeline(&self) -> Result<Arc<Pipeline>, Problem> {
        let unavailable = |reason| Err(Problem::new(Code::Unavailable, reason));
        match &*self.inner.phase.borrow() {
            Phase::Loading => unavailable("models are loading"),
            Phase::Draining => unavailable("the server is shutting down"),
            Phase::Ready(pipeline) => match pipeline.health().state() {
                HealthState::Running => Ok(pipeline.clone()),
                HealthState::DeviceLost { .. } => unavailable("the device is lost"),
                HealthState::Stopped => unavailable("the server is shutting down"),
            },
        }
    }

    /// Whether loading is done.
    pub fn has_started(&self) -> bool {
        !matches!(&*self.inner.phase.borrow(), Phase::Loading)
    }

    /// What was loaded, where loading is done.
    pub fn info(&self) -> Option<&ServiceInfo> {
        self.inner.info.get()
    }

    /// The pack's name and version, as answers carry them.
    pub fn pack(&self) -> PackName {
        let info = self.info();
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
