//! How a guardian makes a database refuse writes: by the fence that failoverd puts up anyway, or by a command.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::adapters::failure::describe;
use crate::adapters::{command, world};
use crate::config::Config;
use crate::config::schema::{CommandCheck, Demote};
use crate::domain::{ComponentId, InstanceId, Policy};
use crate::ledger::Permit;
use crate::plan::Action;
use crate::ports::{Actuator, Clock, Look, Setback};

/// Stands in the place of plan and step.
const KEY: &str = "guardian/fence";
/// A fence that has to stand is looked at again after this: a failover behind the same address, or a tool that puts
/// files back, takes it down, and what is written until then is lost. It costs two logins.
const FENCE_EVERY: Duration = Duration::from_secs(5);
/// A command cannot look. It is run again after this instead, seldom enough for the limits of a cloud's API.
const COMMAND_EVERY: Duration = Duration::from_secs(30);

/// What a guardian holds its databases by.
pub(super) struct Reins {
    demotions: BTreeMap<ComponentId, Demote>,
    actuator: Arc<dyn Actuator>,
    clock: Arc<dyn Clock>,
}

/// What a look at a database has shown.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    /// It refuses writes; none where a command sees to that, because then nobody knows.
    pub(super) refuses: Option<bool>,
    /// For `restore`.
    pub(super) previous: Value,
}

impl Reins {
    /// Contacts nobody.
    pub(super) fn new(config: &Arc<Config>, policy: &Policy, clock: &Arc<dyn Clock>) -> Result<Self, String> {
        let adapters = world::build(config, policy, clock).map_err(|error| describe(&error))?;
        let demotions = config.databases.iter().filter_map(|(id, of)| Some((id.clone(), of.demote.clone()?)));
        Ok(Self::with(demotions.collect(), adapters.actuator, clock.clone()))
    }

    pub(super) fn with(
        demotions: BTreeMap<ComponentId, Demote>,
        actuator: Arc<dyn Actuator>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { demotions, actuator, clock }
    }

    /// Whether it refuses writes already.
    pub(super) async fn look(&self, database: &InstanceId) -> Result<Seen, String> {
        if self.commands(database).is_some() {
            return Ok(Seen { refuses: None, previous: Value::Null });
        }
        let Look { satisfied, previous, summary: _ } =
            self.actuator.look(KEY, &fenced(database)).await.map_err(told)?;
        Ok(Seen { refuses: Some(satisfied), previous })
    }

    /// What has to refuse writes is looked at again after this.
    pub(super) fn look_every(&self, database: &InstanceId) -> Duration {
        if self.commands(database).is_some() { COMMAND_EVERY } else { FENCE_EVERY }
    }

    /// Makes it refuse writes, and sees that it does.
    pub(super) async fn demote(&self, database: &InstanceId) -> Result<String, String> {
        let deadline = self.demotions.get(&database.component).map_or(Duration::ZERO, |demote| demote.deadline);
        if let Some((demote, _)) = self.commands(database) {
            return run(demote, database, deadline).await;
        }
        let permit = Permit::for_self_fencing(self.clock.now().monotonic + deadline);
        let action = fenced(database);
        let nothing = Look { satisfied: false, summary: String::new(), previous: Value::Null };
        self.actuator.act(KEY, &action, &nothing, &permit).await.map_err(told)?;
        self.actuator.verify(KEY, &action).await.map_err(told)
    }

    /// Takes that back, before `until`, whether or not it was done, or done to its end.
    pub(super) async fn restore(&self, database: &InstanceId, seen: &Seen, until: Duration) -> Result<String, String> {
        if let Some((_, restore)) = self.commands(database) {
            return run(restore, database, until.saturating_sub(self.clock.now().monotonic)).await;
        }
        let permit = Permit::for_self_fencing(until);
        self.actuator.undo(KEY, &fenced(database), &seen.previous, &permit).await.map_err(told)
    }

    fn commands(&self, database: &InstanceId) -> Option<(&Vec<String>, &Vec<String>)> {
        let demote = self.demotions.get(&database.component)?;
        demote.command.as_ref().zip(demote.restore.as_ref())
    }
}

async fn run(argv: &[String], database: &InstanceId, limit: Duration) -> Result<String, String> {
    let check = CommandCheck { argv: argv.to_vec(), repeatable: true };
    command::run(&check, &database.region, limit).await.map_err(told)
}

fn fenced(database: &InstanceId) -> Action {
    Action::Fenced { database: database.clone() }
}

fn told(setback: Setback) -> String {
    setback.to_string()
}
