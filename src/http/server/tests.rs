use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Extension;
use axum::body::Body;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

/// Far longer than anything here takes: only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    done: JoinHandle<Drained>,
}

impl Running {
    async fn start(app: Router, options: ServerOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let done = tokio::spawn(serve(listener, app, options, async move {
            let _ = stopped.await;
        }));
        Self { address, stop, done }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn ask(&self, path: &str) -> TcpStream {
        let mut stream = self.connect().await;
        let head = format!("GET {path} HTTP/1.1\r\nhost: riveg\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    async fn stop(self) -> Drained {
        self.stop.send(()).unwrap();
        timeout(PATIENCE, self.done).await.unwrap().unwrap()
    }
}

/// Reads until the peer closes, or until the bytes end as `end` says.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut seen = Vec::new();
    let reading = async {
        while !seen.ends_with(end.as_bytes()) || end.is_empty() {
            let mut part = [0_u8; 256];
            match stream.read(&mut part).await {
                Ok(0) | Err(_) => break,
                Ok(n) => seen.extend_from_slice(&part[..n]),
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("the peer neither closed nor answered");
    String::from_utf8(seen).unwrap()
}

fn hello() -> Router {
    Router::new().route("/", get(|| async { "hello" }))
}

/// A route that tells when it was entered and answers when it is let go.
fn held() -> (Router, Arc<Notify>, Arc<Notify>) {
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (inside, outside) = (Arc::clone(&entered), Arc::clone(&release));
    let handler = move || async move {
        inside.notify_one();
        outside.notified().await;
        "finished"
    };
    (Router::new().route("/held", get(handler)), entered, release)
}

#[tokio::test]
async fn requests_are_answered_on_a_connection_that_is_kept() {
    let server = Running::start(hello(), ServerOptions::default()).await;
    let mut stream = server.ask("/").await;
    let first = read_until(&mut stream, "hello").await;
    assert!(first.starts_with("HTTP/1.1 200 OK\r\n"), "{first}");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: riveg\r\n\r\n").await.unwrap();
    assert!(read_until(&mut stream, "hello").await.starts_with("HTTP/1.1 200 OK\r\n"));
    // An idle connection does not hold up the end.
    assert_eq!(server.stop().await, Drained { cut: 0 });
    assert_eq!(read_until(&mut stream, "").await, "");
}

#[tokio::test]
async fn http2_is_spoken_too() {
    let server = Running::start(hello(), ServerOptions::default()).await;
    let mut stream = server.connect().await;
    // The preface and an empty SETTINGS frame; the server's first frame is SETTINGS (type 4).
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut frame = [0_u8; 9];
    timeout(PATIENCE, stream.read_exact(&mut frame)).await.unwrap().unwrap();
    assert_eq!(frame[3], 4);
    drop(stream);
    server.stop().await;
}

/// The preface, SETTINGS, and a GET request for this path on stream 1.
fn http2_request(path: &str) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    // GET, http, and the path as a literal with the static table's name.
    let mut head = vec![0x82, 0x86, 0x04, path.len() as u8];
    head.extend_from_slice(path.as_bytes());
    bytes.extend_from_slice(&[0, 0, head.len() as u8, 1, 5, 0, 0, 0, 1]);
    bytes.extend_from_slice(&head);
    bytes
}

/// Sends pings and reads until the server closes the connection.
async fn ping_until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut seen = Vec::new();
    let pinging = async {
        loop {
            let mut part = [0_u8; 256];
            match timeout(Duration::from_millis(5), stream.read(&mut part)).await {
                Ok(Ok(0) | Err(_)) => break,
                Ok(Ok(n)) => seen.extend_from_slice(&part[..n]),
                Err(_elapsed) => {
                    let _ = stream.write_all(b"\0\0\x08\x06\0\0\0\0\0pingping").await;
                }
            }
        }
    };
    timeout(PATIENCE, pinging).await.expect("the server keeps the connection");
    seen
}

#[tokio::test]
async fn an_http2_connection_that_only_pings_is_closed() {
    let options = ServerOptions { idle_timeout: Duration::from_millis(50), ..Default::default() };
    let server = Running::start(hello(), options).await;
    let mut stream = server.connect().await;
    stream.write_all(&http2_request("/")).await.unwrap();
    let seen = ping_until_closed(&mut stream).await;
    assert!(seen.windows(5).any(|part| part == b"hello"));
    server.stop().await;
}

#[tokio::test]
async fn an_http2_connection_with_a_request_is_not_idle() {
    let (app, entered, release) = held();
    let options = ServerOptions { idle_timeout: Duration::from_millis(20), ..Default::default() };
    let server = Running::start(app, options).await;
    let mut stream = server.connect().await;
    stream.write_all(&http2_request("/held")).await.unwrap();
    entered.notified().await;
    sleep(Duration::from_millis(100)).await;
    release.notify_one();
    let seen = ping_until_closed(&mut stream).await;
    assert!(seen.windows(8).any(|part| part == b"finished"));
    server.stop().await;
}

/// The head of the answer comes at once, its end when the work is done.
#[tokio::test]
async fn an_http2_connection_whose_work_goes_on_behind_the_head_is_not_idle() {
    let release = Arc::new(Notify::new());
    let gate = Arc::clone(&release);
    let handler = move |Extension(busy): Extension<Busy>| async move {
        Body::from_stream(futures_util::stream::once(async move {
            gate.notified().await;
            drop(busy);
            Ok::<_, io::Error>("finished")
        }))
    };
    let options = ServerOptions { idle_timeout: Duration::from_millis(20), ..Default::default() };
    let server = Running::start(Router::new().route("/told", get(handler)), options).await;
    let mut stream = server.connect().await;
    stream.write_all(&http2_request("/told")).await.unwrap();
    sleep(Duration::from_millis(200)).await;
    release.notify_one();
    let seen = ping_until_closed(&mut stream).await;
    assert!(seen.windows(8).any(|part| part == b"finished"));
    server.stop().await;
}

#[tokio::test]
async fn whoever_does_not_read_loses_the_connection() {
    let large = axum::body::Bytes::from(vec![b'x'; 64 << 20]);
    let app = hello().route("/large", get(move || async move { large }));
    let options = ServerOptions {
        write_timeout: Duration::from_millis(50),
        max_connections: 1,
        ..Default::default()
    };
    let server = Running::start(app, options).await;
    let _deaf = server.ask("/large").await;
    let mut next = server.ask("/").await;
    assert!(read_until(&mut next, "hello").await.starts_with("HTTP/1.1 200 OK\r\n"));
    drop(next);
    assert_eq!(server.stop().await, Drained { cut: 0 });
}

#[tokio::test]
async fn slow_heads_are_cut() {
    let options = ServerOptions { header_timeout: Duration::from_millis(50), ..Default::default() };
    let server = Running::start(hello(), options).await;
    // Nothing; the start of either protocol; a head without its end.
    for start in ["", "PRI * HT", "GET / HTTP/1.1\r\nhost: riv"] {
        let mut stream = server.connect().await;
        stream.write_all(start.as_bytes()).await.unwrap();
        let answer = read_until(&mut stream, "").await;
        assert!(!answer.contains("hello"), "{start:?}: {answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn slow_answers_outlive_the_header_timeout() {
    let (app, entered, release) = held();
    let options = ServerOptions { header_timeout: Duration::from_millis(20), ..Default::default() };
    let server = Running::start(app, options).await;
    let mut stream = server.ask("/held").await;
    entered.notified().await;
    sleep(Duration::from_millis(80)).await;
    release.notify_one();
    assert!(read_until(&mut stream, "finished").await.ends_with("finished"));
    server.stop().await;
}

#[tokio::test]
async fn requests_in_flight_finish_during_the_drain_and_newcomers_are_heard() {
    let (app, entered, release) = held();
    let server = Running::start(app.merge(hello()), ServerOptions::default()).await;
    let address = server.address;
    let mut kept = server.ask("/").await;
    read_until(&mut kept, "hello").await;
    let mut stream = server.ask("/held").await;
    entered.notified().await;
    let Running { stop, done, .. } = server;
    stop.send(()).unwrap();
    // An idle connection is closed when the drain begins.
    assert_eq!(read_until(&mut kept, "").await, "");
    let mut newcomer = TcpStream::connect(address).await.unwrap();
    newcomer.write_all(b"GET / HTTP/1.1\r\nhost: riveg\r\n\r\n").await.unwrap();
    assert!(read_until(&mut newcomer, "hello").await.starts_with("HTTP/1.1 200 OK\r\n"));
    release.notify_one();
    assert!(read_until(&mut stream, "").await.ends_with("finished"));
    // The newcomer is not waited for.
    assert_eq!(timeout(PATIENCE, done).await.unwrap().unwrap(), Drained { cut: 0 });
    assert_eq!(read_until(&mut newcomer, "").await, "");
    assert!(TcpStream::connect(address).await.is_err());
}

/// Closed at once, it would look to its client like a server that broke down.
#[tokio::test]
async fn a_connection_from_before_the_drain_may_send_its_first_request() {
    let server = Running::start(hello(), ServerOptions::default()).await;
    let mut fresh = server.connect().await;
    // Connections are taken in order, so when this one is answered the first is taken, too.
    let mut kept = server.ask("/").await;
    read_until(&mut kept, "hello").await;
    let Running { stop, done, .. } = server;
    stop.send(()).unwrap();
    // An idle connection is closed when the drain begins.
    assert_eq!(read_until(&mut kept, "").await, "");
    fresh.write_all(b"GET / HTTP/1.1\r\nhost: riveg\r\n\r\n").await.unwrap();
    let answer = read_until(&mut fresh, "").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:?}");
    assert_eq!(timeout(PATIENCE, done).await.unwrap().unwrap(), Drained { cut: 0 });
}

#[tokio::test]
async fn what_does_not_finish_is_cut_and_counted() {
    let (app, entered, _never) = held();
    let options = ServerOptions { drain: Duration::from_millis(50), ..Default::default() };
    let server = Running::start(app, options).await;
    let mut stream = server.ask("/held").await;
    entered.notified().await;
    assert_eq!(server.stop().await, Drained { cut: 1 });
    assert_eq!(read_until(&mut stream, "").await, "");
}

#[tokio::test]
async fn the_cap_on_connections_holds() {
    let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, peak) = (Arc::clone(&inside), Arc::clone(&most));
    let handler = move || async move {
        peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        sleep(Duration::from_millis(5)).await;
        now.fetch_sub(1, Ordering::SeqCst);
        ([("connection", "close")], "counted")
    };
    let app = Router::new().route("/", get(handler));
    let options = ServerOptions { max_connections: 2, ..Default::default() };
    let server = Running::start(app, options).await;
    let mut clients = Vec::new();
    for _ in 0..12 {
        clients.push(server.ask("/").await);
    }
    for client in &mut clients {
        assert!(read_until(client, "").await.ends_with("counted"));
    }
    assert!((1..=2).contains(&most.load(Ordering::SeqCst)));
    server.stop().await;
}

#[tokio::test]
async fn a_panic_ends_its_own_connection_only() {
    async fn fail() -> &'static str {
        panic!("as this test wants it")
    }
    let server = Running::start(hello().route("/fail", get(fail)), ServerOptions::default()).await;
    let mut failing = server.ask("/fail").await;
    assert_eq!(read_until(&mut failing, "").await, "");
    let mut next = server.ask("/").await;
    assert!(read_until(&mut next, "hello").await.ends_with("hello"));
    assert_eq!(server.stop().await, Drained { cut: 0 });
}
