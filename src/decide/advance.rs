//! How plans go on: steps start when they may, parts unwind when their source recovers, plans end.

use std::collections::BTreeSet;
use std::time::Duration;

use super::controller::Draft;
use super::incident::{Incident, PartState, Progress};
use super::{Effect, Fact, Guard, GuardKind, Outcome, StepOutcome, StepState, Task};
use crate::domain::{Bug, IncidentId, InstanceId, PlanId, RegionId, StepId};
use crate::plan::{Action, Part, Purpose, Reversal, Step};
use crate::ports::{Look, Setback};

/// A look that has not come back by then is asked again.
const LOOK_MAX: Duration = Duration::from_secs(60);

/// Whether a step may start.
pub(super) enum Readiness {
    /// Yes.
    Go { look: Option<Look>, loss: Option<Duration>, exceptions: Vec<String>, is_judged: bool },
    /// Not while these hold.
    Held(Vec<Guard>),
    /// A step that needs the lost region and cannot even be looked at.
    Owed(String),
    /// Looks are under way.
    Looking,
    /// Nothing came of what a former leader or run began.
    NotBegun(String),
}

impl Draft<'_> {
    /// Moves every open incident on as far as it can go now.
    pub(super) fn advance(&mut self) {
        let open: Vec<IncidentId> = self.hard.open_incidents().map(|incident| incident.id.clone()).collect();
        for id in open {
            if self.is_halted() {
                return;
            }
            self.forget_what_is_not_held_any_more(&id);
            self.finish_what_healed(&id);
            self.unwind_what_recovered(&id);
            self.unwind_what_does_not_go(&id);
            self.take_shares_back(&id);
            self.undo(&id);
            self.retry_what_came_about(&id);
            self.look_at_failed_promotions(&id);
            self.fence_what_answers(&id);
            self.start(&id);
            self.end(&id);
        }
    }

    /// A step whose turn is over, or has to come again, is held by nothing.
    fn forget_what_is_not_held_any_more(&mut self, id: &IncidentId) {
        let open = self.hard.incidents.get(id).filter(|incident| incident.closed.is_none());
        let Some(plan) = open.map(|incident| &incident.plan) else { return };
        self.soft.held.retain(|(of, step), _| {
            let is_next = |step: &Step| plan.state(&step.id) == StepState::Waiting && plan.is_due(step);
            let is_again = plan.state(step) == StepState::Running;
            let is_to_undo = !plan.is_wanted(step);
            *of != plan.id || is_again || is_to_undo || plan.step(step).is_some_and(is_next)
        });
    }

    pub(super) fn is_halted(&self) -> bool {
        self.soft.halted.is_some() || self.hard.halted.is_some()
    }

    pub(super) fn incident(&self, id: &IncidentId) -> Option<&Incident> {
        self.hard.incidents.get(id).map(|incident| &**incident).filter(|incident| incident.closed.is_none())
    }

    fn unwind_what_recovered(&mut self, id: &IncidentId) {
        let Some(incident) = self.incident(id) else { return };
        let source = incident.source.clone();
        let plan = incident.plan.id.clone();
        let parts: Vec<Part> = incident
            .plan
            .parts
            .iter()
            .filter(|(part, state)| {
                let is_committed = incident.plan.is_committed(part) && !self.bugs.has(Bug::UnwoundAfterCommitPoint);
                **state == PartState::Open && !is_committed
            })
            .filter(|(part, _)| !incident.plan.ordered.contains(part))
            .map(|(part, _)| part.clone())
            .collect();
        for part in parts {
            if part == Part::Reroute && self.is_given_up(id) {
                let why = "its share was given up for what has been taken back since".to_owned();
                self.record(Fact::UnwindingStarted { plan: plan.clone(), part, why, aborted: false });
                continue;
            }
            if part == Part::Reroute {
                if !self.has_traffic(&source) {
                    // All of the traffic has moved on from there: there is no share to take back.
                    continue;
                }
                if let Some(since) = self.clients_well_since(&source) {
                    self.wake(since + self.policy.recover_for, "a region has been well for long enough");
                }
            }
            // What was never meant to last comes back whenever it can; its cooldown keeps it from going to and fro.
            if !self.has_recovered(&source, &part) || (part.moves() && self.has_unwound_lately()) {
                continue;
            }
            let why = match &part {
                Part::Component(component) => format!("{component}@{source} answers again"),
                Part::Region => format!("{source} is not lost: too few of its critical components still fail"),
                Part::Reroute => format!("the clients of {source} are well served again"),
                Part::Healing { .. } | Part::Zone { .. } | Part::Rejoin { .. } => format!("{part} is well again"),
            };
            self.record(Fact::UnwindingStarted { plan: plan.clone(), part, why, aborted: false });
        }
    }

    /// All of the traffic was to move, so that no share did; and then nothing of that came about.
    fn is_given_up(&self, id: &IncidentId) -> bool {
        let Some(incident) = self.incident(id) else { return false };
        let plan = &incident.plan;
        let (shares, wholes): (Vec<&Step>, Vec<&Step>) = plan
            .steps
            .iter()
            .filter(|step| matches!(step.action, Action::Traffic { .. }))
            .partition(|step| step.part == Part::Reroute);
        let is_over = |part: &Part| matches!(plan.parts.get(part), Some(PartState::Unwound { .. }));
        // What takes no clients along, wherever it moves, has no say.
        !wholes.is_empty()
            && wholes.iter().filter_map(|step| plan.needed_by.get(&step.id)).flatten().all(is_over)
            && shares.iter().all(|step| plan.state(&step.id) == StepState::Cancelled)
    }

    /// A second unwinding within the hour holds and pages instead.
    pub(super) fn has_unwound_lately(&self) -> bool {
        self.hard.unwound.is_some_and(|stamp| self.hard.elapsed(stamp, self.now) < self.policy.guards.unwind_once_per)
    }

    /// What is left to undo is in the region that is lost: nothing waits for that.
    pub(super) fn cannot_unwind(&self, incident: &Incident) -> bool {
        let plan = &incident.plan;
        let undoing = || plan.steps.iter().filter(|step| plan.state(&step.id) == StepState::Undoing);
        let is_lost = |step: &Step| {
            let is_silent =
                step.action.acts_at().is_some_and(|at| at.region == incident.source && !self.is_seen_answering(at));
            is_silent && plan.progress.get(&step.id).is_some_and(|progress| progress.undo_failed)
        };
        undoing().next().is_some() && undoing().all(is_lost)
    }

    /// Undoes, in reverse order, what no part wants any more.
    fn undo(&mut self, id: &IncidentId) {
        let Some(incident) = self.incident(id) else { return };
        let is_failback = incident.purpose == Purpose::Failback;
        let goes_back = |of: &Progress| is_failback && of.taken_back.is_some() && of.state != StepState::Undone;
        if !incident.plan.is_unwinding() && !incident.plan.progress.values().any(goes_back) {
            return;
        }
        let plan = incident.plan.clone();
        for step in &plan.steps {
            let is_to_go_back = plan.progress.get(&step.id).is_some_and(goes_back);
            if (plan.is_wanted(&step.id) && !is_to_go_back) || plan.is_taken_back(step) {
                continue;
            }
            let Some(progress) = plan.progress.get(&step.id) else { continue };
            let key = (plan.id.clone(), step.id.clone());
            match progress.state {
                StepState::Running if self.soft.under_way.contains(&key) => {
                    if self.soft.cancelled.insert(key.clone()) {
                        self.perform(Effect::Cancel { plan: key.0, step: key.1 });
                    }
                    continue;
                }
                // It was under way when a former run of this daemon ended: nobody works on it now.
                StepState::Running => {
                    self.record(Fact::StepCancelled { plan: key.0.clone(), step: key.1.clone() });
                }
                StepState::Undoing if progress.undo_failed || self.soft.under_way.contains(&key) => continue,
                StepState::Undoing
                | StepState::Waiting
                | StepState::Held
                | StepState::Done
                | StepState::Failed
                | StepState::Owed
                | StepState::Skipped
                | StepState::Undone
                | StepState::Cancelled => {}
            }
            if step.action.reversal() != Reversal::Undo {
                continue;
            }
            let later_is_back = plan
                .steps
                .iter()
                .filter(|later| later.after.contains(&step.id) && !plan.is_wanted(&later.id))
                .all(|later| plan.is_taken_back(later));
            if !later_is_back {
                continue;
            }
            // Taking back changes the world as much as anything: it waits for the same leave.
            let guards = self.interdicts(id);
            if !guards.is_empty() {
                self.wake(self.now.monotonic + self.policy.guards.recheck, "a guard that holds an unwinding");
                self.soft.held.insert(key, guards);
                continue;
            }
            if !self.is_surveyed() {
                continue;
            }
            self.soft.held.remove(&key);
            if self.bugs.has(Bug::UnwoundWithoutUnfencing) && plan.fence_of(&step.id).is_some() {
                self.record(Fact::StepUndone { plan: key.0, step: key.1, note: "nothing to do".to_owned() });
                continue;
            }
            let attempt = progress.undo_attempts + 1;
            let previous = progress.previous.clone();
            self.record(Fact::UndoStarted { plan: key.0.clone(), step: key.1.clone(), attempt });
            self.soft.under_way.insert(key.clone());
            let task = Task { plan: key.0, step: key.1, attempt, action: step.action.clone(), deadline: step.deadline };
            self.perform(Effect::Undo { task, previous });
        }
        let Some(incident) = self.incident(id) else { return };
        let finished: Vec<Part> = incident
            .plan
            .parts
            .iter()
            .filter(|(_, state)| matches!(state, PartState::Unwinding { .. }))
            .filter(|(part, _)| {
                incident.plan.steps.iter().all(|step| {
                    !incident.plan.is_needed_by(&step.id, part)
                        || incident.plan.is_wanted(&step.id)
                        || incident.plan.is_taken_back(step)
                })
            })
            .map(|(part, _)| part.clone())
            .collect();
        let plan = incident.plan.id.clone();
        for part in finished {
            self.record(Fact::PartUnwound { plan: plan.clone(), part });
        }
    }

    /// Starts every step that may start.
    fn start(&mut self, id: &IncidentId) {
        let Some(incident) = self.incident(id) else { return };
        let plan = incident.plan.id.clone();
        let candidates: Vec<Step> = incident
            .plan
            .steps
            .iter()
            .filter(|step| incident.plan.is_wanted(&step.id))
            .filter(|step| match incident.plan.state(&step.id) {
                StepState::Waiting => incident.plan.is_due(step) || self.is_impatient(incident, step),
                StepState::Running if self.bugs.has(Bug::StartedStepsForgotten) => false,
                // Started by a former run: perform it again, under the same key.
                StepState::Running => {
                    let is_under_way = self.soft.under_way.contains(&(plan.clone(), step.id.clone()));
                    !is_under_way && !self.is_handed_over(incident, &step.id)
                }
                StepState::Held
                | StepState::Done
                | StepState::Failed
                | StepState::Owed
                | StepState::Skipped
                | StepState::Undoing
                | StepState::Undone
                | StepState::Cancelled => false,
            })
            .filter(|step| !self.is_needless(incident, step))
            .cloned()
            .collect();
        for step in candidates {
            self.try_to_start(id, &plan, &step);
        }
    }

    /// Steps that do not wait for what they should: deliberate bugs.
    fn is_impatient(&self, incident: &Incident, step: &Step) -> bool {
        matches!(&step.action, Action::DatabasePromoted { from, .. } if self.bugs.has(Bug::CatchUpSkipped)
            && incident.purpose.is_planned() && self.is_fenced(&incident.id, from))
            || matches!(step.action, Action::DatabasePromoted { .. }) && self.bugs.has(Bug::PromotionBeforeFence)
            || matches!(step.action, Action::Traffic { .. }) && self.bugs.has(Bug::TrafficFirst)
    }

    fn try_to_start(&mut self, id: &IncidentId, plan: &PlanId, step: &Step) {
        self.soft.held.remove(&(plan.clone(), step.id.clone()));
        match self.readiness(id, step) {
            Readiness::Go { look, loss, exceptions, is_judged } => {
                let Some(incident) = self.incident(id) else { return };
                let Some(progress) = incident.plan.progress.get(&step.id) else { return };
                let attempt = progress.attempts + 1;
                let is_committed = step.commit_point && progress.has_passed_commit_point && !is_judged;
                // What was sent once as a promotion without loss is not sent again as one with it.
                let lossless = if is_committed { progress.is_lossless } else { self.waits_for_all(incident, step) };
                if step.commit_point && !is_committed {
                    self.record(Fact::CommitPointPassed {
                        plan: plan.clone(),
                        step: step.id.clone(),
                        loss,
                        lossless,
                        exceptions,
                    });
                }
                let previous = look.map(|look| look.previous).unwrap_or_default();
                let mut action = step.action.clone();
                if let Action::DatabasePromoted { lossless: of, .. } = &mut action {
                    *of = lossless && !self.bugs.has(Bug::CatchUpSkipped);
                }
                self.record(Fact::StepStarted { plan: plan.clone(), step: step.id.clone(), attempt, previous });
                let key = (plan.clone(), step.id.clone());
                self.soft.under_way.insert(key.clone());
                self.soft.cancelled.remove(&key);
                let task = Task { plan: plan.clone(), step: step.id.clone(), attempt, action, deadline: step.deadline };
                self.perform(Effect::Perform(task));
            }
            Readiness::Owed(why) => {
                self.record(Fact::StepOwed { plan: plan.clone(), step: step.id.clone(), why });
            }
            Readiness::Held(guards) => {
                self.ask_for_approval(id, &guards);
                self.hand_over_what_is_out_of_reach(id, step, &guards);
                self.return_roles(id, step, &guards);
                self.soft.held.insert((plan.clone(), step.id.clone()), guards);
            }
            Readiness::Looking => {}
            Readiness::NotBegun(why) => {
                let (plan, step) = (plan.clone(), step.id.clone());
                self.record(Fact::StepPutBack { plan, step, why, untouched: true });
            }
        }
    }

    /// The fence of this plan is up.
    pub(super) fn is_fenced(&self, id: &IncidentId, database: &InstanceId) -> bool {
        self.incident(id).is_some_and(|incident| {
            incident.plan.steps.iter().any(|step| {
                incident.plan.fence_of(&step.id).as_ref() == Some(database)
                    && incident.plan.state(&step.id) == StepState::Done
            })
        })
    }

    pub(super) fn look(&mut self, id: &IncidentId, step: &StepId) {
        let Some(incident) = self.incident(id) else { return };
        let Some(action) = incident.plan.step(step).map(|step| step.action.clone()) else { return };
        let plan = incident.plan.id.clone();
        let look = self.soft.looks.entry((plan.clone(), step.clone())).or_default();
        if look.asked.is_none_or(|asked| self.now.monotonic.saturating_sub(asked) > LOOK_MAX) {
            look.asked = Some(self.now.monotonic);
            self.perform(Effect::Look { plan, step: step.clone(), action });
        }
    }

    /// What was seen of the step's world, if it is fresh enough to be believed.
    pub(super) fn fresh_look(&self, plan: &PlanId, step: &StepId) -> Option<&Result<Look, Setback>> {
        let (at, result) = self.soft.looks.get(&(plan.clone(), step.clone()))?.seen.as_ref()?;
        let believed = match result {
            Ok(_) => self.policy.guards.look_fresh,
            Err(_) => self.policy.guards.recheck,
        };
        (self.now.monotonic.saturating_sub(*at) < believed).then_some(result)
    }

    pub(super) fn finished(&mut self, plan: PlanId, step: StepId, attempt: u32, outcome: StepOutcome) {
        let key = (plan.clone(), step.clone());
        let Some(incident) = self.hard.incident_of(&plan) else { return };
        let Some(definition) = incident.plan.step(&step).cloned() else { return };
        let Some(progress) = incident.plan.progress.get(&step) else { return };
        let is_current = progress.attempts == attempt || self.bugs.has(Bug::OldOutcomeAccepted);
        // What an earlier term of this daemon began and gave up says nothing: this one has looked at it anew, or will.
        if progress.state != StepState::Running || !is_current || !self.soft.under_way.contains(&key) {
            return;
        }
        let planned = incident.purpose.is_planned();
        // Beside one that answers, a planned move goes no further without its fence.
        let is_owed_fence =
            incident.plan.fence_of(&step).is_some_and(|database| !planned || !self.is_answering(&database));
        let source = incident.source.clone();
        self.forget_who_gets_clients(&definition.action);
        self.soft.under_way.remove(&key);
        self.soft.notes.remove(&key);
        self.soft.looks.remove(&key);
        match outcome {
            StepOutcome::Reached { note, acted } => {
                self.forget_what_ailed(&source, &definition.part);
                // It was a primary when it was seen last.
                if let Action::Rejoined { database, .. } = &definition.action
                    && let Some(watch) = self.soft.watches.get_mut(database)
                {
                    watch.evidence.serving = None;
                }
                self.record(Fact::StepDone { plan, step, note, acted });
                for (component, region) in definition.places {
                    if self.hard.placement.get(&component) != Some(&region) {
                        self.record(Fact::PlacementChanged { component, region });
                    }
                }
            }
            // Replicas that do not get ready are what the restart is for.
            StepOutcome::Failed { why } | StepOutcome::OutOfReach { why }
                if definition.best_effort || is_owed_fence || is_first_try(&definition) =>
            {
                self.record(Fact::StepOwed { plan, step, why });
            }
            StepOutcome::OutOfReach { why } if self.hand_over(&plan, &step, &why) => {}
            StepOutcome::Failed { why } | StepOutcome::OutOfReach { why } => {
                self.record(Fact::StepFailed { plan, step, why });
            }
            StepOutcome::Cancelled => self.record(Fact::StepCancelled { plan, step }),
            StepOutcome::TooLate { why, acted: false } => {
                self.record(Fact::StepPutBack { plan, step, why, untouched: false });
            }
            // As after a restart: it is looked at, and goes on, waits, or is put back.
            StepOutcome::TooLate { why: _, acted: true } => {
                self.soft.stopped_sending.insert(key, self.now.monotonic);
            }
            StepOutcome::NotBegun { why, stop_file } => {
                // A pause and a hold are in the record. Of a stop file the daemon says once a second whether it is there.
                if stop_file {
                    self.soft.stopped.get_or_insert_with(|| why.clone());
                }
                self.record(Fact::StepPutBack { plan, step, why, untouched: false });
            }
        }
    }

    pub(super) fn undo_finished(&mut self, plan: PlanId, step: StepId, attempt: u32, outcome: Result<String, String>) {
        let Some(progress) = self.hard.incident_of(&plan).and_then(|i| i.plan.progress.get(&step)) else { return };
        let is_under_way = self.soft.under_way.contains(&(plan.clone(), step.clone()));
        if progress.state != StepState::Undoing
            || progress.undo_attempts != attempt
            || progress.undo_failed
            || !is_under_way
        {
            return;
        }
        if let Some(action) = self.hard.incident_of(&plan).and_then(|i| i.plan.step(&step)).map(|s| s.action.clone()) {
            self.forget_who_gets_clients(&action);
        }
        self.soft.under_way.remove(&(plan.clone(), step.clone()));
        let is_minor = self.hard.incident_of(&plan).is_some_and(|incident| {
            incident.plan.fence_of(&step).is_none()
                && incident.plan.step(&step).is_some_and(|definition| definition.best_effort)
        });
        // Nobody is served there.
        let is_gone = self.hard.incident_of(&plan).is_some_and(|incident| {
            let place = incident.plan.step(&step).and_then(|step| step.action.acts_at());
            let is_there = |at: &InstanceId| at.region == incident.target && !self.is_seen_answering(at);
            incident.purpose == Purpose::Failback && place.is_some_and(is_there)
        });
        let is_minor = is_minor
            || is_gone
            || self.hard.incident_of(&plan).is_some_and(|i| self.is_lost_with_the_standby(i, &step));
        match outcome {
            Ok(note) => self.record(Fact::StepUndone { plan, step, note }),
            Err(why) if is_minor => {
                let note = format!("left as it is: {why}");
                self.record(Fact::StepUndone { plan, step, note });
            }
            Err(why) => self.record(Fact::UndoFailed { plan, step, why }),
        }
    }

    /// What was seen of a record before it was changed says nothing any more.
    fn forget_who_gets_clients(&mut self, action: &Action) {
        if let Action::Traffic { traffic, .. } = action {
            for (_, watch) in self.soft.watches.iter_mut().filter(|(id, _)| id.component == *traffic) {
                watch.evidence.serving = None;
            }
        }
    }

    /// A plan ends: done, unwound, aborted, or stuck with a page.
    fn end(&mut self, id: &IncidentId) {
        let Some(incident) = self.incident(id) else { return };
        let plan = &incident.plan;
        if plan.parts.is_empty() {
            return;
        }
        let unwound: Vec<bool> = plan
            .parts
            .values()
            .filter_map(|state| match state {
                PartState::Unwound { aborted } => Some(*aborted),
                PartState::Open | PartState::Unwinding { .. } => None,
            })
            .collect();
        if unwound.len() == plan.parts.len() {
            let outcome = if unwound.contains(&true) { Outcome::Aborted } else { Outcome::Unwound };
            self.record(Fact::IncidentClosed { incident: id.clone(), outcome });
            return;
        }
        let failed: BTreeSet<StepId> = plan
            .progress
            .iter()
            .filter(|(step, progress)| {
                progress.undo_failed || (progress.state == StepState::Failed && plan.is_wanted(step))
            })
            .map(|(step, _)| step.clone())
            .collect();
        let is_settled = plan.steps.iter().all(|step| match plan.state(&step.id) {
            StepState::Done | StepState::Skipped | StepState::Owed | StepState::Undone | StepState::Cancelled => true,
            StepState::Failed => !plan.is_wanted(&step.id) && plan.is_taken_back(step),
            // Nobody needs it any more.
            StepState::Waiting => !plan.is_wanted(&step.id) && plan.is_taken_back(step),
            StepState::Held | StepState::Running | StepState::Undoing => false,
        });
        if is_settled && !plan.is_unwinding() && !self.awaits_recovery(incident) && !self.awaits_zone(incident) {
            self.record(Fact::IncidentClosed { incident: id.clone(), outcome: Outcome::Recovered });
            return;
        }
        if failed.is_empty() || plan.is_stuck {
            return;
        }
        let can_go_on = plan.steps.iter().any(|step| match plan.state(&step.id) {
            StepState::Running => true,
            StepState::Undoing => plan.progress.get(&step.id).is_some_and(|progress| !progress.undo_failed),
            StepState::Waiting => !waits_for(plan, step, &failed),
            StepState::Held
            | StepState::Done
            | StepState::Failed
            | StepState::Owed
            | StepState::Skipped
            | StepState::Undone
            | StepState::Cancelled => false,
        });
        if !can_go_on {
            let plan = plan.id.clone();
            self.record(Fact::PlanStuck { plan, steps: failed.into_iter().collect() });
        }
    }

    /// Asks a person where a person can lift what holds the plan back.
    fn ask_for_approval(&mut self, id: &IncidentId, guards: &[Guard]) {
        let liftable: Vec<Guard> = guards
            .iter()
            .filter(|guard| {
                matches!(guard.kind, GuardKind::Mode | GuardKind::Unfenced | GuardKind::DataLoss | GuardKind::Witness)
            })
            .cloned()
            .collect();
        // Whoever broke the glass was asked before, and is there.
        let is_asked = self.hard.break_glass.is_some();
        if is_asked || liftable.is_empty() || liftable.len() != guards.len() {
            return;
        }
        let Some(incident) = self.incident(id) else { return };
        let hash = incident.plan.hash().to_owned();
        // Once for the plan as it stands, and again where there is something that nobody was shown.
        let is_asked = incident.plan.requested.as_ref().is_some_and(|asked| {
            asked.hash == hash
                && liftable.iter().all(|guard| asked.guards.contains(&guard.kind))
                && self.hard.elapsed(asked.stamp, self.now) < self.policy.guards.approval_expires
        });
        if is_asked {
            return;
        }
        let promotes = incident.plan.steps.iter().any(|step| matches!(step.action, Action::DatabasePromoted { .. }));
        let loss = self.loss_of(&incident.source, &incident.target).filter(|_| promotes);
        let plan = incident.plan.id.clone();
        self.record(Fact::ApprovalRequested { plan, hash, guards: liftable, loss });
    }

    fn loss_of(&self, source: &RegionId, target: &RegionId) -> Option<Duration> {
        self.policy
            .of_kind(crate::domain::Kind::Database)
            .filter_map(|(component, _)| match self.expected_loss(component, source, target) {
                crate::health::Loss::AtMost(loss) => Some(loss),
                crate::health::Loss::MoreThan(_) | crate::health::Loss::Unknown(_) => None,
            })
            .max()
    }
}

/// The first of the two things that are tried with an ailing workload.
fn is_first_try(step: &Step) -> bool {
    matches!(step.part, Part::Healing { .. }) && matches!(step.action, Action::Replicas { .. })
}

/// The step waits, directly or through others, for one that failed.
fn waits_for(plan: &super::incident::Plan, step: &Step, failed: &BTreeSet<StepId>) -> bool {
    let mut seen = BTreeSet::new();
    let mut open: Vec<&StepId> = step.after.iter().collect();
    while let Some(id) = open.pop() {
        if failed.contains(id) {
            return true;
        }
        if seen.insert(id)
            && let Some(before) = plan.step(id)
            && matches!(plan.state(id), StepState::Waiting | StepState::Failed)
        {
            open.extend(before.after.iter());
        }
    }
    false
}
