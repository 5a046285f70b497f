//! What ill-formed requests get: the code and status of the contract, and words of our own.

use axum::body::Body;
use axum::http::{Method, Request};
use riveg::batch::Cost;
use riveg::pipeline::PipelineOptions;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::common;
use crate::door::{Door, GatedTagger, Response, form, inline, png, post};

/// Sends a body, checks that it is an illegal value, and returns the detail.
async fn illegal(door: &Door, path: &str, body: &Value) -> String {
    door.post_json(path, body).await.problem(422, "invalid_input")
}

#[tokio::test]
async fn texts_must_be_there_and_short() {
    let door = Door::open();
    for text in ["", " \n\t ", "\u{2003}"] {
        let detail = illegal(&door, "/v1/smner", &post(text, json!({}))).await;
        assert_eq!(detail, "`text` is empty");
    }
    // Code points, not bytes.
    assert_eq!(door.smner(&"ů".repeat(60), json!({})).await.status, 200);
    let detail = illegal(&door, "/v1/smner", &post(&"ů".repeat(61), json!({}))).await;
    assert_eq!(detail, "`text` has 61 code points, and at most 60 are allowed");
    let detail = illegal(&door, "/v1/smner", &json!({"image": inline(&png(1, 1))})).await;
    assert!(detail.contains("missing field `text`"), "{detail}");
}

#[tokio::test]
async fn options_must_be_legal() {
    let door = Door::open();
    let entity = |start: i64, end: i64| json!({"start": start, "end": end, "type": "PER"});
    let long = "z".repeat(61);
    for (options, place) in [
        (json!({"entailment_threshold": 1.5}), "entailment_threshold"),
        (json!({"min_mask_score": -0.1}), "min_mask_score"),
        (json!({"timeout_ms": 0}), "timeout_ms"),
        (json!({"timeout_ms": -5}), "timeout_ms"),
        (json!({"task": "ner"}), "options.task"),
        (json!({"mask_format": "bmp"}), "options.mask_format"),
        (json!({"colour": "red"}), "unknown field `colour`"),
        (json!({"knowledge": long.as_str()}), "options.knowledge"),
        (json!({"image_description": long.as_str()}), "options.image_description"),
        (json!({"entities": [entity(2, 2)]}), "options.entities[0]"),
        (json!({"entities": [entity(0, 1), entity(4, 8)]}), "options.entities[1]"),
        (json!({"entities": [entity(3, 1)]}), "options.entities[0]"),
        (json!({"entities": [entity(-1, 2)]}), "options.entities[0].start"),
        (json!({"entities": [entity(0, 3), entity(2, 4)]}), "overlap"),
        (json!({"entities": [{"start": 0, "end": 1, "type": "OTHER"}]}), "entities[0].type"),
        (json!({"entities": vec![entity(0, 1); 5]}), "at most 4"),
        (json!([]), "options"),
    ] {
        let detail = illegal(&door, "/v1/smner", &post("seven c", options.clone())).await;
        assert!(detail.contains(place), "{options}: {detail}");
    }
    // The tagger finds more than one request may have.
    let detail = illegal(&door, "/v1/smner", &post(&"A ".repeat(25), json!({}))).await;
    assert!(detail.contains("at most"), "{detail}");
}

#[tokio::test]
async fn what_was_sent_is_not_repeated() {
    let door = Door::open();
    let evil = "<script>alert(1)</script>";
    for body in [
        json!({"text": "a", evil: 1}),
        json!({"text": "a", "options": {"task": evil}}),
        json!({"text": "a", "options": {"knowledge": [evil]}}),
        json!({"text": "a", "image": {"type": evil}}),
        json!({"text": "a", "image": {"type": "base64", "data": evil}}),
    ] {
        let response = door.post_json("/v1/smner", &body).await;
        let detail = response.problem(422, "invalid_input");
        assert!(!detail.contains("script"), "{body}: {detail}");
    }
}

#[tokio::test]
async fn json_must_be_json() {
    let door = Door::open();
    let more = r#"{"text": "a", "options": {"task": "mner"}} x"#;
    for body in ["", "{", "{\"text\": \"a\",}", "nonsense", more] {
        let response = door.post("/v1/smner", "application/json", body.to_owned()).await;
        response.problem(400, "malformed_request");
    }
    let deep = format!("{{\"inputs\": {}", "[".repeat(5000));
    let response = door.post("/v1/smner:batch", "application/json", deep).await;
    response.problem(400, "malformed_request");
    let twice = r#"{"text": "a", "text": "b"}"#.to_owned();
    let response = door.post("/v1/smner", "application/json", twice).await;
    assert!(response.problem(422, "invalid_input").contains("duplicate field `text`"));
    let response = door.post("/v1/smner", "application/json; charset=utf-8", "[1]").await;
    response.problem(422, "invalid_input");
}

