//! The paper's two stages, in the order the data travels: [`recognize`](Pipeline::run) (tag, then
//! expand), then ground (entail, ground, segment).
//!
//! Every network sits behind a queue of [`crate::batch`]; the pipeline submits a request's items
//! stage by stage and awaits them, so it reads like the paper's figure 6 and never blocks.
//! Whoever wants to hear what is known so far brings an [`Observer`].

mod answer;
mod error;
mod ground;
mod prices;
mod progress;
mod recognize;
mod request;
mod stages;
mod warmup;

use std::sync::Arc;
use std::time::Instant;

pub use answer::{
    Answer, Entity, GroundedEntity, Mask, Provenance, SegmentAnswer, SegmentedBox, Timings,
};
pub use error::PipelineError;
pub use progress::{Observer, Progress};
pub use request::{GivenEntity, Options, Request, SegmentRequest, Task};
pub use stages::{PipelineOptions, Roles};
pub use warmup::{FreshPictures, WarmUp, warm_up};

use crate::batch::{Admission, Health, HealthState, RequestContext};
use prices::Prices;
use progress::Passage;
use recognize::Recognized;
use stages::{Scene, Stages};

/// The two stages over loaded models. One per process, shared as `Arc<Pipeline>`.
pub struct Pipeline {
    stages: Stages,
    prices: Prices,
    admission: Admission,
    options: PipelineOptions,
}

impl Pipeline {
    /// Puts a queue in front of every role and starts the executor thread. Install the metrics
    /// recorder first.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(roles: Roles, options: PipelineOptions) -> std::io::Result<Self> {
        let prices = Prices::new(roles.clone());
        let stages = Stages::start(roles, &options)?;
        let admission = Admission::new(options.max_inflight, options.speed);
        Ok(Self { stages, prices, admission, options })
    }

    /// Refuses early, before a body is read and a picture decoded, while there is no room for even
    /// the cheapest request with a picture. A text alone is cheaper and is refused all the same:
    /// what a request is shows only once its body was read.
    ///
    /// # Errors
    /// [`PipelineError::Overloaded`] when too much work is in flight.
    pub fn refuse_when_full(&self) -> Result<(), PipelineError> {
        Ok(self.admission.probe(self.prices.least_with_picture())?)
    }

    /// Lets a request in, by its predicted cost.
    ///
    /// # Errors
    /// [`PipelineError::Overloaded`] when too much work is in flight.
    pub fn admit(
        &self,
        request: &Request,
        deadline: Option<Instant>,
        request_id: Arc<str>,
    ) -> Result<RequestContext, PipelineError> {
        let permit = self.admission.try_admit(self.prices.request(request))?;
        Ok(RequestContext::new(request_id, deadline, permit))
    }

    /// Lets boxes of one picture in, by their predicted cost.
    ///
    /// # Errors
    /// [`PipelineError::Overloaded`] when too much work is in flight.
    pub fn admit_segment(
        &self,
        request: &SegmentRequest,
        deadline: Option<Instant>,
        request_id: Arc<str>,
    ) -> Result<RequestContext, PipelineError> {
        let permit = self.admission.try_admit(self.prices.boxes(request))?;
        Ok(RequestContext::new(request_id, deadline, permit))
    }

    /// Answers one post that was admitted.
    ///
    /// # Errors
    /// See [`PipelineError`]. Dropping the future cancels what is still queued.
    pub async fn run(
        &self,
        request: Request,
        context: &RequestContext,
    ) -> Result<Answer, PipelineError> {
        self.run_observed(request, context, &|_| {}).await
    }

    /// Answers one post that was admitted, and tells `observer` on the way what is known so far.
    ///
    /// # Errors
    /// See [`PipelineError`]. Dropping the future cancels what is still queued.
    pub async fn run_observed(
        &self,
        request: Request,
        context: &RequestContext,
        observer: Observer<'_>,
    ) -> Result<Answer, PipelineError> {
        let mut passage = Passage { context, observer, timings: Timings::default() };
        let wants_masks = request.options.task == Task::Smner;
        let picture = request.picture.as_ref();
        // Given up where this request ends before it ran.
        let early =
            picture.filter(|_| wants_masks).and_then(|p| self.stages.encode_early(p, context));
        let Recognized { mut entities, provenance } =
            self.recognize(&request, &mut passage).await?;
        observer(Progress::Recognized(&entities));
        context.charge_more(self.prices.further_entities(&request, entities.len()));
        if let Some(picture) = picture {
            let scene = Scene { picture, early };
            self.ground(&mut entities, scene, &request.options, &mut passage).await?;
        }
        Ok(Answer { entities, provenance, timings: passage.timings })
    }

    /// What readiness asks.
    pub fn health(&self) -> Health {
        self.stages.health()
    }

    /// Runs what is queued, stops the executor thread, and says how it ended. Drain the requests
    /// first: a request under way submits to later stages.
    pub async fn shutdown(self) -> HealthState {
        self.stages.shutdown().await
    }
}
