//! Answers told piece by piece.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use riveg::batch::Cost;
use riveg::http::server::Drained;
use riveg::models::{EntailInput, Entailer, Entailment, ModelError, ModelInfo, Result};
use riveg::pipeline::{PipelineOptions, Roles};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::ServiceExt;

use crate::common::{self, StubEntailer};
use crate::door::{Door, GatedTagger, Response, form, png, post};
use crate::sockets::{PATIENCE, Running, until_full};

const ROUTE: &str = "/v1/smner:stream";

/// A text with an entity that is shown, one that is not, and one for which there is no box.
const MIXED: &str = "Federer, Absent Nowhere Ada";

/// One event, its data still as text.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    name: String,
    data: String,
}

impl Event {
    fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap()
    }
}

/// The events of a stream; comments are left out.
fn events(body: &str) -> Vec<Event> {
    assert!(body.ends_with("\n\n"), "{body:?}");
    let blocks = body.split("\n\n").filter(|block| !block.is_empty() && !block.starts_with(':'));
    let field = |line: Option<&str>, name: &str| {
        let line = line.unwrap_or_else(|| panic!("no {name}: {body:?}"));
        line.strip_prefix(name).unwrap_or_else(|| panic!("{line:?}")).to_owned()
    };
    let event = |block: &str| {
        let mut lines = block.lines();
        let event =
            Event { name: field(lines.next(), "event: "), data: field(lines.next(), "data: ") };
        assert_eq!(lines.next(), None);
        event
    };
    blocks.map(event).collect()
}

fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.name.as_str()).collect()
}

fn told(response: &Response) -> Vec<Event> {
    let body = std::str::from_utf8(&response.body).unwrap();
    assert_eq!((response.status, response.header("content-type")), (200, "text/event-stream"));
    events(body)
}

async fn tell(door: &Door, text: &str, options: Value) -> Vec<Event> {
    told(&door.post_json(ROUTE, &post(text, options)).await)
}

/// The answer's text without the times, which come last.
fn timeless(answer: &str) -> &str {
    answer.split_once("\"timings_ms\"").unwrap().0
}

/// What the events before the last one say, put together as the whole answer's entities.
fn put_together(events: &[Event]) -> Value {
    let mut entities = events[0].json()["entities"].clone();
    for entity in entities.as_array_mut().unwrap() {
        for later in ["groundable", "entailment_score", "box", "box_score", "mask", "mask_score"] {
            entity[later] = Value::Null;
        }
    }
    for event in &events[1..events.len() - 1] {
        for found in event.json()["entities"].as_array().unwrap() {
            let entity = &mut entities[found["index"].as_u64().unwrap() as usize];
            for (name, value) in found.as_object().unwrap().iter().filter(|(n, _)| *n != "index") {
                entity[name] = value.clone();
            }
        }
    }
    entities
}

