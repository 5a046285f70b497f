//! Photos with boxes and masks in COCO's form, as questions: does the picture show this, and where?

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::outline::polygons;
use super::{Result, text, wrong};
use crate::eval::gold::{Annotated, DataSet, GoldEntity, GoldPost, Instance};
use crate::mask::Rle;
use crate::models::{CharSpan, EntityType};
use crate::vision::BoundingBox;

/// Instances that take less of their picture are not asked about.
const SMALLEST: f64 = 0.02;

/// What to ask of a file of instances.
#[derive(Debug, Clone, Default)]
pub struct CocoQuestions {
    /// The JSON file; the pictures lie in `images/` beside it.
    pub annotations: PathBuf,
    /// Only pictures whose `split` or `coco_split` is one of these; all where there are none.
    pub splits: Vec<String>,
    /// Also ask, as often, for classes that a picture does not show: only where every instance of
    /// every class is annotated.
    pub absent: bool,
}

#[derive(Deserialize)]
struct File {
    images: Vec<Image>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Image {
    id: u64,
    file_name: String,
    width: u32,
    height: u32,
    split: Option<String>,
    coco_split: Option<String>,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: u64,
    category_id: u64,
    bbox: [f64; 4],
    #[serde(default)]
    iscrowd: u8,
    #[serde(default)]
    segmentation: Segmentation,
}

#[derive(Deserialize)]
struct Category {
    id: u64,
    name: String,
}

/// Polygons, or run lengths at the picture's size.
#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Segmentation {
    Polygons(Vec<Vec<f64>>),
    Runs {
        counts: Runs,
    },
    #[default]
    Nothing,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Runs {
    Compressed(String),
    Plain(Vec<u32>),
}

impl Segmentation {
    fn mask(&self, width: u32, height: u32) -> Option<Rle> {
        match self {
            Self::Polygons(outlines) if outlines.is_empty() => None,
            Self::Polygons(outlines) => polygons(outlines, width, height),
            Self::Runs { counts: Runs::Plain(counts) } => {
                Rle::from_counts(counts, width, height).ok()
            }
            Self::Runs { counts: Runs::Compressed(counts) } => {
                Rle::from_compressed(counts, width, height).ok()
            }
            Self::Nothing => None,
        }
    }
}

/// Reads photos as posts whose text lists the classes asked about. A class that the picture shows is
/// to be found at its largest instance; crowds and small instances are left out.
///
/// # Errors
/// When the file cannot be read or is not in COCO's form.
pub fn coco(questions: &CocoQuestions) -> Result<DataSet> {
    let path = &questions.annotations;
    let file: File = serde_json::from_str(&text(path)?).map_err(|error| wrong(path, error))?;
    let names: BTreeMap<u64, &str> =
        file.categories.iter().map(|c| (c.id, c.name.as_str())).collect();
    let folder = path.parent().unwrap_or(Path::new("."));
    let set_name =
        folder.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let mut by_image: BTreeMap<u64, Vec<&Annotation>> = BTreeMap::new();
    for annotation in &file.annotations {
        by_image.entry(annotation.image_id).or_default().push(annotation);
    }
    let mut posts = Vec::new();
    for image in &file.images {
        let own = [&image.split, &image.coco_split];
        let wanted = own.into_iter().flatten().any(|split| questions.splits.contains(split));
        if !wanted && !questions.splits.is_empty() {
            continue;
        }
        let annotations = by_image.get(&image.id).map_or(&[][..], Vec::as_slice);
        let mut post = Photo { image, annotations, names: &names }.post(questions.absent);
        post.id = format!("{set_name}/{}", image.file_name);
        post.image = Some(folder.join("images").join(&image.file_name));
        if !post.entities.is_empty() || !post.instances.is_empty() {
            posts.push(post);
        }
    }
    let annotated = Annotated { boxes: true, masks: true, fine: false };
    Ok(DataSet { name: set_name, posts, annotated, questions: true })
}

/// A picture with what is known of it.
struct Photo<'a> {
    image: &'a Image,
    annotations: &'a [&'a Annotation],
    names: &'a BTreeMap<u64, &'a str>,
}

