//! An old primary becomes a standby again where RDS manages it. RDS cannot make a replica of an instance that has written
//! by itself, so a new one is made: the old one is renamed and kept, with everything it holds, and a new read replica of the
//! database that serves takes its name, its settings, and so its address.
//!
//! Every state between can be told from the names alone, so that any daemon goes on at any point.

use aws_sdk_rds::types::{DbInstance, Tag};

use super::actuator::AwsActuator;
use super::classify::{Trouble, TroubleKind, call};
use super::fence;
use super::rds::Description;
use crate::domain::InstanceId;
use crate::ports::{Look, Permit, Setback};

/// What an old instance is called once another one has its name.
const ASIDE: &str = "-set-aside";
/// RDS: "1 to 63 letters, numbers, or hyphens".
const IDENTIFIER_MAX: usize = 63;
/// From this size on a gp3 volume of PostgreSQL has what is asked for it.
const GP3_PROVISIONED_FROM_GIB: i32 = 400;

/// What has the name of the old primary.
enum Found {
    /// A replica of the one that serves.
    Replica(Description),
    /// The old primary itself.
    Old(Description),
    /// Nothing: the old one is set aside.
    Nothing,
}

impl AwsActuator {
    pub(super) async fn look_rejoin(
        &self,
        database: &InstanceId,
        identifier: &str,
        from: &InstanceId,
    ) -> Result<Look, Setback> {
        let aside = aside(identifier)?;
        let (satisfied, summary) = match self.found(database, identifier, from).await? {
            Found::Replica(found) if !found.is_operable() => (false, format!("{identifier}: {}", found.summary())),
            Found::Replica(_) => match self.proofs.catch_up.follows(database, from).await {
                Ok(seen) => (true, seen),
                Err(Setback::NotYet(why)) => (false, why),
                Err(setback @ (Setback::Transient(_) | Setback::Refused(_))) => return Err(setback),
            },
            Found::Old(found) => {
                (false, format!("{identifier}: {}; it is renamed to {aside} and kept", found.summary()))
            }
            Found::Nothing => (false, format!("there is no {identifier}; it is made with the settings of {aside}")),
        };
        Ok(Look { satisfied, summary, previous: serde_json::Value::Null })
    }

    /// The next call that is missing.
    pub(super) async fn rejoin(
        &self,
        database: &InstanceId,
        identifier: &str,
        from: &InstanceId,
        permit: &Permit,
    ) -> Result<(), Setback> {
        let source = self.source_of(from).await?;
        match self.found(database, identifier, from).await? {
            // It is on its way; what is left is to wait.
            Found::Replica(_) => Ok(()),
            Found::Old(found) if !found.is_operable() => {
                Err(Setback::Transient(format!("{identifier} is {}: it cannot be renamed yet", found.status)))
            }
            Found::Old(_) => {
                let aside = aside(identifier)?;
                self.set_aside(database, identifier, &aside, permit).await?;
                Err(Setback::Transient(format!("{identifier} is renamed to {aside}; its successor is made next")))
            }
            Found::Nothing => self.make_replica(database, identifier, &source, permit).await,
        }
    }

    pub(super) async fn verify_rejoin(
        &self,
        database: &InstanceId,
        identifier: &str,
        from: &InstanceId,
    ) -> Result<String, Setback> {
        match self.found(database, identifier, from).await? {
            Found::Replica(found) if found.is_operable() => {
                let seen = self.proofs.catch_up.follows(database, from).await?;
                Ok(format!("{seen}; what it was is kept as {}", aside(identifier)?))
            }
            Found::Replica(found) | Found::Old(found) => {
                Err(Setback::NotYet(format!("{identifier}: {}", found.summary())))
            }
            Found::Nothing => Err(Setback::NotYet(format!("RDS does not show {identifier} yet"))),
        }
    }

