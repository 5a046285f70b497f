//! Which route leads where.

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderName, Method, header};
use axum::middleware::from_fn;
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::CorsLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::origins::Origins;
use super::problem::{Code, Problem};
use super::state::AppState;
use super::{
    assets, body, docs, inference, middleware, openapi, operations, segment, smner, stream,
};

/// The routes that the OpenAPI document describes.
pub(super) fn api() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(openapi::ApiHead::openapi())
        .routes(routes!(smner::smner))
        .routes(routes!(smner::smner_batch))
        .routes(routes!(stream::smner_stream))
        .routes(routes!(segment::segment))
        .routes(routes!(operations::info))
        .routes(routes!(operations::livez))
        .routes(routes!(operations::readyz))
        .routes(routes!(operations::startupz))
        .routes(routes!(operations::metrics))
        .routes(routes!(inference::live))
        .routes(routes!(inference::ready))
        .routes(routes!(inference::server))
        .routes(routes!(inference::model))
        .routes(routes!(inference::model_ready))
        .routes(routes!(inference::infer))
}

/// Everything that is served.
pub fn app(state: AppState) -> Router {
    middleware::initialise_metrics();
    let (routes, _) = api().split_for_parts();
    let document = openapi::document_3_1();
    let cors = cors(&state.options().allowed_origins);
    let app = routes
        .route("/openapi.json", get(|| async move { axum::Json(document) }))
        .merge(docs::router())
        .merge(assets::router())
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(CatchPanicLayer::custom(middleware::panicked))
        // Bodies are read, and limited, by `body::BodyReader`.
        .layer(DefaultBodyLimit::disable());
    // The layer answers every OPTIONS request by itself, so it is there only where it is wanted.
    let app = if let Some(cors) = cors { app.layer(cors) } else { app };
    app.layer(from_fn(middleware::dress)).with_state(state)
}

async fn not_found(request: Request) -> Problem {
    body::discard(request).await;
    Problem::new(Code::NotFound, "there is no such route")
}

async fn method_not_allowed(request: Request) -> Problem {
    body::discard(request).await;
    Problem::new(Code::MethodNotAllowed, "see the Allow header")
}

/// The layer that lets scripts of other origins call, where any may.
fn cors(origins: &Origins) -> Option<CorsLayer> {
    let layer = CorsLayer::new()
        .allow_origin(origins.allowed()?)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([header::CONTENT_TYPE, HeaderName::from_static("x-request-id")])
        .expose_headers([
            header::RETRY_AFTER,
            HeaderName::from_static("x-request-id"),
            HeaderName::from_static("server-timing"),
        ]);
    Some(layer)
}
