//! Work that the door itself refuses for want of room, before the pipeline is asked.

use std::time::Duration;

use metrics::counter;

use super::problem::{Code, Problem};
use crate::telemetry::names;

/// When to come back: bodies and pictures take seconds at most.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What there was no room for.
#[derive(Debug, Clone, Copy)]
pub enum Rejection {
    /// Bodies fill the memory set aside for them.
    BodiesFull,
    /// Too many pictures wait to be decoded.
    DecodingFull,
}

impl Rejection {
    const ALL: [Self; 2] = [Self::BodiesFull, Self::DecodingFull];

    fn reason(self) -> &'static str {
        match self {
            Self::BodiesFull => "bodies_full",
            Self::DecodingFull => "decoding_full",
        }
    }
}

/// Counts a refusal and says when to come back.
pub fn refuse(rejection: Rejection, detail: &str) -> Problem {
    counter!(names::REJECTED, "reason" => rejection.reason()).increment(1);
    let problem = Problem::new(Code::Overloaded, detail);
    Problem { retry_after: Some(RETRY_AFTER), ..problem }
}

/// Lets every reason's series begin at 0.
pub fn initialise_metrics() {
    for rejection in Rejection::ALL {
        counter!(names::REJECTED, "reason" => rejection.reason()).increment(0);
    }
}
