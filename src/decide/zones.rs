//! Level 2: a zone whose nodes are all gone while other zones have some, and when it is over.

use std::time::Duration;

use super::controller::Draft;
use super::incident::{Incident, PartState};
use super::judge::Candidate;
use crate::domain::{ComponentId, InstanceId, RegionId};
use crate::plan::Part;

impl Draft<'_> {
    /// Zones of the clusters that serve in which no node is ready, while a node of another zone is.
    pub(super) fn dark_zones(&self) -> Vec<Candidate> {
        if !self.policy.zones.enabled {
            return Vec::new();
        }
        let now = self.now.monotonic;
        let mut dark = Vec::new();
        for id in self.soft.clusters.iter().filter(|id| self.is_active(id) && self.is_answering(id)) {
            let Some(watch) = self.soft.watches.get(id).filter(|watch| watch.has_lit_zone(now)) else { continue };
            for (zone, since) in watch.dark_zones(now) {
                dark.push(Candidate {
                    source: id.region.clone(),
                    part: Part::Zone { cluster: id.component.clone(), zone: zone.to_owned() },
                    failing_for: now.saturating_sub(since),
                    after: self.policy.zones.after,
                    since,
                    missing: None,
                });
            }
        }
        dark
    }

    /// Since when a node of the zone has been ready again.
    pub(super) fn lit_since(&self, source: &RegionId, cluster: &ComponentId, zone: &str) -> Option<Duration> {
        let id = InstanceId { component: cluster.clone(), region: source.clone() };
        self.soft.watches.get(&id)?.zone_lit_since(zone, self.now.monotonic)
    }

    /// A zone is still down, or what matters in its region is not well yet: the incident goes on, although everything that
    /// could be done is done.
    pub(super) fn awaits_zone(&self, incident: &Incident) -> bool {
        let now = self.now.monotonic;
        let is_over =
            |since: Option<Duration>| since.is_some_and(|since| now.saturating_sub(since) >= self.policy.recover_for);
        let mut zones = incident.plan.parts.iter().filter(|(_, state)| **state == PartState::Open);
        let has_left = |cluster: &ComponentId| self.hard.placement.get(cluster) != Some(&incident.source);
        zones.any(|(part, _)| match part {
            Part::Zone { cluster, zone } => {
                let lit = self.lit_since(&incident.source, cluster, zone);
                // Pods that are still missing then have another reason, and are healed for that.
                let is_explained = lit.is_some_and(|lit| now.saturating_sub(lit) < self.policy.healing.after);
                let cluster = InstanceId { component: cluster.clone(), region: incident.source.clone() };
                let mut ailing = self.ailing_instances(&incident.source).into_iter();
                !has_left(&cluster.component) && (!is_over(lit) || ailing.any(|id| is_explained || id != cluster))
            }
            Part::Component(_) | Part::Region | Part::Reroute | Part::Healing { .. } | Part::Rejoin { .. } => false,
        })
    }

    /// What matters in the region and is not well: a database that fails over to another zone by itself is waited for.
    fn ailing_instances(&self, region: &RegionId) -> Vec<InstanceId> {
        let now = self.now.monotonic;
        let is_ailing = |id: &InstanceId| {
            let Some(watch) = self.soft.watches.get(id) else { return false };
            watch.well_since(now).is_none_or(|since| now.saturating_sub(since) < self.policy.recover_for)
        };
        self.critical_in(region).into_iter().filter(is_ailing).collect()
    }

    /// The same in words.
    pub(super) fn ailing_in(&self, region: &RegionId) -> Vec<String> {
        let why = |id: &InstanceId| self.soft.watches.get(id).map(|watch| watch.why(self.now.monotonic));
        let ailing = self.ailing_instances(region).into_iter();
        ailing.map(|id| format!("{id}: {}", why(&id).unwrap_or_default())).collect()
    }

    /// How it stands with a zone, for people.
    pub(super) fn told_of_zone(&self, source: &RegionId, cluster: &ComponentId, zone: &str) -> String {
        let told = match self.lit_since(source, cluster, zone) {
            Some(_) => format!("zone {zone} of {source} has ready nodes again"),
            None => format!("no node of zone {zone} of {cluster}@{source} is ready, and those of other zones are"),
        };
        let ailing = self.ailing_in(source);
        if ailing.is_empty() { told } else { format!("{told}; not well: {}", ailing.join(", ")) }
    }

    /// A zone that is down, and everything that could be done about it is done.
    pub(super) fn told_of_waiting(&self, incident: &Incident) -> Option<String> {
        let zone = incident.plan.parts.iter().find_map(|(part, state)| match part {
            Part::Zone { cluster, zone } if *state == PartState::Open => Some((cluster, zone)),
            Part::Zone { .. }
            | Part::Component(_)
            | Part::Region
            | Part::Reroute
            | Part::Healing { .. }
            | Part::Rejoin { .. } => None,
        });
        let (cluster, zone) = zone?;
        let told = self.told_of_zone(&incident.source, cluster, zone);
        Some(format!("{}: {told}; everything runs in the zones that are left", incident.id))
    }
}
