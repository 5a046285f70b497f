//! The program as processes.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// The program, where the packs of the repository are found by their names.
pub fn riveg() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_riveg"));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// A running server; stopped when dropped.
pub struct Server {
    pub process: Child,
    pub url: String,
}

impl Server {
    pub fn start(flags: &[&str]) -> Self {
        let mut process = riveg()
            .args(["serve", "--port", "0", "--device", "cpu", "--log", "warn"])
            // Warming up runs the largest batch, which takes unoptimised code half a minute.
            .args(["--max-batch", "4"])
            // By itself it takes on as much as it saw itself do in warming up: where builds or other
            // tests run beside it, that is less than these tests ask for at once.
            .args(["--max-inflight-gmac", "1000000"])
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let url = lines.find_map(|line| {
            let line = line.unwrap();
            let at = line.find("http://")?;
            line.contains("ready").then(|| line[at..].trim_end_matches('/').to_owned())
        });
        // Keep reading: a full pipe would stop the server.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, url: url.expect("the server says when it is ready, and where") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
