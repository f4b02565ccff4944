//! Level 4: a workload is brought back where it is.

use std::collections::BTreeSet;

use super::{Draft, NoPlan, Planned};
use crate::domain::{ComponentId, InstanceId, Kind};
use crate::plan::Action;

impl Draft<'_> {
    /// As many replicas as there should be; and where that is not enough, one restart. The restart cannot be taken back,
    /// so everything is judged once more before it.
    pub(super) fn heal(mut self, cluster: &ComponentId, workload: &str) -> Result<Planned, NoPlan> {
        let policy = self.situation.policy;
        let unknown = || NoPlan::NoWorkload(cluster.clone(), workload.to_owned());
        let of = policy.components.get(cluster).filter(|of| of.kind == Kind::Kubernetes).ok_or_else(unknown)?;
        let wanted = of.workloads.iter().find(|of| of.name == workload).ok_or_else(unknown)?;
        let at = InstanceId { component: cluster.clone(), region: self.situation.source.clone() };
        let suffix = self.suffix(&at);
        let scaled = Action::Replicas {
            cluster: at.clone(),
            namespace: of.namespace.clone(),
            kind: wanted.kind,
            workload: workload.to_owned(),
            replicas: wanted.active,
            at_most: false,
        };
        let scaled = self.need(format!("heal-{workload}{suffix}"), scaled, BTreeSet::new(), policy.deadlines.replicas);
        let restarted = Action::RolledOut {
            cluster: at,
            namespace: of.namespace.clone(),
            kind: wanted.kind,
            workload: workload.to_owned(),
        };
        let id = format!("restart-{workload}{suffix}-to-heal");
        let restarted = self.need(id, restarted, BTreeSet::from([scaled]), policy.deadlines.rollout);
        self.edit(&restarted, |step| step.commit_point = true);
        Ok(self.planned)
    }
}
