//! The outermost layer: request ids, problem bodies, security headers, metrics, the access log.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use metrics::{counter, histogram};
use tracing::Instrument;
use uuid::Uuid;

use super::problem::{Code, PROBLEM_JSON, Problem};
use super::rejections;
use crate::telemetry::names;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Where the routes of the Open Inference Protocol begin.
const INFERENCE: &str = "/v2";

/// Longest request id that is taken over from a client.
const MAX_ID_BYTES: usize = 128;

/// A request's id: the client's, or one that was made. In the extensions of every request.
#[derive(Debug, Clone)]
pub struct RequestId(pub Arc<str>);

impl RequestId {
    fn of(headers: &HeaderMap) -> Self {
        let sent = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok());
        let legal = |id: &&str| {
            (1..=MAX_ID_BYTES).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())
        };
        match sent.filter(legal) {
            Some(id) => Self(id.into()),
            None => Self(Uuid::new_v4().to_string().into()),
        }
    }
}

/// Dresses every response; lies outside everything else. Whatever is logged on the way stands in a
/// span with the request's id.
pub async fn dress(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    request.extensions_mut().insert(id.clone());
    let span = tracing::error_span!("request", request_id = %id.0);
    answer(request, next, id).instrument(span).await
}

async fn answer(request: Request, next: Next, id: RequestId) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>();
    let route = path.map_or("unmatched", |path| path.as_str()).to_owned();
    let is_inference = request.uri().path().starts_with(INFERENCE);
    let response = next.run(request).await;
    let mut response = write_problem(response, &id, is_inference);
    add_headers(response.headers_mut(), &id);
    let (status, took) = (response.status().as_u16(), begun.elapsed());
    count(&route, status, took);
    tracing::info!(%method, route, status, ms = took.as_millis() as u64);
    response
}

/// Gives an error its body. Every header that it brought along stays (`Allow`, `Retry-After`,
/// those of CORS) except what described the body before.
fn write_problem(response: Response, id: &RequestId, is_inference: bool) -> Response {
    let Some(problem) = Problem::of_response(&response) else { return response };
    count_problem(problem.code);
    let (mut head, _nothing) = response.into_parts();
    head.status = problem.code.status();
    if let Some(seconds) = problem.retry_after_header() {
        head.headers.insert(header::RETRY_AFTER, seconds);
    }
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    let problem = problem.into_body(&id.0);
    let problem = if is_inference { problem.with_error() } else { problem };
    let body = Json(problem).into_response().into_body();
    Response::from_parts(head, body)
}

fn add_headers(headers: &mut HeaderMap, id: &RequestId) {
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        headers.insert(X_REQUEST_ID, value);
    }
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
}

/// The response to a handler that panicked: the text goes to the log only.
pub fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("?"), "a handler panicked");
    Problem::new(Code::Internal, Code::Internal.title()).into_response()
}

/// Counts an error by its code.
pub fn count_problem(code: Code) {
    counter!(names::HTTP_PROBLEMS, "code" => code.name()).increment(1);
}

fn count(route: &str, status: u16, took: Duration) {
    let (route, status) = (route.to_owned(), status.to_string());
    counter!(names::HTTP_REQUESTS, "route" => route.clone(), "status" => status).increment(1);
    histogram!(names::REQUEST_SECONDS, "route" => route).record(took.as_secs_f64());
}

/// Lets every error's series begin at 0.
pub fn initialise_metrics() {
    rejections::initialise_metrics();
    for code in Code::ALL {
        counter!(names::HTTP_PROBLEMS, "code" => code.name()).increment(0);
    }
}
