//! `POST /v1/smner:stream`: a post's answer piece by piece, as server-sent events.
//!
//! The work runs in a task of its own, never held up by a client that does not read: what is known
//! so far waits in a channel with room for all of it. When the client goes away, the task ends.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, stream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::events::{
    EntailedEntity, EntailedEvent, GroundedEvent, MaskedEntity, PlacedEntity, RecognizedEntity,
    RecognizedEvent, SegmentedEvent,
};
use super::middleware::{self, RequestId};
use super::post::{self, AdmittedPost};
use super::problem::Problem;
use super::render;
use super::server::Busy;
use super::state::AppState;
use super::types::{ImageSize, MaskFormat, PackName, SmnerRequest, SmnerResponse};
use super::work::{let_in, off_thread, ready_for_work};
use crate::pipeline::{Entity, Mask, Pipeline, PipelineError, Progress};

/// Events before the last one.
const STEPS: usize = 4;

/// Tell a post's answer piece by piece.
///
/// The request is that of `/v1/smner`. The events, each at most once and in this order:
/// `recognized` (`RecognizedEvent`), `entailed` (`EntailedEvent`), `grounded` (`GroundedEvent`),
/// `segmented` (`SegmentedEvent`), and at the end `done`, the whole answer (`SmnerResponse`), or
/// `error` (`ProblemBody`). A step that has nothing to do is left out. What can be refused before
/// the work begins is refused with its status, as by `/v1/smner`.
#[utoipa::path(
    post,
    path = "/v1/smner:stream",
    operation_id = "smner_stream",
    tag = "recognition",
    request_body(content(
        (SmnerRequest = "application/json"),
        (super::openapi::SmnerForm = "multipart/form-data")
    )),
    responses(
        (
            status = 200, description = "Server-sent events", body = String,
            content_type = "text/event-stream"
        ),
        super::openapi::Problems
    )
)]
pub async fn smner_stream(
    State(app): State<AppState>,
    Extension(request_id): Extension<RequestId>,
    busy: Option<Extension<Busy>>,
    request: Request,
) -> Result<Response, Problem> {
    let (request, pipeline) = let_in(request, ready_for_work(&app)).await?;
    let (post, room) = post::read(&app, request).await?;
    let post = AdmittedPost::admit(&app, &pipeline, post, room, request_id.clone()).await?;
    let telling = Telling::begin(post, pipeline, request_id, busy);
    let keep_alive = KeepAlive::new().interval(app.options().keep_alive);
    let events = Sse::new(telling.events()).keep_alive(keep_alive);
    // Proxies that would collect an answer first are asked not to.
    Ok(([("x-accel-buffering", "no")], events).into_response())
}

/// An answer under way. Dropping it ends the work.
struct Telling {
    request_id: RequestId,
    head: Head,
    updates: mpsc::Receiver<Update>,
    work: JoinSet<Result<SmnerResponse, Problem>>,
}

impl Telling {
    fn begin(
        post: AdmittedPost,
        pipeline: Arc<Pipeline>,
        request_id: RequestId,
        busy: Option<Extension<Busy>>,
    ) -> Self {
        let head = Head::of(&post);
        let (sender, updates) = mpsc::channel(STEPS);
        let answering = async move {
            let observer = |progress: Progress<'_>| {
                // There is room for all; where the receiver is gone, this task ends with it.
                let _ = sender.try_send(Update::of(progress));
            };
            let answer = post.answer(&pipeline, &observer).await;
            drop(busy);
            answer
        };
        let mut work = JoinSet::new();
        work.spawn(answering.in_current_span());
        Self { request_id, head, updates, work }
    }

    fn events(self) -> impl Stream<Item = Result<Event, axum::Error>> {
        stream::unfold(Some(self), |telling| async {
            let (event, telling) = telling?.next().await;
            Some((event, telling))
        })
    }

    /// The next event, and what is left to tell behind it.
    async fn next(mut self) -> (Result<Event, axum::Error>, Option<Self>) {
        let Some(update) = self.updates.recv().await else {
            return match self.finished().await {
                Ok(answer) => (Event::default().event("done").json_data(answer), None),
                Err(problem) => (self.error(problem), None),
            };
        };
        let head = self.head.clone();
        match off_thread(move || update.into_event(head)).await {
            Ok(event) => (event, Some(self)),
            Err(problem) => (self.error(problem), None),
        }
    }

    async fn finished(&mut self) -> Result<SmnerResponse, Problem> {
        match self.work.join_next().await {
            Some(Ok(answer)) => answer,
            ended => {
                tracing::error!(?ended, "a streamed answer ended without its end");
                Err(PipelineError::Internal.into())
            }
        }
    }

    fn error(&self, problem: Problem) -> Result<Event, axum::Error> {
        middleware::count_problem(problem.code);
        Event::default().event("error").json_data(problem.into_body(&self.request_id.0))
    }
}

