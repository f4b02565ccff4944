//! The outside world. The only folder (besides `ledger`) that names an SDK; nothing here decides anything.

pub mod aws;
pub mod http;
pub mod kubernetes;
pub mod postgres;
pub mod redis;

use async_trait::async_trait;

use crate::domain::InstanceId;
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
