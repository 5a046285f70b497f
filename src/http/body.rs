//! Request bodies: read within limits of size, time and memory, then parsed as JSON or multipart.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::request::Parts;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::problem::{Code, Problem};
use super::rejections::{self, Rejection};

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
    patience: Duration,
    room: Arc<Semaphore>,
}

/// The share of the memory for bodies that a request takes up; given back when its last clone is
/// dropped. It outlives the body: what was parsed from it, a picture's file above all, stays in
/// memory until it is decoded.
#[derive(Debug, Clone)]
pub struct BodyRoom {
    _permits: Arc<OwnedSemaphorePermit>,
}

/// A body that was read, and its share of the memory.
pub struct ReadBody {
    /// The request's head.
    pub parts: Parts,
    /// The body.
    pub bytes: Bytes,
    /// Its share of the memory.
    pub room: BodyRoom,
}

impl BodyReader {
    /// For bodies of up to `limit` bytes that arrive within `patience`.
    pub fn new(limit: usize, patience: Duration) -> Self {
        let permits = LARGEST_BODIES * limit.div_ceil(BYTES_PER_PERMIT).max(1);
        Self { limit, patience, room: Arc::new(Semaphore::new(permits)) }
    }

    /// Reads a request's body.
    ///
    /// # Errors
    /// `payload_too_large`, `request_timeout`, `unsupported_media_type` for a compressed one,
    /// `overloaded` where the bodies in flight fill the memory set aside for them.
    pub async fn read(&self, request: Request) -> Result<ReadBody, Problem> {
        if let Err(problem) = self.check_head(request.headers()) {
            discard(request).await;
            return Err(problem);
        }
        let (parts, body) = request.into_parts();
        let mut stream = body.into_data_stream();
        match timeout(self.patience, self.collect(&mut stream)).await {
            Ok(Ok((bytes, room))) => Ok(ReadBody { parts, bytes, room }),
            Ok(Err(problem)) => {
                drain(&mut stream).await;
                Err(problem)
            }
            // Whoever stalls is told so now; waiting for the rest would only make it later.
            Err(_elapsed) => Err(Problem::new(Code::RequestTimeout, "the body came too slowly")),
        }
    }

    /// Refuses what the head alone shows to be too much. A length that is announced is believed
    /// for this only: memory is taken up by bytes that have arrived, not by promises.
    fn check_head(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
            let detail = "compressed bodies are not supported";
            return Err(Problem::new(Code::UnsupportedMediaType, detail));
        }
        let announced = headers.get(CONTENT_LENGTH);
        let announced = announced.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|bytes| bytes > self.limit) {
            return Err(self.too_large());
        }
        Ok(())
    }

    async fn collect(&self, stream: &mut BodyDataStream) -> Result<(Bytes, BodyRoom), Problem> {
        let mut bytes = BytesMut::new();
        let mut room = self.more_room(0)?;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| {
                tracing::debug!(%error, "a body ended early");
                Problem::new(Code::MalformedRequest, "the body ended before it was complete")
            })?;
            let length = bytes.len() + chunk.len();
            if length > self.limit {
                return Err(self.too_large());
            }
            let missing = length.div_ceil(BYTES_PER_PERMIT) - room.num_permits();
            room.merge(self.more_room(missing)?);
            bytes.extend_from_slice(&chunk);
        }
        Ok((bytes.freeze(), BodyRoom { _permits: Arc::new(room) }))
    }

    /// Never waits: bodies read halfway, each waiting for room that the others hold, would wait
    /// for ever.
    fn more_room(&self, permits: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        Arc::clone(&self.room)
            .try_acquire_many_owned(permits)
            .map_err(|_| rejections::refuse(Rejection::BodiesFull, "too many bodies in flight"))
    }

    fn too_large(&self) -> Problem {
        let detail = format!("the body has more than {} bytes", self.limit);
        Problem::new(Code::PayloadTooLarge, detail)
    }

    #[cfg(test)]
    pub(super) fn free_permits(&self) -> usize {
        self.room.available_permits()
    }
}

/// Reads a body to its end and throws it away, for requests that are refused by their head alone:
/// closing a connection on a client that is still sending would take our answer with it. A client
/// that waits to be asked for its body (`Expect: 100-continue`) is not asked.
pub async fn discard(request: Request) {
    if request.headers().contains_key(EXPECT) {
        return;
    }
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
        let request = Request::from_parts(self.parts, Body::from(self.bytes));
        let form = Multipart::from_request(request, &()).await;
        let mut form = form.map_err(|error| not_multipart(&error))?;
        let mut parts: Vec<(&'static str, Bytes)> = Vec::new();
        while let Some(field) = form.next_field().await.map_err(|error| not_multipart(&error))? {
            let sent = field.name().unwrap_or_default();
            let Some(name) = names.iter().copied().find(|name| *name == sent) else {
                let detail = format!("unknown part; the parts are {}", names.join(", "));
                return Err(Problem::invalid(detail));
            };
            if parts.iter().any(|(seen, _)| *seen == name) {
                return Err(Problem::invalid(format!("`{name}` comes twice")));
            }
            let content = field.bytes().await.map_err(|error| not_multipart(&error))?;
            parts.push((name, content));
        }
        Ok(FormParts(parts))
    }
}

/// The library's own words go to the log only.
fn not_multipart(error: &dyn std::fmt::Display) -> Problem {
    tracing::debug!(%error, "a form could not be read");
    Problem::new(Code::MalformedRequest, "the body is not multipart")
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

#[cfg(test)]
mod tests;
