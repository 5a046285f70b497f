//! Measures what each stage costs on this machine: the networks of a pack, or networks of any size
//! with random weights.
//!
//! A [`Case`] is one stage at one batch size. What it feeds to a network is made before the clock
//! starts, and no picture is shown twice, because networks remember what they made of a picture.
//! Scaling a picture and cutting a text to pieces is part of a stage; decoding files, queues and
//! HTTP are not.

mod cases;
mod clock;
mod networks;
mod random;
mod sizes;

pub use cases::{Case, Shapes, cases};
pub use clock::{Times, measure};
pub use networks::{Networks, Stage};
pub use random::{RandomError, write};
pub use sizes::{RandomSizes, SizeError};
