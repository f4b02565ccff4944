//! RDS: what DescribeDBInstances says about a database, and what that means for taking over.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_rds::types::{DbInstance, DbInstanceStatusInfo, PendingModifiedValues};

use super::classify::{Trouble, call};
use super::clients::Aws;
use crate::adapters::{Endpoint, Endpoints, Readiness};
use crate::config::schema::{CacheProvider, DatabaseProvider};
use crate::domain::{ComponentId, Evidence, InstanceId, RegionId};
use crate::ports::Setback;

/// The call that tells it.
const DESCRIBE: &str = "rds DescribeDBInstances";

/// What RDS says about one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Description {
    /// `available`, `modifying`, `backing-up`, …
    pub(super) status: String,
    /// Identifier, or ARN from another region, of what it replicates from.
    pub(super) source: Option<String>,
    /// What replicates from it.
    pub(super) replicas: Vec<String>,
    /// Where it answers; none while it is being created.
    pub(super) endpoint: Option<Endpoint>,
    /// Security groups with their status.
    pub(super) groups: Vec<(String, String)>,
    /// What RDS reports as not normal, replication among it.
    pub(super) abnormal: Vec<String>,
    /// Tags.
    pub(super) tags: Vec<(String, String)>,
    /// ARN, for tagging.
    pub(super) arn: Option<String>,
    /// The availability zone that it runs in.
    pub(super) zone: Option<String>,
    /// It has a synchronous standby in another zone, to which RDS fails over by itself.
    pub(super) multi_az: bool,
    /// It is getting one.
    pub(super) multi_az_pending: bool,
    /// Its automatic backups are kept for so many days; 0 where there are none.
    pub(super) backup_days: i32,
    /// The same once RDS has done what it has accepted.
    pub(super) backup_days_pending: Option<i32>,
    /// What an architecture may care for, by its name in the console.
    pub(super) settings: BTreeMap<&'static str, String>,
}

impl Description {
    /// What counts of all that RDS says.
    pub(super) fn of(found: &DbInstance) -> Result<Self, Trouble> {
        let status = found
            .db_instance_status()
            .filter(|status| !status.is_empty())
            .ok_or_else(|| Trouble::unreadable(DESCRIBE, "the answer holds no status"))?;
        let endpoint = found.endpoint().and_then(|at| {
            let host = at.address().filter(|host| !host.is_empty())?;
            Some(Endpoint { host: host.to_owned(), port: u16::try_from(at.port()?).ok()? })
        });
        let sources =
            [found.read_replica_source_db_instance_identifier(), found.read_replica_source_db_cluster_identifier()];
        let groups = found.vpc_security_groups().iter().filter_map(|group| {
            Some((group.vpc_security_group_id()?.to_owned(), group.status().unwrap_or_default().to_owned()))
        });
        let is_abnormal = |info: &&DbInstanceStatusInfo| {
            info.normal() == Some(false) || matches!(info.status(), Some("error" | "stopped" | "terminated"))
        };
        let told = |info: &DbInstanceStatusInfo| {
            let text = [info.status_type(), info.status(), info.message()];
            text.into_iter().flatten().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ")
        };
        let tags = found
            .tag_list()
            .iter()
            .filter_map(|tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned())));
        let pending = found.pending_modified_values();
        Ok(Self {
            status: status.to_owned(),
            source: sources.into_iter().flatten().find(|source| !source.is_empty()).map(str::to_owned),
            replicas: found.read_replica_db_instance_identifiers().to_vec(),
            endpoint,
            groups: groups.collect(),
            abnormal: found.status_infos().iter().filter(is_abnormal).map(told).collect(),
            tags: tags.collect(),
            arn: found.db_instance_arn().map(str::to_owned),
            zone: found.availability_zone().filter(|zone| !zone.is_empty()).map(str::to_owned),
            multi_az: found.multi_az() == Some(true),
            multi_az_pending: pending.and_then(PendingModifiedValues::multi_az) == Some(true),
            backup_days: found.backup_retention_period().unwrap_or_default(),
            backup_days_pending: pending.and_then(PendingModifiedValues::backup_retention_period),
            settings: settings(found),
        })
    }

    /// Promotion and modification are accepted. `storage-optimization` lasts for hours and changes nothing about it.
    pub(super) fn is_operable(&self) -> bool {
        matches!(self.status.as_str(), "available" | "storage-optimization")
    }

    /// It does not serve as it should. Backups, modifications and maintenance are everyday work.
    pub(super) fn is_ailing(&self) -> bool {
        let status = self.status.as_str();
        matches!(
            status,
            "failed"
                | "storage-full"
                | "stopped"
                | "stopping"
                | "deleting"
                | "rebooting"
                | "restore-error"
                | "insufficient-capacity"
        ) || status.starts_with("incompatible-")
            || status.starts_with("inaccessible-")
    }

    /// Whether its source is `identifier`, which RDS names by ARN across regions.
    pub(super) fn replicates_from(&self, identifier: &str) -> bool {
        self.source.as_deref().is_some_and(|source| source.rsplit(':').next() == Some(identifier))
    }

    /// One line for people.
    pub(super) fn summary(&self) -> String {
        match &self.source {
            Some(source) => format!("status {}, replicates from {source}", self.status),
            None => format!("status {}, replicates from nothing", self.status),
        }
    }
}

