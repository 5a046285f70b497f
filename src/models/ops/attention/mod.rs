//! Attention.
//!
//! On the CPU by tiles of queries: a tile's scores stay in the second cache, get their scale and
//! biases, are softened and multiplied with the values there, so that no score matrix exists. Views
//! of several heads are read where they lie, and the heads are written joined.

mod blocks;
mod tiles;

use candle_core::{CpuStorage, CustomOp3, D, DType, Error, Layout, Result, Shape, Tensor};

use super::simd::Isa;
use super::{fused, softmax_f32};
pub use blocks::attend_by_blocks;
use tiles::{Heads, Positions, Tiles};

/// What becomes of products of queries and keys before the softmax: `scale · q·k`, plus all
/// biases.
#[derive(Debug, Clone, Copy)]
pub struct Scores<'a> {
    /// The factor.
    pub scale: f64,
    /// Each broadcasts to `[batch, heads, queries, keys]` and has all keys.
    pub bias: &'a [&'a Tensor],
}

/// `softmax(scores) v` for `q` `[batch, heads, queries, d]`, `k` `[batch, heads, keys, d]` and `v`
/// `[batch, heads, keys, e]` → `[batch, queries, heads · e]`.
///
/// # Errors
/// The shapes do not fit, or a tensor operation failed.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor, scores: Scores) -> Result<Tensor> {
    let plain = |t: &&Tensor| t.rank() == 4 && t.dtype() == DType::F32;
    match Isa::best() {
        Some(isa) if fused(q) && scores.bias.iter().all(plain) => run((q, k, v), scores, None, isa),
        _ => composed(q, k, v, scores),
    }
}

/// Whether [`attend`] has a form of its own for such tensors, so that views need no copy.
pub fn attends_by_tiles(q: &Tensor) -> bool {
    Isa::best().is_some() && fused(q)
}

/// [`attend`] with candle's operations.
fn composed(q: &Tensor, k: &Tensor, v: &Tensor, scores: Scores) -> Result<Tensor> {
    attend_by_blocks(q, k, v, scores)?.transpose(1, 2)?.flatten_from(2)
}

/// Decomposed relative positions of a square of tokens (Li et al., 2022), packed for the CPU: the
/// score of query (i, j) and key (k, l) grows by `q·rows[i, k] + q·columns[j, l]`.
#[derive(Debug)]
pub struct RelativePositions(Positions, Isa);

impl RelativePositions {
    /// From `rows` and `columns`, each `[side, d, side]`: query, channel, key. Nothing where
    /// [`attend`] has no form of its own.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn pack(rows: &Tensor, columns: &Tensor) -> Result<Option<Self>> {
        match Isa::best() {
            Some(isa) if fused(rows) => Self::packed_for(isa, rows, columns).map(Some),
            _ => Ok(None),
        }
    }

    fn packed_for(isa: Isa, rows: &Tensor, columns: &Tensor) -> Result<Self> {
        let (side, width, _) = rows.dims3()?;
        let host = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        let tables = (&host(rows)?[..], &host(columns)?[..]);
        Ok(Self(Positions::pack(isa, (side, width), tables), isa))
    }

    /// [`attend`] among the tokens of squares, `side²` queries and keys.
    ///
    /// # Errors
    /// The shapes do not fit, or a tensor operation failed.
    pub fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
        run((q, k, v), Scores { scale, bias: &[] }, Some(&self.0), self.1)
    }
}

fn run(
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    scores: Scores,
    positions: Option<&Positions>,
    isa: Isa,
) -> Result<Tensor> {
    let rows = |t: &Tensor| if t.stride()[3] == 1 { Ok(t.clone()) } else { t.contiguous() };
    if [q, k, v].iter().any(|t| t.rank() != 4) {
        return Err(Error::msg("attention: needs [batch, heads, tokens, width]"));
    }
    rows(q)?.apply_op3_no_bwd(&rows(k)?, &rows(v)?, &Attend { scores, positions, isa })
}

/// The tiled form as candle's operation.
struct Attend<'a> {
    scores: Scores<'a>,
    positions: Option<&'a Positions>,
    isa: Isa,
}

impl CustomOp3 for Attend<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (q, k, v) = (heads(q, q_layout)?, heads(k, k_layout)?, heads(v, v_layout)?);
        let fits = q.shape[..2] == k.shape[..2]
            && q.shape[3] == k.shape[3]
            && k.shape[..3] == v.shape[..3]
            && self.positions.is_none_or(|p| p.fit(&q) && q.shape[2] == k.shape[2]);
        if !fits {
            let message = format!("attention: {:?}, {:?}, {:?}", q.shape, k.shape, v.shape);
            return Err(Error::msg(message));
        }
        let [batch, count, queries, _] = q.shape;
        let scores = [batch, count, queries, k.shape[2]];
        let bias: Vec<Tensor> =
            self.scores.bias.iter().map(|t| broadcast(t, scores)).collect::<Result<_>>()?;
        let guards: Vec<_> = bias.iter().map(|bias| bias.storage_and_layout()).collect();
        let mut biases = Vec::with_capacity(guards.len());
        for (guard, layout) in &guards {
            match &**guard {
                candle_core::Storage::Cpu(storage) => biases.push(heads(storage, layout)?),
                _ => return Err(Error::msg("attention: a bias on another device")),
            }
        }
        let shape = (batch, queries, count * v.shape[3]);
        let scale = self.scores.scale as f32;
        let tiles = Tiles { q, k, v, scale, biases, positions: self.positions, isa: self.isa };
        Ok((CpuStorage::F32(tiles.attend()), shape.into()))
    }
}

