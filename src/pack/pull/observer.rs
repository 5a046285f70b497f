//! What a person sees of a pull.

use std::time::Duration;

/// Told about each step of pulling.
pub trait PullObserver {
    /// File `index` of `count` begins.
    fn file(&self, index: usize, count: usize, path: &str);
    /// So many bytes of the file are here, of so many in all where that is known.
    fn progress(&self, bytes: u64, of: Option<u64>);
    /// An attempt failed; the next one begins after `wait`.
    fn retry(&self, error: &str, wait: Duration);
    /// Another process is pulling the same pack; this one waits for it.
    fn waiting(&self);
}

/// Nobody watches.
impl PullObserver for () {
    fn file(&self, _index: usize, _count: usize, _path: &str) {}
    fn progress(&self, _bytes: u64, _of: Option<u64>) {}
    fn retry(&self, _error: &str, _wait: Duration) {}
    fn waiting(&self) {}
}
