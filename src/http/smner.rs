//! `POST /v1/smner` and `POST /v1/smner:batch`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use serde_json::value::RawValue;

use super::body::{BodyForm, BodyRoom};
use super::middleware::RequestId;
use super::parse;
use super::post::{self, AdmittedPost};
use super::problem::{Code, Problem};
use super::render;
use super::state::AppState;
use super::types::{BatchOutput, BatchRequest, BatchResponse, SmnerRequest, SmnerResponse};
use super::work::{let_in, ready_for_work};
use crate::pipeline::Pipeline;

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
    let (post, room) = post::read(&app, request).await?;
    let post = AdmittedPost::admit(&app, &pipeline, post, room, request_id).await?;
    let answer = post.answer(&pipeline, &|_| {}).await?;
    let timing = render::server_timing(&answer.timings_ms);
    Ok(([("server-timing", timing)], Json(answer)).into_response())
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
        let post = AdmittedPost::admit(app, pipeline, post, room, request_id).await?;
        post.answer(pipeline, &|_| {}).await
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
