//! What only a socket shows: large bodies, clients that go away, the drain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Response, StatusCode};
use riveg::batch::Cost;
use riveg::http::server::{Drained, ServerOptions, serve};
use riveg::pipeline::{Pipeline, PipelineOptions};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::common;
use crate::door::{Door, GatedTagger};

/// Far longer than anything here takes: only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Running {
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    done: JoinHandle<Drained>,
}

impl Running {
    pub async fn start(door: &Door) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let done =
            tokio::spawn(serve(listener, door.app.clone(), ServerOptions::default(), async {
                let _ = stopped.await;
            }));
        Self { address, stop, done }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn stop(self) -> Drained {
        self.stop.send(()).unwrap();
        self.done.await.unwrap()
    }
}

async fn assert_problem(response: Response, status: StatusCode, code: &str) {
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(response.json::<Value>().await.unwrap()["code"], code);
}

#[tokio::test]
async fn whoever_sends_too_much_reads_the_answer() {
    let door = Door::open();
    let server = Running::start(&door).await;
    let client = Client::new();
    let large = vec![b'x'; 30_000_000];
    for path in ["/v1/smner", "/v1/smner:stream", "/v1/segment", "/v1/smner:batch"] {
        let request = client.post(server.url(path)).header("content-type", "application/json");
        let response = request.body(large.clone()).send().await.unwrap();
        assert_problem(response, StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large").await;
    }
    // The connection is still good.
    let alive = client.get(server.url("/livez")).send().await.unwrap();
    assert_eq!(alive.status(), StatusCode::OK);
    drop(client);
    server.stop().await;
}

/// Clients that send everything before they read anything, as many do.
#[tokio::test]
async fn whoever_is_refused_by_the_head_may_send_on_and_read_the_answer() {
    let door = Door::loading("");
    let server = Running::start(&door).await;
    let body = vec![b'x'; 8_000_000];
    for (path, status) in [
        ("/v1/smner", "503 Service Unavailable"),
        ("/v1/segment", "503 Service Unavailable"),
        ("/v1/smner:batch", "503 Service Unavailable"),
        ("/v1/nowhere", "404 Not Found"),
        ("/v1/info", "405 Method Not Allowed"),
    ] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        let answer = answer(stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_ends_early_harms_nobody() {
    let door = Door::open();
    let server = Running::start(&door).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v1/smner HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
                content-length: 500\r\n\r\n{\"text\"";
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream);
    let alive = reqwest::get(server.url("/readyz")).await.unwrap();
    assert_eq!(alive.status(), StatusCode::OK);
    server.stop().await;
}

/// The client asks before it sends; being refused, it has nothing to send, and is answered at once.
#[tokio::test]
async fn who_asks_before_sending_too_much_is_not_told_to_continue() {
    let door = Door::open();
    let server = Running::start(&door).await;
    for path in ["/v1/smner", "/v1/nowhere"] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
             expect: 100-continue\r\ncontent-length: 30000000\r\n\r\n"
        );
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = tokio::time::timeout(PATIENCE, answer(stream)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 4"), "{path}: {answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_stalls_is_told_in_time() {
    let door = Door::patient_for(Duration::from_millis(50));
    let server = Running::start(&door).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v1/smner HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
                content-length: 500\r\n\r\n{\"text\"";
    stream.write_all(head.as_bytes()).await.unwrap();
    // Less than a drain of the body would take.
    let answer = tokio::time::timeout(Duration::from_secs(8), answer(stream)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("\"request_timeout\""), "{answer}");
    server.stop().await;
}

/// A request for a text alone, sent by hand so that its connection can be dropped.
async fn ask(address: SocketAddr, text: &str) -> TcpStream {
    let body = json!({"text": text, "options": {"task": "mner"}}).to_string();
    let head = format!(
        "POST /v1/smner HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn answer(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Waits until the pipeline is full, or no longer is.
pub async fn until_full(pipeline: &Pipeline, full: bool) {
    let waiting = async {
        while pipeline.refuse_when_full().is_err() != full {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_takes_its_work_along() {
    let tagger = Arc::new(GatedTagger::default());
    // A text costs 10. Beside one there is room for the cheapest post with a picture (50), beside
    // two there is not.
    let options = PipelineOptions { max_inflight: Cost(60), ..common::options() };
    let (door, pipeline) = Door::over(tagger.roles(), options);
    let server = Running::start(&door).await;
    let first = ask(server.address, "first").await;
    tagger.wait_for(1);
    let second = ask(server.address, "second").await;
    until_full(&pipeline, true).await;
    drop(second);
    until_full(&pipeline, false).await;
    let third = ask(server.address, "third").await;
    until_full(&pipeline, true).await;
    tagger.open();
    assert!(answer(first).await.starts_with("HTTP/1.1 200 OK"));
    assert!(answer(third).await.starts_with("HTTP/1.1 200 OK"));
    assert_eq!(tagger.seen(), ["first", "third"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_is_answered_during_the_drain() {
    let tagger = Arc::new(GatedTagger::default());
    let (door, _pipeline) = Door::over(tagger.roles(), common::options());
    let server = Running::start(&door).await;
    let address = server.address;
    let first = ask(address, "first").await;
    tagger.wait_for(1);
    door.state.drain();
    let ready = server.url("/readyz");
    let stopping = tokio::spawn(server.stop());
    // Whoever asks meanwhile hears why not.
    for _ in 0..20 {
        let refused = reqwest::get(&ready).await.unwrap();
        assert_problem(refused, StatusCode::SERVICE_UNAVAILABLE, "unavailable").await;
    }
    tagger.open();
    assert!(answer(first).await.starts_with("HTTP/1.1 200 OK"));
    assert_eq!(stopping.await.unwrap(), Drained { cut: 0 });
}
