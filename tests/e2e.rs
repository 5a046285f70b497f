//! The program as a user has it: the binary, the pack that the repository ships, a socket.

mod process;

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use process::Server;
use reqwest::multipart::{Form, Part};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};

/// Far longer than anything here takes: only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

/// One server for all tests that do not harm it. Each holds on to it while it runs; it ends with the
/// last of them, since a static is never dropped and a server left behind would outlive the tests.
fn shared() -> Arc<Server> {
    static SERVER: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    let mut server = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = server.upgrade() {
        return running;
    }
    let started = Arc::new(Server::start(&[]));
    *server = Arc::downgrade(&started);
    started
}

fn photo() -> Vec<u8> {
    std::fs::read(fixture("astronaut.jpg")).unwrap()
}

fn photo_base64() -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(photo())
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

const TEXT: &str = "Eileen Collins smiles at NASA in Houston";

async fn post(image: Vec<u8>, text: &str) -> Response {
    let form = Form::new().part("image", Part::bytes(image)).text("text", text.to_owned());
    Client::new().post(format!("{}/v1/smner", shared().url)).multipart(form).send().await.unwrap()
}

async fn post_json(body: Value) -> Response {
    let request = Client::new().post(format!("{}/v1/smner", shared().url));
    request.json(&body).send().await.unwrap()
}

/// An answer without what may differ between two runs.
fn stripped(mut answer: Value) -> Value {
    let object = answer.as_object_mut().unwrap();
    assert!(object.remove("id").is_some() && object.remove("timings_ms").is_some());
    answer
}

async fn assert_problem(response: Response, status: u16, code: &str) {
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(response.status().as_u16(), status);
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["code"], code, "{problem}");
    assert_eq!(problem["status"], status, "{problem}");
    let alive = reqwest::get(format!("{}/readyz", shared().url)).await.unwrap();
    assert_eq!(alive.status(), StatusCode::OK, "still ready afterwards");
}

#[tokio::test]
async fn a_person_in_a_photo_is_found_boxed_and_masked() {
    let _server = shared();
    let response = post(photo(), TEXT).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.headers().contains_key("server-timing"));
    let answer: Value = response.json().await.unwrap();
    let person = &answer["entities"][0];
    assert_eq!(person["text"], "Eileen Collins", "{answer}");
    assert_eq!(person["type"], "PER");
    assert_eq!((person["start"].as_u64(), person["end"].as_u64()), (Some(0), Some(14)));
    assert_eq!(person["groundable"], true, "{answer}");
    let bbox: Vec<f32> = serde_json::from_value(person["box"].clone()).unwrap();
    let found = riveg::vision::BoundingBox::new(bbox[0], bbox[1], bbox[2], bbox[3]);
    // Drawn by hand around the astronaut in the fixture (256 × 256).
    let gold = riveg::vision::BoundingBox::new(3.0, 0.0, 232.0, 256.0);
    assert!(found.iou(&gold) > 0.5, "{found:?}");
    let counts = person["mask"]["counts"].as_str().unwrap();
    let mask = riveg::mask::Rle::from_compressed(counts, 256, 256).unwrap();
    assert!(mask.area() > 0, "{answer}");
    assert!(mask.bbox().unwrap().iou(&found) > 0.5, "the mask belongs to the box");
}

#[tokio::test]
async fn the_same_request_twice_has_the_same_answer_in_either_form() {
    let _server = shared();
    let first: Value = post(photo(), TEXT).await.json().await.unwrap();
    let second: Value = post(photo(), TEXT).await.json().await.unwrap();
    assert_eq!(stripped(first.clone()), stripped(second));
    let body = json!({"text": TEXT, "image": {"type": "base64", "data": photo_base64()}});
    let third: Value = post_json(body).await.json().await.unwrap();
    assert_eq!(stripped(first), stripped(third));
}

