//! A promoted instance gets back what the lost one had: automatic backups, and a synchronous standby in another zone.
//!
//! Building that standby takes as long as its storage is large, and changes nothing for anybody who uses the instance: what
//! counts is that RDS has accepted it.

use super::actuator::AwsActuator;
use super::rds::Description;
use crate::domain::InstanceId;
use crate::ports::{Look, Permit, Setback};

/// What an instance is to have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) multi_az: bool,
    pub(super) backup_days: Option<u8>,
}

impl Wanted {
    /// What is still to be asked for. A longer time for which backups are kept stays.
    fn lacking(self, found: &Description) -> Self {
        let kept = found.backup_days_pending.unwrap_or(found.backup_days);
        Self {
            multi_az: self.multi_az && !found.multi_az && !found.multi_az_pending,
            backup_days: self.backup_days.filter(|days| kept < i32::from(*days)),
        }
    }

    fn is_nothing(self) -> bool {
        !self.multi_az && self.backup_days.is_none()
    }
}

impl AwsActuator {
    pub(super) async fn look_protection(
        &self,
        database: &InstanceId,
        identifier: &str,
        wanted: Wanted,
    ) -> Result<Look, Setback> {
        let found = self.database(database, identifier).await?;
        Ok(Look {
            satisfied: wanted.lacking(&found).is_nothing(),
            summary: format!("{identifier}: {}", protection(&found)),
            previous: serde_json::Value::Null,
        })
    }

    pub(super) async fn protect(
        &self,
        database: &InstanceId,
        identifier: &str,
        wanted: Wanted,
        permit: &Permit,
    ) -> Result<(), Setback> {
        let found = self.database(database, identifier).await?;
        let lacking = wanted.lacking(&found);
        if lacking.is_nothing() {
            return Ok(());
        }
        if !found.is_operable() {
            return Err(Setback::Transient(format!("{identifier} is {}: it cannot be modified yet", found.status)));
        }
        self.modify(database, identifier, permit, |request| {
            request
                .set_multi_az(lacking.multi_az.then_some(true))
                .set_backup_retention_period(lacking.backup_days.map(i32::from))
        })
        .await
    }

    pub(super) async fn verify_protection(
        &self,
        database: &InstanceId,
        identifier: &str,
        wanted: Wanted,
        lost: &InstanceId,
    ) -> Result<String, Setback> {
        let found = self.database(database, identifier).await?;
        let told = format!("{identifier}: {}", protection(&found));
        if !wanted.lacking(&found).is_nothing() {
            return Err(Setback::NotYet(told));
        }
        Ok(format!("{told}; {}", self.compared(&found, lost).await))
    }

    /// How its other settings differ from the lost instance's. Nothing depends on it: where that cannot be asked, so be it.
    async fn compared(&self, found: &Description, lost: &InstanceId) -> String {
        let Some(identifier) = self.aws.database_identifier(lost) else {
            return format!("{lost} is not managed: nothing is compared");
        };
        let limit = self.aws.call_limit();
        match self.aws.describe_database(&lost.region, identifier, limit).await {
            Ok(other) => differences(found, &other, lost),
            Err(trouble) => format!("its settings were not compared with {lost}'s: {trouble}"),
        }
    }
}

/// What an instance has, and what it is getting.
fn protection(found: &Description) -> String {
    let zones = match (found.multi_az, found.multi_az_pending) {
        (true, _) => "Multi-AZ",
        (false, true) => "Multi-AZ is being set up",
        (false, false) => "one zone only",
    };
    let backups = match found.backup_days_pending.unwrap_or(found.backup_days) {
        0 => "no automatic backups".to_owned(),
        days => format!("backups kept for {days} days"),
    };
    format!("{zones}, {backups}")
}

fn differences(found: &Description, other: &Description, of: &InstanceId) -> String {
    let names = found.settings.keys().chain(other.settings.keys());
    let names: std::collections::BTreeSet<&str> = names.copied().collect();
    let value = |of: &Description, name: &str| of.settings.get(name).cloned().unwrap_or_else(|| "none".to_owned());
    let differing: Vec<String> = names
        .into_iter()
        .filter(|name| value(found, name) != value(other, name))
        .map(|name| format!("{name} {} (there {})", value(found, name), value(other, name)))
        .collect();
    match differing.as_slice() {
        [] => format!("its other settings are those of {of}"),
        differing => format!("it differs from {of}: {}", differing.join(", ")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use aws_sdk_rds::types::{DbInstance, PendingModifiedValues};

    use super::*;

    fn instance() -> aws_sdk_rds::types::builders::DbInstanceBuilder {
        DbInstance::builder().db_instance_status("available")
    }

    #[test]
    fn what_rds_has_accepted_is_not_asked_for_again() {
        let wanted = Wanted { multi_az: true, backup_days: Some(7) };
        let pending = PendingModifiedValues::builder().multi_az(true).backup_retention_period(7).build();
        let found = Description::of(&instance().pending_modified_values(pending).build()).unwrap();
        assert!(wanted.lacking(&found).is_nothing());
        assert_eq!(protection(&found), "Multi-AZ is being set up, backups kept for 7 days");
    }

    #[test]
    fn backups_that_are_kept_for_longer_stay() {
        let found = Description::of(&instance().backup_retention_period(30).build()).unwrap();
        let lacking = Wanted { multi_az: true, backup_days: Some(7) }.lacking(&found);
        assert!(lacking.multi_az && lacking.backup_days.is_none());
    }

    #[test]
    fn a_setting_that_the_lost_instance_had_otherwise_is_told() {
        let found = Description::of(&instance().db_instance_class("db.r6g.large").build()).unwrap();
        let other = instance().db_instance_class("db.r6g.large").storage_encrypted(true).allocated_storage(100).build();
        let other = Description::of(&other).unwrap();
        let told = differences(&found, &other, &InstanceId::new("database", "us-east-1"));
        assert_eq!(told, "it differs from database@us-east-1: GiB none (there 100), encryption off (there on)");
    }
}
