//! The encoder: image tokens first, then text.

use candle_core::{DType, Device, Tensor};
use candle_nn::{Embedding, Module, VarBuilder, linear};

use super::attention::{Attention, FeedForward, apply, norm, optional_norm};
use super::config::Config;
use super::position::{
    AbsoluteBias, RelativeTables, TokenRows, TokenTables, image_buckets, image_position_ids,
};
use super::resnet::Trunk;
use crate::models::ops::{LayerNorm, Linear, activation_type};
use crate::models::{ModelError, Result};

/// Up to this size, each layer's bias among image tokens is computed once, at load; beyond, it is
/// computed layer by layer at every call.
const MAX_STORED_BIAS_BYTES: usize = 512 << 20;

/// Texts of a batch, padded to the longest.
#[derive(Debug)]
pub struct TextBatch {
    /// Ids, `[batch, longest]`, `u32`.
    pub ids: Tensor,
    /// Length of each text.
    pub lengths: Vec<usize>,
    /// Length of the longest.
    pub longest: usize,
}

impl TextBatch {
    /// Pads texts on the right with `pad`.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn new(texts: &[Vec<u32>], pad: u32, device: &Device) -> Result<Self> {
        let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut ids = Vec::with_capacity(texts.len() * longest);
        for text in texts {
            ids.extend_from_slice(text);
            ids.extend(std::iter::repeat_n(pad, longest - text.len()));
        }
        let ids = Tensor::from_vec(ids, (texts.len(), longest), device)?;
        Ok(Self { ids, lengths, longest })
    }

    /// One at every token and zero at padding, `[batch, longest]` in f32; `None` without padding.
    fn present(&self) -> Result<Option<Tensor>> {
        if self.lengths.iter().all(|&n| n == self.longest) {
            return Ok(None);
        }
        let rows = self.lengths.iter();
        let present: Vec<f32> = rows
            .flat_map(|&n| (0..self.longest).map(move |i| f32::from(u8::from(i < n))))
            .collect();
        let shape = (self.lengths.len(), self.longest);
        Ok(Some(Tensor::from_vec(present, shape, self.ids.device())?))
    }
}

/// What the encoder hands to the decoder.
#[derive(Debug)]
pub struct EncoderOutput {
    /// `[batch, image tokens + longest text, d_model]`.
    pub hidden: Tensor,
    /// Minus infinity at padding and zero elsewhere, `[batch, 1, 1, tokens]`; `None` without
    /// padding.
    pub mask: Option<Tensor>,
}

#[derive(Debug)]
struct Layer {
    attention: Attention,
    before: LayerNorm,
    after: Option<LayerNorm>,
    feed_forward: FeedForward,
}

impl Layer {
    fn new(config: &Config, vb: &VarBuilder) -> Result<Self> {
        let (d, heads) = (config.d_model, config.encoder_attention_heads);
        let attention = vb.pp("self_attn");
        Ok(Self {
            attention: Attention::new(d, heads, config.scale_heads, &attention)?,
            before: norm(d, vb.pp("self_attn_layer_norm"))?,
            after: optional_norm(config.scale_attn, d, vb.pp("attn_ln"))?,
            feed_forward: FeedForward::new(d, config.encoder_ffn_dim, config.scale_fc, vb)?,
        })
    }

    fn forward(&self, x: &Tensor, bias: &[&Tensor]) -> Result<Tensor> {
        let h = self.before.forward(x)?;
        let memory = self.attention.key_values(&h)?;
        let h = self.attention.attend(&self.attention.queries(&h)?, &memory, bias)?;
        let h = apply(&self.after, h)?;
        self.feed_forward.forward(&(x + h)?)
    }
}

/// Positions of the image tokens (for one picture size) and of all text tokens.
#[derive(Debug)]
pub(super) struct Positions {
    /// As the tables hold them, `[positions, d_model]`.
    raw: Tensor,
    /// Normalised, `[positions, d_model]` in f32; the decoder's cross attention reads them too.
    pub(super) normalised: Tensor,
    /// How many of the positions are image tokens; the rest are text.
    pub(super) image: usize,
}

