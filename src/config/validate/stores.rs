//! Databases, caches and buckets.

use std::collections::BTreeMap;

use super::daemon::positive;
use super::{Findings, names};
use crate::config::schema::{Cache, CacheProvider, Database, DatabaseProvider, TlsMode};
use crate::config::{Config, Key};
use crate::domain::{Mode, RegionId, UnfencedPromotion};

/// Beyond this an ElastiCache shard takes no replicas: one primary and five replicas.
const CACHE_CLUSTERS_MAX: u32 = 6;
/// RDS keeps automatic backups so many days (ModifyDBInstance, BackupRetentionPeriod).
const BACKUP_DAYS_MAX: u8 = 35;

pub(super) fn check(config: &Config, findings: &mut Findings<'_>) {
    for (id, database) in &config.databases {
        let key = Key::of(["databases", id.as_str()]);
        database_itself(&key, database, findings);
        database_regions(&key, database, findings);
        fence(&key, config.deployment.mode, database, findings);
        demotion(&key, config, database, findings);
        rejoin(&key, database, findings);
        protect(&key, database, findings);
    }
    for (id, cache) in &config.caches {
        cache_itself(&Key::of(["caches", id.as_str()]), cache, findings);
    }
    for (id, bucket) in &config.buckets {
        if let Some(within) = bucket.replicated_within {
            positive(findings, Key::of(["buckets", id.as_str(), "replicated_within"]), within);
        }
        let key = Key::of(["buckets", id.as_str(), "regions"]);
        let mut twice = Twice::default();
        for (region, place) in &bucket.regions {
            let key = key.child(region.as_str()).child("bucket");
            if let Some(wrong) = names::bucket(&place.bucket) {
                findings.wrong(key.clone(), wrong);
            }
            twice.look(key, region, place.bucket.clone(), "bucket", findings);
        }
    }
}

fn database_itself(key: &Key, database: &Database, findings: &mut Findings<'_>) {
    if database.name.is_empty() {
        findings.wrong(key.child("name"), "empty; write the name of the database, such as \"postgres\"");
    }
    if database.user.is_empty() {
        findings.wrong(key.child("user"), "empty; write the login role of failoverd");
    }
    if database.password.is_none() {
        let text = "not set: only a server that trusts this address or its client certificate lets us in";
        findings.warn(key.child("password"), text);
    }
    if let Some(table) = &database.heartbeat_table {
        let good = match table.split_once('.') {
            Some((schema, table)) => names::sql_identifier(schema) && names::sql_identifier(table),
            None => false,
        };
        if !good {
            let text = format!("`{table}` is not a table; write \"schema.table\" in lower case");
            findings.wrong(key.child("heartbeat_table"), text);
        }
    } else if database.create_heartbeat_table {
        let text = "which one is not said; write heartbeat_table, or leave this out";
        findings.wrong(key.child("create_heartbeat_table"), text);
    }
    for (table, column) in &database.watermarks {
        let key = key.child("watermarks").child(table);
        if !table.split('.').all(names::sql_identifier) || table.split('.').count() > 2 {
            findings.wrong(key, format!("`{table}` is not a table; write \"table\" or \"schema.table\" in lower case"));
        } else if !names::sql_identifier(column) {
            findings.wrong(
                key,
                format!("`{column}` is not a column; write its name in lower case, such as \"created_at\""),
            );
        }
    }
}

fn database_regions(key: &Key, database: &Database, findings: &mut Findings<'_>) {
    let mut twice = Twice::default();
    for (region, place) in &database.regions {
        let key = key.child("regions").child(region.as_str());
        match (database.provider, &place.identifier) {
            (DatabaseProvider::Rds, Some(identifier)) => {
                if let Some(wrong) = names::identifier(identifier) {
                    findings.wrong(key.child("identifier"), wrong);
                }
            }
            (DatabaseProvider::Rds, None) => {
                findings.wrong(key.child("identifier"), "missing; RDS needs the identifier of the instance");
            }
            (DatabaseProvider::Postgres, Some(_)) => {
                findings.wrong(key.child("identifier"), "only RDS has identifiers; write host, or provider = \"rds\"");
            }
            (DatabaseProvider::Postgres, None) if place.host.is_none() => {
                findings.wrong(key.child("host"), "missing; write the name or address of the server");
            }
            (DatabaseProvider::Postgres, None) => {}
        }
        address(&key, region, place.host.as_deref(), place.port, &mut twice, findings);
        let local = place.host.as_deref().is_some_and(names::is_loopback);
        if database.tls == TlsMode::Disable && !local {
            let text = "tls = \"disable\" sends queries, and perhaps the password, in the clear to another machine";
            findings.warn(key, text);
        }
    }
}

