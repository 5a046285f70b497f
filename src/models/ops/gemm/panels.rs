//! Matrices in the order in which the kernel reads them.
//!
//! Weights lie in panels of as many outputs as a tile has columns, rows of `x` in panels of as many
//! rows as a tile has; inside a panel, what belongs to one input lies together.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::halves::{self, HalfRows};
use super::stored::{Halves, Pair};
use crate::models::ops::simd::Isa;

/// How packed weights are stored. Sums are always `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// As given.
    F32,
    /// Upper halves of `f32`, rounded to nearest: half the memory, relative error up to 2⁻⁹.
    Bf16,
    /// The same, and inputs are rounded likewise: for processors that multiply two pairs of them at
    /// once. On those that cannot, as [`Storage::Bf16`].
    Bf16Pairs,
    /// `f16`, and inputs are rounded likewise, with a power of two for each output and each row; chains
    /// of products are summed in `f16` too, which loses about as much as [`Storage::Bf16Pairs`]. For
    /// processors that multiply two pairs of them at once. On those that cannot, as
    /// [`Storage::Bf16`].
    Halves,
    /// A byte, and a scale for each output: a quarter of the memory, error up to 1/254 of an
    /// output's largest weight.
    Int8,
}

impl Storage {
    /// The fastest that loses no more of the weights.
    pub(in crate::models::ops) fn fastest_on(self, isa: Isa) -> Self {
        match self {
            Self::Bf16 if isa.multiplies_halves() => Self::Halves,
            Self::Bf16 if isa.gains_by_pairs() => Self::Bf16Pairs,
            other => other,
        }
    }
}

/// Packed weights.
#[derive(Debug)]
pub(super) enum Panels {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
    Pairs(Vec<Pair>),
    Halves(Vec<Halves>),
    Int8(Vec<i8>),
}

/// Rows in the steps of a sum.
pub(super) struct Rows<'a> {
    /// `[n, steps]`, or as far apart as `apart` says.
    pub(super) values: Cow<'a, [f32]>,
    /// From one row to the next, where the kernel takes them as they are.
    pub(super) apart: Option<usize>,
    /// What each row's sums are multiplied by; nothing where all are 1.
    pub(super) scales: Option<Vec<f32>>,
}

/// Weights of a layer, packed for one instruction set.
#[derive(Debug)]
pub(super) struct PackedWeights {
    pub(super) panels: Panels,
    /// What each output's sum is multiplied by, padded to whole panels; nothing where all are 1.
    pub(super) scales: Option<Vec<f32>>,
    pub(super) isa: Isa,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// Steps of a sum: an input each, or two.
    pub(super) steps: usize,
}

impl PackedWeights {
    /// Packs `weight`, `[outputs, inputs]` row by row.
    pub(super) fn new(weight: &[f32], inputs: usize, storage: Storage, isa: Isa) -> Self {
        let outputs = weight.len().checked_div(inputs).unwrap_or(0);
        let pack = Pack { weight, inputs, outputs, columns: isa.columns() };
        let padded = |mut scales: Vec<f32>| {
            scales.resize(outputs.next_multiple_of(isa.columns()), 1.0);
            scales
        };
        let mut steps = inputs;
        let (panels, scales) = match storage {
            Storage::Bf16Pairs if isa.multiplies_pairs() => {
                steps = inputs.div_ceil(2);
                let pairs = to_pairs(weight, inputs);
                let pack = Pack { weight: &pairs, inputs: steps, ..pack };
                (Panels::Pairs(pack.each(|value, _| Pair(value.to_bits()))), None)
            }
            Storage::Halves if isa.multiplies_halves() => {
                steps = inputs.div_ceil(2);
                // SAFETY: the processor has more than that.
                let HalfRows { values, scales, .. } = unsafe { halves::weights(weight, inputs) };
                let pack = Pack { weight: &values, inputs: steps, ..pack };
                let panels = pack.each(|value, _| Halves(value.to_bits()));
                (Panels::Halves(panels), Some(padded(scales)))
            }
            Storage::F32 => (Panels::F32(pack.each(|value, _| value)), None),
            Storage::Bf16 | Storage::Bf16Pairs | Storage::Halves => {
                (Panels::Bf16(pack.each(|value, _| to_bf16(value))), None)
            }
            Storage::Int8 => {
                let scales = padded(int8_scales(weight, inputs));
                let byte = |value, output: usize| to_int8(value, scales[output]);
                (Panels::Int8(pack.each(byte)), Some(scales))
            }
        };
        Self { panels, scales, isa, inputs, outputs, steps }
    }

