//! The accept loop: how connections come in, how many, and how they end.
//!
//! `axum::serve` has neither a deadline for a request's head nor a bound on open connections, and
//! waits for the last connection of a drain however long it takes; a server on the open network
//! needs all three, so this loop drives hyper itself.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};

/// How long to leave `accept` alone after an error of the process (no file descriptors left,
/// say): those pass when connections close, not by asking again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Streams that one HTTP/2 connection may have open at a time.
const MAX_STREAMS: u32 = 64;

/// How connections are treated.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// A request's head must be complete this long after the connection was opened, or, on a
    /// connection that is kept alive, after the answer before it. It is thus also how long an idle
    /// HTTP/1 connection is kept.
    pub header_timeout: Duration,
    /// HTTP/2 connections are pinged this often.
    pub keep_alive_interval: Duration,
    /// An HTTP/2 connection whose ping is not answered within this time is closed.
    pub keep_alive_timeout: Duration,
    /// Connections open at a time. Further ones wait in the kernel's queue.
    pub max_connections: usize,
    /// How long requests in flight may go on after the shutdown was asked for.
    pub drain: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(15),
            keep_alive_interval: Duration::from_secs(20),
            keep_alive_timeout: Duration::from_secs(20),
            max_connections: 1024,
            drain: Duration::from_secs(30),
        }
    }
}

/// How a drain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still busy when the time was over, and were cut.
    pub cut: usize,
}

/// Serves `app` on `listener` until `shutdown` resolves; then stops accepting, lets the requests
/// in flight finish for at most [`ServerOptions::drain`], and cuts what is left.
///
/// Never fails: errors of `accept` are logged and waited out, errors and panics of a connection
/// end that connection alone.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    options: ServerOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> Drained {
    let slots = Arc::new(Semaphore::new(options.max_connections.min(Semaphore::MAX_PERMITS)));
    let door = Door { builder: builder(&options), app, header_timeout: options.header_timeout };
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => log_panic(ended),
            accepted = accept(&listener, &slots) => match accepted {
                Ok(Some((stream, slot))) => {
                    let connection = door.clone().hold(stream, graceful.watcher());
                    connections.spawn(async move {
                        connection.await;
                        drop(slot);
                    });
                }
                Ok(None) => break,
                Err(error) => pause_after(&error).await,
            },
        }
    }
    drop(listener);
    drain(connections, graceful, options.drain).await
}

/// Resolves at SIGTERM (what orchestrators send) or ctrl-c, whichever is first.
///
/// Where a handler cannot be installed, that signal keeps its default action, which ends the
/// process.
pub async fn shutdown_signal() {
    tokio::select! {
        () = interrupt() => {}
        () = terminate() => {}
    }
}

async fn interrupt() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        tracing::warn!(%error, "ctrl-c ends the process without a drain");
        std::future::pending::<()>().await;
    }
}

#[cfg(unix)]
async fn terminate() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut stream) => {
            stream.recv().await;
        }
        Err(error) => {
            tracing::warn!(%error, "SIGTERM ends the process without a drain");
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(not(unix))]
async fn terminate() {
    std::future::pending::<()>().await;
}

fn builder(options: &ServerOptions) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(options.header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(options.keep_alive_interval)
        .keep_alive_timeout(options.keep_alive_timeout);
    builder
}

/// Waits for a free slot, then for a connection: a full server leaves newcomers in the kernel's
/// queue, where they cost it nothing. `None` when the slots are closed, which nothing here does.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<Option<(TcpStream, OwnedSemaphorePermit)>> {
    let Ok(slot) = Arc::clone(slots).acquire_owned().await else { return Ok(None) };
    let (stream, peer) = listener.accept().await?;
    set_nodelay(&stream, peer);
    Ok(Some((stream, slot)))
}

/// Answers are written whole, so waiting to fill packets would only delay their last one.
fn set_nodelay(stream: &TcpStream, peer: SocketAddr) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "no TCP_NODELAY");
    }
}

async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    // These concern a peer that has gone already; the next one need not wait.
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
    {
        return;
    }
    tracing::error!(%error, "cannot accept connections");
    sleep(ACCEPT_PAUSE).await;
}

/// What every connection needs.
#[derive(Clone)]
struct Door {
    builder: Builder<TokioExecutor>,
    app: Router,
    header_timeout: Duration,
}

impl Door {
    /// Serves one connection to its end.
    async fn hold(self, stream: TcpStream, watcher: Watcher) {
        let asked = Arc::new(AtomicBool::new(false));
        let mark = Arc::clone(&asked);
        let app = TowerToHyperService::new(self.app);
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            mark.store(true, Ordering::Relaxed);
            app.call(request)
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(watcher.watch(connection));
        // hyper's own timeout begins only once the protocol is known, which a silent peer can put
        // off for ever; and it does not concern HTTP/2.
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = sleep(self.header_timeout) => {
                if !asked.load(Ordering::Relaxed) {
                    tracing::debug!("a connection without a request was closed");
                    return;
                }
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error = %error, "a connection ended badly");
        }
    }
}

async fn drain(
    mut connections: JoinSet<()>,
    graceful: GracefulShutdown,
    limit: Duration,
) -> Drained {
    let all_ended = async {
        graceful.shutdown().await;
        while let Some(ended) = connections.join_next().await {
            log_panic(ended);
        }
    };
    let in_time = timeout(limit, all_ended).await.is_ok();
    // Those that ended by themselves at the last moment are not cut.
    while let Some(ended) = connections.try_join_next() {
        log_panic(ended);
    }
    let cut = if in_time { 0 } else { connections.len() };
    connections.shutdown().await;
    Drained { cut }
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task failed");
    }
}

#[cfg(test)]
mod tests;
