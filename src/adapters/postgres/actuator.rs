//! The actions that PostgreSQL itself answers to: those of self-managed databases, and the fence by roles of managed ones.

use async_trait::async_trait;

use super::Postgres;
use crate::adapters::CatchUp as _;
use crate::config::schema::DatabaseProvider;
use crate::domain::InstanceId;
use crate::plan::Action;
use crate::ports::{Actuator, Look, Permit, Setback};

/// What an action asks of us.
enum Task<'a> {
    Fence(&'a InstanceId),
    FenceRoles(&'a InstanceId),
    Rejoin { database: &'a InstanceId, from: &'a InstanceId },
    CatchUp { standby: &'a InstanceId, source: &'a InstanceId },
    Promote { database: &'a InstanceId, from: &'a InstanceId, lossless: bool },
}

impl Postgres {
    fn task<'a>(&self, action: &'a Action) -> Result<Task<'a>, Setback> {
        let (task, database) = match action {
            Action::Fenced { database } => (Task::Fence(database), database),
            Action::DatabasePromoted { database, from, lossless } => {
                (Task::Promote { database, from, lossless: *lossless }, database)
            }
            Action::Rejoined { database, from } => (Task::Rejoin { database, from }, database),
            // However a database is managed, its positions are asked of itself.
            Action::CaughtUp { database, from } => return Ok(Task::CatchUp { standby: database, source: from }),
            Action::IncidentDeclared { .. }
            | Action::Protected { .. }
            | Action::Replicas { .. }
            | Action::Published { .. }
            | Action::RolledOut { .. }
            | Action::CacheActive { .. }
            | Action::StorageReachable { .. }
            | Action::Traffic { .. }
            | Action::Manifests { .. }
            | Action::Restored { .. }
            | Action::ManifestsRemoved { .. }
            | Action::IncidentEnded { .. }
            | Action::Verified { .. } => {
                return Err(Setback::Refused(format!("PostgreSQL cannot {action}")));
            }
        };
        match self.database(database)?.provider {
            DatabaseProvider::Postgres => Ok(task),
            DatabaseProvider::Rds => match task {
                Task::Fence(database) | Task::FenceRoles(database) => Ok(Task::FenceRoles(database)),
                // What the command does in the cloud shows in the servers.
                Task::CatchUp { .. } | Task::Rejoin { .. } => Ok(task),
                Task::Promote { .. } => Err(Setback::Refused(format!("{database} is managed by RDS"))),
            },
        }
    }
}

#[async_trait]
impl Actuator for Postgres {
    async fn look(&self, _key: &str, action: &Action) -> Result<Look, Setback> {
        match self.task(action)? {
            Task::Fence(database) => self.look_at_fence(database).await,
            Task::FenceRoles(database) => self.look_at_role_fence(database).await,
            Task::CatchUp { standby, source } => self.look_at_positions(standby, source).await,
            Task::Rejoin { database, from } => self.look_at_rejoin(database, from).await,
            Task::Promote { database, .. } => self.look_at_promotion(database).await,
        }
    }

    async fn act(&self, _key: &str, action: &Action, _look: &Look, permit: &Permit) -> Result<(), Setback> {
        match self.task(action)? {
            Task::Fence(database) => self.fence(database, permit).await,
            Task::FenceRoles(database) => self.fence_roles(database, permit).await,
            // The standby does it by itself.
            Task::CatchUp { .. } => Ok(()),
            Task::Rejoin { database, from } => self.rejoin(database, from, permit).await,
            Task::Promote { database, from, lossless } => self.promote(database, from, lossless, permit).await,
        }
    }

    async fn verify(&self, _key: &str, action: &Action) -> Result<String, Setback> {
        match self.task(action)? {
            Task::Fence(database) => self.verify_fence(database).await,
            Task::FenceRoles(database) => self.verify_role_fence(database).await,
            Task::CatchUp { standby, source } => self.caught_up(standby, source).await,
            Task::Rejoin { database, from } => self.verify_rejoin(database, from).await,
            Task::Promote { database, .. } => self.verify_promotion(database).await,
        }
    }

    async fn undo(
        &self,
        _key: &str,
        action: &Action,
        previous: &serde_json::Value,
        permit: &Permit,
    ) -> Result<String, Setback> {
        match self.task(action)? {
            Task::Fence(database) => self.unfence(database, previous, permit).await,
            Task::FenceRoles(database) => self.unfence_roles(database, permit).await,
            Task::CatchUp { .. } => Ok("it changed nothing".to_owned()),
            Task::Rejoin { database, .. } => Err(Setback::Refused(format!("what {database} held is overwritten"))),
            Task::Promote { database, .. } => Err(Setback::Refused(format!("the promotion of {database} has no undo"))),
        }
    }
}
