//! A closed-loop load generator for a server on this machine.
//!
//! ```sh
//! cargo run --release --example load -- --url http://127.0.0.1:8080 \
//!     --clients 64 --seconds 60 --image photo.jpg --text "LeBron James with the Lakers"
//! ```
//!
//! Every client sends its next `POST /v1/smner` when the last one was answered, and waits as long
//! as a 429's `Retry-After` says (`--impatient` does not). Prints Markdown tables: answers by
//! status, latency of the 200s, throughput, and what `/metrics` says about each stage.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use clap::Parser;
use reqwest::header::RETRY_AFTER;
use reqwest::multipart::{Form, Part};
use reqwest::{Client, Url, redirect};
use riveg::telemetry::names;

/// Waited after a 429 without a usable `Retry-After`, and after a transport error.
const PAUSE: Duration = Duration::from_millis(100);
/// Given to the server to let go of memory before its size is read again.
const SETTLE: Duration = Duration::from_secs(5);

#[derive(Parser)]
#[command(about = "A closed-loop load generator for a riveg server on this machine")]
struct Args {
    /// The server; loopback addresses only.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: Url,
    /// Clients that each have one request under way.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    clients: u16,
    /// For how long requests are begun.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Picture to send; given several times, requests take turns.
    #[arg(long, required = true)]
    image: Vec<PathBuf>,
    /// Text to send; given several times, requests take turns.
    #[arg(long, required = true)]
    text: Vec<String>,
    /// The `options` part, as JSON.
    #[arg(long)]
    options: Option<String>,
    /// Ask again at once after a 429.
    #[arg(long)]
    impatient: bool,
    /// The server's process, to report its memory.
    #[arg(long)]
    pid: Option<u32>,
}

/// What all clients share.
struct Plan {
    http: Client,
    url: Url,
    images: Vec<Bytes>,
    texts: Vec<String>,
    options: Option<String>,
    impatient: bool,
    end: Instant,
    next: AtomicUsize,
}

/// What became of the requests.
#[derive(Default)]
struct Tally {
    statuses: BTreeMap<String, usize>,
    /// Of the 200s.
    latencies: Vec<Duration>,
    /// Of the 429s; `None` where the header was missing or unreadable.
    retry_after: Vec<Option<Duration>>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    check_loopback(&args.url)?;
    // Neither a proxy nor a redirect may lead off this machine.
    let http = Client::builder().no_proxy().redirect(redirect::Policy::none()).build()?;
    let read = |path: &PathBuf| {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        anyhow::Ok(Bytes::from(bytes))
    };
    let images = args.image.iter().map(read).collect::<anyhow::Result<Vec<_>>>()?;
    let metrics_url = args.url.join("/metrics")?;
    let before = scrape(&http, &metrics_url).await?;
    let rss_before = args.pid.map(resident_memory).transpose()?;

    let started = Instant::now();
    let plan = Arc::new(Plan {
        url: args.url.join("/v1/smner")?,
        http: http.clone(),
        images,
        texts: args.text,
        options: args.options,
        impatient: args.impatient,
        end: started + Duration::from_secs(args.seconds),
        next: AtomicUsize::new(0),
    });
    let clients: Vec<_> =
        (0..args.clients).map(|_| tokio::spawn(client(Arc::clone(&plan)))).collect();
    let mut tally = Tally::default();
    for client in clients {
        tally.merge(client.await?);
    }
    let elapsed = started.elapsed();

    tally.print(args.clients, elapsed);
    print_stages(&before, &scrape(&http, &metrics_url).await?);
    if let (Some(pid), Some(before)) = (args.pid, rss_before) {
        let after = resident_memory(pid)?;
        tokio::time::sleep(SETTLE).await;
        let settled = resident_memory(pid)?;
        println!("\n| memory | before | after | {} s later |", SETTLE.as_secs());
        println!("|---|---|---|---|\n| MiB | {before:.0} | {after:.0} | {settled:.0} |");
    }
    Ok(())
}

/// Fails for anything but a loopback address.
fn check_loopback(url: &Url) -> anyhow::Result<()> {
    ensure!(url.scheme() == "http", "only http:// is supported");
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let loopback = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    ensure!(loopback, "{host} is not a loopback address; this tool only loads this machine");
    Ok(())
}

/// One client: the next request when the last one was answered.
async fn client(plan: Arc<Plan>) -> Tally {
    let mut tally = Tally::default();
    while Instant::now() < plan.end {
        let pause = match plan.send(&mut tally).await {
            Ok(pause) => pause,
            Err(error) => {
                tally.count(if error.is_connect() { "no connection" } else { "broken off" });
                Some(PAUSE)
            }
        };
        if let Some(pause) = pause {
            let left = plan.end.saturating_duration_since(Instant::now());
            tokio::time::sleep(pause.min(left)).await;
        }
    }
    tally
}

