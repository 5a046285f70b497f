//! Image tokens by picture, bounded in bytes.

use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;
use lru::LruCache;

use crate::vision::PictureDigest;

/// The image tokens of the pictures used last. All entities of a picture need them, and the calls
/// for one picture come close together.
pub(super) struct ImageTokenCache {
    inner: Mutex<Inner>,
    max_bytes: usize,
}

struct Inner {
    tokens: LruCache<PictureDigest, Tensor>,
    bytes: usize,
}

impl ImageTokenCache {
    /// An empty cache for up to `max_bytes` of tensors.
    pub(super) fn new(max_bytes: usize) -> Self {
        let inner = Inner { tokens: LruCache::unbounded(), bytes: 0 };
        Self { inner: Mutex::new(inner), max_bytes }
    }

    /// The tokens of a picture, where they are known.
    pub(super) fn get(&self, picture: &PictureDigest) -> Option<Tensor> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.tokens.get(picture).cloned()
    }

    /// Keeps the tokens of a picture, and forgets the pictures unused for longest where there is
    /// no room.
    pub(super) fn put(&self, picture: PictureDigest, tokens: Tensor) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.bytes += size(&tokens);
        if let Some(old) = inner.tokens.put(picture, tokens) {
            inner.bytes -= size(&old);
        }
        while inner.bytes > self.max_bytes {
            match inner.tokens.pop_lru() {
                Some((_, old)) => inner.bytes -= size(&old),
                None => return,
            }
        }
    }
}

/// Bytes of a tensor's elements.
fn size(tensor: &Tensor) -> usize {
    tensor.elem_count() * tensor.dtype().size_in_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn what_was_unused_for_longest_goes_first() {
        let tensor = || Tensor::zeros(10, DType::F32, &Device::Cpu).unwrap();
        let key = |i| PictureDigest([i; 32]);
        let cache = ImageTokenCache::new(80);
        cache.put(key(1), tensor());
        cache.put(key(2), tensor());
        cache.put(key(2), tensor());
        assert!(cache.get(&key(1)).is_some());
        cache.put(key(3), tensor());
        assert!(cache.get(&key(2)).is_none());
        assert!(cache.get(&key(1)).is_some() && cache.get(&key(3)).is_some());
    }

    #[test]
    fn what_is_larger_than_the_cache_is_not_kept() {
        let cache = ImageTokenCache::new(39);
        let digest = PictureDigest([0; 32]);
        cache.put(digest, Tensor::zeros(10, DType::F32, &Device::Cpu).unwrap());
        assert!(cache.get(&digest).is_none());
    }
}
