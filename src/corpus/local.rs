//! Answers in this process, the same as the server's.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use serde_json::Value;

use super::answerer::AnswerError;
use super::post::{Boxes, Post};
use crate::batch::RequestContext;
use crate::http::Limits;
use crate::http::parse::{self, ParsedPost, PostParts};
use crate::http::problem::{Code, Problem};
use crate::http::render::{self, Rendering};
use crate::http::types::{ImageSize, MaskFormat, PackName, SmnerOptions, SmnerResponse};
use crate::pipeline::{Answer, Pipeline, Request, SegmentRequest};
use crate::vision::{Picture, decode};

/// A pack that is loaded.
pub struct Local {
    /// The networks behind their queues.
    pub pipeline: Pipeline,
    /// What is loaded.
    pub pack: PackName,
    /// What may be asked.
    pub limits: Limits,
    /// The pack's entailment threshold.
    pub threshold: f32,
}

/// A post that was checked, its picture decoded.
pub struct Prepared {
    id: String,
    request: Request,
    mask_format: MaskFormat,
    decode: Duration,
}

impl Prepared {
    /// Checks the parts of a post as the server does, and decodes its picture.
    ///
    /// # Errors
    /// The problem that the server would answer with.
    pub fn new(parts: PostParts, limits: &Limits) -> Result<Self, Problem> {
        let id = parts.id.clone().unwrap_or_default();
        let ParsedPost { text, image, options, mask_format, .. } =
            parse::post_of_parts(parts, limits)?;
        let begun = Instant::now();
        let picture = image.map(|file| decode(&file, &limits.decode())).transpose()?.map(Arc::new);
        let request = Request { text, picture, options };
        Ok(Self { id, request, mask_format, decode: begun.elapsed() })
    }

    /// The picture.
    pub fn picture(&self) -> Option<&Arc<Picture>> {
        self.request.picture.as_ref()
    }
}

/// An answer before and after it was written for the wire.
pub struct Answered {
    /// The answer.
    pub answer: Answer,
    /// The answer as it goes over the wire.
    pub response: SmnerResponse,
}

impl Local {
    /// Answers a post that was prepared.
    ///
    /// # Errors
    /// The problem that the server would answer with.
    pub async fn answer_prepared(&self, prepared: Prepared) -> Result<Answered, Problem> {
        let Prepared { id, request, mask_format, decode } = prepared;
        let image = request.picture.as_deref().map(Into::into);
        let begun = Instant::now();
        let context = RequestContext::unadmitted(id.as_str().into(), None);
        let answer = self.pipeline.run(request, &context).await?;
        let total = decode + begun.elapsed();
        let rendering =
            Rendering { id, pack: self.pack.clone(), image, mask_format, decode, total };
        let response = render::answer(answer.clone(), rendering)?;
        Ok(Answered { answer, response })
    }

    pub(super) async fn answer(&self, id: &str, post: &Post) -> Result<Value, AnswerError> {
        let options: Option<SmnerOptions> = serde::Deserialize::deserialize(&post.options)
            .map_err(|error| told(Problem::invalid(format!("options: {error}"))))?;
        let image = post.image.as_deref().map(read).transpose().map_err(told)?;
        let parts = PostParts {
            id: Some(id.to_owned()),
            text: post.text.clone(),
            image: image.map(Into::into),
            options,
        };
        let limits = self.limits.clone();
        let answered = async {
            let prepared = tokio::task::spawn_blocking(move || Prepared::new(parts, &limits));
            self.answer_prepared(prepared.await.map_err(|_| internal())??).await
        };
        let answered = answered.await.map_err(weigh)?;
        serde_json::to_value(answered.response).map_err(|error| AnswerError::Fatal(error.into()))
    }

    pub(super) async fn segment(&self, asked: &Boxes) -> Result<Value, AnswerError> {
        let answered = async {
            let picture = self.decode(read(&asked.image)?).await?;
            let image = ImageSize::from(&*picture);
            let sent = parse::legal_boxes(&asked.boxes, &self.limits)?;
            let boxes = parse::inside(&sent, image)?;
            let context = RequestContext::unadmitted("segment".into(), None);
            let request = SegmentRequest { picture, boxes };
            let answer = self.pipeline.segment(request, &context).await?;
            render::segments(answer, &sent, image, MaskFormat::Rle)
        };
        let response = answered.await.map_err(weigh)?;
        serde_json::to_value(response).map_err(|error| AnswerError::Fatal(error.into()))
    }

    pub(super) fn entailment_threshold(&self) -> f64 {
        f64::from(self.threshold)
    }

    pub(super) fn pack(&self) -> String {
        format!("{} {}", self.pack.name, self.pack.version)
    }

    async fn decode(&self, file: Vec<u8>) -> Result<Arc<Picture>, Problem> {
        let limits = self.limits.decode();
        let decoding = tokio::task::spawn_blocking(move || decode(&file, &limits));
        let picture = decoding.await.map_err(|_| internal())??;
        Ok(Arc::new(picture))
    }

    /// Stops the networks.
    pub async fn shutdown(self) {
        self.pipeline.shutdown().await;
    }
}

/// Whether a problem is this post's own, or the device is gone.
fn weigh(problem: Problem) -> AnswerError {
    match problem.code {
        Code::Unavailable => AnswerError::Fatal(anyhow!("{}", problem.detail)),
        _ => told(problem),
    }
}

fn internal() -> Problem {
    Problem::new(Code::Internal, Code::Internal.title())
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    std::fs::read(path)
        .map_err(|error| Problem::invalid(format!("cannot read {}: {error}", path.display())))
}

/// A problem as records tell it.
fn told(problem: Problem) -> AnswerError {
    let told = serde_json::json!({"code": problem.code.name(), "detail": problem.detail});
    AnswerError::Post(told)
}
