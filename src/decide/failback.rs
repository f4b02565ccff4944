//! The way back: everything moves to where it belongs as in any planned move, after a share of the clients has been served well
//! there, and another one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::controller::Draft;
use super::incident::{Incident, PartState};
use super::judge::Candidate;
use super::{Fact, Guard, GuardKind, Outcome, StepState};
use crate::domain::{Bug, CheckPolicy, ComponentId, IncidentId, InstanceId, Kind, Mode, RegionId, StepId, time::human};
use crate::plan::{Action, Part, Purpose, Step};

/// How what answers clients does where a share of them goes.
enum Health {
    Well,
    /// Nobody can tell.
    Unknown(String),
    Ailing(String),
}

impl Draft<'_> {
    /// What a person ordered.
    pub(super) fn failback(&mut self, ordered_by: String) -> Result<String, String> {
        let source = self.region_to_leave()?;
        if let Some(((check, region), broken)) = self.hard.broken_checks.iter().next() {
            return Err(format!(
                "check {check} does not hold in {region}: {}. Mend that first; or move at once, with `failoverd switchover \
                 {source}`",
                broken.why
            ));
        }
        let home = self.policy.primary().cloned();
        let is_no_standby = |component: &ComponentId| {
            let id = InstanceId { component: component.clone(), region: home.clone()? };
            self.why_no_standby(&id).or_else(|| self.why_unready(&id, true)).map(|_| id)
        };
        let databases = self.policy.of_kind(Kind::Database).map(|(component, _)| component);
        let away = databases.filter(|component| self.hard.placement.get(*component) == Some(&source));
        let strangers: Vec<String> = away.filter_map(is_no_standby).map(|id| id.to_string()).collect();
        self.move_without_loss(ordered_by, &source, Part::Region, Purpose::Failback).map_err(|why| {
            match strangers.as_slice() {
                [] => why,
                strangers => format!("{why}. `failoverd rejoin {}` makes it a standby again", strangers.join(" ")),
            }
        })
    }

    /// What nobody has to order where that is configured: the way back from a failover, once. A planned move is taken back by
    /// whoever planned it, and a failback that was given up or aborted is a person's to begin again.
    pub(super) fn go_home(&mut self) {
        let policy = &self.policy.failback;
        let is_wanted = policy.automatic && self.policy.mode == Mode::Automatic && self.is_after_a_failover();
        let Some(home) = self.policy.primary().cloned().filter(|_| is_wanted) else { return };
        if self.region_to_leave().is_err() || self.takeover().is_some() {
            return;
        }
        let (lasting, _) = self.well_for(&home);
        if lasting < policy.stable_for {
            self.wake(self.now.monotonic + (policy.stable_for - lasting), "all of the primary region is well again");
            return;
        }
        let by =
            format!("failoverd: all of {home} has been well for {} (failback.automatic)", human(policy.stable_for));
        if self.failback(by).is_err() {
            self.wake(self.now.monotonic + self.policy.guards.recheck, "a failback that begins by itself");
        }
    }

    /// The last move was a failover, and nothing is under way.
    fn is_after_a_failover(&self) -> bool {
        let moves = |incident: &&Incident| {
            let is_tried = incident.purpose == Purpose::Failback;
            let has_moved = matches!(incident.closed, Some((_, Outcome::Recovered)));
            incident.plan.parts.keys().any(Part::moves) && (is_tried || has_moved)
        };
        let all = self.hard.incidents.values().map(Arc::as_ref);
        let last = all.filter(moves).max_by_key(|incident| incident.number);
        self.hard.open_incidents().next().is_none() && last.is_some_and(|last| last.purpose == Purpose::Failover)
    }

    /// Where what belongs into the primary region is served instead.
    pub(super) fn region_to_leave(&self) -> Result<RegionId, String> {
        let home = self.policy.primary().ok_or("no region has the role primary")?;
        let belongs = |component: &ComponentId| {
            self.policy.components.get(component).is_some_and(|policy| policy.regions.contains(home))
        };
        let away = self.hard.placement.iter().filter(|(component, region)| *region != home && belongs(component));
        let away: BTreeSet<&RegionId> = away.map(|(_, region)| region).collect();
        let names: Vec<&str> = away.iter().map(|region| region.as_str()).collect();
        match names.as_slice() {
            [] => Err(format!("everything is served in {home}: there is nothing to take back")),
            [one] => Ok(RegionId::from(*one)),
            several => Err(format!(
                "what belongs to {home} is served in {}: move it into one region first, with `failoverd switchover`",
                several.join(" and ")
            )),
        }
    }

    /// A person does not want to wait, or wants what was taken back to be sent again.
    pub(super) fn go_on(&mut self, by: String, id: &IncidentId) -> Result<String, String> {
        let incident = self.open(id)?;
        let plan = &incident.plan;
        let progress = |step: &Step| plan.progress.get(&step.id);
        let shares: Vec<&Step> = plan.steps.iter().filter(|step| step.is_share()).collect();
        if shares.iter().any(|step| plan.state(&step.id) == StepState::Undoing) {
            return Err("a share of the clients is just being taken back".to_owned());
        }
        let is_taken_back = |step: &&&Step| progress(step).is_some_and(|progress| progress.taken_back.is_some());
        let taken_back: Vec<&Step> = shares.iter().filter(is_taken_back).copied().collect();
        let on: Vec<StepId> = if taken_back.is_empty() {
            plan.steps.iter().filter_map(|step| self.waited_for(incident, step)).map(|(step, ..)| step).collect()
        } else {
            taken_back.iter().map(|step| step.id.clone()).collect()
        };
        let plan = plan.id.clone();
        if incident.purpose != Purpose::Failback || on.is_empty() {
            return Err(format!("{id} waits for no stage; what it waits for: `failoverd explain`"));
        }
        let told = match taken_back.is_empty() {
            true => format!("{id} goes on without waiting for the end of this stage"),
            false => format!("{id} sends the share again that was taken back"),
        };
        for step in BTreeSet::from_iter(on) {
            self.record(Fact::StageContinued { plan: plan.clone(), step, by: by.clone() });
        }
        Ok(told)
    }

    /// Whether the step's time has come: the region that takes the work back has been well for long enough, and so have the
    /// clients that were sent there before.
    pub(super) fn waits_for_stage(&mut self, incident: &Incident, step: &Step) -> Option<Guard> {
        let plan = &incident.plan;
        // What has begun goes on, and past the commit point there is no way back.
        let is_over = plan.committed.is_some() || plan.state(&step.id) != StepState::Waiting;
        if incident.purpose != Purpose::Failback || is_over || self.bugs.has(Bug::StagesSkipped) {
            return None;
        }
        let (id, target) = (&incident.id, &incident.target);
        let before: Vec<&Step> = shares_before(incident, step).collect();
        let follows = !before.is_empty();
        // Whichever it was: nobody goes on over the clients that were not well served.
        let mut shares = plan.steps.iter().filter(|other| other.is_share() && (follows || step.is_share()));
        let taken_back = shares.find_map(|share| {
            let why = plan.progress.get(&share.id)?.taken_back.as_ref()?;
            Some(format!("the clients of {} were taken back: {why}", share.id))
        });
        if let Some(evidence) = taken_back {
            let lifted_by = format!("`failoverd continue {id}`, which sends them again; or `failoverd abort {id}`");
            return Some(Guard { kind: GuardKind::Stage, evidence, lifted_by });
        }
        if let Some((_, left, guard)) = self.waited_for(incident, step) {
            self.wake(self.now.monotonic + left, "a stage of a failback is over");
            return Some(guard);
        }
        if !follows && !step.is_share() {
            return None;
        }
        match self.health_of(target, follows) {
            Health::Well => None,
            Health::Unknown(why) | Health::Ailing(why) => Some(Guard {
                kind: GuardKind::TargetNotReady,
                evidence: why,
                lifted_by: format!("clients being served well in {target}, or `failoverd abort {id}`"),
            }),
        }
    }

    /// What the step waits for as time goes by: the step that a person lets go on, for how long, and why.
    fn waited_for(&self, incident: &Incident, step: &Step) -> Option<(StepId, Duration, Guard)> {
        let plan = &incident.plan;
        if incident.purpose != Purpose::Failback || plan.state(&step.id) != StepState::Waiting {
            return None;
        }
        let left = self.stage_left(incident, step);
        if left.is_zero() || !plan.is_due(step) {
            return None;
        }
        let lifted_by = format!("{} more, or `failoverd continue {}`", human(left), incident.id);
        let share = shares_before(incident, step).next();
        let (on, evidence) = match share {
            Some(share) => (&share.id, format!("the clients of {} are served well in {}", share.id, incident.target)),
            None => {
                let (lasting, last) = self.well_for(&incident.target);
                let of = human(self.policy.failback.stable_for);
                let last = last.map(|id| format!(" ({id} was the last to be)")).unwrap_or_default();
                (&step.id, format!("all of {} has been well for {} of {of}{last}", incident.target, human(lasting)))
            }
        };
        Some((on.clone(), left, Guard { kind: GuardKind::Stage, evidence, lifted_by }))
    }

    /// How long it still waits: until the stage before it is over, or, before the first, until the region is trusted.
    fn stage_left(&self, incident: &Incident, step: &Step) -> Duration {
        let plan = &incident.plan;
        let is_waived = |step: &Step| plan.progress.get(&step.id).is_some_and(|progress| progress.is_waived);
        let before: Vec<&Step> = shares_before(incident, step).collect();
        if before.is_empty() {
            let begins = step.is_share() || super::roles::takes_roles(step);
            let has_begun = plan.steps.iter().any(|step| step.is_share()) && !step.is_share();
            if !begins || has_begun || is_waived(step) || plan.committed.is_some() {
                return Duration::ZERO;
            }
            let policy = &self.policy.failback;
            let (lasting, _) = self.well_for(&incident.target);
            return policy.stable_for.saturating_sub(lasting);
        }
        let left = before.into_iter().filter(|share| !is_waived(share)).filter_map(|share| {
            let ended = plan.progress.get(&share.id)?.ended.filter(|_| plan.state(&share.id) == StepState::Done)?;
            Some(share.stage?.saturating_sub(self.hard.elapsed(ended, self.now)))
        });
        left.max().unwrap_or_default()
    }

    /// For how long everything in the region that has a place has been well, as far as this daemon saw, and what was so last.
    fn well_for(&self, region: &RegionId) -> (Duration, Option<&InstanceId>) {
        let now = self.now.monotonic;
        let here = self
            .soft
            .watches
            .iter()
            .filter(|(id, watch)| id.region == *region && !matches!(watch.kind, Kind::Traffic | Kind::Holdings));
        let since = here.map(|(id, watch)| {
            (watch.well_since(now).map_or(Duration::ZERO, |since| now.saturating_sub(since)), Some(id))
        });
        since.min_by_key(|(lasting, _)| *lasting).unwrap_or_default()
    }

    /// How what answers clients in the region does. `are_there`: some of them are there, so the checks have to have held since.
    fn health_of(&self, region: &RegionId, are_there: bool) -> Health {
        let now = self.now.monotonic;
        let patience = self.policy.failback.interval / 2;
        let mut unknown = None;
        for (component, policy) in self.policy.components.iter().filter(|(_, policy)| policy.answers_clients()) {
            let id = InstanceId { component: component.clone(), region: region.clone() };
            let Some(watch) = self.soft.watches.get(&id) else { continue };
            let lasts = |since: Duration| now.saturating_sub(since) >= patience;
            if watch.first_of_current_failures().is_some_and(lasts) || watch.degraded_for(now).is_some() {
                return Health::Ailing(format!("{id} is {}", watch.why(now)));
            }
            if policy.kind == Kind::Kubernetes
                && let Some((workload, since)) = watch.short_workloads(now).find(|(_, since)| lasts(*since))
            {
                let lasting = human(now.saturating_sub(since));
                return Health::Ailing(format!("{workload} of {id} has lacked replicas for {lasting}"));
            }
            if !watch.is_answering(now) {
                unknown = unknown.or_else(|| Some(format!("{id}: {}", watch.why(now))));
            }
        }
        for check in self.checks_of_clients() {
            let key = (check.name.clone(), region.clone());
            if let Some(broken) = self.hard.broken_checks.get(&key) {
                return Health::Ailing(format!("check {} does not hold in {region}: {}", check.name, broken.why));
            }
            let holds = self.soft.verifications.get(&key).and_then(super::verification::Verification::holds);
            if are_there && holds != Some(true) {
                unknown = unknown.or_else(|| Some(format!("check {} is just being run in {region}", check.name)));
            }
        }
        unknown.map_or(Health::Well, Health::Unknown)
    }

    /// The checks that run after what answers clients has moved.
    pub(super) fn checks_of_clients(&self) -> impl Iterator<Item = &CheckPolicy> {
        let answers = |component: &ComponentId| {
            let kind = self.policy.components.get(component).map(|policy| policy.kind);
            matches!(kind, Some(Kind::Kubernetes | Kind::Http))
        };
        self.policy.checks.iter().filter(move |check| check.after.iter().any(answers))
    }

    /// The clients of a failback that were taken back, for people.
    pub(super) fn told_of_clients_taken_back(&self, incident: &Incident) -> Option<String> {
        let plan = &incident.plan;
        let mut shares = plan.steps.iter().filter(|step| step.is_share());
        let why = shares.find_map(|step| plan.progress.get(&step.id)?.taken_back.as_ref())?;
        let id = &incident.id;
        (incident.purpose == Purpose::Failback && !plan.is_unwinding()).then(|| {
            format!(
                "{id}: clients were taken back from {}: {why}. `failoverd continue {id}` sends them again, `failoverd abort {id}` \
                 gives the failback up",
                incident.target
            )
        })
    }

    /// Where a share of the clients goes back to, while it is there.
    pub(super) fn region_on_trial(&self) -> Option<&RegionId> {
        let is_there = |incident: &Incident| {
            let mut shares = incident.plan.steps.iter().filter(|step| step.is_share());
            shares.any(|step| incident.plan.state(&step.id) == StepState::Done) && incident.plan.committed.is_none()
        };
        let mut open = self.hard.open_incidents().filter(|incident| incident.purpose == Purpose::Failback);
        open.find(|incident| is_there(incident)).map(|incident| &incident.target)
    }

    /// A share of the clients that is not well served goes back where it came from. The next smaller one has an interval of its
    /// own to do well.
    pub(super) fn take_shares_back(&mut self, id: &IncidentId) {
        let Some(incident) = self.incident(id) else { return };
        let plan = &incident.plan;
        // Once writers wait, it goes one way or the other.
        let is_over = plan.committed.is_some() || plan.is_unwinding() || is_fencing(incident);
        if incident.purpose != Purpose::Failback || is_over || self.bugs.has(Bug::ShareNotWatched) {
            return;
        }
        let interval = self.policy.failback.interval;
        let shares = || plan.steps.iter().filter(|step| step.is_share());
        let back = shares().filter_map(|step| plan.progress.get(&step.id)).filter(|of| of.taken_back.is_some());
        for progress in back {
            let since = progress.ended.map(|ended| self.hard.elapsed(ended, self.now));
            match since.filter(|_| progress.state == StepState::Undone) {
                Some(since) if since >= interval => {}
                Some(since) => {
                    self.wake(
                        self.now.monotonic + (interval - since),
                        "a smaller share of the clients is looked at again",
                    );
                    return;
                }
                None => return,
            }
        }
        // One that is on its way is seen to arrive first: it would undo what is done about the one before it.
        if shares().any(|step| matches!(plan.state(&step.id), StepState::Running | StepState::Undoing)) {
            return;
        }
        let Some(last) = shares().rfind(|step| plan.state(&step.id) == StepState::Done) else { return };
        let share = share_of(last, &incident.target);
        let (plan, step, target) = (plan.id.clone(), last.id.clone(), incident.target.clone());
        // What fails now is an ailment a moment later, although nothing may happen until then.
        self.wake(self.now.monotonic + interval / 4, "the clients that went back are looked at");
        if let Health::Ailing(why) = self.health_of(&target, true) {
            let why = format!("{share} % of the clients were in {target}, and {why}");
            self.record(Fact::ShareTakenBack { plan, step, why });
        }
    }

    /// What is lost beside a failback. Where no clients have gone back yet, that is given up, and the row answers. Where some are
    /// served well there already, everybody follows without any further stage, once the row has lasted as long as it has to
    /// for clients to be moved. Not while a database does not answer: whether that is lost is for its own row to say, or for
    /// its region's. Returns whether it was for the failback to answer.
    pub(super) fn hurry_failback(&mut self, candidate: &Candidate) -> bool {
        let is_hit = |incident: &&Incident| {
            let is_over = incident.plan.committed.is_some() || incident.plan.is_unwinding() || is_fencing(incident);
            incident.purpose == Purpose::Failback && incident.source == candidate.source && !is_over
        };
        let Some(incident) = self.hard.open_incidents().find(is_hit) else { return false };
        let (id, plan) = (incident.id.clone(), &incident.plan);
        let mut shares = plan.steps.iter().filter(|step| step.is_share());
        let is_out = shares.clone().any(|step| plan.state(&step.id) == StepState::Done)
            && !shares.any(|step| plan.progress.get(&step.id).is_some_and(|progress| progress.taken_back.is_some()));
        if !is_out {
            self.give_failback_up(&id, candidate);
            return true;
        }
        let row = if let Part::Component(component) = &candidate.part {
            self.policy.components.get(component).and_then(|policy| policy.row)
        } else {
            None
        };
        let lasts = row.map_or(candidate.after, |row| row.confirm_for.max(row.after));
        let silent = plan
            .steps
            .iter()
            .any(|step| matches!(&step.action, Action::DatabasePromoted { from, .. } if !self.is_answering(from)));
        if candidate.failing_for < lasts {
            self.wake(candidate.since + lasts, "clients follow those that went back");
        } else if silent || !self.guards_of(candidate).is_empty() {
            self.wake(self.now.monotonic + self.policy.guards.recheck, "a failback whose source may be lost");
        } else {
            let evidence = self.evidence(&candidate.source);
            self.record(Fact::PlannedMoveOvertaken { incident: id, evidence });
            self.advance();
        }
        true
    }

    /// No clients are where they would have to come back from.
    fn give_failback_up(&mut self, id: &IncidentId, candidate: &Candidate) {
        let Some(incident) = self.incident(id) else { return };
        let plan = incident.plan.id.clone();
        let open = incident.plan.parts.iter().filter(|(_, state)| **state == PartState::Open);
        let open: Vec<Part> = open.map(|(part, _)| part.clone()).collect();
        let why = format!("{} of {} is lost meanwhile, which is answered by itself", candidate.part, candidate.source);
        for part in open {
            self.record(Fact::UnwindingStarted { plan: plan.clone(), part, why: why.clone(), aborted: false });
        }
        self.advance();
    }
}

/// The shares of the clients that the step follows.
fn shares_before<'i>(incident: &'i Incident, step: &'i Step) -> impl Iterator<Item = &'i Step> {
    step.after.iter().filter_map(|id| incident.plan.step(id)).filter(|step| step.is_share())
}

/// The fence that ends the writes may be up.
fn is_fencing(incident: &Incident) -> bool {
    let plan = &incident.plan;
    let is_sent = |step: &&Step| plan.progress.get(&step.id).is_some_and(|progress| progress.has_sent());
    plan.steps.iter().filter(is_sent).any(|step| plan.fence_of(&step.id).is_some())
}

/// The percentage of the clients that the step sends to the region.
fn share_of(step: &Step, region: &RegionId) -> u8 {
    let Action::Traffic { weights, .. } = &step.action else { return 0 };
    weights.get(region).copied().unwrap_or_default()
}
