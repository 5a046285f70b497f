//! Examples to look at, sorted by what went wrong.

use std::io::Cursor;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use image::ImageFormat;

use crate::eval::gold::{GoldEntity, GoldPost};
use crate::eval::metrics::{IouRule, Pair};
use crate::eval::prediction::{PredictedEntity, PredictedPost};
use crate::overlay::{OverlayItem, draw};
use crate::vision::{DecodeLimits, decode};

/// Examples of each kind.
const EXAMPLES: usize = 12;
/// Longer side of their pictures.
const SIDE: u32 = 320;
/// What a picture of a gallery may be.
const LIMITS: DecodeLimits =
    DecodeLimits { max_bytes: 50_000_000, max_side: 20_000, max_pixels: 80_000_000 };

/// What is wrong about an entity, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The text names it, but it was not found.
    Missed,
    /// It was found where the text names nothing.
    Invented,
    /// It was found, but its type is wrong.
    WrongType,
    /// The picture shows it, but it was said not to be there.
    Denied,
    /// It was boxed, but the picture does not show it.
    NotThere,
    /// It was boxed in the wrong place.
    WrongPlace,
    /// It was boxed rightly, but its mask is wrong.
    WrongMask,
    /// Nothing is wrong.
    Right,
}

impl Fault {
    /// All, the worst first.
    pub const ALL: [Self; 8] = [
        Self::Missed,
        Self::Invented,
        Self::WrongType,
        Self::Denied,
        Self::NotThere,
        Self::WrongPlace,
        Self::WrongMask,
        Self::Right,
    ];

    /// As a heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Missed => "Entities that were missed",
            Self::Invented => "Entities that are none",
            Self::WrongType => "Wrong types",
            Self::Denied => "Shown, but denied",
            Self::NotThere => "Not shown, but boxed",
            Self::WrongPlace => "Boxed in the wrong place",
            Self::WrongMask => "Boxed rightly, wrong mask",
            Self::Right => "All right",
        }
    }
}

/// A post with what is wrong about it.
#[derive(Debug, Clone)]
pub struct Example {
    /// The post's id.
    pub id: String,
    /// Its text.
    pub text: String,
    /// What is wrong, a line for each entity concerned; of what is right, each entity.
    pub notes: Vec<String>,
    /// Its picture with what was predicted and what is gold, as a JPEG in a `data:` URL.
    pub picture: Option<String>,
}

/// Up to twelve examples of every fault, in the order of the set.
pub fn examples(pairs: &[Pair], rule: IouRule) -> Vec<(Fault, usize, Vec<Example>)> {
    let mut found: Vec<(Fault, usize, Vec<Example>)> =
        Fault::ALL.iter().map(|&fault| (fault, 0, Vec::new())).collect();
    for pair in pairs {
        let Some(predicted) = pair.predicted else { continue };
        let faults = faults(pair.gold, predicted, rule);
        for (fault, total, shown) in &mut found {
            let notes: Vec<String> =
                faults.iter().filter(|(of, _)| of == fault).map(|(_, note)| note.clone()).collect();
            let all_right = faults.iter().all(|(of, _)| *of == Fault::Right);
            if notes.is_empty() || *fault == Fault::Right && !all_right {
                continue;
            }
            *total += 1;
            if shown.len() < EXAMPLES {
                shown.push(example(pair.gold, predicted, notes));
            }
        }
    }
    found.retain(|(_, total, _)| *total > 0);
    found
}

/// What is wrong, or right, about every entity of a post.
fn faults(gold: &GoldPost, predicted: &PredictedPost, rule: IouRule) -> Vec<(Fault, String)> {
    let mut left: Vec<&GoldEntity> = gold.entities.iter().collect();
    let mut found = Vec::new();
    for entity in &predicted.entities {
        let same = |gold: &&GoldEntity| gold.text == entity.text;
        let exact = |gold: &&GoldEntity| same(gold) && entity.kind == Some(gold.kind);
        let at = left.iter().position(exact).or_else(|| left.iter().position(same));
        found.push(match at {
            None => (Fault::Invented, entity.text.clone()),
            Some(at) => fault(entity, left.remove(at), rule),
        });
    }
    found.extend(left.iter().map(|gold| (Fault::Missed, format!("{} ({})", gold.text, gold.kind))));
    found
}

fn fault(entity: &PredictedEntity, gold: &GoldEntity, rule: IouRule) -> (Fault, String) {
    let name = &entity.text;
    if entity.kind != Some(gold.kind) {
        let said = entity.kind.map_or("?", |kind| kind.name());
        return (Fault::WrongType, format!("{name}: {said} instead of {}", gold.kind));
    }
    let sure = entity.entailment_score.map_or_else(String::new, |score| format!(" ({score:.2})"));
    match (gold.shown, entity.groundable) {
        (Some(true), Some(false)) => (Fault::Denied, format!("{name}{sure}")),
        (Some(false), Some(true)) => (Fault::NotThere, format!("{name}{sure}")),
        (Some(true), Some(true)) => placed(entity, gold, rule),
        _ => (Fault::Right, format!("{name} ({})", gold.kind)),
    }
}