    async fn found(&self, database: &InstanceId, identifier: &str, from: &InstanceId) -> Result<Found, Setback> {
        let found = self.aws.describe_database(&database.region, identifier, self.aws.call_limit()).await;
        let found = match found {
            Ok(found) => found,
            Err(trouble) if trouble.kind == TroubleKind::NotFound => return Ok(Found::Nothing),
            Err(trouble) => return Err(trouble.setback()),
        };
        let expected = self.aws.database_identifier(from);
        match &found.source {
            None => Ok(Found::Old(found)),
            Some(_) if expected.is_some_and(|expected| found.replicates_from(expected)) => Ok(Found::Replica(found)),
            Some(source) => Err(Setback::Refused(format!(
                "{identifier} replicates from {source} and not from {from}: that is for a person to look into"
            ))),
        }
    }

    /// The instance that serves, as another region calls it.
    async fn source_of(&self, from: &InstanceId) -> Result<String, Setback> {
        let identifier = self
            .aws
            .database_identifier(from)
            .ok_or_else(|| Setback::Refused(format!("{from} is not managed by AWS")))?;
        let found = self.database(from, identifier).await?;
        if let Some(source) = &found.source {
            return Err(Setback::Refused(format!("{identifier} is itself a replica of {source}")));
        }
        if found.backup_days == 0 {
            let component = &from.component;
            return Err(Setback::Refused(format!(
                "{identifier} has no automatic backups, and RDS makes replicas of none without them: turn them on \
                 (databases.{component}.protect.backup_days does it after a promotion)"
            )));
        }
        found.arn.ok_or_else(|| Trouble::unreadable("rds DescribeDBInstances", "the answer holds no ARN").setback())
    }

    async fn set_aside(
        &self,
        database: &InstanceId,
        identifier: &str,
        aside: &str,
        permit: &Permit,
    ) -> Result<(), Setback> {
        let renamed = self.modify(database, identifier, permit, |request| request.new_db_instance_identifier(aside));
        renamed.await.map_err(|setback| match setback {
            Setback::Refused(why) if why.contains("DBInstanceAlreadyExists") => Setback::Refused(format!(
                "{aside} is there from an earlier time: delete or rename it, and {identifier} can take that name"
            )),
            setback @ (Setback::Refused(_) | Setback::Transient(_) | Setback::NotYet(_)) => setback,
        })
    }

    async fn make_replica(
        &self,
        database: &InstanceId,
        identifier: &str,
        source: &str,
        permit: &Permit,
    ) -> Result<(), Setback> {
        let aside = aside(identifier)?;
        let (region, limit) = (&database.region, self.aws.call_limit());
        let former = self.aws.database_instance(region, &aside, limit).await.map_err(|trouble| {
            if trouble.kind == TroubleKind::NotFound {
                return Setback::Transient(format!(
                    "RDS shows neither {identifier} nor {aside}, whose settings the new one gets: look again"
                ));
            }
            trouble.setback()
        })?;
        let groups = self.groups_of(database, &former)?;
        let (clients, _) = self.aws.clients(region, limit).await.map_err(Trouble::setback)?;
        let limit = self.time_left(permit)?;
        let first = |names: Vec<Option<&str>>| names.into_iter().flatten().next().map(str::to_owned);
        let parameters = former.db_parameter_groups().iter().map(|group| group.db_parameter_group_name()).collect();
        let options = former.option_group_memberships().iter().map(|group| group.option_group_name()).collect();
        let subnets = former.db_subnet_group().and_then(|group| group.db_subnet_group_name());
        let logs = former.enabled_cloudwatch_logs_exports().to_vec();
        let insights = Some(&former).filter(|former| former.performance_insights_enabled() == Some(true));
        let tags: Vec<Tag> = former.tag_list().iter().filter(|tag| !fence::is_ours(tag)).cloned().collect();
        let request = clients
            .rds
            .create_db_instance_read_replica()
            .db_instance_identifier(identifier)
            .source_db_instance_identifier(source)
            .set_db_instance_class(former.db_instance_class().map(str::to_owned))
            .set_port(former.endpoint().and_then(|at| at.port()))
            .set_db_subnet_group_name(subnets.map(str::to_owned))
            .set_db_parameter_group_name(first(parameters))
            .set_option_group_name(first(options))
            .set_vpc_security_group_ids(Some(groups))
            .set_kms_key_id(former.kms_key_id().filter(|_| former.storage_encrypted() == Some(true)).map(str::to_owned))
            .set_storage_type(former.storage_type().map(str::to_owned))
            .set_iops(provisioned(&former, former.iops()))
            .set_storage_throughput(provisioned(&former, former.storage_throughput()))
            .set_max_allocated_storage(former.max_allocated_storage())
            .set_multi_az(former.multi_az())
            .set_publicly_accessible(former.publicly_accessible())
            .set_enable_iam_database_authentication(former.iam_database_authentication_enabled())
            .set_deletion_protection(former.deletion_protection())
            .set_auto_minor_version_upgrade(former.auto_minor_version_upgrade())
            .set_copy_tags_to_snapshot(former.copy_tags_to_snapshot())
            .set_monitoring_interval(former.monitoring_interval())
            .set_enable_performance_insights(former.performance_insights_enabled())
            .set_performance_insights_kms_key_id(
                insights.and_then(DbInstance::performance_insights_kms_key_id).map(str::to_owned),
            )
            .set_performance_insights_retention_period(
                insights.and_then(DbInstance::performance_insights_retention_period),
            )
            .set_monitoring_role_arn(former.monitoring_role_arn().map(str::to_owned))
            .set_enable_cloudwatch_logs_exports(Some(logs).filter(|logs| !logs.is_empty()))
            .set_tags(Some(tags).filter(|tags| !tags.is_empty()));
        let name = format!("rds CreateDBInstanceReadReplica {identifier}");
        match call(&name, limit, request.send()).await {
            Ok(_) => Ok(()),
            // Our own earlier call whose answer was lost.
            Err(trouble) if trouble.why.starts_with("DBInstanceAlreadyExists") => {
                Err(Setback::Transient(format!("{trouble}: look again")))
            }
            Err(trouble) => Err(trouble.setback()),
        }
    }

