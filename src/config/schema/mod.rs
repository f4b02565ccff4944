//! The configuration as it is written. `config/default.toml` documents every key with its unit and the reason for
//! its default; the comments here say what the code does with it.

mod checks;
mod components;
mod ledger;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::SecretSource;
use crate::domain::time::friendly;
use crate::domain::{ComponentId, Deadlines, Mode, Objectives, ObserverId, ReferenceId, RegionId, Role};

pub use checks::*;
pub use components::*;
pub use ledger::*;

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
    pub healing: Healing,
    pub zones: Zones,
    pub verification: Verification,
    pub failback: Failback,
    pub levels: Levels,
    pub guards: Guards,
    pub council: Council,
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
    /// A role is answered for no longer than this after the ledger was asked.
    #[serde(with = "friendly")]
    pub self_fence_after: Duration,
    /// Whoever asks for a role asks again, and acts by the answer, within this.
    #[serde(with = "friendly")]
    pub role_check_period: Duration,
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

/// The way back, in stages.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Failback {
    /// After a failover nobody has to order it.
    pub automatic: bool,
    #[serde(with = "friendly")]
    pub stable_for: Duration,
    /// Percent of the traffic, one after the other.
    pub stages: Vec<u8>,
    #[serde(with = "friendly")]
    pub stage_for: Duration,
    #[serde(with = "friendly")]
    pub interval: Duration,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Zones {
    pub enabled: bool,
    #[serde(with = "friendly")]
    pub after: Duration,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Healing {
    pub enabled: bool,
    #[serde(with = "friendly")]
    pub after: Duration,
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

/// Several daemons that decide together.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Council {
    /// Regions that have to say the same; none means a majority of those with observers.
    #[serde(default)]
    pub votes: Option<u32>,
    #[serde(with = "friendly")]
    pub ballot_every: Duration,
    #[serde(with = "friendly")]
    pub ballot_fresh: Duration,
    #[serde(with = "friendly")]
    pub witness_hold: Duration,
    /// Every daemon, this one too. Empty for a single one.
    #[serde(default)]
    pub observers: BTreeMap<ObserverId, Seat>,
}

/// Where one of several observers stands.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Seat {
    pub region: RegionId,
    /// `host:port` of its `api.listen`, as the others reach it: it is asked before anybody goes on without the ledger.
    #[serde(default)]
    pub api: Option<String>,
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
