//! Level 2: one zone of the region is down, and everything runs in the others.

use std::collections::BTreeSet;

use super::{Draft, NoPlan, Planned};
use crate::domain::{ComponentId, InstanceId, Kind};
use crate::plan::Action;

impl Draft<'_> {
    /// The secondary zone is activated by the cloud itself: Kubernetes moves the pods, RDS Multi-AZ the database. What is
    /// left is to ask for as many replicas as there should be, to wait until they are ready in the zones that are left, and
    /// to run the checks there. All of it can be undone, and none of it is in the way of a row.
    pub(super) fn withstand(mut self, cluster: &ComponentId, zone: &str) -> Result<Planned, NoPlan> {
        let policy = self.situation.policy;
        let source = self.situation.source;
        let Some(of) = policy.components.get(cluster).filter(|of| of.kind == Kind::Kubernetes) else {
            return Err(NoPlan::NothingThere(source.clone()));
        };
        let at = InstanceId { component: cluster.clone(), region: source.clone() };
        let suffix = self.suffix(&at);
        let mut ready = BTreeSet::new();
        for workload in &of.workloads {
            let action = Action::Replicas {
                cluster: at.clone(),
                namespace: of.namespace.clone(),
                kind: workload.kind,
                workload: workload.name.clone(),
                replicas: workload.active,
                at_most: false,
            };
            let id = format!("keep-{}{suffix}-without-{zone}", workload.name);
            ready.insert(self.need(id, action, BTreeSet::new(), policy.deadlines.reschedule));
        }
        for check in policy.checks.iter().filter(|check| check.after.contains(cluster)) {
            let action =
                Action::Verified { check: check.name.clone(), expects: check.expects.clone(), region: source.clone() };
            let id = format!("verify-{}-without-{zone}", check.name);
            self.need(id, action, ready.clone(), policy.deadlines.verify);
        }
        Ok(self.planned)
    }
}
