//! What commands that work through many posts have in common.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::corpus::{Answerer, Progress};

/// Progress on standard error: a bar with rate and time left; failures as lines of their own.
pub struct CorpusBar {
    bar: ProgressBar,
    terminal: bool,
}

impl CorpusBar {
    /// A bar for so many jobs, e.g. `posts`.
    pub fn new(jobs: usize, what: &'static str) -> Self {
        let bar = ProgressBar::new(jobs as u64).with_message(what);
        let template = "[{bar:24}] {pos}/{len} {msg}, {per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, terminal: std::io::stderr().is_terminal() }
    }
}

impl Progress for CorpusBar {
    fn done(&self, jobs: usize) {
        // What an earlier run did says nothing about the rate of this one.
        if self.bar.position() == 0 && jobs > 1 {
            self.bar.set_position(jobs as u64);
            self.bar.reset_eta();
        }
        self.bar.set_position(jobs as u64);
    }

    fn failed(&self, id: &str, error: &Value) {
        let detail = error["detail"].as_str().unwrap_or_default();
        let line = format!("{id}: {detail}");
        if self.terminal { self.bar.println(line) } else { eprintln!("{line}") }
    }
}

impl Drop for CorpusBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Stops what answered.
pub async fn closed(answerer: Answerer) {
    if let Answerer::Local(local) = answerer {
        local.shutdown().await;
    }
}
