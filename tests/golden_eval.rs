//! Metrics against seqeval and pycocotools (`training/golden/eval.py`).

use std::path::Path;

use riveg::eval::metrics::{self, Pair};
use riveg::eval::read::{self, CocoQuestions, ConllOptions};
use riveg::eval::{DataSet, PredictedEntity, PredictedPost};
use riveg::mask::Rle;
use riveg::vision::BoundingBox;
use serde_json::{Value, json};

fn expected() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/eval/expected.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Sentences of words `w0 w1 …` with these tags, through a CoNLL file.
fn set_of(tags: &Value) -> DataSet {
    let mut file = String::new();
    for (id, row) in tags.as_array().unwrap().iter().enumerate() {
        file += &format!("IMGID:{id}\n");
        for (index, tag) in row.as_array().unwrap().iter().enumerate() {
            file += &format!("w{index}\t{}\n", tag.as_str().unwrap());
        }
        file += "\n";
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tags.txt");
    std::fs::write(&path, file).unwrap();
    read::conll(&path, &ConllOptions::default()).unwrap()
}

/// Entities as a tagger would have answered them.
fn as_predictions(set: &DataSet) -> Vec<PredictedPost> {
    let entity = |gold: &riveg::eval::GoldEntity| PredictedEntity {
        text: gold.text.clone(),
        kind: Some(gold.kind),
        span: gold.span.map(|span| (span.start, span.end)),
        score: None,
        fine: None,
        groundable: None,
        entailment_score: None,
        bbox: None,
        box_score: None,
        mask: None,
        mask_score: None,
    };
    let post = |gold: &riveg::eval::GoldPost| PredictedPost {
        entities: gold.entities.iter().map(entity).collect(),
    };
    set.posts.iter().map(post).collect()
}

#[test]
fn spans_are_counted_as_seqeval_counts_them() {
    let expected = &expected()["tags"];
    let gold = set_of(&expected["gold"]);
    let predicted = as_predictions(&set_of(&expected["predicted"]));
    let pairs: Vec<Pair> = gold
        .posts
        .iter()
        .zip(&predicted)
        .map(|(gold, predicted)| Pair { gold, predicted: Some(predicted) })
        .collect();
    let found = metrics::spans(&pairs);
    for (name, value) in
        [("precision", found.precision()), ("recall", found.recall()), ("f1", found.f1())]
    {
        let expected = expected[name].as_f64().unwrap();
        assert!((value - expected).abs() < 1e-12, "{name}: {value} instead of {expected}");
    }
}

#[test]
fn boxes_overlap_as_pycocotools_says() {
    let mut overlapping = 0;
    for row in expected()["boxes"].as_array().unwrap() {
        let bbox = |name: &str| {
            let edge = |i: usize| row[name][i].as_f64().unwrap() as f32;
            BoundingBox::new(edge(0), edge(1), edge(2), edge(3))
        };
        let (found, expected) = (bbox("a").iou(&bbox("b")), row["iou"].as_f64().unwrap());
        assert!((f64::from(found) - expected).abs() < 1e-6, "{row}: {found}");
        overlapping += usize::from(expected > 0.0);
    }
    assert!(overlapping > 10);
}

/// Through COCO's form, as a data set comes.
#[test]
fn outlines_are_drawn_and_compared_as_pycocotools_does() {
    let expected = expected();
    let rows = expected["polygons"].as_array().unwrap();
    let annotations: Vec<Value> = rows
        .iter()
        .enumerate()
        .map(|(id, row)| {
            json!({"image_id": id, "category_id": 1, "bbox": [0, 0, 40, 30],
                   "segmentation": row["outlines"]})
        })
        .collect();
    let images: Vec<Value> = (0..rows.len())
        .map(|id| json!({"id": id, "file_name": format!("{id}.jpg"), "width": 40, "height": 30}))
        .collect();
    let file = json!({"images": images, "annotations": annotations,
                      "categories": [{"id": 1, "name": "person"}]});
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("instances.json");
    std::fs::write(&path, file.to_string()).unwrap();
    let set = read::coco(&CocoQuestions { annotations: path, ..CocoQuestions::default() }).unwrap();
    assert_eq!(set.posts.len(), rows.len());
    let mut last: Option<Rle> = None;
    for (post, row) in set.posts.iter().zip(rows) {
        let mask = post.entities[0].masks[0].clone();
        assert_eq!(mask.to_compressed(), row["counts"].as_str().unwrap());
        if let (Some(last), Some(expected)) = (&last, row["iou_with_last"].as_f64()) {
            assert!((mask.iou(last).unwrap() - expected).abs() < 1e-12);
        }
        last = Some(mask);
    }
}
