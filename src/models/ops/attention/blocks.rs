//! Attention of candle's operations, by blocks of queries: whatever the device, no more than a
//! stated number of scores exists at a time.

use candle_core::{Result, Tensor};

use super::{Scores, softmax_f32};

/// Scores that exist at a time, in elements: 32 MiB in half precision, so that on a GPU what one
/// operation writes is still in its cache when the next one reads it.
const SCORES_AT_ONCE: usize = 1 << 24;

/// `softmax(scores) v` for `q` `[batch, heads, queries, d]`, `k` `[batch, heads, keys, d]` and `v`
/// `[batch, heads, keys, e]` → `[batch, heads, queries, e]`, the heads apart.
///
/// # Errors
/// The shapes do not fit, or a tensor operation failed.
pub fn attend_by_blocks(q: &Tensor, k: &Tensor, v: &Tensor, scores: Scores) -> Result<Tensor> {
    attend_within(SCORES_AT_ONCE, (q, k, v), scores)
}

/// [`attend_by_blocks`] with at most `budget` scores at a time, but those of one query at least.
pub(super) fn attend_within(
    budget: usize,
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    scores: Scores,
) -> Result<Tensor> {
    let (batch, heads, queries, _) = q.dims4()?;
    let (k, v) = (k.contiguous()?.transpose(2, 3)?, v.contiguous()?);
    let rows = (budget / (batch * heads * k.dim(3)?).max(1)).max(1);
    let block = |start: usize| {
        let rows = rows.min(queries - start);
        let mut q = q.narrow(2, start, rows)?.contiguous()?;
        // There are fewer queries than scores to multiply.
        if scores.scale != 1.0 {
            q = (q * scores.scale)?;
        }
        let mut sums = q.matmul(&k)?;
        for bias in scores.bias {
            sums = sums.broadcast_add(&of_queries(bias, start, rows)?)?;
        }
        softmax_f32(&sums)?.matmul(&v)
    };
    if rows >= queries {
        return block(0);
    }
    let blocks = (0..queries).step_by(rows).map(block).collect::<Result<Vec<_>>>()?;
    Tensor::cat(&blocks, 2)
}

/// The part of a bias that belongs to `rows` queries from `start`; all of it where queries share it.
fn of_queries(bias: &Tensor, start: usize, rows: usize) -> Result<Tensor> {
    match bias.rank().checked_sub(2) {
        Some(dim) if bias.dim(dim)? > 1 => bias.narrow(dim, start, rows),
        _ => Ok(bias.clone()),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
    }

    /// A product, a sum, a softmax, a product: the whole score matrix at once.
    fn plain(q: &Tensor, k: &Tensor, v: &Tensor, scores: Scores) -> Tensor {
        let mut sums = (q.matmul(&k.t().unwrap()).unwrap() * scores.scale).unwrap();
        for bias in scores.bias {
            sums = sums.broadcast_add(bias).unwrap();
        }
        candle_nn::ops::softmax(&sums, 3).unwrap().matmul(v).unwrap()
    }

    #[test]
    fn blocks_of_any_size_are_the_plain_attention() {
        let (batch, heads, queries, keys) = (2, 3, 11, 7);
        let q = random(&[batch, heads, queries, 4]);
        let (k, v) = (random(&[batch, heads, keys, 4]), random(&[batch, heads, keys, 5]));
        let whole = random(&[1, heads, queries, keys]);
        let of_heads = random(&[heads, queries, keys]);
        let shared = random(&[batch, 1, 1, keys]);
        let of_keys = random(&[keys]);
        for bias in [&[][..], &[&whole, &shared], &[&of_heads, &of_keys]] {
            let scores = Scores { scale: 0.4, bias };
            let expected = plain(&q, &k, &v, scores);
            let per_query = batch * heads * keys;
            for budget in [0, per_query, 4 * per_query + 1, 11 * per_query, SCORES_AT_ONCE] {
                let actual = attend_within(budget, (&q, &k, &v), scores).unwrap();
                assert_eq!(actual.dims(), [batch, heads, queries, 5]);
                let gap = (actual - &expected).unwrap().abs().unwrap().max_all().unwrap();
                let gap = gap.to_scalar::<f32>().unwrap();
                assert!(gap < 1e-6, "{budget}, {} biases: {gap}", bias.len());
            }
        }
    }
}
