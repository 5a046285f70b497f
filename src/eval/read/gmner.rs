//! Twitter-GMNER: CoNLL text, and a Pascal-VOC file with gold boxes for each picture that has any.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{ConllOptions, Result, conll, text, wrong};
use crate::eval::gold::{Annotated, DataSet, GoldPost};
use crate::vision::BoundingBox;

/// Where the parts of the data set lie.
#[derive(Debug, Clone, Default)]
pub struct GmnerPaths {
    /// The CoNLL file of a split.
    pub text: PathBuf,
    /// The folder with `<id>.xml`.
    pub boxes: PathBuf,
    /// What else comes with the text.
    pub options: ConllOptions,
}

#[derive(Deserialize)]
struct Annotation {
    size: Size,
    #[serde(default)]
    object: Vec<Object>,
}

#[derive(Deserialize)]
struct Size {
    width: u32,
    height: u32,
}

#[derive(Deserialize)]
struct Object {
    name: String,
    bndbox: Corners,
}

#[derive(Deserialize)]
struct Corners {
    xmin: f32,
    ymin: f32,
    xmax: f32,
    ymax: f32,
}

/// Reads a split of Twitter-GMNER. A box belongs to every entity of its picture that has exactly
/// its name; an entity without a box is not shown.
///
/// # Errors
/// When a file cannot be read or is not what it should be.
pub fn gmner(paths: &GmnerPaths) -> Result<DataSet> {
    let mut set = conll(&paths.text, &paths.options)?;
    let mut known: HashMap<String, Option<Annotation>> = HashMap::new();
    for post in &mut set.posts {
        let picture = picture_of(&post.id).to_owned();
        if !known.contains_key(&picture) {
            known.insert(picture.clone(), annotation(&paths.boxes, &picture)?);
        }
        link(post, known[&picture].as_ref());
    }
    set.name = format!("twitter-gmner {}", set.name);
    set.annotated = Annotated { boxes: true, ..set.annotated };
    Ok(set)
}

/// The picture that a post's id names: later posts with the same picture have an id of their own.
fn picture_of(id: &str) -> &str {
    id.split('~').next().unwrap_or(id)
}

/// The boxes of a picture; `None` where it has no file, as pictures without a box.
fn annotation(folder: &Path, picture: &str) -> Result<Option<Annotation>> {
    let path = folder.join(format!("{picture}.xml"));
    if !path.is_file() {
        return Ok(None);
    }
    quick_xml::de::from_str(&text(&path)?).map(Some).map_err(|error| wrong(&path, error))
}

fn link(post: &mut GoldPost, annotation: Option<&Annotation>) {
    post.size = annotation.map(|picture| (picture.size.width, picture.size.height));
    for entity in &mut post.entities {
        let objects = annotation.map_or(&[][..], |picture| &picture.object);
        let own = objects.iter().filter(|object| object.name == entity.text);
        entity.boxes = own
            .map(|Object { bndbox, .. }| {
                BoundingBox::new(bndbox.xmin, bndbox.ymin, bndbox.xmax, bndbox.ymax)
            })
            .collect();
        entity.shown = Some(!entity.boxes.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_linked_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let object = |name: &str, x: u32| {
            format!(
                "<object><name>{name}</name><pose>U</pose><bndbox><xmin>{x}</xmin><ymin>2</ymin>\
                 <xmax>30</xmax><ymax>40</ymax></bndbox></object>"
            )
        };
        let text = write("t.txt", "IMGID:1\nA\tB-PER\n&\tI-PER\nB\tI-PER\nC\tB-LOC\n");
        write(
            "1.xml",
            &format!(
                "<annotation><size><width>50</width><height>60</height><depth>3</depth></size>\
                 {}{}{}</annotation>",
                object("A &amp; B", 1),
                object("A &amp; B", 5),
                object("D", 9)
            ),
        );
        let boxes = folder.path().to_owned();
        let set = gmner(&GmnerPaths { text, boxes, ..GmnerPaths::default() }).unwrap();
        let [who, place] = &set.posts[0].entities[..] else { panic!() };
        assert_eq!((who.boxes.len(), who.shown), (2, Some(true)));
        assert_eq!(who.boxes[1].to_array(), [5.0, 2.0, 30.0, 40.0]);
        assert_eq!((place.boxes.len(), place.shown), (0, Some(false)));
        assert_eq!(set.posts[0].size, Some((50, 60)));
    }
}
