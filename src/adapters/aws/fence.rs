//! The fence of a managed database: its security groups are replaced by one that lets nobody in, then its sessions
//! are ended by a restart, and a tag records that.
//!
//! The restart is needed because security groups only judge new connections: a session that was open before goes on
//! writing. The tag is needed because RDS does not say when an instance was last restarted. The order makes every
//! crash safe: without the tag the restart happens again, which harms nobody behind a fence.

use aws_sdk_rds::types::Tag;
use serde::{Deserialize, Serialize};

use super::actuator::{AwsActuator, recall, remember};
use super::classify::{Trouble, call};
use super::rds::Description;
use crate::domain::InstanceId;
use crate::ports::{Look, Permit, Setback};

/// The tag that says that the sessions were ended behind the fence.
const TAG: &str = "failoverd:fenced";
/// The tag with the security groups that the fence took the place of, for whoever has to bring them back without our ledger.
const FORMER: &str = "failoverd:security-groups";

/// What a look saw: what the call goes by, and what undoing needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Seen {
    /// The instance's own security groups.
    groups: Vec<String>,
    /// It has just the fence's group by now.
    applied: bool,
    /// It accepts modifications.
    operable: bool,
    status: String,
    /// A tag of an earlier fence is still there. It must go before the groups change, or it would vouch for this one.
    tagged: bool,
    arn: Option<String>,
}

impl AwsActuator {
    pub(super) async fn look_fence(
        &self,
        database: &InstanceId,
        identifier: &str,
        fence: &str,
    ) -> Result<Look, Setback> {
        let found = self.database(database, identifier).await?;
        let applied = is_applied(&found, fence);
        let groups: Vec<String> = found.groups.iter().map(|(group, _)| group.clone()).collect();
        Ok(Look {
            satisfied: is_fenced(&found, fence),
            summary: format!("{identifier}: {}, security groups {}", found.summary(), groups.join(", ")),
            previous: remember(&Seen {
                groups,
                applied,
                operable: found.is_operable(),
                tagged: is_tagged(&found),
                status: found.status,
                arn: found.arn,
            })?,
        })
    }

    pub(super) async fn fence(
        &self,
        key: &str,
        database: &InstanceId,
        identifier: &str,
        fence: &str,
        look: &Look,
        permit: &Permit,
    ) -> Result<(), Setback> {
        let seen: Seen = recall(&look.previous)?;
        if !seen.operable {
            return Err(Setback::Transient(format!("{identifier} is {}: it cannot be modified yet", seen.status)));
        }
        if !seen.applied {
            if seen.tagged {
                self.untag(database, identifier, seen.arn.clone(), permit).await?;
            }
            self.remember_groups(database, identifier, &seen, fence, permit).await?;
            self.set_groups(database, identifier, vec![fence.to_owned()], permit).await?;
            return Err(Setback::Transient(format!(
                "{identifier} gets the security group {fence}; its sessions are ended next: look again"
            )));
        }
        let (clients, _) = self.aws.clients(&database.region, self.aws.call_limit()).await.map_err(Trouble::setback)?;
        let arn = seen.arn.ok_or_else(no_arn)?;
        let limit = self.time_left(permit)?;
        let name = format!("rds RebootDBInstance {identifier}");
        call(&name, limit, clients.rds.reboot_db_instance().db_instance_identifier(identifier).send())
            .await
            .map_err(Trouble::setback)?;
        let limit = self.time_left(permit)?;
        let tag = Tag::builder().key(TAG).value(tag_value(key)).build();
        let name = format!("rds AddTagsToResource {identifier}");
        call(&name, limit, clients.rds.add_tags_to_resource().resource_name(arn).tags(tag).send())
            .await
            .map_err(Trouble::setback)?;
        Ok(())
    }

    pub(super) async fn verify_fence(
        &self,
        database: &InstanceId,
        identifier: &str,
        fence: &str,
    ) -> Result<String, Setback> {
        let found = self.database(database, identifier).await?;
        if is_fenced(&found, fence) && found.is_operable() {
            Ok(format!("{identifier} has just the security group {fence}, and its sessions were ended behind it"))
        } else {
            let groups: Vec<String> =
                found.groups.iter().map(|(group, status)| format!("{group} ({status})")).collect();
            Err(Setback::NotYet(format!("{identifier}: {}, security groups {}", found.summary(), groups.join(", "))))
        }
    }

