//! The first line of the status: what is going on, in one sentence.

use std::collections::BTreeSet;

use super::controller::Draft;
use super::incident::Incident;
use super::{Outcome, PendingStatus, StepState, VerdictKind};
use crate::domain::{RegionId, time::human};

impl Draft<'_> {
    /// The whole story in one sentence.
    pub(super) fn headline(&self, incidents: &[&Incident], pending: &[PendingStatus]) -> String {
        if let Some(why) = self.soft.halted.as_ref().or(self.hard.halted.as_ref()) {
            return format!("HALTED, performing nothing: {why}");
        }
        if let Some(stopped) = &self.soft.stopped {
            return format!("STOPPED, performing nothing: {stopped}");
        }
        if let Some(claimed) = self.claimed_by_another().filter(|_| self.hard.is_adopted) {
            return format!("NOT IN CHARGE, performing nothing: {claimed}");
        }
        if let Some(incident) = incidents.iter().find(|incident| incident.closed.is_none()) {
            return self.summary(incident);
        }
        if let Some(next) = pending.iter().min_by_key(|p| p.after.saturating_sub(p.failing_for)) {
            let so_far = human(next.failing_for);
            return match next.guards.first() {
                Some(guard) if next.failing_for >= next.after => {
                    format!("{} for {so_far}, and nothing is done: {guard}", next.what)
                }
                Some(_) | None => format!(
                    "{} for {so_far}; acts at {}{}",
                    next.what,
                    human(next.after),
                    if next.guards.is_empty() { "" } else { ", unless what holds it back goes on" }
                ),
            };
        }
        if let Some(drift) = self.drift() {
            return format!("watching, and would do nothing: {drift}");
        }
        let serving: BTreeSet<&str> = self.hard.placement.values().map(RegionId::as_str).collect();
        let serving: Vec<&str> = serving.into_iter().collect();
        let unready = self.unready_standbys().len();
        let standbys = match unready {
            0 => "the standbys are ready".to_owned(),
            1 => "one standby could NOT take over".to_owned(),
            n => format!("{n} standbys could NOT take over"),
        };
        let verdicts: Vec<VerdictKind> = self
            .soft
            .watches
            .iter()
            .filter(|(id, watch)| self.is_active(id) && (watch.matters || watch.has_row || watch.kind.has_a_place()))
            .map(|(_, watch)| watch.judge(&self.soft.limits, self.now.monotonic).kind)
            .collect();
        let unknown = verdicts.iter().filter(|kind| **kind == VerdictKind::Unknown).count();
        let suspects = verdicts.iter().filter(|kind| **kind != VerdictKind::Alive).count();
        let paused = if self.hard.paused.is_some() { " (paused)" } else { "" };
        if self.soft.alarms.contains_key("unvouched") {
            return "watching, and would do nothing: too few reference points answer to tell an outage from a broken \
                    network of our own"
                .to_owned();
        }
        if let Some(database) = self.unfenced().next() {
            return format!(
                "watching{paused} {}; {database} STILL ACCEPTS WRITES, and is not fenced",
                serving.join(", ")
            );
        }
        // Whatever it answers: that it takes writes is not known.
        if let Some((database, _)) = self.unguarded().first() {
            return format!(
                "watching{paused} {}; {database} has no guardian, and may REFUSE WRITES; {standbys}",
                serving.join(", ")
            );
        }
        let broken: Vec<&str> = self.hard.broken_checks.keys().map(|(check, _)| check.as_str()).collect();
        if !broken.is_empty() {
            let word = if broken.len() == 1 { "check" } else { "checks" };
            let (serving, broken) = (serving.join(", "), broken.join(", "));
            return format!("watching{paused} {serving}, which took over and FAILS {word} {broken}; {standbys}");
        }
        if suspects > 0 {
            let serving = serving.join(", ");
            let of = |n: usize| if n == 1 { "1 serving instance".to_owned() } else { format!("{n} serving instances") };
            let told = match unknown {
                0 => format!("{} not well", of(suspects)),
                n => format!("nothing known of {}", of(n)),
            };
            return format!("watching{paused} {serving}; {told}; {standbys}");
        }
        format!(
            "watching{paused}: {} {}, {standbys}",
            serving.join(" and "),
            if serving.len() == 1 { "serves" } else { "serve" }
        )
    }

    /// How far the answer to one incident has come.
    pub(super) fn summary(&self, incident: &Incident) -> String {
        let plan = &incident.plan;
        let count = |wanted: StepState| plan.progress.values().filter(|p| p.state == wanted).count();
        let settled =
            plan.steps.len() - count(StepState::Waiting) - count(StepState::Running) - count(StepState::Failed);
        let direction = match incident.source == incident.target {
            true if incident.purpose.is_planned() => format!("{} in {}", incident.purpose, incident.source),
            _ if incident.purpose.is_planned() => {
                format!("{} {} -> {}", incident.purpose, incident.source, incident.target)
            }
            true => format!("{}, in place", incident.source),
            false => format!("{} -> {}", incident.source, incident.target),
        };
        match incident.closed {
            Some((_, Outcome::Recovered)) => return format!("{}: {direction}, done", incident.id),
            Some((_, Outcome::Unwound)) if incident.purpose.is_planned() => {
                return format!("{}: {} given up, everything is as it was", incident.id, incident.purpose);
            }
            Some((_, Outcome::Unwound)) => {
                return format!("{}: {} recovered, everything is as it was", incident.id, incident.source);
            }
            Some((_, Outcome::Superseded)) => return format!("{}: {direction}, done by break-glass", incident.id),
            Some((_, Outcome::Aborted)) => return format!("{}: aborted, everything is as it was", incident.id),
            None => {}
        }
        let progress = format!("{settled} of {} steps done", plan.steps.len());
        if plan.is_stuck {
            let failed: Vec<&str> = plan
                .progress
                .iter()
                .filter(|(_, p)| p.state == StepState::Failed || p.undo_failed)
                .map(|(step, _)| step.as_str())
                .collect();
            return format!("{}: {direction} is STUCK at {}, {progress}", incident.id, failed.join(", "));
        }
        if plan.is_unwinding() {
            return format!("{}: {direction} is being undone", incident.id);
        }
        let running: Vec<&str> = plan
            .progress
            .iter()
            .filter(|(_, p)| p.state == StepState::Running)
            .map(|(step, _)| step.as_str())
            .collect();
        if !running.is_empty() {
            return format!("{}: {direction}, {progress}, running {}", incident.id, running.join(", "));
        }
        let held = self
            .soft
            .held
            .iter()
            .find(|((of, step), _)| *of == plan.id && plan.is_to_start(step))
            .and_then(|((_, step), guards)| Some(format!("{step} waits: {}", guards.first()?)));
        if held.is_none() && self.awaits_recovery(incident) && plan.shares().next().is_some() {
            let percent = self.policy.degradation.reroute_percent;
            let (id, source) = (&incident.id, &incident.source);
            // What only mends, and began the incident, goes nowhere.
            let mut away = plan.shares().flat_map(|(_, weights)| weights.keys()).filter(|region| *region != source);
            let target = away.next().unwrap_or(&incident.target);
            return format!("{id}: {percent} % of the clients of {source} are sent to {target} until it is well again");
        }
        let is_waiting = held.is_none() && count(StepState::Waiting) == 0 && self.awaits_zone(incident);
        if let Some(told) = self.told_of_waiting(incident).filter(|_| is_waiting) {
            return told;
        }
        match held {
            Some(held) => format!("{}: {direction}, {progress}; {held}", incident.id),
            None => format!("{}: {direction}, {progress}", incident.id),
        }
    }
}
