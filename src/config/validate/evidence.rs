//! HTTP services, the clouds' own views, and reference points: what is only looked at.

use std::collections::BTreeSet;

use super::topology::undefined_region;
use super::{Findings, names};
use crate::config::convert::probing;
use crate::config::{Config, Key};
use crate::domain::time::human;

pub(super) fn check(config: &Config, findings: &mut Findings<'_>) {
    http(config, findings);
    for (id, cloud) in &config.clouds {
        for (region, place) in &cloud.regions {
            let key = Key::of(["clouds", id.as_str(), "regions", region.as_str(), "databases"]);
            for (n, database) in place.databases.iter().enumerate() {
                if let Some(wrong) = names::identifier(database) {
                    findings.wrong(key.index(n), wrong);
                }
            }
        }
    }
    references(config, findings);
}

fn http(config: &Config, findings: &mut Findings<'_>) {
    for (id, http) in &config.http {
        let key = Key::of(["http", id.as_str()]);
        if !(100..=599).contains(&http.status) {
            findings.wrong(key.child("status"), "not an HTTP status; write 100 to 599");
        }
        let probing = probing(&config.probes, http.probe);
        if let Some(limit) = http.latency_max
            && limit >= probing.timeout
        {
            let text = format!(
                "{} can never be exceeded, because a probe ends after {}; write less",
                human(limit),
                human(probing.timeout)
            );
            findings.wrong(key.child("latency_max"), text);
        }
        for (region, place) in &http.regions {
            if let Some(wrong) = names::url(&place.url) {
                findings.wrong(key.child("regions").child(region.as_str()).child("url"), wrong);
            }
        }
    }
}

fn references(config: &Config, findings: &mut Findings<'_>) {
    let own = own_hosts(config);
    let mut seen = BTreeSet::new();
    for (id, reference) in &config.references {
        let key = Key::of(["references", id.as_str()]);
        if let Some(wrong) = names::id(id.as_str()) {
            findings.wrong(key.clone(), wrong);
        }
        if let Some(wrong) = names::reference(&reference.address) {
            findings.wrong(key.child("address"), wrong);
            continue;
        }
        let host = names::host_of(&reference.address);
        if own.contains(host) && !names::is_loopback(host) {
            let text =
                format!("`{host}` is part of the deployment; a reference point has to answer while that is lost");
            findings.wrong(key.child("address"), text);
        }
        if !seen.insert(&reference.address) {
            findings.wrong(key.child("address"), "listed twice; it would count as two, write another point");
        }
        if let Some(region) = &reference.region
            && !config.regions.contains_key(region)
            && *region != config.observer.region
        {
            let text = undefined_region(config, region);
            findings.wrong(key.child("region"), format!("{text} (leave it out for a point outside of all regions)"));
        }
    }
}

/// Every host that the deployment consists of.
fn own_hosts(config: &Config) -> BTreeSet<&str> {
    let mut hosts = BTreeSet::new();
    for cluster in config.clusters.values() {
        hosts.extend(cluster.regions.values().filter_map(|place| place.server.as_deref()).map(names::host_of));
    }
    for database in config.databases.values() {
        hosts.extend(database.regions.values().filter_map(|place| place.host.as_deref()));
    }
    for cache in config.caches.values() {
        hosts.extend(cache.regions.values().filter_map(|place| place.host.as_deref()));
    }
    for http in config.http.values() {
        hosts.extend(http.regions.values().map(|place| names::host_of(&place.url)));
    }
    for traffic in config.traffic.values() {
        hosts.insert(traffic.record.as_str());
        hosts.extend(traffic.regions.values().map(|place| place.value.as_str()));
    }
    hosts
}
