//! Why a file could not be pulled.

use std::io::{Error, ErrorKind};
use std::path::PathBuf;

/// Why a file could not be pulled. No message holds a token or a signed address.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The network may not be used, and the cache has no such file.
    #[error("is not in the cache, and --offline forbids to fetch it from {0}")]
    Offline(String),
    /// A file that the user provides is missing.
    #[error("{} is missing: {note}", .path.display())]
    NotThere {
        /// Where it should lie.
        path: PathBuf,
        /// What to do.
        note: String,
    },
    /// The server has no such file.
    #[error("{url} does not exist (404)")]
    NotFound {
        /// The address.
        url: String,
    },
    /// The server wants to know who asks.
    #[error("{url} is not open to {who} ({status})")]
    Unauthorized {
        /// The address.
        url: String,
        /// Who asked, and what might help.
        who: &'static str,
        /// 401 or 403.
        status: u16,
    },
    /// Any other refusal.
    #[error("{url} answered {status}")]
    Status {
        /// The address.
        url: String,
        /// The status code.
        status: u16,
    },
    /// A redirect to an address that is not encrypted, or one too many.
    #[error("{url} redirects {what}")]
    Redirect {
        /// The address that was asked for.
        url: String,
        /// Where to.
        what: &'static str,
    },
    /// The connection failed.
    #[error("{0}")]
    Connection(String),
    /// The connection ended early.
    #[error("the connection ended after {found} of {expected} bytes")]
    Short {
        /// Bytes that arrived.
        found: u64,
        /// Bytes that were announced.
        expected: u64,
    },
    /// The file has another size than the one that was promised.
    #[error("has {found} bytes where {expected} are expected")]
    WrongSize {
        /// Its size.
        found: u64,
        /// The expected one.
        expected: u64,
    },
    /// The file is another one.
    #[error(
        "has SHA-256 {found} where {expected} is expected: it was changed at its source or on the way"
    )]
    WrongHash {
        /// Its hash.
        found: String,
        /// The expected one.
        expected: String,
    },
    /// There is no room.
    #[error("the disk of the cache is full")]
    DiskFull,
    /// Reading failed.
    #[error("cannot be read: {0}")]
    Read(Error),
    /// Writing failed.
    #[error("cannot be written: {0}")]
    Write(Error),
    /// The lock file is damaged.
    #[error("{}: {message}", .path.display())]
    LockFile {
        /// The lock file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

impl PullError {
    /// An error of writing to the cache.
    pub(super) fn write(error: Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::Write(error),
        }
    }

    /// Whether the next attempt may fare better.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Connection(_) | Self::Short { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            _ => false,
        }
    }
}
