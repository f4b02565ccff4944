//! What a daemon knows of the roles, and for how long it may be believed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Controller;
use crate::domain::{ComponentId, InstanceId, Now, ObserverId, RegionId};

/// Others are asked where the ledger has confirmed nothing for this part of `self_fence_after`, in percent.
const ASK_AFTER_PERCENT: u32 = 60;

/// Where each component is served.
pub type Roles = BTreeMap<ComponentId, BTreeSet<RegionId>>;

/// What is known of the roles, and until when it may be believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confirmed {
    /// When the question was sent whose answer confirmed it, monotonic; none before the first answer.
    pub at: Option<Duration>,
    /// Both clocks when that was said last: where they have jumped apart since, it says nothing.
    pub said: Option<Now>,
    /// The same as `at`, where the ledger itself confirmed it.
    pub by_ledger: Option<Duration>,
    /// Where each component is served.
    pub roles: Roles,
    /// Hash of the policy in force.
    pub policy: String,
    /// The databases that this daemon guards, as the ledger has it.
    pub guarded: BTreeSet<InstanceId>,
    /// When everything that had been confirmed was taken back last, monotonic.
    pub voided: Option<Duration>,
}

/// What a daemon knows of the roles, for the others (`GET /v1/roles`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Who says so.
    pub observer: ObserverId,
    /// Hash of the policy that it works by.
    pub policy: String,
    /// Where each component is served.
    pub roles: Roles,
}

impl Confirmed {
    /// Whether `region` serves `component`, for sure, no longer than `within` ago.
    pub fn serves(&self, region: &RegionId, component: &ComponentId, within: Duration, now: Now) -> bool {
        self.is_fresh(within, now) && self.roles.get(component).is_some_and(|regions| regions.contains(region))
    }

    /// Whether what is known is for sure, no longer than `within` ago.
    pub(crate) fn is_fresh(&self, within: Duration, now: Now) -> bool {
        let is_steady = || self.said.is_some_and(|said| now.jumped_since(said).is_none());
        self.at.is_some_and(|at| now.monotonic.saturating_sub(at) <= within) && is_steady()
    }

    /// What is known now; `by_ledger` where that was confirmed once more. Returns whether anything is new.
    pub fn confirm(&mut self, next: Self, now: Now) -> bool {
        let by_ledger = self.by_ledger.max(next.by_ledger);
        let at = self.at.max(by_ledger);
        let next = Self { at, by_ledger, said: Some(now), voided: self.voided, ..next };
        let is_news = *self != next;
        *self = next;
        is_news
    }

    /// Every other daemon knows of the same roles; `asked` is when they were. An answer that was under way while everything
    /// was taken back, or while the machine stood still, confirms nothing.
    pub fn promised(&mut self, asked: Now, now: Now) {
        let is_void = self.voided.is_some_and(|voided| voided >= asked.monotonic);
        if !is_void && now.jumped_since(asked).is_none() {
            self.at = self.at.max(Some(asked.monotonic));
        }
    }

    /// Nothing is confirmed any more.
    pub fn void(&mut self, now: Now) {
        (self.at, self.by_ledger, self.voided) = (None, None, Some(now.monotonic));
    }

    /// For how long the ledger has confirmed nothing, where that is long enough to ask the others; none where it never has,
    /// so that there is nothing to keep.
    pub fn is_to_be_promised(&self, within: Duration, now: Now) -> Option<Duration> {
        let age = now.monotonic.saturating_sub(self.by_ledger?);
        (age >= within * ASK_AFTER_PERCENT / 100).then_some(age)
    }

    /// What `observer`, whose knowledge this is, tells the others.
    pub fn known(&self, observer: &ObserverId) -> Known {
        Known { observer: observer.clone(), policy: self.policy.clone(), roles: self.roles.clone() }
    }
}

impl Known {
    /// Whether `said` means the same, by whoever says so; else what is different.
    ///
    /// # Errors
    /// The difference, as a clause after the other's name.
    pub fn agrees(&self, said: &Self) -> Result<(), &'static str> {
        if said.policy != self.policy {
            return Err("works by another configuration");
        }
        if said.roles != self.roles {
            return Err("knows of other roles");
        }
        Ok(())
    }
}

impl Controller {
    /// Where each component is served, according to the durable facts.
    pub fn roles(&self) -> Roles {
        let mut roles = Roles::new();
        for (component, policy) in &self.policy.components {
            let serving = policy.regions.iter().filter(|region| self.serves(region, component));
            let serving: BTreeSet<RegionId> = serving.cloned().collect();
            if !serving.is_empty() {
                roles.insert(component.clone(), serving);
            }
        }
        roles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now {
            monotonic: Duration::from_secs(seconds),
            wall: jiff::Timestamp::UNIX_EPOCH + Duration::from_secs(seconds),
        }
    }

    #[test]
    fn a_promise_that_was_under_way_when_everything_was_taken_back_confirms_nothing() {
        let mut confirmed = Confirmed::default();
        confirmed.confirm(Confirmed { by_ledger: Some(at(100).monotonic), ..Confirmed::default() }, at(100));
        confirmed.promised(at(108), at(109));
        assert_eq!(confirmed.at, Some(at(108).monotonic));
        confirmed.void(at(110));
        confirmed.promised(at(110), at(111));
        assert_eq!(confirmed.at, None);
        confirmed.confirm(Confirmed::default(), at(111));
        confirmed.promised(at(112), at(113));
        assert_eq!(confirmed.at, Some(at(112).monotonic));
    }

    #[test]
    fn a_promise_that_outlasted_a_suspended_machine_confirms_nothing() {
        let mut confirmed = Confirmed::default();
        let woken = Now { wall: at(3700).wall, ..at(101) };
        confirmed.promised(at(100), woken);
        assert_eq!(confirmed.at, None);
    }
}
