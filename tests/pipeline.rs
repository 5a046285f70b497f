//! The two stages over stand-in networks.

mod common;

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{StubEntailer, StubGrounder, StubSegmenter, StubTagger, options, roles, roles_with};
use riveg::batch::stages::{EntailStage, SegmentStage};
use riveg::batch::{BatchModel, Cost, HealthState, RequestContext};
use riveg::models::{
    CharSpan, EntailInput, Entailer, Entailment, EntityType, GroundInput, Grounder, Grounding,
    ModelInfo, SegmentInput,
};
use riveg::pipeline::{
    Answer, GivenEntity, Options, Pipeline, PipelineError, PipelineOptions, Request, Roles,
    SegmentRequest, Task, warm_up,
};
use riveg::vision::{BoundingBox, Picture, PictureDigest};

/// A picture of this size with some structure.
fn picture(width: u32, height: u32) -> Arc<Picture> {
    let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| [x as u8, y as u8, 7]));
    Arc::new(Picture::from_rgb(width, height, pixels.collect()).unwrap())
}

fn request(text: &str, options: Options) -> Request {
    Request { text: text.into(), picture: Some(picture(200, 100)), options }
}

async fn run(request: Request) -> Result<Answer, PipelineError> {
    let pipeline = Pipeline::start(roles(), options()).unwrap();
    let context = pipeline.admit(&request, None, "test".into())?;
    pipeline.run(request, &context).await
}

#[tokio::test]
async fn a_post_is_recognized_and_grounded() {
    let answer = run(request("see Federer and Absent", Options::default())).await.unwrap();
    let [federer, absent] = &answer.entities[..] else { panic!("{:?}", answer.entities) };
    assert_eq!((federer.text.as_str(), federer.span.start, federer.span.end), ("Federer", 4, 11));
    assert_eq!(federer.expression, "Federer (PER)-an athlete");
    assert_eq!(federer.entailment_score, Some(0.8));
    let grounded = federer.grounded.as_ref().unwrap();
    assert_eq!(grounded.bbox, BoundingBox::new(50.0, 25.0, 150.0, 75.0));
    let mask = grounded.mask.as_ref().unwrap();
    let rle = mask.rle.as_ref().unwrap();
    assert_eq!((rle.width(), rle.height()), (200, 100));
    assert_eq!(rle.bbox().unwrap().iou(&grounded.bbox), 1.0);
    assert_eq!(absent.expression, "Absent (PER)-a person");
    assert_eq!(absent.entailment_score, Some(0.1));
    assert!(absent.grounded.is_none());
    assert_eq!(answer.provenance.expression, "type", "the weakest source is reported");
    assert_eq!(answer.provenance.knowledge, "none");
}

#[tokio::test]
async fn a_task_ends_where_it_says() {
    let task = |task| Options { task, ..Options::default() };
    let mner = run(request("Federer", task(Task::Mner))).await.unwrap();
    assert_eq!(mner.entities[0].entailment_score, None);
    let gmner = run(request("Federer", task(Task::Gmner))).await.unwrap();
    let grounded = gmner.entities[0].grounded.as_ref().unwrap();
    assert!(grounded.mask.is_none());
}

#[tokio::test]
async fn only_masks_need_the_image_encoder() {
    let segmenter = Arc::new(StubSegmenter::default());
    let roles = roles_with(StubTagger::default(), segmenter.clone());
    let pipeline = Pipeline::start(roles, options()).unwrap();
    for (task, encoded) in [(Task::Gmner, 0), (Task::Smner, 1), (Task::Smner, 1)] {
        let request = request("Federer", Options { task, ..Options::default() });
        let context = pipeline.admit(&request, None, "test".into()).unwrap();
        pipeline.run(request, &context).await.unwrap();
        assert_eq!(segmenter.encoded.load(Ordering::SeqCst), encoded, "{task:?}");
    }
}

#[tokio::test]
async fn thresholds_are_the_callers() {
    let options = Options { entailment_threshold: Some(0.05), ..Options::default() };
    let answer = run(request("Absent", options)).await.unwrap();
    assert!(answer.entities[0].grounded.is_some());
    let options = Options { min_mask_score: 0.95, ..Options::default() };
    let answer = run(request("Federer", options)).await.unwrap();
    let mask = answer.entities[0].grounded.as_ref().unwrap().mask.as_ref().unwrap();
    assert!(mask.rle.is_none());
    assert_eq!(mask.score, 0.9);
}