    /// Rows `x`, `[n, inputs]`, as they are multiplied.
    pub(super) fn rows<'a>(&self, x: &'a [f32]) -> Rows<'a> {
        let packed = |values| Rows { values, apart: None, scales: None };
        match self.panels {
            Panels::Pairs(_) => packed(to_pairs(x, self.inputs).into()),
            Panels::Halves(_) => {
                // SAFETY: the processor has more than that, or the weights would not be so.
                let HalfRows { values, apart, scales } = unsafe { halves::inputs(x, self.inputs) };
                Rows { values: values.into(), apart: Some(apart), scales: Some(scales) }
            }
            _ => packed(x.into()),
        }
    }

    /// Bytes of weights.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let scales = self.scales.as_ref().map_or(0, |scales| 4 * scales.len());
        scales
            + match &self.panels {
                Panels::F32(values) => 4 * values.len(),
                Panels::Bf16(values) => 2 * values.len(),
                Panels::Pairs(values) => 4 * values.len(),
                Panels::Halves(values) => 4 * values.len(),
                Panels::Int8(values) => values.len(),
            }
    }
}

/// A weight on its way into panels.
struct Pack<'a> {
    weight: &'a [f32],
    inputs: usize,
    outputs: usize,
    columns: usize,
}

impl Pack<'_> {
    /// Every weight, and which output it belongs to, through `store`; zeros beyond the last output.
    fn each<T: Copy + Default + Send + Sync>(
        &self,
        store: impl Fn(f32, usize) -> T + Sync,
    ) -> Vec<T> {
        let (inputs, columns) = (self.inputs, self.columns);
        let mut panels = vec![T::default(); self.outputs.div_ceil(columns) * inputs * columns];
        if inputs == 0 {
            return panels;
        }
        panels.par_chunks_mut(inputs * columns).enumerate().for_each(|(index, panel)| {
            let first = index * columns;
            for column in 0..columns.min(self.outputs - first) {
                let row = &self.weight[(first + column) * inputs..][..inputs];
                for (values, &value) in panel.chunks_exact_mut(columns).zip(row) {
                    values[column] = store(value, first + column);
                }
            }
        });
        panels
    }
}

/// The upper half of `value`, rounded to nearest, ties to even. What is not a number stays so.
fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// Rows of `inputs` as pairs of `bf16`, each in the place of an `f32`; the last of an odd row beside
/// a zero.
fn to_pairs(x: &[f32], inputs: usize) -> Vec<f32> {
    let pair = |values: &[f32]| {
        let second = values.get(1).map_or(0, |&value| to_bf16(value));
        f32::from_bits(u32::from(second) << 16 | u32::from(to_bf16(values[0])))
    };
    x.par_chunks(inputs.max(1)).flat_map_iter(|row| row.chunks(2).map(pair)).collect()
}

/// What makes the largest weight of each row of `inputs` 127; 1 for a row of zeros.
pub fn int8_scales(weight: &[f32], inputs: usize) -> Vec<f32> {
    let largest = |row: &[f32]| row.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let scale = |row| match largest(row) {
        0.0 => 1.0,
        largest => largest / 127.0,
    };
    weight.chunks_exact(inputs.max(1)).map(scale).collect()
}

/// `value` in steps of `scale`, to the nearest.
pub fn to_int8(value: f32, scale: f32) -> i8 {
    (value / scale).round() as i8
}

/// Packs `depth` inputs from `first` on of the rows `x`, `[n, inputs]`, into `panel`, `[depth, n]`,
/// every value of which it writes.
pub(super) fn pack_rows(
    x: &[f32],
    inputs: usize,
    (first, depth): (usize, usize),
    panel: &mut [MaybeUninit<f32>],
) {
    /// Inputs at a time, so that both sides stay in the cache's first level.
    const BLOCK: usize = 16;
    let rows = x.len() / inputs;
    for start in (0..depth).step_by(BLOCK) {
        let end = depth.min(start + BLOCK);
        let columns = &mut panel[start * rows..end * rows];
        for (row, values) in x.chunks_exact(inputs).enumerate() {
            for (column, &value) in
                columns.chunks_exact_mut(rows).zip(&values[first + start..first + end])
            {
                column[row].write(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_to_nearest_even() {
        let stored = |value: f32| f32::from_bits(u32::from(to_bf16(value)) << 16);
        assert_eq!(stored(1.0), 1.0);
        // Halfway between 1 and the next number, then between that and the one after it.
        assert_eq!(stored(1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(stored(1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0);
        assert_eq!(stored(f32::NEG_INFINITY), f32::NEG_INFINITY);
        assert!(stored(f32::from_bits(0x7f80_0001)).is_nan());
    }

    #[test]
    fn a_pair_has_its_first_number_below() {
        let pairs = to_pairs(&[1.0, -2.0, 0.5, 3.0, 0.0, 1.5], 3).into_iter().map(f32::to_bits);
        let expected = [0xc000_3f80, 0x0000_3f00, 0x0000_4040, 0x0000_3fc0];
        assert_eq!(pairs.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn rows_are_packed_input_by_input() {
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let packed = |(first, depth): (usize, usize)| {
            let mut panel = vec![MaybeUninit::new(f32::NAN); 2 * depth];
            pack_rows(&x, 3, (first, depth), &mut panel);
            // SAFETY: they were numbers from the start.
            panel.into_iter().map(|value| unsafe { value.assume_init() }).collect::<Vec<f32>>()
        };
        assert_eq!(packed((0, 3)), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(packed((1, 2)), [2.0, 5.0, 3.0, 6.0]);
    }
}
