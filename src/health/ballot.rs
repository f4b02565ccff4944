//! What an observer publishes to the others: its verdicts, and about what it abstains.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Sighted;
use crate::decide::VerdictKind;
use crate::domain::time::friendly;
use crate::domain::{ComponentId, InstanceId, ObserverId, RegionId};

/// One observer's current verdicts.
///
/// Fields that a reader does not know are left alone: daemons are upgraded one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    /// Whose.
    pub observer: ObserverId,
    /// Its vantage point: observers in one region have one vote together.
    pub region: RegionId,
    /// When this run of the observer began; with `sequence` it names the ballot.
    pub run: Timestamp,
    /// Rises with every publication. A reader takes a ballot for fresh by seeing this change, on its own clock.
    pub sequence: u64,
    /// Hash of the policy that it judges by; ballots cast by another policy do not count.
    pub policy: String,
    /// It says nothing about anything, for this reason: halted, or starved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abstains: Option<String>,
    /// Regions about which it says nothing, because nobody outside vouches for its view of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub doubts: BTreeMap<RegionId, String>,
    /// What is not simply well. An instance that is not named answers, and has done so for long enough.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub views: BTreeMap<InstanceId, View>,
    /// Where the logs of the databases that serve stood when this observer saw them last. Not in every ballot.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub log: BTreeMap<InstanceId, Sighted>,
    /// Roles that this observer knows to be taken away from a region that the placement still names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub revoked: BTreeMap<ComponentId, RegionId>,
    /// How many times a role was taken away, as far as this observer knows. It tells one taking from the next.
    #[serde(default)]
    pub revocations: u64,
    /// Databases with a guardian beside this observer, which makes them refuse writes where their role is not confirmed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub guards: BTreeSet<InstanceId>,
}

/// How one instance looks to an observer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// In a word.
    pub verdict: VerdictKind,
    /// Failing for how long, while its own network was vouched for, when the ballot was cast.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "friendly::option")]
    pub failing_for: Option<Duration>,
    /// For how long it has written nothing, where that is longer: this observer, or the run of it before, has seen it fail
    /// before.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "friendly::option")]
    pub silent_for: Option<Duration>,
    /// How long before the ballot was cast it answered last; none where this run of the observer never saw it answer.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "friendly::option")]
    pub answered_ago: Option<Duration>,
    /// The evidence, in words.
    pub why: String,
}

/// What an observer says of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opinion {
    /// It has been failing for this long.
    Fails(Duration),
    /// It answers.
    Answers {
        /// And has done so for long enough to be called well.
        is_well: bool,
    },
    /// Nothing can be said, for this reason.
    Unsure(String),
}

impl Ballot {
    /// Whether nothing is another one but its number, and where logs stand.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        self.region == other.region
            && self.policy == other.policy
            && self.abstains == other.abstains
            && self.doubts == other.doubts
            && self.views == other.views
            && self.guards == other.guards
            && self.revoked == other.revoked
            && self.revocations == other.revocations
    }

    /// What it says of `instance`.
    pub fn opinion(&self, instance: &InstanceId) -> Opinion {
        if let Some(why) = &self.abstains {
            return Opinion::Unsure(why.clone());
        }
        match self.views.get(instance) {
            None => Opinion::Answers { is_well: true },
            Some(view) => view.opinion(self.doubts.get(&instance.region)),
        }
    }
}

impl View {
    /// The same for an observer that doubts its view of the instance's region for the given reason.
    pub fn opinion(&self, doubt: Option<&String>) -> Opinion {
        match (self.verdict, self.failing_for, doubt) {
            (VerdictKind::Failing, Some(lasting), None) => Opinion::Fails(lasting),
            (VerdictKind::Failing, _, Some(doubt)) => Opinion::Unsure(doubt.clone()),
            (VerdictKind::Failing, None, None) | (VerdictKind::Suspect | VerdictKind::Unknown, _, _) => {
                Opinion::Unsure(self.why.clone())
            }
            // What answers is alive, however little the one who asks is vouched for.
            (VerdictKind::Alive | VerdictKind::Degraded, _, _) => Opinion::Answers { is_well: true },
            (VerdictKind::Recovering, _, _) => Opinion::Answers { is_well: false },
        }
    }
}
