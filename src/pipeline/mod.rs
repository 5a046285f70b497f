//! The paper's two stages, in the order the data travels: recognize (tag, expand), then ground
//! (entail, ground, segment).

mod answer;
mod request;

pub use answer::{
    Answer, Entity, GroundedEntity, Mask, Provenance, SegmentAnswer, SegmentedBox, Timings,
};
pub use request::{GivenEntity, Options, Request, SegmentRequest, Task};