#[tokio::test]
async fn given_entities_skip_the_tagger() {
    let given = |start, end, expression: Option<&str>| GivenEntity {
        span: CharSpan { start, end },
        kind: EntityType::Misc,
        expression: expression.map(Into::into),
    };
    let entities = vec![given(0, 5, Some("Buddy (MISC)-a dog")), given(6, 9, None)];
    let options = Options { entities: Some(entities), ..Options::default() };
    let answer = run(request("Buddy ran !fail", options)).await.unwrap();
    let expressions: Vec<_> = answer.entities.iter().map(|e| e.expression.as_str()).collect();
    assert_eq!(expressions, ["Buddy (MISC)-a dog", "ran (MISC)-a thing"]);
    assert!(answer.entities.iter().all(|entity| entity.score == 1.0));
}

#[tokio::test]
async fn a_box_that_is_none_leaves_the_entity_ungrounded() {
    let answer = run(request("Nowhere", Options::default())).await.unwrap();
    assert_eq!(answer.entities[0].entailment_score, Some(0.8));
    assert!(answer.entities[0].grounded.is_none());
}

#[tokio::test]
async fn a_text_without_entities_has_an_empty_answer() {
    let answer = run(request("nothing here", Options::default())).await.unwrap();
    assert!(answer.entities.is_empty());
    assert_eq!(answer.provenance.expression, "none");
}

#[tokio::test]
async fn too_many_entities_are_refused() {
    let text = "Ada ".repeat(21);
    let error = run(request(text.trim(), Options::default())).await.unwrap_err();
    assert_eq!(error, PipelineError::TooManyEntities { found: 21, limit: 20 });
}

#[tokio::test]
async fn failures_and_panics_are_internal_and_hurt_nobody_else() {
    let pipeline = Arc::new(Pipeline::start(roles(), options()).unwrap());
    let ask = |text: &'static str| {
        let pipeline = pipeline.clone();
        async move {
            let request = request(text, Options::default());
            let context = pipeline.admit(&request, None, "test".into())?;
            pipeline.run(request, &context).await
        }
    };
    let (bad, worse, good) = tokio::join!(ask("Ada !fail"), ask("Ada !panic"), ask("Ada"));
    assert_eq!(bad.unwrap_err(), PipelineError::Internal);
    assert_eq!(worse.unwrap_err(), PipelineError::Internal);
    assert_eq!(good.unwrap().entities.len(), 1);
}

#[tokio::test]
async fn admission_counts_cost_and_gives_it_back() {
    // One post is charged 10 + (15 + 15 + 50) + (5 + 5 + 5) = 105.
    let options = PipelineOptions { max_inflight: Cost(200), ..options() };
    let pipeline = Pipeline::start(roles(), options).unwrap();
    let post = request("Ada", Options::default());
    let admit = || pipeline.admit(&post, None, "test".into());
    let first = admit().unwrap();
    assert!(matches!(admit(), Err(PipelineError::Overloaded { .. })));
    drop(first);
    assert!(admit().is_ok());
}

#[tokio::test]
async fn more_entities_than_expected_are_charged_for() {
    let options = PipelineOptions { max_inflight: Cost(290), ..options() };
    let pipeline = Pipeline::start(roles(), options).unwrap();
    let post = request("Ada Ada Ada Ada Ada Ada Ada", Options::default());
    let context = pipeline.admit(&post, None, "test".into()).unwrap();
    let small = request("Ada", Options::default());
    assert!(pipeline.admit(&small, None, "test".into()).is_ok(), "room before tagging");
    pipeline.run(post, &context).await.unwrap();
    // 105 + 6 · 15 = 195, held until the context is dropped.
    assert!(pipeline.admit(&small, None, "test".into()).is_err(), "no room after tagging");
    drop(context);
    assert!(pipeline.admit(&small, None, "test".into()).is_ok());
}

/// A text alone; its price is 10.
fn text_alone() -> Request {
    Request { picture: None, ..request("Ada", Options { task: Task::Mner, ..Options::default() }) }
}

/// A pipeline over `roles` with this capacity, of which a text alone takes up 10.
fn partly_full(roles: &Roles, capacity: u64) -> (Pipeline, RequestContext) {
    let options = PipelineOptions { max_inflight: Cost(capacity), ..options() };
    let pipeline = Pipeline::start(roles.clone(), options).unwrap();
    let text = pipeline.admit(&text_alone(), None, "text".into()).unwrap();
    (pipeline, text)
}

