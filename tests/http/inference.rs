//! The Open Inference Protocol.

use axum::http::Request;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::common;
use crate::door::{Door, Response, png, post};

const INFER: &str = "/v2/models/stub/infer";

fn tensor(name: &str, data: Value) -> Value {
    let length = data.as_array().map_or(1, Vec::len);
    json!({"name": name, "shape": [length], "datatype": "BYTES", "data": data})
}

fn picture() -> String {
    BASE64.encode(png(200, 100))
}

async fn infer(door: &Door, inputs: Value) -> Response {
    door.post_json(INFER, &json!({"inputs": inputs})).await
}

/// The answers in the tensor `result`, each without what may differ between two runs.
fn results(answer: &Value) -> Vec<Value> {
    let [output] = &answer["outputs"].as_array().unwrap()[..] else { panic!("{answer}") };
    let data = output["data"].as_array().unwrap();
    assert_eq!(output["shape"], json!([data.len()]));
    assert_eq!((&output["name"], &output["datatype"]), (&json!("result"), &json!("BYTES")));
    data.iter()
        .map(|text| timeless(serde_json::from_str(text.as_str().unwrap()).unwrap()))
        .collect()
}

fn timeless(mut answer: Value) -> Value {
    assert!(answer.as_object_mut().unwrap().remove("timings_ms").is_some());
    answer
}

#[tokio::test]
async fn health_and_metadata() {
    let door = Door::loading("");
    assert_eq!(door.get("/v2/health/live").await.ok(), json!({"live": true}));
    for path in ["/v2/health/ready", "/v2/models/stub", "/v2/models/stub/ready"] {
        door.get(path).await.problem(503, "unavailable");
    }
    door.start(common::roles(), common::options());
    assert_eq!(door.get("/v2/health/ready").await.ok(), json!({"ready": true}));
    let server = door.get("/v2").await.ok();
    assert_eq!((&server["name"], &server["extensions"]), (&json!("riveg"), &json!([])));
    assert_eq!(server["version"], door.get("/v1/info").await.ok()["version"]);
    let tensor = |name| json!({"name": name, "datatype": "BYTES", "shape": [-1]});
    assert_eq!(
        door.get("/v2/models/stub").await.ok(),
        json!({
            "name": "stub", "versions": ["7"], "platform": "riveg",
            "inputs": [tensor("text"), tensor("image")], "outputs": [tensor("result")],
        })
    );
    let ready = door.get("/v2/models/stub/ready").await.ok();
    assert_eq!(ready, json!({"name": "stub", "ready": true}));
    for path in ["/v2/models/other", "/v2/models/other/ready"] {
        door.get(path).await.problem(404, "not_found");
    }
    door.post_json("/v2/models/other/infer", &json!({})).await.problem(404, "not_found");
    door.state.drain();
    assert_eq!(door.get("/v2/health/live").await.status, 200);
    for path in ["/v2/health/ready", "/v2/models/stub/ready"] {
        door.get(path).await.problem(503, "unavailable");
    }
}

#[tokio::test]
async fn the_result_is_what_the_ordinary_route_answers() {
    let door = Door::open();
    let mut ordinary = post("see Federer", json!({}));
    ordinary["id"] = json!("my own");
    let expected = timeless(door.post_json("/v1/smner", &ordinary).await.ok());
    let inputs = json!([
        {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [["see Federer"]]},
        {"name": "image", "shape": [1], "datatype": "BYTES", "data": [picture()],
         "parameters": {"content_type": "base64"}},
    ]);
    let asked = json!({
        "id": "my own", "inputs": inputs, "parameters": {"priority": 1},
        "outputs": [{"name": "result", "parameters": {"binary_data": false}}],
    });
    let answer = door.post_json(INFER, &asked).await.ok();
    assert_eq!(results(&answer), [expected]);
    assert_eq!(answer["id"], "my own");
    assert_eq!((&answer["model_name"], &answer["model_version"]), (&json!("stub"), &json!("7")));
}

