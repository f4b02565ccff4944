//! What the operators decided beforehand: regions, components, the decision matrix, levels, guards, deadlines.
//!
//! A policy is what is left of a configuration when everything that names a network address or a credential is
//! taken away. Its hash is a fact, so that two daemons with different opinions cannot both lead.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod check;
mod council;
mod failback;

pub use check::CheckPolicy;
pub use council::{CouncilPolicy, RolePolicy};
pub use failback::FailbackPolicy;

use super::time::friendly;
use super::{ComponentId, InstanceId, ObserverId, ReferenceId, RegionId};

/// What failoverd may do by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Record what would have been done; do nothing.
    #[default]
    Observe,
    /// Prepare a plan and wait for a person.
    Approve,
    /// Act.
    Automatic,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Observe => "observe",
            Self::Approve => "approve",
            Self::Automatic => "automatic",
        })
    }
}

/// What a region is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Serves in good times.
    Primary,
    /// Takes over: a warm standby.
    Secondary,
    /// Holds templates, images and backups: a cold standby. Never a target of an automatic failover.
    Tertiary,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
            Self::Tertiary => "tertiary",
        })
    }
}

/// The severity of an incident, 1 the worst (the document's disaster categories).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Level 1: the region is lost.
    RegionalOutage,
    /// Level 2: one zone of the active region is down.
    DataCentreFailure,
    /// Level 3: critical services are partly available.
    ServiceDegradation,
    /// Level 4: one component or workload is down.
    ComponentFailure,
}

impl Level {
    /// All levels, the worst first.
    pub const ALL: [Self; 4] =
        [Self::RegionalOutage, Self::DataCentreFailure, Self::ServiceDegradation, Self::ComponentFailure];

    /// The document's number, 1 to 4.
    pub fn number(self) -> u8 {
        match self {
            Self::RegionalOutage => 1,
            Self::DataCentreFailure => 2,
            Self::ServiceDegradation => 3,
            Self::ComponentFailure => 4,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::RegionalOutage => "level 1, regional outage",
            Self::DataCentreFailure => "level 2, data-centre failure",
            Self::ServiceDegradation => "level 3, service degradation",
            Self::ComponentFailure => "level 4, component failure",
        })
    }
}

/// Recovery time and recovery point objectives of a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objectives {
    /// The service is back within this time of the first failing observation.
    #[serde(with = "friendly")]
    pub rto: Duration,
    /// At most this much written data is lost.
    #[serde(with = "friendly")]
    pub rpo: Duration,
}

/// What kind of thing a component is; decides how it is probed and how it is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A Kubernetes cluster.
    Kubernetes,
    /// A PostgreSQL database, self-managed or RDS.
    Database,
    /// Redis or ElastiCache.
    Cache,
    /// An S3 bucket with a replica.
    Storage,
    /// An HTTP service: evidence only, moved by traffic.
    Http,
    /// The region's own cloud API: evidence only.
    Cloud,
    /// Who answers the clients: DNS weights.
    Traffic,
    /// What a rebuild in a cold region needs: templates, images, backups. Watched for people, never moved.
    Holdings,
}

/// The one component of [`Kind::Holdings`].
pub const HOLDINGS: &str = "holdings";

impl Kind {
    /// It is served in one region at a time, and a failover changes in which.
    pub fn has_a_place(self) -> bool {
        !matches!(self, Self::Cloud | Self::Holdings)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kubernetes => "kubernetes",
            Self::Database => "database",
            Self::Cache => "cache",
            Self::Storage => "storage",
            Self::Http => "http",
            Self::Cloud => "cloud",
            Self::Traffic => "traffic",
            Self::Holdings => "holdings",
        })
    }
}

/// What happens where the old primary database is not certain to be fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnfencedPromotion {
    /// A person decides.
    #[default]
    Approve,
    /// Promote all the same, recorded as an exception.
    Allow,
}

/// How often and how patiently an instance is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probing {
    /// From the beginning of one probe to the beginning of the next, before jitter.
    #[serde(with = "friendly")]
    pub interval: Duration,
    /// A probe that has not answered by then has failed.
    #[serde(with = "friendly")]
    pub timeout: Duration,
}

