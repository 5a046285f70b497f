//! Decoding on a bounded pool within a global budget of pixels.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;

use super::limits::Limits;
use super::problem::{Code, Problem};
use crate::vision::{DecodeLimits, Picture, decode, probe};

/// Pixels per permit: a semaphore counts in 32 bits.
const PIXELS_PER_PERMIT: u64 = 1024;

/// Decodes pictures, a few at a time, as long as the pixels held by all requests stay within the
/// budget. Cloning is cheap.
#[derive(Clone)]
pub struct Decoder {
    limits: DecodeLimits,
    pixels: Arc<Semaphore>,
    workers: Arc<Semaphore>,
}

/// A decoded picture and its share of the pixel budget, given back when dropped.
pub struct DecodedPicture {
    /// The picture.
    pub picture: Arc<Picture>,
    /// How long decoding took.
    pub took: Duration,
    _pixels: OwnedSemaphorePermit,
}

impl Decoder {
    /// With room for `pixel_budget` decoded pixels, at least one picture of the largest size.
    pub fn new(limits: &Limits, pixel_budget: u64) -> Self {
        let budget = pixel_budget.max(limits.max_image_pixels);
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            limits: limits.decode(),
            pixels: Arc::new(Semaphore::new(permits(budget) as usize)),
            workers: Arc::new(Semaphore::new(workers)),
        }
    }

    /// Decodes a file: the header first, then, once there is room, the pixels.
    ///
    /// # Errors
    /// `payload_too_large`, `unsupported_media_type` or `invalid_input` as the file deserves;
    /// `deadline_exceeded` where there was no room in time.
    pub async fn decode(&self, file: Bytes, deadline: Instant) -> Result<DecodedPicture, Problem> {
        let header = probe(&file, &self.limits)?;
        let pixels = Arc::clone(&self.pixels).acquire_many_owned(permits(header.pixels()));
        let pixels = self.within(deadline, pixels).await?;
        let worker = self.within(deadline, Arc::clone(&self.workers).acquire_owned()).await?;
        let begun = Instant::now();
        let limits = self.limits;
        let decoded = tokio::task::spawn_blocking(move || {
            let picture = decode(&file, &limits);
            drop(worker);
            picture
        });
        let picture = decoded.await.map_err(|error| {
            tracing::error!(%error, "decoding a picture panicked");
            Problem::new(Code::Internal, Code::Internal.title())
        })??;
        Ok(DecodedPicture { picture: Arc::new(picture), took: begun.elapsed(), _pixels: pixels })
    }

    async fn within(
        &self,
        deadline: Instant,
        permit: impl Future<Output = Result<OwnedSemaphorePermit, tokio::sync::AcquireError>>,
    ) -> Result<OwnedSemaphorePermit, Problem> {
        match timeout_at(deadline.into(), permit).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_closed)) => Err(Problem::new(Code::Unavailable, "shutting down")),
            Err(_elapsed) => Err(Problem::new(Code::DeadlineExceeded, "the deadline passed")),
        }
    }
}

fn permits(pixels: u64) -> u32 {
    u32::try_from(pixels.div_ceil(PIXELS_PER_PERMIT).max(1)).unwrap_or(u32::MAX)
}
