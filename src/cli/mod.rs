//! The command line: one file per command.

pub mod overlay;
mod pack;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Segmented Multimodal Named Entity Recognition.
#[derive(Parser)]
#[command(version = crate::telemetry::VERSION)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Look into packs.
    #[command(subcommand)]
    Pack(pack::PackCommand),
}

/// Parses the command line and runs the command that it names.
pub fn main() -> ExitCode {
    let Command::Pack(command) = Cli::parse().command;
    match pack::run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("riveg: {error:#}");
            ExitCode::FAILURE
        }
    }
}
