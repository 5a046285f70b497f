//! The prompt encoder: boxes and points as sums of a random Fourier encoding of their place and a
//! learned embedding of their kind. A prompt is a handful of numbers, so it is encoded on the host.

use std::f32::consts::PI;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;

use super::config::Config;
use crate::vision::BoundingBox;

/// A point that belongs to the thing wanted, or that does not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PointPrompt {
    /// Pixels from the left edge of the upright picture.
    pub x: f32,
    /// Pixels from its top edge.
    pub y: f32,
    /// Whether the point belongs to the thing.
    pub inside: bool,
}

/// What asks for one mask: points, a box, or both, in pixels of the upright picture.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prompt {
    /// Any number of points.
    pub points: Vec<PointPrompt>,
    /// At most one box.
    pub bbox: Option<BoundingBox>,
}

impl Prompt {
    /// Number of tokens that encode the prompt: one per point, then a box's two corners, or a
    /// token that says "no box" if there are points alone.
    pub fn tokens(&self) -> usize {
        match (self.points.len(), self.bbox) {
            (0, None) => 0,
            (points, None) => points + 1,
            (points, Some(_)) => points + 2,
        }
    }

    /// The prompt in a picture scaled by `sx` and `sy`.
    pub(super) fn scale(&self, sx: f32, sy: f32) -> Self {
        let point = |p: &PointPrompt| PointPrompt { x: p.x * sx, y: p.y * sy, ..*p };
        Self {
            points: self.points.iter().map(point).collect(),
            bbox: self.bbox.map(|bbox| bbox.scale(sx, sy)),
        }
    }
}

impl From<BoundingBox> for Prompt {
    fn from(bbox: BoundingBox) -> Self {
        Self { points: Vec::new(), bbox: Some(bbox) }
    }
}

/// The learned parts, on the host.
#[derive(Debug)]
pub(super) struct PromptEncoder {
    side: f32,
    dim: usize,
    /// Frequencies of x, then of y: `dim / 2` each.
    frequencies: Vec<f32>,
    outside: Vec<f32>,
    inside: Vec<f32>,
    top_left: Vec<f32>,
    bottom_right: Vec<f32>,
    not_a_point: Vec<f32>,
}

impl PromptEncoder {
    pub(super) fn load(config: &Config, vb: &VarBuilder) -> Result<Self> {
        let dim = config.out_chans;
        // A half-precision frequency would move a prompt by pixels.
        let vb = vb.to_dtype(DType::F32);
        let values = |shape: (usize, usize), name: &str| {
            vb.get(shape, name)?.flatten_all()?.to_vec1::<f32>()
        };
        let kind = |index: usize| values((1, dim), &format!("point_embeddings.{index}.weight"));
        Ok(Self {
            side: config.image_size as f32,
            dim,
            frequencies: values((2, dim / 2), "pe_layer.positional_encoding_gaussian_matrix")?,
            outside: kind(0)?,
            inside: kind(1)?,
            top_left: kind(2)?,
            bottom_right: kind(3)?,
            not_a_point: values((1, dim), "not_a_point_embed.weight")?,
        })
    }

    /// Encodes prompts of equally many tokens, in pixels of the frame: `[prompts, tokens, dim]`.
    pub(super) fn encode(&self, prompts: &[Prompt], device: &Device) -> Result<Tensor> {
        let tokens = prompts.first().map_or(0, Prompt::tokens);
        let mut values = Vec::with_capacity(prompts.len() * tokens * self.dim);
        for prompt in prompts {
            for point in &prompt.points {
                let kind = if point.inside { &self.inside } else { &self.outside };
                self.push(point.x, point.y, kind, &mut values);
            }
            if let Some(bbox) = prompt.bbox {
                self.push(bbox.x1, bbox.y1, &self.top_left, &mut values);
                self.push(bbox.x2, bbox.y2, &self.bottom_right, &mut values);
            } else if !prompt.points.is_empty() {
                values.extend_from_slice(&self.not_a_point);
            }
        }
        Tensor::from_vec(values, (prompts.len(), tokens, self.dim), device)
    }

    /// The encoding of every cell's centre of a `grid` × `grid` image embedding: `[grid², dim]`.
    pub(super) fn dense(&self, grid: usize, device: &Device) -> Result<Tensor> {
        let mut values = Vec::with_capacity(grid * grid * self.dim);
        for cell in 0..grid * grid {
            let centre = |index: usize| (index as f32 + 0.5) / grid as f32;
            self.fourier(centre(cell % grid), centre(cell / grid), &mut values);
        }
        Tensor::from_vec(values, (grid * grid, self.dim), device)
    }

