//! What one probe of one instance found.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::InstanceId;
use super::time::friendly;

/// How deep a probe got before it failed, outermost first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// The name did not resolve, while reference names did.
    Dns,
    /// No connection.
    Tcp,
    /// Connected, no TLS session.
    Tls,
    /// Connected, but the service did not greet as it should.
    Greeting,
    /// The service greeted and could not answer a question.
    Query,
    /// It answers, in the wrong role (an active database in recovery).
    Role,
    /// It answers and cannot write.
    Write,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Greeting => "greeting",
            Self::Query => "query",
            Self::Role => "role",
            Self::Write => "write",
        })
    }
}

/// What a probe concluded about the instance at that moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "finding")]
pub enum Finding {
    /// It answered. An answer that refuses our credential is alive too.
    Alive,
    /// It failed at `layer`.
    Failing {
        /// Where it failed.
        layer: Layer,
        /// What was seen, for a person.
        why: String,
    },
    /// Nothing can be said, and the reason lies with us (our resolver, our sockets, our starvation, our trust store).
    Unknown {
        /// What was seen, for a person.
        why: String,
    },
}

/// Whether a replicated instance takes writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Serving {
    /// It accepts writes.
    Writable,
    /// It follows another instance.
    Replica,
}

/// How many replicas a workload has, as its cluster says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadSeen {
    /// Its name, as configured.
    pub name: String,
    /// Ready ones.
    pub ready: u32,
    /// As many as it is scaled to.
    pub wanted: u32,
}

/// The nodes of one zone of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneSeen {
    /// Its name, as the nodes are labelled.
    pub name: String,
    /// Ready nodes.
    pub ready: u32,
    /// All of them.
    pub nodes: u32,
}

impl ZoneSeen {
    /// None of its nodes is ready.
    pub fn is_dark(&self) -> bool {
        self.ready == 0 && self.nodes > 0
    }
}

/// What came with the finding. Everything is optional: an empty or missing field is unknown, never a default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    /// From the start of the probe to its answer.
    #[serde(with = "friendly::option", skip_serializing_if = "Option::is_none")]
    pub latency: Option<Duration>,
    /// Writable or replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<Serving>,
    /// Position in the write-ahead log, in bytes: written on a primary, received and replayable on a standby.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// The service answered and refused our credential: it lives, and we could not act there.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub credential_refused: bool,
    /// It works, but not well (too many connections, over the latency limit, not all workloads ready).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
    /// Kubernetes: the configured workloads; one that does not exist has none of anything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workloads: Vec<WorkloadSeen>,
    /// Kubernetes: the zones of the cluster, where its nodes may be listed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<ZoneSeen>,
    /// Why this instance could not take over right now, one sentence each (an RDS replica that is `backing-up`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_ready: Vec<String>,
    /// Worth a look tomorrow: a certificate that expires soon, replication configured but failing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Anything else a person may want to see, as `name=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

/// The result of one probe of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// Whom it is about.
    pub instance: InstanceId,
    /// Monotonic time at which the probe began. A window starts at the beginning of its first failed probe.
    #[serde(with = "friendly")]
    pub began: Duration,
    /// Monotonic time at which it ended.
    #[serde(with = "friendly")]
    pub ended: Duration,
    /// What it concluded.
    #[serde(flatten)]
    pub finding: Finding,
    /// What it saw.
    #[serde(flatten)]
    pub evidence: Evidence,
}
