//! The way back of an old primary: it becomes a standby of the database that serves in its place.

use std::collections::BTreeSet;

use super::{Draft, NoPlan, Planned};
use crate::domain::{ComponentId, InstanceId, Kind};
use crate::plan::Action;

impl Draft<'_> {
    /// One step, which overwrites what the old primary holds: everything is judged once more before it, and no undo
    /// brings that back.
    pub(super) fn rejoin(mut self, component: &ComponentId) -> Result<Planned, NoPlan> {
        let database = InstanceId { component: component.clone(), region: self.situation.source.clone() };
        let impossible = |why: String| NoPlan::NoStandby(database.clone(), why);
        let policy = self.situation.policy.components.get(component).filter(|policy| policy.kind == Kind::Database);
        let policy = policy.ok_or_else(|| impossible(format!("there is no database {component}")))?;
        if !policy.regions.contains(&database.region) {
            return Err(impossible(format!("{component} is not in {}", database.region)));
        }
        let how = || impossible(format!("nothing says how; write databases.{component}.rejoin"));
        let deadline = policy.rejoin.ok_or_else(how)?;
        let serving = self.situation.placement.get(component);
        let serving = serving.ok_or_else(|| impossible(format!("{component} is served nowhere")))?;
        if *serving == database.region {
            return Err(impossible("it is where the database serves".to_owned()));
        }
        let from = InstanceId { component: component.clone(), region: serving.clone() };
        let action = Action::Rejoined { database: database.clone(), from };
        let id = self.need(format!("rejoin-{database}"), action, BTreeSet::new(), deadline);
        self.edit(&id, |step| step.commit_point = true);
        Ok(self.planned)
    }
}
