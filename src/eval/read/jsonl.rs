//! Our own form: one JSON object per line, the same that `riveg predict --input` reads, with a
//! `gold` that it ignores.

use std::path::Path;

use serde::Deserialize;

use super::{Result, text, wrong_line};
use crate::eval::gold::{Annotated, DataSet, GoldEntity, GoldPost, kind_named};
use crate::eval::prediction::{Mask, bbox};
use crate::models::CharSpan;

/// A line.
#[derive(Deserialize)]
struct Line {
    id: Option<String>,
    text: String,
    image: Option<String>,
    #[serde(default)]
    options: Options,
    gold: Gold,
}

#[derive(Deserialize, Default)]
struct Options {
    knowledge: Option<String>,
}

#[derive(Deserialize)]
struct Gold {
    entities: Vec<Entity>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entity {
    start: usize,
    end: usize,
    #[serde(rename = "type")]
    kind: String,
    fine_type: Option<String>,
    expression: Option<String>,
    groundable: Option<bool>,
    #[serde(default)]
    boxes: Vec<Vec<f64>>,
    #[serde(default)]
    masks: Vec<Mask>,
}

/// Reads posts with their gold. Pictures' paths are relative to the file; a post without an id is
/// known by its line's number, as in predictions.
///
/// # Errors
/// When the file cannot be read or a line is not of this form.
pub fn jsonl(path: &Path) -> Result<DataSet> {
    let text = text(path)?;
    let name = path.file_stem().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let mut set = DataSet { name, ..DataSet::default() };
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let post = serde_json::from_str(line)
            .map_err(|error| error.to_string())
            .and_then(|read| post(read, path, index + 1))
            .map_err(|what| wrong_line(path, index + 1, what))?;
        set.posts.push(post);
    }
    let annotated = Annotated {
        boxes: set.entities().any(|entity| entity.shown.is_some()),
        masks: set.entities().any(|entity| !entity.masks.is_empty()),
        fine: set.entities().any(|entity| entity.fine.is_some()),
    };
    set.annotated = annotated;
    Ok(set)
}

fn post(line: Line, path: &Path, number: usize) -> std::result::Result<GoldPost, String> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let entities = line.gold.entities.into_iter().map(|gold| entity(gold, &line.text));
    Ok(GoldPost {
        entities: entities.collect::<std::result::Result<_, String>>()?,
        id: line.id.unwrap_or_else(|| number.to_string()),
        image: line.image.map(|image| folder.join(image)),
        knowledge: line.options.knowledge,
        text: line.text,
        ..GoldPost::default()
    })
}

fn entity(gold: Entity, text: &str) -> std::result::Result<GoldEntity, String> {
    let kind = kind_named(&gold.kind).ok_or(format!("`{}` is no entity type", gold.kind))?;
    if gold.start >= gold.end || gold.end > text.chars().count() {
        return Err(format!("{}..{} does not lie inside the text", gold.start, gold.end));
    }
    let words: String = text.chars().skip(gold.start).take(gold.end - gold.start).collect();
    let boxes = gold.boxes.iter().map(|edges| bbox(edges).map_err(|error| error.to_string()));
    let masks = gold.masks.iter().map(|mask| mask.decode().map_err(|error| error.to_string()));
    let mut entity = GoldEntity {
        span: Some(CharSpan { start: gold.start, end: gold.end }),
        fine: gold.fine_type,
        expression: gold.expression,
        boxes: boxes.collect::<std::result::Result<_, String>>()?,
        masks: masks.collect::<std::result::Result<_, String>>()?,
        ..GoldEntity::named(words, kind)
    };
    if entity.boxes.is_empty() {
        entity.boxes = entity.masks.iter().filter_map(crate::mask::Rle::bbox).collect();
    }
    entity.shown = gold.groundable.or((!entity.boxes.is_empty()).then_some(true));
    Ok(entity)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Result<DataSet> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("posts.jsonl");
        std::fs::write(&path, content).unwrap();
        jsonl(&path)
    }

    #[test]
    fn gold_is_read() {
        let set = read(concat!(
            r#"{"text": "É Anna", "image": "a.jpg", "gold": {"entities": [{"start": 2, "end": 6, "#,
            r#""type": "PER", "masks": [{"size": [2, 2], "counts": [1, 2, 1]}]}]}}"#,
            "\n\n",
            r#"{"id": "b", "text": "x", "gold": {"entities": []}, "options": {"knowledge": "k"}}"#
        ))
        .unwrap();
        let anna = &set.posts[0].entities[0];
        assert_eq!((anna.text.as_str(), anna.shown), ("Anna", Some(true)));
        assert_eq!(anna.boxes[0].to_array(), [0.0, 0.0, 2.0, 2.0]);
        assert_eq!((set.posts[0].id.as_str(), set.posts[1].id.as_str()), ("1", "b"));
        assert_eq!(set.posts[1].knowledge.as_deref(), Some("k"));
        assert!(set.annotated.masks && set.annotated.boxes && !set.annotated.fine);
    }

    #[test]
    fn a_bad_line_is_named() {
        for (line, words) in [
            (r#"{"text": "x"}"#, "gold"),
            (
                r#"{"text": "x", "gold": {"entities": [{"start": 0, "end": 2, "type": "PER"}]}}"#,
                "inside",
            ),
            (
                r#"{"text": "x", "gold": {"entities": [{"start": 0, "end": 1, "type": "CAT"}]}}"#,
                "CAT",
            ),
        ] {
            let error = read(&format!("\n{line}")).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("jsonl:2"), "{error}");
        }
    }
}
