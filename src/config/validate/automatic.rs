//! What has to be there before failoverd acts by itself. In the other modes the same findings are warnings, so that
//! nobody learns of them on the day of the switch.

use super::{Findings, Part, listed, with_role};
use crate::config::{Config, Key};
use crate::domain::{Kind, Mode, RegionId, Role, UnfencedPromotion};

/// An observer believes in an outage only while a majority of its reference points answers, and one is no majority of
/// anything (DESIGN: self-doubt).
const REFERENCES_MIN: usize = 2;

pub(super) fn check(config: &Config, parts: &[Part<'_>], findings: &mut Findings<'_>) {
    if parts.is_empty() {
        return; // said already
    }
    observer(config, findings);
    references(config, findings);
    evidence(config, parts, findings);
    if config.deployment.mode != Mode::Automatic {
        return;
    }
    let rows = parts.iter().any(|part| part.trigger.is_some());
    if !rows && !parts.iter().any(|part| part.critical) {
        let text = "automatic, but no component has a trigger and none is critical: nothing would ever be done";
        findings.wrong(Key::of(["deployment", "mode"]), text);
    }
    if config.traffic.is_empty() {
        findings.warn(Key::of(["traffic"]), "none: the clients are not sent anywhere else after a failover");
    }
    if config.clusters.is_empty() {
        let text = match config.ledger.etcd.is_some() || config.ledger.s3.is_some() {
            true => {
                "none, and the claim that stops other failoverds is left in clusters: `failover --break-glass` halts nobody"
            }
            false => {
                "none, and the claim that stops other failoverds is left in clusters: a copy of this machine, with its ledger, \
                 would act as well, and `failover --break-glass` halts nobody"
            }
        };
        findings.warn(Key::of(["clusters"]), text);
    }
    if config.checks.is_empty() {
        findings.warn(Key::of(["checks"]), "none: a failover is called done without a look at what the clients see");
    }
}

/// A single observer inside the region it watches goes down with it, or mistakes its own trouble for an outage.
fn observer(config: &Config, findings: &mut Findings<'_>) {
    if config.council.observers.len() > 1 {
        let is_unfenced = config.databases.values().any(|of| of.unfenced_promotion == UnfencedPromotion::Allow);
        if is_unfenced && config.api.role_listen.is_none() {
            let text = "not set, and a database may be promoted without its fence: a healthy region that is cut off would go \
                        on serving and writing while another one takes over; let what serves ask for its role \
                        (docs/roles.md), or write unfenced_promotion = \"approve\"";
            findings.warn(Key::of(["api", "role_listen"]), text);
        }
        return; // the others speak for it
    }
    let region = &config.observer.region;
    let key = Key::of(["observer", "region"]);
    match config.regions.get(region).map(|region| region.role) {
        Some(Role::Primary) => {
            let text = format!(
                "the only observer stands in {region}, the primary region: it would be lost together with it; run it in \
                 another region"
            );
            findings.wrong_if(config.deployment.mode == Mode::Automatic, key, text);
        }
        Some(Role::Secondary) => {
            let text = format!(
                "after a failover the only observer stands in the active region ({region}); a third region is better"
            );
            findings.warn(key, text);
        }
        Some(Role::Tertiary) | None => {}
    }
}

/// For every region that could be suspected there have to be points outside of it, and outside of our own.
fn references(config: &Config, findings: &mut Findings<'_>) {
    let own = &config.observer.region;
    let outside_of = |suspected: &RegionId| {
        let regions = config.references.values().map(|reference| reference.region.as_ref());
        regions.filter(|region| region.is_none_or(|region| region != suspected && region != own)).count()
    };
    let suspected = || with_role(config, Role::Primary).chain(with_role(config, Role::Secondary));
    let too_few: Vec<&RegionId> = suspected().filter(|region| outside_of(region) < REFERENCES_MIN).collect();
    if let Some(least) = too_few.iter().map(|region| outside_of(region)).min() {
        let text = format!(
            "to tell an outage of {} from trouble of our own, {REFERENCES_MIN} points are needed outside of it and of \
             {own}, and there {}; write more of [references.NAME]",
            listed(too_few).replace(" and ", " or "),
            match least {
                0 => "is none".to_owned(),
                1 => "is 1".to_owned(),
                more => format!("are {more}"),
            },
        );
        findings.wrong_if(config.deployment.mode == Mode::Automatic, Key::of(["references"]), text);
    }
}

/// A regional outage needs two independent kinds of evidence; what cannot be had can never be seen.
fn evidence(config: &Config, parts: &[Part<'_>], findings: &mut Findings<'_>) {
    if !parts.iter().any(|part| part.critical) {
        return; // said already: no regional outage to begin with
    }
    let client_path = parts.iter().any(|part| {
        part.kind == Kind::Http
            && part.is_in(config, Role::Primary)
            && config.http.get(part.id).is_some_and(|http| http.client_path)
    });
    let cloud = parts.iter().any(|part| part.kind == Kind::Cloud && part.is_in(config, Role::Primary));
    if !client_path && !cloud {
        let text = "a regional outage needs a second kind of evidence besides the component probes, and there is none for \
                    the primary region; write client_path = true for an [http.NAME], or a [clouds.NAME]";
        findings.wrong_if(config.deployment.mode == Mode::Automatic, Key::of(["regional"]), text);
    }
}
