//! Tracing set-up, and every metric's name in one place.