#[tokio::test]
async fn forms_must_be_well_formed() {
    let door = Door::open();
    let picture = png(9, 9);
    let send = async |parts: &[(&str, &[u8])]| {
        let (kind, body) = form(parts);
        door.post("/v1/smner", &kind, body).await
    };
    let (text, image) = (("text", &b"hi"[..]), ("image", &picture[..]));
    assert_eq!(send(&[text, image]).await.status, 200);
    for (parts, part_of_detail) in [
        (vec![text, image, ("colour", b"red")], "unknown part"),
        (vec![text, text, image], "`text` comes twice"),
        (vec![image], "`text` is missing"),
        (vec![text], "`image` is missing"),
        (vec![("text", b"\xff"), image], "`text` is not UTF-8"),
        (vec![text, image, ("options", b"{\"a\": 1}")], "unknown field `a`"),
    ] {
        let detail = send(&parts).await.problem(422, "invalid_input");
        assert!(detail.contains(part_of_detail), "{detail}");
    }
    send(&[text, image, ("options", b"{")]).await.problem(400, "malformed_request");
    let (kind, mut body) = form(&[text, image]);
    body.truncate(body.len() - 20);
    door.post("/v1/smner", &kind, body).await.problem(400, "malformed_request");
    let no_boundary = door.post("/v1/smner", "multipart/form-data", "x").await;
    no_boundary.problem(400, "malformed_request");
}

#[tokio::test]
async fn only_two_forms_are_understood() {
    let door = Door::open();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "image/png", "nonsense"] {
        let response = door.post("/v1/smner", kind, "x").await;
        response.problem(415, "unsupported_media_type");
    }
    let none = Request::post("/v1/segment").body(Body::from("{}")).unwrap();
    door.send(none).await.problem(415, "unsupported_media_type");
    let (kind, body) = form(&[("inputs", b"[]")]);
    door.post("/v1/smner:batch", &kind, body).await.problem(415, "unsupported_media_type");
    let packed = Request::post("/v1/smner")
        .header("content-type", "application/json")
        .header("content-encoding", "gzip");
    let packed = packed.body(Body::from(post("a", json!({})).to_string())).unwrap();
    door.send(packed).await.problem(415, "unsupported_media_type");
}

async fn send_picture(door: &Door, file: &[u8]) -> Response {
    let (kind, body) = form(&[("text", b"hi"), ("image", file)]);
    door.post("/v1/smner", &kind, body).await
}

#[tokio::test]
async fn pictures_must_be_whole_and_small() {
    let door = Door::open();
    for (width, height) in [(1, 1), (400, 2), (200, 300)] {
        assert_eq!(send_picture(&door, &png(width, height)).await.status, 200);
    }
    for (width, height) in [(401, 1), (1, 401), (300, 201)] {
        send_picture(&door, &png(width, height)).await.problem(413, "payload_too_large");
    }
    let whole = png(40, 30);
    let cut = send_picture(&door, &whole[..whole.len() / 2]).await;
    assert_eq!(cut.problem(422, "invalid_input"), "the picture is damaged or cut off");
    for file in [&b""[..], b"hello", b"BM\0\0", b"II*\0"] {
        send_picture(&door, file).await.problem(415, "unsupported_media_type");
    }
    // A header that promises 60,000 × 60,000 pixels.
    let mut bomb = whole;
    bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    send_picture(&door, &bomb).await.problem(413, "payload_too_large");
}

#[tokio::test]
async fn inline_pictures_must_be_canonical_base64() {
    let door = Door::open();
    for data in ["%%%", "QUJD=", "QQ", "QR==", "Q U J D", "data:image/png,abc"] {
        let body = json!({"text": "a", "image": {"type": "base64", "data": data}});
        let detail = illegal(&door, "/v1/smner", &body).await;
        assert!(detail.contains("`image.data`"), "{data}: {detail}");
    }
    let url = json!({"type": "url", "url": "https://example.org/a.jpg"});
    let body = json!({"text": "a", "image": url});
    door.post_json("/v1/smner", &body).await.problem(422, "url_input_disabled");
    let body = json!({"boxes": [], "image": url});
    door.post_json("/v1/segment", &body).await.problem(422, "url_input_disabled");
    let extra = json!({"type": "base64", "data": "", "url": "x"});
    illegal(&door, "/v1/smner", &json!({"text": "a", "image": extra})).await;
}

