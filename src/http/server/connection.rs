//! One connection from its first byte to its end.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Version;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::patient::PatientStream;

/// How long a drain waits for the first request of a connection that is there already.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// An open connection, and what it needs.
pub(super) struct Connection {
    pub(super) stream: PatientStream,
    /// Turns true when the connection is to end with the request that it is at.
    pub(super) leave: watch::Receiver<bool>,
    pub(super) builder: Builder<TokioExecutor>,
    pub(super) app: Router,
    pub(super) header_timeout: Duration,
    pub(super) idle_timeout: Duration,
}

impl Connection {
    /// Serves the connection to its end.
    pub(super) async fn hold(mut self) {
        let usage = watch::Sender::new(Usage::default());
        let (used, mut asked) = (usage.subscribe(), usage.subscribe());
        let app = TowerToHyperService::new(self.app);
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            let running = Busy::begin(&usage, request.version());
            request.extensions_mut().insert(running.clone());
            let answer = app.call(request);
            async move {
                let answer = answer.await;
                drop(running);
                answer
            }
        });
        let connection = self.builder.serve_connection(TokioIo::new(self.stream), service);
        let mut connection = pin!(connection);
        let left = tokio::select! {
            ended = connection.as_mut() => return log_end(ended),
            // The sender stays until every connection has ended.
            _ = self.leave.wait_for(|leave| *leave) => None,
            // hyper's own timeout begins only once the protocol is known, which a silent peer can
            // put off for ever; and it does not concern HTTP/2.
            () = unused(used.clone(), self.header_timeout) => {
                tracing::debug!("a connection without a request was closed");
                return;
            }
            () = idle(used, self.idle_timeout) => Some(self.idle_timeout),
        };
        if left.is_none() && !asked.borrow().asked {
            // Its first request may be on its way: it came before the door was closed.
            tokio::select! {
                ended = connection.as_mut() => return log_end(ended),
                _ = asked.wait_for(|usage| usage.asked) => {}
                () = sleep(FIRST_REQUEST.min(self.header_timeout)) => {}
            }
        }
        connection.as_mut().graceful_shutdown();
        match left {
            None => log_end(connection.await),
            // Answers may still be on their way to a slow peer.
            Some(patience) => match timeout(patience, connection).await {
                Ok(ended) => log_end(ended),
                Err(_elapsed) => tracing::debug!("an idle connection was closed"),
            },
        }
    }
}

fn log_end(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended badly");
    }
}

/// What a connection has been used for.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    /// Whether any request came.
    asked: bool,
    /// Whether it speaks HTTP/2, in which hyper has no timeout for idle connections of its own.
    http2: bool,
    /// Requests that are being worked on.
    running: usize,
}

/// Keeps a connection from counting as idle until its last clone is dropped. In the extensions of
/// every request, for handlers whose work goes on behind the head of their answer.
#[derive(Clone)]
pub struct Busy {
    _running: Arc<Running>,
}

impl Busy {
    fn begin(usage: &watch::Sender<Usage>, version: Version) -> Self {
        usage.send_modify(|usage| {
            usage.asked = true;
            usage.http2 = version == Version::HTTP_2;
            usage.running += 1;
        });
        Self { _running: Arc::new(Running(usage.clone())) }
    }
}

/// A request that is being worked on; over when dropped.
struct Running(watch::Sender<Usage>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|usage| usage.running -= 1);
    }
}

/// Resolves where no request came within `limit`.
async fn unused(mut usage: watch::Receiver<Usage>, limit: Duration) {
    let in_time = timeout(limit, usage.wait_for(|usage| usage.asked)).await.is_ok();
    if in_time {
        std::future::pending().await
    }
}

/// Resolves once an HTTP/2 connection had no request for `limit`.
async fn idle(mut usage: watch::Receiver<Usage>, limit: Duration) {
    loop {
        let is_idle = |usage: &Usage| usage.http2 && usage.running == 0;
        if usage.wait_for(is_idle).await.is_err() {
            // The connection holds the sender; without it, it ends by itself.
            std::future::pending().await
        }
        tokio::select! {
            _ = usage.changed() => {}
            () = sleep(limit) => return,
        }
    }
}