impl Plan {
    /// Sends one request and says how long to wait before the next.
    async fn send(&self, tally: &mut Tally) -> reqwest::Result<Option<Duration>> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let image = self.images[turn % self.images.len()].clone();
        let mut form = Form::new()
            .part("image", Part::stream(image).file_name("image"))
            .text("text", self.texts[turn % self.texts.len()].clone());
        if let Some(options) = &self.options {
            form = form.text("options", options.clone());
        }
        let started = Instant::now();
        let response = self.http.post(self.url.clone()).multipart(form).send().await?;
        let status = response.status().as_u16();
        let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = header.and_then(|value| value.parse().ok()).map(Duration::from_secs);
        response.bytes().await?;
        tally.count(&status.to_string());
        match status {
            200 => tally.latencies.push(started.elapsed()),
            429 => {
                tally.retry_after.push(retry_after);
                return Ok((!self.impatient).then(|| retry_after.unwrap_or(PAUSE)));
            }
            _ => {}
        }
        Ok(None)
    }
}

impl Tally {
    fn count(&mut self, outcome: &str) {
        *self.statuses.entry(outcome.to_owned()).or_default() += 1;
    }

    fn merge(&mut self, other: Self) {
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.latencies.extend(other.latencies);
        self.retry_after.extend(other.retry_after);
    }

    fn print(&mut self, clients: u16, elapsed: Duration) {
        self.latencies.sort();
        let statuses: Vec<_> =
            self.statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect();
        let total: usize = self.statuses.values().sum();
        let rate = self.latencies.len() as f64 / elapsed.as_secs_f64();
        println!("| clients | s | requests | by status | 200/s | p50 ms | p95 ms | p99 ms |");
        println!("|---|---|---|---|---|---|---|---|");
        println!(
            "| {clients} | {:.1} | {total} | {} | {rate:.2} | {} | {} | {} |",
            elapsed.as_secs_f64(),
            statuses.join(", "),
            percentile(&self.latencies, 50),
            percentile(&self.latencies, 95),
            percentile(&self.latencies, 99),
        );
        if !self.retry_after.is_empty() {
            let given: Vec<_> = self.retry_after.iter().flatten().collect();
            let seconds = |bound: Option<&&Duration>| bound.map_or(0, |value| value.as_secs());
            println!(
                "\n429 with Retry-After: {} of {} ({} to {} s)",
                given.len(),
                self.retry_after.len(),
                seconds(given.iter().min()),
                seconds(given.iter().max()),
            );
        }
    }
}

/// The nearest-rank percentile of sorted latencies, in milliseconds.
fn percentile(sorted: &[Duration], percent: usize) -> String {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    match sorted.get(rank - 1) {
        Some(latency) => format!("{:.0}", latency.as_secs_f64() * 1000.0),
        None => "–".to_owned(),
    }
}

/// The samples of `/metrics`, by name with labels.
type Samples = BTreeMap<String, f64>;

async fn scrape(http: &Client, url: &Url) -> anyhow::Result<Samples> {
    let response = http.get(url.clone()).send().await.context("reading /metrics")?;
    if !response.status().is_success() {
        bail!("/metrics answered {}", response.status());
    }
    let text = response.text().await?;
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    Ok(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
}

/// What each stage did between two scrapes.
fn print_stages(before: &Samples, after: &Samples) {
    let change = |name: &str, part: &str, stage: &str| {
        let key = format!("{name}_{part}{{stage=\"{stage}\"}}");
        let value = |samples: &Samples| samples.get(&key).copied().unwrap_or_default();
        value(after) - value(before)
    };
    let prefix = format!("{}_count{{stage=\"", names::STAGE_BATCH_SIZE);
    println!("\n| stage | items | batches | mean batch | mean execute ms | mean queue ms |");
    println!("|---|---|---|---|---|---|");
    for name in after.keys() {
        let Some(stage) = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix("\"}"))
        else {
            continue;
        };
        let batches = change(names::STAGE_BATCH_SIZE, "count", stage);
        if batches == 0.0 {
            continue;
        }
        let items = change(names::STAGE_BATCH_SIZE, "sum", stage);
        let execute = change(names::STAGE_EXECUTE_SECONDS, "sum", stage) / batches * 1000.0;
        let answered = change(names::STAGE_QUEUE_SECONDS, "count", stage).max(1.0);
        let queue = change(names::STAGE_QUEUE_SECONDS, "sum", stage) / answered * 1000.0;
        let mean = items / batches;
        println!("| {stage} | {items} | {batches} | {mean:.2} | {execute:.1} | {queue:.1} |");
    }
}

/// A process's resident memory in MiB.
fn resident_memory(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("memory of process {pid}"))?;
    let kib = status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok()
        })
        .with_context(|| format!("no VmRSS of process {pid}"))?;
    Ok(kib / 1024.0)
}