#[tokio::test]
async fn predict_says_what_the_server_says() {
    let _server = shared();
    let directory = tempfile::tempdir().unwrap();
    let overlay = directory.path().join("overlay.png");
    let output = Command::new(env!("CARGO_BIN_EXE_riveg"))
        .args(["predict", "--device", "cpu", "--text", TEXT, "--image"])
        .arg(fixture("astronaut.jpg"))
        .arg("--overlay")
        .arg(&overlay)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let predicted: Value = serde_json::from_slice(&output.stdout).unwrap();
    let served: Value = post(photo(), TEXT).await.json().await.unwrap();
    assert_eq!(stripped(predicted), stripped(served));
    let drawn = image::open(overlay).unwrap();
    assert_eq!((drawn.width(), drawn.height()), (256, 256));
}

#[tokio::test]
async fn a_text_without_entities_has_an_empty_list() {
    let _server = shared();
    let answer: Value = post(photo(), "it was really nice and warm").await.json().await.unwrap();
    assert_eq!(answer["entities"], json!([]));
}

#[tokio::test]
async fn pictures_of_odd_sizes_are_legal() {
    let _server = shared();
    for (width, height) in [(1, 1), (12_000, 9)] {
        let picture = image::RgbImage::from_pixel(width, height, image::Rgb([90, 120, 60]));
        let mut png = Vec::new();
        let mut cursor = std::io::Cursor::new(&mut png);
        picture.write_to(&mut cursor, image::ImageFormat::Png).unwrap();
        let response = post(png, TEXT).await;
        assert_eq!(response.status(), StatusCode::OK, "{width}×{height}");
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["image"], json!({"width": width, "height": height}));
    }
}

#[tokio::test]
async fn bad_pictures_are_told_apart() {
    let _server = shared();
    let whole = photo();
    assert_problem(post(whole[..whole.len() / 2].to_vec(), TEXT).await, 422, "invalid_input").await;
    assert_problem(post(png_bomb(), TEXT).await, 413, "payload_too_large").await;
    assert_problem(post(b"hello".to_vec(), TEXT).await, 415, "unsupported_media_type").await;
}

/// A PNG of a few kilobytes whose header promises 60,000 × 60,000 pixels.
fn png_bomb() -> Vec<u8> {
    let mut png = Vec::new();
    let picture = image::RgbImage::new(1, 1);
    let mut cursor = std::io::Cursor::new(&mut png);
    picture.write_to(&mut cursor, image::ImageFormat::Png).unwrap();
    png[16..20].copy_from_slice(&60_000_u32.to_be_bytes());
    png[20..24].copy_from_slice(&60_000_u32.to_be_bytes());
    png
}

#[tokio::test]
async fn bad_texts_and_bodies_are_told_apart() {
    let _server = shared();
    assert_problem(post(photo(), " ").await, 422, "invalid_input").await;
    assert_problem(post(photo(), &"a".repeat(100_000)).await, 422, "invalid_input").await;
    let large = vec![0; 30_000_000];
    assert_problem(post(large, TEXT).await, 413, "payload_too_large").await;
    let unknown = json!({"text": "a", "image": {"type": "base64", "data": ""}, "colour": 1});
    assert_problem(post_json(unknown).await, 422, "invalid_input").await;
    let url = json!({"text": "a", "image": {"type": "url", "url": "https://a.example/b.jpg"}});
    assert_problem(post_json(url).await, 422, "url_input_disabled").await;
    let client = Client::new();
    let smner = format!("{}/v1/smner", shared().url);
    let plain = client.post(&smner).header("content-type", "text/plain").body("hi");
    assert_problem(plain.send().await.unwrap(), 415, "unsupported_media_type").await;
    let broken = client.post(&smner).header("content-type", "application/json").body("{");
    assert_problem(broken.send().await.unwrap(), 400, "malformed_request").await;
}