    /// The security groups that let the application in: the former instance's own, also where a fence took their place.
    fn groups_of(&self, database: &InstanceId, former: &DbInstance) -> Result<Vec<String>, Setback> {
        let groups = former.vpc_security_groups().iter().filter_map(|group| group.vpc_security_group_id());
        let fence = self.fence_group(database).ok();
        let own: Vec<String> = groups.filter(|group| Some(*group) != fence).map(str::to_owned).collect();
        if !own.is_empty() {
            return Ok(own);
        }
        fence::former_groups(former.tag_list()).ok_or_else(|| {
            Setback::Refused(format!(
                "which security groups {database} had before its fence is not known: give {} its own ones again, and retry",
                former.db_instance_identifier().unwrap_or("it")
            ))
        })
    }
}

/// What is provisioned, where it may be said: a small gp3 volume has a baseline that RDS tells and does not take ("you can't
/// specify IOPS or storage throughput" below 400 GiB, Amazon RDS User Guide, gp3 storage).
fn provisioned(former: &DbInstance, value: Option<i32>) -> Option<i32> {
    let is_baseline = match former.storage_type() {
        Some("gp3") => former.allocated_storage().unwrap_or_default() < GP3_PROVISIONED_FROM_GIB,
        Some("io1" | "io2") => false,
        Some(_) | None => true,
    };
    value.filter(|_| !is_baseline)
}

fn aside(identifier: &str) -> Result<String, Setback> {
    let name = format!("{identifier}{ASIDE}");
    if name.len() > IDENTIFIER_MAX {
        return Err(Setback::Refused(format!(
            "{name} has more than {IDENTIFIER_MAX} characters, so {identifier} cannot be set aside: write a \
             rejoin.command that does it"
        )));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_baseline_that_rds_tells_and_does_not_take_is_not_asked_for() {
        let of = |kind: &str, gib| DbInstance::builder().storage_type(kind).allocated_storage(gib).build();
        let asked = |kind, gib| provisioned(&of(kind, gib), Some(3000));
        assert_eq!((asked("gp3", 100), asked("gp3", 400)), (None, Some(3000)));
        assert_eq!((asked("gp2", 1000), asked("io2", 100)), (None, Some(3000)));
    }

    #[test]
    fn a_name_that_rds_would_not_take_is_refused_before_anything_is_renamed() {
        assert_eq!(aside("prod").ok().as_deref(), Some("prod-set-aside"));
        assert!(aside(&"p".repeat(54)).is_err());
    }
}