    pub(super) async fn unfence(
        &self,
        database: &InstanceId,
        identifier: &str,
        fence: &str,
        previous: &serde_json::Value,
        permit: &Permit,
    ) -> Result<String, Setback> {
        let seen: Seen = recall(previous)?;
        let groups: Vec<String> = seen.groups.into_iter().filter(|group| group != fence).collect();
        if groups.is_empty() {
            return Err(Setback::Refused(format!(
                "which security groups {identifier} had before the fence is not known: set them by hand"
            )));
        }
        let found = self.database(database, identifier).await?;
        let mut now: Vec<&String> = found.groups.iter().map(|(group, _)| group).collect();
        let mut wanted: Vec<&String> = groups.iter().collect();
        now.sort();
        wanted.sort();
        if now != wanted {
            self.set_groups(database, identifier, groups.clone(), permit).await?;
        }
        if is_tagged(&found) {
            self.untag(database, identifier, found.arn, permit).await?;
        }
        Ok(format!("{identifier} has its security groups {} again", groups.join(", ")))
    }

    async fn set_groups(
        &self,
        database: &InstanceId,
        identifier: &str,
        groups: Vec<String>,
        permit: &Permit,
    ) -> Result<(), Setback> {
        self.modify(database, identifier, permit, |request| request.set_vpc_security_group_ids(Some(groups))).await
    }

    /// Before they are gone.
    async fn remember_groups(
        &self,
        database: &InstanceId,
        identifier: &str,
        seen: &Seen,
        fence: &str,
        permit: &Permit,
    ) -> Result<(), Setback> {
        let groups: Vec<&str> = seen.groups.iter().map(String::as_str).filter(|group| *group != fence).collect();
        let Some(arn) = seen.arn.clone().filter(|_| !groups.is_empty()) else { return Ok(()) };
        let (clients, _) = self.aws.clients(&database.region, self.aws.call_limit()).await.map_err(Trouble::setback)?;
        let limit = self.time_left(permit)?;
        let tag = Tag::builder().key(FORMER).value(groups.join(" ")).build();
        let name = format!("rds AddTagsToResource {identifier}");
        call(&name, limit, clients.rds.add_tags_to_resource().resource_name(arn).tags(tag).send())
            .await
            .map(drop)
            .map_err(Trouble::setback)
    }

    async fn untag(
        &self,
        database: &InstanceId,
        identifier: &str,
        arn: Option<String>,
        permit: &Permit,
    ) -> Result<(), Setback> {
        let arn = arn.ok_or_else(no_arn)?;
        let (clients, _) = self.aws.clients(&database.region, self.aws.call_limit()).await.map_err(Trouble::setback)?;
        let limit = self.time_left(permit)?;
        let name = format!("rds RemoveTagsFromResource {identifier}");
        call(&name, limit, clients.rds.remove_tags_from_resource().resource_name(arn).tag_keys(TAG).send())
            .await
            .map(drop)
            .map_err(Trouble::setback)
    }

    /// The group that lets nobody in, as configured.
    pub(super) fn fence_group(&self, database: &InstanceId) -> Result<&str, Setback> {
        self.aws
            .config
            .databases
            .get(&database.component)
            .and_then(|config| config.fence.as_ref())
            .and_then(|fence| fence.security_group.as_deref())
            .ok_or_else(|| {
                let component = &database.component;
                Setback::Refused(format!(
                    "no fence is configured for {component}; create a security group that admits failoverd only and \
                     name it as databases.{component}.fence.security_group"
                ))
            })
    }
}

/// The security groups that a fence took the place of; none where no tag says so.
pub(super) fn former_groups(tags: &[Tag]) -> Option<Vec<String>> {
    let tag = tags.iter().find(|tag| tag.key() == Some(FORMER))?;
    let groups: Vec<String> = tag.value()?.split_whitespace().map(str::to_owned).collect();
    (!groups.is_empty()).then_some(groups)
}

/// A tag that says something about a fence, and nothing about whatever comes after it.
pub(super) fn is_ours(tag: &Tag) -> bool {
    matches!(tag.key(), Some(TAG | FORMER))
}

fn is_applied(found: &Description, fence: &str) -> bool {
    matches!(found.groups.as_slice(), [(group, _)] if group == fence)
}

fn is_fenced(found: &Description, fence: &str) -> bool {
    matches!(found.groups.as_slice(), [(group, status)] if group == fence && status == "active") && is_tagged(found)
}

fn is_tagged(found: &Description) -> bool {
    found.tags.iter().any(|(key, _)| key == TAG)
}

fn no_arn() -> Setback {
    Trouble::unreadable("rds DescribeDBInstances", "the answer holds no ARN").setback()
}

/// Tags allow letters, digits and a few signs; a plan's key is made of those, but nothing promises it.
fn tag_value(key: &str) -> String {
    key.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '/' | '=' | '+' | '-' | '@') {
                c
            } else {
                '-'
            }
        })
        .take(256)
        .collect()
}
