//! `POST /v1/smner` and `POST /v1/smner:batch`.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use serde_json::value::RawValue;

use super::body::{self, BodyForm, BodyRoom};
use super::middleware::RequestId;
use super::parse::{self, ParsedPost, PostParts};
use super::picture::PictureFile;
use super::problem::{Code, Problem};
use super::render::{self, Rendering};
use super::state::AppState;
use super::types::{
    BatchOutput, BatchRequest, BatchResponse, ImageSize, SmnerRequest, SmnerResponse,
};
use crate::pipeline::{self, Pipeline, PipelineError};

/// Find the named entities of a post's text, and each in its picture.
///
/// Send JSON, or `multipart/form-data` with the parts `image` (the file), `text`, and optionally
/// `id` and `options` (JSON).
#[utoipa::path(
    post,
    path = "/v1/smner",
    operation_id = "smner",
    tag = "recognition",
    request_body(content(
        (SmnerRequest = "application/json"),
        (super::openapi::SmnerForm = "multipart/form-data")
    )),
    responses(
        (status = 200, description = "The entities", body = SmnerResponse),
        super::openapi::Problems
    )
)]
pub async fn smner(
    State(app): State<AppState>,
    Extension(request_id): Extension<RequestId>,
    request: Request,
) -> Result<Response, Problem> {
    let (request, pipeline) = let_in(request, ready_for_work(&app)).await?;
    let (post, room) = read_post(&app, request).await?;
    let answer = answer(&app, &pipeline, post, room, request_id).await?;
    let timing = render::server_timing(&answer.timings_ms);
    Ok(([("server-timing", timing)], Json(answer)).into_response())
}

/// The pipeline, unless it is not ready or has no room at all.
pub(super) fn ready_for_work(app: &AppState) -> Result<Arc<Pipeline>, Problem> {
    let pipeline = app.pipeline()?;
    pipeline.refuse_when_full()?;
    Ok(pipeline)
}

/// The request and the pipeline, where there is one for it; where not, the request's body is
/// thrown away.
pub(super) async fn let_in(
    request: Request,
    pipeline: Result<Arc<Pipeline>, Problem>,
) -> Result<(Request, Arc<Pipeline>), Problem> {
    match pipeline {
        Ok(pipeline) => Ok((request, pipeline)),
        Err(problem) => {
            body::discard(request).await;
            Err(problem)
        }
    }
}

async fn read_post(app: &AppState, request: Request) -> Result<(ParsedPost, BodyRoom), Problem> {
    let body = app.bodies().read(request).await?;
    let room = body.room.clone();
    let post = match body.form()? {
        BodyForm::Json => parse::post(parse::json(&body.bytes)?, app.limits()),
        BodyForm::Multipart => {
            let mut parts = body.multipart(&["image", "text", "options", "id"]).await?;
            let options = parts.take("options").map(|text| parse::json(&text)).transpose()?;
            let text = parts.take_text("text")?;
            let parts = PostParts {
                id: parts.take_text("id")?,
                text: text.ok_or_else(|| Problem::invalid("`text` is missing"))?,
                image: parts.take("image"),
                options,
            };
            parse::post_of_parts(parts, app.limits())
        }
    };
    Ok((post?, room))
}

/// Answers one parsed post: decode, admit, run, render. Its time begins now.
async fn answer(
    app: &AppState,
    pipeline: &Pipeline,
    post: ParsedPost,
    room: BodyRoom,
    request_id: RequestId,
) -> Result<SmnerResponse, Problem> {
    let begun = Instant::now();
    let deadline = begun + post.timeout;
    let decoded = match post.image {
        Some(bytes) => Some(app.decoder().decode(PictureFile { bytes, room }, deadline).await?),
        None => None,
    };
    let picture = decoded.as_ref().map(|decoded| decoded.picture.clone());
    let image = picture.as_deref().map(ImageSize::from);
    let id = post.id.unwrap_or_else(|| request_id.0.to_string());
    let request = pipeline::Request { text: post.text, picture, options: post.options };
    let context = pipeline.admit(&request, Some(deadline), Arc::clone(&request_id.0))?;
    let answer = pipeline.run(request, &context).await?;
    let rendering = Rendering {
        id,
        pack: app.pack(),
        image,
        mask_format: post.mask_format,
        decode: decoded.as_ref().map(|decoded| decoded.took).unwrap_or_default(),
        total: begun.elapsed(),
    };
    off_thread(move || render::answer(answer, rendering)).await
}

/// Runs what takes CPU time off the threads that serve connections.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(%error, "work off the threads of connections failed");
            Err(PipelineError::Internal.into())
        }
    }
}

/// Many posts at once; each is admitted, and fails, on its own.
#[utoipa::path(
    post,
    path = "/v1/smner:batch",
    operation_id = "smner_batch",
    tag = "recognition",
    request_body = BatchRequest,
    responses(
        (status = 200, description = "One outcome per post, in order", body = BatchResponse),
        super::openapi::Problems
    )
)]
pub async fn smner_batch(
    State(app): State<AppState>,
    Extension(request_id): Extension<RequestId>,
    request: Request,
) -> Result<Json<BatchResponse>, Problem> {
    let (request, pipeline) = let_in(request, app.pipeline()).await?;
    let (inputs, room) = read_batch(&app, request).await?;
    let outputs = inputs
        .iter()
        .map(|input| batch_item(&app, &pipeline, input, room.clone(), request_id.clone()));
    Ok(Json(BatchResponse { outputs: join_all(outputs).await }))
}

async fn read_batch(
    app: &AppState,
    request: Request,
) -> Result<(Vec<Box<RawValue>>, BodyRoom), Problem> {
    let body = app.bodies().read(request).await?;
    if body.form()? != BodyForm::Json {
        return Err(Problem::new(Code::UnsupportedMediaType, "send application/json"));
    }
    let BatchRequest { inputs } = parse::json(&body.bytes)?;
    let limit = app.limits().max_batch_items;
    Ok((parse::items("inputs", &inputs, limit)?, body.room))
}

async fn batch_item(
    app: &AppState,
    pipeline: &Pipeline,
    input: &RawValue,
    room: BodyRoom,
    request_id: RequestId,
) -> BatchOutput {
    let id = Arc::clone(&request_id.0);
    let outcome = async {
        let post = parse::post(parse::json(input.get().as_bytes())?, app.limits())?;
        answer(app, pipeline, post, room, request_id).await
    };
    match outcome.await {
        Ok(result) => BatchOutput { status: 200, result: Some(result), error: None },
        Err(problem) => {
            super::middleware::count_problem(problem.code);
            let status = problem.code.status().as_u16();
            BatchOutput { status, result: None, error: Some(problem.into_body(&id)) }
        }
    }
}
