//! Twitter-SMNER: CoNLL text, and a labelme file with the masks of each picture's entities.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::outline::{polygons, union};
use super::{ConllOptions, Result, conll, text, wrong};
use crate::eval::gold::{Annotated, DataSet, GoldPost};
use crate::mask::Rle;

/// Segments of the polygon that stands for a circle.
const CIRCLE: usize = 64;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    image_width: u32,
    image_height: u32,
    #[serde(default)]
    shapes: Vec<Shape>,
}

#[derive(Deserialize)]
struct Shape {
    label: String,
    points: Vec<[f64; 2]>,
    #[serde(default = "polygon")]
    shape_type: String,
    group_id: Option<u64>,
}

fn polygon() -> String {
    "polygon".to_owned()
}

/// Reads a split of Twitter-SMNER: a CoNLL file, and a folder with `<id>.json`. A shape belongs to
/// every entity of its picture that has exactly its label. Shapes of one group are one mask;
/// otherwise each is a mask of its own. Entities without a mask are not shown.
///
/// # Errors
/// When a file cannot be read or is not what it should be.
pub fn labelme(sentences: &Path, shapes: &Path, options: &ConllOptions) -> Result<DataSet> {
    let mut set = conll(sentences, options)?;
    for post in &mut set.posts {
        let picture = post.id.split('~').next().unwrap_or_default();
        let path = shapes.join(format!("{picture}.json"));
        link(post, &path)?;
    }
    set.name = format!("twitter-smner {}", set.name);
    set.annotated = Annotated { boxes: true, masks: true, ..set.annotated };
    Ok(set)
}

fn link(post: &mut GoldPost, path: &PathBuf) -> Result<()> {
    let file: Option<File> = match path.is_file() {
        true => Some(serde_json::from_str(&text(path)?).map_err(|error| wrong(path, error))?),
        false => None,
    };
    post.size = file.as_ref().map(|file| (file.image_width, file.image_height));
    for entity in &mut post.entities {
        entity.masks = match &file {
            Some(file) => file.masks(&entity.text).map_err(|what| wrong(path, what))?,
            None => Vec::new(),
        };
        entity.boxes = entity.masks.iter().filter_map(Rle::bbox).collect();
        entity.shown = Some(!entity.masks.is_empty());
    }
    Ok(())
}

impl File {
    /// The masks with a label, those of one group as one.
    fn masks(&self, label: &str) -> std::result::Result<Vec<Rle>, String> {
        let mut groups: BTreeMap<(u64, usize), Vec<Rle>> = BTreeMap::new();
        for (index, shape) in self.shapes.iter().enumerate().filter(|(_, s)| s.label == label) {
            let outline = shape.outline()?;
            let mask = polygons(&[outline], self.image_width, self.image_height)
                .ok_or_else(|| format!("the shape `{label}` cannot be drawn"))?;
            let group = shape.group_id.map_or((u64::MAX, index), |id| (id, 0));
            groups.entry(group).or_default().push(mask);
        }
        Ok(groups.values().filter_map(|masks| union(masks)).collect())
    }
}

impl Shape {
    /// `x1 y1 x2 y2 …`
    fn outline(&self) -> std::result::Result<Vec<f64>, String> {
        match (self.shape_type.as_str(), &self.points[..]) {
            ("polygon", points) if points.len() >= 3 => Ok(points.concat()),
            ("rectangle", &[[x1, y1], [x2, y2]]) => Ok(vec![x1, y1, x2, y1, x2, y2, x1, y2]),
            ("circle", &[[x, y], edge]) => {
                let radius = (edge[0] - x).hypot(edge[1] - y);
                let turn = std::f64::consts::TAU / CIRCLE as f64;
                let point = |step: usize| {
                    let (sin, cos) = (step as f64 * turn).sin_cos();
                    [x + radius * cos, y + radius * sin]
                };
                Ok((0..CIRCLE).flat_map(point).collect())
            }
            (kind, points) => Err(format!("a {kind} of {} points", points.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(shapes: serde_json::Value) -> Result<DataSet> {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("test.txt");
        std::fs::write(&text, "IMGID:1\nAnna\tB-PER\nParis\tB-LOC\n").unwrap();
        let file =
            json!({"imageWidth": 20, "imageHeight": 10, "imagePath": "1.jpg", "shapes": shapes});
        std::fs::write(folder.path().join("1.json"), file.to_string()).unwrap();
        labelme(&text, folder.path(), &ConllOptions::default())
    }

    fn rectangle(x: f64, group: Option<u64>) -> serde_json::Value {
        json!({"label": "Anna", "points": [[x, 0.0], [x + 4.0, 5.0]], "shape_type": "rectangle",
               "group_id": group, "flags": {}})
    }

    #[test]
    fn shapes_of_a_group_are_one_mask() {
        let apart = read(json!([rectangle(0.0, None), rectangle(8.0, None)])).unwrap();
        let [anna, paris] = &apart.posts[0].entities[..] else { panic!() };
        assert_eq!(anna.masks.iter().map(Rle::area).collect::<Vec<_>>(), [20, 20]);
        assert_eq!((paris.shown, paris.masks.len()), (Some(false), 0));
        let together = read(json!([rectangle(0.0, Some(3)), rectangle(8.0, Some(3))])).unwrap();
        let anna = &together.posts[0].entities[0];
        assert_eq!(anna.masks.iter().map(Rle::area).collect::<Vec<_>>(), [40]);
        assert_eq!(anna.boxes[0].to_array(), [0.0, 0.0, 12.0, 5.0]);
    }

    #[test]
    fn circles_are_round_and_nonsense_is_named() {
        let circle =
            json!([{"label": "Anna", "points": [[10, 5], [14, 5]], "shape_type": "circle"}]);
        let area = f64::from(read(circle).unwrap().posts[0].entities[0].masks[0].area());
        assert!((area - 16.0 * std::f64::consts::PI).abs() < 6.0, "{area}");
        let line = json!([{"label": "Anna", "points": [[1, 5], [4, 5]], "shape_type": "line"}]);
        assert!(read(line).unwrap_err().to_string().contains("line of 2 points"));
    }
}