/// What an architecture gave one instance and may not have given the other: who gets at it, what it can bear.
fn settings(found: &DbInstance) -> BTreeMap<&'static str, String> {
    let on = |what: Option<bool>| Some(if what == Some(true) { "on" } else { "off" }.to_owned());
    let logs = found.enabled_cloudwatch_logs_exports().join(" ");
    [
        ("encryption", on(found.storage_encrypted())),
        ("public access", on(found.publicly_accessible())),
        ("IAM authentication", on(found.iam_database_authentication_enabled())),
        ("deletion protection", on(found.deletion_protection())),
        ("certificate authority", found.ca_certificate_identifier().map(str::to_owned)),
        ("engine version", found.engine_version().map(str::to_owned)),
        ("class", found.db_instance_class().map(str::to_owned)),
        ("storage type", found.storage_type().map(str::to_owned)),
        ("GiB", found.allocated_storage().map(|size| size.to_string())),
        ("IOPS", found.iops().map(|iops| iops.to_string())),
        ("exported logs", Some(logs).filter(|logs| !logs.is_empty())),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

impl Aws {
    /// The description of one RDS instance; `limit` bounds the call.
    pub(super) async fn describe_database(
        &self,
        region: &RegionId,
        identifier: &str,
        limit: Duration,
    ) -> Result<Description, Trouble> {
        Description::of(&self.database_instance(region, identifier, limit).await?)
    }

    /// All that RDS says about one instance.
    pub(super) async fn database_instance(
        &self,
        region: &RegionId,
        identifier: &str,
        limit: Duration,
    ) -> Result<DbInstance, Trouble> {
        let name = format!("{DESCRIBE} {identifier}");
        let (clients, limit) = self.clients(region, limit).await?;
        let answer =
            call(&name, limit, clients.rds.describe_db_instances().db_instance_identifier(identifier).send()).await?;
        let is_it =
            |found: &DbInstance| found.db_instance_identifier().is_some_and(|id| id.eq_ignore_ascii_case(identifier));
        let mut all = answer.db_instances.unwrap_or_default().into_iter();
        all.find(is_it).ok_or_else(|| Trouble::unreadable(&name, "the answer does not hold the instance"))
    }

    /// Where an RDS instance answers, as RDS says it now.
    pub async fn database_endpoint(&self, region: &RegionId, identifier: &str) -> Result<Endpoint, Setback> {
        self.describe_database(region, identifier, self.call_limit())
            .await
            .map_err(Trouble::setback)?
            .endpoint
            .ok_or_else(|| {
                Setback::Transient(format!("rds does not name an endpoint of {identifier} in {region} yet: look again"))
            })
    }

    /// The RDS identifier of a database instance; none where it is not managed.
    pub(super) fn database_identifier(&self, instance: &InstanceId) -> Option<&str> {
        let database = self.config.databases.get(&instance.component)?;
        match database.provider {
            DatabaseProvider::Rds => database.regions.get(&instance.region)?.identifier.as_deref(),
            DatabaseProvider::Postgres => None,
        }
    }

    /// The limit of a readiness question: the probe that asks has to end within its own timeout.
    fn readiness_limit(&self, component: &ComponentId) -> Duration {
        let own = self.config.databases.get(component).map(|database| database.probe);
        let own = own.or_else(|| self.config.caches.get(component).map(|cache| cache.probe));
        own.and_then(|probe| probe.timeout).unwrap_or(self.config.probes.timeout).mul_f64(0.9)
    }

    async fn database_readiness(&self, instance: &InstanceId, identifier: &str) -> Evidence {
        let mut evidence = Evidence::default();
        let limit = self.readiness_limit(&instance.component);
        let found = match self.describe_database(&instance.region, identifier, limit).await {
            Ok(found) => found,
            Err(trouble) => {
                trouble.unready(&mut evidence);
                return evidence;
            }
        };
        evidence.details.push(format!("rds={}", found.status));
        if let Some(endpoint) = &found.endpoint {
            self.learn(instance, endpoint);
        }
        for abnormal in &found.abnormal {
            let text = format!("{identifier}: {abnormal}");
            // Broken replication bars a standby; anything abnormal about a source is for people.
            if found.source.is_some() { &mut evidence.not_ready } else { &mut evidence.warnings }.push(text);
        }
        match &found.source {
            Some(source) => {
                evidence.details.push(format!("replicates_from={source}"));
                if !found.is_operable() {
                    evidence.not_ready.push(format!("{identifier} is {}, which cannot be promoted", found.status));
                }
            }
            None if found.replicas.is_empty() => evidence
                .not_ready
                .push(format!("{identifier} replicates from nothing: it holds none of the other region's writes")),
            // A source with replicas is the primary; it does not wait for anything.
            None => evidence.details.push(format!("replicas={}", found.replicas.join(","))),
        }
        evidence
    }

    /// Remembers where an instance answers.
    pub(super) fn learn(&self, instance: &InstanceId, endpoint: &Endpoint) {
        let mut learned = self.learned.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        learned.insert(instance.clone(), endpoint.clone());
    }
}

#[async_trait]
impl Readiness for Aws {
    async fn readiness(&self, instance: &InstanceId) -> Evidence {
        if let Some(identifier) = self.database_identifier(instance) {
            return self.database_readiness(instance, identifier).await;
        }
        if let Some((group, wanted)) = self.cache_group(instance) {
            return self.cache_readiness(instance, group, wanted, self.readiness_limit(&instance.component)).await;
        }
        Evidence::default()
    }
}

#[async_trait]
impl Endpoints for Aws {
    async fn current(&self, instance: &InstanceId) -> Result<Endpoint, Setback> {
        if let Some(fixed) = self.fixed_endpoint(instance) {
            return Ok(fixed);
        }
        let endpoint = if let Some(identifier) = self.database_identifier(instance) {
            self.database_endpoint(&instance.region, identifier).await?
        } else if let Some((group, _)) = self.cache_group(instance) {
            self.cache_endpoint(&instance.region, group).await?
        } else {
            return Err(Setback::Refused(format!(
                "the configuration says neither a host nor a managed instance for {instance}"
            )));
        };
        self.learn(instance, &endpoint);
        Ok(endpoint)
    }

    async fn recent(&self, instance: &InstanceId) -> Result<Endpoint, Setback> {
        if let Some(fixed) = self.fixed_endpoint(instance) {
            return Ok(fixed);
        }
        let learned = {
            let learned = self.learned.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            learned.get(instance).cloned()
        };
        match learned {
            Some(endpoint) => Ok(endpoint),
            None => self.current(instance).await,
        }
    }
}

impl Aws {
    /// What the configuration says, where it says it.
    fn fixed_endpoint(&self, instance: &InstanceId) -> Option<Endpoint> {
        if let Some(database) = self.config.databases.get(&instance.component) {
            let region = database.regions.get(&instance.region)?;
            return Some(Endpoint { host: region.host.clone()?, port: region.port.unwrap_or(5432) });
        }
        let region = self.config.caches.get(&instance.component)?.regions.get(&instance.region)?;
        Some(Endpoint { host: region.host.clone()?, port: region.port.unwrap_or(6379) })
    }

    /// The replication group of a cache instance and the number of nodes an active one has; none where not managed.
    pub(super) fn cache_group(&self, instance: &InstanceId) -> Option<(&str, Option<u32>)> {
        let cache = self.config.caches.get(&instance.component)?;
        match cache.provider {
            CacheProvider::Elasticache => {
                Some((cache.regions.get(&instance.region)?.replication_group.as_deref()?, cache.cache_clusters))
            }
            CacheProvider::Redis => None,
        }
    }
}