/// What the first event carries besides entities, and how masks are written.
#[derive(Clone)]
struct Head {
    id: String,
    pack: PackName,
    image: Option<ImageSize>,
    mask_format: MaskFormat,
}

impl Head {
    fn of(post: &AdmittedPost) -> Self {
        let AdmittedPost { id, pack, mask_format, .. } = post;
        let image = post.image();
        Self { id: id.clone(), pack: pack.clone(), image, mask_format: *mask_format }
    }
}

/// What became known; masks are not yet written, which takes time.
enum Update {
    Recognized(Vec<RecognizedEntity>),
    Entailed(EntailedEvent),
    Grounded(GroundedEvent),
    Segmented(Vec<(usize, Mask)>),
}

impl Update {
    fn of(progress: Progress<'_>) -> Self {
        match progress {
            Progress::Recognized(entities) => {
                Self::Recognized(entities.iter().map(recognized).collect())
            }
            Progress::Entailed { entities, shown } => {
                let entities = entities.iter().enumerate();
                let entities = entities.map(|(index, entity)| entailed(index, entity, shown));
                Self::Entailed(EntailedEvent { entities: entities.collect() })
            }
            Progress::Grounded { entities, shown } => {
                let entities = shown.iter().map(|&index| placed(index, &entities[index]));
                Self::Grounded(GroundedEvent { entities: entities.collect() })
            }
            Progress::Segmented(entities) => {
                let mask = |(index, entity): (usize, &Entity)| {
                    Some((index, entity.grounded.as_ref()?.mask.clone()?))
                };
                Self::Segmented(entities.iter().enumerate().filter_map(mask).collect())
            }
        }
    }

    fn into_event(self, head: Head) -> Result<Result<Event, axum::Error>, Problem> {
        let event = Event::default();
        Ok(match self {
            Self::Recognized(entities) => {
                let Head { id, pack, image, .. } = head;
                let recognized = RecognizedEvent { id, pack, image, entities };
                event.event("recognized").json_data(recognized)
            }
            Self::Entailed(entailed) => event.event("entailed").json_data(entailed),
            Self::Grounded(grounded) => event.event("grounded").json_data(grounded),
            Self::Segmented(masks) => {
                let masks = masks.into_iter().map(|mask| masked(mask, head.mask_format));
                let entities = masks.collect::<Result<_, Problem>>()?;
                event.event("segmented").json_data(SegmentedEvent { entities })
            }
        })
    }
}

fn recognized(entity: &Entity) -> RecognizedEntity {
    RecognizedEntity {
        text: entity.text.clone(),
        kind: entity.kind.into(),
        start: entity.span.start,
        end: entity.span.end,
        score: render::score(entity.score),
        fine_type: entity.fine.as_ref().map(|fine| fine.name.clone()),
        expression: entity.expression.clone(),
    }
}

fn entailed(index: usize, entity: &Entity, shown: &[usize]) -> EntailedEntity {
    let entailment_score = render::score(entity.entailment_score.unwrap_or_default());
    EntailedEntity { index, groundable: shown.contains(&index), entailment_score }
}

fn placed(index: usize, entity: &Entity) -> PlacedEntity {
    let grounded = entity.grounded.as_ref();
    PlacedEntity {
        index,
        bbox: grounded.map(|grounded| render::box_output(&grounded.bbox)),
        box_score: grounded.map(|grounded| render::score(grounded.score)),
    }
}

fn masked((index, mask): (usize, Mask), format: MaskFormat) -> Result<MaskedEntity, Problem> {
    let Mask { rle, score } = mask;
    let mask = rle.map(|rle| render::mask_output(&rle, format)).transpose()?;
    Ok(MaskedEntity { index, mask, mask_score: render::score(score) })
}
