//! Who answers the clients.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::daemon::positive;
use super::topology::undefined_region;
use super::{Findings, names};
use crate::config::convert::control_plane_of;
use crate::config::schema::{Traffic, TrafficProvider};
use crate::config::{Config, Key};
use crate::domain::Role;
use crate::domain::time::human;

/// A TTL beyond this is a good part of the 15 minutes.
const TTL_LONG: Duration = Duration::from_secs(300);

pub(super) fn check(config: &Config, findings: &mut Findings<'_>) {
    for (id, traffic) in &config.traffic {
        let key = Key::of(["traffic", id.as_str()]);
        record(&key, traffic, findings);
        regions(config, &key, traffic, findings);
        control(config, &key, traffic, findings);
    }
}

fn record(key: &Key, traffic: &Traffic, findings: &mut Findings<'_>) {
    let zone = &traffic.zone_id;
    if zone.is_empty() || zone.len() > 32 || !zone.chars().all(|c| c.is_ascii_alphanumeric()) {
        let text =
            format!("`{zone}` is not a hosted zone; write its id, such as \"Z1234567890\" (without /hostedzone/)");
        findings.wrong(key.child("zone_id"), text);
    }
    let name = &traffic.record;
    if name.ends_with('.') || !name.contains('.') || names::host(name).is_some() {
        let text =
            format!("`{name}` is not a record; write the full name without a final dot, such as \"api.example.com\"");
        findings.wrong(key.child("record"), text);
    }
    positive(findings, key.child("ttl"), traffic.ttl);
    if traffic.ttl.subsec_nanos() != 0 {
        findings.wrong(key.child("ttl"), "a TTL is a whole number of seconds");
    }
    if traffic.ttl > TTL_LONG {
        let text = format!("clients may go on using the old answer for {}; 30s to 60s is usual", human(traffic.ttl));
        findings.warn(key.child("ttl"), text);
    }
}

fn regions(config: &Config, key: &Key, traffic: &Traffic, findings: &mut Findings<'_>) {
    let mut identifiers = BTreeMap::new();
    let mut values = BTreeMap::new();
    for (region, place) in &traffic.regions {
        let key = key.child("regions").child(region.as_str());
        if place.set_identifier.is_empty() || place.set_identifier.len() > 128 {
            findings.wrong(key.child("set_identifier"), "not usable; write 1 to 128 characters, such as \"primary\"");
        }
        if let Some(other) = identifiers.insert(place.set_identifier.as_str(), region) {
            let text = format!("the same as in {other}; each record of the set needs its own");
            findings.wrong(key.child("set_identifier"), text);
        }
        if place.value.parse::<Ipv4Addr>().is_err() {
            let text = format!("`{}` is not the value of an A record; write an IPv4 address", place.value);
            findings.wrong(key.child("value"), text);
        }
        if let Some(other) = values.insert(place.value.as_str(), region) {
            let text = format!("the same as in {other}; moving traffic would move nothing");
            findings.wrong(key.child("value"), text);
        }
        match (&place.flip, traffic.provider) {
            (Some(flip), TrafficProvider::DataPlaneFlip) => {
                if let Some(wrong) = names::bucket(&flip.bucket) {
                    findings.wrong(key.child("flip").child("bucket"), wrong);
                }
                if flip.key.is_empty() {
                    findings.wrong(key.child("flip").child("key"), "empty; write the key of the object");
                }
                match config.regions.get(&flip.region) {
                    None => {
                        findings.wrong(key.child("flip").child("region"), undefined_region(config, &flip.region));
                    }
                    Some(holder) if holder.role == Role::Primary => findings.wrong(
                        key.child("flip").child("region"),
                        format!(
                            "{} is the region that is left; the object has to be in one that survives",
                            flip.region
                        ),
                    ),
                    Some(_) => {}
                }
            }
            (None, TrafficProvider::DataPlaneFlip) => {
                let text = "missing; provider \"data-plane-flip\" needs flip = { region = …, bucket = …, key = … }";
                findings.wrong(key.child("flip"), text);
            }
            (Some(_), TrafficProvider::Route53Records) => {
                let text = "not used by provider \"route53-records\"; leave it out, or write \"data-plane-flip\"";
                findings.wrong(key.child("flip"), text);
            }
            (None, TrafficProvider::Route53Records) => {}
        }
    }
}

fn control(config: &Config, key: &Key, traffic: &Traffic, findings: &mut Findings<'_>) {
    if !config.regions.contains_key(&traffic.control_region) {
        findings.wrong(key.child("control_region"), undefined_region(config, &traffic.control_region));
    }
    let Some(control_plane) = control_plane_of(config, traffic) else { return };
    if config.regions.get(&control_plane).is_some_and(|region| region.role == Role::Primary) {
        let text = format!(
            "the Route 53 control plane lives in {control_plane}, the primary region: records may be impossible to change \
             exactly when it is lost; provider = \"data-plane-flip\" does not need it"
        );
        findings.warn(key.child("provider"), text);
    }
}
