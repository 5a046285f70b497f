//! `riveg serve`: listen first, load, then answer until told to stop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::output::say;
use super::settings::{Settings, SettingsArgs};
use super::signals::Signals;
use super::startup::{self, Bar, Started};
use crate::batch::HealthState;
use crate::http::server::{self, Drained, ServerOptions};
use crate::http::{self, AppState, HttpOptions, Limits, ServiceInfo};
use crate::pipeline::Pipeline;
use crate::telemetry;

/// How long a request's body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long nothing may happen in a stream of events before a comment is sent; proxies commonly cut
/// connections that are silent for 30 to 60 seconds.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Longest `id` of a caller's own, in bytes.
const MAX_ID_BYTES: usize = 128;

/// Serves over HTTP.
#[derive(Args)]
pub struct ServeArgs {
    /// Print the settings in force as a TOML file that --config reads, and stop.
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Serves until SIGTERM or Ctrl-C; requests under way are answered before it returns.
///
/// # Errors
/// When the settings are wrong, the address cannot be bound, the pack cannot be loaded, or the
/// device is lost while serving.
pub fn run(args: ServeArgs) -> anyhow::Result<()> {
    let settings = args.settings.resolve()?;
    if args.print_config {
        return say!("{}", settings.to_toml()?.trim_end());
    }
    telemetry::init_logging(&settings.log, settings.log_format.parse()?)?;
    startup::set_threads(settings.threads)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(serve(settings));
    // Whoever is told to stop while loading need not wait for the rest of the weights.
    runtime.shutdown_background();
    outcome
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let address = (settings.host.as_str(), settings.port);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {}:{}", settings.host, settings.port))?;
    let url = format!("http://{}/", listener.local_addr()?);
    let state = AppState::new(http_options(&settings)?, telemetry::install_metrics()?);
    tokio::spawn(state.clone().keep_metrics_small());
    let (stop, stopped) = oneshot::channel();
    // Listening begins before loading, so that liveness is told from readiness from the start.
    let accepting = tokio::spawn(server::serve(
        listener,
        http::app(state.clone()),
        server_options(&settings),
        async {
            let _ = stopped.await;
        },
    ));
    let pipeline = tokio::select! {
        loaded = load(settings) => Some(make_ready(loaded?, &state, begun)?),
        () = signals.next() => None,
    };
    let outcome = match &pipeline {
        Some(pipeline) => {
            say!("riveg is ready: {url}")?;
            until_told_to_stop(pipeline, &mut signals).await
        }
        None => Ok(()),
    };
    state.drain();
    let _ = stop.send(());
    finish(accepting, &mut signals).await?;
    if let Some(pipeline) = pipeline.and_then(Arc::into_inner) {
        pipeline.shutdown().await;
    }
    outcome
}

/// Waits for the drain; a further signal cuts it short.
async fn finish(accepting: JoinHandle<Drained>, signals: &mut Signals) -> anyhow::Result<()> {
    let cutter = accepting.abort_handle();
    tokio::select! {
        drained = accepting => match drained?.cut {
            0 => tracing::info!("drained"),
            cut => tracing::warn!(cut, "the drain's time is over; busy connections were cut"),
        },
        () = signals.next() => {
            tracing::warn!("a second signal cut the drain");
            cutter.abort();
        }
    }
    Ok(())
}

/// Loads and warms the pack away from the async threads.
async fn load(settings: Settings) -> anyhow::Result<Started> {
    tokio::task::spawn_blocking(move || {
        let mut started = startup::load(&settings, &Bar::new())?;
        startup::warm(&mut started)?;
        Ok(started)
    })
    .await?
}

fn make_ready(started: Started, state: &AppState, begun: Instant) -> anyhow::Result<Arc<Pipeline>> {
    eprintln!("{}", startup::summary(&started, begun));
    let pipeline = Arc::new(Pipeline::start(started.roles(), started.options.clone())?);
    let info = ServiceInfo {
        pack_name: started.pack.manifest.name.clone(),
        pack_version: started.pack.manifest.version.clone(),
        entailment_threshold: started.pack.manifest.entailment_threshold,
        models: started.models(),
    };
    state.ready(pipeline.clone(), info);
    Ok(pipeline)
}

async fn until_told_to_stop(pipeline: &Pipeline, signals: &mut Signals) -> anyhow::Result<()> {
    let health = pipeline.health();
    tokio::select! {
        () = signals.next() => Ok(()),
        end = health.ended() => match end {
            HealthState::DeviceLost { reason } => bail!("the device is lost: {reason}"),
            HealthState::Running | HealthState::Stopped => Ok(()),
        },
    }
}

fn http_options(settings: &Settings) -> anyhow::Result<HttpOptions> {
    Ok(HttpOptions {
        limits: limits(settings),
        pixel_budget: settings.pixel_budget,
        body_timeout: BODY_TIMEOUT,
        keep_alive: KEEP_ALIVE,
        allowed_origins: settings.allowed_origins.parse()?,
    })
}

/// What clients may ask for.
pub(super) fn limits(settings: &Settings) -> Limits {
    Limits {
        max_body_bytes: settings.max_body_bytes,
        max_image_side: settings.max_image_side,
        max_image_pixels: settings.max_image_pixels,
        max_id_bytes: MAX_ID_BYTES,
        max_text_chars: settings.max_text_chars,
        max_entities: settings.max_entities,
        max_batch_items: settings.max_batch_items,
        max_boxes: settings.max_boxes,
        timeout_ms: settings.timeout_ms,
        max_timeout_ms: settings.max_timeout_ms,
    }
}

fn server_options(settings: &Settings) -> ServerOptions {
    ServerOptions {
        max_connections: settings.max_connections,
        drain: Duration::from_millis(settings.drain_ms),
        ..ServerOptions::default()
    }
}