fn fence(key: &Key, mode: Mode, database: &Database, findings: &mut Findings<'_>) {
    match database.unfenced_promotion {
        UnfencedPromotion::Allow => findings.warn(
            key.child("unfenced_promotion"),
            "\"allow\" promotes although the old primary may still take writes; each use is recorded as an exception",
        ),
        UnfencedPromotion::Approve if mode == Mode::Automatic => findings.warn(
            key.child("unfenced_promotion"),
            "where the old primary cannot be reached to be fenced, promotion waits for `failoverd approve`",
        ),
        UnfencedPromotion::Approve => {}
    }
    let Some(fence) = &database.fence else {
        let text = "none: a reachable old primary is not made to refuse writes; write the application's login roles";
        findings.warn(key.child("fence"), text);
        return;
    };
    let key = key.child("fence");
    if fence.application_roles.is_empty() {
        let text = "empty, so that nobody would be locked out; write the application's login roles";
        findings.wrong(key.child("application_roles"), text);
    }
    if fence.application_roles.contains(&database.user) {
        let text =
            format!("`{}` is failoverd's own role; it would lock itself out, write the others only", database.user);
        findings.wrong(key.child("application_roles"), text);
    }
    for (n, role) in fence.application_roles.iter().enumerate() {
        if role.is_empty() || role.len() > 63 || role.chars().any(char::is_control) {
            findings.wrong(key.child("application_roles").index(n), "not the name of a role; write 1 to 63 characters");
        }
    }
    if let Some(proof) = &fence.prove_as
        && !fence.application_roles.contains(&proof.role)
    {
        let text = format!("`{}` is not one of application_roles; its write would prove nothing", proof.role);
        findings.wrong(key.child("prove_as").child("role"), text);
    }
    match (&fence.security_group, database.provider) {
        (Some(_), DatabaseProvider::Postgres) => {
            findings.wrong(key.child("security_group"), "only RDS instances have security groups; leave it out");
        }
        (Some(group), DatabaseProvider::Rds) if !group.starts_with("sg-") => {
            findings.wrong(key.child("security_group"), format!("`{group}` is not a security group; write \"sg-…\""));
        }
        (Some(_), DatabaseProvider::Rds) | (None, _) => {}
    }
}

