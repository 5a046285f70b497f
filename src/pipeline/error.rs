//! What can go wrong on the way to an answer.

use std::time::Duration;

use crate::batch::{Overloaded, StageError};

/// A queue at its bound empties at the pace of whole batches; a second is a few of them.
const QUEUE_FULL_RETRY: Duration = Duration::from_secs(1);

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PipelineError {
    /// Too much work is in flight: the request was not let in, or, where a later stage's queue was
    /// full, given up halfway.
    #[error("too much work in flight")]
    Overloaded {
        /// When a new attempt is likely to be admitted.
        retry_after: Duration,
    },
    /// The deadline passed.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// The text has more entities than one request may have.
    #[error("{found} entities, and at most {limit} are allowed")]
    TooManyEntities {
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The device is lost, or the process is shutting down.
    #[error("unavailable: {reason}")]
    Unavailable {
        /// Which of the two.
        reason: &'static str,
    },
    /// A network failed; the details are in the log.
    #[error("a network failed")]
    Internal,
}

impl From<StageError> for PipelineError {
    fn from(error: StageError) -> Self {
        match error {
            StageError::DeadlineExceeded => Self::DeadlineExceeded,
            StageError::DeviceLost => Self::Unavailable { reason: "the device is lost" },
            StageError::ShuttingDown => Self::Unavailable { reason: "shutting down" },
            StageError::QueueFull => Self::Overloaded { retry_after: QUEUE_FULL_RETRY },
            StageError::Cancelled | StageError::Failed | StageError::Panicked => Self::Internal,
        }
    }
}

impl From<Overloaded> for PipelineError {
    fn from(Overloaded { retry_after }: Overloaded) -> Self {
        Self::Overloaded { retry_after }
    }
}
