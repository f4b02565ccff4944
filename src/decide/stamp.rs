//! When something was recorded, so that it can be said how long ago that was.

use std::time::Duration;

use jiff::Timestamp;

use super::hard::Hard;
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

impl Hard {
    /// How long ago `stamp` was, by the monotonic clock where this run recorded it or heard of it, else by the wall clock up to
    /// the start of this term and by the monotonic clock from there: nobody's wall clock ends a pause. Whoever follows has the wall clock only: the monotonic times
    /// of the leader are those of another machine.
    pub(super) fn elapsed(&self, stamp: Stamp, now: Now) -> Duration {
        if !self.is_own_clock {
            return self.wall_elapsed(stamp.at.wall, now);
        }
        if stamp.epoch == self.epoch {
            return now.monotonic.saturating_sub(stamp.at.monotonic);
        }
        if let Some(heard) = stamp.heard {
            return now.monotonic.saturating_sub(heard);
        }
        let Some(anchor) = self.anchor else { return Duration::ZERO };
        self.wall_elapsed(stamp.at.wall, anchor) + now.monotonic.saturating_sub(anchor.monotonic)
    }

    /// How far `until` lies ahead, by the clock of this run.
    pub(super) fn time_left(&self, set: Stamp, until: Timestamp, now: Now) -> Duration {
        let lasts = Duration::try_from(until.duration_since(set.at.wall)).unwrap_or_default();
        lasts.saturating_sub(self.elapsed(set, now))
    }

    /// The same for what only lasts while it is certain: by whichever clock more of it is over.
    pub(super) fn time_left_for_sure(&self, set: Stamp, until: Timestamp, now: Now) -> Duration {
        let by_the_wall = Duration::try_from(until.duration_since(now.wall)).unwrap_or_default();
        self.time_left(set, until, now).min(by_the_wall)
    }

    fn wall_elapsed(&self, from: Timestamp, to: Now) -> Duration {
        Duration::try_from(to.wall.duration_since(from)).unwrap_or_default()
    }

    pub(super) fn stamp(&self, at: Now) -> Stamp {
        Stamp { at, epoch: self.epoch, heard: self.hears_at }
    }
}
