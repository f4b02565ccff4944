//! Level 3: a share of the clients goes to the standby, and comes back when the region is well.

use std::collections::BTreeSet;

use super::{Draft, NoPlan, Planned};
use crate::domain::{ComponentId, ComponentPolicy, Kind, RegionId, StepId};
use crate::plan::Action;

/// The share of the whole that weights are relative to.
const ALL: u8 = 100;

impl<'a> Draft<'a> {
    /// Scale the standby up, check that it serves, move the share: in this order, because clients who are sent to a
    /// standby that is not ready are worse off than before. Nothing here has a commit point or a place, so that all of
    /// it is undone when the region recovers.
    pub(super) fn reroute(mut self) -> Result<Planned, NoPlan> {
        let policy = self.situation.policy;
        let source = self.situation.source;
        let share = policy.degradation.reroute_percent.min(ALL);
        let records: Vec<_> = policy.of_kind(Kind::Traffic).filter(|(record, _)| self.is_served_here(record)).collect();
        if share == 0 || records.is_empty() {
            return Err(NoPlan::NothingToReroute(source.clone()));
        }
        self.declare();
        let (mut ready, serving) = self.ready_for_clients()?;
        let checked = self.verify(&serving, &ready);
        ready.extend(checked);
        for (record, of) in records {
            let target = self.target(record)?;
            let action = self.share_of(record, of, &target, share);
            self.need(step_of(record), action, ready.clone(), policy.deadlines.traffic);
        }
        Ok(self.planned)
    }

    /// A share that has been moved, or is being moved: whoever moves the rest waits for it and goes on from there. From
    /// then on the share is not taken back by itself.
    pub(super) fn take_over_reroute(&mut self, record: &ComponentId) -> Option<StepId> {
        let step = StepId::from(step_of(record));
        if !self.situation.begun.contains(&step) {
            return None;
        }
        self.planned.shares.entry(step.clone()).or_default();
        Some(step)
    }

    /// The clusters that are to answer some of the clients are scaled up. Returns the steps, and what answers clients.
    pub(super) fn ready_for_clients(&mut self) -> Result<(BTreeSet<StepId>, Vec<&'a ComponentId>), NoPlan> {
        let policy = self.situation.policy;
        let (mut ready, mut serving) = (BTreeSet::new(), Vec::new());
        for (component, of) in &policy.components {
            match of.kind {
                Kind::Kubernetes if self.is_served_here(component) => {
                    ready.extend(self.scale(component, of)?);
                    serving.push(component);
                }
                Kind::Http if self.is_served_here(component) => serving.push(component),
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
        Ok((ready, serving))
    }

    /// So many percent of the clients go to `target`, and the others where they are.
    pub(super) fn share_of(
        &self,
        record: &ComponentId,
        of: &ComponentPolicy,
        target: &RegionId,
        percent: u8,
    ) -> Action {
        let percent = percent.min(ALL);
        let weight = |region: &RegionId| match region {
            region if region == self.situation.source => ALL - percent,
            region if region == target => percent,
            _ => 0,
        };
        let weights = of.regions.iter().map(|region| (region.clone(), weight(region))).collect();
        Action::Traffic { traffic: record.clone(), weights }
    }

    pub(super) fn is_served_here(&self, component: &ComponentId) -> bool {
        self.situation.placement.get(component) == Some(self.situation.source)
    }
}

fn step_of(record: &ComponentId) -> String {
    format!("reroute-{record}")
}
