//! Handles of the metrics, made once so that every series exists from the start, at 0.
//!
//! A handle belongs to the recorder that is installed when it is made: install it first.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::telemetry::names;

/// The metrics of one stage.
pub(super) struct StageMetrics {
    pub(super) queue_depth: Gauge,
    pub(super) queue_seconds: Histogram,
    pub(super) batch_size: Histogram,
    pub(super) execute_seconds: Histogram,
    pub(super) failed: Counter,
    pub(super) retried_batches: Counter,
    pub(super) panics: Counter,
    pub(super) cancelled: Counter,
    pub(super) deadline_exceeded: Counter,
}

impl StageMetrics {
    pub(super) fn new(stage: &'static str) -> Self {
        let metrics = Self {
            queue_depth: gauge!(names::STAGE_QUEUE_DEPTH, "stage" => stage),
            queue_seconds: histogram!(names::STAGE_QUEUE_SECONDS, "stage" => stage),
            batch_size: histogram!(names::STAGE_BATCH_SIZE, "stage" => stage),
            execute_seconds: histogram!(names::STAGE_EXECUTE_SECONDS, "stage" => stage),
            failed: counter_at_zero(names::STAGE_FAILED, "stage", stage),
            retried_batches: counter_at_zero(names::STAGE_RETRIED_BATCHES, "stage", stage),
            panics: counter_at_zero(names::STAGE_PANICS, "stage", stage),
            cancelled: counter_at_zero(names::CANCELLED, "stage", stage),
            deadline_exceeded: counter_at_zero(names::DEADLINE_EXCEEDED, "stage", stage),
        };
        metrics.queue_depth.set(0.0);
        metrics
    }
}

/// Work refused, by reason.
pub(super) struct Rejections {
    pub(super) queue_full: Counter,
    pub(super) device_lost: Counter,
    pub(super) shutting_down: Counter,
}

impl Rejections {
    pub(super) fn new() -> Self {
        Self {
            queue_full: counter_at_zero(names::REJECTED, "reason", "queue_full"),
            device_lost: counter_at_zero(names::REJECTED, "reason", "device_lost"),
            shutting_down: counter_at_zero(names::REJECTED, "reason", "shutting_down"),
        }
    }
}

/// A counter with one label, registered and at 0.
pub(super) fn counter_at_zero(
    name: &'static str,
    label: &'static str,
    value: &'static str,
) -> Counter {
    let counter = counter!(name, label => value);
    counter.increment(0);
    counter
}
