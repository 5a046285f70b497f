//! Relative-position buckets and the position part of attention scores.

use candle_core::{DType, Device, Tensor};
use candle_nn::{Linear, Module};

use crate::models::Result;

/// Distance at which the logarithmic token buckets end, in every published configuration.
const MAX_DISTANCE: usize = 1024;
/// Tokens of a text up to which its bias is computed at load: longer than most prompts are, and
/// 12 MiB for OFA-large in f32.
const STORED_TOKENS: usize = 128;

/// Bucket of the token distance `query − key`: exact up to `size / 2`, logarithmic beyond, in
/// `0..2 * size − 1`.
pub(super) fn token_bucket(distance: i64, size: usize) -> u32 {
    let mid = size / 2;
    let beyond = distance.unsigned_abs() as usize;
    let signed = if beyond <= mid {
        distance
    } else {
        // Single precision as in the reference: at a bucket's edge the rounding decides.
        let span = (((MAX_DISTANCE - 1) as f64 / mid as f64).ln()) as f32;
        let log = (beyond as f32 / mid as f32).ln() / span * (mid - 1) as f32;
        distance.signum() * (log.ceil() as i64 + mid as i64)
    };
    let last = 2 * size as i64 - 2;
    (signed + size as i64 - 1).clamp(0, last) as u32
}

/// Bucket of two cells of the picture, each `(row, column)`, in a table of `size` rows and columns.
pub(super) fn image_bucket(query: (usize, usize), key: (usize, usize), size: usize) -> u32 {
    let rows = query.0 + size - 1 - key.0;
    let columns = query.1 + size - 1 - key.1;
    (rows * (2 * size - 1) + columns) as u32
}

/// Ids of the position table for a `grid × grid` picture, row by row. Row 0 of the table is a
/// special that pictures do not use.
pub(super) fn image_position_ids(grid: usize, size: usize) -> Vec<u32> {
    (0..grid * grid).map(|i| (i / grid * size + i % grid + 1) as u32).collect()
}

/// Buckets of all pairs of cells of a `grid × grid` picture, query by query: `[grid⁴]`.
pub(super) fn image_buckets(grid: usize, size: usize, device: &Device) -> Result<Tensor> {
    let cells: Vec<_> = (0..grid * grid).map(|i| (i / grid, i % grid)).collect();
    let buckets: Vec<u32> =
        cells.iter().flat_map(|&q| cells.iter().map(move |&k| image_bucket(q, k, size))).collect();
    Ok(Tensor::new(buckets, device)?)
}

/// Relative-position tables of one kind, one per layer, each stored as `[heads, buckets]`.
#[derive(Debug)]
pub(super) struct RelativeTables {
    layers: Vec<Tensor>,
}

impl RelativeTables {
    /// Takes tables in the checkpoint's layout `[buckets, heads]`.
    pub(super) fn new(tables: Vec<Tensor>) -> Result<Self> {
        let layers = tables.iter().map(|t| t.t()?.contiguous()).collect::<candle_core::Result<_>>();
        Ok(Self { layers: layers? })
    }

    /// The table's values at `buckets` (`[rows * columns]`): `[heads, rows, columns]`.
    pub(super) fn bias(
        &self,
        layer: usize,
        buckets: &Tensor,
        (rows, columns): (usize, usize),
    ) -> Result<Tensor> {
        let values = self.layers[layer].index_select(buckets, 1)?;
        Ok(values.reshape(((), rows, columns))?)
    }
}

/// Relative positions among the tokens of a text: per layer, a bias on attention scores that depends
/// on how far two tokens are apart.
#[derive(Debug)]
pub(super) struct TokenTables {
    tables: RelativeTables,
    bucket_size: usize,
    /// Each layer's bias among the first [`STORED_TOKENS`]: `[heads, tokens, tokens]`.
    stored: Vec<Tensor>,
}

