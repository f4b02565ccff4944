//! Regions, roles, and which component is where.

use std::collections::BTreeMap;

use super::{Findings, Part, listed, names, with_role};
use crate::config::mistake::did_you_mean;
use crate::config::{Config, Key};
use crate::domain::{ComponentId, HOLDINGS, Kind, Mode, RegionId, Role};

/// Whether the regions and the components in them are defined well enough to go on: what follows from a mistake here is
/// no second mistake.
pub(super) fn check(config: &Config, parts: &[Part<'_>], findings: &mut Findings<'_>) -> bool {
    let before = findings.mistakes.len();
    regions(config, findings);
    components(config, parts, findings);
    let is_sound = findings.mistakes.len() == before;
    if is_sound {
        placement(config, parts, findings);
    }
    is_sound
}

fn regions(config: &Config, findings: &mut Findings<'_>) {
    for (id, region) in &config.regions {
        let key = Key::of(["regions", id.as_str()]);
        if let Some(wrong) = names::id(id.as_str()) {
            findings.wrong(key.clone(), wrong);
        }
        let endpoints = &region.endpoints;
        let endpoints = [
            ("ec2", &endpoints.ec2),
            ("rds", &endpoints.rds),
            ("elasticache", &endpoints.elasticache),
            ("s3", &endpoints.s3),
            ("route53", &endpoints.route53),
        ];
        for (service, endpoint) in endpoints {
            if let Some(wrong) = endpoint.as_deref().and_then(names::url) {
                findings.wrong(key.child("endpoints").child(service), wrong);
            }
        }
        for (name, holding) in &region.holdings {
            if let Some(wrong) = names::bucket(&holding.bucket) {
                findings.wrong(key.child("holdings").child(name).child("bucket"), wrong);
            }
        }
    }
    let primaries: Vec<_> = with_role(config, Role::Primary).collect();
    match primaries.as_slice() {
        [_] => {}
        [] => findings.wrong(Key::of(["regions"]), "no region is primary; write role = \"primary\" for exactly one"),
        [_, second, ..] => findings.wrong(
            Key::of(["regions", second.as_str(), "role"]),
            format!("{} are all primary; write role = \"secondary\" for the one that waits", listed(&primaries)),
        ),
    }
    let secondaries: Vec<_> = with_role(config, Role::Secondary).collect();
    if let [_, second, ..] = secondaries.as_slice() {
        let text = format!(
            "{} are all secondary, and which of them takes over would be a matter of their names; write role = \"tertiary\" \
             for all but one",
            listed(&secondaries)
        );
        findings.wrong_if(
            config.deployment.mode == Mode::Automatic,
            Key::of(["regions", second.as_str(), "role"]),
            text,
        );
    }
    if primaries.len() == 1 && secondaries.is_empty() {
        let text = "no region is secondary, so there is nowhere to go; write role = \"secondary\" for the warm standby";
        findings.wrong_if(config.deployment.mode == Mode::Automatic, Key::of(["regions"]), text);
    }
}

fn components(config: &Config, parts: &[Part<'_>], findings: &mut Findings<'_>) {
    if parts.is_empty() {
        let text = "nothing to protect; write at least one of clusters, databases, caches, buckets, http, traffic";
        findings.wrong(Key::of(["deployment"]), text);
    }
    let mut seen: BTreeMap<&ComponentId, &Key> = BTreeMap::new();
    for part in parts {
        if let Some(wrong) = names::id(part.id.as_str()) {
            findings.wrong(part.key.clone(), wrong);
        }
        let is_taken =
            part.id.as_str() == HOLDINGS && config.regions.values().any(|region| !region.holdings.is_empty());
        if is_taken {
            let text = "the name of what a region holds for a rebuild (regions.NAME.holdings); write another one";
            findings.wrong(part.key.clone(), text);
        }
        if let Some(first) = seen.insert(part.id, &part.key) {
            let text = format!("the same name as {first}; a component's name has to be unique, write another one");
            findings.wrong(part.key.clone(), text);
        }
        if part.regions.is_empty() {
            let text = "in no region; write a table for each region it is in";
            findings.wrong(part.key.child("regions"), text);
        }
        for region in &part.regions {
            if !config.regions.contains_key(*region) {
                findings.wrong(part.key.child("regions").child(region.as_str()), undefined_region(config, region));
            }
        }
    }
}

/// What to say of a region that is not defined.
pub(super) fn undefined_region(config: &Config, region: &RegionId) -> String {
    let known = config.regions.keys().map(RegionId::as_str);
    match did_you_mean(region.as_str(), known) {
        Some(meant) => format!("the region `{region}` is not defined; did you mean `{meant}`?"),
        None => {
            format!(
                "the region `{region}` is not defined; write [regions.{region}], or one of {}",
                listed(config.regions.keys())
            )
        }
    }
}

/// What moves has to have a place to leave and a place to go.
fn placement(config: &Config, parts: &[Part<'_>], findings: &mut Findings<'_>) {
    for part in parts {
        let moves =
            matches!(part.kind, Kind::Kubernetes | Kind::Database | Kind::Cache | Kind::Storage | Kind::Traffic);
        let key = part.key.child("regions");
        if moves && !part.is_in(config, Role::Primary) {
            let primary = with_role(config, Role::Primary).next();
            let text = format!("no instance in the primary region; write {key}.{}", name(primary));
            findings.wrong(key.clone(), text);
        }
        if moves && !part.is_in(config, Role::Secondary) {
            let secondary = with_role(config, Role::Secondary).next();
            let needed = part.trigger.is_some() || part.kind == Kind::Traffic;
            let text =
                format!("no instance in a secondary region, so it cannot be moved; write {key}.{}", name(secondary));
            findings.wrong_if(needed && config.deployment.mode == Mode::Automatic, key.clone(), text);
        }
        if moves && part.is_in(config, Role::Tertiary) {
            let text = "an instance in a tertiary region is probed, and is never the target of an automatic failover";
            findings.warn(key, text);
        }
        let matrix = matches!(part.kind, Kind::Kubernetes | Kind::Database | Kind::Cache | Kind::Storage);
        if matrix && part.trigger.is_none() {
            let text = "no trigger: it is watched, and it moves only together with the whole region";
            findings.warn(part.key.clone(), text);
        }
    }
}

fn name(region: Option<&RegionId>) -> &str {
    region.map_or("REGION", RegionId::as_str)
}
