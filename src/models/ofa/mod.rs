//! OFA: visual entailment and visual grounding as one sequence-to-sequence network.
//!
//! Paper: Wang et al., *OFA: Unifying Architectures, Tasks, and Modalities Through a Simple
//! Sequence-to-Sequence Learning Framework* (ICML 2022), as RiVEG (Li et al., 2024) fine-tunes it.
//! Reference implementations: the authors' repository on fairseq (`models/ofa`), and the port in
//! the package `modelscope` (`models/multi_modal/ofa`), from which the golden tensors of
//! `tests/golden_ofa.rs` are made.
//!
//! A ResNet trunk turns the picture into image tokens, which stand before the text in the
//! encoder. Attention scores carry an absolute-position bias that all layers share and a relative
//! one per layer; layers are pre-norm with further normalisations inside ("NormFormer").
//! Everything that does not depend on the input is computed at load.
//!
//! A folder for [`OfaEntailer`] or [`OfaGrounder`] holds
//! - `config.json`: a [`ModelConfig`], or the `OFAConfig` of the ports' folders as they are downloaded
//!   (with ModelScope's `configuration.json`); a checkpoint of fairseq's needs none, its shapes and
//!   its `cfg` say everything;
//! - the weights: `model.safetensors`, `pytorch_model.bin`, `model.pt`, `model.pth`, or one file of
//!   another name; tensors named as in fairseq (in a `.pt` file, under the key `model`) or as in the
//!   ports;
//! - the tokenizer: `encoder.json`, `vocab.bpe` and `dict.txt` as OFA ships them, or `vocab.json`
//!   and `merges.txt`, or `tokenizer.json`.
//!
//! Flags of training that make another network are refused by name (`flags.rs`).
//!
//! Known deviations from the reference:
//! - Batch normalisation is folded into the convolutions, the queries' scale and `c_attn` into the
//!   projections. Results agree to rounding.
//! - The softmax of attention always runs in f32; fairseq does so too, the port does not.
//! - Entailment scores the answers in one decoder pass instead of one per answer: the same
//!   numbers, because the answers differ in their first token.
//! - Beam search ranks equal scores by hypothesis and token; PyTorch's order is unspecified.
//! - A box with a token that is no location, or with corners in the wrong order, is no box; the
//!   reference returns numbers.
//! - Scores that are not finite are an error; the reference answers with what comes of them.
//! - Prompts end at 512 tokens; the reference fails where its position table ends.
//! - Without a description of the picture the entailment prompt is OFA's form without a caption;
//!   RiVEG always has a caption.
//! - `Entity (MISC)-…` is spelled `entity(other) …` for the network, as in RiVEG's data.
//! - Not implemented, because neither task uses it: picture generation (`code` tokens), a second
//!   picture, interpolated image positions, sampling of patches, post-norm layers, `w_resid`,
//!   shared relative tables, the OFA-Sys variants.

mod attention;
mod config;
mod decoder;
mod directory;
mod encoder;
mod entailer;
mod flags;
mod grounder;
mod image_trunk;
mod loaded;
mod model;
mod position;
mod resnet;
mod search;
mod text;
mod tokenizer;
mod weights;

pub use config::{Config, ModelConfig, Network, Preset, Vocabulary};
pub use decoder::{Decoder, DecoderState};
pub use encoder::{Encoder, EncoderOutput, TextBatch};
pub use entailer::OfaEntailer;
pub use grounder::OfaGrounder;
pub use image_trunk::ImageTrunk;
pub use model::Ofa;
pub use search::Hypothesis;
pub use tokenizer::Tokenizer;
pub use weights::{Weights, describe};
