//! The paper's image encoder: a plain vision transformer with windowed and global attention and
//! decomposed relative positions (ViTDet; Li et al., 2022), then a convolutional neck.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::config::VitConfig;
use super::ops::{Conv3x3, Linear, attend, join_heads, resize_table};
use crate::models::ops::{Activation, LayerNorm, RelativePositions, activation_type};

const EPS: f64 = 1e-6;

/// Pictures, cut into patches, to image embeddings.
#[derive(Debug)]
pub(super) struct Vit {
    grid: usize,
    patches: Linear,
    blocks: Vec<Block>,
    neck: Neck,
}

impl Vit {
    /// For pictures of `grid` × `grid` patches and embeddings of `out_chans` channels.
    pub(super) fn load(
        config: &VitConfig,
        grid: usize,
        out_chans: usize,
        vb: VarBuilder,
    ) -> Result<Self> {
        let (dim, patch) = (config.embed_dim, config.patch_size);
        let projection = vb.pp("patch_embed.proj");
        let weight = projection.get((dim, 3, patch, patch), "weight")?.flatten_from(1)?;
        let bias = projection.get(dim, "bias")?;
        let patches = Linear::new(&weight, Some(&bias), Activation::None)?;
        let blocks = vb.pp("blocks");
        Ok(Self {
            grid,
            patches: patches.with_rows(positions(grid, &vb)?),
            blocks: (0..config.depth)
                .map(|index| Block::load(config, grid, index, blocks.pp(index)))
                .collect::<Result<_>>()?,
            neck: Neck::load(dim, out_chans, vb.pp("neck"))?,
        })
    }

    /// Patches `[b, grid², 3 · patch²]`, each channel by channel and row by row → embeddings
    /// `[b, grid, grid, out_chans]`.
    pub(super) fn forward(&self, patches: &Tensor) -> Result<Tensor> {
        let x = self.patches.forward(patches)?;
        let (batch, _, dim) = x.dims3()?;
        let mut x = x.reshape((batch, self.grid, self.grid, dim))?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        self.neck.forward(&x)
    }
}

/// The absolute position embedding as `[grid², dim]`, interpolated where the checkpoint was made
/// for another picture size.
fn positions(grid: usize, vb: &VarBuilder) -> Result<Tensor> {
    let stored = vb.get_unchecked_dtype("pos_embed", activation_type(vb))?.squeeze(0)?;
    let rows = resize_table(&stored, grid)?.transpose(0, 1)?.contiguous()?;
    resize_table(&rows, grid)?.transpose(0, 1)?.flatten_to(1)
}

/// Pre-normalised attention and feed-forward, each with a residual connection.
#[derive(Debug)]
struct Block {
    window: Option<usize>,
    norm1: LayerNorm,
    attention: Attention,
    norm2: LayerNorm,
    up: Linear,
    down: Linear,
}

impl Block {
    fn load(config: &VitConfig, grid: usize, index: usize, vb: VarBuilder) -> Result<Self> {
        let (dim, hidden) = (config.embed_dim, config.mlp_dim());
        let window = config.window(index);
        let side = window.unwrap_or(grid);
        Ok(Self {
            window,
            norm1: LayerNorm::load(dim, EPS, vb.pp("norm1"))?,
            attention: Attention::load(dim, config.num_heads, side, vb.pp("attn"))?,
            norm2: LayerNorm::load(dim, EPS, vb.pp("norm2"))?,
            up: Linear::load_active((dim, hidden), Activation::Gelu, vb.pp("mlp.lin1"))?,
            down: Linear::load(hidden, dim, vb.pp("mlp.lin2"))?,
        })
    }

    /// `[b, h, w, c]` → the same shape.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, height, width, _) = x.dims4()?;
        let normed = self.norm1.forward(x)?;
        let attended = match self.window {
            None => self.attention.forward(&normed)?,
            Some(side) => {
                let windows = partition(&normed, side)?;
                unpartition(&self.attention.forward(&windows)?, side, height, width)?
            }
        };
        let x = (x + attended)?;
        let hidden = self.up.forward(&self.norm2.forward(&x)?)?;
        self.down.forward_adding(&hidden, &x)
    }
}

/// `[b, h, w, c]` → windows `[b · n, side, side, c]`, padded with zeros on the right and bottom.
pub(super) fn partition(x: &Tensor, side: usize) -> Result<Tensor> {
    let (batch, height, width, dim) = x.dims4()?;
    let (rows, columns) = (height.div_ceil(side), width.div_ceil(side));
    x.pad_with_zeros(1, 0, rows * side - height)?
        .pad_with_zeros(2, 0, columns * side - width)?
        .reshape(&[batch, rows, side, columns, side, dim])?
        .permute([0, 1, 3, 2, 4, 5])?
        .reshape((batch * rows * columns, side, side, dim))
}

