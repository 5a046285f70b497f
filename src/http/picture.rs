//! Decoding on a bounded pool within a global budget of pixels.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;

use super::body::BodyRoom;
use super::limits::Limits;
use super::problem::{Code, Problem};
use super::rejections::{self, Rejection};
use super::work::off_thread;
use crate::vision::decode::Header;
use crate::vision::{DecodeLimits, Picture, decode, probe};

/// Pixels per permit: a semaphore counts in 32 bits.
const PIXELS_PER_PERMIT: u64 = 1024;

/// Pictures that may wait for room at a time, at least; a server further behind than this refuses
/// at once rather than when the deadline has passed.
const MAX_WAITING: usize = 128;

/// Decodes pictures, a few at a time, as long as the pixels held by all requests stay within the
/// budget. Cloning is cheap.
#[derive(Clone)]
pub struct Decoder {
    limits: DecodeLimits,
    pixels: Arc<Semaphore>,
    workers: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

/// A picture's file, and the share of the memory for bodies that it takes up.
pub struct PictureFile {
    /// The file.
    pub bytes: Bytes,
    /// Its share of the memory.
    pub room: BodyRoom,
}

/// A decoded picture.
pub struct DecodedPicture {
    /// The picture, which holds its share of the pixel budget: a batch under way may use it longer
    /// than its request lives.
    pub picture: Arc<Picture>,
    /// How long decoding took.
    pub took: Duration,
}

impl Decoder {
    /// With room for `pixel_budget` decoded pixels, at least one picture of the largest size.
    pub fn new(limits: &Limits, pixel_budget: u64) -> Self {
        let budget = pixel_budget.max(limits.max_image_pixels);
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        // A batch alone on the server must find a place for each of its items.
        let places = workers + MAX_WAITING.max(limits.max_batch_items);
        Self {
            limits: limits.decode(),
            pixels: Arc::new(Semaphore::new(permits(budget) as usize)),
            workers: Arc::new(Semaphore::new(workers)),
            places: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// Decodes a file: the header first, then, once there is room, the pixels.
    ///
    /// # Errors
    /// `payload_too_large`, `unsupported_media_type` or `invalid_input` as the file deserves;
    /// `overloaded` where too many wait for room already, `deadline_exceeded` where there was none
    /// in time.
    pub async fn decode(
        &self,
        file: PictureFile,
        deadline: Instant,
    ) -> Result<DecodedPicture, Problem> {
        let _place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            rejections::refuse(Rejection::DecodingFull, "too many pictures wait to be decoded")
        })?;
        let (file, header) = self.probe(file).await?;
        let pixels = Arc::clone(&self.pixels).acquire_many_owned(permits(header.pixels()));
        let pixels = self.within(deadline, pixels).await?;
        let worker = self.within(deadline, Arc::clone(&self.workers).acquire_owned()).await?;
        self.decode_now(file, pixels, worker).await
    }

    /// Reads the header off the threads of connections: that of a JPEG file is checked to the end of
    /// the file.
    async fn probe(&self, file: PictureFile) -> Result<(PictureFile, Header), Problem> {
        let limits = self.limits;
        off_thread(move || {
            let header = probe(&file.bytes, &limits)?;
            Ok((file, header))
        })
        .await
    }

    /// Everything that decoding takes up goes along with it: it runs to its end even where nobody
    /// waits for the picture any more.
    async fn decode_now(
        &self,
        file: PictureFile,
        pixels: OwnedSemaphorePermit,
        worker: OwnedSemaphorePermit,
    ) -> Result<DecodedPicture, Problem> {
        let limits = self.limits;
        off_thread(move || {
            let begun = Instant::now();
            let picture = decode(&file.bytes, &limits);
            drop((file, worker));
            let (picture, took) = (Arc::new(picture?.holding(pixels)), begun.elapsed());
            Ok(DecodedPicture { picture, took })
        })
        .await
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

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::extract::Request;
    use image::{ImageFormat, RgbImage};

    use super::super::body::BodyReader;
    use super::*;

    const SIDE: u32 = 1500;

    fn limits() -> Limits {
        Limits {
            max_body_bytes: 1 << 20,
            max_image_side: SIDE,
            max_image_pixels: u64::from(SIDE * SIDE),
            max_id_bytes: 1,
            max_text_chars: 1,
            max_entities: 1,
            max_batch_items: 1,
            max_boxes: 1,
            timeout_ms: 1,
            max_timeout_ms: 1,
        }
    }

    /// A picture that fills the budget of `limits()` alone.
    async fn large_picture(bodies: &BodyReader) -> PictureFile {
        let mut file = std::io::Cursor::new(Vec::new());
        RgbImage::new(SIDE, SIDE).write_to(&mut file, ImageFormat::Png).unwrap();
        let request = Request::post("/").body(Body::from(file.into_inner())).unwrap();
        let body = bodies.read(request).await.ok().unwrap();
        PictureFile { bytes: body.bytes, room: body.room }
    }

    fn bodies() -> BodyReader {
        BodyReader::new(1 << 20, Duration::from_secs(60))
    }

    fn in_a_minute() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test]
    async fn files_that_wait_are_counted_and_few() {
        let (decoder, bodies) = (Decoder::new(&limits(), 0), bodies());
        let free = bodies.free_permits();
        let first = decoder.decode(large_picture(&bodies).await, in_a_minute()).await.ok().unwrap();
        assert_eq!(bodies.free_permits(), free, "what is decoded needs its file no more");
        let places = decoder.places.available_permits();
        let mut waiting = Vec::new();
        for _ in 0..places {
            let (decoder, file) = (decoder.clone(), large_picture(&bodies).await);
            let decoding = async move { decoder.decode(file, in_a_minute()).await.is_ok() };
            waiting.push(tokio::spawn(decoding));
        }
        while decoder.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(bodies.free_permits() <= free - places, "what waits is in memory");
        let refused = decoder.decode(large_picture(&bodies).await, in_a_minute()).await;
        let problem = refused.err().unwrap();
        assert_eq!((problem.code, problem.retry_after.is_some()), (Code::Overloaded, true));
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
        drop(first);
    }

    #[tokio::test]
    async fn pixels_are_held_while_they_are_decoded_for_nobody() {
        let (decoder, bodies) = (Decoder::new(&limits(), 0), bodies());
        let all = decoder.pixels.available_permits();
        let file = large_picture(&bodies).await;
        let taken_up = async {
            while decoder.pixels.available_permits() == all {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = decoder.decode(file, in_a_minute()) => {
                panic!("a picture of this size is not decoded at once")
            }
            () = taken_up => {}
        }
        assert!(decoder.pixels.available_permits() < all);
        let given_back = async {
            while decoder.pixels.available_permits() < all {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), given_back).await.unwrap();
    }

    /// As a batch does that is under way when its request is given up.
    #[tokio::test]
    async fn pixels_are_held_as_long_as_anybody_has_the_picture() {
        let (decoder, bodies) = (Decoder::new(&limits(), 0), bodies());
        let all = decoder.pixels.available_permits();
        let file = large_picture(&bodies).await;
        let decoded = decoder.decode(file, in_a_minute()).await.ok().unwrap();
        let picture = Arc::clone(&decoded.picture);
        drop(decoded);
        assert_eq!(decoder.pixels.available_permits(), 0);
        drop(picture);
        assert_eq!(decoder.pixels.available_permits(), all);
    }
}
