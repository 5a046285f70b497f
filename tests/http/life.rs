//! The server's life, and what operators ask.

use std::sync::Arc;

use riveg::models::{ModelError, ModelInfo, Result, TagInput, TaggedEntity, Tagger};
use riveg::pipeline::Roles;
use serde_json::json;

use crate::common::{self, StubTagger};
use crate::door::{Door, form, limits, png};

const HEALTH: [&str; 3] = ["/livez", "/startupz", "/readyz"];

async fn health(door: &Door) -> Vec<u16> {
    let mut statuses = Vec::new();
    for path in HEALTH {
        statuses.push(door.get(path).await.status);
    }
    statuses
}

#[tokio::test]
async fn loading_then_ready_then_draining() {
    let door = Door::loading("");
    assert_eq!(health(&door).await, [200, 503, 503]);
    let detail = door.get("/readyz").await.problem(503, "unavailable");
    assert_eq!(detail, "models are loading");
    door.smner("hi", json!({})).await.problem(503, "unavailable");
    door.get("/v1/info").await.problem(503, "unavailable");
    assert_eq!(door.get("/").await.status, 200);

    let pipeline = door.start(common::roles(), common::options());
    assert_eq!(health(&door).await, [200, 200, 200]);
    assert_eq!(door.smner("hi", json!({})).await.status, 200);

    door.state.drain();
    assert_eq!(health(&door).await, [200, 200, 503]);
    let detail = door.get("/readyz").await.problem(503, "unavailable");
    assert_eq!(detail, "the server is shutting down");
    let detail = door.smner("hi", json!({})).await.problem(503, "unavailable");
    assert_eq!(detail, "the server is shutting down");
    drop(pipeline);
}

#[tokio::test]
async fn a_stopped_pipeline_is_not_ready() {
    let door = Door::loading("");
    let pipeline = door.start(common::roles(), common::options());
    let executor = pipeline.health();
    // The state holds the other handle: taking the door down lets this one stop the executor.
    door.state.drain();
    let pipeline = Arc::into_inner(pipeline).unwrap();
    pipeline.shutdown().await;
    assert_eq!(executor.state(), riveg::batch::HealthState::Stopped);
    assert_eq!(health(&door).await, [200, 200, 503]);
}

/// A network whose device is gone.
struct LostTagger;

impl Tagger for LostTagger {
    fn tag(&self, _inputs: &[TagInput]) -> Result<Vec<Vec<TaggedEntity>>> {
        let lost = "DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"as this test wants it\")";
        Err(ModelError::Tensor(candle_core::Error::Msg(lost.into())))
    }

    fn cost(&self, _input: &TagInput) -> u64 {
        1
    }

    fn info(&self) -> ModelInfo {
        StubTagger::default().info()
    }
}

#[tokio::test]
async fn a_lost_device_is_the_reason_until_the_end() {
    let roles = Roles { tagger: Arc::new(LostTagger), ..common::roles() };
    let (door, pipeline) = Door::over(roles, common::options());
    assert_ne!(door.smner("hi", json!({})).await.status, 200);
    pipeline.health().ended().await;
    for _ in 0..2 {
        let detail = door.get("/readyz").await.problem(503, "unavailable");
        assert_eq!(detail, "the device is lost");
        let detail = door.smner("hi", json!({})).await.problem(503, "unavailable");
        assert_eq!(detail, "the device is lost");
        door.state.drain();
    }
}

#[tokio::test]
async fn info_says_what_a_client_needs() {
    let info = Door::open().get("/v1/info").await.ok();
    assert_eq!(info["pack"], json!({"name": "stub", "version": "7"}));
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(info["limits"], serde_json::to_value(limits()).unwrap());
    assert_eq!(info["models"][0]["role"], "tagger");
    assert_eq!(info["models"][0]["sha256"], "0".repeat(64));
    let formats = json!(["image/jpeg", "image/png", "image/webp", "image/gif"]);
    assert_eq!(info["image_formats"], formats);
    assert_eq!(info["mask_formats"], json!(["rle", "rle_counts", "polygon", "png"]));
}