impl Probing {
    /// Neighbouring observations further apart than this leave a gap: two intervals and a timeout. While everything times
    /// out there is one probe per timeout or per interval, whichever is longer; silence must not look like a gap.
    pub fn gap(&self) -> Duration {
        2 * self.interval.max(self.timeout) + self.timeout
    }
}

/// One row of the decision matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Failing for this long starts the row's action.
    #[serde(with = "friendly")]
    pub after: Duration,
    /// Traffic follows only when the window has lasted this long. Equal to `after` or longer.
    #[serde(with = "friendly")]
    pub confirm_for: Duration,
}

/// A Kubernetes workload and how many replicas it has where it serves and where it waits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadPolicy {
    /// `deployment` or `statefulset`.
    #[serde(default)]
    pub kind: WorkloadKind,
    /// Its name in the cluster.
    pub name: String,
    /// Replicas in the region that serves.
    pub active: u32,
    /// Replicas in a region that waits.
    pub standby: u32,
}

/// The scalable kinds that failoverd knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadKind {
    /// `apps/v1` Deployment.
    #[default]
    Deployment,
    /// `apps/v1` StatefulSet.
    StatefulSet,
}

/// A key of a Secret or a ConfigMap that has to name the instance that serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publication {
    /// `secret` or `configmap`.
    pub object: ObjectKind,
    /// Name of the object.
    pub name: String,
    /// Key in it.
    pub key: String,
    /// What is written there.
    pub value: PublishedValue,
    /// The workloads that read it and have to be restarted; empty means all workloads of the cluster.
    #[serde(default)]
    pub restart: BTreeSet<String>,
}

/// Where a published value lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectKind {
    /// A Secret; the value is base64 in the API and never shown.
    Secret,
    /// A ConfigMap.
    ConfigMap,
}

impl ObjectKind {
    /// Kubernetes' own name, for the ids of steps.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::ConfigMap => "configmap",
        }
    }

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::ConfigMap => "config map",
        }
    }
}

/// Which property of the serving instance is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishedValue {
    /// Host name, from the cloud's Describe call where there is one.
    Host,
    /// Port.
    Port,
    /// Bucket name.
    Bucket,
    /// Region name.
    Region,
}

/// A component: what it is, where it is, when it is moved and what moving it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentPolicy {
    /// What it is.
    pub kind: Kind,
    /// Counts towards a regional outage.
    pub critical: bool,
    /// The regions it has an instance in.
    pub regions: BTreeSet<RegionId>,
    /// What each instance's address and credentials hash to: an instance counts as seen alive only under the very
    /// settings it was seen with, so that a typo in a rollout does not look like an outage.
    pub fingerprints: BTreeMap<RegionId, String>,
    /// How it is probed.
    pub probing: Probing,
    /// Its row of the matrix; none for pure evidence.
    pub row: Option<Row>,
    /// Failing counts as a kind of evidence of its own for a regional outage (cloud API, the clients' HTTP path).
    pub independent_evidence: bool,
    /// Kubernetes: namespace of the workloads. Empty for other kinds.
    pub namespace: String,
    /// Kubernetes: what has to run.
    pub workloads: Vec<WorkloadPolicy>,
    /// Kubernetes: manifests applied after a failover.
    pub manifests: Vec<String>,
    /// Kubernetes: config map keys set after a failover, as (object, key, value).
    pub after_failover: Vec<(String, String, String)>,
    /// Database, cache, storage: the keys that name the serving instance, in every Kubernetes component.
    pub publications: Vec<Publication>,
    /// Database: what happens where the old primary cannot be fenced.
    pub unfenced_promotion: UnfencedPromotion,
    /// Database: a fence is configured (we know which roles to lock out).
    pub fence: bool,
    /// Database: the fence can be put up before its standby is promoted. One by roles alone travels with the log.
    #[serde(default)]
    pub fences_ahead: bool,
    /// Database: where its role is not confirmed any more, a guardian beside it makes it refuse writes within this long.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "friendly::option")]
    pub demotion: Option<Duration>,
    /// Database: how long an old primary may take to become a standby again; none where nothing says how.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "friendly::option")]
    pub rejoin: Option<Duration>,
    /// Database: what a promoted one is given, so that it outlives the next loss; none leaves that to a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protection: Option<Protection>,
    /// Storage: how long a planned move waits for the objects to arrive in the bucket that takes over; none does not look.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "friendly::option")]
    pub replication: Option<Duration>,
    /// Database, cache: moving it is done by a cloud API rather than by the service itself. For deadlines and warnings.
    pub managed: bool,
    /// Traffic: the DNS record change needs a control plane that lives in this region.
    pub control_plane: Option<RegionId>,
    /// Traffic: seconds that clients may go on using the old answer.
    #[serde(with = "friendly")]
    pub ttl: Duration,
}