#[tokio::test]
async fn what_depends_on_the_picture_is_charged_once() {
    let post = |task, count| {
        let span = CharSpan { start: 0, end: 3 };
        let entity = GivenEntity { span, kind: EntityType::Per, expression: None };
        let entities = Some(vec![entity; count]);
        request("Ada", Options { task, entities, ..Options::default() })
    };
    let assert_price = |roles: &Roles, post: &Request, price: u64| {
        for (capacity, fits) in [(10 + price, true), (9 + price, false)] {
            let (pipeline, _text) = partly_full(roles, capacity);
            assert_eq!(pipeline.admit(post, None, "test".into()).is_ok(), fits, "{price}");
        }
    };
    let apart = roles();
    assert_price(&apart, &post(Task::Gmner, 1), (15 + 15) + (5 + 5));
    assert_price(&apart, &post(Task::Gmner, 20), (15 + 15) + 20 * (5 + 5));
    assert_price(&apart, &post(Task::Smner, 20), (15 + 15 + 50) + 20 * (5 + 5 + 5));
    let witness = Arc::new(Witness::default());
    let at_once = Roles { entailer: witness.clone(), grounder: witness, ..roles() };
    assert_price(&at_once, &post(Task::Gmner, 20), 15 + 20 * (5 + 5));
    assert_price(&at_once, &post(Task::Smner, 1), (15 + 50) + (5 + 5 + 5));
}

/// Masks are brought to the size of the picture, which takes time of its own.
#[tokio::test]
async fn masks_of_large_pictures_cost_more() {
    let span = CharSpan { start: 0, end: 3 };
    let entity = GivenEntity { span, kind: EntityType::Per, expression: None };
    let entities = Some(vec![entity; 3]);
    let post = |task| Request {
        text: "Ada".into(),
        picture: Some(picture(2000, 1000)),
        options: Options { task, entities: entities.clone(), ..Options::default() },
    };
    let boxes = SegmentRequest {
        picture: picture(2000, 1000),
        boxes: vec![BoundingBox::new(0.0, 0.0, 9.0, 9.0); 3],
    };
    // What 2 megapixels add to a mask.
    let larger = 2 * 31;
    let (gmner, smner, segment) =
        ((15 + 15) + 3 * 10, (15 + 15 + 50) + 3 * (15 + larger), 50 + 3 * (5 + larger));
    for (spare, fits) in [(0, true), (-1, false)] {
        let full = |price: i64| partly_full(&roles(), (10 + price + spare) as u64);
        let (pipeline, _text) = full(segment);
        assert_eq!(pipeline.admit_segment(&boxes, None, "test".into()).is_ok(), fits);
        for (task, price) in [(Task::Gmner, gmner), (Task::Smner, smner)] {
            let (pipeline, _text) = full(price);
            assert_eq!(pipeline.admit(&post(task), None, "test".into()).is_ok(), fits, "{task:?}");
        }
    }
}

#[tokio::test]
async fn a_full_pipeline_refuses_before_it_knows_the_request() {
    // The least with a picture is a word and one entity: 10 + (15 + 15) + (5 + 5) = 50.
    let (pipeline, text) = partly_full(&roles(), 60);
    pipeline.refuse_when_full().unwrap();
    let another = pipeline.admit(&text_alone(), None, "text".into()).unwrap();
    let refused = pipeline.refuse_when_full().unwrap_err();
    assert!(matches!(refused, PipelineError::Overloaded { .. }), "{refused}");
    let third = pipeline.admit(&text_alone(), None, "text".into());
    assert!(third.is_ok(), "there is room, but not for a picture");
    drop((text, another, third));
    pipeline.refuse_when_full().unwrap();
}

