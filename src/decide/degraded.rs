//! Level 3: what is only partly there, and whether sending a share of the clients elsewhere would help.

use std::collections::BTreeMap;
use std::time::Duration;

use super::controller::Draft;
use super::incident::{Incident, PartState};
use super::judge::Candidate;
use super::{Fact, Guard, GuardKind, StepState};
use crate::domain::{InstanceId, Kind, RegionId, time::human};
use crate::plan::{Action, Part, Planned};

impl Draft<'_> {
    /// What matters and serves, and has been partly available for too long. What fails all the time is another matter.
    pub(super) fn degraded(&self) -> BTreeMap<InstanceId, Duration> {
        let limit = self.policy.degradation.after;
        self.soft
            .watches
            .restless()
            .filter(|(_, watch)| watch.matters)
            .filter_map(|(id, watch)| Some((id, watch, watch.degraded_for(self.now.monotonic)?)))
            .filter(|(_, _, lasting)| *lasting >= limit)
            .filter(|(id, watch, _)| {
                self.is_active(id) && self.failing_as_watched(id, watch).is_none_or(|failing| failing < limit)
            })
            .map(|(id, _, lasting)| (id.clone(), lasting))
            .collect()
    }

    /// What answers the clients of the region and is only partly there, with for how long: a service that is slow or fails
    /// now and then, a cluster whose workloads lack replicas. An API server that is slow is nothing that clients notice.
    pub(super) fn degraded_for_clients(&self, region: &RegionId) -> BTreeMap<InstanceId, Duration> {
        let now = self.now.monotonic;
        let mut degraded = BTreeMap::new();
        let restless = self.soft.watches.restless();
        for (id, watch) in restless.filter(|(id, watch)| watch.answers_clients && id.region == *region) {
            if !self.is_active(id) || self.failing_as_watched(id, watch).is_some() {
                continue;
            }
            let lasting = match watch.kind {
                Kind::Kubernetes => watch.short_workloads(now).map(|(_, since)| now.saturating_sub(since)).max(),
                Kind::Http
                | Kind::Database
                | Kind::Cache
                | Kind::Storage
                | Kind::Cloud
                | Kind::Traffic
                | Kind::Holdings => watch.degraded_for(now),
            };
            if let Some(lasting) = lasting {
                degraded.insert(id.clone(), lasting);
            }
        }
        degraded
    }

    fn answering_clients(&self, region: &RegionId) -> impl Iterator<Item = (InstanceId, Kind)> {
        self.policy
            .components
            .iter()
            .filter(|(_, policy)| policy.answers_clients() && policy.regions.contains(region))
            .map(|(component, policy)| {
                (InstanceId { component: component.clone(), region: region.clone() }, policy.kind)
            })
            .filter(|(id, _)| self.is_active(id))
    }

    /// A share of the clients would be better off elsewhere. Where a row or the region is full, those go first.
    pub(super) fn rerouting(&self, region: &RegionId, others: &[Candidate]) -> Option<Candidate> {
        if self.policy.degradation.reroute_percent == 0 || !self.has_traffic(region) {
            return None;
        }
        if others.iter().any(|other| other.source == *region && other.is_full()) {
            return None;
        }
        let lasting = self.degraded_for_clients(region).into_values().max()?;
        Some(Candidate {
            source: region.clone(),
            part: Part::Reroute,
            failing_for: lasting,
            after: self.policy.degradation.after,
            since: self.now.monotonic.saturating_sub(lasting),
            missing: None,
        })
    }

    pub(super) fn has_traffic(&self, region: &RegionId) -> bool {
        self.soft.records.iter().any(|record| self.hard.placement.get(record) == Some(region))
    }

    /// Since when everything that answers the clients of the region has been well.
    pub(super) fn clients_well_since(&self, region: &RegionId) -> Option<Duration> {
        let now = self.now.monotonic;
        let since = self.answering_clients(region).map(|(id, kind)| {
            let watch = self.soft.watches.get(&id)?;
            match kind {
                Kind::Kubernetes => watch.workloads_well_since(now).filter(|_| watch.is_answering(now)),
                Kind::Http
                | Kind::Database
                | Kind::Cache
                | Kind::Storage
                | Kind::Cloud
                | Kind::Traffic
                | Kind::Holdings => watch.well_since(now),
            }
        });
        since.collect::<Option<Vec<_>>>().map(|since| since.into_iter().max().unwrap_or_default())
    }

    /// Why clients would be no better off at the standby.
    pub(super) fn useless_rerouting(&self, source: &RegionId) -> Vec<Guard> {
        let mut guards = Vec::new();
        let Some(target) = self.target_of(source, &Part::Reroute) else { return guards };
        let guard =
            |evidence: String, lifted_by: String| Guard { kind: GuardKind::TargetNotReady, evidence, lifted_by };
        for (component, policy) in &self.policy.components {
            let at = |region: &RegionId| InstanceId { component: component.clone(), region: region.clone() };
            let (here, there) = (at(source), at(&target));
            if !self.is_active(&here) || !policy.regions.contains(source) {
                continue;
            }
            let is_well = |id: &InstanceId| {
                let since = self.soft.watches.get(id).and_then(|watch| watch.well_since(self.now.monotonic));
                since.is_some_and(|since| self.now.monotonic.saturating_sub(since) >= self.policy.recover_for)
            };
            match policy.kind {
                // Wherever the clients are, their data stays where it is.
                Kind::Database | Kind::Cache | Kind::Storage if policy.critical && !is_well(&here) => {
                    guards.push(guard(
                        format!("clients in {target} need {here} as well, and it is not well itself"),
                        format!("{here} being well, or its own row"),
                    ))
                }
                Kind::Kubernetes | Kind::Http if policy.regions.contains(&target) => {
                    let sick = self.why_unready(&there, true).or_else(|| {
                        let watch = self.soft.watches.get(&there).filter(|_| policy.kind == Kind::Http)?;
                        (!is_well(&there)).then(|| match watch.degraded_for(self.now.monotonic) {
                            Some(lasting) => format!("it has been only partly available for {}", human(lasting)),
                            None => "it has not been well for long enough".to_owned(),
                        })
                    });
                    if let Some(sick) = sick {
                        guards.push(guard(format!("{there}: {sick}"), format!("{there} answering and being well")));
                    }
                }
                Kind::Kubernetes
                | Kind::Http
                | Kind::Database
                | Kind::Cache
                | Kind::Storage
                | Kind::Cloud
                | Kind::Holdings
                | Kind::Traffic => {}
            }
        }
        guards
    }

    /// A part that has done what it can and ends only when its region is well again.
    pub(super) fn awaits_recovery(&self, incident: &Incident) -> bool {
        incident.plan.parts.get(&Part::Reroute) == Some(&PartState::Open) && self.has_traffic(&incident.source)
    }

    /// What of a rerouting is given up because all of the traffic moves: what has not begun is not done any more, and
    /// what failed is nobody's concern. What has begun stays, and the traffic moves on from there.
    pub(super) fn give_up_share(&mut self, incident: &Incident, joined: &Planned) {
        if !joined.steps.iter().any(|step| matches!(step.action, Action::Traffic { .. })) {
            return;
        }
        let plan = incident.plan.id.clone();
        for step in incident.plan.steps.iter().filter(|step| step.part == Part::Reroute) {
            let is_of_share = matches!(step.action, Action::Traffic { .. } | Action::Verified { .. });
            let is_open = matches!(incident.plan.state(&step.id), StepState::Waiting | StepState::Failed);
            if !is_of_share || !is_open {
                continue;
            }
            let (plan, step) = (plan.clone(), step.id.clone());
            if joined.shares.contains_key(&step) {
                self.record(Fact::StepOwed { plan, step, why: "all of the traffic moves".to_owned() });
            } else {
                self.record(Fact::StepCancelled { plan, step });
            }
        }
    }

    /// What is done about a degraded instance, for people.
    pub(super) fn told_of_degraded(&self, id: &InstanceId) -> String {
        let answers_clients = self.policy.components.get(&id.component).is_some_and(|c| c.answers_clients());
        let is_eased = self.hard.open_incidents().any(|incident| {
            incident.source == id.region && !incident.plan.is_unwinding() && self.awaits_recovery(incident)
        });
        match answers_clients && is_eased {
            true => {
                let percent = self.policy.degradation.reroute_percent;
                format!("{percent} % of the clients are sent elsewhere until it is well")
            }
            false => "that is no outage, and nothing is moved".to_owned(),
        }
    }

    /// What is to be done about a region whose clients are partly served, and why.
    pub(super) fn told_of_rerouting(&self, source: &RegionId) -> String {
        let degraded = self.degraded_for_clients(source);
        let names: Vec<String> = degraded.iter().map(|(id, lasting)| format!("{id} for {}", human(*lasting))).collect();
        if names.is_empty() {
            return format!("the clients of {source} are only partly served");
        }
        format!("the clients of {source} are only partly served ({})", names.join(", "))
    }
}
