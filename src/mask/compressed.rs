//! COCO's compressed run lengths: the string in `{"size": [h, w], "counts": "…"}`.
//!
//! Every count after the third is written as the difference to the count two before it, in groups
//! of five bits from the lowest, as signed numbers whose last group has bit 5 clear; each group is
//! one printable byte from `0` (48) on. The bytes are those of `pycocotools`.

use super::rle::{Rle, RleError, pixels};

/// The byte that stands for a group of zeros.
const BASE: u8 = 48;
const GROUP_BITS: u32 = 5;
const GROUP: i64 = 0x1f;
const SIGN: i64 = 0x10;
const MORE: i64 = 0x20;
/// A difference of two 32-bit counts takes 33 bits and a sign, so at most 7 groups.
const MAX_GROUPS: u32 = 7;

impl Rle {
    /// The run lengths as COCO's compressed `counts`, byte for byte what `pycocotools` writes.
    pub fn to_compressed(&self) -> String {
        let counts = self.counts();
        let mut text = String::with_capacity(counts.len() * 2);
        for (index, count) in counts.iter().enumerate() {
            let before = if index > 2 { counts[index - 2] } else { 0 };
            let mut rest = i64::from(*count) - i64::from(before);
            loop {
                let group = rest & GROUP;
                rest >>= GROUP_BITS;
                let last = if group & SIGN == 0 { rest == 0 } else { rest == -1 };
                let flagged = if last { group } else { group | MORE };
                text.push(char::from(BASE + flagged as u8));
                if last {
                    break;
                }
            }
        }
        text
    }

    /// A mask from compressed `counts`, which may come from elsewhere: nothing about them is
    /// trusted. Runs of length 0 after the first are merged away.
    ///
    /// # Errors
    /// Any [`RleError`] but `SizeMismatch`.
    pub fn from_compressed(counts: &str, width: u32, height: u32) -> Result<Self, RleError> {
        let pixels = pixels(width, height)?;
        let mut decoded: Vec<u32> = Vec::new();
        let (mut value, mut groups, mut sum) = (0i64, 0, 0u64);
        for (index, byte) in counts.bytes().enumerate() {
            let group = match byte.checked_sub(BASE) {
                Some(group) if group < 64 => i64::from(group),
                _ => return Err(RleError::Character { index }),
            };
            if groups == MAX_GROUPS {
                return Err(RleError::Count { index: decoded.len() });
            }
            value |= (group & GROUP) << (GROUP_BITS * groups);
            groups += 1;
            if group & MORE != 0 {
                continue;
            }
            if group & SIGN != 0 {
                value |= -1 << (GROUP_BITS * groups);
            }
            if decoded.len() > 2 {
                value += i64::from(decoded[decoded.len() - 2]);
            }
            let count =
                u32::try_from(value).map_err(|_| RleError::Count { index: decoded.len() })?;
            sum += u64::from(count);
            if sum > u64::from(pixels) {
                return Err(RleError::Sum { pixels });
            }
            decoded.push(count);
            (value, groups) = (0, 0);
        }
        if groups != 0 {
            return Err(RleError::Truncated);
        }
        Self::from_counts(&decoded, width, height)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn foreign_strings_are_errors_not_panics() {
        let read = |text: &str| Rle::from_compressed(text, 3, 2);
        assert_eq!(read(""), Err(RleError::Sum { pixels: 6 }));
        assert_eq!(read("6 "), Err(RleError::Character { index: 1 }));
        assert_eq!(read("6p"), Err(RleError::Character { index: 1 }));
        assert_eq!(read("é"), Err(RleError::Character { index: 0 }));
        assert_eq!(read("P"), Err(RleError::Truncated));
        assert_eq!(read("O"), Err(RleError::Count { index: 0 }));
        assert_eq!(read("ooooooo0"), Err(RleError::Count { index: 0 }));
        assert_eq!(read("7"), Err(RleError::Sum { pixels: 6 }));
        assert_eq!(read("5"), Err(RleError::Sum { pixels: 6 }));
        assert_eq!(read("6").map(|rle| rle.area()), Ok(0));
        assert_eq!(read("06").map(|rle| rle.area()), Ok(6));
    }

    proptest! {
        #[test]
        fn the_round_trip_gives_the_same_mask(
            mut counts in proptest::collection::vec(1u32..100_000, 1..60),
            first_is_zero in any::<bool>(),
        ) {
            if first_is_zero {
                counts[0] = 0;
                counts.push(1);
            }
            let pixels = counts.iter().sum();
            let rle = Rle::from_counts(&counts, pixels, 1).unwrap();
            let text = rle.to_compressed();
            prop_assert_eq!(Rle::from_compressed(&text, pixels, 1).unwrap(), rle);
        }

        #[test]
        fn any_string_is_read_or_refused(text in "[ -~]{0,40}", width in 0u32..9, height in 0u32..9) {
            if let Ok(rle) = Rle::from_compressed(&text, width, height) {
                prop_assert_eq!(rle.counts().iter().sum::<u32>(), width * height);
            }
        }

        /// The second oracle: an independent implementation reads and writes the same strings.
        #[test]
        fn hotcoco_agrees(counts in proptest::collection::vec(1u32..3_000, 1..80)) {
            let pixels = counts.iter().sum();
            let rle = Rle::from_counts(&counts, 1, pixels).unwrap();
            let other = hotcoco::Rle { h: pixels, w: 1, counts: rle.counts().to_vec() };
            let text = hotcoco::mask::rle_to_string(&other);
            prop_assert_eq!(&text, &rle.to_compressed());
            prop_assert_eq!(u64::from(rle.area()), hotcoco::mask::area(&other));
        }
    }
}