fn placed(entity: &PredictedEntity, gold: &GoldEntity, rule: IouRule) -> (Fault, String) {
    let name = &entity.text;
    let of_boxes =
        entity.bbox.map_or(0.0, |bbox| gold.boxes.iter().map(|g| bbox.iou(g)).fold(0.0, f32::max));
    let of_masks = entity
        .mask
        .as_ref()
        .map(|mask| gold.masks.iter().filter_map(|gold| mask.iou(gold).ok()).fold(0.0, f64::max));
    if !rule.holds(f64::from(of_boxes), 0.5) {
        return (Fault::WrongPlace, format!("{name}: IoU {of_boxes:.2}"));
    }
    match of_masks {
        Some(iou) if !gold.masks.is_empty() && !rule.holds(iou, 0.5) => {
            (Fault::WrongMask, format!("{name}: box IoU {of_boxes:.2}, mask IoU {iou:.2}"))
        }
        _ => (Fault::Right, format!("{name}: box IoU {of_boxes:.2}")),
    }
}

fn example(gold: &GoldPost, predicted: &PredictedPost, notes: Vec<String>) -> Example {
    let picture = picture(gold, predicted);
    Example { id: gold.id.clone(), text: gold.text.clone(), notes, picture }
}

/// The post's picture with the predicted boxes and masks, and the gold boxes; `None` where there is
/// no picture that can be drawn on.
fn picture(gold: &GoldPost, predicted: &PredictedPost) -> Option<String> {
    let file = std::fs::read(gold.image.as_ref()?).ok()?;
    let picture = decode(&file, &LIMITS).ok()?;
    let answered = predicted.entities.iter().filter(|entity| entity.groundable == Some(true));
    let answered = answered.filter_map(|entity| {
        let mask = entity.mask.as_ref();
        Some(OverlayItem { label: entity.text.clone(), bbox: entity.bbox?, mask })
    });
    let right = gold.entities.iter().flat_map(|entity| {
        let label = format!("gold {}", entity.text);
        entity.boxes.iter().map(move |&bbox| OverlayItem { label: label.clone(), bbox, mask: None })
    });
    let drawn = draw(&picture, &answered.chain(right).collect::<Vec<_>>()).ok()?;
    let scale = f64::from(SIDE) / f64::from(drawn.width().max(drawn.height()));
    let side = |length: u32| ((f64::from(length) * scale.min(1.0)) as u32).max(1);
    let small = image::imageops::thumbnail(&drawn, side(drawn.width()), side(drawn.height()));
    let mut jpeg = Cursor::new(Vec::new());
    small.write_to(&mut jpeg, ImageFormat::Jpeg).ok()?;
    Some(format!("data:image/jpeg;base64,{}", BASE64.encode(jpeg.into_inner())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::EntityType::{Org, Per};
    use crate::vision::BoundingBox;

    fn gold(text: &str, boxes: Vec<BoundingBox>) -> GoldEntity {
        let named = GoldEntity::named(text, Per);
        GoldEntity { shown: Some(!boxes.is_empty()), boxes, ..named }
    }

    fn answer(text: &str, bbox: Option<BoundingBox>) -> PredictedEntity {
        PredictedEntity {
            text: text.to_owned(),
            kind: Some(Per),
            span: None,
            score: None,
            fine: None,
            groundable: Some(bbox.is_some()),
            entailment_score: Some(0.75),
            bbox,
            box_score: None,
            mask: None,
            mask_score: None,
        }
    }

    #[test]
    fn every_fault_is_told_apart() {
        let here = BoundingBox::new(0.0, 0.0, 10.0, 10.0);
        let there = BoundingBox::new(50.0, 0.0, 60.0, 10.0);
        let of = |gold: Vec<GoldEntity>, answers: Vec<PredictedEntity>| {
            let post = GoldPost { entities: gold, ..GoldPost::default() };
            let answers = PredictedPost { entities: answers };
            let found = faults(&post, &answers, IouRule::Strict);
            found.into_iter().map(|(fault, _)| fault).collect::<Vec<_>>()
        };
        let company = || PredictedEntity { kind: Some(Org), ..answer("A", None) };
        assert_eq!(of(vec![gold("A", vec![])], vec![]), [Fault::Missed]);
        assert_eq!(of(vec![], vec![answer("A", None)]), [Fault::Invented]);
        assert_eq!(of(vec![gold("A", vec![])], vec![company()]), [Fault::WrongType]);
        assert_eq!(of(vec![gold("A", vec![here])], vec![answer("A", None)]), [Fault::Denied]);
        assert_eq!(of(vec![gold("A", vec![])], vec![answer("A", Some(here))]), [Fault::NotThere]);
        let boxed = || vec![answer("A", Some(here))];
        assert_eq!(of(vec![gold("A", vec![there])], boxed()), [Fault::WrongPlace]);
        assert_eq!(of(vec![gold("A", vec![there, here])], boxed()), [Fault::Right]);
    }
}