#[tokio::test]
async fn posts_of_a_batch_keep_their_order_and_their_options() {
    let door = Door::open();
    let options = json!(["{\"task\": \"mner\"}", "{\"task\": \"gmner\"}", "{}"]);
    let inputs = json!([
        tensor("options", options),
        tensor("image", json!([picture(), picture(), picture()])),
        tensor("text", json!(["Ada", "Rudi", "Nobody"])),
    ]);
    let answers = results(&infer(&door, inputs).await.ok());
    let told = |answer: &Value| {
        let entity = &answer["entities"][0];
        (entity["text"].clone(), entity["box"].is_array(), entity["mask"].is_object())
    };
    let told: Vec<_> = answers.iter().map(told).collect();
    assert_eq!(
        told,
        [(json!("Ada"), false, false), (json!("Rudi"), true, false), (json!("Nobody"), true, true),]
    );
}

#[tokio::test]
async fn a_picture_may_be_left_out_where_only_names_are_asked_for() {
    let door = Door::open();
    let text = tensor("text", json!(["Ada"]));
    let options = tensor("options", json!(["{\"task\": \"mner\"}"]));
    let answers = results(&infer(&door, json!([text, options])).await.ok());
    assert_eq!(answers[0]["entities"][0]["text"], "Ada");
    infer(&door, json!([text])).await.problem(422, "invalid_input");
}

#[tokio::test]
async fn tensors_must_be_legal() {
    let door = Door::open();
    let text = || tensor("text", json!(["Ada"]));
    let image = || tensor("image", json!([picture()]));
    let with = |mut tensor: Value, name: &str, value: Value| {
        tensor[name] = value;
        tensor
    };
    for (inputs, place) in [
        (json!([image()]), "the tensor `text` is missing"),
        (json!([text(), text(), image()]), "`text` comes twice"),
        (json!([text(), image(), tensor("sound", json!([]))]), "the tensors are"),
        (json!([with(text(), "datatype", json!("FP32")), image()]), "datatype"),
        (json!([with(text(), "shape", json!([2])), image()]), "shape"),
        (json!([with(text(), "shape", json!([])), image()]), "shape"),
        (json!([with(text(), "shape", json!([1_u64 << 40, 1_u64 << 40])), image()]), "shape"),
        (json!([with(text(), "data", json!([7])), image()]), "a list of strings"),
        (json!([tensor("text", json!(["a", "b"])), image()]), "as many elements"),
        (json!([tensor("text", json!(vec!["a"; 5000]))]), "5000 elements, and at most 3"),
        (json!([text(), tensor("image", json!(["?"]))]), "base64"),
        (json!([tensor("text", json!([" "])), image()]), "`text` is empty"),
        (json!([text(), image(), tensor("options", json!(["{\"a\": 1}"]))]), "unknown field"),
    ] {
        let detail = infer(&door, inputs).await.problem(422, "invalid_input");
        assert!(detail.contains(place), "{place}: {detail}");
    }
    let asked = json!({"inputs": [text(), image()], "outputs": [{"name": "mask"}]});
    let detail = door.post_json(INFER, &asked).await.problem(422, "invalid_input");
    assert_eq!(detail, "`outputs`: there is only `result`");
}

#[tokio::test]
async fn a_post_that_fails_fails_the_request() {
    let door = Door::open();
    let inputs = json!([
        tensor("text", json!(["Ada", "!fail"])),
        tensor("image", json!([picture(), picture()])),
    ]);
    let response = infer(&door, inputs).await;
    let detail = response.problem(500, "internal");
    assert_eq!(response.json()["error"], detail, "where clients of the protocol look for it");
    let ordinary = door.smner("!fail", json!({})).await;
    assert_eq!(ordinary.json().get("error"), None);
}

#[tokio::test]
async fn clients_that_do_not_say_that_they_send_json_are_read() {
    let door = Door::open();
    let body =
        json!({"inputs": [tensor("text", json!(["Ada"])), tensor("image", json!([picture()]))]});
    let bare = Request::post(INFER).body(body.to_string().into()).unwrap();
    assert_eq!(door.send(bare).await.status, 200);
    let plain = door.post(INFER, "text/plain", body.to_string()).await;
    plain.problem(415, "unsupported_media_type");
    let binary = Request::post(INFER).header("inference-header-content-length", "9");
    let binary = door.send(binary.body(body.to_string().into()).unwrap()).await;
    assert!(binary.problem(415, "unsupported_media_type").contains("binary"));
}
