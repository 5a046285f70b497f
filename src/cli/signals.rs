//! The signals that ask the process to end.

use std::io;

/// Waits for SIGTERM (what orchestrators send) and ctrl-c. From its making on no signal is lost:
/// one that comes while nobody waits is there for the next who does.
pub struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// Takes the signals' default action, which is to end the process at once, away.
    ///
    /// # Errors
    /// When the system does not let a handler be installed.
    pub fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The next signal.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    /// Nothing to prepare here.
    ///
    /// # Errors
    /// Never.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {})
    }

    /// The next ctrl-c.
    pub async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_signal_that_comes_while_nobody_waits_is_not_lost() {
        let mut signals = Signals::listen().unwrap();
        assert!(timeout(Duration::from_millis(10), signals.next()).await.is_err());
        let own = std::process::id().to_string();
        let kill = std::process::Command::new("kill").args(["-TERM", &own]).status();
        assert!(kill.unwrap().success());
        tokio::time::sleep(Duration::from_millis(10)).await;
        timeout(Duration::from_secs(60), signals.next()).await.unwrap();
        assert!(timeout(Duration::from_millis(10), signals.next()).await.is_err(), "once only");
    }
}
