//! The components: what is watched and moved.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::config::SecretSource;
use crate::domain::time::friendly;
use crate::domain::{Publication, RegionId, UnfencedPromotion, WorkloadPolicy};

/// Differences from `[probes]` for one component.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ProbeOverride {
    #[serde(default, with = "friendly::option")]
    pub interval: Option<Duration>,
    #[serde(default, with = "friendly::option")]
    pub timeout: Option<Duration>,
}

/// A row of the decision matrix.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Trigger {
    #[serde(with = "friendly")]
    pub after: Duration,
}

/// The row of a cluster, which is activated first and followed by traffic later.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ClusterTrigger {
    #[serde(with = "friendly")]
    pub after: Duration,
    /// When traffic follows; none means `matrix.confirm_for`.
    #[serde(default, with = "friendly::option")]
    pub confirm_for: Option<Duration>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Cluster {
    #[serde(default = "yes")]
    pub critical: bool,
    #[serde(default)]
    pub trigger: Option<ClusterTrigger>,
    #[serde(default)]
    pub probe: ProbeOverride,
    pub namespace: String,
    #[serde(default)]
    pub workloads: Vec<WorkloadPolicy>,
    /// Manifest files or folders, applied server-side in the region that takes over.
    #[serde(default)]
    pub manifests: Vec<PathBuf>,
    /// ConfigMap -> key -> value, set in the region that takes over.
    #[serde(default)]
    pub after_failover: BTreeMap<String, BTreeMap<String, String>>,
    pub regions: BTreeMap<RegionId, ClusterRegion>,
}

/// Either a kubeconfig (and a context in it), or a server with a token; neither means the pod's own service account.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ClusterRegion {
    #[serde(default)]
    pub kubeconfig: Option<PathBuf>,
    #[serde(default)]
    pub context: Option<String>,
    #[serde(default)]
    pub server: Option<String>,
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    #[serde(default)]
    pub token: Option<SecretSource>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum DatabaseProvider {
    /// Self-managed: `pg_promote()`.
    Postgres,
    /// RDS: `PromoteReadReplica`.
    Rds,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Database {
    #[serde(default = "yes")]
    pub critical: bool,
    #[serde(default)]
    pub trigger: Option<Trigger>,
    #[serde(default)]
    pub probe: ProbeOverride,
    pub provider: DatabaseProvider,
    pub name: String,
    pub user: String,
    #[serde(default)]
    pub password: Option<SecretSource>,
    #[serde(default)]
    pub tls: TlsMode,
    #[serde(default)]
    pub unfenced_promotion: UnfencedPromotion,
    /// A table with one row that the probe updates on the active side (`schema.table`); none means no write probe.
    #[serde(default)]
    pub heartbeat_table: Option<String>,
    /// It is created where it is not there.
    #[serde(default)]
    pub create_heartbeat_table: bool,
    /// Table -> a column of it that only grows: what tells which rows came over. None: only positions tell.
    #[serde(default)]
    pub watermarks: BTreeMap<String, String>,
    #[serde(default)]
    pub fence: Option<Fence>,
    /// What makes it refuse writes by itself where its role is not confirmed any more; none leaves that to a person.
    #[serde(default)]
    pub demote: Option<Demote>,
    /// How an old primary becomes a standby of the one that serves in its place; none leaves that to a person.
    #[serde(default)]
    pub rejoin: Option<Rejoin>,
    /// RDS: what a promoted instance is given, so that it outlives the next loss; none leaves that to a person.
    #[serde(default)]
    pub protect: Option<Protect>,
    #[serde(default)]
    pub publish: Vec<Publication>,
    pub regions: BTreeMap<RegionId, DatabaseRegion>,
}

/// An old primary becomes a standby again.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Rejoin {
    /// Begins it and returns within `ledger.call_timeout`; does nothing where it is under way. What it has to know is in its
    /// environment. None, with RDS: the old instance is set aside and a new read replica takes its name.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// From its start until the database streams from its new primary.
    #[serde(default = "an_hour", with = "friendly")]
    pub deadline: Duration,
}

fn an_hour() -> Duration {
    Duration::from_secs(3600)
}

/// A promoted RDS instance is protected from the next loss.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Protect {
    /// A synchronous standby in another zone.
    #[serde(default)]
    pub multi_az: bool,
    /// Automatic backups, kept for at least so many days.
    #[serde(default)]
    pub backup_days: Option<u8>,
    /// From its start until RDS has accepted that.
    #[serde(default = "half_an_hour", with = "friendly")]
    pub deadline: Duration,
}

fn half_an_hour() -> Duration {
    Duration::from_secs(1800)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum TlsMode {
    /// Never.
    Disable,
    /// TLS with a certificate that we trust for that name. The only mode in which nobody can listen.
    #[default]
    VerifyFull,
}

/// How the old primary is made to refuse its application's writes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Fence {
    /// The application's login roles: locked out by `pg_hba.conf` and read-only by default, both across a restart.
    pub application_roles: Vec<String>,
    /// One of them, to prove that its write is refused.
    #[serde(default)]
    pub prove_as: Option<FenceProof>,
    /// RDS: a security group without rules that replaces the instance's own.
    #[serde(default)]
    pub security_group: Option<String>,
}

