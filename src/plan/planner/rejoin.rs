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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use crate::domain::{ComponentId, IncidentId, InstanceId};
    use crate::plan::{Part, Purpose, Situation, plan};

    #[test]
    fn a_rejoin_that_nothing_knows_how_to_do_says_what_to_write() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/omnimesh.toml");
        let mut policy = crate::config::load(&[file], &BTreeMap::new()).unwrap().policy;
        let database = ComponentId::from("database");
        policy.components.get_mut(&database).unwrap().rejoin = None;
        let old = InstanceId::new("database", "us-west-2");
        let situation = Situation {
            policy: &policy,
            placement: &BTreeMap::from([(database.clone(), "us-east-1".into())]),
            source: &old.region,
            purpose: Purpose::Rejoin,
            incident: &IncidentId::from("inc-1"),
            alive: &policy.instances().collect(),
            existing: &std::collections::BTreeSet::new(),
            begun: &std::collections::BTreeSet::new(),
        };
        let refused = plan(situation, &Part::Rejoin { database }).unwrap_err().to_string();
        assert_eq!(
            refused,
            "database@us-west-2 cannot become a standby: nothing says how; write databases.database.rejoin"
        );
    }
}