#[test]
fn no_batch_of_long_items_holds_more_work_than_the_largest_of_ordinary_ones() {
    let roles = roles();
    let decoder = SegmentStage(roles.segmenter.clone());
    let spec = decoder.spec(8);
    assert_eq!(spec.max_batch_cost, Cost(8 * 5), "eight boxes");
    let picture = picture(8, 8);
    let embedding = roles.segmenter.encode(std::slice::from_ref(&picture)).unwrap().remove(0);
    let boxes = vec![BoundingBox::new(0.0, 0.0, 8.0, 8.0); 100];
    assert_eq!(decoder.cost(&SegmentInput { embedding, boxes }), Cost(500), "runs alone");
    // An ordinary batch is bounded by its size alone.
    let entailer = EntailStage(roles.entailer.clone());
    let question =
        EntailInput { picture, expression: "Ada (PER)-a person".into(), description: None };
    assert!(entailer.cost(&question).times(8) <= entailer.spec(8).max_batch_cost);
}

#[tokio::test]
async fn a_passed_deadline_is_told() {
    let pipeline = Pipeline::start(roles(), options()).unwrap();
    let post = request("Ada", Options::default());
    let deadline = Instant::now() - Duration::from_millis(1);
    let context = pipeline.admit(&post, Some(deadline), "test".into()).unwrap();
    assert_eq!(pipeline.run(post, &context).await.unwrap_err(), PipelineError::DeadlineExceeded);
}

#[tokio::test]
async fn boxes_become_masks_in_order() {
    let pipeline = Pipeline::start(roles(), options()).unwrap();
    let boxes =
        vec![BoundingBox::new(0.0, 0.0, 100.0, 100.0), BoundingBox::new(100.0, 0.0, 200.0, 50.0)];
    let request = SegmentRequest { picture: picture(200, 100), boxes: boxes.clone() };
    let context = pipeline.admit_segment(&request, None, "test".into()).unwrap();
    let answer = pipeline.segment(request, &context).await.unwrap();
    let found: Vec<_> = answer.masks.iter().map(|mask| mask.rle.bbox().unwrap()).collect();
    assert!(found.iter().zip(&boxes).all(|(found, asked)| found.iou(asked) > 0.95), "{found:?}");
}

#[tokio::test]
async fn after_shutdown_nothing_is_taken_on() {
    let pipeline = Pipeline::start(roles(), options()).unwrap();
    let health = pipeline.health();
    assert!(health.is_running());
    assert_eq!(pipeline.shutdown().await, HealthState::Stopped);
    assert!(!health.is_running());
}

#[tokio::test]
async fn unadmitted_work_runs_too() {
    let pipeline = Pipeline::start(roles(), options()).unwrap();
    let context = RequestContext::unadmitted("predict".into(), None);
    let answer = pipeline.run(request("Ada", Options::default()), &context).await.unwrap();
    assert_eq!(answer.entities.len(), 1);
}

/// Both roles on one object; notes every picture that it is shown.
#[derive(Default)]
struct Witness {
    seen: Mutex<Vec<PictureDigest>>,
}

impl Entailer for Witness {
    fn entail(&self, inputs: &[EntailInput]) -> riveg::models::Result<Vec<Entailment>> {
        self.seen.lock().unwrap().extend(inputs.iter().map(|input| input.picture.digest()));
        StubEntailer.entail(inputs)
    }

    fn picture_cost(&self) -> u64 {
        StubEntailer.picture_cost()
    }

    fn cost(&self, expression: &str, description: Option<&str>) -> u64 {
        StubEntailer.cost(expression, description)
    }

    fn info(&self) -> ModelInfo {
        StubEntailer.info()
    }
}

impl Grounder for Witness {
    fn ground(&self, inputs: &[GroundInput]) -> riveg::models::Result<Vec<Option<Grounding>>> {
        self.seen.lock().unwrap().extend(inputs.iter().map(|input| input.picture.digest()));
        StubGrounder.ground(inputs)
    }

    fn picture_cost(&self) -> u64 {
        StubGrounder.picture_cost()
    }

    fn cost(&self, expression: &str) -> u64 {
        StubGrounder.cost(expression)
    }

    fn info(&self) -> ModelInfo {
        StubGrounder.info()
    }
}

#[test]
fn warming_up_shows_no_picture_twice() {
    let witness = Arc::new(Witness::default());
    let roles = Roles { entailer: witness.clone(), grounder: witness.clone(), ..roles() };
    // More than 256 pictures in all.
    let options = PipelineOptions { max_batch: 130, ..options() };
    warm_up(&roles, &options).unwrap();
    let seen = witness.seen.lock().unwrap();
    let distinct: HashSet<_> = seen.iter().collect();
    assert_eq!((seen.len(), distinct.len()), (2 + 260, 2 + 260));
}
