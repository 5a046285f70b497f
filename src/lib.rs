//! riveg: Segmented Multimodal Named Entity Recognition as a server.
//!
//! The map of the house, in the order a request travels:
//!
//! | module | what lives there |
//! |---|---|
//! | [`cli`] | one file per command of the `riveg` binary |
//! | [`corpus`] | many posts at once: files, journals, answers in process or by a server |
//! | [`eval`] | data set readers and the paper's metrics |
//! | [`bench`] | what each stage costs on this machine |
//! | [`http`] | the door: routes, wire types, problem+json |
//! | [`pipeline`] | the paper's two stages: recognize, then ground |
//! | [`batch`] | queues, scheduler, admission, the executor thread that owns the device |
//! | [`pack`] | what to load: `pack.toml`, files, hashes |
//! | [`models`] | the networks on candle, behind roles |
//! | [`overlay`] | boxes, masks and labels drawn onto a picture |
//! | [`mask`] | logits to full-size masks, RLE, polygons, PNG, IoU |
//! | [`vision`] | pictures: decoding with limits, orientation, resizing, boxes |
//! | [`telemetry`] | logging, and every metric's name |
//!
//! Imports point downwards only (`tests/direction.rs` holds that).

// In the library only: a test that cannot go on is right to panic.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::todo)]

pub mod batch;
pub mod bench;
pub mod cli;
pub mod corpus;
pub mod eval;
pub mod http;
pub mod mask;
pub mod models;
pub mod overlay;
pub mod pack;
pub mod pipeline;
pub mod telemetry;
pub mod vision;
