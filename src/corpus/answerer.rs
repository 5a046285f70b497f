//! Who answers: this process, or a server.

use serde_json::Value;

use super::local::Local;
use super::post::{Boxes, Post};
use super::remote::Remote;

/// Who answers posts.
pub enum Answerer {
    /// A pack that this process has loaded.
    Local(Box<Local>),
    /// A server.
    Remote(Remote),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// This post cannot be answered; the others can. The problem as the server would tell it.
    #[error("{0}")]
    Post(Value),
    /// Nothing can be answered any more.
    #[error(transparent)]
    Fatal(#[from] anyhow::Error),
}

impl Answerer {
    /// The answer of `POST /v1/smner`.
    ///
    /// # Errors
    /// [`AnswerError`]
    pub async fn answer(&self, id: &str, post: &Post) -> Result<Value, AnswerError> {
        match self {
            Self::Local(local) => local.answer(id, post).await,
            Self::Remote(remote) => remote.answer(id, post).await,
        }
    }

    /// The answer of `POST /v1/segment`.
    ///
    /// # Errors
    /// [`AnswerError`]
    pub async fn segment(&self, boxes: &Boxes) -> Result<Value, AnswerError> {
        match self {
            Self::Local(local) => local.segment(boxes).await,
            Self::Remote(remote) => remote.segment(boxes).await,
        }
    }

    /// The pack's entailment threshold.
    pub fn entailment_threshold(&self) -> f64 {
        match self {
            Self::Local(local) => local.entailment_threshold(),
            Self::Remote(remote) => remote.entailment_threshold(),
        }
    }

    /// The pack's name and version.
    pub fn pack(&self) -> String {
        match self {
            Self::Local(local) => local.pack(),
            Self::Remote(remote) => remote.pack(),
        }
    }
}
