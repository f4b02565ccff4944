//! The machine's two clocks.

use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

use crate::domain::Now;
use crate::ports::Clock;

/// `CLOCK_BOOTTIME` for deciding, because it keeps counting while the machine is suspended, and the wall clock for
/// people.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let since_boot = clock_gettime(ClockId::Boottime);
        Now {
            // The kernel never reports a negative time since boot, nor a billion nanoseconds or more.
            monotonic: Duration::new(
                u64::try_from(since_boot.tv_sec).unwrap_or(0),
                u32::try_from(since_boot.tv_nsec).unwrap_or(0),
            ),
            wall: Timestamp::now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_counts_from_boot_and_never_goes_back() {
        let readings: Vec<Duration> = (0..1000).map(|_| SystemClock.now().monotonic).collect();
        assert!(readings.is_sorted(), "{readings:?}");
        assert!(readings[0] > Duration::ZERO);
    }
}
