//! Where the ledger is. A file, unless one of the tables for several daemons is there.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::Credentials;
use crate::config::SecretSource;
use crate::domain::time::friendly;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct LedgerConfig {
    /// For one daemon.
    pub path: PathBuf,
    /// For several.
    #[serde(default)]
    pub etcd: Option<EtcdLedger>,
    /// For several, without etcd.
    #[serde(default)]
    pub s3: Option<S3Ledger>,
    /// A file whose presence stops every effect, without any ledger.
    pub stop_file: PathBuf,
    /// How long a permit to act lasts after its facts were decided.
    #[serde(with = "friendly")]
    pub permit: Duration,
    /// Longest timeout of one mutating call.
    #[serde(with = "friendly")]
    pub call_timeout: Duration,
}

impl LedgerConfig {
    /// Several daemons use it.
    pub fn is_shared(&self) -> bool {
        self.etcd.is_some() || self.s3.is_some()
    }

    /// How long a leader leads without having renewed that, where several daemons share it; as on etcd where they do not.
    pub fn lease(&self) -> Duration {
        let etcd = self.etcd.as_ref().map(|etcd| etcd.lease);
        etcd.or_else(|| self.s3.as_ref().map(|s3| s3.lease)).unwrap_or_else(etcd_lease)
    }
}

/// An etcd cluster, of version 3.4 or later.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct EtcdLedger {
    /// Client URLs of the members, `http://` or `https://`, all alike. The first ones are preferred.
    pub endpoints: Vec<String>,
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub password: Option<SecretSource>,
    /// Trusted in addition to the system's authorities.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Client certificate, with `key_file`.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// Before every key; the deployment's name follows.
    #[serde(default = "etcd_prefix")]
    pub prefix: String,
    /// How long a leader that is not heard of stays the leader.
    #[serde(default = "etcd_lease", with = "friendly")]
    pub lease: Duration,
    /// The leader removes revisions that are older; zero where something else does.
    #[serde(default = "etcd_compact_after", with = "friendly")]
    pub compact_after: Duration,
}

/// A bucket with conditional writes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct S3Ledger {
    pub bucket: String,
    pub region: String,
    /// Base URL of a store that is not AWS; paths then begin with the bucket.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Trusted in addition to the system's authorities.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// None means the SDK's default chain.
    #[serde(default)]
    pub credentials: Option<Credentials>,
    /// Before every key; the deployment's name follows.
    #[serde(default = "s3_prefix")]
    pub prefix: String,
    /// How long a leader that is not heard of stays the leader.
    #[serde(default = "s3_lease", with = "friendly")]
    pub lease: Duration,
    /// How often the bucket is looked at.
    #[serde(default = "s3_poll", with = "friendly")]
    pub poll: Duration,
}

fn etcd_prefix() -> String {
    "/failoverd/".to_owned()
}

fn s3_prefix() -> String {
    "failoverd/".to_owned()
}

fn etcd_lease() -> Duration {
    Duration::from_secs(10)
}

fn s3_lease() -> Duration {
    Duration::from_secs(20)
}

fn s3_poll() -> Duration {
    Duration::from_secs(2)
}

/// Long after anybody has use for them: who watches and falls behind reads everything anew.
fn etcd_compact_after() -> Duration {
    Duration::from_secs(300)
}
