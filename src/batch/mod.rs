//! Queues in front of the models, the scheduler, admission, and the executor thread that owns the
//! device.
//!
//! | file | what lives there |
//! |---|---|
//! | `model` | [`BatchModel`], the one seam between batching and models; [`StageSpec`], [`Reply`] |
//! | [`scheduler`] | what runs next: a plain state machine |
//! | `stage` | one stage: its model, the items waiting, the [`StageHandle`] they come through |
//! | `attempt` | one guarded run of a model: panics, wrong counts, device loss |
//! | `executor` | the thread |
//! | `cache` | what depends on a picture alone, computed once |
//! | `admission` | how much work may be under way; `Retry-After` |
//! | [`stages`] | the models' roles as [`BatchModel`]s |
//!
//! Every submit ends with exactly one reply, whatever happens. A batch that fails or panics is run
//! once more item by item, so one bad item cannot fail its neighbours; an item that was alone in
//! its batch is not run again.

mod admission;
mod attempt;
mod cache;
mod context;
mod cost;
mod error;
mod executor;
mod health;
mod metrics;
mod model;
pub mod scheduler;
mod stage;
pub mod stages;

pub use admission::{Admission, AdmissionPermit};
pub use attempt::PanicLimit;
pub use cache::{EmbeddingCache, FlightCache, Interest};
pub use context::RequestContext;
pub use cost::Cost;
pub use error::{Overloaded, StageError};
pub use executor::{Executor, ExecutorBuilder};
pub use health::{Health, HealthState};
pub use model::{BatchModel, Reply, StageSpec};
pub use stage::StageHandle;

#[cfg(test)]
mod cache_tests;
#[cfg(test)]
mod stubs;
#[cfg(test)]
mod tests;
