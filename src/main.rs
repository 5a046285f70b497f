//! The `riveg` binary: parse the command line, call one command.

fn main() -> std::process::ExitCode {
    riveg::cli::main()
}
