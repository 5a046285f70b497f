//! The accept loop: how connections come in, how many, and how they end.
//!
//! | file | what lives there |
//! |---|---|
//! | `connection` | one connection from its first byte to its end |
//! | `patient` | a stream whose peer has to read |
//!
//! `axum::serve` has neither a deadline for a request's head nor a bound on open connections, and
//! waits for the last connection of a drain however long it takes; a server on the open network
//! needs all three, so this loop drives hyper itself.

mod connection;
mod patient;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};

pub use connection::Busy;
use connection::Connection;
use patient::PatientStream;

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
    /// A peer that takes up nothing of an answer for this long is cut off.
    pub write_timeout: Duration,
    /// An HTTP/2 connection without a request for this long is told to end, and after as long again
    /// is cut; its pings do not count.
    pub idle_timeout: Duration,
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
            write_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
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

/// Serves `app` on `listener` until `shutdown` resolves. From then on the connections of before end
/// with the request that they are at, for which there is at most [`ServerOptions::drain`]; meanwhile
/// newcomers are still let in, so that they hear from `app` why it refuses them. What is left then
/// is cut.
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
    let door = Door { listener, slots, builder: builder(&options), app, options };
    let mut guests = Guests::new();
    door.let_in(&mut guests, shutdown).await;
    let end = Instant::now() + door.options.drain;
    let mut newcomers = Guests::new();
    guests.tell_to_leave();
    let _ = timeout_at(end, door.let_in(&mut newcomers, guests.all_gone())).await;
    // No more newcomers: what comes now is refused by the system.
    drop(door);
    newcomers.tell_to_leave();
    let _ = timeout_at(end, newcomers.all_gone()).await;
    Drained { cut: guests.cut().await + newcomers.cut().await }
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

/// Where connections come in.
struct Door {
    listener: TcpListener,
    slots: Arc<Semaphore>,
    builder: Builder<TokioExecutor>,
    app: Router,
    options: ServerOptions,
}

impl Door {
    /// Lets connections in until `end` resolves.
    async fn let_in(&self, guests: &mut Guests, end: impl Future<Output = ()>) {
        let mut end = pin!(end);
        loop {
            tokio::select! {
                biased;
                () = &mut end => return,
                Some(ended) = guests.connections.join_next() => log_panic(ended),
                accepted = self.accept() => match accepted {
                    Ok(Some((stream, slot))) => {
                        let connection = self.connection(stream, guests.leave.subscribe());
                        guests.connections.spawn(async move {
                            connection.hold().await;
                            drop(slot);
                        });
                    }
                    Ok(None) => return,
                    Err(error) => pause_after(&error).await,
                },
            }
        }
    }

    /// Waits for a free slot, then for a connection: a full server leaves newcomers in the kernel's
    /// queue, where they cost it nothing. `None` when the slots are closed, which nothing here does.
    async fn accept(&self) -> io::Result<Option<(TcpStream, OwnedSemaphorePermit)>> {
        let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else { return Ok(None) };
        let (stream, peer) = self.listener.accept().await?;
        set_nodelay(&stream, peer);
        Ok(Some((stream, slot)))
    }

    fn connection(&self, stream: TcpStream, leave: watch::Receiver<bool>) -> Connection {
        Connection {
            stream: PatientStream::new(stream, self.options.write_timeout),
            leave,
            builder: self.builder.clone(),
            app: self.app.clone(),
            header_timeout: self.options.header_timeout,
            idle_timeout: self.options.idle_timeout,
        }
    }
}

/// Connections that are open, and how they are told to end.
struct Guests {
    connections: JoinSet<()>,
    leave: watch::Sender<bool>,
}

impl Guests {
    fn new() -> Self {
        Self { connections: JoinSet::new(), leave: watch::Sender::new(false) }
    }

    /// Each may finish the request that it is at.
    fn tell_to_leave(&self) {
        self.leave.send_replace(true);
    }

    async fn all_gone(&mut self) {
        while let Some(ended) = self.connections.join_next().await {
            log_panic(ended);
        }
    }

    /// Ends those that are still there, and says how many they were. Those that ended by themselves
    /// at the last moment are not counted.
    async fn cut(mut self) -> usize {
        while let Some(ended) = self.connections.try_join_next() {
            log_panic(ended);
        }
        let left = self.connections.len();
        self.connections.shutdown().await;
        left
    }
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task failed");
    }
}

#[cfg(test)]
mod tests;
