//! Where tensors lie in weight files.

use safetensors::Dtype;

/// Where a tensor lies in its file.
#[derive(Debug, Clone)]
pub(super) struct Located {
    /// Type of its elements.
    pub(super) dtype: Dtype,
    /// Its shape.
    pub(super) shape: Vec<usize>,
    /// Its place.
    pub(super) place: Place,
}

/// The place of a tensor that lies inside its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// All its elements as they follow each other, from this byte on.
    Whole(u64),
    /// From this byte on, with so many elements from one index to the next of each dimension.
    Strided(u64, Vec<usize>),
    /// It cannot be read, for this reason.
    Unreadable(String),
}

impl Located {
    /// A tensor that cannot be read.
    pub(super) fn unreadable(shape: &[usize], why: String) -> Self {
        Self { dtype: Dtype::F32, shape: shape.to_vec(), place: Place::Unreadable(why) }
    }

    /// Number of its elements.
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of an element.
    pub(super) fn width(&self) -> usize {
        self.dtype.bitsize() / 8
    }

    /// Bytes from the first element to the last of a view with these strides that is not empty.
    pub(super) fn span(&self, strides: &[usize]) -> usize {
        let last: usize = self.shape.iter().zip(strides).map(|(n, stride)| (n - 1) * stride).sum();
        (last + 1) * self.width()
    }

    /// The elements of a view with these strides as they follow each other, from its span.
    pub(super) fn gathered(&self, span: &[u8], strides: &[usize]) -> Vec<u8> {
        let mut offsets = vec![0];
        for (&n, &stride) in self.shape.iter().zip(strides) {
            offsets = offsets.iter().flat_map(|at| (0..n).map(move |i| at + i * stride)).collect();
        }
        let width = self.width();
        offsets.iter().flat_map(|at| &span[at * width..(at + 1) * width]).copied().collect()
    }
}
