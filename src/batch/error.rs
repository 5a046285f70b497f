//! What can go wrong between a submit and its reply.

use std::time::Duration;

use crate::models::ModelError;

/// Why a stage gave no output for one item. The details of a failed model are in the log, beside
/// the request id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StageError {
    /// The item's deadline passed before it was run.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// Nobody waited for the item any more when its batch was formed.
    #[error("nobody waits for the item any more")]
    Cancelled,
    /// The stage's queue is at its bound.
    #[error("the stage's queue is full")]
    QueueFull,
    /// The model failed on this item, alone in its batch.
    #[error("the model failed")]
    Failed,
    /// The model panicked on this item, alone in its batch.
    #[error("the model panicked")]
    Panicked,
    /// The device is lost, or was given up after too many panics. It stays lost.
    #[error("the device is lost")]
    DeviceLost,
    /// The executor does not run: it is shutting down, or was never started.
    #[error("the executor is shutting down")]
    ShuttingDown,
}

/// The server has taken on as much work as it may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("overloaded; room is expected in {} s", retry_after.as_secs())]
pub struct Overloaded {
    /// When there is likely to be room, from the measured drain rate.
    pub retry_after: Duration,
}

/// Driver errors after which a CUDA context is unusable; running out of memory is not among them.
const FATAL_DRIVER_ERRORS: [&str; 14] = [
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    "CUDA_ERROR_INVALID_PC",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_ASSERT",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_NVLINK_UNCORRECTABLE",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "CUDA_ERROR_DEVICE_UNAVAILABLE",
    "CUDA_ERROR_UNKNOWN",
];

/// Whether an error means that the device cannot be used any more by this process.
///
/// candle hands driver errors on as text, so this looks for the driver's own constants in it.
pub(super) fn is_device_loss(error: &ModelError) -> bool {
    let ModelError::Tensor(error) = error else { return false };
    tells_device_loss(&error.to_string())
}

/// Whether a text, e.g. a panic's, holds one of the driver's fatal constants. A driver error that
/// is unwrapped somewhere below becomes a panic, and the device is gone all the same.
pub(super) fn tells_device_loss(text: &str) -> bool {
    FATAL_DRIVER_ERRORS.iter().any(|name| text.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor_error(text: &str) -> ModelError {
        ModelError::Tensor(candle_core::Error::Msg(text.into()))
    }

    #[test]
    fn device_loss_is_told_from_ordinary_failures() {
        let lost = "DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access\")";
        assert!(is_device_loss(&tensor_error(lost)));
        assert!(!is_device_loss(&tensor_error("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"oom\")")));
        assert!(is_device_loss(&tensor_error("DriverError(CUDA_ERROR_UNKNOWN, \"unknown\")")));
        assert!(!is_device_loss(&tensor_error("shape mismatch in matmul")));
        assert!(!is_device_loss(&ModelError::Weights("CUDA_ERROR_ASSERT".into())));
    }
}