impl ComponentPolicy {
    /// Clients are answered by it, and notice when it is only partly there: the service itself, and the cluster that it
    /// runs on. A database or a bucket is behind them, wherever they are.
    pub fn answers_clients(&self) -> bool {
        match self.kind {
            Kind::Http => self.critical || self.independent_evidence,
            Kind::Kubernetes => self.critical,
            Kind::Database | Kind::Cache | Kind::Storage | Kind::Cloud | Kind::Traffic | Kind::Holdings => false,
        }
    }
}

/// What a managed database that was promoted is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// A synchronous standby in another zone.
    pub multi_az: bool,
    /// Automatic backups, kept for at least so many days; none leaves them as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_days: Option<u8>,
    /// Until the cloud has accepted that.
    #[serde(with = "friendly")]
    pub deadline: Duration,
}

/// Something outside the deployment that answers while our own network works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferencePolicy {
    /// The region it lives in, where it lives in one of ours; a point in the suspected region does not count.
    pub region: Option<RegionId>,
    /// How it is probed.
    pub probing: Probing,
}

/// When everything that is critical fails together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionalPolicy {
    /// Failing together for this long.
    #[serde(with = "friendly")]
    pub after: Duration,
    /// How many critical components have to fail; none means all of them.
    pub critical_failing: Option<u32>,
}

/// When critical services are only partly available (level 3), and what is done.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DegradationPolicy {
    /// Degraded for this long.
    #[serde(with = "friendly")]
    pub after: Duration,
    /// Failing share of recent probes from which an instance is degraded, 0 to 1.
    pub ratio: f64,
    /// Share of the traffic, in percent, that moves to the standby; 0 only reports.
    pub reroute_percent: u8,
}

/// When a workload is brought back where it is (level 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealingPolicy {
    /// At all.
    pub enabled: bool,
    /// Too few ready replicas for this long, while the cluster answers.
    #[serde(with = "friendly")]
    pub after: Duration,
}

/// When a zone of the active region is lost (level 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZonePolicy {
    /// At all.
    pub enabled: bool,
    /// None of its nodes ready for this long, while nodes of other zones are.
    #[serde(with = "friendly")]
    pub after: Duration,
}

/// Reasons not to act, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardPolicy {
    /// A component that was moved less than this ago is not moved again unless somebody acknowledged it.
    #[serde(with = "friendly")]
    pub cooldown: Duration,
    /// Incidents that may be acted upon in 24 hours.
    pub incidents_per_day: u32,
    /// An approval that is not used within this time has to be given again.
    #[serde(with = "friendly")]
    pub approval_expires: Duration,
    /// A pause lasts at most this long.
    #[serde(with = "friendly")]
    pub pause_max: Duration,
    /// A look at a later step is believed for this long.
    #[serde(with = "friendly")]
    pub look_fresh: Duration,
    /// Looks and held commit points are tried again after this.
    #[serde(with = "friendly")]
    pub recheck: Duration,
    /// A second unwinding within this time holds and pages.
    #[serde(with = "friendly")]
    pub unwind_once_per: Duration,
}

