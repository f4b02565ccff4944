//! What was seen and has to survive a restart.

use super::Fact;
use super::controller::{Draft, active};

impl Draft<'_> {
    /// Records what has to survive a restart: who was seen alive, who is suspected.
    pub(super) fn remember_sightings(&mut self) {
        for instance in std::mem::take(&mut self.soft.newly_seen) {
            let fingerprint = self
                .policy
                .components
                .get(&instance.component)
                .and_then(|component| component.fingerprints.get(&instance.region))
                .cloned()
                .unwrap_or_default();
            // Whoever led when it was first seen may have recorded it.
            if self.hard.seen_alive.get(&instance) == Some(&fingerprint) {
                continue;
            }
            self.record(Fact::SeenAlive { instance, fingerprint });
        }
        let now = self.now;
        let mut found = Vec::new();
        for (id, watch) in self.soft.watches.restless() {
            let is_suspected = self.hard.suspicions.contains_key(id);
            if is_suspected && watch.has_recovered(&self.soft.limits, now.monotonic) {
                found.push(Fact::SuspicionCleared { instance: id.clone() });
            } else if !is_suspected
                && let Some(since) = watch.suspect_since(&self.soft.limits, now.monotonic)
                && active(self.policy, &self.hard, id)
            {
                found.push(Fact::SuspicionRaised {
                    instance: id.clone(),
                    since: self.wall_at(since),
                    why: watch.why(now.monotonic),
                    positions: watch.positions.recorded(),
                });
            }
        }
        for fact in found {
            self.record(fact);
        }
    }
}