    /// One token: the encoding of the pixel's centre plus `kind`.
    fn push(&self, x: f32, y: f32, kind: &[f32], values: &mut Vec<f32>) {
        let start = values.len();
        self.fourier((x + 0.5) / self.side, (y + 0.5) / self.side, values);
        for (value, kind) in values[start..].iter_mut().zip(kind) {
            *value += kind;
        }
    }

    /// Sines, then cosines, of a place given in fractions of the frame.
    fn fourier(&self, x: f32, y: f32, values: &mut Vec<f32>) {
        let (x, y) = (2.0 * x - 1.0, 2.0 * y - 1.0);
        let (of_x, of_y) = self.frequencies.split_at(self.dim / 2);
        let angle = |(fx, fy): (&f32, &f32)| 2.0 * PI * (x * fx + y * fy);
        values.extend(of_x.iter().zip(of_y).map(angle).map(f32::sin));
        values.extend(of_x.iter().zip(of_y).map(angle).map(f32::cos));
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn assert_close(actual: &Tensor, expected: &Tensor) {
        assert_eq!(actual.dims(), expected.dims());
        let gap = (actual - expected).unwrap().abs().unwrap().flatten_all().unwrap();
        let gap = gap.max(0).unwrap().to_scalar::<f32>().unwrap();
        assert!(gap < 1e-4, "differs by {gap}");
    }

    /// Golden prompt embeddings of the reference (see `tests/golden_sam.rs`).
    #[test]
    fn prompt_embeddings_agree_with_the_reference() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sam/windows");
        let load = |name| candle_core::safetensors::load(folder.join(name), &Device::Cpu).unwrap();
        let config = Config::read(&folder.join("config.json")).unwrap();
        // The network's type makes no difference.
        let vb = VarBuilder::from_tensors(load("model.safetensors"), DType::F16, &Device::Cpu);
        let encoder = PromptEncoder::load(&config, &vb.pp("prompt_encoder")).unwrap();
        let expected = load("expected.safetensors");
        let dense = encoder.dense(config.grid(), &Device::Cpu).unwrap();
        let dense_expected = expected["dense_pe"].flatten_from(1).unwrap().t().unwrap();
        assert_close(&dense, &dense_expected.contiguous().unwrap());

        // The first picture is 97 × 61, scaled to 64 × 40.
        let (sx, sy) = (64.0 / 97.0, 40.0 / 61.0);
        let edges = expected["0.boxes"].to_vec2::<f32>().unwrap();
        let boxes = edges.iter().map(|e| BoundingBox::new(e[0], e[1], e[2], e[3]));
        let boxes: Vec<_> = boxes.map(|bbox| Prompt::from(bbox).scale(sx, sy)).collect();
        assert_close(&encoder.encode(&boxes, &Device::Cpu).unwrap(), &expected["0.box.sparse"]);

        let points = expected["0.points"].to_vec3::<f32>().unwrap();
        let labels = expected["0.labels"].to_vec2::<i64>().unwrap();
        let prompt = |(points, labels): (&Vec<Vec<f32>>, &Vec<i64>)| {
            let point =
                |(p, &l): (&Vec<f32>, &i64)| PointPrompt { x: p[0], y: p[1], inside: l == 1 };
            let points = points.iter().zip(labels).map(point).collect();
            Prompt { points, bbox: None }.scale(sx, sy)
        };
        let points: Vec<_> = points.iter().zip(&labels).map(prompt).collect();
        assert_close(&encoder.encode(&points, &Device::Cpu).unwrap(), &expected["0.point.sparse"]);
    }

    #[test]
    fn tokens_are_counted() {
        let point = PointPrompt { x: 1.0, y: 2.0, inside: true };
        let bbox = BoundingBox::new(0.0, 0.0, 4.0, 4.0);
        assert_eq!(Prompt::default().tokens(), 0);
        assert_eq!(Prompt::from(bbox).tokens(), 2);
        assert_eq!(Prompt { points: vec![point; 2], bbox: None }.tokens(), 3);
        assert_eq!(Prompt { points: vec![point; 2], bbox: Some(bbox) }.tokens(), 4);
    }
}
