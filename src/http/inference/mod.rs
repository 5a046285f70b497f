//! The Open Inference Protocol, version 2 (REST), as KServe and its clients speak it: a pack is a
//! model that reads the BYTES tensors `text` and `image` and writes `result`, each element of which
//! is the JSON that `/v1/smner` answers. Tensors travel as JSON; the extension for binary data is
//! not known here.
//!
//! Specification: <https://github.com/kserve/open-inference-protocol>. Deviation: an error is a
//! problem document like on every other route, which carries the protocol's `error` besides.

mod parse;
pub mod types;

use axum::Json;
use axum::extract::{Extension, Path, Request, State};
use axum::http::header::CONTENT_TYPE;
use futures_util::future::try_join_all;

use self::types::{
    InferOutput, InferRequest, InferResponse, ModelMetadata, ModelReady, ServerLive,
    ServerMetadata, ServerReady, TensorMetadata,
};
use super::body::{BodyForm, BodyRoom};
use super::middleware::RequestId;
use super::parse::ParsedPost;
use super::post::AdmittedPost;
use super::problem::{Code, Problem};
use super::state::{AppState, ServiceInfo};
use super::work::{let_in, ready_for_work};
use crate::pipeline::{Pipeline, PipelineError};
use crate::telemetry;

const PLATFORM: &str = "riveg";
const BYTES: &str = "BYTES";
const TEXT: &str = "text";
const IMAGE: &str = "image";
const OPTIONS: &str = "options";
const RESULT: &str = "result";

/// With this header a body is JSON up to some byte, and raw tensors behind it.
const BINARY_TENSORS: &str = "inference-header-content-length";

/// Is the server alive?
#[utoipa::path(
    get, path = "/v2/health/live", operation_id = "v2_live", tag = "open inference protocol",
    responses((status = 200, description = "It is", body = ServerLive), super::openapi::Problems)
)]
pub async fn live() -> Json<ServerLive> {
    Json(ServerLive { live: true })
}

/// Should requests be sent here?
#[utoipa::path(
    get, path = "/v2/health/ready", operation_id = "v2_ready", tag = "open inference protocol",
    responses((status = 200, description = "Yes", body = ServerReady), super::openapi::Problems)
)]
pub async fn ready(State(app): State<AppState>) -> Result<Json<ServerReady>, Problem> {
    app.pipeline().map(|_| Json(ServerReady { ready: true }))
}

/// What is this server?
#[utoipa::path(
    get, path = "/v2", operation_id = "v2_server", tag = "open inference protocol",
    responses(
        (status = 200, description = "Name and version", body = ServerMetadata),
        super::openapi::Problems
    )
)]
pub async fn server() -> Json<ServerMetadata> {
    Json(ServerMetadata { name: PLATFORM, version: telemetry::VERSION, extensions: Vec::new() })
}

/// What does the pack read and write?
#[utoipa::path(
    get, path = "/v2/models/{name}", operation_id = "v2_model", tag = "open inference protocol",
    params(("name" = String, Path, description = "The pack's name")),
    responses(
        (status = 200, description = "Its tensors", body = ModelMetadata),
        super::openapi::Problems
    )
)]
pub async fn model(
    State(app): State<AppState>,
    Path(name): Path<String>,
) -> Result<Json<ModelMetadata>, Problem> {
    let info = named(&app, &name)?;
    let tensor = |name| TensorMetadata { name, datatype: BYTES, shape: vec![-1] };
    Ok(Json(ModelMetadata {
        name,
        versions: vec![info.pack_version.clone()],
        platform: PLATFORM,
        inputs: vec![tensor(TEXT), tensor(IMAGE)],
        outputs: vec![tensor(RESULT)],
    }))
}

/// Should requests for this pack be sent here?
#[utoipa::path(
    get, path = "/v2/models/{name}/ready", operation_id = "v2_model_ready",
    tag = "open inference protocol",
    params(("name" = String, Path, description = "The pack's name")),
    responses((status = 200, description = "Yes", body = ModelReady), super::openapi::Problems)
)]
pub async fn model_ready(
    State(app): State<AppState>,
    Path(name): Path<String>,
) -> Result<Json<ModelReady>, Problem> {
    named(&app, &name)?;
    app.pipeline()?;
    Ok(Json(ModelReady { name, ready: true }))
}

/// Find the named entities of posts, and each in its picture.
///
/// Where one post fails, the request does, with that post's error.
#[utoipa::path(
    post, path = "/v2/models/{name}/infer", operation_id = "v2_infer",
    tag = "open inference protocol",
    params(("name" = String, Path, description = "The pack's name")),
    request_body = InferRequest,
    responses(
        (status = 200, description = "One answer per post", body = InferResponse),
        super::openapi::Problems
    )
)]
pub async fn infer(
    State(app): State<AppState>,
    Path(name): Path<String>,
    Extension(request_id): Extension<RequestId>,
    request: Request,
) -> Result<Json<InferResponse>, Problem> {
    let pipeline = named(&app, &name).and_then(|_| ready_for_work(&app));
    let (request, pipeline) = let_in(request, pipeline).await?;
    let (id, posts, room) = read(&app, request).await?;
    let answers =
        posts.into_iter().map(|post| answer(&app, &pipeline, post, room.clone(), &request_id));
    let data = try_join_all(answers).await?;
    let pack = app.pack();
    Ok(Json(InferResponse {
        model_name: pack.name,
        model_version: pack.version,
        id: id.unwrap_or_else(|| request_id.0.to_string()),
        outputs: vec![InferOutput { name: RESULT, shape: vec![data.len()], datatype: BYTES, data }],
    }))
}

/// What was loaded, where it has this name.
fn named<'a>(app: &'a AppState, name: &str) -> Result<&'a ServiceInfo, Problem> {
    let info = app.info()?;
    let is_it = info.pack_name == name;
    is_it.then_some(info).ok_or_else(|| Problem::new(Code::NotFound, "there is no such model"))
}

async fn read(
    app: &AppState,
    request: Request,
) -> Result<(Option<String>, Vec<ParsedPost>, BodyRoom), Problem> {
    let body = app.bodies().read(request).await?;
    let headers = &body.parts.headers;
    if headers.contains_key(BINARY_TENSORS) {
        let detail = "tensors are read as JSON: there is no extension for binary data here";
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    // Some clients of the protocol do not say what they send.
    if headers.contains_key(CONTENT_TYPE) && body.form()? != BodyForm::Json {
        return Err(Problem::new(Code::UnsupportedMediaType, "send application/json"));
    }
    let request: InferRequest = super::parse::json(&body.bytes)?;
    let id = request.id.clone();
    Ok((id, parse::posts(request, app.limits())?, body.room))
}

async fn answer(
    app: &AppState,
    pipeline: &Pipeline,
    post: ParsedPost,
    room: BodyRoom,
    request_id: &RequestId,
) -> Result<String, Problem> {
    let post = AdmittedPost::admit(app, pipeline, post, room, request_id.clone()).await?;
    let answer = post.answer(pipeline, &|_| {}).await?;
    serde_json::to_string(&answer).map_err(|error| {
        tracing::error!(%error, "an answer could not be written");
        PipelineError::Internal.into()
    })
}