impl Positions {
    fn new(config: &Config, grid: usize, vb: &VarBuilder) -> Result<Self> {
        let d = config.d_model;
        let exact = vb.to_dtype(DType::F32);
        let ids = image_position_ids(grid, config.image_bucket_size);
        // Old checkpoints have fewer rows than the full table; those in use must be there.
        let table = exact.get_unchecked_dtype("embed_image_positions.weight", DType::F32)?;
        let last = ids.last().map_or(0, |&id| id as usize);
        if table.dim(0)? <= last {
            return Err(ModelError::Weights(format!(
                "embed_image_positions has {} rows, the picture size needs {}",
                table.dim(0)?,
                last + 1
            )));
        }
        let image = table.index_select(&Tensor::new(ids.as_slice(), vb.device())?, 0)?;
        let rows = config.max_position_embeddings;
        let text = exact.get((rows + 2, d), "embed_positions.weight")?.narrow(0, 0, rows)?;
        let image_norm = norm(d, exact.pp("image_pos_ln"))?;
        let text_norm = norm(d, exact.pp("pos_ln"))?;
        let normalised = [image_norm.forward(&image)?, text_norm.forward(&text.contiguous()?)?];
        Ok(Self {
            raw: Tensor::cat(&[image, text], 0)?.to_dtype(vb.dtype())?,
            normalised: Tensor::cat(&normalised, 0)?,
            image: grid * grid,
        })
    }
}

/// The encoder.
#[derive(Debug)]
pub struct Encoder {
    trunk: Trunk,
    tokens: Embedding,
    text_type: Tensor,
    text_norm: LayerNorm,
    image_projection: Linear,
    image_type: Tensor,
    image_norm: LayerNorm,
    layers: Vec<Layer>,
    norm: LayerNorm,
    positions: Positions,
    absolute: AbsoluteBias,
    token_tables: TokenTables,
    image_tables: RelativeTables,
    image_buckets: Tensor,
    /// Absolute bias among image tokens, `[heads, image, image]`.
    image_absolute: Tensor,
    /// The sum of the above and each layer's relative bias, unless too large to keep.
    image_bias: Vec<Tensor>,
    entangle: bool,
}

