//! `riveg bench`: what each stage costs on this machine.

use std::io::{BufRead, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use candle_core::{DType, Device};
use clap::Args;
use serde::Serialize;

use super::device::{DeviceName, DtypeName};
use super::output::say;
use super::startup::Bar;
use crate::bench::{self, Case, Networks, RandomSizes, Shapes, Stage, Times};
use crate::models::device_name;
use crate::pack;
use crate::telemetry::VERSION;

/// Version of the report's form: see `docs/performance.md`.
const SCHEMA: u32 = 1;

/// Measures each stage and all of them together, on a pack or on random weights.
#[derive(Args)]
pub struct BenchArgs {
    /// Pack to measure: a directory, or a name below the models directory.
    #[arg(long, default_value = "nano", conflicts_with = "random")]
    pack: String,
    /// Networks with random weights instead, e.g. tagger=xlm-roberta-large,ofa=base,sam=vit-b.
    #[arg(long, value_name = "SIZES")]
    random: Option<RandomSizes>,
    /// Where random weights lie; they are written if they are not there yet.
    #[arg(long, value_name = "DIR", requires = "random")]
    weights: Option<PathBuf>,
    /// Stages to measure: tag, entail, ground, trunk, encode, segment, whole; all if not given.
    #[arg(long, value_delimiter = ',')]
    stages: Vec<Stage>,
    /// Items of a batch: texts, questions, pictures, or boxes of one picture.
    #[arg(long, value_delimiter = ',', default_value = "1,8")]
    batch: Vec<usize>,
    /// Pieces of a text that is tagged.
    #[arg(long, default_value_t = 64)]
    pieces: usize,
    /// Threads that compute on the CPU, each number in turn; 0 for one per core.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    threads: Vec<usize>,
    /// Device: auto, cpu, or cuda:N.
    #[arg(long, default_value = "auto")]
    device: DeviceName,
    /// Data type of the weights: auto, f32, f16 or bf16.
    #[arg(long, default_value = "auto")]
    dtype: DtypeName,
    /// Runs before the clock starts.
    #[arg(long, default_value_t = 1)]
    warmup: usize,
    /// Runs by the clock.
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// The device's peak in TFLOP/s at this data type, to tell which share of it was reached.
    #[arg(long, value_name = "TFLOPS")]
    peak: Option<f64>,
    /// Also write the results here as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure on demand instead: tells its cases as JSON, then for every line that names one runs it
    /// once and answers with milliseconds.
    #[arg(long, conflicts_with_all = ["json", "repeats", "warmup", "peak"])]
    on_demand: bool,
}

/// What `--json` writes.
#[derive(Serialize)]
struct Report {
    schema: u32,
    riveg: &'static str,
    weights: String,
    device: String,
    pieces: usize,
    results: Vec<Row>,
}

/// One case with so many threads.
#[derive(Serialize)]
struct Row {
    stage: &'static str,
    batch: usize,
    threads: usize,
    dtype: String,
    repeats: usize,
    median_ms: f64,
    min_ms: f64,
    p90_ms: f64,
    gmac: f64,
    gflops: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    share_of_peak: Option<f64>,
}

/// The first line that `--on-demand` prints.
#[derive(Serialize)]
struct OnDemand {
    weights: PathBuf,
    pieces: usize,
    cases: Vec<String>,
}

/// Networks that are loaded, and where from.
struct Loaded {
    networks: Networks,
    directory: PathBuf,
    dtype: String,
}

/// Measures and prints.
///
/// # Errors
/// When an argument is not legal, the networks cannot be loaded, or one fails.
pub fn run(args: BenchArgs) -> anyhow::Result<()> {
    if args.batch.contains(&0) || args.threads.is_empty() {
        bail!("--batch and --threads want numbers, --batch from 1");
    }
    let device = args.device.open()?;
    let loaded = args.load(&device)?;
    if args.on_demand {
        return args.on_demand(&loaded);
    }
    let mut results = Vec::new();
    say!("{}", header(args.peak.is_some()))?;
    for &threads in &args.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        for mut case in args.cases(&loaded.networks)? {
            let times = pool.install(|| bench::measure(&mut case, args.warmup, args.repeats))?;
            let row = args.row(&case, &times, (pool.current_num_threads(), &loaded.dtype));
            say!("{}", line(&row))?;
            results.push(row);
        }
    }
    if let Some(path) = &args.json {
        let report = Report {
            schema: SCHEMA,
            riveg: VERSION,
            weights: loaded.directory.display().to_string(),
            device: device_name(&device),
            pieces: args.pieces,
            results,
        };
        std::fs::write(path, serde_json::to_string_pretty(&report)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

impl BenchArgs {
    fn stages(&self) -> &[Stage] {
        if self.stages.is_empty() { &Stage::ALL } else { &self.stages }
    }

    fn cases(&self, networks: &Networks) -> anyhow::Result<Vec<Case>> {
        let shapes = Shapes { batches: self.batch.clone(), pieces: self.pieces };
        let cases = bench::cases(networks, self.stages(), &shapes)?;
        if cases.is_empty() {
            bail!("the networks have none of these stages");
        }
        Ok(cases)
    }

    fn load(&self, device: &Device) -> anyhow::Result<Loaded> {
        let types = self.dtype.on(device);
        let Some(sizes) = &self.random else {
            let directory = pack::locate(&self.pack, None)?;
            let pack = pack::load(&directory, device, types, &Bar::new())?;
            let networks = Networks::of_pack(&pack, &directory, (device, types))?;
            return Ok(Loaded { networks, directory, dtype: pack.tagger.info().dtype });
        };
        let directory = self.weights.clone().context("--random wants --weights DIR")?;
        bench::write(sizes, &directory)?;
        let dtype: DType = types.forced.unwrap_or(types.usual);
        let networks = Networks::random(&directory, self.stages(), (device, dtype))?;
        Ok(Loaded { networks, directory, dtype: dtype.as_str().to_owned() })
    }

    fn row(&self, case: &Case, times: &Times, (threads, dtype): (usize, &str)) -> Row {
        let milliseconds = |share: f64| times.quantile(share).as_secs_f64() * 1e3;
        let gmac = case.cost as f64 / 1e3;
        let gflops = 2.0 * gmac / times.quantile(0.5).as_secs_f64();
        Row {
            stage: case.stage.name(),
            batch: case.batch,
            threads,
            dtype: dtype.to_owned(),
            repeats: self.repeats,
            median_ms: milliseconds(0.5),
            min_ms: milliseconds(0.0),
            p90_ms: milliseconds(0.9),
            gmac,
            gflops,
            share_of_peak: self.peak.map(|peak| gflops / 1e3 / peak),
        }
    }

    fn on_demand(&self, loaded: &Loaded) -> anyhow::Result<()> {
        let threads = self.threads.first().copied().unwrap_or(0);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        let mut cases = self.cases(&loaded.networks)?;
        say(&OnDemand {
            weights: std::path::absolute(&loaded.directory)?,
            pieces: self.pieces,
            cases: cases.iter().map(Case::name).collect(),
        })?;
        for line in std::io::stdin().lock().lines() {
            let wanted = line?;
            let case = cases.iter_mut().find(|case| case.name() == wanted.trim());
            let case = case.with_context(|| format!("no case `{wanted}`"))?;
            say(&(pool.install(|| case.run())?.as_secs_f64() * 1e3))?;
        }
        Ok(())
    }
}

/// One line of JSON, at once.
fn say(value: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(value)?)?;
    Ok(out.flush()?)
}

fn header(peak: bool) -> String {
    let share = if peak { "  of peak" } else { "" };
    format!(
        "{:<8} {:>5} {:>7} {:>10} {:>10} {:>10} {:>9} {:>9}{share}",
        "stage", "batch", "threads", "median ms", "min ms", "p90 ms", "GMAC", "GFLOP/s"
    )
}

fn line(row: &Row) -> String {
    let share = row.share_of_peak.map(|share| format!("  {:>6.1}%", 100.0 * share));
    format!(
        "{:<8} {:>5} {:>7} {:>10.2} {:>10.2} {:>10.2} {:>9.2} {:>9.1}{}",
        row.stage,
        row.batch,
        row.threads,
        row.median_ms,
        row.min_ms,
        row.p90_ms,
        row.gmac,
        row.gflops,
        share.unwrap_or_default()
    )
}
