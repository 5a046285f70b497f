//! The specification for older tools: OpenAPI 3.1 to 3.0.3.
//!
//! 3.1 speaks JSON Schema 2020-12, 3.0 a dialect of its own. This covers what utoipa writes, not
//! all of JSON Schema. Two things widen on the way because 3.0 cannot say them: the members of a
//! tuple lose their order, and `propertyNames` goes.

use serde_json::{Map, Value, json};

type Object = Map<String, Value>;

/// Keywords of a schema that 3.0 lacks and that only narrow what is allowed.
const DROPPED: [&str; 4] = ["$schema", "$comment", "propertyNames", "unevaluatedProperties"];

/// The same document as OpenAPI 3.0.3. Anything but an object is returned as it is.
pub fn to_3_0(document: &Value) -> Value {
    let mut document = document.clone();
    let Some(root) = document.as_object_mut() else { return document };
    root.insert("openapi".to_owned(), json!("3.0.3"));
    root.remove("webhooks");
    root.remove("jsonSchemaDialect");
    root.entry("paths").or_insert_with(|| json!({}));
    if let Some(info) = root.get_mut("info").and_then(Value::as_object_mut) {
        info.remove("summary");
        if let Some(license) = info.get_mut("license").and_then(Value::as_object_mut) {
            license.remove("identifier");
        }
    }
    if let Some(components) = root.get_mut("components").and_then(Value::as_object_mut) {
        components.remove("pathItems");
        each_value(components.get_mut("schemas"), schema);
    }
    for (key, value) in root.iter_mut() {
        if key != "info" {
            walk(value);
        }
    }
    document
}

/// Looks for schemas in what is not one: paths, parameters, bodies, headers.
fn walk(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(walk),
        Value::Object(object) => {
            for (key, value) in object.iter_mut() {
                match key.as_str() {
                    "schema" => schema(value),
                    // Values of the user's own, and the components' schemas, done already.
                    "example" | "examples" | "schemas" => {}
                    _ => walk(value),
                }
            }
        }
        _ => {}
    }
}

fn each_value(of: Option<&mut Value>, change: fn(&mut Value)) {
    match of {
        Some(Value::Object(object)) => object.values_mut().for_each(change),
        Some(Value::Array(items)) => items.iter_mut().for_each(change),
        _ => {}
    }
}

/// Converts a schema and those inside it.
fn schema(value: &mut Value) {
    if let Value::Bool(anything) = value {
        *value = if *anything { json!({}) } else { json!({ "not": {} }) };
        return;
    }
    let Some(object) = value.as_object_mut() else { return };
    for key in DROPPED {
        object.remove(key);
    }
    // Before the schemas inside are converted, as that takes their `type: "null"` away.
    nullable_choice(object, "oneOf");
    nullable_choice(object, "anyOf");
    tuple(object);
    for key in ["properties", "allOf", "anyOf", "oneOf"] {
        each_value(object.get_mut(key), schema);
    }
    for key in ["items", "not"] {
        object.get_mut(key).into_iter().for_each(schema);
    }
    // May stay true or false in 3.0.
    object.get_mut("additionalProperties").filter(|v| v.is_object()).into_iter().for_each(schema);
    nullable_type(object);
    if let Some(only) = object.remove("const") {
        object.insert("enum".to_owned(), json!([only]));
    }
    one_example(object);
    exclusive(object, "exclusiveMinimum", "minimum", f64::ge);
    exclusive(object, "exclusiveMaximum", "maximum", f64::le);
    content(object);
    reference(object);
}

/// `type: ["string", "null"]` → `type: "string", nullable: true`; several types → `anyOf`.
fn nullable_type(object: &mut Object) {
    let types = match object.get("type") {
        Some(Value::Array(types)) => types.clone(),
        Some(Value::String(one)) if one == "null" => vec![json!("null")],
        _ => return,
    };
    object.remove("type");
    let (null, mut others): (Vec<_>, Vec<_>) = types.into_iter().partition(|t| t == "null");
    if !null.is_empty() {
        object.insert("nullable".to_owned(), json!(true));
    }
    match others.len() {
        0 => {
            object.insert("enum".to_owned(), json!([null]));
        }
        1 => {
            object.insert("type".to_owned(), others.remove(0));
        }
        _ => {
            let choices: Vec<_> = others.into_iter().map(|one| json!({ "type": one })).collect();
            // Beside an `anyOf` that is there already, both must hold.
            let choice = json!({ "anyOf": choices });
            push(object, "allOf", choice);
        }
    }
    if object.get("type") == Some(&json!("array")) {
        object.entry("items").or_insert_with(|| json!({}));
    }
}