/// The inverse of [`partition`]: the padding is dropped.
pub(super) fn unpartition(
    windows: &Tensor,
    side: usize,
    height: usize,
    width: usize,
) -> Result<Tensor> {
    let (count, _, _, dim) = windows.dims4()?;
    let (rows, columns) = (height.div_ceil(side), width.div_ceil(side));
    let batch = count / (rows * columns);
    windows
        .reshape(&[batch, rows, columns, side, side, dim])?
        .permute([0, 1, 3, 2, 4, 5])?
        .reshape((batch, rows * side, columns * side, dim))?
        .narrow(1, 0, height)?
        .narrow(2, 0, width)?
        .contiguous()
}

/// Self-attention over a square of tokens with decomposed relative positions.
///
/// The score of query (i, j) and key (k, l) is `s·q·key + q·Rh[i, k] + q·Rw[j, l]`. The two position
/// terms of a query are `2 · side` numbers; appended to the query, with one-hot rows and columns
/// appended to the key, they make one product of the whole sum, and no bias the size of the score
/// matrix ever exists.
#[derive(Debug)]
struct Attention {
    heads: usize,
    side: usize,
    scale: f64,
    qkv: Linear,
    proj: Linear,
    positions: Relative,
}

/// The two tables of relative positions.
#[derive(Debug)]
enum Relative {
    /// For the attention by tiles.
    Packed(RelativePositions),
    Plain {
        /// `[side, d, side]`: query row, channel, key row.
        rows: Tensor,
        /// `[side, d, side]`: query column, channel, key column.
        columns: Tensor,
        /// `[1, side², 2 · side]`: each key's row and column.
        one_hot: Tensor,
    },
}

impl Attention {
    fn load(dim: usize, heads: usize, side: usize, vb: VarBuilder) -> Result<Self> {
        let dtype = activation_type(&vb);
        let relative = |name: &str| relative_positions(&vb.get_unchecked_dtype(name, dtype)?, side);
        let (rows, columns) = (relative("rel_pos_h")?, relative("rel_pos_w")?);
        let positions = match RelativePositions::pack(&rows, &columns)? {
            Some(packed) => Relative::Packed(packed),
            None => Relative::Plain { one_hot: one_hot(side, &rows)?, rows, columns },
        };
        Ok(Self {
            heads,
            side,
            scale: ((dim / heads) as f64).powf(-0.5),
            qkv: Linear::load(dim, 3 * dim, vb.pp("qkv"))?,
            proj: Linear::load(dim, dim, vb.pp("proj"))?,
            positions,
        })
    }

    /// `[b, side, side, c]` → the same shape.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, side, _, dim) = x.dims4()?;
        let (heads, tokens) = (self.heads, side * side);
        let qkv = self.qkv.forward(x)?.reshape((batch, tokens, 3 * heads, dim / heads))?;
        let part = |index: usize| qkv.narrow(2, index * heads, heads)?.transpose(1, 2);
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let attended = match &self.positions {
            Relative::Packed(positions) => positions.attend(&q, &k, &v, self.scale)?,
            Relative::Plain { rows, columns, one_hot } => {
                let q = with_positions(&q.flatten_to(1)?, self.side, (rows, columns))?;
                let one_hot = one_hot.broadcast_as((batch * heads, tokens, 2 * side))?;
                let k = Tensor::cat(&[(k.flatten_to(1)? * self.scale)?, one_hot], 2)?;
                let attended = attend(&q, &k, &v.flatten_to(1)?)?;
                join_heads(&attended.reshape((batch, heads, tokens, dim / heads))?)?
            }
        };
        self.proj.forward(&attended)?.reshape((batch, side, side, dim))
    }
}

/// Queries `[b, side², d]` with their position terms appended: `[b, side², d + 2 · side]`.
fn with_positions(q: &Tensor, side: usize, (rows, columns): (&Tensor, &Tensor)) -> Result<Tensor> {
    let (batch, tokens, dim) = q.dims3()?;
    let square = q.reshape((batch, side, side, dim))?;
    let by_row = square.transpose(0, 1)?.reshape((side, batch * side, dim))?;
    let rows = by_row.matmul(rows)?.reshape((side, batch, side, side))?;
    let rows = rows.transpose(0, 1)?.reshape((batch, tokens, side))?;
    let by_column = square.permute((2, 0, 1, 3))?.reshape((side, batch * side, dim))?;
    let columns = by_column.matmul(columns)?.reshape((side, batch, side, side))?;
    let columns = columns.permute((1, 2, 0, 3))?.reshape((batch, tokens, side))?;
    Tensor::cat(&[q, &rows, &columns], 2)
}