#[tokio::test]
async fn bodies_must_be_small() {
    let door = Door::open();
    let large = vec![b' '; 100_001];
    let announced = door.post("/v1/smner", "application/json", large.clone()).await;
    announced.problem(413, "payload_too_large");
    let chunks = large.chunks(1000).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec()));
    let chunks: Vec<_> = chunks.collect();
    let unannounced = Body::from_stream(futures_util::stream::iter(chunks));
    door.post("/v1/segment", "application/json", unannounced)
        .await
        .problem(413, "payload_too_large");
}

#[tokio::test]
async fn boxes_must_be_boxes() {
    let door = Door::open();
    for (boxes, place) in [
        (json!([[10, 10, 5, 20]]), "boxes[0]"),
        (json!([[0, 0, 1, 1], [3, 3, 3, 9]]), "boxes[1]"),
        (json!([[500, 500, 600, 600]]), "outside the picture"),
        (json!([[1, 2, 3]]), "boxes[0]"),
        (json!([[1, 2, 3, 4, 5]]), "boxes[0]"),
        (json!([[1, 2, 3, "4"]]), "boxes[0]"),
        (json!([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]), "at most 2"),
    ] {
        let body = json!({"image": inline(&png(20, 20)), "boxes": boxes});
        let detail = illegal(&door, "/v1/segment", &body).await;
        assert!(detail.contains(place), "{boxes}: {detail}");
    }
    let none = json!({"image": inline(&png(20, 20)), "boxes": []});
    assert_eq!(door.post_json("/v1/segment", &none).await.ok()["masks"], json!([]));
}

#[tokio::test]
async fn unknown_routes_and_methods_are_problems() {
    let door = Door::open();
    for path in ["/v1/nowhere", "/v1/smner:stop", "/v1/smner/", "/static/../Cargo.toml", "/x.js"] {
        door.get(path).await.problem(404, "not_found");
    }
    for (method, path, allowed) in [
        (Method::GET, "/v1/smner", "POST"),
        (Method::DELETE, "/v1/smner:batch", "POST"),
        (Method::OPTIONS, "/v1/segment", "POST"),
        (Method::POST, "/v1/info", "GET,HEAD"),
        (Method::POST, "/", "GET,HEAD"),
        (Method::PUT, "/openapi.json", "GET,HEAD"),
    ] {
        let response = door.call(method, path).await;
        response.problem(405, "method_not_allowed");
        assert_eq!(response.header("allow"), allowed, "{path}");
    }
}

#[tokio::test]
async fn faults_inside_are_told_in_general_words() {
    let door = Door::open();
    for text in ["!fail", "!panic"] {
        let detail = door.smner(text, json!({})).await.problem(500, "internal");
        assert_eq!(detail, "Something failed inside the server");
    }
    assert_eq!(door.smner("Federer", json!({})).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn late_answers_are_not_waited_for() {
    let tagger = Arc::new(GatedTagger::default());
    let (door, _pipeline) = Door::over(tagger.roles(), common::options());
    let response = door.smner("a", json!({"timeout_ms": 20})).await;
    response.problem(504, "deadline_exceeded");
    tagger.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_says_when_to_come_back() {
    let tagger = Arc::new(GatedTagger::default());
    let options = PipelineOptions { max_inflight: Cost(1), ..common::options() };
    let (door, _pipeline) = Door::over(tagger.roles(), options);
    let door = Arc::new(door);
    let inside = door.clone();
    let first = tokio::spawn(async move { inside.smner("a", json!({})).await.status });
    tagger.wait_for(1);
    let refused = door.smner("b", json!({})).await;
    refused.problem(429, "overloaded");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    let segment = json!({"image": inline(&png(9, 9)), "boxes": [[0, 0, 9, 9]]});
    door.post_json("/v1/segment", &segment).await.problem(429, "overloaded");
    let batch = json!({"inputs": [post("c", json!({}))]});
    let outputs = door.post_json("/v1/smner:batch", &batch).await.ok();
    assert_eq!(outputs["outputs"][0]["status"], 429);
    assert!(outputs["outputs"][0]["error"]["retry_after_ms"].is_u64());
    tagger.open();
    assert_eq!(first.await.unwrap(), 200);
    assert_eq!(tagger.seen(), ["a"]);
}
