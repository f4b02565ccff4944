//! What a bucket holds has arrived in the other one before anything is moved by plan.

use std::collections::BTreeSet;

use super::Draft;
use crate::domain::{ComponentId, InstanceId, StepId};
use crate::plan::Action;

impl Draft<'_> {
    /// One step for each bucket that is moved by plan and that somebody wants whole. While it is waited for, nobody is kept
    /// from writing.
    pub(super) fn replicated(&mut self, moved: &[&ComponentId]) {
        if !self.situation.purpose.is_planned() {
            return;
        }
        let policy = self.situation.policy;
        let mut waited = BTreeSet::new();
        for component in moved {
            let within = policy.components.get(*component).and_then(|policy| policy.replication);
            let (Some(within), Ok(target)) = (within, self.target(component)) else { continue };
            let at = |region| InstanceId { component: (*component).clone(), region };
            let storage = at(target);
            let holds_all_of = Some(at(self.situation.source.clone()));
            let id = format!("replicate-{storage}");
            let action = Action::StorageReachable { storage, holds_all_of };
            waited.insert(self.need(id, action, self.staged.clone(), within));
        }
        self.prepared.extend(waited);
    }

    /// The step that waits for what `to` lacks, if one does.
    pub(super) fn replication(&self, to: &InstanceId) -> Option<StepId> {
        self.ids.get(&StepId::from(format!("replicate-{to}").as_str())).cloned()
    }
}
