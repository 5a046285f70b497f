//! Settings that lie beside a state dict, as JSON.

use serde_json::{Map, Value};

use super::container::Content;
use super::graph::{Graph, Node, Ref};

/// Where fairseq keeps them: now, and in older files.
const KEYS: [&str; 2] = ["cfg", "args"];
/// How deep settings lie in each other.
const MAX_DEPTH: usize = 12;
/// Far more settings than a network has.
const MAX_VALUES: usize = 20_000;

/// The settings in a saved object, by their keys; `Null` where there are none.
pub(super) fn of(content: &Content) -> Value {
    let mut left = MAX_VALUES;
    let mut read = |key: &&str| {
        let value = content.graph.get(content.root, key)?;
        Some(((*key).to_owned(), json(&content.graph, value, 0, &mut left)))
    };
    let found: Map<String, Value> = KEYS.iter().filter_map(&mut read).collect();
    if found.is_empty() { Value::Null } else { Value::Object(found) }
}

/// A value as JSON: of objects their attributes, of what is no setting `Null`.
fn json(graph: &Graph, at: Ref, depth: usize, left: &mut usize) -> Value {
    if depth > MAX_DEPTH || *left == 0 {
        return Value::Null;
    }
    *left -= 1;
    match graph.node(at) {
        Node::Bool(value) => (*value).into(),
        Node::Int(value) => (*value).into(),
        Node::Float(value) => (*value).into(),
        Node::Text(text) => (**text).into(),
        Node::Tuple(elements) | Node::List(elements) => {
            elements.iter().map(|&element| json(graph, element, depth + 1, left)).collect()
        }
        Node::Dict(items) => map(graph, items, depth, left),
        Node::Object(_) => object(graph, at, depth, left),
        _ => Value::Null,
    }
}

/// An object's attributes; of OmegaConf's containers and nodes what they hold.
fn object(graph: &Graph, at: Ref, depth: usize, left: &mut usize) -> Value {
    let Some(attributes) = graph.attributes(at) else {
        return map(graph, &graph.items(at), depth, left);
    };
    match ["_content", "_val"].iter().find_map(|key| graph.get(attributes, key)) {
        Some(inner) => json(graph, inner, depth + 1, left),
        None => map(graph, &graph.items(attributes), depth, left),
    }
}

fn map(graph: &Graph, items: &[(Ref, Ref)], depth: usize, left: &mut usize) -> Value {
    let mut map = Map::new();
    for &(key, value) in items {
        if let Some(key) = graph.text(key) {
            map.insert(key.to_owned(), json(graph, value, depth + 1, left));
        }
    }
    Value::Object(map)
}
