//! The way back: stages that grow, and time to see how they do.

use super::daemon::positive;
use super::{Findings, Part};
use crate::config::convert::probing;
use crate::config::{Config, Key};
use crate::domain::time::human;

pub(super) fn check(config: &Config, parts: &[Part<'_>], findings: &mut Findings<'_>) {
    let failback = &config.failback;
    let key = Key::of(["failback", "stages"]);
    let grows = failback.stages.windows(2).all(|pair| pair[0] < pair[1]);
    if failback.stages.iter().any(|share| !(1..=99).contains(share)) {
        findings.wrong(key, "out of range; write percents from 1 to 99: everybody follows after the last stage anyway");
    } else if !grows {
        findings.wrong(key, "each share has to be more than the one before; write them in order, as [10, 50]");
    }
    let key = Key::of(["failback", "interval"]);
    positive(findings, key.clone(), failback.interval);
    let is_seen = |part: &&Part<'_>| config.http.contains_key(part.id) || config.clusters.contains_key(part.id);
    // Failing twice in half an interval is an ailment.
    let least = |part: &Part<'_>| probing(&config.probes, part.probe).interval * 4;
    let slowest = parts.iter().filter(is_seen).max_by_key(|part| least(part));
    if let Some(part) = slowest.filter(|part| failback.interval < least(part) && !failback.interval.is_zero()) {
        let text = format!(
            "for {}: {} holds fewer than four probes (one every {}); write at least {}",
            part.id,
            human(failback.interval),
            human(least(part) / 4),
            human(least(part))
        );
        findings.wrong(key.clone(), text);
    }
    if failback.stage_for < failback.interval {
        let text = format!(
            "{} is over before a share has been looked at (failback.interval is {}); write several intervals",
            human(failback.stage_for),
            human(failback.interval)
        );
        findings.wrong(Key::of(["failback", "stage_for"]), text);
    }
}