impl TokenTables {
    /// Computes the bias of texts of common length, so that a call neither looks it up nor uploads
    /// buckets.
    pub(super) fn new(tables: RelativeTables, bucket_size: usize) -> Result<Self> {
        let device = tables.layers.first().map_or(&Device::Cpu, Tensor::device);
        let buckets = token_buckets(0, STORED_TOKENS, bucket_size, device)?;
        let all = (STORED_TOKENS, STORED_TOKENS);
        let layers = 0..tables.layers.len();
        let stored =
            layers.map(|layer| tables.bias(layer, &buckets, all)).collect::<Result<_>>()?;
        Ok(Self { tables, bucket_size, stored })
    }

    /// What all layers need for the tokens `first..first + rows`, which see all before them too.
    pub(super) fn rows(&self, first: usize, rows: usize) -> Result<TokenRows<'_>> {
        let buckets = if first + rows <= STORED_TOKENS {
            None
        } else {
            let device = self.tables.layers[0].device();
            Some(token_buckets(first, rows, self.bucket_size, device)?)
        };
        Ok(TokenRows { tables: self, first, rows, buckets })
    }
}

/// Some rows of [`TokenTables`].
#[derive(Debug)]
pub(super) struct TokenRows<'a> {
    tables: &'a TokenTables,
    first: usize,
    rows: usize,
    /// Where nothing is stored for so long a text.
    buckets: Option<Tensor>,
}

impl TokenRows<'_> {
    /// A layer's bias: `[heads, rows, first + rows]`.
    pub(super) fn bias(&self, layer: usize) -> Result<Tensor> {
        let end = self.first + self.rows;
        match &self.buckets {
            Some(buckets) => self.tables.tables.bias(layer, buckets, (self.rows, end)),
            None => {
                let rows = self.tables.stored[layer].narrow(1, self.first, self.rows)?;
                Ok(rows.narrow(2, 0, end)?)
            }
        }
    }
}

/// Buckets between the tokens `first..first + rows` and the tokens `0..first + rows` of a text:
/// `[rows * (first + rows)]`.
fn token_buckets(first: usize, rows: usize, size: usize, device: &Device) -> Result<Tensor> {
    let end = first + rows;
    let buckets: Vec<u32> = (first..end)
        .flat_map(|q| (0..end).map(move |k| token_bucket(q as i64 - k as i64, size)))
        .collect();
    Ok(Tensor::new(buckets, device)?)
}

/// Positions projected to queries and keys once, at load. Their products are the absolute-position
/// part of attention scores, which all layers of a stack share.
#[derive(Debug)]
pub(super) struct AbsoluteBias {
    /// `[heads, positions, head width]`, scaled.
    queries: Tensor,
    /// `[heads, positions, head width]`.
    keys: Tensor,
}

impl AbsoluteBias {
    /// Projects normalised positions, `[n, d_model]` in f32.
    pub(super) fn new(
        (query, query_positions): (&Linear, &Tensor),
        (key, key_positions): (&Linear, &Tensor),
        heads: usize,
        dtype: DType,
    ) -> Result<Self> {
        let split = |x: Tensor| -> Result<Tensor> {
            let (n, d) = x.dims2()?;
            Ok(x.reshape((n, heads, d / heads))?.transpose(0, 1)?.contiguous()?)
        };
        let width = query_positions.dim(1)? / heads;
        let queries = (split(query.forward(query_positions)?)? * attention_scale(width))?;
        let keys = split(key.forward(key_positions)?)?;
        Ok(Self { queries: queries.to_dtype(dtype)?, keys: keys.to_dtype(dtype)? })
    }

    /// The bias of query positions against key positions, both as `(start, length)`:
    /// `[heads, queries, keys]`.
    pub(super) fn block(&self, query: (usize, usize), key: (usize, usize)) -> Result<Tensor> {
        let queries = self.queries.narrow(1, query.0, query.1)?.contiguous()?;
        let keys = self.keys.narrow(1, key.0, key.1)?;
        Ok(queries.matmul(&keys.transpose(1, 2)?.contiguous()?)?)
    }
}

