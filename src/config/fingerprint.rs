//! What an instance's address and credentials hash to.
//!
//! Written out field by field rather than derived, so that a new version of failoverd with the same configuration has
//! the same fingerprints: an upgrade in the middle of an outage must not forget that the instance was once alive.

use std::borrow::Cow;
use std::path::Path;

use super::SecretSource;
use super::schema::{
    BucketRegion, Cache, CacheRegion, CacheTopology, Cloud, CloudRegion, Cluster, ClusterRegion, Config, Database,
    DatabaseRegion, HttpRegion, Region, TlsMode, Traffic, TrafficRegion,
};
use crate::domain::RegionId;

/// Collects the settings of one instance.
pub(super) struct Settings(blake3::Hasher);

impl Settings {
    fn new(kind: &str) -> Self {
        let mut settings = Self(blake3::Hasher::new());
        settings.put("kind", kind);
        settings
    }

    /// What every client of a region uses.
    fn of_region(kind: &str, config: &Config, id: &RegionId) -> Self {
        let mut settings = Self::new(kind);
        if let Some(Region { endpoints, ca_file, credentials, .. }) = config.regions.get(id) {
            settings.maybe("ca_file", ca_file.as_deref().map(name_of));
            settings.maybe("ec2", endpoints.ec2.as_deref());
            settings.maybe("rds", endpoints.rds.as_deref());
            settings.maybe("elasticache", endpoints.elasticache.as_deref());
            settings.maybe("s3", endpoints.s3.as_deref());
            settings.maybe("route53", endpoints.route53.as_deref());
            settings.secret("access_key", credentials.as_ref().map(|credentials| &credentials.access_key));
            settings.secret("secret_key", credentials.as_ref().map(|credentials| &credentials.secret_key));
        }
        settings
    }

    /// Lengths first, so that no two lists of settings look the same.
    fn put(&mut self, name: &str, value: &str) {
        for text in [name, value] {
            self.0.update(&(text.len() as u64).to_le_bytes());
            self.0.update(text.as_bytes());
        }
    }

    fn maybe(&mut self, name: &str, value: Option<impl AsRef<str>>) {
        if let Some(value) = value {
            self.put(name, value.as_ref());
        }
    }

    /// Where the secret is, never the secret: a fingerprint is recorded, and a rotated password is no new instance.
    fn secret(&mut self, name: &str, secret: Option<&SecretSource>) {
        match secret {
            Some(SecretSource::Environment { env }) => self.put(name, &format!("env {env}")),
            Some(SecretSource::File { file }) => self.put(name, &format!("file {}", name_of(file))),
            Some(SecretSource::Literal(_)) => self.put(name, "literal"),
            None => {}
        }
    }

    /// 16 hexadecimal digits: enough to tell the settings of one instance from those of yesterday.
    fn hash(self) -> String {
        self.0.finalize().to_hex()[..16].to_owned()
    }
}

/// A file by its name: the same one lies in different folders on the machines of different daemons, and each of them has
/// to know what the others saw alive.
fn name_of(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy()
}

pub(super) fn cluster(config: &Config, id: &RegionId, cluster: &Cluster, access: &ClusterRegion) -> String {
    let mut settings = Settings::of_region("kubernetes", config, id);
    settings.put("namespace", &cluster.namespace);
    settings.maybe("kubeconfig", access.kubeconfig.as_deref().map(name_of));
    settings.maybe("context", access.context.as_deref());
    settings.maybe("server", access.server.as_deref());
    settings.maybe("ca", access.ca_file.as_deref().map(name_of));
    settings.secret("token", access.token.as_ref());
    settings.hash()
}

pub(super) fn database(config: &Config, id: &RegionId, database: &Database, place: &DatabaseRegion) -> String {
    let mut settings = Settings::of_region("database", config, id);
    settings.put("name", &database.name);
    settings.put("user", &database.user);
    settings.secret("password", database.password.as_ref());
    settings.put(
        "tls",
        match database.tls {
            TlsMode::Disable => "disable",
            TlsMode::VerifyFull => "verify-full",
        },
    );
    settings.maybe("heartbeat_table", database.heartbeat_table.as_deref());
    settings.maybe("identifier", place.identifier.as_deref());
    settings.maybe("host", place.host.as_deref());
    settings.maybe("port", place.port.map(|port| port.to_string()));
    settings.hash()
}

pub(super) fn cache(config: &Config, id: &RegionId, cache: &Cache, place: &CacheRegion) -> String {
    let mut settings = Settings::of_region("cache", config, id);
    settings.maybe("username", cache.username.as_deref());
    settings.secret("password", cache.password.as_ref());
    settings.put("tls", if cache.tls { "yes" } else { "no" });
    settings.put(
        "topology",
        match place.topology {
            CacheTopology::Single => "single",
            CacheTopology::Cluster => "cluster",
        },
    );
    settings.maybe("replication_group", place.replication_group.as_deref());
    settings.maybe("host", place.host.as_deref());
    settings.maybe("port", place.port.map(|port| port.to_string()));
    settings.hash()
}

pub(super) fn bucket(config: &Config, id: &RegionId, place: &BucketRegion) -> String {
    let mut settings = Settings::of_region("storage", config, id);
    settings.put("bucket", &place.bucket);
    settings.hash()
}

pub(super) fn http(config: &Config, id: &RegionId, place: &HttpRegion) -> String {
    let mut settings = Settings::of_region("http", config, id);
    settings.put("url", &place.url);
    settings.maybe("connect_to", place.connect_to.map(|address| address.to_string()));
    settings.hash()
}

pub(super) fn cloud(config: &Config, id: &RegionId, cloud: &Cloud, place: &CloudRegion) -> String {
    let mut settings = Settings::of_region("cloud", config, id);
    settings.put("running_instances_min", &cloud.running_instances_min.to_string());
    for database in &place.databases {
        settings.put("database", database);
    }
    settings.hash()
}

/// What is looked for may change without its being another place.
pub(super) fn holdings(config: &Config, id: &RegionId) -> String {
    Settings::of_region("holdings", config, id).hash()
}

pub(super) fn traffic(config: &Config, id: &RegionId, traffic: &Traffic, place: &TrafficRegion) -> String {
    let mut settings = Settings::of_region("traffic", config, id);
    settings.put("zone_id", &traffic.zone_id);
    settings.put("record", &traffic.record);
    settings.put("control_region", traffic.control_region.as_str());
    settings.put("set_identifier", &place.set_identifier);
    settings.put("value", &place.value);
    if let Some(flip) = &place.flip {
        settings.put("flip", &format!("{} {} {}", flip.region, flip.bucket, flip.key));
    }
    settings.hash()
}
