//! What can be had without looking: figures that a network has to beat.

use serde::Serialize;

use super::counts::Share;
use super::matching::IouRule;
use crate::eval::gold::{DataSet, GoldEntity};
use crate::vision::BoundingBox;

/// Steps of a picture's side in which the best constant box is looked for.
const STEPS: usize = 20;

/// What guessing reaches on a data set; the guesses are the best ones for this very set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Baselines {
    /// Saying of every entity of a type what holds for most of them: shown or not.
    pub type_prior: Option<Share>,
    /// Answering every shown entity with one and the same box, as a share of the picture.
    pub constant_box: Option<ConstantBox>,
}

/// The best constant box.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ConstantBox {
    /// Left, top, right and bottom edge as shares of the picture's sides.
    pub edges: [f64; 4],
    /// The shown entities that it is right for.
    pub share: Share,
}

/// Guesses what can be guessed about a data set.
pub fn baselines(set: &DataSet, rule: IouRule) -> Baselines {
    Baselines { type_prior: type_prior(set), constant_box: constant_box(set, rule) }
}

fn type_prior(set: &DataSet) -> Option<Share> {
    let known: Vec<&GoldEntity> = set.entities().filter(|e| e.shown.is_some()).collect();
    let mut kinds: Vec<_> = known.iter().map(|entity| entity.kind).collect();
    kinds.sort();
    kinds.dedup();
    let mut prior = Share::default();
    for kind in kinds {
        let of = known.iter().filter(|entity| entity.kind == kind).count();
        let shown = known.iter().filter(|e| e.kind == kind && e.shown == Some(true)).count();
        prior.right += shown.max(of - shown);
        prior.of += of;
    }
    (prior.of > 0).then_some(prior)
}

fn constant_box(set: &DataSet, rule: IouRule) -> Option<ConstantBox> {
    let gold = relative_boxes(set);
    if gold.is_empty() {
        return None;
    }
    let spans = || (0..STEPS).flat_map(|from| (from + 1..=STEPS).map(move |to| (from, to)));
    let mut best: Option<ConstantBox> = None;
    for (x1, x2) in spans() {
        for (y1, y2) in spans() {
            let edges = [x1, y1, x2, y2].map(|step| step as f64 / STEPS as f64);
            let right = gold.iter().filter(|boxes| is_right(&edges, boxes, rule)).count();
            if best.is_none_or(|best| right > best.share.right) {
                let share = Share { right, of: gold.len() };
                best = Some(ConstantBox { edges, share });
            }
        }
    }
    best
}

/// The boxes of every shown entity as shares of its picture, where the picture's size is known.
fn relative_boxes(set: &DataSet) -> Vec<Vec<BoundingBox>> {
    let mut found = Vec::new();
    for post in &set.posts {
        let Some((width, height)) = post.size else { continue };
        let (sx, sy) = (1.0 / width as f32, 1.0 / height as f32);
        for entity in post.entities.iter().filter(|entity| !entity.boxes.is_empty()) {
            found.push(entity.boxes.iter().map(|bbox| bbox.scale(sx, sy)).collect());
        }
    }
    found
}

fn is_right(edges: &[f64; 4], boxes: &[BoundingBox], rule: IouRule) -> bool {
    let [x1, y1, x2, y2] = edges.map(|edge| edge as f32);
    let guess = BoundingBox::new(x1, y1, x2, y2);
    boxes.iter().any(|bbox| rule.holds(f64::from(guess.iou(bbox)), 0.5))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::gold::GoldPost;
    use crate::eval::metrics::tests::gold;
    use crate::models::EntityType::{Loc, Per};

    #[test]
    fn the_best_guesses_are_found() {
        let box_at = |x: f32| BoundingBox::new(x, 0.0, x + 50.0, 100.0);
        let post = |size, entities| GoldPost { size, entities, ..GoldPost::default() };
        let hidden = || gold("A", Loc, &[]);
        let set = DataSet {
            posts: vec![
                post(Some((100, 100)), vec![gold("A", Per, &[box_at(0.0)]), hidden()]),
                post(Some((200, 200)), vec![gold("B", Per, &[box_at(0.0).scale(2.0, 2.0)])]),
                post(Some((100, 100)), vec![gold("C", Per, &[box_at(50.0)]), hidden()]),
                post(None, vec![gold("D", Per, &[])]),
            ],
            ..DataSet::default()
        };
        let found = baselines(&set, IouRule::Strict);
        assert_eq!(found.type_prior, Some(Share { right: 5, of: 6 }));
        assert_eq!(found.constant_box.unwrap().share, Share { right: 2, of: 3 });
    }
}
