//! What a client may ask for.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::vision::DecodeLimits;

/// Every limit that a client needs to know; part of `GET /v1/info`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Limits {
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
    /// Pixels of a picture's longer side.
    pub max_image_side: u32,
    /// Pixels of a picture.
    pub max_image_pixels: u64,
    /// Bytes of a caller's own `id`.
    pub max_id_bytes: usize,
    /// Unicode code points of a text, of `knowledge` and of `image_description`.
    pub max_text_chars: usize,
    /// Entities of a request.
    pub max_entities: usize,
    /// Posts of a batch.
    pub max_batch_items: usize,
    /// Boxes of a segment request.
    pub max_boxes: usize,
    /// Deadline of a request that names none, in milliseconds.
    pub timeout_ms: u64,
    /// Longest deadline that a request has, in milliseconds: a longer one that it asks for is cut
    /// to this.
    pub max_timeout_ms: u64,
}

impl Limits {
    /// What a picture may be.
    pub fn decode(&self) -> DecodeLimits {
        DecodeLimits {
            max_bytes: self.max_body_bytes,
            max_side: self.max_image_side,
            max_pixels: self.max_image_pixels,
        }
    }

    /// The deadline of a request that asks for `timeout_ms`.
    pub fn timeout(&self, timeout_ms: Option<u64>) -> Duration {
        Duration::from_millis(timeout_ms.unwrap_or(self.timeout_ms).min(self.max_timeout_ms))
    }
}
