//! The daemon itself: ledger, API, heartbeat, guards, deadlines, levels.

use std::time::Duration;

use super::{Findings, names};
use crate::config::{Config, Key};
use crate::domain::time::human;
use crate::domain::{Level, Mode, Objectives};

/// A pause is bounded, so that nobody forgets one (DESIGN: guards).
const PAUSE_MAX: Duration = Duration::from_secs(4 * 3600);

/// A request body is a short command; more than this is no command.
const BODY_MAX: usize = 16 << 20;

pub(super) fn check(config: &Config, findings: &mut Findings<'_>) {
    deployment(config, findings);
    api(config, findings);
    guards(config, findings);
    deadlines(config, findings);
    levels(config, findings);
}

fn deployment(config: &Config, findings: &mut Findings<'_>) {
    if let Some(wrong) = names::id(&config.deployment.name) {
        findings.wrong(Key::of(["deployment", "name"]), wrong);
    }
    if let Some(wrong) = names::id(config.observer.name.as_str()) {
        findings.wrong(Key::of(["observer", "name"]), wrong);
    }
    if let Some(wrong) = names::id(config.observer.region.as_str()) {
        findings.wrong(Key::of(["observer", "region"]), wrong);
    }
    positive(findings, Key::of(["deployment", "failover_within"]), config.deployment.failover_within);
}

fn api(config: &Config, findings: &mut Findings<'_>) {
    let api = &config.api;
    if !api.listen.ip().is_loopback() {
        let text = match api.token {
            Some(_) => "anyone who reaches this address can read the status; keep it behind a network policy",
            None => "reachable from other machines, and without api.token the operator commands are switched off",
        };
        findings.warn(Key::of(["api", "listen"]), text);
    } else if api.token.is_none() {
        let text = "not set: `failoverd approve`, `pause`, `failover` and the like are switched off";
        findings.warn(Key::of(["api", "token"]), text);
    }
    if api.role_listen == Some(api.listen) && api.listen.port() != 0 {
        findings.wrong(Key::of(["api", "role_listen"]), "the same as api.listen; write another port");
    }
    if !(1..=BODY_MAX).contains(&api.body_max) {
        findings.wrong(Key::of(["api", "body_max"]), format!("out of range; write 1 to {BODY_MAX} bytes"));
    }
    positive(findings, Key::of(["api", "self_fence_after"]), api.self_fence_after);
    positive(findings, Key::of(["api", "role_check_period"]), api.role_check_period);
    positive(findings, Key::of(["heartbeat", "every"]), config.heartbeat.every);
    if config.heartbeat.url.is_none() && config.deployment.mode == Mode::Automatic {
        let text = "not set: nobody outside notices when this daemon falls silent";
        findings.warn(Key::of(["heartbeat", "url"]), text);
    }
}

fn guards(config: &Config, findings: &mut Findings<'_>) {
    let guards = &config.guards;
    positive(findings, Key::of(["guards", "approval_expires"]), guards.approval_expires);
    positive(findings, Key::of(["guards", "recheck"]), guards.recheck);
    positive(findings, Key::of(["guards", "unwind_once_per"]), guards.unwind_once_per);
    positive(findings, Key::of(["guards", "pause_max"]), guards.pause_max);
    if guards.pause_max > PAUSE_MAX {
        let text = format!("{} is too long to forget a pause for; write 4h or less", human(guards.pause_max));
        findings.wrong(Key::of(["guards", "pause_max"]), text);
    }
    if guards.look_fresh < guards.recheck {
        let text = format!(
            "a look would be stale ({}) before it is repeated (guards.recheck, {}); write at least the latter",
            human(guards.look_fresh),
            human(guards.recheck)
        );
        findings.wrong(Key::of(["guards", "look_fresh"]), text);
    }
    if guards.incidents_per_day == 0 {
        let text = "0 would hold back every failover; write 1 or more (mode = \"observe\" is the way to do nothing)";
        findings.wrong(Key::of(["guards", "incidents_per_day"]), text);
    }
}

fn deadlines(config: &Config, findings: &mut Findings<'_>) {
    let d = &config.deadlines;
    let deadlines = [
        ("declare", d.declare),
        ("replicas", d.replicas),
        ("reschedule", d.reschedule),
        ("fence", d.fence),
        ("fence_managed", d.fence_managed),
        ("promote", d.promote),
        ("promote_managed", d.promote_managed),
        ("publish", d.publish),
        ("rollout", d.rollout),
        ("cache", d.cache),
        ("cache_managed", d.cache_managed),
        ("storage", d.storage),
        ("traffic", d.traffic),
        ("manifests", d.manifests),
        ("catch_up", d.catch_up),
        ("verify", d.verify),
    ];
    for (name, deadline) in deadlines {
        let key = Key::of(["deadlines", name]);
        positive(findings, key.clone(), deadline);
        if deadline > config.deployment.failover_within {
            let text = format!(
                "{} is longer than the whole failover may take (deployment.failover_within, {})",
                human(deadline),
                human(config.deployment.failover_within)
            );
            findings.wrong_if(config.deployment.mode == Mode::Automatic, key, text);
        }
    }
}

fn levels(config: &Config, findings: &mut Findings<'_>) {
    let levels: [(Level, &str, Objectives); 4] = [
        (Level::RegionalOutage, "regional_outage", config.levels.regional_outage),
        (Level::DataCentreFailure, "data_centre_failure", config.levels.data_centre_failure),
        (Level::ServiceDegradation, "service_degradation", config.levels.service_degradation),
        (Level::ComponentFailure, "component_failure", config.levels.component_failure),
    ];
    for (level, name, objectives) in levels {
        let key = Key::of(["levels", name]);
        positive(findings, key.child("rto"), objectives.rto);
        if objectives.rpo.is_zero() {
            let text = "with an RPO of zero every failover to an asynchronous replica waits for a person";
            findings.warn(key.child("rpo"), text);
        }
        let promised = config.deployment.failover_within;
        if objectives.rto < promised && matches!(level, Level::RegionalOutage | Level::ComponentFailure) {
            let text = format!(
                "{} is less than a failover may take (deployment.failover_within, {})",
                human(objectives.rto),
                human(promised)
            );
            findings.warn(key.child("rto"), text);
        }
    }
}

pub(super) fn positive(findings: &mut Findings<'_>, key: Key, duration: Duration) {
    if duration.is_zero() {
        findings.wrong(key, "zero; write a time longer than that, such as \"30s\"");
    }
}