/// How long each kind of step may take. Cited in `config/default.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the keys are documented in config/default.toml, one by one, with their source
pub struct Deadlines {
    #[serde(with = "friendly")]
    pub declare: Duration,
    #[serde(with = "friendly")]
    pub replicas: Duration,
    #[serde(with = "friendly")]
    pub reschedule: Duration,
    #[serde(with = "friendly")]
    pub fence: Duration,
    #[serde(with = "friendly")]
    pub fence_managed: Duration,
    #[serde(with = "friendly")]
    pub promote: Duration,
    #[serde(with = "friendly")]
    pub promote_managed: Duration,
    #[serde(with = "friendly")]
    pub publish: Duration,
    #[serde(with = "friendly")]
    pub rollout: Duration,
    #[serde(with = "friendly")]
    pub cache: Duration,
    #[serde(with = "friendly")]
    pub cache_managed: Duration,
    #[serde(with = "friendly")]
    pub storage: Duration,
    #[serde(with = "friendly")]
    pub traffic: Duration,
    #[serde(with = "friendly")]
    pub manifests: Duration,
    #[serde(with = "friendly")]
    pub catch_up: Duration,
    #[serde(with = "friendly")]
    pub verify: Duration,
}

/// Everything the core knows of the operators' wishes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Name of the deployment.
    pub deployment: String,
    /// What may be done without a person.
    pub mode: Mode,
    /// This daemon.
    pub observer: ObserverId,
    /// Where this daemon stands. Not one of the deployment's regions for a bastion elsewhere.
    pub observer_region: RegionId,
    /// The regions and their roles.
    pub regions: BTreeMap<RegionId, Role>,
    /// The components.
    pub components: BTreeMap<ComponentId, ComponentPolicy>,
    /// Those it decides with.
    pub council: CouncilPolicy,
    /// How a region that is cut off stops; none where no roles are served, so that nobody would notice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<RolePolicy>,
    /// Reference points for self-doubt.
    pub references: BTreeMap<ReferenceId, ReferencePolicy>,
    /// Objectives of each level.
    pub levels: BTreeMap<Level, Objectives>,
    /// Share of failed probes in a window from which an instance is failing, 0 to 1.
    pub failing_ratio: f64,
    /// Alive for this long means recovered.
    #[serde(with = "friendly")]
    pub recover_for: Duration,
    /// Level 1.
    pub regional: RegionalPolicy,
    /// Level 3.
    pub degradation: DegradationPolicy,
    /// Level 4, in place.
    pub healing: HealingPolicy,
    /// Level 2.
    pub zones: ZonePolicy,
    /// Guards.
    pub guards: GuardPolicy,
    /// Deadlines of steps.
    pub deadlines: Deadlines,
    /// Checks of the end state.
    pub checks: Vec<CheckPolicy>,
    /// They are run again this often while something is served elsewhere than in the primary region; zero: never.
    #[serde(with = "friendly")]
    pub verify_every: Duration,
    /// The way back.
    pub failback: FailbackPolicy,
    /// An automatic failover has to be done within this time (the document: 15 minutes).
    #[serde(with = "friendly")]
    pub failover_within: Duration,
}

impl Policy {
    /// The region with the role `primary`.
    pub fn primary(&self) -> Option<&RegionId> {
        self.region_with(Role::Primary)
    }

    /// The first region with `role`.
    pub fn region_with(&self, role: Role) -> Option<&RegionId> {
        self.regions.iter().find(|(_, r)| **r == role).map(|(region, _)| region)
    }

    /// Where `component` goes when `source` is lost: the warm region that is not lost and has an instance of it.
    pub fn target_of(&self, component: &ComponentId, source: &RegionId) -> Option<&RegionId> {
        let policy = self.components.get(component)?;
        [Role::Primary, Role::Secondary].into_iter().find_map(|role| {
            self.regions
                .iter()
                .find(|(region, r)| **r == role && *region != source && policy.regions.contains(*region))
                .map(|(region, _)| region)
        })
    }

    /// Every instance there is.
    pub fn instances(&self) -> impl Iterator<Item = InstanceId> + '_ {
        self.components.iter().flat_map(|(component, policy)| {
            policy.regions.iter().map(|region| InstanceId { component: component.clone(), region: region.clone() })
        })
    }

    /// The components of one kind.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&ComponentId, &ComponentPolicy)> {
        self.components.iter().filter(move |(_, policy)| policy.kind == kind)
    }

    /// The RTO and RPO of a level. Configurations without one are refused, so the fallback is never seen.
    pub fn objectives(&self, level: Level) -> Objectives {
        self.levels.get(&level).copied().unwrap_or(Objectives { rto: self.failover_within, rpo: Duration::ZERO })
    }
}
