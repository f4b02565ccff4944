//! The checks of the end state.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Deserialize;

use super::components::ok;
use crate::domain::{ComponentId, RegionId};

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
