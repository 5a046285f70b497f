//! Request bodies: read within limits of size, time and memory, then parsed as JSON or multipart.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::problem::{Code, Problem};

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How much of a body that is too large is read and thrown away, so that the client, still
/// sending, reads our answer instead of a broken connection.
const DRAIN_BYTES: usize = 64 << 20;

/// And for how long.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Bodies held in memory at once, in bodies of the largest size.
const LARGEST_BODIES: usize = 16;

/// Bytes per permit.
const BYTES_PER_PERMIT: usize = 1024;

/// Reads bodies, as long as all of them together fit into memory. Cloning is cheap.
#[derive(Clone)]
pub struct BodyReader {
    limit: usize,
    room: Arc<Semaphore>,
}

/// A body that was read, and its share of the memory, given back when dropped.
pub struct ReadBody {
    /// The request's head.
    pub parts: Parts,
    /// The body.
    pub bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl BodyReader {
    /// For bodies of up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        let permits = LARGEST_BODIES * limit.div_ceil(BYTES_PER_PERMIT).max(1);
        Self { limit, room: Arc::new(Semaphore::new(permits)) }
    }

    /// Reads a request's body.
    ///
    /// # Errors
    /// `payload_too_large`, `request_timeout`, `unsupported_media_type` for a compressed one,
    /// `overloaded` where the bodies in flight fill the memory set aside for them.
    pub async fn read(&self, request: Request) -> Result<ReadBody, Problem> {
        let (parts, body) = request.into_parts();
        let mut stream = body.into_data_stream();
        match self.read_stream(&parts, &mut stream).await {
            Ok((bytes, room)) => Ok(ReadBody { parts, bytes, _room: room }),
            Err(problem) => {
                drain(&mut stream).await;
                Err(problem)
            }
        }
    }

    async fn read_stream(
        &self,
        parts: &Parts,
        stream: &mut BodyDataStream,
    ) -> Result<(Bytes, OwnedSemaphorePermit), Problem> {
        if parts.headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
            let detail = "compressed bodies are not supported";
            return Err(Problem::new(Code::UnsupportedMediaType, detail));
        }
        let announced = parts.headers.get(CONTENT_LENGTH);
        let announced = announced.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|bytes| bytes > self.limit) {
            return Err(self.too_large());
        }
        let room = self.room_for(announced.unwrap_or(self.limit))?;
        match timeout(BODY_TIMEOUT, self.collect(stream)).await {
            Ok(bytes) => Ok((bytes?, room)),
            Err(_elapsed) => Err(Problem::new(Code::RequestTimeout, "the body came too slowly")),
        }
    }

    fn room_for(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let permits = u32::try_from(bytes.div_ceil(BYTES_PER_PERMIT)).unwrap_or(u32::MAX);
        Arc::clone(&self.room).try_acquire_many_owned(permits).map_err(|_| {
            let problem = Problem::new(Code::Overloaded, "too many bodies in flight");
            Problem { retry_after: Some(Duration::from_secs(1)), ..problem }
        })
    }

    async fn collect(&self, stream: &mut BodyDataStream) -> Result<Bytes, Problem> {
        let mut bytes = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|_| {
                Problem::new(Code::MalformedRequest, "the body ended before it was complete")
            })?;
            if bytes.len() + chunk.len() > self.limit {
                return Err(self.too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }

    fn too_large(&self) -> Problem {
        let detail = format!("the body has more than {} bytes", self.limit);
        Problem::new(Code::PayloadTooLarge, detail)
    }
}

/// Reads a body to its end and throws it away, for requests that are refused by their head alone:
/// closing a connection on a client that is still sending would take our answer with it.
pub async fn discard(request: Request) {
    drain(&mut request.into_body().into_data_stream()).await;
}

async fn drain(stream: &mut BodyDataStream) {
    let read = async {
        let mut drained = 0;
        while let Some(Ok(chunk)) = stream.next().await {
            drained += chunk.len();
            if drained > DRAIN_BYTES {
                break;
            }
        }
    };
    // Whoever takes longer than this loses the connection instead of reading the answer.
    let _ = timeout(DRAIN_TIMEOUT, read).await;
}

/// The forms in which a request may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyForm {
    /// `application/json`.
    Json,
    /// `multipart/form-data`.
    Multipart,
}

impl ReadBody {
    /// The form that `Content-Type` names.
    ///
    /// # Errors
    /// `unsupported_media_type` for any other.
    pub fn form(&self) -> Result<BodyForm, Problem> {
        let kind = self.parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        match essence.to_ascii_lowercase().as_str() {
            "application/json" => Ok(BodyForm::Json),
            "multipart/form-data" => Ok(BodyForm::Multipart),
            _ => {
                let detail = "send application/json or multipart/form-data";
                Err(Problem::new(Code::UnsupportedMediaType, detail))
            }
        }
    }

    /// The parts of a multipart body; each of `names` at most once, and no others.
    ///
    /// # Errors
    /// `malformed_request` where it is not multipart, `invalid_input` for unknown or repeated
    /// parts.
    pub async fn multipart(self, names: &'static [&'static str]) -> Result<FormParts, Problem> {
        let malformed = |_| Problem::new(Code::MalformedRequest, "the body is not multipart");
        let request = Request::from_parts(self.parts, Body::from(self.bytes));
        let mut form = Multipart::from_request(request, &())
            .await
            .map_err(|_| Problem::new(Code::MalformedRequest, "the body is not multipart"))?;
        let mut parts: Vec<(&'static str, Bytes)> = Vec::new();
        while let Some(field) = form.next_field().await.map_err(malformed)? {
            let sent = field.name().unwrap_or_default();
            let Some(name) = names.iter().copied().find(|name| *name == sent) else {
                let detail = format!("unknown part; the parts are {}", names.join(", "));
                return Err(Problem::invalid(detail));
            };
            if parts.iter().any(|(seen, _)| *seen == name) {
                return Err(Problem::invalid(format!("`{name}` comes twice")));
            }
            parts.push((name, field.bytes().await.map_err(malformed)?));
        }
        Ok(FormParts(parts))
    }
}

/// The parts of a multipart body by name.
pub struct FormParts(Vec<(&'static str, Bytes)>);

impl FormParts {
    /// Takes a part out.
    pub fn take(&mut self, name: &str) -> Option<Bytes> {
        let at = self.0.iter().position(|(part, _)| *part == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Takes out a part that has to be there.
    ///
    /// # Errors
    /// `invalid_input` where it is missing.
    pub fn require(&mut self, name: &str) -> Result<Bytes, Problem> {
        self.take(name).ok_or_else(|| Problem::invalid(format!("`{name}` is missing")))
    }

    /// Takes out a part of text.
    ///
    /// # Errors
    /// `invalid_input` where it is not UTF-8.
    pub fn take_text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let text = self.take(name).map(|bytes| String::from_utf8(bytes.into()));
        text.transpose().map_err(|_| Problem::invalid(format!("`{name}` is not UTF-8")))
    }
}
