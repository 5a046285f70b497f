//! Measures predictions against annotated posts, exactly as the paper measures: data set readers,
//! metrics, reports. Knows neither networks nor HTTP: predictions come in as the answers of
//! `POST /v1/smner`, wherever they were made.

pub mod gold;
pub mod metrics;
pub mod prediction;
pub mod read;
pub mod report;

pub use gold::{DataSet, GoldEntity, GoldPost, Instance};
pub use prediction::{PredictedEntity, PredictedPost};
