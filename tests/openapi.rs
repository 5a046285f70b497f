//! The committed documents are what the code makes.

use riveg::http::openapi;
use riveg::http::problem::Code;
use serde_json::Value;

fn committed(name: &str) -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn the_committed_documents_are_current() {
    let hint = "regenerate with `cargo run -- openapi [--v3-0] > openapi/…json`";
    assert_eq!(committed("openapi.json"), openapi::document_3_1(), "{hint}");
    assert_eq!(committed("openapi-3.0.json"), openapi::document_3_0(), "{hint}");
}

#[test]
fn every_operation_has_a_stable_id_and_every_error() {
    let document = openapi::document_3_1();
    assert_eq!(document["openapi"].as_str().map(|v| &v[..3]), Some("3.1"));
    assert_eq!(openapi::document_3_0()["openapi"], "3.0.3");
    let mut ids = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            ids.push(operation["operationId"].as_str().unwrap().to_owned());
            assert!(operation["responses"]["200"].is_object(), "{method} {path}");
            for code in Code::ALL {
                let answer = &operation["responses"][code.status().as_str()];
                let names = answer["description"].as_str().unwrap_or_default();
                let told = names.split(", ").any(|name| name == code.name());
                assert!(told, "{method} {path}: {}", code.name());
            }
        }
    }
    ids.sort();
    let expected = [
        "info",
        "livez",
        "metrics",
        "readyz",
        "segment",
        "smner",
        "smner_batch",
        "smner_stream",
        "startupz",
        "v2_infer",
        "v2_live",
        "v2_model",
        "v2_model_ready",
        "v2_ready",
        "v2_server",
    ];
    assert_eq!(ids, expected);
}

/// Generated clients make an enumeration of them and fail on any other.
#[test]
fn the_codes_in_the_document_are_those_on_the_wire() {
    let names: Vec<Value> = Code::ALL.iter().map(|code| code.name().into()).collect();
    for document in [openapi::document_3_1(), openapi::document_3_0()] {
        assert_eq!(document["components"]["schemas"]["Code"]["enum"], Value::Array(names.clone()));
    }
}

#[test]
fn forms_are_described_as_they_are_read() {
    let document = openapi::document_3_1();
    let schemas = &document["components"]["schemas"];
    let json = |form: &str, part: &str| {
        let described = &schemas[form]["properties"][part];
        assert_eq!(described["type"], "string", "{form}.{part}: {described}");
        assert_eq!(described["contentMediaType"], "application/json", "{form}.{part}");
    };
    json("SmnerForm", "options");
    json("SegmentForm", "options");
    json("SegmentForm", "boxes");
    assert_eq!(schemas["SmnerForm"]["required"], serde_json::json!(["text"]));
    assert_eq!(schemas["SegmentForm"]["required"], serde_json::json!(["image", "boxes"]));
}
