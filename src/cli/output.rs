//! Standard output.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stdout};

use anyhow::Context;

/// Writes a line to standard output, as `println!` does. Where nobody reads it any more, as behind
/// `riveg pack inspect nano | head`, it is dropped and the command goes on: what else it does must
/// not depend on who reads.
macro_rules! say {
    ($($part:tt)*) => { $crate::cli::output::line(format_args!($($part)*)) };
}
pub(super) use say;

/// See [`say`].
///
/// # Errors
/// When it cannot be written for any other reason, e.g. because a disk is full.
pub fn line(text: Arguments<'_>) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    match out.write_fmt(text).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}
