//! The one door to everything that AWS can be asked to change.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_rds::operation::modify_db_instance::builders::ModifyDBInstanceFluentBuilder;
use serde_json::Value;

use super::classify::{Trouble, call};
use super::clients::Aws;
use super::protect::Wanted;
use super::replicas::Comparisons;
use super::traffic::Changes;
use crate::adapters::{CatchUp, WriteProof};
use crate::domain::InstanceId;
use crate::plan::Action;
use crate::ports::{Actuator, Clock, Look, Permit, Setback};

/// Who proves what AWS itself cannot: that writes arrive.
#[derive(Clone)]
pub struct Proofs {
    /// A real write into a database.
    pub database: Arc<dyn WriteProof>,
    /// A real write into a cache.
    pub cache: Arc<dyn WriteProof>,
    /// Whether a standby has everything.
    pub catch_up: Arc<dyn CatchUp>,
}

/// Brings about the actions on managed databases and caches, on buckets and on Route 53. Anything else is refused.
pub struct AwsActuator {
    pub(super) aws: Arc<Aws>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) proofs: Proofs,
    /// Route 53 changes that were sent and may still be spreading.
    pub(super) changes: Changes,
    /// Buckets that a planned move waits for.
    pub(super) comparisons: Comparisons,
}

impl AwsActuator {
    /// One per daemon: it remembers the Route 53 changes that are under way.
    pub fn new(aws: Arc<Aws>, clock: Arc<dyn Clock>, proofs: Proofs) -> Self {
        Self { aws, clock, proofs, changes: Changes::default(), comparisons: Comparisons::default() }
    }

    /// Whether `action` is for this actuator, for the dispatcher in front.
    pub fn concerns(&self, action: &Action) -> bool {
        self.target(action).is_ok()
    }

    /// What is left for one mutating call, or why it must not be sent.
    pub(super) fn time_left(&self, permit: &Permit) -> Result<Duration, Setback> {
        let left = permit.time_left(self.clock.now()).map_err(|expired| Setback::Transient(expired.to_string()))?;
        Ok(left.min(self.aws.call_limit()))
    }

    /// One `ModifyDBInstance`, which takes effect at once.
    pub(super) async fn modify(
        &self,
        database: &InstanceId,
        identifier: &str,
        permit: &Permit,
        change: impl FnOnce(ModifyDBInstanceFluentBuilder) -> ModifyDBInstanceFluentBuilder,
    ) -> Result<(), Setback> {
        let (clients, _) = self.aws.clients(&database.region, self.aws.call_limit()).await.map_err(Trouble::setback)?;
        let limit = self.time_left(permit)?;
        let name = format!("rds ModifyDBInstance {identifier}");
        let request = clients.rds.modify_db_instance().db_instance_identifier(identifier).apply_immediately(true);
        call(&name, limit, change(request).send()).await.map(drop).map_err(Trouble::setback)
    }

    fn is_rejoined_by_command(&self, database: &InstanceId) -> bool {
        let rejoin = self.aws.config.databases.get(&database.component).and_then(|of| of.rejoin.as_ref());
        rejoin.is_some_and(|rejoin| rejoin.command.is_some())
    }

    fn target<'a>(&'a self, action: &'a Action) -> Result<Target<'a>, Setback> {
        let unmanaged = |what: &InstanceId| Setback::Refused(format!("{what} is not managed by AWS"));
        match action {
            Action::Fenced { database } => {
                let identifier = self.aws.database_identifier(database).ok_or_else(|| unmanaged(database))?;
                let fence = self.fence_group(database)?;
                Ok(Target::Fence { database, identifier, fence })
            }
            Action::DatabasePromoted { database, from, lossless } => {
                let identifier = self.aws.database_identifier(database).ok_or_else(|| unmanaged(database))?;
                Ok(Target::Promotion { database, identifier, from, lossless: *lossless })
            }
            Action::CacheActive { cache, .. } => {
                let (group, wanted) = self.aws.cache_group(cache).ok_or_else(|| unmanaged(cache))?;
                Ok(Target::Cache { cache, group, wanted })
            }
            Action::StorageReachable { storage, holds_all_of: None } => Ok(Target::Storage(storage)),
            Action::StorageReachable { storage, holds_all_of: Some(source) } => Ok(Target::Replica { storage, source }),
            Action::Traffic { traffic, weights } => {
                let config =
                    self.aws.config.traffic.get(traffic).ok_or_else(|| {
                        Setback::Refused(format!("the configuration has no traffic component {traffic}"))
                    })?;
                Ok(Target::Traffic(super::traffic::Goal::new(traffic, config, weights)?))
            }
            Action::Rejoined { database, from } => {
                let identifier = self.aws.database_identifier(database).ok_or_else(|| unmanaged(database))?;
                if self.is_rejoined_by_command(database) {
                    return Err(Setback::Refused(format!("a command makes {database} a standby")));
                }
                Ok(Target::Rejoin { database, identifier, from })
            }
            Action::Protected { database, lost, multi_az, backup_days } => {
                let identifier = self.aws.database_identifier(database).ok_or_else(|| unmanaged(database))?;
                let wanted = Wanted { multi_az: *multi_az, backup_days: *backup_days };
                Ok(Target::Protection { database, identifier, lost, wanted })
            }
            Action::IncidentDeclared { .. }
            | Action::CaughtUp { .. }
            | Action::Replicas { .. }
            | Action::Published { .. }
            | Action::RolledOut { .. }
            | Action::Manifests { .. }
            | Action::Restored { .. }
            | Action::ManifestsRemoved { .. }
            | Action::IncidentEnded { .. }
            | Action::Verified { .. } => Err(Setback::Refused(format!("AWS cannot {action}"))),
        }
    }
}