/// `oneOf: [{type: "null"}, X]` → `allOf: [X], nullable: true`.
fn nullable_choice(object: &mut Object, key: &str) {
    let Some(choices) = object.get_mut(key).and_then(Value::as_array_mut) else { return };
    let before = choices.len();
    choices.retain(|choice| choice.get("type") != Some(&json!("null")));
    if choices.len() == before {
        return;
    }
    let left = std::mem::take(choices);
    object.insert("nullable".to_owned(), json!(true));
    if left.len() > 1 {
        object.insert(key.to_owned(), json!(left));
        return;
    }
    object.remove(key);
    match left.into_iter().next() {
        Some(only) => push(object, "allOf", only),
        None => {
            object.insert("enum".to_owned(), json!([null]));
        }
    }
}

/// `prefixItems` → `items` that may be any of them, as many as there are.
fn tuple(object: &mut Object) {
    if let Some(Value::Array(members)) = object.remove("prefixItems") {
        let count = members.len();
        let mut kinds: Vec<Value> = Vec::new();
        for member in members {
            if !kinds.contains(&member) {
                kinds.push(member);
            }
        }
        let items = if kinds.len() == 1 { kinds.remove(0) } else { json!({ "anyOf": kinds }) };
        object.insert("items".to_owned(), items);
        object.entry("minItems").or_insert_with(|| json!(count));
        object.entry("maxItems").or_insert_with(|| json!(count));
    }
    if object.get("type") == Some(&json!("array")) {
        object.entry("items").or_insert_with(|| json!({}));
    }
}

/// `examples: [a, b]` → `example: a`.
fn one_example(object: &mut Object) {
    if let Some(Value::Array(examples)) = object.remove("examples")
        && let Some(first) = examples.into_iter().next()
    {
        object.entry("example").or_insert(first);
    }
}

/// `exclusiveMinimum: 0` → `minimum: 0, exclusiveMinimum: true`, and likewise the maximum. Where
/// the inclusive limit there is the stricter one, it alone says it all; `at_least` tells whether the
/// first of two bounds is as strict as the second.
fn exclusive(object: &mut Object, key: &str, limit: &str, at_least: fn(&f64, &f64) -> bool) {
    let Some(bound) = object.get(key).filter(|bound| bound.is_number()).cloned() else { return };
    object.remove(key);
    let inclusive = object.get(limit).and_then(Value::as_f64);
    let exclusive = bound.as_f64();
    if let (Some(inclusive), Some(exclusive)) = (inclusive, exclusive)
        && !at_least(&exclusive, &inclusive)
    {
        return;
    }
    object.insert(limit.to_owned(), bound);
    object.insert(key.to_owned(), json!(true));
}

/// `contentEncoding: "base64"` → `format: "byte"`; other content of a string → `binary`, except JSON,
/// which is text.
fn content(object: &mut Object) {
    let encoding = object.remove("contentEncoding");
    let media = object.remove("contentMediaType");
    let format = match (encoding, media) {
        (Some(encoding), _) if encoding == "base64" => "byte",
        (None, Some(media)) if media != "application/json" => "binary",
        _ => return,
    };
    object.entry("type").or_insert_with(|| json!("string"));
    object.insert("format".to_owned(), json!(format));
}

/// 3.0 ignores what stands beside a `$ref`, so that moves into an `allOf`.
fn reference(object: &mut Object) {
    if object.len() > 1
        && let Some(target) = object.remove("$ref")
    {
        push(object, "allOf", json!({ "$ref": target }));
    }
}

fn push(object: &mut Object, key: &str, value: Value) {
    match object.get_mut(key).and_then(Value::as_array_mut) {
        Some(list) => list.push(value),
        None => {
            object.insert(key.to_owned(), json!([value]));
        }
    }
}

#[cfg(test)]
mod tests;
