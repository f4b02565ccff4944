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

    /// The right to perform the effects of this frame for `lasting` from `now` on, and never beyond the lease: after
    /// that another daemon may lead.
    pub fn permit(self, now: Now, lasting: Duration) -> Permit {
        Permit { not_after: now.monotonic.saturating_add(lasting).min(self.until), epoch: self.epoch }
    }
}

/// The right to send mutating calls, until `not_after`. Made only from a durable append.
///
/// It can be cloned because one frame may start several steps.
#[derive(Debug, Clone)]
pub struct Permit {
    not_after: Duration,
    epoch: u64,
}

/// A permit that ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the permit to act ran out before the call was sent")]
pub struct PermitExpired;

impl Permit {
    /// A permit without an append, for tests that call an actuator directly. Nothing in `src` may use it.
    #[doc(hidden)]
    pub fn for_tests(not_after: Duration) -> Self {
        Self { not_after, epoch: 0 }
    }

    /// The same right for longer: the facts stay durable, and `lease` shows that their epoch still leads.
    ///
    /// A step takes minutes and a permit seconds. None where another epoch leads or the lease ran out.
    pub fn renewed(&self, lease: &Lease, now: Now, lasting: Duration) -> Option<Self> {
        let not_after = now.monotonic.saturating_add(lasting).min(lease.until);
        (lease.epoch == self.epoch && not_after > now.monotonic).then_some(Self { not_after, epoch: self.epoch })
    }

    /// The epoch that the facts were recorded in.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// To be called before every single attempt of a mutating call; the rest is how long that call may take.
    pub fn time_left(&self, now: Now) -> Result<Duration, PermitExpired> {
        match self.not_after.checked_sub(now.monotonic) {
            Some(left) if !left.is_zero() => Ok(left),
            Some(_) | None => Err(PermitExpired),
        }
    }
}