impl Photo<'_> {
    fn post(&self, absent: bool) -> GoldPost {
        let mut post =
            GoldPost { size: Some((self.image.width, self.image.height)), ..GoldPost::default() };
        let shown = self.largest();
        for &(category, annotation) in &shown {
            self.ask(&mut post, category, Some(annotation));
        }
        if absent {
            for category in self.absent(shown.len()) {
                self.ask(&mut post, category, None);
            }
        }
        post.instances = self.instances();
        post
    }

    /// The largest instance of every class with a large one.
    fn largest(&self) -> Vec<(u64, &Annotation)> {
        let mut found: BTreeMap<u64, &Annotation> = BTreeMap::new();
        let area = |annotation: &Annotation| annotation.bbox[2] * annotation.bbox[3];
        for annotation in self.annotations.iter().filter(|a| a.iscrowd == 0) {
            let best = found.entry(annotation.category_id).or_insert(annotation);
            if area(annotation) > area(best) {
                *best = annotation;
            }
        }
        let whole = f64::from(self.image.width) * f64::from(self.image.height);
        found.retain(|_, annotation| area(annotation) > SMALLEST * whole);
        found.into_iter().collect()
    }

    /// As many classes that the picture does not show: persons half of the time, the others drawn
    /// evenly, by a generator that starts from the picture's id.
    fn absent(&self, count: usize) -> Vec<u64> {
        let shown = |category: &u64| self.annotations.iter().any(|a| a.category_id == *category);
        let mut left: Vec<u64> = self.names.keys().copied().filter(|c| !shown(c)).collect();
        let mut random = SplitMix(self.image.id);
        let mut drawn = Vec::new();
        while drawn.len() < count && !left.is_empty() {
            let person = left.iter().position(|c| self.is_person(*c));
            let at = match person {
                Some(at) if random.next().is_multiple_of(2) => at,
                _ => (random.next() % left.len() as u64) as usize,
            };
            drawn.push(left.remove(at));
        }
        drawn
    }

    fn is_person(&self, category: u64) -> bool {
        self.names.get(&category) == Some(&"person")
    }

    /// Adds a class to the post's text and its entities.
    fn ask(&self, post: &mut GoldPost, category: u64, shown: Option<&Annotation>) {
        let name = self.names.get(&category).copied().unwrap_or("thing");
        if !post.text.is_empty() {
            post.text += ", ";
        }
        let start = post.text.chars().count();
        post.text += name;
        let person = self.is_person(category);
        let kind = if person { EntityType::Per } else { EntityType::Misc };
        let article = if name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        post.entities.push(GoldEntity {
            span: Some(CharSpan { start, end: post.text.chars().count() }),
            expression: Some(format!("{name} ({kind})-{article} {name}")),
            shown: Some(shown.is_some()),
            boxes: shown.iter().map(|annotation| bounding(&annotation.bbox)).collect(),
            masks: shown.iter().filter_map(|annotation| self.mask(annotation)).collect(),
            group: Some(if person { "person" } else { "thing" }),
            ..GoldEntity::named(name, kind)
        });
    }

    fn mask(&self, annotation: &Annotation) -> Option<Rle> {
        annotation.segmentation.mask(self.image.width, self.image.height)
    }

    /// Every instance with a mask that is large enough, with its box.
    fn instances(&self) -> Vec<Instance> {
        let whole = f64::from(self.image.width) * f64::from(self.image.height);
        let instance = |annotation: &&&Annotation| {
            let mask = self.mask(annotation)?;
            let large = f64::from(mask.area()) > SMALLEST * whole;
            large.then(|| Instance { bbox: bounding(&annotation.bbox), mask })
        };
        let alone = self.annotations.iter().filter(|annotation| annotation.iscrowd == 0);
        alone.filter_map(|annotation| instance(&annotation)).collect()
    }
}

/// COCO's left, top, width and height.
fn bounding(&[x, y, width, height]: &[f64; 4]) -> BoundingBox {
    BoundingBox::new(x as f32, y as f32, (x + width) as f32, (y + height) as f32)
}

/// A small generator, so that the questions are the same ones everywhere (Steele, Lea and Flood,
/// "Fast Splittable Pseudorandom Number Generators", 2014).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(absent: bool) -> DataSet {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("instances.json");
        let square = |x: u32, side: u32| {
            json!({"image_id": 1, "category_id": 1, "bbox": [x, 0, side, side],
                   "segmentation": [[x, 0, x + side, 0, x + side, side, x, side]]})
        };
        let file = json!({
            "images": [
                {"id": 1, "file_name": "a.jpg", "width": 40, "height": 20, "split": "heldout"},
                {"id": 2, "file_name": "b.jpg", "width": 40, "height": 20, "split": "train"},
            ],
            "annotations": [
                square(0, 5), square(20, 10),
                {"image_id": 1, "category_id": 2, "bbox": [0, 0, 2, 2]},
                {"image_id": 1, "category_id": 3, "bbox": [0, 0, 40, 20], "iscrowd": 1,
                 "segmentation": {"size": [20, 40], "counts": [0, 800]}},
            ],
            "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"},
                           {"id": 3, "name": "car"}, {"id": 4, "name": "owl"}],
        });
        std::fs::write(&path, file.to_string()).unwrap();
        let splits = vec!["heldout".to_owned()];
        coco(&CocoQuestions { annotations: path, splits, absent }).unwrap()
    }

    #[test]
    fn the_largest_instance_is_asked_for() {
        let set = set(false);
        let [post] = &set.posts[..] else { panic!() };
        let [person] = &post.entities[..] else { panic!("small things and crowds are left out") };
        assert_eq!(person.boxes[0].to_array(), [20.0, 0.0, 30.0, 10.0]);
        assert_eq!(person.masks[0].area(), 100);
        assert_eq!(person.expression.as_deref(), Some("person (PER)-a person"));
        assert_eq!(post.instances.len(), 2);
    }

    #[test]
    fn as_many_absent_classes_are_asked_for() {
        let set = set(true);
        let [_, absent] = &set.posts[0].entities[..] else { panic!() };
        assert_eq!((absent.text.as_str(), absent.shown), ("owl", Some(false)));
        assert_eq!(absent.expression.as_deref(), Some("owl (MISC)-an owl"));
        assert_eq!(set.posts[0].text, "person, owl");
        assert_eq!(absent.span, Some(CharSpan { start: 8, end: 11 }));
    }
}
