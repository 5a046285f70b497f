//! What well-formed requests get.

use riveg::mask::Rle;
use riveg::vision::BoundingBox;
use serde_json::{Value, json};

use crate::door::{Door, form, inline, png, post};

/// An answer without what may differ between two runs.
fn stripped(mut answer: Value) -> Value {
    let object = answer.as_object_mut().unwrap();
    assert!(object.remove("id").is_some() && object.remove("timings_ms").is_some());
    answer
}

#[tokio::test]
async fn a_post_gets_entities_boxes_and_masks() {
    let door = Door::open();
    let response = door.smner("see Federer and Absent", json!({})).await;
    let answer = response.ok();
    assert_eq!(answer["pack"], json!({"name": "stub", "version": "7"}));
    assert_eq!(answer["image"], json!({"width": 200, "height": 100}));
    let [federer, absent] = &answer["entities"].as_array().unwrap()[..] else { panic!("{answer}") };
    let mask = &federer["mask"];
    assert_eq!(mask["size"], json!([100, 200]));
    let rle = Rle::from_compressed(mask["counts"].as_str().unwrap(), 200, 100).unwrap();
    assert_eq!(rle.bbox(), Some(BoundingBox::new(50.0, 25.0, 150.0, 75.0)));
    let mut federer = federer.clone();
    federer["mask"] = Value::Null;
    assert_eq!(
        federer,
        json!({
            "text": "Federer", "type": "PER", "start": 4, "end": 11, "score": 0.9,
            "fine_type": "athlete", "expression": "Federer (PER)-an athlete",
            "groundable": true, "entailment_score": 0.8,
            "box": [50.0, 25.0, 150.0, 75.0], "box_score": 0.7,
            "mask": null, "mask_score": 0.9,
        })
    );
    assert_eq!(absent["groundable"], false);
    assert_eq!((&absent["box"], &absent["mask"]), (&Value::Null, &Value::Null));
    assert_eq!(answer["provenance"]["knowledge"], "none");
    let timing = response.header("server-timing");
    for stage in ["decode", "recognize", "entail", "ground", "segment", "queue", "total"] {
        assert!(answer["timings_ms"][stage].is_number(), "{answer}");
        assert!(timing.contains(&format!("{stage};dur=")), "{timing}");
    }
}

#[tokio::test]
async fn json_and_form_have_the_same_answer() {
    let door = Door::open();
    let options = json!({"mask_format": "rle_counts", "knowledge": "a player"});
    let json = door.smner("Federer serves", options.clone()).await.ok();
    let again = door.smner("Federer serves", options.clone()).await.ok();
    let (kind, body) = form(&[
        ("text", b"Federer serves"),
        ("options", options.to_string().as_bytes()),
        ("image", &png(200, 100)),
    ]);
    let form = door.post("/v1/smner", &kind, body).await.ok();
    assert_eq!(json["provenance"]["knowledge"], "caller");
    assert_eq!(stripped(json.clone()), stripped(again));
    assert_eq!(stripped(json), stripped(form));
}

#[tokio::test]
async fn a_data_url_is_a_picture_too() {
    let door = Door::open();
    let mut body = post("Federer", json!({}));
    let data = body["image"]["data"].as_str().unwrap();
    body["image"]["data"] = json!(format!("data:image/png;base64,{data}"));
    assert_eq!(door.post_json("/v1/smner", &body).await.ok()["image"]["width"], 200);
}

#[tokio::test]
async fn offsets_are_code_points() {
    let door = Door::open();
    let answer = door.smner("👩‍🚀 čau Łukasz", json!({"task": "mner"})).await.ok();
    let entity = &answer["entities"][0];
    assert_eq!(
        (&entity["text"], &entity["start"], &entity["end"]),
        (&json!("Łukasz"), &json!(8), &json!(14))
    );
}

