//! `riveg pack pull`: bring a pack's files to this machine.

use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::PackArgs;
use crate::cli::environment::Environment;
use crate::cli::output::say;
use crate::pack::{self, PullObserver, PullOptions, Token};

/// Where the hub is unless somebody says otherwise.
const HUB: &str = "https://huggingface.co";
const ATTEMPTS: u32 = 5;
const BACKOFF: Duration = Duration::from_secs(1);

/// Which pack, and how to get it.
#[derive(Args)]
pub struct PullArgs {
    #[command(flatten)]
    pack: PackArgs,
    /// Address of the model hub. [env: RIVEG_HUB_ENDPOINT] [default: https://huggingface.co]
    #[arg(long, value_name = "URL")]
    hub_endpoint: Option<String>,
    /// Do not touch the network: check that everything is in the cache. [env: RIVEG_OFFLINE=1]
    #[arg(long)]
    offline: bool,
    /// Attempts in a row without a new byte before a file is given up.
    #[arg(long, default_value_t = ATTEMPTS)]
    attempts: u32,
}

/// Pulls a pack. A token for private and gated repositories is read from `HF_TOKEN` alone, so that
/// no list of processes shows it.
///
/// # Errors
/// When a file cannot be had or is not the one that is expected.
pub fn run(args: &PullArgs) -> anyhow::Result<()> {
    let environment = Environment::of_process();
    let endpoint = match &args.hub_endpoint {
        Some(endpoint) => Some(endpoint.clone()),
        None => environment.read("RIVEG_HUB_ENDPOINT")?,
    };
    let offline = environment.read::<String>("RIVEG_OFFLINE")?;
    let options = PullOptions {
        cache: args.pack.cache()?,
        hub_endpoint: endpoint.unwrap_or_else(|| HUB.to_owned()),
        token: environment.read("HF_TOKEN")?.map(Token::new),
        offline: args.offline || offline.is_some_and(|value| value != "0"),
        attempts: args.attempts,
        backoff: BACKOFF,
    };
    let bar = Bar::new();
    let folder = pack::pull(&args.pack.source()?, &options, &bar)?;
    drop(bar);
    say!("{}", folder.display())
}

/// One bar, for the file in hand.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        let template = "[{bar:24}] {bytes}/{total_bytes} {msg}, {bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self(bar)
    }

    /// A line that stays, on a terminal or in a log.
    fn say(&self, line: &str) {
        self.0.suspend(|| eprintln!("{line}"));
    }
}

impl PullObserver for Bar {
    fn file(&self, index: usize, count: usize, path: &str) {
        self.0.reset();
        self.0.set_message(format!("{path} ({index}/{count})"));
    }

    fn progress(&self, bytes: u64, of: Option<u64>) {
        if self.0.position() == 0 {
            // What an earlier pull left says nothing about the rate of this one.
            self.0.set_position(bytes);
            self.0.reset_eta();
        }
        self.0.set_length(of.unwrap_or(bytes));
        self.0.set_position(bytes);
    }

    fn retry(&self, error: &str, wait: Duration) {
        self.say(&format!("{error}; again in {} s", wait.as_secs()));
    }

    fn waiting(&self) {
        self.say("another process is pulling this pack; waiting for it");
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
