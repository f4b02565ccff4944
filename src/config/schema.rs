//! The configuration as it is written. `config/default.toml` documents every key with its unit and the reason for
//! its default; the comments here say what the code does with it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::secret::SecretSource;
use crate::domain::time::friendly;
use crate::domain::{
    ComponentId, Deadlines, Mode, Objectives, ObserverId, Publication, ReferenceId, RegionId, Role, UnfencedPromotion,
    WorkloadPolicy,
};

/// A configuration whose shape is right. Whether it makes sense is `validate`'s business.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Config {
    pub deployment: Deployment,
    pub observer: Observer,
    pub ledger: LedgerConfig,
    pub api: Api,
    pub heartbeat: Heartbeat,
    pub probes: Probes,
    pub matrix: Matrix,
    pub regional: Regional,
    pub degradation: Degradation,
    pub levels: Levels,
    pub guards: Guards,
    pub deadlines: Deadlines,
    pub regions: BTreeMap<RegionId, Region>,
    #[serde(default)]
    pub references: BTreeMap<ReferenceId, Reference>,
    #[serde(default)]
    pub clusters: BTreeMap<ComponentId, Cluster>,
    #[serde(default)]
    pub databases: BTreeMap<ComponentId, Database>,
    #[serde(default)]
    pub caches: BTreeMap<ComponentId, Cache>,
    #[serde(default)]
    pub buckets: BTreeMap<ComponentId, Bucket>,
    #[serde(default)]
    pub http: BTreeMap<ComponentId, Http>,
    #[serde(default)]
    pub clouds: BTreeMap<ComponentId, Cloud>,
    #[serde(default)]
    pub traffic: BTreeMap<ComponentId, Traffic>,
    #[serde(default)]
    pub checks: BTreeMap<String, Check>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Deployment {
    pub name: String,
    pub mode: Mode,
    #[serde(with = "friendly")]
    pub failover_within: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Observer {
    pub name: ObserverId,
    /// Where this daemon stands; it need not be one of the deployment's regions.
    pub region: RegionId,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct LedgerConfig {
    pub path: PathBuf,
    /// A file whose presence stops every effect, without any ledger.
    pub stop_file: PathBuf,
    /// How long a permit to act lasts after its facts are durable.
    #[serde(with = "friendly")]
    pub permit: Duration,
    /// Longest timeout of one mutating call.
    #[serde(with = "friendly")]
    pub call_timeout: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Api {
    pub listen: SocketAddr,
    /// `/v1/role`, `/live` and `/ready` only, without a token; none switches it off.
    #[serde(default)]
    pub role_listen: Option<SocketAddr>,
    /// Needed for anything that changes state; without one the operator commands are switched off.
    #[serde(default)]
    pub token: Option<SecretSource>,
    /// Longest request body, in bytes.
    pub body_max: usize,
    /// A role answer is believed for this long.
    #[serde(with = "friendly")]
    pub self_fence_after: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Heartbeat {
    /// A dead-man switch outside: it pages when the pings stop.
    #[serde(default)]
    pub url: Option<SecretSource>,
    #[serde(with = "friendly")]
    pub every: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Probes {
    #[serde(with = "friendly")]
    pub interval: Duration,
    #[serde(with = "friendly")]
    pub timeout: Duration,
    /// Share of the interval by which a probe's start is spread, 0 to 0.5.
    pub jitter: f64,
    pub failing_ratio: f64,
    #[serde(with = "friendly")]
    pub recover_for: Duration,
    /// DNS servers asked by probes and by the traffic verification; empty means the system's.
    #[serde(default)]
    pub nameservers: Vec<SocketAddr>,
}

/// What holds for every row of the decision matrix; the rows themselves stand with their components.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Matrix {
    /// When traffic follows a cluster, for clusters that do not say so themselves.
    #[serde(with = "friendly")]
    pub confirm_for: Duration,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Regional {
    #[serde(with = "friendly")]
    pub after: Duration,
    #[serde(default)]
    pub critical_failing: Option<u32>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Degradation {
    #[serde(with = "friendly")]
    pub after: Duration,
    pub ratio: f64,
    pub reroute_percent: u8,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Levels {
    pub regional_outage: Objectives,
    pub data_centre_failure: Objectives,
    pub service_degradation: Objectives,
    pub component_failure: Objectives,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Guards {
    #[serde(with = "friendly")]
    pub cooldown: Duration,
    pub incidents_per_day: u32,
    #[serde(with = "friendly")]
    pub approval_expires: Duration,
    #[serde(with = "friendly")]
    pub pause_max: Duration,
    #[serde(with = "friendly")]
    pub look_fresh: Duration,
    #[serde(with = "friendly")]
    pub recheck: Duration,
    #[serde(with = "friendly")]
    pub unwind_once_per: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Region {
    pub role: Role,
    /// Base URLs that replace the public AWS endpoints of this region (tests, VPC endpoints, S3-compatible stores).
    #[serde(default)]
    pub endpoints: Endpoints,
    /// A CA bundle trusted in addition to the system's, for every client of this region.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// AWS credentials of this region; none means the SDK's default chain (environment, profile, IRSA, IMDS).
    #[serde(default)]
    pub credentials: Option<Credentials>,
    /// Tertiary: what has to be there for a rebuild, as objects in buckets.
    #[serde(default)]
    pub holdings: BTreeMap<String, Holding>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Endpoints {
    #[serde(default)]
    pub ec2: Option<String>,
    #[serde(default)]
    pub rds: Option<String>,
    #[serde(default)]
    pub elasticache: Option<String>,
    #[serde(default)]
    pub s3: Option<String>,
    #[serde(default)]
    pub route53: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Credentials {
    pub access_key: SecretSource,
    pub secret_key: SecretSource,
}

/// Templates, images or backups that the tertiary region is supposed to hold.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Holding {
    pub bucket: String,
    #[serde(default)]
    pub prefix: String,
    /// The newest object may be at most this old; none means age does not matter.
    #[serde(default, with = "friendly::option")]
    pub newest_within: Option<Duration>,
}

/// A reference point: a TCP address or an HTTP(S) URL.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Reference {
    /// `host:port`, `http://…` or `https://…`; any answer counts.
    pub address: String,
    #[serde(default)]
    pub region: Option<RegionId>,
}

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
    /// Only for clusters: when traffic follows; none means `matrix.confirm_for`.
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
    pub trigger: Option<Trigger>,
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
    #[serde(default)]
    pub fence: Option<Fence>,
    #[serde(default)]
    pub publish: Vec<Publication>,
    pub regions: BTreeMap<RegionId, DatabaseRegion>,
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

/// A check of the end state. Exactly one of `http`, `sql`, `pods` and `command`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Check {
    /// Components after whose failover it runs; empty means after a regional one only.
    #[serde(default)]
    pub after: Vec<ComponentId>,
    #[serde(default)]
    pub http: Option<HttpCheck>,
    #[serde(default)]
    pub sql: Option<SqlCheck>,
    #[serde(default)]
    pub pods: Option<PodsCheck>,
    #[serde(default)]
    pub command: Option<CommandCheck>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct HttpCheck {
    /// `{region}` is replaced by the region that took over.
    pub url: String,
    #[serde(default)]
    pub method: Option<String>,
    #[serde(default)]
    pub body: Option<String>,
    #[serde(default = "ok")]
    pub status: u16,
    #[serde(default)]
    pub body_contains: Option<String>,
    /// For methods that change something: the operator declares that sending it again does no harm.
    #[serde(default)]
    pub repeatable: bool,
    /// Connect here per region instead of where the name resolves to.
    #[serde(default)]
    pub connect_to: BTreeMap<RegionId, SocketAddr>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct SqlCheck {
    pub database: ComponentId,
    pub query: String,
    /// The first column of the first row, as text; none means any answer will do.
    #[serde(default)]
    pub equals: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct PodsCheck {
    pub cluster: ComponentId,
    /// Every pod of the namespace is running, and at least this many are.
    pub running_min: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct CommandCheck {
    pub argv: Vec<String>,
    /// The operator declares that running it again does no harm; without that it is refused.
    pub repeatable: bool,
}

fn yes() -> bool {
    true
}

fn ok() -> u16 {
    200
}
