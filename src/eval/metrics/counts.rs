//! Plain counting.

use serde::Serialize;

use crate::eval::gold::DataSet;
use crate::models::EntityType;

/// Right ones among what was predicted and what is gold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Prf {
    /// Right predictions.
    pub correct: usize,
    /// Predictions.
    pub predicted: usize,
    /// What there was to find.
    pub gold: usize,
}

impl Prf {
    /// Share of the predictions that is right; 0 without predictions.
    pub fn precision(&self) -> f64 {
        ratio(self.correct, self.predicted)
    }

    /// Share of the gold that was found; 0 without gold.
    pub fn recall(&self) -> f64 {
        ratio(self.correct, self.gold)
    }

    /// Their harmonic mean.
    pub fn f1(&self) -> f64 {
        ratio(2 * self.correct, self.predicted + self.gold)
    }
}

/// Some of many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Those that are right.
    pub right: usize,
    /// All of them.
    pub of: usize,
}

impl Share {
    /// Counts one more.
    pub fn add(&mut self, right: bool) {
        self.right += usize::from(right);
        self.of += 1;
    }

    /// As a number in `0..=1`; 0 of none.
    pub fn value(&self) -> f64 {
        ratio(self.right, self.of)
    }
}

pub(super) fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// What a data set consists of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DataSetCounts {
    /// Posts.
    pub posts: usize,
    /// Posts without any entity.
    pub without_entity: usize,
    /// Posts whose picture's file was found.
    pub with_image: usize,
    /// Entities.
    pub entities: usize,
    /// Entities of each type.
    pub per: usize,
    /// …
    pub loc: usize,
    /// …
    pub org: usize,
    /// …
    pub misc: usize,
    /// Entities that the picture shows.
    pub shown: usize,
    /// Those with more than one box.
    pub several_boxes: usize,
    /// Their masks.
    pub masks: usize,
}

/// Counts a data set.
pub fn count(set: &DataSet) -> DataSetCounts {
    let of = |kind| set.entities().filter(|entity| entity.kind == kind).count();
    DataSetCounts {
        posts: set.posts.len(),
        without_entity: set.posts.iter().filter(|post| post.entities.is_empty()).count(),
        with_image: set.posts.iter().filter(|post| post.image.is_some()).count(),
        entities: set.entities().count(),
        per: of(EntityType::Per),
        loc: of(EntityType::Loc),
        org: of(EntityType::Org),
        misc: of(EntityType::Misc),
        shown: set.entities().filter(|entity| entity.shown == Some(true)).count(),
        several_boxes: set.entities().filter(|entity| entity.boxes.len() > 1).count(),
        masks: set.entities().map(|entity| entity.masks.len()).sum(),
    }
}
