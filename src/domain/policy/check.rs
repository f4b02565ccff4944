//! What has to be so where something is served.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::domain::{ComponentId, RegionId};

/// A check of the end state, run after a failover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckPolicy {
    /// Its name in the configuration.
    pub name: String,
    /// One line for people: what is expected.
    pub expects: String,
    /// Runs after the failover of these components; empty means only after a regional one.
    pub after: BTreeSet<ComponentId>,
    /// What it looks at, where that is one component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<ComponentId>,
}

impl CheckPolicy {
    /// The region that has to satisfy it: that of what it is about or runs after, or else the one that serves everything.
    /// None where several do.
    pub fn region_in<'p>(&self, placement: &'p BTreeMap<ComponentId, RegionId>) -> Option<&'p RegionId> {
        let about = self.about.iter().chain(&self.after).find_map(|component| placement.get(component));
        let serving: BTreeSet<&RegionId> = placement.values().collect();
        about.or(serving.first().copied().filter(|_| serving.len() == 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(about: Option<&str>, after: &[&str]) -> CheckPolicy {
        CheckPolicy {
            name: "it".to_owned(),
            expects: "it is so".to_owned(),
            after: after.iter().map(|component| ComponentId::from(*component)).collect(),
            about: about.map(ComponentId::from),
        }
    }

    #[test]
    fn a_check_is_run_where_what_it_is_about_is_served() {
        let placement = BTreeMap::from([("database".into(), "west".into()), ("kubernetes".into(), "east".into())]);
        let region = |check: &CheckPolicy| check.region_in(&placement).map(ToString::to_string);
        assert_eq!(region(&check(Some("database"), &[])).as_deref(), Some("west"));
        assert_eq!(region(&check(None, &["kubernetes"])).as_deref(), Some("east"));
        assert_eq!(region(&check(None, &[])), None, "two regions serve");
    }

    #[test]
    fn a_check_about_nothing_is_run_in_the_region_that_serves_everything() {
        let placement = BTreeMap::from([("database".into(), "west".into())]);
        assert_eq!(check(None, &[]).region_in(&placement).map(RegionId::as_str), Some("west"));
    }
}