/// A bias in the shape of the scores, without a copy but to have its keys beside each other.
fn broadcast(bias: &Tensor, scores: [usize; 4]) -> Result<Tensor> {
    if bias.dim(D::Minus1)? != scores[3] {
        return Err(Error::msg(format!("attention: bias {:?} for {scores:?}", bias.dims())));
    }
    let bias = if bias.stride().last() == Some(&1) { bias.clone() } else { bias.contiguous()? };
    bias.broadcast_as(&scores[..])
}

/// A tensor `[batch, heads, tokens, width]` whose last dimension lies together.
fn heads<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<Heads<'a>> {
    let shape = layout.shape().dims4()?;
    let (CpuStorage::F32(all), &[batch, head, token, last]) = (storage, layout.stride()) else {
        return Err(Error::msg("attention: needs f32"));
    };
    if last != 1 && shape.3 > 1 {
        return Err(Error::msg("attention: needs whole rows"));
    }
    let shape = [shape.0, shape.1, shape.2, shape.3];
    Heads::new(&all[layout.start_offset()..], shape, [batch, head, token])
        .ok_or_else(|| Error::msg("attention: a view beyond its values"))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
    }

    fn gap(a: &Tensor, b: &Tensor) -> f32 {
        assert_eq!(a.dims(), b.dims());
        if a.elem_count() == 0 {
            return 0.0;
        }
        let gap = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        gap.to_scalar().unwrap()
    }

    /// `[batch, tokens, heads · width]` seen as heads.
    fn split(shape: [usize; 4]) -> Tensor {
        let [batch, heads, tokens, width] = shape;
        random(&[batch, tokens, heads, width]).transpose(1, 2).unwrap()
    }

    #[test]
    fn tiles_are_the_plain_attention() {
        let shapes = [
            (1, 1, 1, 1, 1, 1),
            (2, 3, 1, 70, 8, 8),
            (1, 2, 25, 16, 64, 64),
            (2, 2, 49, 33, 5, 20),
            (1, 4, 100, 1100, 16, 16),
            (3, 1, 0, 4, 4, 4),
        ];
        for isa in Isa::available() {
            for (batch, heads, queries, keys, d, e) in shapes {
                let q = split([batch, heads, queries, d]);
                let (k, v) = (split([batch, heads, keys, d]), split([batch, heads, keys, e]));
                let whole = random(&[1, heads, queries, keys]);
                let mask: Vec<f32> = (0..batch * keys)
                    .map(|i| if i % keys > keys / 2 { f32::NEG_INFINITY } else { 0.5 })
                    .collect();
                let mask = Tensor::from_vec(mask, (batch, 1, 1, keys), &Device::Cpu).unwrap();
                for bias in [&[][..], &[&whole], &[&whole, &mask]] {
                    let scores = Scores { scale: 0.3, bias };
                    let y = run((&q, &k, &v), scores, None, isa).unwrap();
                    if queries == 0 {
                        assert_eq!(y.dims(), [batch, 0, heads * e]);
                        continue;
                    }
                    let gap = gap(&y, &composed(&q, &k, &v, scores).unwrap());
                    assert!(gap < 1e-5, "{isa:?} {batch} {heads} {queries} {keys}: {gap}");
                }
            }
        }
    }

    #[test]
    fn relative_positions_are_a_bias() {
        for isa in Isa::available() {
            for (side, d) in [(1, 3), (3, 8), (7, 16), (14, 5), (17, 64)] {
                let tokens = side * side;
                let shape = [2, 3, tokens, d];
                let (q, k, v) = (split(shape), split(shape), split(shape));
                let tables = (random(&[side, d, side]), random(&[side, d, side]));
                let packed = RelativePositions::packed_for(isa, &tables.0, &tables.1).unwrap();
                let y = packed.attend(&q, &k, &v, 0.2).unwrap();
                let square = q.contiguous().unwrap().reshape(&[6, side, side, d][..]).unwrap();
                let by_row = square.broadcast_matmul(&tables.0).unwrap().unsqueeze(4).unwrap();
                let turned = square.transpose(1, 2).unwrap().contiguous().unwrap();
                let by_column = turned.broadcast_matmul(&tables.1).unwrap();
                let by_column = by_column.transpose(1, 2).unwrap().unsqueeze(3).unwrap();
                let bias = by_row.broadcast_add(&by_column).unwrap();
                let bias = bias.reshape((2, 3, tokens, tokens)).unwrap();
                let scores = Scores { scale: 0.2, bias: &[&bias] };
                let gap = gap(&y, &composed(&q, &k, &v, scores).unwrap());
                assert!(gap < 2e-5, "{isa:?} {side} {d}: {gap}");
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let (q, k, v) = (split([1, 2, 3, 4]), split([1, 2, 5, 4]), split([1, 2, 6, 4]));
        for isa in Isa::available() {
            let attend = |k: &Tensor, bias: &[&Tensor]| {
                run((&q, k, &v), Scores { scale: 1.0, bias }, None, isa)
            };
            assert!(attend(&k, &[]).is_err());
            assert!(attend(&split([1, 2, 6, 3]), &[]).is_err());
            assert!(attend(&v, &[&random(&[1, 2, 3, 5])]).is_err());
            assert!(attend(&v, &[&random(&[1, 2, 3, 6])]).is_ok());
        }
    }

    #[test]
    fn what_is_not_a_number_stays_visible() {
        let broken = Tensor::full(f32::NAN, (1, 1, 2, 3), &Device::Cpu).unwrap();
        let good = random(&[1, 1, 2, 3]);
        for isa in Isa::available() {
            let scores = Scores { scale: 1.0, bias: &[] };
            let y = run((&broken, &good, &good), scores, None, isa).unwrap();
            let y = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(y.iter().all(|value| value.is_nan()));
        }
    }
}
