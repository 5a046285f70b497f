//! Annotated posts, whatever file they came from.

use std::collections::HashSet;
use std::path::PathBuf;

use super::prediction::Predictions;
use crate::mask::Rle;
use crate::models::{CharSpan, EntityType};
use crate::vision::BoundingBox;

/// Annotated posts and what they are annotated with.
#[derive(Debug, Clone, Default)]
pub struct DataSet {
    /// What it calls itself in reports, e.g. `twitter-gmner test`.
    pub name: String,
    /// The posts, in the order of the file.
    pub posts: Vec<GoldPost>,
    /// What the entities are annotated with, besides spans and types.
    pub annotated: Annotated,
    /// Whether the entities are to be given to the pipeline instead of found by it: a set of
    /// photos has questions, not posts.
    pub questions: bool,
}

/// What a data set says about its entities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Annotated {
    /// Whether the picture shows them, and where.
    pub boxes: bool,
    /// Whether the picture shows them, and which pixels.
    pub masks: bool,
    /// Their fine types.
    pub fine: bool,
}

/// One annotated post.
#[derive(Debug, Clone, Default)]
pub struct GoldPost {
    /// Its id; unique in its set.
    pub id: String,
    /// Its text; for sets of words the words with a space between.
    pub text: String,
    /// Its picture's file, where one was found.
    pub image: Option<PathBuf>,
    /// Width and height of the picture, where the set says so.
    pub size: Option<(u32, u32)>,
    /// Knowledge to hand to the tagger.
    pub knowledge: Option<String>,
    /// Its entities, in the order of the set.
    pub entities: Vec<GoldEntity>,
    /// Things of the picture with their masks, to segment from their boxes.
    pub instances: Vec<Instance>,
}

/// A thing of a picture.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Its box in pixels.
    pub bbox: BoundingBox,
    /// Its mask, at the picture's size.
    pub mask: Rle,
}

/// One annotated entity.
#[derive(Debug, Clone)]
pub struct GoldEntity {
    /// Its words, with a space between.
    pub text: String,
    /// Its type.
    pub kind: EntityType,
    /// Where in the post's text; `None` where the set only names it.
    pub span: Option<CharSpan>,
    /// Its fine type.
    pub fine: Option<String>,
    /// A referring expression to ask with.
    pub expression: Option<String>,
    /// Whether the picture shows it; `None` where the set does not say.
    pub shown: Option<bool>,
    /// Its boxes, in pixels; any of them is right.
    pub boxes: Vec<BoundingBox>,
    /// Its masks, at the picture's size; any of them is right.
    pub masks: Vec<Rle>,
    /// What it is counted under besides all: `person`, `thing`.
    pub group: Option<&'static str>,
}

impl GoldEntity {
    /// An entity that is known by its words and type only.
    pub fn named(text: impl Into<String>, kind: EntityType) -> Self {
        Self {
            text: text.into(),
            kind,
            span: None,
            fine: None,
            expression: None,
            shown: None,
            boxes: Vec::new(),
            masks: Vec::new(),
            group: None,
        }
    }
}

impl DataSet {
    /// With empty posts for predictions that the set has no post for: a set that lists entities
    /// alone does not know the posts without any.
    pub fn with_posts_of(mut self, predictions: &Predictions) -> Self {
        let known: HashSet<&str> = self.posts.iter().map(|post| post.id.as_str()).collect();
        let mut others: Vec<String> =
            predictions.keys().filter(|id| !known.contains(id.as_str())).cloned().collect();
        others.sort();
        self.posts.extend(others.into_iter().map(|id| GoldPost { id, ..GoldPost::default() }));
        self
    }

    /// All entities.
    pub fn entities(&self) -> impl Iterator<Item = &GoldEntity> {
        self.posts.iter().flat_map(|post| &post.entities)
    }
}

/// A type as data sets spell it: `PER`, `person`, `B-`less; `OTHER` is `MISC`.
pub(super) fn kind_named(name: &str) -> Option<EntityType> {
    match name.to_ascii_lowercase().as_str() {
        "per" | "person" => Some(EntityType::Per),
        "loc" | "location" => Some(EntityType::Loc),
        "org" | "organization" | "organisation" => Some(EntityType::Org),
        "misc" | "other" => Some(EntityType::Misc),
        _ => None,
    }
}
