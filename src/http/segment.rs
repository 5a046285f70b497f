//! `POST /v1/segment`: the SMNER step for any other GMNER system.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};

use super::body::{BodyForm, BodyRoom};
use super::middleware::RequestId;
use super::parse::{self, ParsedBoxes};
use super::picture::PictureFile;
use super::problem::Problem;
use super::render;
use super::state::AppState;
use super::types::{ImageSize, SegmentBoxesRequest, SegmentOptions, SegmentResponse};
use super::work::{let_in, off_thread, ready_for_work};
use crate::pipeline::SegmentRequest;

/// Turn boxes of a picture into masks.
///
/// Send JSON, or `multipart/form-data` with the parts `image` (the file), `boxes` (JSON), and
/// optionally `options` (JSON).
#[utoipa::path(
    post,
    path = "/v1/segment",
    operation_id = "segment",
    tag = "recognition",
    request_body(content(
        (SegmentBoxesRequest = "application/json"),
        (super::openapi::SegmentForm = "multipart/form-data")
    )),
    responses(
        (status = 200, description = "One mask per box, in order", body = SegmentResponse),
        super::openapi::Problems
    )
)]
pub async fn segment(
    State(app): State<AppState>,
    Extension(request_id): Extension<RequestId>,
    request: Request,
) -> Result<Response, Problem> {
    let (request, pipeline) = let_in(request, ready_for_work(&app)).await?;
    let (parsed, room) = read_boxes(&app, request).await?;
    let begun = Instant::now();
    let deadline = begun + app.limits().timeout(None);
    let file = PictureFile { bytes: parsed.image, room };
    let decoded = app.decoder().decode(file, deadline).await?;
    let image = ImageSize::from(&*decoded.picture);
    let boxes = parse::inside(&parsed.boxes, image)?;
    let request = SegmentRequest { picture: decoded.picture.clone(), boxes };
    let context = pipeline.admit_segment(&request, Some(deadline), Arc::clone(&request_id.0))?;
    let answer = pipeline.segment(request, &context).await?;
    let timing = render::segment_timing(&answer.timings, decoded.took, begun.elapsed());
    let (boxes, format) = (parsed.boxes, parsed.mask_format);
    let masks = off_thread(move || render::segments(answer, &boxes, image, format)).await?;
    Ok(([("server-timing", timing)], Json(masks)).into_response())
}

async fn read_boxes(app: &AppState, request: Request) -> Result<(ParsedBoxes, BodyRoom), Problem> {
    let body = app.bodies().read(request).await?;
    let room = body.room.clone();
    let boxes = match body.form()? {
        BodyForm::Json => parse::boxes(parse::json(&body.bytes)?, app.limits()),
        BodyForm::Multipart => {
            let mut parts = body.multipart(&["image", "boxes", "options"]).await?;
            let options = parts.take("options").map(|text| parse::json(&text)).transpose()?;
            let options: SegmentOptions = options.unwrap_or_default();
            let boxes: Vec<Vec<f64>> = parse::json(&parts.require("boxes")?)?;
            Ok(ParsedBoxes {
                image: parts.require("image")?,
                boxes: parse::legal_boxes(&boxes, app.limits())?,
                mask_format: options.mask_format.unwrap_or_default(),
            })
        }
    };
    Ok((boxes?, room))
}
