use super::*;

fn converted(from: Value) -> Value {
    let mut value = from;
    schema(&mut value);
    value
}

#[test]
fn the_frame_of_the_document() {
    let document = json!({
        "openapi": "3.1.0",
        "info": { "title": "t", "summary": "s",
                  "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" } },
        "webhooks": { "w": {} },
        "jsonSchemaDialect": "d",
        "tags": [{ "name": "n" }],
    });
    let expected = json!({
        "openapi": "3.0.3",
        "info": { "title": "t", "license": { "name": "Apache-2.0" } },
        "tags": [{ "name": "n" }],
        "paths": {},
    });
    assert_eq!(to_3_0(&document), expected);
    assert_eq!(to_3_0(&json!("no document")), json!("no document"));
}

#[test]
fn schemas_are_found_wherever_they_stand() {
    let new = json!({ "type": ["string", "null"] });
    let old = json!({ "type": "string", "nullable": true });
    let document = |version: &str, schema: &Value| {
        json!({
            "openapi": version,
            "paths": { "/a": { "post": {
                "parameters": [{ "name": "p", "in": "query", "schema": schema }],
                "requestBody": { "content": { "application/json": {
                    "schema": { "type": "array", "items": schema },
                    "example": { "schema": { "type": ["left", "alone"] } },
                    "examples": { "one": { "value": { "schema": { "const": 1 } } } },
                } } },
                "responses": { "200": { "headers": { "h": { "schema": schema } } } },
            } } },
            "components": { "schemas": {
                "A": { "type": "object", "properties": { "type": schema, "const": schema },
                       "additionalProperties": schema },
                "B": { "oneOf": [{ "allOf": [schema] }, { "not": schema }] },
            } },
        })
    };
    assert_eq!(to_3_0(&document("3.1.0", &new)), document("3.0.3", &old));
}

#[test]
fn types_with_null() {
    assert_eq!(
        converted(json!({ "type": ["integer", "null"], "minimum": 1 })),
        json!({ "type": "integer", "nullable": true, "minimum": 1 })
    );
    assert_eq!(
        converted(json!({ "type": ["array", "null"] })),
        json!({ "type": "array", "nullable": true, "items": {} })
    );
    assert_eq!(
        converted(json!({ "type": ["string", "number"] })),
        json!({ "allOf": [{ "anyOf": [{ "type": "string" }, { "type": "number" }] }] })
    );
    assert_eq!(converted(json!({ "type": "null" })), json!({ "nullable": true, "enum": [null] }));
}

#[test]
fn choices_with_null() {
    assert_eq!(
        converted(json!({ "oneOf": [{ "type": "null" }, { "$ref": "#/a", "description": "d" }] })),
        json!({ "nullable": true,
                "allOf": [{ "description": "d", "allOf": [{ "$ref": "#/a" }] }] })
    );
    assert_eq!(
        converted(json!({ "anyOf": [{ "$ref": "#/a" }, { "type": "null" }, { "$ref": "#/b" }] })),
        json!({ "nullable": true, "anyOf": [{ "$ref": "#/a" }, { "$ref": "#/b" }] })
    );
    let without = json!({ "oneOf": [{ "$ref": "#/a" }, { "type": "string" }] });
    assert_eq!(converted(without.clone()), without);
}

#[test]
fn constants_and_examples() {
    assert_eq!(converted(json!({ "const": "base64" })), json!({ "enum": ["base64"] }));
    assert_eq!(converted(json!({ "examples": [1, 2] })), json!({ "example": 1 }));
    assert_eq!(converted(json!({ "examples": [1], "example": 3 })), json!({ "example": 3 }));
    assert_eq!(converted(json!({ "examples": [] })), json!({}));
}

#[test]
fn exclusive_limits() {
    assert_eq!(
        converted(json!({ "exclusiveMinimum": 0, "exclusiveMaximum": 1.5 })),
        json!({ "minimum": 0, "exclusiveMinimum": true,
                "maximum": 1.5, "exclusiveMaximum": true })
    );
    assert_eq!(converted(json!({ "exclusiveMinimum": 0, "minimum": 2 })), json!({ "minimum": 2 }));
    assert_eq!(
        converted(json!({ "exclusiveMaximum": 2, "maximum": 2 })),
        json!({ "maximum": 2, "exclusiveMaximum": true })
    );
}

#[test]
fn tuples() {
    let number = json!({ "type": "number" });
    assert_eq!(
        converted(json!({ "type": "array", "prefixItems": [number, number], "items": false })),
        json!({ "type": "array", "items": number, "minItems": 2, "maxItems": 2 })
    );
    assert_eq!(
        converted(json!({ "type": "array", "prefixItems": [number, { "const": 1 }] })),
        json!({ "type": "array", "items": { "anyOf": [number, { "enum": [1] }] },
                "minItems": 2, "maxItems": 2 })
    );
    assert_eq!(converted(json!({ "type": "array" })), json!({ "type": "array", "items": {} }));
}

#[test]
fn content_of_strings() {
    assert_eq!(
        converted(json!({ "type": "string", "contentEncoding": "base64",
                          "contentMediaType": "image/png" })),
        json!({ "type": "string", "format": "byte" })
    );
    assert_eq!(
        converted(json!({ "contentMediaType": "application/octet-stream" })),
        json!({ "type": "string", "format": "binary" })
    );
    assert_eq!(
        converted(json!({ "type": "string", "contentMediaType": "application/json" })),
        json!({ "type": "string" })
    );
}

#[test]
fn beside_a_reference() {
    assert_eq!(
        converted(json!({ "$ref": "#/a", "description": "d" })),
        json!({ "description": "d", "allOf": [{ "$ref": "#/a" }] })
    );
    assert_eq!(converted(json!({ "$ref": "#/a" })), json!({ "$ref": "#/a" }));
}

#[test]
fn bare_and_unknown_things() {
    assert_eq!(converted(json!(true)), json!({}));
    assert_eq!(converted(json!(false)), json!({ "not": {} }));
    assert_eq!(
        converted(json!({ "type": "object", "propertyNames": { "type": "string" },
                          "additionalProperties": false })),
        json!({ "type": "object", "additionalProperties": false })
    );
}