#[tokio::test]
async fn every_mask_format_shows_the_same_pixels() {
    let door = Door::open();
    let mut masks = Vec::new();
    for format in ["rle", "rle_counts", "polygon", "png"] {
        let answer = door.smner("Federer", json!({"mask_format": format})).await.ok();
        let mask = answer["entities"][0]["mask"].clone();
        assert_eq!(mask["size"], json!([100, 200]), "{format}");
        assert_eq!(mask.as_object().unwrap().len(), 2, "{format}: {mask}");
        masks.push(mask);
    }
    let [rle, counts, polygon, png] = &masks[..] else { unreachable!() };
    let rle = Rle::from_compressed(rle["counts"].as_str().unwrap(), 200, 100).unwrap();
    let plain: Vec<u32> = serde_json::from_value(counts["counts"].clone()).unwrap();
    assert_eq!(plain, rle.counts());
    let ring: Vec<[u32; 2]> = serde_json::from_value(polygon["polygons"][0][0].clone()).unwrap();
    let turns = ring.iter().zip(ring.iter().cycle().skip(1));
    let twice: i64 = turns.map(|(&[a, b], &[c, d])| cross([a, b], [c, d])).sum();
    assert_eq!(twice.unsigned_abs(), 2 * u64::from(rle.area()));
    use base64::Engine;
    let file = base64::engine::general_purpose::STANDARD.decode(png["png"].as_str().unwrap());
    let drawn = image::load_from_memory(&file.unwrap()).unwrap().into_luma8();
    let bitmap: Vec<u8> = drawn.pixels().map(|pixel| u8::from(pixel.0[0] > 0)).collect();
    assert_eq!(bitmap, rle.to_bitmap());
}

fn cross(a: [u32; 2], b: [u32; 2]) -> i64 {
    let [ax, ay, bx, by] = [a[0], a[1], b[0], b[1]].map(i64::from);
    ax * by - bx * ay
}

#[tokio::test]
async fn the_task_says_how_far_to_go() {
    let door = Door::open();
    let body = json!({"text": "Federer", "options": {"task": "mner"}});
    let mner = door.post_json("/v1/smner", &body).await.ok();
    assert_eq!((&mner["image"], &mner["entities"][0]["groundable"]), (&Value::Null, &Value::Null));
    let gmner = door.smner("Federer", json!({"task": "gmner"})).await.ok();
    assert!(gmner["entities"][0]["box"].is_array());
    assert_eq!(gmner["entities"][0]["mask"], Value::Null);
}

#[tokio::test]
async fn the_callers_own_words_are_used() {
    let door = Door::open();
    let own = json!([
        {"start": 12, "end": 16, "type": "LOC"},
        {"start": 4, "end": 8, "type": "MISC", "expression": "Nowhere at all"},
    ]);
    let answer = door.smner("see Rudi in Rome", json!({"entities": own})).await.ok();
    let [rudi, rome] = &answer["entities"].as_array().unwrap()[..] else { panic!("{answer}") };
    assert_eq!((&rudi["text"], &rudi["expression"]), (&json!("Rudi"), &json!("Nowhere at all")));
    // The picture shows it, but the network gave no legal box.
    assert_eq!((&rudi["entailment_score"], &rudi["groundable"]), (&json!(0.8), &json!(false)));
    assert_eq!(
        (&rome["text"], &rome["expression"]),
        (&json!("Rome"), &json!("Rome (LOC)-a place"))
    );
    assert_eq!(rome["score"], 1.0);
    let lenient = json!({"entailment_threshold": 0.05, "min_mask_score": 0.95});
    let answer = door.smner("Absent", lenient).await.ok();
    assert_eq!(answer["entities"][0]["groundable"], true);
    assert_eq!(answer["entities"][0]["mask"], Value::Null);
    assert_eq!(answer["entities"][0]["mask_score"], 0.9);
}

#[tokio::test]
async fn ids_are_echoed() {
    let door = Door::open();
    let mut body = post("hi", json!({}));
    let answer = door.post_json("/v1/smner", &body).await;
    assert_eq!(answer.ok()["id"], answer.header("x-request-id"));
    body["id"] = json!("my own");
    assert_eq!(door.post_json("/v1/smner", &body).await.ok()["id"], "my own");
    for (sent, taken) in [("abc-123", true), ("two words", false), (&"x".repeat(129), false)] {
        let request = axum::http::Request::get("/livez").header("x-request-id", sent);
        let response = door.send(request.body(axum::body::Body::empty()).unwrap()).await;
        assert_eq!(response.header("x-request-id") == sent, taken, "{sent}");
        assert!(!response.header("x-request-id").is_empty());
    }
}

