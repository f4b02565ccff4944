//! A read replica becomes a primary of its own: `PromoteReadReplica`, stricter than the SDK's waiter.
//!
//! Right after the call the instance can still say `available` with its source; so what counts is that the source is
//! gone, that the instance is available, and that a write arrives.

use serde::{Deserialize, Serialize};

use super::actuator::{AwsActuator, recall, remember};
use super::classify::{Trouble, TroubleKind, call};
use super::rds::Description;
use crate::adapters::Endpoints;
use crate::domain::InstanceId;
use crate::ports::{Look, Permit, Setback};

/// What a look saw, for the call that follows.
#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    source: Option<String>,
}

impl AwsActuator {
    pub(super) async fn look_promotion(
        &self,
        database: &InstanceId,
        identifier: &str,
        from: &InstanceId,
    ) -> Result<Look, Setback> {
        let found = self.database(database, identifier).await?;
        if let Some(source) = &found.source
            && let Some(expected) = self.aws.database_identifier(from)
            && !found.replicates_from(expected)
        {
            return Err(Setback::Refused(format!(
                "{identifier} replicates from {source} and not from {expected} ({from}): promoting it would lose what {from} has"
            )));
        }
        // It may be on its way: that nothing was sent cannot be told from this.
        if !found.is_operable() {
            return Err(Setback::Transient(format!(
                "{identifier} is {}: what becomes of it is seen once it is available",
                found.status
            )));
        }
        Ok(Look {
            satisfied: found.source.is_none(),
            summary: format!("{identifier}: {}", found.summary()),
            previous: remember(&Seen { source: found.source })?,
        })
    }

    pub(super) async fn promote(
        &self,
        database: &InstanceId,
        identifier: &str,
        from: &InstanceId,
        lossless: bool,
        look: &Look,
        permit: &Permit,
    ) -> Result<(), Setback> {
        let seen: Seen = recall(&look.previous)?;
        if seen.source.is_none() {
            // The promotion is on its way; verification waits for the rest.
            return Ok(());
        }
        if lossless {
            self.proofs.catch_up.caught_up(database, from).await.map_err(|setback| match setback {
                // Not there yet is no goal reached: the promotion has to be tried again.
                Setback::NotYet(why) | Setback::Transient(why) => Setback::Transient(why),
                Setback::Refused(why) => Setback::Refused(why),
            })?;
        }
        let (clients, _) = self.aws.clients(&database.region, self.aws.call_limit()).await.map_err(Trouble::setback)?;
        let limit = self.time_left(permit)?;
        let name = format!("rds PromoteReadReplica {identifier}");
        let sent = call(&name, limit, clients.rds.promote_read_replica().db_instance_identifier(identifier).send());
        match sent.await {
            Ok(_) => Ok(()),
            // Among them "is not a read replica": our own earlier call whose answer was lost, or somebody else's.
            Err(trouble) if trouble.kind == TroubleKind::State => {
                Err(Setback::Transient(format!("{trouble}: look again")))
            }
            Err(trouble) => Err(trouble.setback()),
        }
    }

    pub(super) async fn verify_promotion(&self, database: &InstanceId, identifier: &str) -> Result<String, Setback> {
        let found = self.database(database, identifier).await?;
        if found.source.is_some() || !found.is_operable() {
            return Err(Setback::NotYet(format!("{identifier}: {}", found.summary())));
        }
        let at = self.aws.current(database).await?;
        let written = self.proofs.database.prove_writable(database, &at).await?;
        Ok(format!("{identifier}: {}; {written}", found.summary()))
    }

    pub(super) async fn database(&self, database: &InstanceId, identifier: &str) -> Result<Description, Setback> {
        self.aws.describe_database(&database.region, identifier, self.aws.call_limit()).await.map_err(Trouble::setback)
    }
}
