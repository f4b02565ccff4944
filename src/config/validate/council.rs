//! Several daemons: that they know each other, and that losing one region leaves enough of them.

use std::collections::BTreeSet;

use super::{Findings, names};
use crate::config::{Config, Key};
use crate::domain::time::human;
use crate::domain::{Mode, RegionId};

pub(super) fn check(config: &Config, findings: &mut Findings<'_>) {
    let council = &config.council;
    let every = || Key::of(["council", "ballot_every"]);
    if council.ballot_every.is_zero() {
        findings.wrong(every(), "zero; write how often an observer tells the others what it sees, such as \"2s\"");
    }
    if council.ballot_fresh < 2 * council.ballot_every {
        let text = format!(
            "{} is less than two ballots of council.ballot_every ({}): one that is late would cost a vote",
            human(council.ballot_fresh),
            human(council.ballot_every)
        );
        findings.wrong(Key::of(["council", "ballot_fresh"]), text);
    }
    let is_shared = config.ledger.is_shared();
    if council.observers.len() < 2 && is_shared {
        let text = "the ledger is one for several daemons, and fewer than two are named; write every one of them here";
        return findings.wrong(Key::of(["council", "observers"]), text);
    }
    if council.observers.is_empty() {
        return;
    }
    if !is_shared {
        let text =
            "several daemons need a ledger that they share, and this one is a file; write [ledger.etcd] or [ledger.s3]";
        findings.wrong(Key::of(["ledger", "path"]), text);
    }
    let own = &config.observer;
    for (name, seat) in &council.observers {
        let key = Key::of(["council", "observers", name.as_str()]);
        if let Some(wrong) = seat.api.as_deref().and_then(names::address) {
            findings.wrong(key.child("api"), wrong);
        }
        if let Some(wrong) = names::id(name.as_str()).or_else(|| names::id(seat.region.as_str())) {
            findings.wrong(key, wrong);
        }
    }
    let silent = council.observers.iter().filter(|(name, seat)| **name != own.name && seat.api.is_none());
    let silent: Vec<&str> = silent.map(|(name, _)| name.as_str()).collect();
    if config.api.role_listen.is_some() && !silent.is_empty() {
        let text = format!(
            "none for {}: when the ledger cannot be reached, a region keeps its role only while every other daemon says over \
             its api that it knows of the same, so every role would end with the ledger; write where each one listens",
            silent.join(", ")
        );
        findings.warn(Key::of(["council", "observers"]), text);
    }
    match council.observers.get(&own.name) {
        None => {
            let names: Vec<&str> = council.observers.keys().map(|name| name.as_str()).collect();
            let text = format!(
                "`{}` is none of [council.observers] ({}); write the name of this daemon there too",
                own.name,
                names.join(", ")
            );
            findings.wrong(Key::of(["observer", "name"]), text);
        }
        Some(seat) if seat.region != own.region => {
            let text = format!("{}, and council.observers.{} says {}", own.region, own.name, seat.region);
            findings.wrong(Key::of(["observer", "region"]), text);
        }
        Some(_) => {}
    }
    let regions: BTreeSet<&RegionId> = council.observers.values().map(|seat| &seat.region).collect();
    let needed = council.votes.and_then(|votes| usize::try_from(votes).ok()).unwrap_or(regions.len() / 2 + 1);
    let votes = || Key::of(["council", "votes"]);
    if needed == 0 || needed > regions.len() {
        let text = format!("{needed} votes cannot be: there are observers in {} regions", regions.len());
        return findings.wrong(votes(), text);
    }
    if regions.len() > 1 && needed * 2 <= regions.len() {
        let text = format!("{needed} of {} regions is no majority: two halves could decide differently", regions.len());
        findings.wrong(votes(), text);
    }
    if council.observers.len() > 1 && regions.len() - 1 < needed {
        let text = format!(
            "losing one region's observers would leave {} of {needed} needed votes, and nothing would ever be done \
             about a lost region; run daemons in a third region",
            regions.len() - 1
        );
        findings.wrong_if(config.deployment.mode == Mode::Automatic, Key::of(["council", "observers"]), text);
    }
}
