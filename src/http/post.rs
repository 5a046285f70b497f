//! One post from its body to its answer: read, decode, admit, run, render. Every route that answers
//! posts goes this way.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::Request;

use super::body::{BodyForm, BodyRoom};
use super::middleware::RequestId;
use super::parse::{self, ParsedPost, PostParts};
use super::picture::{DecodedPicture, PictureFile};
use super::problem::Problem;
use super::render::{self, Rendering};
use super::state::AppState;
use super::types::{ImageSize, MaskFormat, PackName, SmnerResponse};
use super::work::off_thread;
use crate::batch::RequestContext;
use crate::pipeline::{self, Observer, Pipeline};

/// Reads a post from a request's body, in either of its forms.
///
/// # Errors
/// Whatever its body or one of its values deserves.
pub async fn read(app: &AppState, request: Request) -> Result<(ParsedPost, BodyRoom), Problem> {
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

/// A post that was let in, its picture decoded. Dropping it gives its place back.
pub struct AdmittedPost {
    /// The caller's id, or the request's.
    pub id: String,
    /// What answers.
    pub pack: PackName,
    /// How masks are to be written.
    pub mask_format: MaskFormat,
    begun: Instant,
    request: pipeline::Request,
    context: RequestContext,
    decoded: Option<DecodedPicture>,
}

impl AdmittedPost {
    /// Decodes the picture and takes up room for the work. The post's time begins now.
    ///
    /// # Errors
    /// Whatever the picture deserves; `overloaded`; `deadline_exceeded`.
    pub async fn admit(
        app: &AppState,
        pipeline: &Pipeline,
        post: ParsedPost,
        room: BodyRoom,
        request_id: RequestId,
    ) -> Result<Self, Problem> {
        let begun = Instant::now();
        let deadline = begun + post.timeout;
        let decoded = match post.image {
            Some(bytes) => Some(app.decoder().decode(PictureFile { bytes, room }, deadline).await?),
            None => None,
        };
        let picture = decoded.as_ref().map(|decoded| decoded.picture.clone());
        let request = pipeline::Request { text: post.text, picture, options: post.options };
        let context = pipeline.admit(&request, Some(deadline), Arc::clone(&request_id.0))?;
        let id = post.id.unwrap_or_else(|| request_id.0.to_string());
        let (pack, mask_format) = (app.pack(), post.mask_format);
        Ok(Self { id, pack, mask_format, begun, request, context, decoded })
    }

    /// The size of the upright picture.
    pub fn image(&self) -> Option<ImageSize> {
        self.request.picture.as_deref().map(ImageSize::from)
    }

    /// The whole answer; `observer` hears on the way what is known so far.
    ///
    /// # Errors
    /// Whatever the pipeline fails with.
    pub async fn answer(
        self,
        pipeline: &Pipeline,
        observer: Observer<'_>,
    ) -> Result<SmnerResponse, Problem> {
        let image = self.image();
        let answer = pipeline.run_observed(self.request, &self.context, observer).await?;
        let rendering = Rendering {
            id: self.id,
            pack: self.pack,
            image,
            mask_format: self.mask_format,
            decode: self.decoded.as_ref().map(|decoded| decoded.took).unwrap_or_default(),
            total: self.begun.elapsed(),
        };
        off_thread(move || render::answer(answer, rendering)).await
    }
}
