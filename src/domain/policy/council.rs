//! Those who decide together, and how a region that they left behind stops by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::time::friendly;
use crate::domain::{ObserverId, RegionId};

/// Several observers that decide together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CouncilPolicy {
    /// Every observer and where it stands, this one too. Empty where there is only one.
    pub observers: BTreeMap<ObserverId, RegionId>,
    /// How many regions have to say the same; none means a majority of those with observers.
    pub votes: Option<u32>,
    /// A ballot that has not changed for this long does not count.
    #[serde(with = "friendly")]
    pub ballot_fresh: Duration,
    /// For so long an observer inside a region that sees it alive forbids leaving it; after that a person is asked.
    #[serde(with = "friendly")]
    pub witness_hold: Duration,
    /// A new leader waits this long before it acts: the longest mutating call that the former one may have under way.
    #[serde(with = "friendly")]
    pub takeover_wait: Duration,
}

impl CouncilPolicy {
    /// There is nobody else.
    pub fn is_alone(&self) -> bool {
        self.observers.len() < 2
    }

    /// The regions that have a vote.
    pub fn regions(&self) -> BTreeSet<&RegionId> {
        self.observers.values().collect()
    }

    /// How many regions have to say the same.
    pub fn needed(&self) -> usize {
        let regions = self.regions().len();
        let majority = regions / 2 + 1;
        self.votes.map_or(majority, |votes| usize::try_from(votes).unwrap_or(majority)).clamp(1, regions.max(1))
    }
}

/// Roles: a region that is cut off stops by itself, and everybody else knows by when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolePolicy {
    /// A role is answered for no longer than this after the question was sent whose answer confirmed it.
    #[serde(with = "friendly")]
    pub self_fence_after: Duration,
    /// Whoever asks for a role asks again within this.
    #[serde(with = "friendly")]
    pub check_period: Duration,
}

impl RolePolicy {
    /// How long after a role was taken away, durably, somebody may still act by it; with `demotion` to make a database
    /// refuse writes. Five per cent more than that: no two clocks are equally fast, and
    /// one may be two per cent too fast while the other is as much too slow.
    pub fn wait(&self, demotion: Duration) -> Duration {
        (self.self_fence_after + self.check_period + demotion) * 105 / 100
    }
}
