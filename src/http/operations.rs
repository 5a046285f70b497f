//! What operators and load balancers ask: health, information, metrics.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::limits::Limits;
use super::problem::Problem;
use super::render;
use super::state::AppState;
use super::types::{MaskFormat, PackName};
use crate::telemetry;
use crate::vision::decode::PictureFormat;

/// A short yes.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok`.
    status: &'static str,
}

const OK: Json<Health> = Json(Health { status: "ok" });

/// Is the process alive?
#[utoipa::path(
    get, path = "/livez", operation_id = "livez", tag = "operations",
    responses((status = 200, description = "It is", body = Health), super::openapi::Problems)
)]
pub async fn livez() -> Json<Health> {
    OK
}

/// Should requests be sent here?
#[utoipa::path(
    get, path = "/readyz", operation_id = "readyz", tag = "operations",
    responses((status = 200, description = "Yes", body = Health), super::openapi::Problems)
)]
pub async fn readyz(State(app): State<AppState>) -> Result<Json<Health>, Problem> {
    app.pipeline().map(|_| OK)
}

/// Is loading done?
#[utoipa::path(
    get, path = "/startupz", operation_id = "startupz", tag = "operations",
    responses((status = 200, description = "It is", body = Health), super::openapi::Problems)
)]
pub async fn startupz(State(app): State<AppState>) -> Result<Json<Health>, Problem> {
    app.info().map(|_| OK)
}

/// What is loaded, and what may be asked of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Info {
    /// This program's version.
    version: &'static str,
    /// The git revision that it was built from.
    revision: &'static str,
    /// The pack.
    pack: PackName,
    /// The pack's entailment threshold.
    entailment_threshold: f64,
    /// Every model.
    models: Vec<Model>,
    /// Every limit that a client needs.
    limits: Limits,
    /// Media types of pictures that are read.
    image_formats: Vec<&'static str>,
    /// Forms in which masks are written.
    mask_formats: Vec<MaskFormat>,
}

/// One model.
#[derive(Debug, Serialize, ToSchema)]
pub struct Model {
    /// The role that it fills.
    #[schema(example = "segmenter")]
    role: &'static str,
    /// Its architecture.
    #[schema(example = "sam")]
    architecture: String,
    /// Number of parameters.
    parameters: u64,
    /// Data type of the parameters.
    dtype: String,
    /// Where it runs.
    device: String,
    /// SHA-256 of its weights.
    sha256: String,
}

/// What is loaded, and what may be asked of it.
#[utoipa::path(
    get, path = "/v1/info", operation_id = "info", tag = "operations",
    responses((status = 200, description = "All about it", body = Info), super::openapi::Problems)
)]
pub async fn info(State(app): State<AppState>) -> Result<Json<Info>, Problem> {
    let loaded = app.info()?;
    let model = |(role, info): &(&'static str, crate::models::ModelInfo)| Model {
        role,
        architecture: info.architecture.clone(),
        parameters: info.parameters,
        dtype: info.dtype.clone(),
        device: info.device.clone(),
        sha256: info.sha256.clone(),
    };
    Ok(Json(Info {
        version: telemetry::VERSION,
        revision: telemetry::REVISION,
        pack: app.pack(),
        entailment_threshold: render::score(loaded.entailment_threshold),
        models: loaded.models.iter().map(model).collect(),
        limits: app.limits().clone(),
        image_formats: PictureFormat::ALL.iter().map(|format| format.media_type()).collect(),
        mask_formats: MaskFormat::ALL.to_vec(),
    }))
}

/// Every metric, as Prometheus reads it.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "operations",
    responses(
        (status = 200, description = "Prometheus text", body = String, content_type = "text/plain"),
        super::openapi::Problems
    )
)]
pub async fn metrics(State(app): State<AppState>) -> Response {
    let kind = (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    ([kind], app.render_metrics()).into_response()
}
