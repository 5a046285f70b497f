//! A server without a socket, and what tests send to it.

use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http_body_util::BodyExt;
use metrics_exporter_prometheus::PrometheusHandle;
use riveg::http::{AppState, HttpOptions, Limits, Origins, ServiceInfo, app};
use riveg::models::{ModelInfo, Result, TagInput, TaggedEntity, Tagger};
use riveg::pipeline::{Pipeline, PipelineOptions, Roles};
use riveg::telemetry;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::common::{self, StubTagger};

/// Limits small enough to be passed by small requests.
pub fn limits() -> Limits {
    Limits {
        max_body_bytes: 100_000,
        max_image_side: 400,
        max_image_pixels: 60_000,
        max_id_bytes: 128,
        max_text_chars: 60,
        max_entities: 4,
        max_batch_items: 3,
        max_boxes: 2,
        timeout_ms: 60_000,
        max_timeout_ms: 120_000,
    }
}

fn http_options() -> HttpOptions {
    HttpOptions {
        limits: limits(),
        pixel_budget: 100_000,
        body_timeout: Duration::from_secs(30),
        keep_alive: Duration::from_millis(5),
        allowed_origins: Origins::Own,
    }
}

fn recorder() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| telemetry::install_metrics().unwrap()).clone()
}

/// The app, and what it shares with its handlers.
pub struct Door {
    pub app: Router,
    pub state: AppState,
}

/// A response that was read to its end.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Door {
    /// A server that is still loading.
    pub fn loading(allowed_origins: &str) -> Self {
        let allowed_origins = allowed_origins.parse().unwrap();
        Self::with(HttpOptions { allowed_origins, ..http_options() })
    }

    /// A server that waits this long for a body; nothing reaches its pipeline.
    pub fn patient_for(body_timeout: Duration) -> Self {
        let door = Self::with(HttpOptions { body_timeout, ..http_options() });
        door.start(common::roles(), common::options());
        door
    }

    fn with(options: HttpOptions) -> Self {
        let state = AppState::new(options, recorder());
        Self { app: app(state.clone()), state }
    }

    /// A server over stand-ins.
    pub fn open() -> Self {
        Self::over(common::roles(), common::options()).0
    }

    /// A server over these roles.
    pub fn over(roles: Roles, options: PipelineOptions) -> (Self, Arc<Pipeline>) {
        let door = Self::loading("");
        let pipeline = door.start(roles, options);
        (door, pipeline)
    }

    /// Ends the loading.
    pub fn start(&self, roles: Roles, options: PipelineOptions) -> Arc<Pipeline> {
        let info = ServiceInfo {
            pack_name: "stub".into(),
            pack_version: "7".into(),
            entailment_threshold: options.entailment_threshold,
            models: vec![("tagger", roles.tagger.info())],
        };
        let pipeline = Arc::new(Pipeline::start(roles, options).unwrap());
        self.state.ready(pipeline.clone(), info);
        pipeline
    }

    pub async fn send(&self, request: Request<Body>) -> Response {
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Response { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub async fn get(&self, path: &str) -> Response {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub async fn post(&self, path: &str, content_type: &str, body: impl Into<Body>) -> Response {
        let request = Request::post(path).header("content-type", content_type);
        self.send(request.body(body.into()).unwrap()).await
    }

    pub async fn post_json(&self, path: &str, body: &Value) -> Response {
        self.post(path, "application/json", body.to_string()).await
    }

    /// One post with options; the picture is 200 × 100.
    pub async fn smner(&self, text: &str, options: Value) -> Response {
        self.post_json("/v1/smner", &post(text, options)).await
    }

    pub async fn call(&self, method: Method, path: &str) -> Response {
        self.send(Request::builder().method(method).uri(path).body(Body::empty()).unwrap()).await
    }
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{:?}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks everything that a problem promises, and returns its detail.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> String {
        let problem = self.json();
        assert_eq!((self.status, &problem["code"]), (status, &json!(code)), "{problem}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:riveg:problem:{code}"));
        assert_eq!(problem["instance"], self.header("x-request-id"));
        assert!(!problem["title"].as_str().unwrap().is_empty());
        let must_wait = [429, 503].contains(&status);
        assert_eq!(must_wait, self.headers.contains_key("retry-after"), "{:?}", self.headers);
        assert_eq!(must_wait, problem["retry_after_ms"].is_u64(), "{problem}");
        problem["detail"].as_str().unwrap().to_owned()
    }
}

/// A PNG file of this size.
pub fn png(width: u32, height: u32) -> Vec<u8> {
    let picture = image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 7]));
    let mut file = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}

/// A picture's file as JSON carries it.
pub fn inline(file: &[u8]) -> Value {
    json!({"type": "base64", "data": BASE64.encode(file)})
}

/// A post with a picture of 200 × 100 pixels.
pub fn post(text: &str, options: Value) -> Value {
    json!({"text": text, "image": inline(&png(200, 100)), "options": options})
}

/// A multipart body of these parts, and its content type.
pub fn form(parts: &[(&str, &[u8])]) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for (name, content) in parts {
        let head = format!("--cut\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--cut--\r\n");
    ("multipart/form-data; boundary=cut".to_owned(), body)
}

/// A tagger that tells which texts reached it, and waits in each batch until the gate is open.
#[derive(Default)]
pub struct GatedTagger {
    seen: Mutex<Vec<String>>,
    arrived: Condvar,
    open: Mutex<bool>,
    opened: Condvar,
}

impl GatedTagger {
    /// Waits until this many texts reached the tagger.
    pub fn wait_for(&self, count: usize) {
        let mut seen = self.seen.lock().unwrap();
        while seen.len() < count {
            seen = self.arrived.wait(seen).unwrap();
        }
    }

    pub fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// Stand-ins behind this tagger.
    pub fn roles(self: &Arc<Self>) -> Roles {
        Roles { tagger: self.clone(), ..common::roles() }
    }
}

impl Tagger for GatedTagger {
    fn tag(&self, inputs: &[TagInput]) -> Result<Vec<Vec<TaggedEntity>>> {
        let texts = inputs.iter().map(|input| input.text.to_string());
        self.seen.lock().unwrap().extend(texts);
        self.arrived.notify_all();
        let mut open = self.open.lock().unwrap();
        while !*open {
            open = self.opened.wait(open).unwrap();
        }
        Ok(vec![Vec::new(); inputs.len()])
    }

    fn cost(&self, _input: &TagInput) -> u64 {
        10
    }

    fn info(&self) -> ModelInfo {
        StubTagger::default().info()
    }
}
