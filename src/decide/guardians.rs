//! Who guards which database: what a guardian beside it makes refuse writes by itself needs no fence.

use std::time::Duration;

use super::Fact;
use super::controller::Draft;
use crate::domain::{InstanceId, Kind, ObserverId, RegionId, time::human};

/// An observer that is started again has a guardian within this. A database without one is told of after it.
const UNGUARDED_FOR: Duration = Duration::from_secs(60);

impl Draft<'_> {
    /// The database has fenced itself by the time that the wait for its role is over: a guardian that was beside it when
    /// it was heard of last does so without being told.
    pub(super) fn fences_itself(&self, database: &InstanceId) -> bool {
        self.policy.roles.is_some()
            && self.demotion(database).is_some()
            && !self.is_seen_answering(database)
            && self.hard.guardians.iter().any(|(observer, databases)| {
                databases.contains(database) && self.region_of(observer) == Some(&database.region)
            })
    }

    fn region_of(&self, observer: &ObserverId) -> Option<&RegionId> {
        if *observer == self.policy.observer {
            return Some(&self.policy.observer_region);
        }
        self.policy.council.observers.get(observer)
    }

    /// Records who guards what, while it can be heard: after that it is what a promotion relies on. An observer that has
    /// been silent for so long that its database was asked since, and answers, guards nothing any more.
    pub(super) fn remember_guardians(&mut self) {
        let own = self.policy.observer.clone();
        let mut found = vec![(own.clone(), self.soft.guarded.clone())];
        for observer in self.policy.council.observers.keys().filter(|observer| **observer != own) {
            let known = self.hard.guardians.get(observer);
            match self.soft.council.ballot(observer, self.rules(), self.now.monotonic) {
                Ok(ballot) => found.push((observer.clone(), ballot.guards.clone())),
                Err(_) => {
                    let is_left = |database: &&InstanceId| {
                        !self.is_seen_answering(database) || !self.was_asked_since_silent(observer, database)
                    };
                    let left = known.into_iter().flatten().filter(is_left);
                    found.push((observer.clone(), left.cloned().collect()));
                }
            }
        }
        for (observer, databases) in found {
            if self.hard.guardians.get(&observer).cloned().unwrap_or_default() != databases {
                self.record(Fact::GuardiansChanged { observer, databases });
            }
        }
    }

    /// What anybody says of the database was seen after the observer fell silent: the two are cut off together, and a ballot
    /// goes stale before a probe has failed.
    fn was_asked_since_silent(&self, observer: &ObserverId, database: &InstanceId) -> bool {
        let heard = self.soft.council.heard(observer).unwrap_or_default().max(self.soft.started_at);
        let gap = self.policy.components.get(&database.component).map(|policy| policy.probing.gap());
        // The others' ballots are as old as that, too.
        let since = self.policy.council.ballot_fresh * 2 + gap.unwrap_or_default();
        self.now.monotonic.saturating_sub(heard) >= since
    }

    /// Databases that serve and ought to have a guardian, and of which nobody tells that they have one.
    pub(super) fn watch_guardians(&mut self) {
        let ought = self.policy.of_kind(Kind::Database).filter(|(_, policy)| policy.demotion.is_some());
        let serving = ought.filter_map(|(component, _)| {
            let region = self.hard.placement.get(component)?;
            Some(InstanceId { component: component.clone(), region: region.clone() })
        });
        let has_guardian =
            |database: &InstanceId| self.hard.guardians.values().any(|guarded| guarded.contains(database));
        let is_ours = self.policy.roles.is_some() && !self.policy.council.is_alone();
        // One that is down is left, with or without a guardian.
        let is_bare = |database: &InstanceId| {
            let is_leaving = self.hard.revoked.contains_key(&database.component);
            !has_guardian(database) && !is_leaving && self.is_seen_answering(database)
        };
        let bare: Vec<InstanceId> = serving.filter(|database| is_ours && is_bare(database)).collect();
        let since = std::mem::take(&mut self.soft.unguarded_since);
        for database in bare {
            let since = since.get(&database).copied().unwrap_or(self.now.monotonic);
            if self.now.monotonic < since + UNGUARDED_FOR {
                self.wake(since + UNGUARDED_FOR, "a database that serves has no guardian");
            }
            self.soft.unguarded_since.insert(database, since);
        }
    }

    /// Those of which it has to be told, and how.
    pub(super) fn unguarded(&self) -> Vec<(InstanceId, String)> {
        let lasting = self.soft.unguarded_since.iter().filter_map(|(database, since)| {
            let lasting = self.now.monotonic.saturating_sub(*since);
            (lasting >= UNGUARDED_FOR).then_some((database, lasting))
        });
        let told = lasting.map(|(database, lasting)| {
            let region = &database.region;
            let text = format!(
                "no guardian beside {database} has been heard of for {}. If it runs, it makes the database REFUSE WRITES, whether \
                 or not that answers; if it does not, nothing would in a partition. Start failoverd in {region} again, or move \
                 the work: `failoverd failover {region}`",
                human(lasting)
            );
            (database.clone(), text)
        });
        told.collect()
    }
}