#[tokio::test]
async fn metrics_count_requests_and_problems() {
    let door = Door::open();
    door.get("/v1/nowhere").await;
    let (kind, body) = form(&[("text", b"hi"), ("image", &png(2, 2))]);
    door.post("/v1/smner", &kind, body).await.ok();
    let metrics = door.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    for series in [
        "riveg_http_requests_total{route=\"/v1/smner\",status=\"200\"}",
        "riveg_http_requests_total{route=\"unmatched\",status=\"404\"}",
        "riveg_http_problems_total{code=\"not_found\"}",
        // Begun at 0, before anything of the kind happened.
        "riveg_http_problems_total{code=\"unauthorized\"} 0",
        "riveg_request_duration_seconds_bucket{route=\"/v1/smner\"",
    ] {
        assert!(text.contains(series), "{series}\n{text}");
    }
}

#[tokio::test]
async fn every_response_is_dressed() {
    let door = Door::open();
    for path in ["/", "/docs/", "/livez", "/openapi.json", "/v1/nowhere"] {
        let response = door.get(path).await;
        assert_eq!(response.header("x-content-type-options"), "nosniff", "{path}");
        assert!(!response.header("x-request-id").is_empty(), "{path}");
        assert!(response.header("content-security-policy").contains("default-src"), "{path}");
        assert_eq!(response.header("access-control-allow-origin"), "", "{path}");
    }
}

#[tokio::test]
async fn nothing_of_the_pages_comes_from_elsewhere() {
    let door = Door::open();
    for path in ["/", "/docs/", "/docs/swagger-initializer.js", "/static/app.js"] {
        let response = door.get(path).await;
        assert_eq!(response.status, 200, "{path}");
        let text = String::from_utf8(response.body.to_vec()).unwrap();
        for address in ["src=\"http", "src=\"//", "href=\"//", "@import", "cdn."] {
            assert!(!text.contains(address), "{path}: {address}");
        }
    }
    for path in ["/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/static/style.css"] {
        assert_eq!(door.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn origins_are_let_in_by_name() {
    use axum::body::Body;
    use axum::http::Request;
    let (a, b) = ("https://a.example", "https://b.example");
    for (let_in, origin, allowed) in [(a, a, a), (a, b, ""), ("*", b, "*"), ("", a, "")] {
        let door = Door::loading(let_in);
        let request = Request::get("/livez").header("origin", origin).body(Body::empty()).unwrap();
        let response = door.send(request).await;
        assert_eq!(response.header("access-control-allow-origin"), allowed, "{let_in} {origin}");
    }
}

/// Else a browser's script learns of an error no more than that there was one.
#[tokio::test]
async fn errors_reach_the_scripts_of_allowed_origins() {
    use axum::body::Body;
    use axum::http::Request;
    let door = Door::loading("https://a.example");
    let _pipeline = door.start(common::roles(), common::options());
    for (method, path, body, status) in [
        ("POST", "/v1/smner", "{\"text\": 1}", 422),
        ("POST", "/v1/smner", "{", 400),
        ("GET", "/v1/smner", "", 405),
        ("GET", "/v1/nowhere", "", 404),
    ] {
        let request = Request::builder().method(method).uri(path);
        let request = request
            .header("origin", "https://a.example")
            .header("content-type", "application/json");
        let response = door.send(request.body(Body::from(body)).unwrap()).await;
        assert_eq!(response.status, status, "{path}");
        assert_eq!(response.header("access-control-allow-origin"), "https://a.example", "{path}");
        assert!(response.header("access-control-expose-headers").contains("retry-after"), "{path}");
        assert_eq!(response.header("content-type"), "application/problem+json", "{path}");
        assert_eq!(response.header("allow"), if status == 405 { "POST" } else { "" });
    }
}
