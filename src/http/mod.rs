//! The door: axum routes, wire types, problem+json. Nothing below this module knows HTTP.

pub mod server;
