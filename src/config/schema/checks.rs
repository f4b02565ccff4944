//! The checks of the end state.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;

use super::components::ok;
use crate::config::SecretSource;
use crate::domain::time::friendly;
use crate::domain::{ComponentId, RegionId};

/// A check of the end state. Exactly one of `http`, `prometheus`, `sql`, `pods`, `workloads`, `canary`, `dns` and `command`.
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
    pub prometheus: Option<PrometheusCheck>,
    #[serde(default)]
    pub sql: Option<SqlCheck>,
    #[serde(default)]
    pub pods: Option<PodsCheck>,
    #[serde(default)]
    pub workloads: Option<WorkloadsCheck>,
    #[serde(default)]
    pub canary: Option<CanaryCheck>,
    #[serde(default)]
    pub dns: Option<DnsCheck>,
    #[serde(default)]
    pub command: Option<CommandCheck>,
}

impl Check {
    /// The component that it looks at, where it is one.
    pub fn about(&self) -> Option<&ComponentId> {
        let about = [
            self.sql.as_ref().map(|sql| &sql.database),
            self.pods.as_ref().map(|pods| &pods.cluster),
            self.workloads.as_ref().map(|workloads| &workloads.cluster),
            self.canary.as_ref().map(|canary| &canary.component),
            self.dns.as_ref().and_then(|dns| dns.traffic.as_ref()),
        ];
        about.into_iter().flatten().next()
    }
}

/// When the checks are run again.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Verification {
    #[serde(with = "friendly")]
    pub every: Duration,
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
    /// What the JSON of the answer has to hold: a pointer (RFC 6901) and a value as text; `*` is any but null.
    #[serde(default)]
    pub answer: BTreeMap<String, String>,
    /// A right answer that took longer is none.
    #[serde(default, with = "friendly::option")]
    pub latency_max: Option<Duration>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Headers whose values nobody shall read, such as `Authorization`.
    #[serde(default)]
    pub secret_headers: BTreeMap<String, SecretSource>,
    /// For methods that change something: the operator declares that sending it again does no harm.
    #[serde(default)]
    pub repeatable: bool,
    /// Connect here per region instead of where the name resolves to.
    #[serde(default)]
    pub connect_to: BTreeMap<RegionId, SocketAddr>,
}

/// A number that a Prometheus server knows, such as an error ratio.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct PrometheusCheck {
    /// The server's base URL; `{region}` is replaced by the region that is meant.
    pub url: String,
    /// An instant query, with the same replacement.
    pub query: String,
    /// Every number of the answer is at least this.
    #[serde(default)]
    pub min: Option<f64>,
    /// And at most this.
    #[serde(default)]
    pub max: Option<f64>,
    #[serde(default)]
    pub secret_headers: BTreeMap<String, SecretSource>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct SqlCheck {
    pub database: ComponentId,
    pub query: String,
    /// The first column of the first row, as text. Without this and the others any answer will do.
    #[serde(default)]
    pub equals: Option<String>,
    /// The same as a number: no less, such as 1 for a `COUNT(*)`.
    #[serde(default)]
    pub min: Option<f64>,
    /// No more, such as of dead tuples.
    #[serde(default)]
    pub max: Option<f64>,
    /// The same as a time, by the server's own clock: no longer ago, such as of a `MAX(created_at)`.
    #[serde(default, with = "friendly::option")]
    pub newest_within: Option<Duration>,
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

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct WorkloadsCheck {
    /// Each of its workloads has as many ready replicas as it needs while its cluster serves.
    pub cluster: ComponentId,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct CanaryCheck {
    /// A database or a cache: something is written there, read back and taken away again.
    pub component: ComponentId,
}

/// What clients are told. Of a `traffic` component, or of any record.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct DnsCheck {
    /// Its record and its addresses are meant.
    #[serde(default)]
    pub traffic: Option<ComponentId>,
    #[serde(default)]
    pub record: Option<String>,
    /// By the region that serves: every answer is one of these.
    #[serde(default)]
    pub addresses: BTreeMap<RegionId, BTreeSet<Ipv4Addr>>,
    /// Empty: the servers that are responsible for the record's zone.
    #[serde(default)]
    pub nameservers: Vec<SocketAddr>,
}
