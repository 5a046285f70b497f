//! What the OpenAPI documents promise (`tests/openapi.rs` holds the committed files).

use riveg::http::openapi::{document_3_0, document_3_1};
use serde_json::{Value, json};

use crate::door::Door;

#[tokio::test]
async fn the_document_is_served() {
    assert_eq!(Door::open().get("/openapi.json").await.ok(), document_3_1());
}

#[test]
fn every_reference_leads_somewhere() {
    for document in [document_3_1(), document_3_0()] {
        let mut open = vec![&document];
        while let Some(value) = open.pop() {
            if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
                let target = document.pointer(reference.trim_start_matches('#'));
                assert!(target.is_some(), "{reference}");
            }
            match value {
                Value::Array(items) => open.extend(items),
                Value::Object(members) => open.extend(members.values()),
                _ => {}
            }
        }
    }
}

#[test]
fn both_forms_of_a_post_are_described() {
    let document = document_3_1();
    let content = &document["paths"]["/v1/smner"]["post"]["requestBody"]["content"];
    let forms: Vec<_> = content.as_object().unwrap().keys().collect();
    assert_eq!(json!(forms), json!(["application/json", "multipart/form-data"]));
    assert!(document["paths"].get("/v1/smner:batch").is_some());
}
