//! The door over stand-in networks: every form, every error, every phase of the server's life.

#[path = "../common/mod.rs"]
mod common;
mod door;

mod answers;
mod errors;
mod inference;
mod life;
mod openapi;
mod sockets;
mod stream;
