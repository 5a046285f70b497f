//! Whether the executor lives: what readiness asks.

use tokio::sync::watch;

/// The executor's state. `DeviceLost` and `Stopped` are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthState {
    /// Batches are run.
    Running,
    /// The device is lost, or was given up after too many panics: everything is refused, and the
    /// process should end with a failure.
    DeviceLost {
        /// What happened, fit for clients.
        reason: &'static str,
    },
    /// Shut down in good order.
    Stopped,
}

/// A view of the executor's state; cloning is cheap.
#[derive(Debug, Clone)]
pub struct Health {
    state: watch::Receiver<HealthState>,
}

impl Health {
    pub(super) fn new(state: watch::Receiver<HealthState>) -> Self {
        Self { state }
    }

    /// The state now.
    pub fn state(&self) -> HealthState {
        *self.state.borrow()
    }

    /// Whether work is taken on.
    pub fn is_running(&self) -> bool {
        self.state() == HealthState::Running
    }

    /// Waits until the executor has ended, one way or the other, and says which.
    pub async fn ended(&self) -> HealthState {
        let mut state = self.state.clone();
        match state.wait_for(|state| *state != HealthState::Running).await {
            Ok(state) => *state,
            // The executor sets a final state before it lets go of the sender.
            Err(_) => HealthState::Stopped,
        }
    }
}
