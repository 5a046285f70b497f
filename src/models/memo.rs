//! What a network made of the pictures used last, bounded in bytes.

use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;

use super::{ByteLru, Result};
use crate::vision::{Picture, PictureDigest};

/// Something that takes memory on the device.
pub(super) trait Footprint {
    /// Bytes that it takes.
    fn bytes(&self) -> usize;
}

impl Footprint for Tensor {
    fn bytes(&self) -> usize {
        self.elem_count() * self.dtype().size_in_bytes()
    }
}

/// What was computed of pictures alone: all entities of a picture need the same, and come close
/// together.
pub(super) struct PictureMemo<T> {
    values: Mutex<ByteLru<PictureDigest, T>>,
}

impl<T: Clone + Footprint> PictureMemo<T> {
    /// An empty memory for up to `max_bytes`.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { values: Mutex::new(ByteLru::new(max_bytes)) }
    }

    /// The values of `pictures`, in their order. `compute` runs once for all that are new, each
    /// once however often it is asked for; it answers in the order it was asked.
    ///
    /// # Errors
    /// Those of `compute`.
    pub(super) fn of(
        &self,
        pictures: &[&Picture],
        compute: impl FnOnce(&[&Picture]) -> Result<Vec<T>>,
    ) -> Result<Vec<T>> {
        let mut known: Vec<(PictureDigest, T)> = Vec::new();
        let mut fresh: Vec<&Picture> = Vec::new();
        for &picture in pictures {
            let digest = picture.digest();
            if known.iter().any(|(other, _)| *other == digest)
                || fresh.iter().any(|other| other.digest() == digest)
            {
                continue;
            }
            match self.get(&digest) {
                Some(value) => known.push((digest, value)),
                None => fresh.push(picture),
            }
        }
        if !fresh.is_empty() {
            for (picture, value) in fresh.iter().zip(compute(&fresh)?) {
                self.put(picture.digest(), value.clone());
                known.push((picture.digest(), value));
            }
        }
        let of = |picture: &&Picture| {
            let found = known.iter().find(|(digest, _)| *digest == picture.digest());
            found.map(|(_, value)| value.clone())
        };
        Ok(pictures.iter().filter_map(of).collect())
    }

    fn get(&self, picture: &PictureDigest) -> Option<T> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner).get(picture)
    }

    /// Keeps a picture's value, and forgets the pictures unused for longest where there is no room.
    fn put(&self, picture: PictureDigest, value: T) {
        let bytes = value.bytes();
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.insert(picture, value, bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Ten bytes that say which picture they are of.
    #[derive(Debug, Clone, PartialEq)]
    struct Ten(u8);

    impl Footprint for Ten {
        fn bytes(&self) -> usize {
            10
        }
    }

    fn picture(shade: u8) -> Picture {
        Picture::from_rgb(1, 1, vec![shade; 3]).unwrap()
    }

    /// Asks for the pictures of these shades; answers what was computed anew.
    fn ask(memo: &PictureMemo<Ten>, shades: &[u8]) -> Vec<u8> {
        let pictures: Vec<Picture> = shades.iter().map(|&shade| picture(shade)).collect();
        let computed = RefCell::new(Vec::new());
        let values = memo.of(&pictures.iter().collect::<Vec<_>>(), |fresh| {
            let shades = fresh.iter().map(|picture| picture.rgb()[0]);
            computed.borrow_mut().extend(shades.clone());
            Ok(shades.map(Ten).collect())
        });
        assert_eq!(values.unwrap(), shades.iter().map(|&shade| Ten(shade)).collect::<Vec<_>>());
        computed.into_inner()
    }

    #[test]
    fn each_picture_is_computed_once() {
        let memo = PictureMemo::new(100);
        assert_eq!(ask(&memo, &[1, 2, 1, 3]), [1, 2, 3]);
        assert_eq!(ask(&memo, &[3, 4, 2]), [4]);
        assert!(ask(&memo, &[]).is_empty());
    }

    #[test]
    fn what_was_unused_for_longest_goes_first() {
        let memo = PictureMemo::new(20);
        assert_eq!(ask(&memo, &[1, 2]), [1, 2]);
        assert!(ask(&memo, &[1]).is_empty());
        assert_eq!(ask(&memo, &[3]), [3]);
        assert!(ask(&memo, &[1]).is_empty());
        assert_eq!(ask(&memo, &[2]), [2]);
    }

    #[test]
    fn what_is_larger_than_the_memory_is_not_kept() {
        let memo = PictureMemo::new(9);
        assert_eq!(ask(&memo, &[1]), [1]);
        assert_eq!(ask(&memo, &[1]), [1]);
    }

    #[test]
    fn errors_come_back_and_leave_nothing() {
        let memo: PictureMemo<Ten> = PictureMemo::new(100);
        let failed = memo.of(&[&picture(1)], |_| Err(super::super::ModelError::NotFinite("test")));
        assert!(failed.is_err());
        assert_eq!(ask(&memo, &[1]), [1]);
    }
}
