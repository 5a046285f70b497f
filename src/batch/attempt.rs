//! One guarded run of a model, and the count of its panics.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::BatchModel;
use super::error::{is_device_loss, tells_device_loss};
use crate::models::ModelError;

/// Why a batch gave no outputs.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The model said so.
    #[error(transparent)]
    Model(ModelError),
    /// The model said so or panicked over it: the device is gone.
    #[error("device lost: {0}")]
    DeviceLost(String),
    /// The model panicked.
    #[error("panic: {0}")]
    Panicked(String),
    /// The model broke its contract.
    #[error("{outputs} outputs for {inputs} inputs")]
    WrongCount { inputs: usize, outputs: usize },
}

/// Runs a batch; a panic becomes a [`Failure`].
pub(super) fn attempt<I: Send + 'static, O: Send + 'static>(
    model: &dyn BatchModel<Input = I, Output = O>,
    inputs: &[I],
) -> Result<Vec<O>, Failure> {
    // A model's weights do not change while it runs, so a panic leaves nothing half-written that a
    // later batch could see.
    match catch_unwind(AssertUnwindSafe(|| model.run(inputs))) {
        Ok(Ok(outputs)) if outputs.len() == inputs.len() => Ok(outputs),
        Ok(Ok(outputs)) => {
            Err(Failure::WrongCount { inputs: inputs.len(), outputs: outputs.len() })
        }
        Ok(Err(error)) if is_device_loss(&error) => Err(Failure::DeviceLost(error.to_string())),
        Ok(Err(error)) => Err(Failure::Model(error)),
        Err(payload) => Err(of_panic(panic_text(payload.as_ref()))),
    }
}

fn of_panic(text: String) -> Failure {
    match tells_device_loss(&text) {
        true => Failure::DeviceLost(text),
        false => Failure::Panicked(text),
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let literal = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    literal
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

/// How many panics are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PanicLimit {
    /// The device is given up when this many dispatches in a row panicked …
    pub count: usize,
    /// … within this time.
    pub window: Duration,
}

impl Default for PanicLimit {
    /// 10 within a minute, and nothing that went well in between: a broken device gets there. One
    /// bad request alone does not, nor does a client that repeats it beside others that are served.
    fn default() -> Self {
        Self { count: 10, window: Duration::from_secs(60) }
    }
}

/// The latest panics since something went well.
#[derive(Debug)]
pub(super) struct PanicWindow {
    limit: PanicLimit,
    times: VecDeque<Instant>,
}

impl PanicWindow {
    pub(super) fn new(limit: PanicLimit) -> Self {
        Self { limit, times: VecDeque::new() }
    }

    /// Notes a dispatch that panicked; true when that was one too many.
    pub(super) fn note(&mut self, now: Instant) -> bool {
        self.times.push_back(now);
        let window = self.limit.window;
        while self.times.front().is_some_and(|&at| now.saturating_duration_since(at) > window) {
            self.times.pop_front();
        }
        self.times.len() >= self.limit.count
    }

    /// Notes that something ran well: the device works, whatever panicked before.
    pub(super) fn clear(&mut self) {
        self.times.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_panics_are_forgotten() {
        let limit = PanicLimit { count: 3, window: Duration::from_secs(10) };
        let mut window = PanicWindow::new(limit);
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(!window.note(after(0)));
        assert!(!window.note(after(1)));
        assert!(!window.note(after(12)), "the first two are out of the window");
        assert!(!window.note(after(13)));
        assert!(window.note(after(22)));
        window.clear();
        assert!(!window.note(after(22)));
    }

    #[test]
    fn device_loss_is_found_in_a_panic() {
        let text = "called `Result::unwrap()` on an `Err` value: DriverError(CUDA_ERROR_ASSERT)";
        assert!(matches!(of_panic(text.into()), Failure::DeviceLost(_)));
        assert!(matches!(of_panic("index out of bounds".into()), Failure::Panicked(_)));
    }
}
