//! The networks, on candle, behind the roles that the pipeline wires. Knows neither tokio nor axum.
//!
//! The paper's claim is that any module can be swapped, so the pipeline sees `dyn Tagger`,
//! `dyn Entailer`, … and the pack says which architecture fills each role. Every role takes a
//! batch: the items of many requests at once. A batch either succeeds as a whole or fails as a
//! whole; isolating one bad item is the caller's work (see [`crate::batch`]).

mod batch_norm;
mod byte_lru;
mod checkpoint;
pub mod dense;
mod entity;
mod error;
mod expander;
mod expression;
mod located;
mod memo;
pub mod ofa;
pub mod ops;
mod pickle;
mod pixels;
pub mod pyramid;
mod roles;
pub mod sam;
mod streamed;
pub mod tagger;
mod weight_use;

pub use byte_lru::ByteLru;
pub use checkpoint::{Described, describe_weights, device_name, hash_file, is_weights};
pub use entity::{CharSpan, EntityType, FineType, TaggedEntity};
pub use error::{ModelError, Result};
pub use expander::TypeExpander;
pub use roles::{
    EntailInput, Entailer, Entailment, ExpandInput, Expander, GroundInput, Grounder, Grounding,
    ImageEmbedding, MaskPrediction, ModelInfo, SegmentInput, Segmenter, TagInput, Tagger,
};
pub use weight_use::{Recorder, TensorNames, WeightUse, WrittenAs};