#[tokio::test]
async fn unknown_routes_and_methods_are_problems_too() {
    let _server = shared();
    let nowhere = reqwest::get(format!("{}/v1/nowhere", shared().url)).await.unwrap();
    assert_problem(nowhere, 404, "not_found").await;
    let get = reqwest::get(format!("{}/v1/smner", shared().url)).await.unwrap();
    assert_problem(get, 405, "method_not_allowed").await;
}

#[tokio::test]
async fn the_page_the_documents_and_the_metrics_are_there() {
    let _server = shared();
    for (path, kind, part) in [
        ("/", "text/html", "<html"),
        ("/docs/", "text/html", "swagger"),
        ("/openapi.json", "application/json", "/v1/smner"),
        ("/v1/info", "application/json", "nano"),
        ("/metrics", "text/plain", "riveg_"),
    ] {
        let response = reqwest::get(format!("{}{path}", shared().url)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let found = response.headers()["content-type"].to_str().unwrap().to_owned();
        assert!(found.starts_with(kind), "{path}: {found}");
        assert!(response.text().await.unwrap().contains(part), "{path}");
    }
}

/// The value of a metric without labels.
async fn metric(url: &str, name: &str) -> f64 {
    let text = reqwest::get(format!("{url}/metrics")).await.unwrap().text().await.unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).unwrap_or_default()
}

#[cfg(unix)]
fn terminate(server: &Server) {
    let pid = server.process.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
}

/// Begins a request that takes this program seconds, and waits until it is under way.
#[cfg(unix)]
async fn long_request(url: &str) -> tokio::task::JoinHandle<reqwest::Result<Response>> {
    let input = json!({"text": TEXT, "image": {"type": "base64", "data": photo_base64()}});
    let request = Client::new().post(format!("{url}/v1/smner:batch"));
    let under_way = tokio::spawn(request.json(&json!({"inputs": vec![input; 32]})).send());
    let begun = async {
        while metric(url, "riveg_inflight_cost").await == 0.0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, begun).await.unwrap();
    under_way
}

#[cfg(unix)]
#[tokio::test]
async fn sigterm_drains_and_ends_well() {
    let mut server = Server::start(&[]);
    let under_way = long_request(&server.url).await;
    let ready = format!("{}/readyz", server.url);
    terminate(&server);
    let refused = async {
        loop {
            let response = reqwest::get(&ready).await.unwrap();
            if response.status() == StatusCode::SERVICE_UNAVAILABLE {
                break response.json::<Value>().await.unwrap();
            }
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refused).await.unwrap();
    assert_eq!(refused["detail"], "the server is shutting down");
    let answer = under_way.await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["outputs"][0]["status"], 200, "{answer}");
    let status = tokio::task::spawn_blocking(move || server.process.wait().unwrap());
    assert!(status.await.unwrap().success());
}

#[cfg(unix)]
#[tokio::test]
async fn a_second_sigterm_cuts_the_drain() {
    let mut server = Server::start(&["--drain-ms", "600000"]);
    let under_way = long_request(&server.url).await;
    terminate(&server);
    // Two signals that come together are one to the process.
    let ready = format!("{}/readyz", server.url);
    let draining =
        async { while reqwest::get(&ready).await.unwrap().status() == StatusCode::OK {} };
    tokio::time::timeout(PATIENCE, draining).await.unwrap();
    terminate(&server);
    assert!(under_way.await.unwrap().is_err(), "cut, not answered");
    let status = tokio::task::spawn_blocking(move || server.process.wait().unwrap());
    assert!(status.await.unwrap().success());
}

#[test]
fn a_pack_that_was_tampered_with_is_not_served() {
    let pack = tempfile::tempdir().unwrap();
    let nano = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/nano");
    copy(&nano, pack.path());
    let weights = pack.path().join("sam/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_riveg"))
        .args(["serve", "--port", "0", "--pack"])
        .arg(pack.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = String::new();
    process.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(!process.wait().unwrap().success());
    assert!(log.contains("sam/model.safetensors"), "{log}");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
