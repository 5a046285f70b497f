//! The `riveg` binary: parse the command line, call one command.

/// Gives memory back to the system soon after a load has passed, which the system's own allocator
/// does not (figures in docs/architecture.md).
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    riveg::cli::main()
}
