//! ElastiCache: what DescribeReplicationGroups says about a cache, and what that means for taking over.

use std::time::Duration;

use super::classify::{Trouble, call};
use super::clients::Aws;
use crate::adapters::Endpoint;
use crate::domain::{Evidence, InstanceId, RegionId};
use crate::ports::Setback;

/// What ElastiCache says about one replication group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// `available`, `modifying`, `snapshotting`, …
    pub(super) status: String,
    /// Number of nodes, primaries and replicas.
    pub(super) nodes: u32,
    /// Number of shards, at least one.
    pub(super) shards: u32,
    /// The global datastore that it only follows, if it does.
    pub(super) follows: Option<String>,
    /// Where it answers.
    pub(super) endpoint: Option<Endpoint>,
}

impl Group {
    /// Modifications are accepted, and nothing is under way.
    pub(super) fn is_available(&self) -> bool {
        self.status == "available"
    }

    /// It has as many nodes as an active group is supposed to have.
    pub(super) fn has(&self, wanted: Option<u32>) -> bool {
        wanted.is_none_or(|wanted| self.nodes >= wanted)
    }

    /// One line for people.
    pub(super) fn summary(&self) -> String {
        let nodes = if self.nodes == 1 { "1 node".to_owned() } else { format!("{} nodes", self.nodes) };
        match &self.follows {
            Some(global) => format!("status {}, {nodes}, follows the primary of {global}", self.status),
            None => format!("status {}, {nodes}", self.status),
        }
    }
}

impl Aws {
    /// The description of one replication group; `limit` bounds the call.
    pub(super) async fn describe_cache(
        &self,
        region: &RegionId,
        group: &str,
        limit: Duration,
    ) -> Result<Group, Trouble> {
        let name = format!("elasticache DescribeReplicationGroups {group}");
        let (clients, limit) = self.clients(region, limit).await?;
        let answer =
            call(&name, limit, clients.elasticache.describe_replication_groups().replication_group_id(group).send())
                .await?;
        let found = answer
            .replication_groups()
            .iter()
            .find(|found| found.replication_group_id().is_some_and(|id| id.eq_ignore_ascii_case(group)))
            .ok_or_else(|| Trouble::unreadable(&name, "the answer does not hold the group"))?;
        let status = found
            .status()
            .filter(|status| !status.is_empty())
            .ok_or_else(|| Trouble::unreadable(&name, "the answer holds no status"))?;
        let at = found
            .configuration_endpoint()
            .or_else(|| found.node_groups().first().and_then(|shard| shard.primary_endpoint()));
        let endpoint = at.and_then(|at| {
            let host = at.address().filter(|host| !host.is_empty())?;
            Some(Endpoint { host: host.to_owned(), port: u16::try_from(at.port()?).ok()? })
        });
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let follows = found
            .global_replication_group_info()
            .filter(|global| {
                global.global_replication_group_member_role().is_some_and(|role| role.eq_ignore_ascii_case("secondary"))
            })
            .and_then(|global| global.global_replication_group_id())
            .map(str::to_owned);
        Ok(Group {
            status: status.to_owned(),
            nodes: count(found.member_clusters().len()),
            shards: count(found.node_groups().len()).max(1),
            follows,
            endpoint,
        })
    }

    /// Where a replication group takes writes, as ElastiCache says it now.
    pub async fn cache_endpoint(&self, region: &RegionId, group: &str) -> Result<Endpoint, Setback> {
        self.describe_cache(region, group, self.call_limit()).await.map_err(Trouble::setback)?.endpoint.ok_or_else(
            || {
                Setback::Transient(format!(
                    "elasticache does not name an endpoint of {group} in {region} yet: look again"
                ))
            },
        )
    }

    /// Fewer nodes than an active group has do not bar a standby: adding them is what activation does. Not even one
    /// does.
    pub(super) async fn cache_readiness(
        &self,
        instance: &InstanceId,
        group: &str,
        wanted: Option<u32>,
        limit: Duration,
    ) -> Evidence {
        let mut evidence = Evidence::default();
        let found = match self.describe_cache(&instance.region, group, limit).await {
            Ok(found) => found,
            Err(trouble) => {
                trouble.unready(&mut evidence);
                return evidence;
            }
        };
        evidence.details.push(format!("elasticache={}", found.status));
        evidence.details.push(match wanted {
            Some(wanted) => format!("nodes={} of {wanted}", found.nodes),
            None => format!("nodes={}", found.nodes),
        });
        if let Some(endpoint) = &found.endpoint {
            self.learn(instance, endpoint);
        }
        if !found.is_available() {
            evidence.not_ready.push(format!("{group} is {}", found.status));
        }
        if found.nodes == 0 {
            evidence.not_ready.push(format!("{group} has no node"));
        }
        evidence
    }
}
