//! The door: axum routes, wire types, problem+json. Nothing below this module knows HTTP.
//!
//! | file | what lives there |
//! |---|---|
//! | `router` | which route leads where |
//! | `middleware` | the outermost layer: request ids, problem bodies, headers, metrics, log |
//! | `body`, `parse`, `picture` | from bytes to the pipeline's legal values, within limits |
//! | `smner`, `stream`, `segment`, `operations` | the handlers |
//! | `inference` | the Open Inference Protocol |
//! | `post`, `work` | one post from its body to its answer; what all handlers begin with |
//! | [`types`], [`events`], [`render`] | the wire format, and from answers to it |
//! | [`problem`] | the one table of errors |
//! | `origins` | where scripts may call from |
//! | `rejections` | what the door itself has no room for |
//! | [`openapi`], `downconvert`, `docs` | the document, in 3.1 and 3.0, and its page |
//! | `assets` | the demo page, embedded |
//! | `state` | what handlers share; where the server is in its life |
//! | [`server`] | the accept loop: timeouts, connection cap, drain |

mod assets;
mod body;
mod docs;
mod downconvert;
pub mod events;
mod inference;
mod limits;
mod middleware;
pub mod openapi;
mod operations;
mod origins;
pub mod parse;
mod picture;
mod post;
pub mod problem;
mod rejections;
pub mod render;
mod router;
mod segment;
pub mod server;
mod smner;
mod state;
mod stream;
pub mod types;
mod work;

pub use limits::Limits;
pub use origins::Origins;
pub use router::app;
pub use state::{AppState, HttpOptions, ServiceInfo};
