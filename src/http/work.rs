//! How handlers begin work, and where what takes CPU time is done.

use std::sync::Arc;

use axum::extract::Request;

use super::body;
use super::problem::Problem;
use super::state::AppState;
use crate::pipeline::{Pipeline, PipelineError};

/// The pipeline, unless it is not ready or has no room at all.
pub fn ready_for_work(app: &AppState) -> Result<Arc<Pipeline>, Problem> {
    let pipeline = app.pipeline()?;
    pipeline.refuse_when_full()?;
    Ok(pipeline)
}

/// The request and the pipeline, where there is one for it; where not, the request's body is
/// thrown away.
pub async fn let_in(
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

/// Runs what takes CPU time off the threads that serve connections.
pub async fn off_thread<T: Send + 'static>(
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
