//! Level 4: workloads that lack replicas while their cluster answers, and when they are well again.

use std::time::Duration;

use super::controller::Draft;
use super::incident::{Incident, PartState};
use super::judge::Candidate;
use super::{Effect, Fact, StepState};
use crate::domain::{ComponentId, IncidentId, InstanceId, RegionId};
use crate::plan::{Action, Part, Planned, Step};

impl Draft<'_> {
    /// Workloads of the clusters that serve which have had too few ready replicas, as long as the clusters say so.
    pub(super) fn ailing_workloads(&self) -> Vec<Candidate> {
        if !self.policy.healing.enabled {
            return Vec::new();
        }
        let mut ailing = Vec::new();
        for id in self.soft.clusters.iter().filter(|id| self.is_active(id) && self.is_answering(id)) {
            let Some(watch) = self.soft.watches.get(id) else { continue };
            for (workload, since) in watch.short_workloads(self.now.monotonic) {
                ailing.push(Candidate {
                    source: id.region.clone(),
                    part: Part::Healing { cluster: id.component.clone(), workload: workload.to_owned() },
                    failing_for: self.now.monotonic.saturating_sub(since),
                    after: self.policy.healing.after,
                    since,
                    missing: None,
                });
            }
        }
        ailing
    }

    /// Since when the workload has had as many ready replicas as it needs.
    pub(super) fn healed_since(&self, source: &RegionId, cluster: &ComponentId, workload: &str) -> Option<Duration> {
        let id = InstanceId { component: cluster.clone(), region: source.clone() };
        self.soft.watches.get(&id)?.workload_well_since(workload, self.now.monotonic)
    }

    /// The step would restart a workload that is not known to lack anything right now: nothing is done about that.
    pub(super) fn is_needless(&self, incident: &Incident, step: &Step) -> bool {
        match &step.part {
            Part::Healing { cluster, workload } => {
                let id = InstanceId { component: cluster.clone(), region: incident.source.clone() };
                let watch = self.soft.watches.get(&id);
                let is_short = watch
                    .is_some_and(|watch| watch.short_workloads(self.now.monotonic).any(|(short, _)| short == workload));
                matches!(step.action, Action::RolledOut { .. })
                    && incident.plan.state(&step.id) == StepState::Waiting
                    && !is_short
            }
            Part::Component(_) | Part::Region | Part::Reroute | Part::Zone { .. } | Part::Rejoin { .. } => false,
        }
    }

    /// What was seen of a workload before it was mended says nothing any more.
    pub(super) fn forget_what_ailed(&mut self, source: &RegionId, part: &Part) {
        if let Part::Healing { cluster, workload } = part
            && let Some(watch) =
                self.soft.watches.get_mut(&InstanceId { component: cluster.clone(), region: source.clone() })
        {
            watch.forget_workload(workload, self.now.monotonic);
        }
    }

    /// What is mended where it is ends when it is well again, whoever mended it: what was still to be done is not.
    pub(super) fn finish_what_healed(&mut self, id: &IncidentId) {
        let Some(incident) = self.incident(id).cloned() else { return };
        for (part, _) in incident.plan.parts.iter().filter(|(_, state)| **state == PartState::Open) {
            let since = match part {
                Part::Healing { cluster, workload } => self.healed_since(&incident.source, cluster, workload),
                Part::Zone { cluster, zone } => self.lit_since(&incident.source, cluster, zone),
                Part::Component(_) | Part::Region | Part::Reroute | Part::Rejoin { .. } => None,
            };
            let Some(since) = since else { continue };
            let at = since + self.policy.recover_for;
            if at > self.now.monotonic {
                self.wake(at, "what was mended has been well for long enough");
                continue;
            }
            self.give_up(&incident, |step| step.part == *part);
        }
    }

    /// Nothing is mended in a place that is left, and nobody waits for what was under way there.
    pub(super) fn give_up_healing(&mut self, incident: &Incident, joined: &Part, planned: &Planned) {
        let is_given_up = |step: &Step| {
            let is_left = match (&step.part, joined) {
                (Part::Healing { .. } | Part::Zone { .. }, Part::Region) => true,
                (Part::Healing { cluster, .. } | Part::Zone { cluster, .. }, Part::Component(left)) => cluster == left,
                (_, _) => false,
            };
            is_left && !planned.shares.contains_key(&step.id)
        };
        self.give_up(incident, is_given_up);
        let plan = &incident.plan;
        for step in plan.steps.iter().filter(|step| is_given_up(step)) {
            let key = (plan.id.clone(), step.id.clone());
            if plan.state(&step.id) == StepState::Running && self.soft.cancelled.insert(key.clone()) {
                self.perform(Effect::Cancel { plan: key.0, step: key.1 });
            }
        }
    }

    fn give_up(&mut self, incident: &Incident, which: impl Fn(&Step) -> bool) {
        let plan = &incident.plan;
        let is_open = |step: &&Step| matches!(plan.state(&step.id), StepState::Waiting | StepState::Failed);
        for step in plan.steps.iter().filter(is_open).filter(|step| which(step)) {
            self.record(Fact::StepCancelled { plan: plan.id.clone(), step: step.id.clone() });
        }
    }

    /// What is the matter with a workload, for people.
    pub(super) fn told_of_healing(&self, source: &RegionId, cluster: &ComponentId, workload: &str) -> String {
        let id = InstanceId { component: cluster.clone(), region: source.clone() };
        let needed = self
            .policy
            .components
            .get(cluster)
            .and_then(|of| of.workloads.iter().find(|of| of.name == workload))
            .map_or(0, |of| of.active);
        let seen = self.soft.watches.get(&id).map(|watch| watch.evidence.workloads.as_slice()).unwrap_or_default();
        match seen.iter().find(|seen| seen.name == workload) {
            Some(seen) => format!("{workload} of {id} has {} of {needed} replicas ready", seen.ready),
            None => format!("{workload} of {id} has too few replicas ready"),
        }
    }
}
