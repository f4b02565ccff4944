//! Does what took over still serve? The checks of the end state, run again and again while something is away from home.
//!
//! A plan runs them once, as its last steps. What breaks after that is not its business any more, and nobody else would look.

use std::collections::BTreeSet;
use std::time::Duration;

use super::controller::Draft;
use super::{CheckStatus, Effect, Fact};
use crate::domain::{Bug, CheckPolicy, Mode, RegionId};

/// What this leader knows of one check in one region.
#[derive(Debug, Clone, Default)]
pub(super) struct Verification {
    /// When it was run last.
    asked: Option<Duration>,
    is_under_way: bool,
    /// How often in a row it did not hold.
    failures: u32,
    /// What was seen last, and when.
    last: Option<(Duration, Result<String, String>)>,
}

impl Verification {
    /// Whether it held when it was run last.
    pub(super) fn holds(&self) -> Option<bool> {
        self.last.as_ref().map(|(_, result)| result.is_ok())
    }
}

/// One wrong answer among right ones is no news: it is asked for once more, soon.
const FAILURES: u32 = 2;
/// An answer that is so much overdue will not come.
const OVERDUE: Duration = Duration::from_secs(30);

impl Draft<'_> {
    /// Runs what is due. Not while something is moved or undone: a plan has checks of its own, and until then nothing holds.
    pub(super) fn verify_afterwards(&mut self) {
        let every = self.policy.verify_every;
        let is_watched = self.policy.mode != Mode::Observe && !self.is_halted();
        let on_trial = self.region_on_trial().cloned();
        if !is_watched || on_trial.is_none() && (every.is_zero() || self.hard.open_incidents().next().is_some()) {
            return;
        }
        let now = self.now.monotonic;
        let (away, every) = match on_trial {
            Some(region) => {
                let checks = self.checks_of_clients().map(|check| (check.clone(), region.clone())).collect();
                // Twice in an interval, and once more after the first failure.
                (checks, self.policy.failback.interval / 2)
            }
            None => (self.checks_away_from_home(), every),
        };
        let keys: BTreeSet<_> = away.iter().map(|(check, region)| (check.name.clone(), region.clone())).collect();
        self.soft.verifications.retain(|key, _| keys.contains(key));
        for (check, region) in away {
            let deadline = self.policy.deadlines.verify;
            let of = self.soft.verifications.entry((check.name.clone(), region.clone())).or_default();
            let after = match (of.is_under_way, of.failures) {
                (true, _) => deadline + OVERDUE,
                (false, 1) => self.policy.guards.recheck.min(every / 2),
                (false, _) => every,
            };
            let due = of.asked.map_or(now, |asked| asked + after);
            if due > now {
                self.wake(due, "a check of the end state is due");
                continue;
            }
            (of.asked, of.is_under_way) = (Some(now), true);
            self.perform(Effect::Verify { check: check.name, expects: check.expects, region, deadline });
            self.wake(now + deadline + OVERDUE, "a check of the end state is due");
        }
    }

    /// What came of one.
    pub(super) fn verified(&mut self, check: String, region: RegionId, result: Result<String, String>) {
        let key = (check, region);
        // Things have moved since.
        let Some(of) = self.soft.verifications.get_mut(&key) else { return };
        of.is_under_way = false;
        of.failures = if result.is_ok() { 0 } else { of.failures.saturating_add(1) };
        of.last = Some((self.now.monotonic, result.clone()));
        let (failures, is_known) = (of.failures, self.hard.broken_checks.contains_key(&key));
        let (check, region) = key;
        match result {
            Ok(seen) if is_known => self.record(Fact::CheckHolds { check, region, seen }),
            Err(_) if self.bugs.has(Bug::BrokenCheckForgotten) => {}
            Err(why) if !is_known && failures >= FAILURES => self.record(Fact::CheckFailed { check, region, why }),
            Ok(_) | Err(_) => {}
        }
    }

    /// The checks of what is served elsewhere than in the primary region, with where that is.
    fn checks_away_from_home(&self) -> Vec<(CheckPolicy, RegionId)> {
        let Some(home) = self.policy.primary() else { return Vec::new() };
        let region_of =
            |check: &CheckPolicy| check.region_in(&self.hard.placement).filter(|region| *region != home).cloned();
        self.policy.checks.iter().filter_map(|check| Some((check.clone(), region_of(check)?))).collect()
    }

    /// How the checks stand, for people.
    pub(super) fn check_statuses(&self) -> Vec<CheckStatus> {
        let statuses = self.checks_away_from_home().into_iter().map(|(check, region)| {
            let (key, expects) = ((check.name, region), check.expects);
            let broken = self.hard.broken_checks.get(&key);
            let last = self.soft.verifications.get(&key).and_then(|of| of.last.as_ref());
            let (check, region) = key;
            CheckStatus {
                check,
                region,
                expects,
                // Who does not lead knows what is recorded.
                holds: last.map(|(_, result)| result.is_ok()).or(broken.map(|_| false)),
                seen: last
                    .map(|(_, result)| result.clone().unwrap_or_else(|why| why))
                    .or(broken.map(|broken| broken.why.clone())),
                ago: last.map(|(at, _)| self.now.monotonic.saturating_sub(*at)),
                broken_since: broken.map(|broken| broken.since),
            }
        });
        statuses.collect()
    }
}
