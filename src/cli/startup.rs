//! What serving and predicting have in common: device, pack, warm-up, and a few readable lines
//! about them.

use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use super::device::{DeviceName, DtypeName};
use super::memory::{self, Available};
use super::settings::Settings;
use crate::batch::Cost;
use crate::models::{ModelInfo, device_name};
use crate::pack::{self, Cache, LoadObserver, LoadedPack, Manifest};
use crate::pipeline::{PipelineOptions, Roles, warm_up};

/// Work in flight that admission allows by default, as time that this machine needs for it.
const DEFAULT_INFLIGHT: Duration = Duration::from_secs(8);

/// A pack whose networks are loaded and warm.
pub struct Started {
    /// The pack.
    pub pack: LoadedPack,
    /// What the pipeline is to be started with.
    pub options: PipelineOptions,
    /// The device's name, e.g. `cpu` or `cuda:0`.
    pub device: String,
}

impl Started {
    /// The roles, to start the pipeline with.
    pub fn roles(&self) -> Roles {
        let LoadedPack { tagger, expander, entailer, grounder, segmenter, .. } = &self.pack;
        Roles {
            tagger: tagger.clone(),
            expander: expander.clone(),
            entailer: entailer.clone(),
            grounder: grounder.clone(),
            segmenter: segmenter.clone(),
        }
    }

    /// Every model by role, in the order of the pipeline.
    pub fn models(&self) -> Vec<(&'static str, ModelInfo)> {
        vec![
            ("tagger", self.pack.tagger.info()),
            ("entailer", self.pack.entailer.info()),
            ("grounder", self.pack.grounder.info()),
            ("segmenter", self.pack.segmenter.info()),
        ]
    }
}

/// Opens the device and loads the pack that the settings name, telling `observer` about each step.
///
/// # Errors
/// When the device, the pack or a network cannot be used.
pub fn load(settings: &Settings, observer: &dyn LoadObserver) -> anyhow::Result<Started> {
    let device = settings.device.parse::<DeviceName>()?.open()?;
    let types = settings.dtype.parse::<DtypeName>()?.on(&device);
    let directory = pack::locate(&settings.pack, settings.models_dir())?;
    // Without a cache there is nothing pulled: a pack that needs no pulling loads all the same.
    let directory = match Cache::open(settings.cache_dir()) {
        Some(cache) => cache.resolve(&directory)?,
        None => directory,
    };
    if settings.memory_check == "on" {
        let manifest = Manifest::read(&directory)?;
        // Files without a plan are damaged, and loading says how.
        if let Ok(plan) = pack::plan(&directory, &manifest, types) {
            memory::refuse_too_large(&manifest.name, &plan, &Available::on(&device)?)?;
        }
    }
    let pack = pack::load(&directory, &device, types, observer)?;
    let options = PipelineOptions {
        entailment_threshold: pack.manifest.entailment_threshold,
        max_entities: settings.max_entities,
        max_batch: settings.max_batch,
        max_encode_batch: settings.max_encode_batch,
        embedding_cache_bytes: settings.embedding_cache_bytes,
        max_inflight: Cost(settings.max_inflight_gmac.saturating_mul(1000)),
        speed: None,
    };
    Ok(Started { pack, options, device: device_name(&device) })
}

/// Runs every network at its largest batch, notes how fast this machine is, and sets how much work
/// may be in flight where the settings leave it open.
///
/// # Errors
/// When a network fails.
pub fn warm(started: &mut Started) -> anyhow::Result<()> {
    let warm = warm_up(&started.roles(), &started.options).context("warming up")?;
    started.options.speed = Some(warm.cost_of(Duration::from_secs(1)));
    if started.options.max_inflight == Cost::ZERO {
        started.options.max_inflight = warm.cost_of(DEFAULT_INFLIGHT);
    }
    Ok(())
}

/// Sizes the pool of threads that compute on the CPU; 0 for one per core.
///
/// # Errors
/// When the pool exists already.
pub fn set_threads(threads: usize) -> anyhow::Result<()> {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    Ok(())
}

/// A few readable lines about what was loaded.
pub fn summary(started: &Started, begun: Instant) -> String {
    let manifest = &started.pack.manifest;
    let mut lines = format!("pack {} {} on {}", manifest.name, manifest.version, started.device);
    let mut seen: Vec<String> = Vec::new();
    let mut bytes = 0;
    for (role, model) in started.models() {
        lines += &format!(
            "\n  {role:<9} {:<16} {:>7.2} M parameters, {:>6.1} MB as {}",
            model.architecture,
            model.parameters as f64 / 1e6,
            model.bytes as f64 / 1e6,
            model.dtype
        );
        // Roles that share a network share its memory.
        if !seen.contains(&model.sha256) {
            bytes += model.bytes;
            seen.push(model.sha256);
        }
    }
    let resident = memory_stats::memory_stats().map_or(0, |stats| stats.physical_mem);
    lines += &format!(
        "\n  memory    {:.1} MB of weights, {:.0} MB resident in all; loaded and warm in {:.1} s",
        bytes as f64 / 1e6,
        resident as f64 / 1e6,
        begun.elapsed().as_secs_f64()
    );
    lines
}

/// Loading as a progress bar on standard error; nothing where that is no terminal.
pub struct Bar(ProgressBar);

impl Bar {
    /// An empty bar.
    pub fn new() -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("[{bar:24}] {pos}/{len} {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self(bar)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

impl LoadObserver for Bar {
    fn step(&self, step: usize, steps: usize, what: &str) {
        self.0.set_length(steps as u64);
        self.0.set_position(step as u64 - 1);
        self.0.set_message(format!("loading {what}"));
    }
}
