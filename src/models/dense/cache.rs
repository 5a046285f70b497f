//! Scenes by picture, bounded in bytes.

use std::sync::{Mutex, PoisonError};

use lru::LruCache;

use super::trunk::Scene;
use crate::vision::PictureDigest;

/// The scenes of the pictures used last: entailment and grounding of all entities of a picture need
/// the same one, and come close together.
pub(super) struct SceneCache {
    inner: Mutex<Inner>,
    max_bytes: usize,
}

struct Inner {
    scenes: LruCache<PictureDigest, Scene>,
    bytes: usize,
}

impl SceneCache {
    /// An empty cache for up to `max_bytes` of tensors.
    pub(super) fn new(max_bytes: usize) -> Self {
        let inner = Inner { scenes: LruCache::unbounded(), bytes: 0 };
        Self { inner: Mutex::new(inner), max_bytes }
    }

    /// The scene of a picture, where it is known.
    pub(super) fn get(&self, picture: &PictureDigest) -> Option<Scene> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.scenes.get(picture).cloned()
    }

    /// Keeps the scene of a picture, and forgets the pictures unused for longest where there is no
    /// room.
    pub(super) fn put(&self, picture: PictureDigest, scene: Scene) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.bytes += scene.bytes();
        if let Some(old) = inner.scenes.put(picture, scene) {
            inner.bytes -= old.bytes();
        }
        while inner.bytes > self.max_bytes {
            match inner.scenes.pop_lru() {
                Some((_, old)) => inner.bytes -= old.bytes(),
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;

    fn scene() -> Scene {
        let zeros = |n: usize| Tensor::zeros((1, n), DType::F32, &Device::Cpu).unwrap();
        Scene { cells: zeros(4), embedding: zeros(4), summary: zeros(2) }
    }

    #[test]
    fn what_was_unused_for_longest_goes_first() {
        let key = |i| PictureDigest([i; 32]);
        let cache = SceneCache::new(80);
        cache.put(key(1), scene());
        cache.put(key(2), scene());
        cache.put(key(2), scene());
        assert!(cache.get(&key(1)).is_some());
        cache.put(key(3), scene());
        assert!(cache.get(&key(2)).is_none());
        assert!(cache.get(&key(1)).is_some() && cache.get(&key(3)).is_some());
    }

    #[test]
    fn what_is_larger_than_the_cache_is_not_kept() {
        let cache = SceneCache::new(39);
        cache.put(PictureDigest([0; 32]), scene());
        assert!(cache.get(&PictureDigest([0; 32])).is_none());
    }
}