/// A guardian beside the database of its own region.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Demote {
    /// From the loss of the role until the database refuses writes.
    #[serde(with = "friendly")]
    pub deadline: Duration,
    /// Instead of the fence: makes the database refuse writes, and says so by exit code 0. May be run again and again.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// Takes back what `command` did, once the role is confirmed again.
    #[serde(default)]
    pub restore: Option<Vec<String>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct FenceProof {
    pub role: String,
    pub password: SecretSource,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct DatabaseRegion {
    /// RDS: the instance identifier; host and port then come from DescribeDBInstances unless given.
    #[serde(default)]
    pub identifier: Option<String>,
    #[serde(default)]
    pub host: Option<String>,
    #[serde(default)]
    pub port: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum CacheProvider {
    /// Self-managed: `REPLICAOF NO ONE`.
    Redis,
    /// ElastiCache replication groups.
    Elasticache,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum CacheTopology {
    /// One server, or a primary with replicas behind one address.
    #[default]
    Single,
    /// Redis cluster mode: the state and all slots have to be right.
    Cluster,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Cache {
    #[serde(default = "yes")]
    pub critical: bool,
    #[serde(default)]
    pub trigger: Option<Trigger>,
    #[serde(default)]
    pub probe: ProbeOverride,
    pub provider: CacheProvider,
    #[serde(default)]
    pub username: Option<String>,
    #[serde(default)]
    pub password: Option<SecretSource>,
    #[serde(default)]
    pub tls: bool,
    /// ElastiCache: number of cache clusters (primary and replicas) that an active group has (document: 3).
    #[serde(default)]
    pub cache_clusters: Option<u32>,
    #[serde(default)]
    pub publish: Vec<Publication>,
    pub regions: BTreeMap<RegionId, CacheRegion>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct CacheRegion {
    /// ElastiCache: the replication group; host and port then come from DescribeReplicationGroups unless given.
    #[serde(default)]
    pub replication_group: Option<String>,
    #[serde(default)]
    pub host: Option<String>,
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub topology: CacheTopology,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Bucket {
    #[serde(default)]
    pub critical: bool,
    #[serde(default)]
    pub trigger: Option<Trigger>,
    #[serde(default)]
    pub probe: ProbeOverride,
    /// Ask for the bucket's replication configuration as well; off for stores that do not have one.
    #[serde(default = "yes")]
    pub check_replication: bool,
    /// A planned move waits so long for every object of the bucket to arrive in the one that takes over; unset, it does not
    /// look. It lists both buckets, 1000 objects a call.
    #[serde(default, with = "friendly::option")]
    pub replicated_within: Option<Duration>,
    #[serde(default)]
    pub publish: Vec<Publication>,
    pub regions: BTreeMap<RegionId, BucketRegion>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct BucketRegion {
    pub bucket: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Http {
    #[serde(default)]
    pub critical: bool,
    /// The address that clients use: a kind of evidence of its own for a regional outage.
    #[serde(default)]
    pub client_path: bool,
    #[serde(default)]
    pub trigger: Option<Trigger>,
    #[serde(default)]
    pub probe: ProbeOverride,
    #[serde(default = "ok")]
    pub status: u16,
    #[serde(default)]
    pub body_contains: Option<String>,
    #[serde(default, with = "friendly::option")]
    pub latency_max: Option<Duration>,
    /// Warn when the certificate ends within this time.
    #[serde(default, with = "friendly::option")]
    pub certificate_warning: Option<Duration>,
    /// Keep the connection between probes. Off by default: connecting is what is being probed.
    #[serde(default)]
    pub keep_connection: bool,
    pub regions: BTreeMap<RegionId, HttpRegion>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct HttpRegion {
    pub url: String,
    /// Connect here instead of where the URL's name resolves to; the name is still used for TLS and `Host`.
    #[serde(default)]
    pub connect_to: Option<SocketAddr>,
}

/// The region's own view of itself: DescribeInstances and DescribeDBInstances (document: Assessment & Triage).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Cloud {
    #[serde(default)]
    pub probe: ProbeOverride,
    /// Fewer running instances than this are a failing region.
    #[serde(default)]
    pub running_instances_min: u32,
    pub regions: BTreeMap<RegionId, CloudRegion>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct CloudRegion {
    /// RDS instances whose state is shown.
    #[serde(default)]
    pub databases: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Traffic {
    #[serde(default)]
    pub probe: ProbeOverride,
    pub zone_id: String,
    /// The record's name, without the final dot.
    pub record: String,
    #[serde(with = "friendly")]
    pub ttl: Duration,
    /// Change weights (Route 53 control plane), or an object that a pre-created health check watches.
    pub provider: TrafficProvider,
    /// Region whose endpoint settings and credentials the Route 53 client uses.
    pub control_region: RegionId,
    pub regions: BTreeMap<RegionId, TrafficRegion>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum TrafficProvider {
    /// One batch of weighted records. The Route 53 control plane lives in us-east-1.
    Route53Records,
    /// Per region an S3 object whose presence makes that region's pre-created Route 53 health check healthy.
    DataPlaneFlip,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct TrafficRegion {
    pub set_identifier: String,
    /// Address of the A record.
    pub value: String,
    /// Data-plane flip: bucket and key of the object, in a region that survives.
    #[serde(default)]
    pub flip: Option<Flip>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Flip {
    /// Region whose S3 endpoint and credentials are used.
    pub region: RegionId,
    pub bucket: String,
    pub key: String,
}

fn yes() -> bool {
    true
}

pub(super) fn ok() -> u16 {
    200
}
