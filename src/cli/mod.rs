//! The command line: one file per command.

mod bench;
mod device;
mod environment;
mod eval;
mod memory;
mod openapi;
mod output;
mod pack;
mod predict;
mod serve;
mod settings;
mod signals;
mod startup;
mod work;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Segmented Multimodal Named Entity Recognition: the named entities of a post's text, their
/// types, and for each that the picture shows, its box and its pixel mask.
///
/// Without a command, riveg serves.
#[derive(Parser)]
#[command(version = crate::telemetry::VERSION, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::ServeArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Serve over HTTP (also what happens without a command).
    Serve(Box<serve::ServeArgs>),
    /// Answer for one picture and one text, then stop.
    Predict(Box<predict::PredictArgs>),
    /// Measure a pack, a server or a file of predictions on annotated posts.
    Eval(Box<eval::EvalArgs>),
    /// Measure what each stage costs on this machine.
    Bench(Box<bench::BenchArgs>),
    /// Print the OpenAPI document.
    Openapi(openapi::OpenapiArgs),
    /// Look into packs.
    #[command(subcommand)]
    Pack(pack::PackCommand),
}

/// Parses the command line and runs the command that it names.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        None => serve::run(cli.serve),
        Some(Command::Serve(args)) => serve::run(*args),
        Some(Command::Predict(args)) => predict::run(*args),
        Some(Command::Eval(args)) => eval::run(*args),
        Some(Command::Bench(args)) => bench::run(*args),
        Some(Command::Openapi(args)) => openapi::run(&args),
        Some(Command::Pack(command)) => pack::run(command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("riveg: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with those of its causes that it does not tell itself.
fn told(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |told, cause| match cause.to_string() {
        cause if told.is_empty() => cause,
        cause if told.contains(&cause) => told,
        cause => format!("{told}: {cause}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let told = |text: &'static str| told(&anyhow::anyhow!("the file is short").context(text));
        assert_eq!(told("cannot load"), "cannot load: the file is short");
        assert_eq!(told("tagger: the file is short"), "tagger: the file is short");
    }
}