impl Encoder {
    /// Reads the encoder below `vb`, for pictures of `grid × grid` image tokens. `tokens` is the
    /// embedding that encoder, decoder and output share.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(config: &Config, grid: usize, tokens: Embedding, vb: VarBuilder) -> Result<Self> {
        let d = config.d_model;
        let heads = config.encoder_attention_heads;
        let exact = vb.to_dtype(DType::F32);
        let kept = vb.to_dtype(activation_type(&vb));
        let positions = Positions::new(config, grid, &kept)?;
        let pos = &positions.normalised;
        let (pos_q, pos_k) =
            (linear(d, d, exact.pp("pos_q_linear"))?, linear(d, d, exact.pp("pos_k_linear"))?);
        let absolute = AbsoluteBias::new((&pos_q, pos), (&pos_k, pos), heads, kept.dtype())?;
        let types = kept.get((2, d), "type_embedding.weight")?;
        let layers = (0..config.encoder_layers).map(|i| Layer::new(config, &vb.pp("layers").pp(i)));
        let side = 2 * config.image_bucket_size - 1;
        let image_tables = tables(
            config.encoder_layers,
            (side * side + 3, heads),
            &kept.pp("image_rel_pos_table_list"),
        )?;
        let token_rows = 2 * config.token_bucket_size - 1;
        let token_tables = tables(
            config.encoder_layers,
            (token_rows, heads),
            &kept.pp("token_rel_pos_table_list"),
        )?;
        let image = (0, positions.image);
        let mut encoder = Self {
            trunk: Trunk::new(config, kept.pp("embed_images"))?,
            tokens,
            text_type: types.get(0)?,
            text_norm: norm(d, vb.pp("layernorm_embedding"))?,
            image_projection: Linear::load(16 * config.resnet_width, d, vb.pp("image_proj"))?,
            image_type: types.get(1)?,
            image_norm: norm(d, vb.pp("patch_layernorm_embedding"))?,
            layers: layers.collect::<Result<_>>()?,
            norm: norm(d, vb.pp("layer_norm"))?,
            image_absolute: absolute.block(image, image)?,
            image_buckets: image_buckets(grid, config.image_bucket_size, vb.device())?,
            image_bias: Vec::new(),
            positions,
            absolute,
            token_tables: TokenTables::new(token_tables, config.token_bucket_size)?,
            image_tables,
            entangle: config.entangle_encoder_positions,
        };
        encoder.store_image_bias()?;
        Ok(encoder)
    }

    /// Computes every layer's bias among image tokens, where that fits in memory.
    fn store_image_bias(&mut self) -> Result<()> {
        let absolute = &self.image_absolute;
        let bytes = absolute.elem_count() * absolute.dtype().size_in_bytes();
        if bytes * self.layers.len() <= MAX_STORED_BIAS_BYTES {
            let bias = (0..self.layers.len()).map(|layer| self.compute_image_bias(layer));
            self.image_bias = bias.collect::<Result<_>>()?;
        }
        Ok(())
    }

    /// A layer's bias among image tokens: `[heads, image, image]`.
    fn compute_image_bias(&self, layer: usize) -> Result<Tensor> {
        let shape = (self.positions.image, self.positions.image);
        let relative = self.image_tables.bias(layer, &self.image_buckets, shape)?;
        Ok((&self.image_absolute + relative)?)
    }

    /// Positions of image and text tokens.
    pub(super) fn positions(&self) -> &Positions {
        &self.positions
    }

    /// Trunk features of normalised pictures `[batch, side, side, 3]`:
    /// `[batch, grid, grid, 16 · width]`.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn trunk_features(&self, pixels: &Tensor) -> Result<Tensor> {
        self.trunk.forward(pixels)
    }

    /// Image tokens of normalised pictures `[batch, side, side, 3]`:
    /// `[batch, image tokens, d_model]`. They depend on the picture alone.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn image_tokens(&self, pixels: &Tensor) -> Result<Tensor> {
        let features = self.trunk.forward(pixels)?.flatten(1, 2)?;
        let mut x = self.image_projection.forward(&features)?;
        if self.entangle {
            x = x.broadcast_add(&self.positions.raw.narrow(0, 0, self.positions.image)?)?;
        }
        Ok(self.image_norm.forward(&x.broadcast_add(&self.image_type)?)?)
    }

    /// Encodes texts together with the image tokens of their pictures,
    /// `[batch, image tokens, d_model]`.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn forward(&self, image: &Tensor, text: &TextBatch) -> Result<EncoderOutput> {
        let mut words = self.tokens.forward(&text.ids)?;
        let first = self.positions.image;
        if self.entangle {
            words = words.broadcast_add(&self.positions.raw.narrow(0, first, text.longest)?)?;
        }
        let mut words = self.text_norm.forward(&words.broadcast_add(&self.text_type)?)?;
        let mask = match text.present()? {
            Some(present) => {
                words = words.broadcast_mul(&present.unsqueeze(2)?.to_dtype(words.dtype())?)?;
                Some(self.mask(&present)?.to_dtype(words.dtype())?)
            }
            None => None,
        };
        let mut x = Tensor::cat(&[image, &words], 1)?;
        let blocks = TextBias::new(self, text.longest)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let bias = self.bias(index, &blocks)?.unsqueeze(0)?;
            let parts: Vec<&Tensor> = std::iter::once(&bias).chain(mask.as_ref()).collect();
            x = layer.forward(&x, &parts)?;
        }
        Ok(EncoderOutput { hidden: self.norm.forward(&x)?, mask })
    }

    /// The key mask of image and text tokens, `[batch, 1, 1, tokens]`, from `[batch, text]`.
    fn mask(&self, present: &Tensor) -> Result<Tensor> {
        let zeros = present.zeros_like()?;
        let infinite = (&zeros + f64::NEG_INFINITY)?;
        let text = present.gt(0f32)?.where_cond(&zeros, &infinite)?;
        let shape = (present.dim(0)?, self.positions.image);
        let image = Tensor::zeros(shape, DType::F32, present.device())?;
        Ok(Tensor::cat(&[image, text], 1)?.unsqueeze(1)?.unsqueeze(1)?)
    }

    /// A layer's bias over the joint sequence: `[heads, tokens, tokens]`. There is no relative
    /// part between image and text.
    fn bias(&self, layer: usize, blocks: &TextBias) -> Result<Tensor> {
        let image = match self.image_bias.get(layer) {
            Some(stored) => stored.clone(),
            None => self.compute_image_bias(layer)?,
        };
        let text = (&blocks.text_text + blocks.relative.bias(layer)?)?;
        let top = Tensor::cat(&[&image, &blocks.image_text], 2)?;
        let bottom = Tensor::cat(&[&blocks.text_image, &text], 2)?;
        Ok(Tensor::cat(&[top, bottom], 1)?)
    }
}