/// The factor on attention scores, content and position alike: OFA sums two of them, so it scales
/// by `(2 · head width)^-½`.
pub(super) fn attention_scale(head_width: usize) -> f64 {
    (2.0 * head_width as f64).powf(-0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that the reference implementation printed (query minus key).
    #[test]
    fn token_buckets_of_the_reference() {
        for (distance, bucket) in [
            (0, 255),
            (1, 256),
            (-1, 254),
            (128, 383),
            (129, 384),
            (300, 436),
            (500, 467),
            (1023, 510),
            (-1023, 0),
        ] {
            assert_eq!(token_bucket(distance, 256), bucket, "{distance}");
        }
    }

    #[test]
    fn image_buckets_of_the_reference() {
        assert_eq!(image_bucket((5, 5), (5, 5), 42), 3444);
        assert_eq!(image_bucket((5, 5), (5, 6), 42), 3443);
        assert_eq!(image_bucket((5, 5), (6, 5), 42), 3361);
        assert_eq!(image_bucket((6, 5), (5, 5), 42), 3527);
    }

    /// All distances and all pairs of cells of the reference's tables.
    #[test]
    fn whole_tables_of_the_reference() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/ofa/buckets.safetensors");
        let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        for size in [256, 8] {
            let expected = golden[&format!("token.{size}")].to_vec1::<i64>().unwrap();
            let actual = (0..1024).chain((0..1024).map(|n: i64| -n));
            let actual: Vec<i64> = actual.map(|n| i64::from(token_bucket(n, size))).collect();
            assert_eq!(actual, expected, "{size}");
        }
        let expected = golden["image.6"].to_dtype(candle_core::DType::U32).unwrap();
        let expected = expected.flatten_all().unwrap().to_vec1::<u32>().unwrap();
        let actual = image_buckets(6, 6, &Device::Cpu).unwrap().to_vec1::<u32>().unwrap();
        assert_eq!(actual, expected);
    }

    #[test]
    fn a_small_grid_lies_in_the_corner_of_the_position_table() {
        assert_eq!(image_position_ids(2, 42), [1, 2, 43, 44]);
    }

    #[test]
    fn the_last_rows_of_a_prefix_see_the_whole_prefix() {
        let all = token_buckets(0, 3, 4, &Device::Cpu).unwrap().to_vec1::<u32>().unwrap();
        assert_eq!(all, [3, 2, 1, 4, 3, 2, 5, 4, 3]);
        let last = token_buckets(2, 1, 4, &Device::Cpu).unwrap().to_vec1::<u32>().unwrap();
        assert_eq!(last, all[6..]);
    }

    #[test]
    fn stored_rows_are_those_that_a_longer_text_computes() {
        let table =
            |layer: f32| Tensor::arange(0f32, 14., &Device::Cpu).unwrap().affine(1., layer.into());
        let layers = [0.5, 0.25].map(|layer| table(layer).unwrap().reshape((7, 2)).unwrap());
        let tables = TokenTables::new(RelativeTables::new(layers.to_vec()).unwrap(), 4).unwrap();
        let long = tables.rows(0, STORED_TOKENS + 1).unwrap();
        assert!(long.buckets.is_some());
        for (first, rows) in [(0, 5), (3, 1), (STORED_TOKENS - 2, 2)] {
            let short = tables.rows(first, rows).unwrap();
            assert!(short.buckets.is_none());
            for layer in 0..2 {
                let expected = long.bias(layer).unwrap().narrow(1, first, rows).unwrap();
                let expected = expected.narrow(2, 0, first + rows).unwrap();
                let expected = expected.to_vec3::<f32>().unwrap();
                assert_eq!(short.bias(layer).unwrap().to_vec3::<f32>().unwrap(), expected);
            }
        }
    }
}
