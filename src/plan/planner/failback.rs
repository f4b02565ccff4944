//! The way back: the region that takes the work back is told where everything is served meanwhile, gets a share of the
//! clients after the other, and then everything, as in any planned move.

use std::collections::BTreeSet;

use super::{Draft, NoPlan, Published, published_in};
use crate::domain::{InstanceId, Kind, ObjectKind, RegionId, StepId};
use crate::plan::Action;

impl Draft<'_> {
    /// What comes before everything moves, and can all be taken back. Returns what the move waits for.
    pub(super) fn stages(&mut self) -> Result<BTreeSet<StepId>, NoPlan> {
        let policy = self.situation.policy;
        let Some(target) = self.target_region().cloned() else { return Ok(BTreeSet::new()) };
        let mut ready = self.told(&target);
        let (scaled, serving) = self.ready_for_clients()?;
        ready.extend(scaled);
        let mut before = ready.clone();
        before.extend(self.verify_for(&serving, &ready, "-before-failback"));
        let records: Vec<_> = policy.of_kind(Kind::Traffic).filter(|(record, _)| self.is_served_here(record)).collect();
        for share in &policy.failback.stages {
            let mut moved = BTreeSet::new();
            for (record, of) in &records {
                let action = self.share_of(record, of, &target, *share);
                let id = self.need(format!("share-{share}-{record}"), action, before.clone(), policy.deadlines.traffic);
                self.edit(&id, |step| step.stage = Some(policy.failback.stage_for));
                moved.insert(id);
            }
            if !moved.is_empty() {
                before = moved;
            }
        }
        Ok(before)
    }

    /// While the region was away nobody told its clusters where everything had gone. One that serves clients knows.
    fn told(&mut self, target: &RegionId) -> BTreeSet<StepId> {
        let policy = self.situation.policy;
        let mut told = Vec::new();
        for (component, of) in &policy.components {
            if !self.is_served_here(component) {
                continue;
            }
            let serving = InstanceId { component: component.clone(), region: self.situation.source.clone() };
            let idle = |(cluster, _): &(InstanceId, _)| {
                cluster.region == *target
                    && self.situation.placement.get(&cluster.component) == Some(self.situation.source)
            };
            for (cluster, cluster_policy) in self.clusters().filter(idle).collect::<Vec<_>>() {
                for publication in &of.publications {
                    let id = format!(
                        "tell-{}-{}-{}{}",
                        publication.object.noun(),
                        publication.name,
                        publication.key,
                        self.suffix(&cluster)
                    );
                    let action = published_in(&cluster, cluster_policy, publication, &serving);
                    let step = self.need(id, action, BTreeSet::new(), policy.deadlines.publish);
                    let restart = publication.restart.clone();
                    told.push(Published { step, cluster: cluster.clone(), restart });
                }
            }
        }
        let mut ready: BTreeSet<StepId> = told.iter().map(|told| told.step.clone()).collect();
        // Nobody is served there yet.
        ready.extend(self.restart_as(&told, "before-failback", true));
        ready
    }

    /// Everybody is back: what stood in for the region waits again, and nothing is out of the ordinary any more
    /// (document: the standby's replica counts; "Enable detailed logging" and the monitoring of the incident end with it).
    pub(super) fn stand_down(&mut self, after: &BTreeSet<StepId>) {
        let deadlines = self.situation.policy.deadlines;
        let source = self.situation.source;
        for (cluster, policy) in self.clusters() {
            let suffix = self.suffix(&cluster);
            let mut steps = Vec::new();
            if cluster.region == *source {
                for workload in &policy.workloads {
                    let action = Action::Replicas {
                        cluster: cluster.clone(),
                        namespace: policy.namespace.clone(),
                        kind: workload.kind,
                        workload: workload.name.clone(),
                        replicas: workload.standby,
                        at_most: true,
                    };
                    steps.push((format!("stand-down-{}{suffix}", workload.name), action, deadlines.replicas));
                }
                for (name, key, value) in &policy.after_failover {
                    let action = Action::Restored {
                        cluster: cluster.clone(),
                        namespace: policy.namespace.clone(),
                        object: ObjectKind::ConfigMap,
                        name: name.clone(),
                        key: key.clone(),
                        replaces: value.clone(),
                    };
                    steps.push((format!("restore-{name}-{key}{suffix}"), action, deadlines.publish));
                }
                for (n, path) in policy.manifests.iter().enumerate() {
                    let action = Action::ManifestsRemoved { cluster: cluster.clone(), path: path.clone() };
                    steps.push((format!("remove-manifests-{}{suffix}", n + 1), action, deadlines.manifests));
                }
            }
            let action = Action::IncidentEnded {
                cluster: cluster.clone(),
                namespace: policy.namespace.clone(),
                incident: self.situation.incident.to_string(),
            };
            steps.push((format!("end-declaration{suffix}"), action, deadlines.declare));
            for (id, action, deadline) in steps {
                let id = self.need(id, action, after.clone(), deadline);
                // The work is back already: what cannot be tidied up over there is told, and holds nothing open.
                self.edit(&id, |step| step.best_effort = cluster.region == *source);
            }
        }
    }
}