/// An action with the names that AWS knows its objects by.
enum Target<'a> {
    Fence { database: &'a InstanceId, identifier: &'a str, fence: &'a str },
    Promotion { database: &'a InstanceId, identifier: &'a str, from: &'a InstanceId, lossless: bool },
    Rejoin { database: &'a InstanceId, identifier: &'a str, from: &'a InstanceId },
    Protection { database: &'a InstanceId, identifier: &'a str, lost: &'a InstanceId, wanted: Wanted },
    Cache { cache: &'a InstanceId, group: &'a str, wanted: Option<u32> },
    Storage(&'a InstanceId),
    Replica { storage: &'a InstanceId, source: &'a InstanceId },
    Traffic(super::traffic::Goal<'a>),
}

#[async_trait]
impl Actuator for AwsActuator {
    async fn look(&self, _key: &str, action: &Action) -> Result<Look, Setback> {
        match self.target(action)? {
            Target::Fence { database, identifier, fence } => self.look_fence(database, identifier, fence).await,
            Target::Promotion { database, identifier, from, .. } => {
                self.look_promotion(database, identifier, from).await
            }
            Target::Rejoin { database, identifier, from } => self.look_rejoin(database, identifier, from).await,
            Target::Protection { database, identifier, wanted, .. } => {
                self.look_protection(database, identifier, wanted).await
            }
            Target::Cache { cache, group, wanted } => self.look_cache(cache, group, wanted).await,
            Target::Storage(storage) => self.look_storage(storage).await,
            // Comparing takes its time: that is what verifying is for.
            Target::Replica { storage, .. } => Ok(Look { satisfied: false, ..self.look_storage(storage).await? }),
            Target::Traffic(goal) => self.look_traffic(&goal).await,
        }
    }

    async fn act(&self, key: &str, action: &Action, look: &Look, permit: &Permit) -> Result<(), Setback> {
        let target = self.target(action)?;
        if look.satisfied {
            return Ok(());
        }
        match target {
            Target::Fence { database, identifier, fence } => {
                self.fence(key, database, identifier, fence, look, permit).await
            }
            Target::Promotion { database, identifier, from, lossless } => {
                self.promote(database, identifier, from, lossless, look, permit).await
            }
            Target::Rejoin { database, identifier, from } => self.rejoin(database, identifier, from, permit).await,
            Target::Protection { database, identifier, wanted, .. } => {
                self.protect(database, identifier, wanted, permit).await
            }
            Target::Cache { cache, group, wanted } => self.activate_cache(cache, group, wanted, look, permit).await,
            // Listing is all there is to it; there is nothing to change.
            Target::Storage(_) | Target::Replica { .. } => Ok(()),
            Target::Traffic(goal) => self.move_traffic(key, &goal, look, permit).await,
        }
    }

    async fn verify(&self, key: &str, action: &Action) -> Result<String, Setback> {
        match self.target(action)? {
            Target::Fence { database, identifier, fence } => self.verify_fence(database, identifier, fence).await,
            Target::Promotion { database, identifier, .. } => self.verify_promotion(database, identifier).await,
            Target::Rejoin { database, identifier, from } => self.verify_rejoin(database, identifier, from).await,
            Target::Protection { database, identifier, lost, wanted } => {
                self.verify_protection(database, identifier, wanted, lost).await
            }
            Target::Cache { cache, group, wanted } => self.verify_cache(cache, group, wanted).await,
            Target::Storage(storage) => self.verify_storage(storage).await,
            Target::Replica { storage, source } => self.verify_replication(key, storage, source).await,
            Target::Traffic(goal) => self.verify_traffic(key, &goal).await,
        }
    }

    async fn undo(&self, key: &str, action: &Action, previous: &Value, permit: &Permit) -> Result<String, Setback> {
        match self.target(action)? {
            Target::Fence { database, identifier, fence } => {
                self.unfence(database, identifier, fence, previous, permit).await
            }
            Target::Promotion { database, .. } => {
                Err(Setback::Refused(format!("the promotion of {database} cannot be undone")))
            }
            Target::Rejoin { database, .. } => {
                Err(Setback::Refused(format!("{database} is another instance by now; what it was is kept beside it")))
            }
            Target::Protection { database, .. } => Ok(format!("{database} keeps its backups and its other zone")),
            Target::Cache { cache, .. } => {
                Err(Setback::Refused(format!("the activation of {cache} is not undone: it holds writes by now")))
            }
            Target::Storage(storage) | Target::Replica { storage, .. } => {
                Ok(format!("nothing was changed at {storage}"))
            }
            Target::Traffic(goal) => self.restore_traffic(key, &goal, previous, permit).await,
        }
    }
}

/// `previous` as it was written by a look, for acting and undoing.
pub(super) fn recall<T: serde::de::DeserializeOwned>(previous: &Value) -> Result<T, Setback> {
    serde_json::from_value(previous.clone())
        .map_err(|error| Setback::Refused(format!("what was seen before cannot be read: {error}")))
}

/// `previous` for the ledger.
pub(super) fn remember<T: serde::Serialize>(seen: &T) -> Result<Value, Setback> {
    serde_json::to_value(seen).map_err(|error| Setback::Refused(format!("what was seen cannot be written: {error}")))
}
