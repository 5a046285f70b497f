//! The command line: one file per command.

use std::process::ExitCode;

/// Parses the command line and runs the command that it names.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
