//! What travels with a request through every stage.

use std::sync::Arc;
use std::time::Instant;

use super::{AdmissionPermit, Cost};

/// What travels with a request through every stage: its id (for the log), its deadline and the
/// room that it takes up. Dropping it gives the room back.
#[derive(Debug)]
pub struct RequestContext {
    request_id: Arc<str>,
    deadline: Option<Instant>,
    permit: Option<AdmissionPermit>,
}

impl RequestContext {
    /// A request that was admitted.
    pub fn new(request_id: Arc<str>, deadline: Option<Instant>, permit: AdmissionPermit) -> Self {
        Self { request_id, deadline, permit: Some(permit) }
    }

    /// Work that nobody admits, e.g. warm-up or a one-shot command: it takes up no room.
    pub fn unadmitted(request_id: Arc<str>, deadline: Option<Instant>) -> Self {
        Self { request_id, deadline, permit: None }
    }

    /// The request's id, as the client knows it.
    pub fn request_id(&self) -> &Arc<str> {
        &self.request_id
    }

    /// When the answer stops being of use.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Takes up more room than was predicted, e.g. because the text has more entities. Never
    /// refused: see [`AdmissionPermit::charge_more`].
    pub fn charge_more(&self, cost: Cost) {
        if let Some(permit) = &self.permit {
            permit.charge_more(cost);
        }
    }
}