#[tokio::test]
async fn items_of_a_batch_fail_on_their_own() {
    let door = Door::open();
    let inputs = json!([post("Federer", json!({})), {"text": 1}, post("!fail", json!({}))]);
    let answer = door.post_json("/v1/smner:batch", &json!({"inputs": inputs})).await.ok();
    let [good, bad, failed] = &answer["outputs"].as_array().unwrap()[..] else {
        panic!("{answer}")
    };
    assert_eq!(good["status"], 200);
    assert_eq!(good["result"]["entities"][0]["text"], "Federer");
    assert_eq!((&bad["status"], &bad["error"]["code"]), (&json!(422), &json!("invalid_input")));
    assert_eq!((&failed["status"], &failed["error"]["code"]), (&json!(500), &json!("internal")));
    let too_many = json!({"inputs": [{}, {}, {}, {}]});
    let detail = door.post_json("/v1/smner:batch", &too_many).await.problem(422, "invalid_input");
    assert_eq!(detail, "4 inputs, and at most 3 are allowed");
}

/// A batch is read as strictly as a post alone.
#[tokio::test]
async fn items_of_a_batch_are_read_as_strictly_as_posts() {
    let door = Door::open();
    for (item, status, detail) in [
        (r#"{"text": "a", "text": "b"}"#, 422, "duplicate field `text`"),
        (r#"{"text": "a", "colour": 1}"#, 422, "unknown field `colour`"),
        (r#"{"text": "a", "options": {"task": "mner", "task": "mner"}}"#, 422, "duplicate field"),
        ("7", 422, "wrong type"),
    ] {
        let alone = door.post("/v1/smner", "application/json", item.to_owned()).await;
        assert!(alone.problem(status, "invalid_input").contains(detail), "{item}");
        let body =
            format!(r#"{{"inputs": [{item}, {{"text": "a", "options": {{"task": "mner"}}}}]}}"#);
        let batch = door.post("/v1/smner:batch", "application/json", body).await.ok();
        let [bad, good] = &batch["outputs"].as_array().unwrap()[..] else { panic!("{batch}") };
        assert_eq!(bad["status"], status);
        assert!(bad["error"]["detail"].as_str().unwrap().contains(detail), "{batch}");
        assert_eq!(good["status"], 200, "{batch}");
    }
}

#[tokio::test]
async fn a_batch_must_be_a_list_and_short() {
    let door = Door::open();
    let tiny = vec!["0"; 49_000].join(",");
    for (body, detail) in [
        (format!(r#"{{"inputs": [{tiny}]}}"#), "49000 inputs, and at most 3 are allowed"),
        (r#"{"inputs": {"text": "a"}}"#.to_owned(), "`inputs`: a value of the wrong type"),
        (r#"{"inputs": [], "inputs": []}"#.to_owned(), "duplicate field `inputs`"),
        (r#"{"inputs": [], "more": 1}"#.to_owned(), "unknown field `more`"),
        ("{}".to_owned(), "missing field `inputs`"),
    ] {
        let response = door.post("/v1/smner:batch", "application/json", body).await;
        assert!(response.problem(422, "invalid_input").contains(detail), "{detail}");
    }
    let broken = door.post("/v1/smner:batch", "application/json", r#"{"inputs": [{]}"#).await;
    broken.problem(400, "malformed_request");
    let none = door.post("/v1/smner:batch", "application/json", r#"{"inputs": []}"#).await;
    assert_eq!(none.ok()["outputs"], json!([]));
}

#[tokio::test]
async fn boxes_become_masks_in_order() {
    let door = Door::open();
    let boxes = json!([[100, 50, 150, 75.123456789], [-20, 0, 50, 50]]);
    let body = json!({"image": inline(&png(200, 100)), "boxes": boxes});
    let response = door.post_json("/v1/segment", &body).await;
    let answer = response.ok();
    assert!(response.header("server-timing").contains("segment;dur="));
    assert_eq!(answer["image"], json!({"width": 200, "height": 100}));
    let [first, second] = &answer["masks"].as_array().unwrap()[..] else { panic!("{answer}") };
    assert_eq!(first["box"], json!([100.0, 50.0, 150.0, 75.123456789]));
    let counts = first["mask"]["counts"].as_str().unwrap();
    let rle = Rle::from_compressed(counts, 200, 100).unwrap();
    assert_eq!(rle.bbox(), Some(BoundingBox::new(100.0, 50.0, 150.0, 75.0)));
    assert_eq!((&first["mask_score"], &first["stability_score"]), (&json!(0.9), &json!(1.0)));
    // As sent, though only the part inside the picture was segmented.
    assert_eq!(second["box"], json!([-20.0, 0.0, 50.0, 50.0]));
    let image = png(200, 100);
    let (kind, body) = form(&[("image", &image), ("boxes", boxes.to_string().as_bytes())]);
    assert_eq!(door.post("/v1/segment", &kind, body).await.ok(), answer);
}