/// The parts of the absolute bias that a text takes part in, named query first, and the relative
/// bias among its tokens.
struct TextBias<'a> {
    image_text: Tensor,
    text_image: Tensor,
    text_text: Tensor,
    relative: TokenRows<'a>,
}

impl<'a> TextBias<'a> {
    fn new(encoder: &'a Encoder, longest: usize) -> Result<Self> {
        let image = (0, encoder.positions.image);
        let text = (encoder.positions.image, longest);
        Ok(Self {
            image_text: encoder.absolute.block(image, text)?,
            text_image: encoder.absolute.block(text, image)?,
            text_text: encoder.absolute.block(text, text)?,
            relative: encoder.token_tables.rows(0, longest)?,
        })
    }
}

/// Reads one relative-position table per layer.
pub(super) fn tables(
    layers: usize,
    shape: (usize, usize),
    vb: &VarBuilder,
) -> Result<RelativeTables> {
    let read = (0..layers).map(|layer| vb.pp(layer).get(shape, "weight"));
    RelativeTables::new(read.collect::<candle_core::Result<_>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::ofa::{ModelConfig, Ofa, Weights};

    /// The bias that the reference adds to each layer's attention scores.
    #[test]
    fn position_bias_of_the_reference() {
        for name in ["fairseq", "port"] {
            let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
            let dir = root.join("tests/golden/ofa").join(name);
            let json = std::fs::read_to_string(dir.join("config.json")).unwrap();
            let config: ModelConfig = serde_json::from_str(&json).unwrap();
            let weights = Weights::open(&dir, DType::F32, &Device::Cpu).unwrap();
            let mut network = Ofa::new(&config.network(), config.grid(), weights.builder).unwrap();
            let golden =
                candle_core::safetensors::load(dir.join("golden.safetensors"), &Device::Cpu);
            let golden = golden.unwrap();
            let encoder = network.encoder_mut();
            // What is too large to keep is computed at every call, to the same end.
            for keep in [true, false] {
                if !keep {
                    encoder.image_bias.clear();
                }
                let blocks = TextBias::new(encoder, golden["ids"].dim(1).unwrap()).unwrap();
                for layer in 0..encoder.layers.len() {
                    let expected = &golden[&format!("bias.{layer}")];
                    let actual = encoder.bias(layer, &blocks).unwrap();
                    let error = (actual - expected).unwrap().abs().unwrap();
                    let error = error.max_all().unwrap().to_scalar::<f32>().unwrap();
                    let scale = expected.abs().unwrap().max_all().unwrap();
                    let scale = scale.to_scalar::<f32>().unwrap();
                    println!("{name}, layer {layer}: {error:.1e} of {scale:.2}");
                    assert!(error <= 1e-4 * scale && scale > 0.1);
                }
            }
        }
    }
}
