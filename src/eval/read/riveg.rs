//! The files that RiVEG's authors released with their evaluation script: gold labels of the test
//! split, and their predictions.

use std::collections::HashMap;
use std::path::Path;

use super::{Result, text, wrong_line};
use crate::eval::gold::{Annotated, DataSet, GoldEntity, GoldPost, kind_named};
use crate::eval::prediction::{PredictedEntity, PredictedPost, Predictions, bbox};
use crate::models::EntityType;
use crate::vision::BoundingBox;

/// Between the parts of a line.
const PARTS: &str = "###";
/// Before each gold box.
const BOX: &str = "&";
/// What stands for an entity that the picture does not show.
const HIDDEN: &str = "0";

/// Reads the gold labels: `<id>.jpg###<words>(<TYPE>)###<description>###0|2###&[box]&[box]…`.
///
/// # Errors
/// When the file cannot be read or a line has another form.
pub fn riveg_gold(path: &Path) -> Result<DataSet> {
    let text = text(path)?;
    let mut posts: Vec<GoldPost> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let (id, entity) = gold(line)
            .ok_or_else(|| wrong_line(path, index + 1, "not a line of RiVEG's gold labels"))?;
        let place = *places.entry(id.clone()).or_insert_with(|| {
            posts.push(GoldPost { id, ..GoldPost::default() });
            posts.len() - 1
        });
        posts[place].entities.push(entity);
    }
    let annotated = Annotated { boxes: true, ..Annotated::default() };
    Ok(DataSet { name: "riveg gold labels".to_owned(), posts, annotated, questions: false })
}

fn gold(line: &str) -> Option<(String, GoldEntity)> {
    let mut parts = line.split(PARTS);
    let (image, named, _, shown, boxes) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let (words, kind) = words_and_type(named)?;
    let shown = shown != HIDDEN;
    let boxes = if shown {
        boxes.split(BOX).skip(1).map(numbers).collect::<Option<_>>()?
    } else {
        Vec::new()
    };
    let named = GoldEntity::named(words, kind);
    Some((picture_id(image), GoldEntity { shown: Some(shown), boxes, ..named }))
}

/// `[x1, y1, x2, y2]`
fn numbers(text: &str) -> Option<BoundingBox> {
    let inner = text.trim().strip_prefix('[')?.strip_suffix(']')?;
    let edges: Option<Vec<f64>> =
        inner.split(',').map(|number| number.trim().parse().ok()).collect();
    bbox(&edges?).ok()
}

/// Reads predictions, as the authors' script takes them. 29 of the released ones say `MISC` where the
/// labels say `OTHER`; the script compares these words, so none of them is right there, nor here (26
/// would be). What the prediction says of posts without gold is wrong too: see
/// [`DataSet::with_posts_of`].
///
/// `Imageid:<id>.jpg#<hex>###<words>(<TYPE>)###<expression>###0|2`. They have no
/// boxes: what the grounding network answered was not released.
///
/// # Errors
/// When the file cannot be read or a line has another form.
pub fn riveg_predictions(path: &Path) -> Result<Predictions> {
    let text = text(path)?;
    let mut found = Predictions::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let (id, entity) = predicted(line)
            .ok_or_else(|| wrong_line(path, index + 1, "not a line of RiVEG's predictions"))?;
        let post = found.entry(id).or_insert_with(|| Some(PredictedPost::default()));
        post.get_or_insert_default().entities.push(entity);
    }
    Ok(found)
}

fn predicted(line: &str) -> Option<(String, PredictedEntity)> {
    let mut parts = line.strip_prefix("Imageid:")?.split(PARTS);
    let (image, named, _, shown) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let (text, kind) = match named.strip_suffix("(MISC)") {
        Some(text) => (text, None),
        None => words_and_type(named).map(|(text, kind)| (text, Some(kind)))?,
    };
    let entity = PredictedEntity {
        text: text.to_owned(),
        kind,
        span: None,
        score: None,
        fine: None,
        groundable: Some(shown != HIDDEN),
        entailment_score: None,
        bbox: None,
        box_score: None,
        mask: None,
        mask_score: None,
    };
    Some((picture_id(image.split('#').next()?), entity))
}

fn picture_id(file: &str) -> String {
    file.strip_suffix(".jpg").unwrap_or(file).to_owned()
}

/// `Garfield Park(LOC)`
fn words_and_type(named: &str) -> Option<(&str, EntityType)> {
    let (words, kind) = named.strip_suffix(')')?.rsplit_once('(')?;
    Some((words, kind_named(kind)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let line = "O_1.jpg###Anna (B)(PER)###a person###2###&[1.0, 2.0, 3.5, 4.0]&[0, 0, 1, 1]";
        let (id, entity) = gold(line).unwrap();
        assert_eq!((id.as_str(), entity.text.as_str()), ("O_1", "Anna (B)"));
        assert_eq!(entity.boxes[0].to_array(), [1.0, 2.0, 3.5, 4.0]);
        assert_eq!(entity.boxes.len(), 2);
        let (_, hidden) = gold("1.jpg###X(LOC)###a park###0###&[0, 0, 0, 0]").unwrap();
        assert_eq!((hidden.shown, hidden.boxes.len()), (Some(false), 0));
        let (id, entity) = predicted("Imageid:7.jpg#ab###X Y(OTHER)###X Y(OTHER)-a z###2").unwrap();
        assert_eq!((id.as_str(), entity.text.as_str()), ("7", "X Y"));
        assert_eq!((entity.kind, entity.groundable), (Some(EntityType::Misc), Some(true)));
        assert_eq!(predicted("Imageid:7.jpg#ab###X(MISC)###X-a z###2").unwrap().1.kind, None);
        assert!(gold("nonsense").is_none() && predicted("nonsense").is_none());
    }
}
