//! The outside world. The only folder (besides `ledger`) that names an SDK; nothing here decides anything.

pub mod aws;
pub mod command;
pub mod connect;
pub mod dns;
pub mod failure;
pub mod http;
pub mod kubernetes;
pub mod names;
pub mod postgres;
pub mod redis;
pub mod resolver;
pub mod world;

use async_trait::async_trait;

use crate::domain::{Evidence, InstanceId};
use crate::ports::Setback;

/// Where an instance answers, asked of whoever knows: the configuration, or the cloud's Describe call.
///
/// Guarantees: never builds a name from strings. Remembers the last good answer of a Describe call, so that a
/// control plane that is down does not make a healthy data plane look dead (`recent` answers from there at once).
#[async_trait]
pub trait Endpoints: Send + Sync {
    /// Host and port as of now: a Describe call where the instance is managed. For steps.
    async fn current(&self, instance: &InstanceId) -> Result<Endpoint, Setback>;
    /// Host and port, from memory where there is one. For probes.
    async fn recent(&self, instance: &InstanceId) -> Result<Endpoint, Setback>;
}

/// A network address by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Whether an instance could take over, as far as somebody other than the instance itself knows: the cloud's view of
/// a managed database or cache (`backing-up`, too few nodes, replication broken).
///
/// Guarantees: bounded by the cloud client's own timeouts, and an answer that cannot be had is an entry in
/// `warnings`, never in `not_ready` (not knowing is not failing). The probe of the same instance merges it.
#[async_trait]
pub trait Readiness: Send + Sync {
    /// `not_ready`, `warnings`, `details` and `credential_refused`; empty for an instance that is not managed.
    async fn readiness(&self, instance: &InstanceId) -> Evidence;
}

/// Proves that a database or a cache takes writes, by writing.
///
/// Guarantees: a new connection to `at`, and a write that is read back. Repeating it does no harm.
#[async_trait]
pub trait WriteProof: Send + Sync {
    /// What was written and seen, for the record. `NotYet` while it still refuses writes as a standby does.
    async fn prove_writable(&self, instance: &InstanceId, at: &Endpoint) -> Result<String, Setback>;
}

/// Knows how a standby stands to its source, by what both servers say.
#[async_trait]
pub trait CatchUp: Send + Sync {
    /// What was seen, where the standby streams from its source; `NotYet` with what is there instead before that.
    async fn follows(&self, standby: &InstanceId, source: &InstanceId) -> Result<String, Setback>;
    /// Both positions, for the record, once the standby has everything; `NotYet` with what is missing before that.
    async fn caught_up(&self, standby: &InstanceId, source: &InstanceId) -> Result<String, Setback>;
}