#[tokio::test]
async fn the_pieces_come_in_order_and_make_up_the_answer() {
    let door = Door::open();
    let server = Running::start(&door).await;
    let client = reqwest::Client::new();
    for mask_format in ["rle", "rle_counts", "polygon", "png"] {
        let mut body = post(MIXED, json!({"mask_format": mask_format}));
        body["id"] = json!("my own");
        let ask = |path| client.post(server.url(path)).json(&body).send();
        let response = ask(ROUTE).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-cache");
        let events = events(&response.text().await.unwrap());
        let expected = ["recognized", "entailed", "grounded", "segmented", "done"];
        assert_eq!(names(&events), expected);
        let ordinary = ask("/v1/smner").await.unwrap().text().await.unwrap();
        assert_eq!(timeless(&events[4].data), timeless(&ordinary));
        let done = events[4].json();
        assert!(done["timings_ms"]["total"].is_number(), "{done}");
        let recognized = events[0].json();
        for member in ["id", "pack", "image"] {
            assert_eq!(recognized[member], done[member], "{member}");
        }
        let mut pieces = put_together(&events);
        // Said to be shown before it was known that there is no box.
        assert_eq!(
            (&pieces[2]["text"], &pieces[2]["groundable"]),
            (&json!("Nowhere"), &json!(true))
        );
        pieces[2]["groundable"] = json!(false);
        assert_eq!(pieces, done["entities"]);
    }
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn what_each_piece_carries() {
    let door = Door::open();
    let events = tell(&door, MIXED, json!({"min_mask_score": 0.95})).await;
    let indices = |event: &Event| -> Vec<u64> {
        let entities = event.json()["entities"].clone();
        entities.as_array().unwrap().iter().map(|e| e["index"].as_u64().unwrap()).collect()
    };
    assert_eq!(
        events[0].json()["entities"][0],
        json!({
            "text": "Federer,", "type": "PER", "start": 0, "end": 8, "score": 0.9,
            "fine_type": null, "expression": "Federer, (PER)-a person",
        })
    );
    assert_eq!(indices(&events[1]), [0, 1, 2, 3]);
    let absent = json!({"index": 1, "groundable": false, "entailment_score": 0.1});
    assert_eq!(events[1].json()["entities"][1], absent);
    assert_eq!(indices(&events[2]), [0, 2, 3]);
    let nowhere = json!({"index": 2, "box": null, "box_score": null});
    assert_eq!(events[2].json()["entities"][1], nowhere);
    // Masks under the caller's minimum have a score only.
    let masks = json!([
        {"index": 0, "mask": null, "mask_score": 0.9},
        {"index": 3, "mask": null, "mask_score": 0.9},
    ]);
    assert_eq!(events[3].json()["entities"], masks);
}

#[tokio::test]
async fn pieces_that_have_nothing_to_say_are_left_out() {
    let door = Door::open();
    for (text, task, steps) in [
        ("nothing here", "smner", &["recognized", "done"][..]),
        ("Ada", "mner", &["recognized", "done"]),
        ("Absent", "smner", &["recognized", "entailed", "done"]),
        ("Nowhere", "smner", &["recognized", "entailed", "grounded", "done"]),
        ("Ada", "gmner", &["recognized", "entailed", "grounded", "done"]),
    ] {
        let events = tell(&door, text, json!({"task": task})).await;
        assert_eq!(names(&events), steps, "{text}");
        let ordinary = door.smner(text, json!({"task": task})).await.ok();
        assert_eq!(events.last().unwrap().json()["entities"], ordinary["entities"], "{text}");
    }
}

#[tokio::test]
async fn a_form_and_a_text_alone_are_told_too() {
    let door = Door::open();
    let (kind, body) = form(&[("text", b"Ada"), ("image", &png(200, 100))]);
    let events = told(&door.post(ROUTE, &kind, body).await);
    assert_eq!(events.last().unwrap().json()["entities"][0]["text"], "Ada");
    let text = json!({"text": "Ada", "options": {"task": "mner"}});
    let events = told(&door.post_json(ROUTE, &text).await);
    assert_eq!(events[0].json()["image"], Value::Null);
}

#[tokio::test]
async fn what_is_refused_before_it_begins_is_an_ordinary_problem() {
    let door = Door::open();
    let json = "application/json";
    door.post(ROUTE, json, "{").await.problem(400, "malformed_request");
    door.post(ROUTE, json, "x".repeat(100_001)).await.problem(413, "payload_too_large");
    door.post(ROUTE, "text/plain", "Ada").await.problem(415, "unsupported_media_type");
    door.post_json(ROUTE, &post(" ", json!({}))).await.problem(422, "invalid_input");
    let mut damaged = post("Ada", json!({}));
    damaged["image"]["data"] = json!("bm90IGEgcGljdHVyZQ==");
    door.post_json(ROUTE, &damaged).await.problem(415, "unsupported_media_type");
    let mut large = post("Ada", json!({}));
    large["image"] = crate::door::inline(&png(401, 1));
    door.post_json(ROUTE, &large).await.problem(413, "payload_too_large");
    door.get(ROUTE).await.problem(405, "method_not_allowed");
    let loading = Door::loading("");
    loading.post_json(ROUTE, &post("Ada", json!({}))).await.problem(503, "unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_refuses_before_it_begins() {
    let tagger = Arc::new(GatedTagger::default());
    let options = PipelineOptions { max_inflight: Cost(60), ..common::options() };
    let (door, pipeline) = Door::over(tagger.roles(), options);
    let response = begin(&door, "first").await;
    tagger.wait_for(1);
    door.post_json(ROUTE, &post("second", json!({}))).await.problem(429, "overloaded");
    tagger.open();
    response.into_body().collect().await.unwrap();
    until_full(&pipeline, false).await;
}

/// The last event, where it is an error, checked against everything that a problem promises.
#[track_caller]
fn failure(response: &Response, status: u16, code: &str) -> String {
    let events = told(response);
    let last = events.last().unwrap();
    let problem = last.json();
    assert_eq!((last.name.as_str(), &problem["code"]), ("error", &json!(code)), "{problem}");
    assert_eq!(problem["status"], status);
    assert_eq!(problem["type"], format!("urn:riveg:problem:{code}"));
    assert_eq!(problem["instance"], response.header("x-request-id"));
    assert_eq!(events.iter().filter(|event| event.name == "error").count(), 1);
    problem["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_fails_on_the_way_is_told_as_the_last_event() {
    let door = Door::open();
    for text in ["!fail", "!panic"] {
        let response = door.post_json(ROUTE, &post(text, json!({}))).await;
        failure(&response, 500, "internal");
        // In the same words as on the ordinary route.
        let ordinary = door.smner(text, json!({})).await.problem(500, "internal");
        assert_eq!(failure(&response, 500, "internal"), ordinary);
    }
    let response = door.post_json(ROUTE, &post(&"A ".repeat(25), json!({}))).await;
    assert_eq!(failure(&response, 422, "invalid_input"), "25 entities, and at most 20 are allowed");
}

/// Fails whatever it is asked.
struct FailingEntailer;

impl Entailer for FailingEntailer {
    fn entail(&self, _inputs: &[EntailInput]) -> Result<Vec<Entailment>> {
        Err(ModelError::NotFinite("as this test wants it"))
    }

    fn picture_cost(&self) -> u64 {
        StubEntailer.picture_cost()
    }

    fn cost(&self, expression: &str, description: Option<&str>) -> u64 {
        StubEntailer.cost(expression, description)
    }

    fn info(&self) -> ModelInfo {
        StubEntailer.info()
    }
}

#[tokio::test]
async fn what_was_known_before_a_failure_was_told() {
    let roles = Roles { entailer: Arc::new(FailingEntailer), ..common::roles() };
    let (door, _pipeline) = Door::over(roles, common::options());
    let response = door.post_json(ROUTE, &post("Ada", json!({}))).await;
    failure(&response, 500, "internal");
    assert_eq!(names(&told(&response)), ["recognized", "error"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_holds_for_streams() {
    let tagger = Arc::new(GatedTagger::default());
    let (door, pipeline) = Door::over(tagger.roles(), common::options());
    // The first keeps the device busy; the second's time passes in the queue.
    let first = begin(&door, "first").await;
    tagger.wait_for(1);
    let late = post("second", json!({"timeout_ms": 20}));
    let late = door.app.clone().oneshot(request(&late)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(40)).await;
    tagger.open();
    let body = late.into_body().collect().await.unwrap().to_bytes();
    let events = events(std::str::from_utf8(&body).unwrap());
    assert_eq!(names(&events), ["error"]);
    assert_eq!(events[0].json()["code"], "deadline_exceeded");
    assert_eq!(tagger.seen(), ["first"]);
    drop((first, pipeline));
}

fn request(body: &Value) -> Request<Body> {
    let request = Request::post(ROUTE).header("content-type", "application/json");
    request.body(Body::from(body.to_string())).unwrap()
}

/// Begins a stream for a text alone and returns with its head; nobody reads its body yet.
async fn begin(door: &Door, text: &str) -> axum::response::Response {
    let body = json!({"text": text, "options": {"task": "mner"}});
    let response = door.app.clone().oneshot(request(&body)).await.unwrap();
    assert_eq!(response.status(), 200);
    response
}

#[tokio::test]
async fn nobody_waits_for_a_client_that_does_not_read() {
    // Room for one post (105) at a time.
    let options = PipelineOptions { max_inflight: Cost(150), ..common::options() };
    let (door, pipeline) = Door::over(common::roles(), options);
    let mut unread = Vec::new();
    for _ in 0..3 {
        let body = post("Federer", json!({}));
        let response = door.app.clone().oneshot(request(&body)).await.unwrap();
        assert_eq!(response.status(), 200);
        // The work is done and its room given back although nobody took anything up.
        until_full(&pipeline, false).await;
        unread.push(response);
    }
    assert_eq!(door.smner("Ada", json!({})).await.status, 200);
    // What was told waits to be read.
    for response in unread {
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let events = events(std::str::from_utf8(&body).unwrap());
        assert_eq!(names(&events), ["recognized", "entailed", "grounded", "segmented", "done"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn comments_keep_a_quiet_connection_alive() {
    let tagger = Arc::new(GatedTagger::default());
    let (door, _pipeline) = Door::over(tagger.roles(), common::options());
    let mut body = begin(&door, "first").await.into_body();
    for _ in 0..2 {
        let comment = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(comment.starts_with(b":") && comment.ends_with(b"\n\n"), "{comment:?}");
    }
    tagger.open();
    let rest = body.collect().await.unwrap().to_bytes();
    let events = events(std::str::from_utf8(&rest).unwrap());
    assert_eq!(names(&events), ["recognized", "done"]);
}

/// A stream for a text alone, asked for by hand so that its connection can be dropped; returns
/// once its head has come.
async fn ask(server: &Running, text: &str) -> TcpStream {
    let body = json!({"text": text, "options": {"task": "mner"}}).to_string();
    let head = format!(
        "POST {ROUTE} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    stream
}

async fn rest(mut stream: TcpStream) -> String {
    let mut rest = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut rest)).await.unwrap().unwrap();
    rest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_takes_its_work_along() {
    let tagger = Arc::new(GatedTagger::default());
    // A text costs 10. Beside one there is room for the cheapest post with a picture (50), beside
    // two there is not.
    let options = PipelineOptions { max_inflight: Cost(60), ..common::options() };
    let (door, pipeline) = Door::over(tagger.roles(), options);
    let server = Running::start(&door).await;
    let first = ask(&server, "first").await;
    tagger.wait_for(1);
    let second = ask(&server, "second").await;
    until_full(&pipeline, true).await;
    drop(second);
    until_full(&pipeline, false).await;
    let third = ask(&server, "third").await;
    until_full(&pipeline, true).await;
    tagger.open();
    assert!(rest(first).await.contains("event: done"));
    assert!(rest(third).await.contains("event: done"));
    assert_eq!(tagger.seen(), ["first", "third"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_under_way_is_told_to_its_end_during_the_drain() {
    let tagger = Arc::new(GatedTagger::default());
    let (door, _pipeline) = Door::over(tagger.roles(), common::options());
    let server = Running::start(&door).await;
    let stream = ask(&server, "first").await;
    tagger.wait_for(1);
    door.state.drain();
    let refused = door.post_json(ROUTE, &post("second", json!({}))).await;
    refused.problem(503, "unavailable");
    let stopping = tokio::spawn(server.stop());
    tagger.open();
    assert!(rest(stream).await.contains("event: done"));
    assert_eq!(stopping.await.unwrap(), Drained { cut: 0 });
}
