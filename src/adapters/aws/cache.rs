//! The standby replication group takes writes, with as many nodes as an active one has.

use serde::{Deserialize, Serialize};

use super::actuator::{AwsActuator, recall, remember};
use super::classify::{Trouble, call};
use super::elasticache::Group;
use crate::adapters::Endpoints;
use crate::domain::InstanceId;
use crate::ports::{Look, Permit, Setback};

/// What a look saw, for the call that follows.
#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    status: String,
    nodes: u32,
    shards: u32,
    follows: Option<String>,
}

impl AwsActuator {
    pub(super) async fn look_cache(
        &self,
        cache: &InstanceId,
        group: &str,
        wanted: Option<u32>,
    ) -> Result<Look, Setback> {
        let found = self.group(cache, group).await?;
        Ok(Look {
            satisfied: is_active(&found, wanted),
            summary: format!("{group}: {}", found.summary()),
            previous: remember(&Seen {
                status: found.status,
                nodes: found.nodes,
                shards: found.shards,
                follows: found.follows,
            })?,
        })
    }

    /// One call per attempt: first the promotion within a global datastore, then the nodes.
    pub(super) async fn activate_cache(
        &self,
        cache: &InstanceId,
        group: &str,
        wanted: Option<u32>,
        look: &Look,
        permit: &Permit,
    ) -> Result<(), Setback> {
        let seen: Seen = recall(&look.previous)?;
        if seen.status != "available" {
            return Err(Setback::Transient(format!("{group} is {}: it cannot be changed yet", seen.status)));
        }
        let (clients, _) = self.aws.clients(&cache.region, self.aws.call_limit()).await.map_err(Trouble::setback)?;
        let limit = self.time_left(permit)?;
        if let Some(global) = &seen.follows {
            let name = format!("elasticache FailoverGlobalReplicationGroup {global}");
            let request = clients
                .elasticache
                .failover_global_replication_group()
                .global_replication_group_id(global)
                .primary_region(cache.region.as_str())
                .primary_replication_group_id(group);
            call(&name, limit, request.send()).await.map_err(Trouble::setback)?;
            if wanted.is_some_and(|wanted| seen.nodes < wanted) {
                return Err(Setback::Transient(format!(
                    "{group} becomes primary; its nodes are added next: look again"
                )));
            }
            return Ok(());
        }
        let Some(wanted) = wanted.filter(|wanted| seen.nodes < *wanted) else {
            return Ok(());
        };
        // The count is per shard and leaves the primary out.
        let replicas = wanted.div_ceil(seen.shards).saturating_sub(1);
        let replicas = i32::try_from(replicas)
            .map_err(|_| Setback::Refused(format!("{wanted} cache clusters are more than ElastiCache has")))?;
        let name = format!("elasticache IncreaseReplicaCount {group}");
        let request = clients
            .elasticache
            .increase_replica_count()
            .replication_group_id(group)
            .new_replica_count(replicas)
            .apply_immediately(true);
        call(&name, limit, request.send()).await.map(drop).map_err(Trouble::setback)
    }

    pub(super) async fn verify_cache(
        &self,
        cache: &InstanceId,
        group: &str,
        wanted: Option<u32>,
    ) -> Result<String, Setback> {
        let found = self.group(cache, group).await?;
        if !is_active(&found, wanted) {
            return Err(Setback::NotYet(match wanted {
                Some(wanted) => format!("{group}: {} of {wanted}", found.summary()),
                None => format!("{group}: {}", found.summary()),
            }));
        }
        let at = self.aws.current(cache).await?;
        let written = self.proofs.cache.prove_writable(cache, &at).await?;
        Ok(format!("{group}: {}; {written}", found.summary()))
    }

    async fn group(&self, cache: &InstanceId, group: &str) -> Result<Group, Setback> {
        self.aws.describe_cache(&cache.region, group, self.aws.call_limit()).await.map_err(Trouble::setback)
    }
}

fn is_active(found: &Group, wanted: Option<u32>) -> bool {
    found.is_available() && found.follows.is_none() && found.has(wanted)
}
