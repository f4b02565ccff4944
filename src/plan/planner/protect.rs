//! What was promoted is protected from the next loss: in nobody's way, and nothing waits for it.

use std::collections::BTreeSet;

use super::Draft;
use crate::domain::{ComponentId, InstanceId, StepId};
use crate::plan::Action;

impl Draft<'_> {
    /// One step for each database that is moved and that somebody wants protected.
    pub(super) fn protect(&mut self, moved: &[&ComponentId], after: &BTreeSet<StepId>) {
        let policy = self.situation.policy;
        for component in moved {
            let wanted = policy.components.get(*component).and_then(|policy| policy.protection);
            let (Some(wanted), Ok(target)) = (wanted, self.target(component)) else { continue };
            let at = |region| InstanceId { component: (*component).clone(), region };
            let database = at(target);
            let action = Action::Protected {
                database: database.clone(),
                lost: at(self.situation.source.clone()),
                multi_az: wanted.multi_az,
                backup_days: wanted.backup_days,
            };
            let promotion = StepId::from(format!("promote-{database}").as_str());
            let mut after = after.clone();
            after.insert(promotion);
            self.need(format!("protect-{database}"), action, after, wanted.deadline);
        }
    }
}
