//! When something was recorded, so that it can be said how long ago that was.

use std::time::Duration;

use crate::domain::Now;

/// When a fact was recorded, and by which run of the daemon: a monotonic clock means nothing to another boot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    pub(super) at: Now,
    pub(super) epoch: u64,
    /// When this run of this daemon heard of it, by its own monotonic clock; none where it read of it later.
    pub(super) heard: Option<Duration>,
}

/// The fact's own time: who heard of it when is not in the record.
impl PartialEq for Stamp {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.epoch) == (other.at, other.epoch)
    }
}