/// A table `[entries, d]` of embeddings per distance, interpolated to the distances of `side`
/// positions and spread out as `[side, d, side]`.
fn relative_positions(table: &Tensor, side: usize) -> Result<Tensor> {
    let table = resize_table(table, 2 * side - 1)?;
    let distances: Vec<u32> =
        (0..side).flat_map(|q| (0..side).map(move |k| (q + side - 1 - k) as u32)).collect();
    let distances = Tensor::from_vec(distances, side * side, table.device())?;
    let spread = table.index_select(&distances, 0)?.reshape((side, side, ()))?;
    spread.transpose(1, 2)?.contiguous()
}

/// Row and column of each of `side²` tokens, one-hot, typed and placed as `like`.
fn one_hot(side: usize, like: &Tensor) -> Result<Tensor> {
    let mut values = vec![0f32; side * side * 2 * side];
    for (token, row) in values.chunks_exact_mut(2 * side).enumerate() {
        row[token / side] = 1.0;
        row[side + token % side] = 1.0;
    }
    let shape = (1, side * side, 2 * side);
    Tensor::from_vec(values, shape, like.device())?.to_dtype(like.dtype())
}

/// 1×1 and 3×3 convolutions without bias, each followed by a normalisation over the channels.
#[derive(Debug)]
pub(super) struct Neck {
    reduce: Linear,
    norm1: LayerNorm,
    mix: Conv3x3,
    norm2: LayerNorm,
}

impl Neck {
    pub(super) fn load(dim: usize, output: usize, vb: VarBuilder) -> Result<Self> {
        let reduce = vb.get((output, dim, 1, 1), "0.weight")?.flatten_from(1)?;
        Ok(Self {
            reduce: Linear::new(&reduce, None, Activation::None)?,
            norm1: LayerNorm::load(output, EPS, vb.pp("1"))?,
            mix: Conv3x3::load(output, output, vb.pp("2"))?,
            norm2: LayerNorm::load(output, EPS, vb.pp("3"))?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.norm1.forward(&self.reduce.forward(x)?)?;
        self.norm2.forward(&self.mix.forward(&x)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn windows_with_padding_come_back() {
        let x = Tensor::randn(0f32, 1.0, (2, 5, 7, 3), &Device::Cpu).unwrap();
        let windows = partition(&x, 4).unwrap();
        assert_eq!(windows.dims(), [8, 4, 4, 3]);
        let back = unpartition(&windows, 4, 5, 7).unwrap();
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&back), values(&x));
    }

    #[test]
    fn relative_positions_count_from_the_farthest_key() {
        let table = Tensor::new(&[[-1f32], [0.0], [1.0]], &Device::Cpu).unwrap();
        let spread = relative_positions(&table, 2).unwrap();
        let values = spread.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values, [0.0, -1.0, 1.0, 0.0]);
    }

    /// Every score of the appended form against the sum that the paper writes down, and what is
    /// attended to against the form for the CPU.
    #[test]
    fn appended_positions_are_part_of_every_score() {
        let (count, side, dim, scale) = (3, 5, 8, 0.3);
        let tokens = side * side;
        let random = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
        let [q, k, v] = [(); 3].map(|()| random(&[count, tokens, dim]));
        let (rows, columns) = (random(&[side, dim, side]), random(&[side, dim, side]));
        let wide_q = with_positions(&q, side, (&rows, &columns)).unwrap();
        let one_hot = one_hot(side, &rows).unwrap().broadcast_as((count, tokens, 2 * side));
        let wide_k = Tensor::cat(&[(&k * scale).unwrap(), one_hot.unwrap()], 2).unwrap();
        let scores = wide_q.matmul(&wide_k.t().unwrap()).unwrap().to_vec3::<f32>().unwrap();
        let [q3, k3] = [&q, &k].map(|t| t.to_vec3::<f32>().unwrap());
        let [rows3, columns3] = [&rows, &columns].map(|t| t.to_vec3::<f32>().unwrap());
        for (b, i, j) in (0..count * tokens * tokens)
            .map(|n| (n / (tokens * tokens), n / tokens % tokens, n % tokens))
        {
            let term = |c: usize| {
                scale as f32 * k3[b][j][c]
                    + rows3[i / side][c][j / side]
                    + columns3[i % side][c][j % side]
            };
            let expected: f32 = (0..dim).map(|c| q3[b][i][c] * term(c)).sum();
            let gap = (scores[b][i][j] - expected).abs();
            assert!(gap < 1e-5, "picture {b}, query {i}, key {j}: {gap}");
        }
        if let Some(packed) = RelativePositions::pack(&rows, &columns).unwrap() {
            let [q, k, v] = [&q, &k, &v].map(|t| t.unsqueeze(1).unwrap());
            let expected = packed.attend(&q, &k, &v, scale).unwrap();
            let gap =
                (attend(&wide_q, &wide_k, &v.squeeze(1).unwrap()).unwrap() - expected).unwrap();
            let gap = gap.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(gap < 1e-5, "{gap}");
        }
    }
}
