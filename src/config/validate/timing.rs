//! Probes, windows and triggers: a trigger is a window, and a window has to hold enough observations to mean something.

use std::time::Duration;

use super::daemon::positive;
use super::{Findings, Part};
use crate::config::convert::probing;
use crate::config::schema::TrafficProvider;
use crate::config::{Config, Key};
use crate::domain::time::human;
use crate::domain::{Kind, Probing, Role};

pub(super) fn check(config: &Config, parts: &[Part<'_>], findings: &mut Findings<'_>) {
    probes(config, findings);
    for part in parts {
        trigger(config, part, findings);
    }
    confirmation(config, findings);
    regional(config, parts, findings);
    degradation(config, parts, findings);
    healing(config, parts, findings);
    zones(config, findings);
}

fn probes(config: &Config, findings: &mut Findings<'_>) {
    let probes = &config.probes;
    interval(findings, Key::of(["probes", "interval"]), probes.interval);
    positive(findings, Key::of(["probes", "timeout"]), probes.timeout);
    if !(0.0..=0.5).contains(&probes.jitter) {
        findings.wrong(Key::of(["probes", "jitter"]), "out of range; write a share of the interval from 0 to 0.5");
    }
    if !(0.5..=1.0).contains(&probes.failing_ratio) {
        let text =
            "out of range; write a share from 0.5 to 1: what fails less than half of the time is degraded, not down";
        findings.wrong(Key::of(["probes", "failing_ratio"]), text);
    }
    if probes.recover_for < probes.interval {
        let text = format!(
            "{} is less than one interval ({}); a single answer is no recovery, write several intervals",
            human(probes.recover_for),
            human(probes.interval)
        );
        findings.wrong(Key::of(["probes", "recover_for"]), text);
    }
}

/// Probing more often than that only heats the machine.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

fn interval(findings: &mut Findings<'_>, key: Key, interval: Duration) {
    if interval < INTERVAL_MIN {
        let text = format!("less than {}; write how often to probe, such as \"5s\"", human(INTERVAL_MIN));
        findings.wrong(key, text);
    }
}

fn trigger(config: &Config, part: &Part<'_>, findings: &mut Findings<'_>) {
    if let Some(own) = part.probe.interval {
        interval(findings, part.key.child("probe").child("interval"), own);
    }
    if let Some(own) = part.probe.timeout {
        positive(findings, part.key.child("probe").child("timeout"), own);
    }
    let Some(trigger) = part.trigger else { return };
    let key = part.key.child("trigger");
    if let Some(wrong) = too_short(trigger.after, probing(&config.probes, part.probe)) {
        findings.wrong(key.child("after"), wrong);
    }
}

/// Traffic follows a cluster; it cannot lead.
fn confirmation(config: &Config, findings: &mut Findings<'_>) {
    for (id, cluster) in &config.clusters {
        if let Some(trigger) = cluster.trigger
            && let Some(confirm_for) = trigger.confirm_for
            && confirm_for < trigger.after
        {
            let text = format!(
                "{} is over before the row starts (after = {}); write at least the latter",
                human(confirm_for),
                human(trigger.after)
            );
            findings.wrong(Key::of(["clusters", id.as_str(), "trigger", "confirm_for"]), text);
        }
    }
}

/// Why a window of `after` could not be judged with these probes.
fn too_short(after: Duration, probing: Probing) -> Option<String> {
    if probing.interval.is_zero() || probing.timeout.is_zero() {
        return None; // said already
    }
    // No more than a gap; and while everything times out, three probes take as long.
    let least = probing.gap();
    (after <= least).then(|| {
        format!(
            "{} is too short to judge: with a probe every {} and a timeout of {} it takes more than {} to see three \
             failures in a row; write a longer time, or probe more often",
            human(after),
            human(probing.interval),
            human(probing.timeout),
            human(least)
        )
    })
}

fn regional(config: &Config, parts: &[Part<'_>], findings: &mut Findings<'_>) {
    let critical: Vec<_> = parts.iter().filter(|part| part.critical && part.is_in(config, Role::Primary)).collect();
    let key = Key::of(["regional", "after"]);
    let is_evidence = |part: &Part<'_>| match part.kind {
        Kind::Cloud => true,
        Kind::Http => config.http.get(part.id).is_some_and(|http| http.client_path),
        Kind::Kubernetes | Kind::Database | Kind::Cache | Kind::Storage | Kind::Traffic | Kind::Holdings => false,
    };
    for part in parts.iter().filter(|part| part.is_in(config, Role::Primary) && (part.critical || is_evidence(part))) {
        if let Some(wrong) = too_short(config.regional.after, probing(&config.probes, part.probe)) {
            findings.wrong(key.clone(), format!("for {}: {wrong}", part.id));
        }
    }
    let key = Key::of(["regional", "critical_failing"]);
    match config.regional.critical_failing.map(|number| usize::try_from(number).unwrap_or(usize::MAX)) {
        Some(0) => findings.wrong(key, "0 would lose the region without any failure; write 1 or more, or leave it out"),
        Some(number) if number > critical.len() => {
            let text = format!(
                "{number} critical components can never fail together, because the primary region has {}; write at \
                 most that, or leave it out",
                critical.len()
            );
            findings.wrong(key, text);
        }
        Some(_) | None => {}
    }
    if critical.is_empty() && !parts.is_empty() {
        let text = "no component of the primary region is critical, so a regional outage is never declared; write \
                    critical = true where it is true";
        findings.warn(Key::of(["regional"]), text);
    }
}

fn degradation(config: &Config, parts: &[Part<'_>], findings: &mut Findings<'_>) {
    let degradation = &config.degradation;
    if !(degradation.ratio > 0.0 && degradation.ratio < config.probes.failing_ratio) {
        let text = format!(
            "out of range; write a share above 0 and below probes.failing_ratio ({}), from which on it is down",
            config.probes.failing_ratio
        );
        findings.wrong(Key::of(["degradation", "ratio"]), text);
    }
    rerouting(config, parts, findings);
    for part in parts.iter().filter(|part| part.critical) {
        if let Some(wrong) = too_short(degradation.after, probing(&config.probes, part.probe)) {
            findings.wrong(Key::of(["degradation", "after"]), format!("for {}: {wrong}", part.id));
        }
    }
}

/// A share of the traffic can be moved where there are weights to change, and something that says when.
fn rerouting(config: &Config, parts: &[Part<'_>], findings: &mut Findings<'_>) {
    let key = Key::of(["degradation", "reroute_percent"]);
    match config.degradation.reroute_percent {
        0 => return,
        1..=99 => {}
        _ => {
            let text =
                "out of range; write 0 (report only) to 99: moving everybody is a failover, and what a trigger is for";
            return findings.wrong(key, text);
        }
    }
    if config.traffic.is_empty() {
        let text = "nothing can be rerouted without a record of the clients' name; add [traffic.NAME], or write 0";
        findings.wrong(key.clone(), text);
    }
    for (id, traffic) in &config.traffic {
        if traffic.provider == TrafficProvider::DataPlaneFlip {
            let text = format!(
                "traffic.{id} has provider = \"data-plane-flip\", which switches a region on or off and moves no share of \
                 it; write 0, or \"route53-records\" there"
            );
            findings.wrong(key.clone(), text);
        }
    }
    let answers_clients = |part: &Part<'_>| match part.kind {
        Kind::Kubernetes => part.critical,
        Kind::Http => part.critical || config.http.get(part.id).is_some_and(|http| http.client_path),
        Kind::Database | Kind::Cache | Kind::Storage | Kind::Cloud | Kind::Traffic | Kind::Holdings => false,
    };
    if !parts.iter().any(|part| part.is_in(config, Role::Primary) && answers_clients(part)) {
        let text = "nothing is watched that answers the clients of the primary region, so nothing is ever rerouted; add \
                    an [http.NAME] with client_path = true, or a critical cluster";
        findings.warn(key, text);
    }
}

fn healing(config: &Config, parts: &[Part<'_>], findings: &mut Findings<'_>) {
    let key = Key::of(["healing", "after"]);
    positive(findings, key.clone(), config.healing.after);
    if !config.healing.enabled {
        return;
    }
    for part in parts.iter().filter(|part| part.kind == Kind::Kubernetes) {
        let least = probing(&config.probes, part.probe).gap();
        if config.healing.after <= least && !config.healing.after.is_zero() {
            let text = format!(
                "for {}: {} is over before two probes have been seen (they may be {} apart); write several minutes, \
                 because Kubernetes heals by itself first",
                part.id,
                human(config.healing.after),
                human(least)
            );
            findings.wrong(key.clone(), text);
        }
    }
    if config.clusters.values().all(|cluster| cluster.workloads.is_empty()) {
        let text = "no cluster has workloads, so there is nothing to heal; name them, or write false";
        findings.warn(Key::of(["healing", "enabled"]), text);
    }
}

fn zones(config: &Config, findings: &mut Findings<'_>) {
    positive(findings, Key::of(["zones", "after"]), config.zones.after);
    if config.zones.enabled && config.clusters.is_empty() {
        let text =
            "a lost zone is told by the nodes of a cluster, and there is none; add [clusters.NAME], or write false";
        findings.warn(Key::of(["zones", "enabled"]), text);
    }
}