/// A guardian has to know how, and somebody has to serve the role that it waits for.
fn demotion(key: &Key, config: &Config, database: &Database, findings: &mut Findings<'_>) {
    let Some(demote) = &database.demote else { return };
    let key = key.child("demote");
    positive(findings, key.child("deadline"), demote.deadline);
    if config.api.role_listen.is_none() {
        let text = "nothing says whether the role is confirmed: write api.role_listen, or leave this out";
        findings.wrong(key.clone(), text);
    }
    match (&demote.command, &demote.restore) {
        (Some(argv), Some(back)) if argv.is_empty() || back.is_empty() => {
            findings.wrong(key.child("command"), "empty; write [\"program\", \"argument\"]");
        }
        (Some(_), None) | (None, Some(_)) => {
            let text = "`command` and `restore` go together: what one does, the other takes back";
            findings.wrong(key.child("command"), text);
        }
        (None, None) if database.fence.is_none() => {
            let text = "there is no fence to put up: write [databases.NAME.fence], or `command` and `restore`";
            findings.wrong(key.clone(), text);
        }
        (None, None) if database.provider == DatabaseProvider::Rds => {
            let text = "an RDS instance is fenced by AWS, which may be what cannot be reached; write `command` and \
                        `restore`, or leave this out";
            findings.wrong(key.clone(), text);
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
}

/// Somebody has to do it, in some time.
fn rejoin(key: &Key, database: &Database, findings: &mut Findings<'_>) {
    let Some(rejoin) = &database.rejoin else { return };
    let key = key.child("rejoin");
    positive(findings, key.child("deadline"), rejoin.deadline);
    match (&rejoin.command, database.provider) {
        (Some(argv), _) if argv.first().is_none_or(String::is_empty) => {
            findings.wrong(key.child("command"), "empty; write [\"program\", \"argument\"]");
        }
        (None, DatabaseProvider::Postgres) => {
            findings.wrong(key.child("command"), "missing; write [\"program\", \"argument\"]");
        }
        (Some(_), _) | (None, DatabaseProvider::Rds) => {}
    }
}

/// RDS is asked for something that it can give.
fn protect(key: &Key, database: &Database, findings: &mut Findings<'_>) {
    let Some(protect) = &database.protect else { return };
    let key = key.child("protect");
    positive(findings, key.child("deadline"), protect.deadline);
    if database.provider == DatabaseProvider::Postgres {
        findings.wrong(key, "only RDS is asked for a standby and for backups; leave it out");
        return;
    }
    match protect.backup_days {
        Some(days) if !(1..=BACKUP_DAYS_MAX).contains(&days) => {
            let text = format!("out of range; write 1 to {BACKUP_DAYS_MAX}: RDS keeps automatic backups no longer");
            findings.wrong(key.child("backup_days"), text);
        }
        None if !protect.multi_az => {
            findings.wrong(key, "asks for nothing; write multi_az = true, backup_days, or both; or leave it out");
        }
        Some(_) | None => {}
    }
}

fn cache_itself(key: &Key, cache: &Cache, findings: &mut Findings<'_>) {
    if cache.username.is_some() && cache.password.is_none() {
        let text =
            "missing; a username without a password opens nothing, write { env = \"NAME\" } or { file = \"/path\" }";
        findings.wrong(key.child("password"), text);
    }
    match (cache.provider, cache.cache_clusters) {
        (CacheProvider::Elasticache, Some(number)) if !(1..=CACHE_CLUSTERS_MAX).contains(&number) => {
            let text = format!("out of range; write 1 to {CACHE_CLUSTERS_MAX}: one primary and up to five replicas");
            findings.wrong(key.child("cache_clusters"), text);
        }
        (CacheProvider::Redis, Some(_)) => {
            findings.wrong(key.child("cache_clusters"), "only ElastiCache adds replicas; leave it out");
        }
        (CacheProvider::Elasticache | CacheProvider::Redis, Some(_) | None) => {}
    }
    let mut twice = Twice::default();
    for (region, place) in &cache.regions {
        let key = key.child("regions").child(region.as_str());
        match (cache.provider, &place.replication_group) {
            (CacheProvider::Elasticache, Some(group)) => {
                if let Some(wrong) = names::identifier(group) {
                    findings.wrong(key.child("replication_group"), wrong);
                }
            }
            (CacheProvider::Elasticache, None) => {
                findings.wrong(key.child("replication_group"), "missing; ElastiCache needs the replication group");
            }
            (CacheProvider::Redis, Some(_)) => {
                let text = "only ElastiCache has replication groups; write host, or provider = \"elasticache\"";
                findings.wrong(key.child("replication_group"), text);
            }
            (CacheProvider::Redis, None) if place.host.is_none() => {
                findings.wrong(key.child("host"), "missing; write the name or address of the server");
            }
            (CacheProvider::Redis, None) => {}
        }
        address(&key, region, place.host.as_deref(), place.port, &mut twice, findings);
    }
}

fn address(
    key: &Key,
    region: &RegionId,
    host: Option<&str>,
    port: Option<u16>,
    twice: &mut Twice,
    findings: &mut Findings<'_>,
) {
    if let Some(wrong) = host.and_then(names::host) {
        findings.wrong(key.child("host"), wrong);
    }
    if port == Some(0) {
        findings.wrong(key.child("port"), "0 is not a port; write 1 to 65535, or leave it out");
    }
    if let Some(host) = host {
        twice.look(key.child("host"), region, format!("{host}:{}", port.unwrap_or_default()), "address", findings);
    }
}

/// The same thing in two regions: a failover would move the work to what has just failed. Identifiers of RDS and
/// ElastiCache are not looked at, because they are unique within a region only.
#[derive(Default)]
struct Twice(BTreeMap<(&'static str, String), RegionId>);

impl Twice {
    fn look(&mut self, key: Key, region: &RegionId, name: String, what: &'static str, findings: &mut Findings<'_>) {
        if let Some(other) = self.0.insert((what, name.clone()), region.clone()) {
            let text =
                format!("the same {what} (`{}`) as in {other}; write that of {region}", name.trim_end_matches(":0"));
            findings.wrong(key, text);
        }
    }
}
