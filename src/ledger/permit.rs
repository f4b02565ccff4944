//! Facts before effects, as types: only a ledger makes a [`Durable`], only a [`Durable`] makes a [`Permit`], and
//! every mutating call wants a permit. The wrong order does not compile.

use std::time::Duration;

use crate::domain::Now;
use crate::ports::Lease;

/// Proof that a frame is durable. Made by a successful append and by nothing else.
#[must_use = "the frame is durable and nothing was done about it; turn it into a permit, or drop it on purpose"]
#[derive(Debug)]
pub struct Durable {
    index: u64,
    epoch: u64,
    /// End of the lease as it was known when the frame was recorded.
    until: Duration,
}

impl Durable {
    /// To be called by a ledger, once the frame will survive whatever happens to this machine.
    pub(in crate::ledger) fn recorded(index: u64, lease: &Lease) -> Self {
        Self { index, epoch: lease.epoch, until: lease.until }
    }

    /// Which frame.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The right to perform the effects of this frame for `lasting` from when it was `decided`, and never beyond the lease:
    /// after that another daemon may lead.
    pub fn permit(self, decided: Now, lasting: Duration) -> Permit {
        let not_after = decided.monotonic.saturating_add(lasting).min(self.until);
        Permit { not_after, epoch: self.epoch, made: Some(decided) }
    }
}

/// The right to send mutating calls, until `not_after`. Made only from a durable append.
///
/// It can be cloned because one frame may start several steps.
#[derive(Debug, Clone)]
pub struct Permit {
    not_after: Duration,
    epoch: u64,
    /// By both clocks; none in tests.
    made: Option<Now>,
}

/// A permit that ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the permit to act ran out, or the clocks jumped, before the call was sent")]
pub struct PermitExpired;

impl Permit {
    /// A permit without an append, for tests that call an actuator directly. Nothing in `src` may use it.
    #[doc(hidden)]
    pub fn for_tests(not_after: Duration) -> Self {
        Self { not_after, epoch: 0, made: None }
    }

    /// The one permit without a fact: a guardian that makes the database beside it refuse writes. It has to do so just
    /// where no fact can be recorded; and what takes nothing but the right to write away needs no leave to do so.
    pub(crate) fn for_self_fencing(not_after: Duration) -> Self {
        Self { not_after, epoch: 0, made: None }
    }

    /// The same right for longer: the facts stay durable, and `lease` shows that their epoch still leads.
    ///
    /// A step takes minutes and a permit seconds. None where another epoch leads or the lease ran out.
    pub fn renewed(&self, lease: &Lease, now: Now, lasting: Duration) -> Option<Self> {
        let not_after = now.monotonic.saturating_add(lasting).min(lease.until);
        let made = Some(now);
        (lease.epoch == self.epoch && not_after > now.monotonic).then_some(Self { not_after, epoch: self.epoch, made })
    }

    /// The epoch that the facts were recorded in.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// To be called before every single attempt of a mutating call; the rest is how long that call may take.
    ///
    /// # Errors
    /// It ran out; or the clocks have jumped since it was made, and nobody knows how long ago that was.
    pub fn time_left(&self, now: Now) -> Result<Duration, PermitExpired> {
        if self.made.is_some_and(|made| now.jumped_since(made).is_some()) {
            return Err(PermitExpired);
        }
        match self.not_after.checked_sub(now.monotonic) {
            Some(left) if !left.is_zero() => Ok(left),
            Some(_) | None => Err(PermitExpired),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_is_void_once_the_clocks_have_jumped_apart() {
        let at = |monotonic, wall| Now {
            monotonic: Duration::from_secs(monotonic),
            wall: jiff::Timestamp::UNIX_EPOCH + Duration::from_secs(wall),
        };
        let lease = Lease { epoch: 4, until: Duration::from_secs(60) };
        let permit = Durable::recorded(7, &lease).permit(at(10, 1000), Duration::from_secs(30));
        assert_eq!(permit.time_left(at(20, 1010)), Ok(Duration::from_secs(20)));
        // The machine was suspended for a minute: by its own clock hardly any time has passed.
        assert_eq!(permit.time_left(at(20, 1070)), Err(PermitExpired));
        assert_eq!(permit.time_left(at(20, 950)), Err(PermitExpired));
    }
}
