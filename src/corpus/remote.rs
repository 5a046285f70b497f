//! Answers by a server.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answerer::AnswerError;
use super::post::{Boxes, Post};

/// How often a request is sent again that found no server, or one that starts or stops.
const RETRIES: u32 = 6;
/// The first pause before that; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Waited after a 429 without a usable `Retry-After`, and the longest wait after one with it.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A server that answers.
pub struct Remote {
    client: Client,
    url: Url,
    info: Info,
}

#[derive(Deserialize)]
struct Info {
    entailment_threshold: f64,
    pack: Pack,
}

#[derive(Deserialize)]
struct Pack {
    name: String,
    version: String,
}

impl Remote {
    /// Asks the server at `url` what it has loaded.
    ///
    /// # Errors
    /// When the address is not plain HTTP, or nobody answers there as riveg does.
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        let url = Url::parse(url).with_context(|| format!("`{url}` is no address"))?;
        if url.scheme() != "http" {
            bail!("this build speaks plain HTTP only: put `http://…`, or a proxy between");
        }
        let client = Client::builder().no_proxy().build()?;
        let remote = |info| Self { client: client.clone(), url: url.clone(), info };
        let answer = client.get(url.join("/v1/info")?).send().await?;
        let info = answer.error_for_status()?.json().await;
        Ok(remote(info.with_context(|| format!("{url} does not answer as riveg does"))?))
    }

    pub(super) async fn answer(&self, id: &str, post: &Post) -> Result<Value, AnswerError> {
        let mut body = json!({"id": id, "text": post.text, "options": post.options});
        if let Some(path) = &post.image {
            body["image"] = image(path)?;
        }
        self.post("/v1/smner", &body).await
    }

    pub(super) async fn segment(&self, asked: &Boxes) -> Result<Value, AnswerError> {
        let body = json!({"image": image(&asked.image)?, "boxes": asked.boxes});
        self.post("/v1/segment", &body).await
    }

    pub(super) fn entailment_threshold(&self) -> f64 {
        self.info.entailment_threshold
    }

    pub(super) fn pack(&self) -> String {
        format!("{} {}", self.info.pack.name, self.info.pack.version)
    }

    /// Sends a request until it is answered: after a 429 as late as the server says, after a failed
    /// connection or a 503 a few times.
    async fn post(&self, route: &str, body: &Value) -> Result<Value, AnswerError> {
        let url = self.url.join(route).map_err(|error| AnswerError::Fatal(error.into()))?;
        let mut failures = 0;
        loop {
            let failure = match self.client.post(url.clone()).json(body).send().await {
                Ok(answer) if answer.status() == StatusCode::TOO_MANY_REQUESTS => {
                    tokio::time::sleep(told_wait(&answer)).await;
                    continue;
                }
                Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => {
                    anyhow!("the server is starting or stopping")
                }
                Ok(answer) => match read(answer).await {
                    Ok(found) => return found.map_err(AnswerError::Post),
                    Err(error) => error.into(),
                },
                Err(error) => error.into(),
            };
            failures += 1;
            if failures > RETRIES {
                return Err(AnswerError::Fatal(failure.context(format!("asking {url}"))));
            }
            tokio::time::sleep(FIRST_PAUSE * 2u32.pow(failures - 1)).await;
        }
    }
}

/// The answer, or the problem that the server tells.
async fn read(answer: Response) -> reqwest::Result<Result<Value, Value>> {
    let good = answer.status().is_success();
    let found: Value = answer.json().await?;
    Ok(if good {
        Ok(found)
    } else {
        Err(json!({"code": found["code"], "detail": found["detail"]}))
    })
}

fn told_wait(answer: &Response) -> Duration {
    let told = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let seconds = told.and_then(|seconds| seconds.parse().ok());
    seconds.map_or(LONGEST_WAIT, Duration::from_secs).min(LONGEST_WAIT)
}

fn image(path: &Path) -> Result<Value, AnswerError> {
    let file = std::fs::read(path).map_err(|error| {
        let detail = format!("cannot read {}: {error}", path.display());
        AnswerError::Post(json!({"code": "invalid_input", "detail": detail}))
    })?;
    Ok(json!({"type": "base64", "data": BASE64.encode(file)}))
}
