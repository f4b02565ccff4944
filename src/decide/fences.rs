//! Fences beside the plan: those that are owed to old primaries, and those that have to be tried again.

use std::time::Duration;

use super::controller::Draft;
use super::handover::HAND_OVER_AFTER;
use super::incident::Progress;
use super::{Effect, Fact, StepState};
use crate::domain::{Bug, IncidentId, InstanceId, ObserverId, PlanId, Serving, StepId};
use crate::health::Opinion;
use crate::plan::{Action, Step};

/// A fence that could not be put up, and whose database answers all the same, is tried again after this.
const FENCE_AGAIN: Duration = Duration::from_secs(60);
/// A fence that fails is tried again after the recheck, then twice that, up to 2 to this power of it.
const OWED_DOUBLINGS_MAX: u32 = 5;
/// What stands in the place of the plan in the key of an owed fence.
pub const OWED: &str = "owed";

impl Draft<'_> {
    /// Fences old primaries that came back; also under pause and cooldown.
    pub(super) fn pay_fences(&mut self) {
        let is_forgotten = self.bugs.has(Bug::OwedFenceForgotten);
        if self.is_halted() || self.policy.mode == crate::domain::Mode::Observe || is_forgotten {
            return;
        }
        if self.takeover().is_some() {
            return;
        }
        self.hand_over_fences();
        let due: Vec<(InstanceId, u32)> = self
            .hard
            .owed
            .iter()
            .filter(|(database, _)| self.is_due_to_be_fenced(database))
            .filter(|(database, _)| match self.soft.owed_under_way.get(*database) {
                None => true,
                Some(attempt) => attempt.again.is_some_and(|again| again <= self.now.monotonic),
            })
            .map(|(database, owed)| (database.clone(), owed.attempts + 1))
            .collect();
        // A stale ledger may owe a fence to what serves today: whoever else is in charge knows.
        if due.is_empty() || !self.is_surveyed() || self.claimed_by_another().is_some() {
            return;
        }
        for (database, attempt) in due {
            self.record(Fact::OwedFenceStarted { database: database.clone(), attempt });
            self.soft.owed_under_way.entry(database.clone()).or_default().again = None;
            let key = format!("{OWED}/fence-{database}");
            let is_managed = self.policy.components.get(&database.component).is_some_and(|component| component.managed);
            let deadlines = self.policy.deadlines;
            // It answers: a fence in the cloud is worth the same wait as before a promotion.
            let patience = deadlines.fence_managed.max(deadlines.promote_managed);
            let deadline = if is_managed { patience } else { deadlines.fence };
            self.perform(Effect::FenceOwed { database, key, attempt, deadline });
        }
    }

    /// It answers somebody, and another one serves in its place. What this daemon alone cannot reach is tried as well: a fence
    /// in the cloud may need nothing but the cloud, and of one that fails people are told.
    fn is_due_to_be_fenced(&self, database: &InstanceId) -> bool {
        (self.is_served_elsewhere(database) || self.is_replaced_in_the_world(database))
            && self.is_seen_answering(database)
    }

    /// Databases whose fence is owed and could not be put up, and that answer.
    pub(super) fn unfenced(&self) -> impl Iterator<Item = &InstanceId> {
        let has_failed = |database: &&InstanceId| {
            self.soft.owed_under_way.get(*database).is_some_and(|attempt| attempt.failures > 0)
        };
        self.hard.owed.keys().filter(has_failed).filter(|database| self.is_due_to_be_fenced(database))
    }

    /// Databases whose fence is owed, that others see answer, and that this daemon cannot reach.
    fn fences_out_of_reach(&self) -> impl Iterator<Item = &InstanceId> {
        let owed = self.hard.owed.keys();
        owed.filter(|database| self.is_due_to_be_fenced(database) && !self.is_answering(database))
    }

    /// The observer sees answer what is to be fenced, as far as anybody does.
    pub(super) fn reaches_owed_fences(&self, observer: &ObserverId) -> bool {
        let mut due = self.hard.owed.keys().filter(|database| self.is_due_to_be_fenced(database));
        due.all(|database| matches!(self.opinion(observer, database), Opinion::Answers { .. }))
    }

    /// Remembers since when, for a leader that gives the lead to one that reaches it.
    fn hand_over_fences(&mut self) {
        let key = |database: &InstanceId| (PlanId::from(OWED), StepId::from(format!("fence-{database}")));
        let now = self.now.monotonic;
        let out: Vec<(PlanId, StepId)> = self.fences_out_of_reach().map(key).collect();
        self.soft.out_of_reach.retain(|known, _| known.0.as_str() != OWED || out.contains(known));
        for key in out {
            let until = *self.soft.out_of_reach.entry(key).or_insert(now) + HAND_OVER_AFTER;
            if until > now {
                self.wake(until, "an owed fence is out of reach of this daemon");
            }
        }
    }

    /// Somebody else reaches what is to be fenced. Whoever leads waits a moment for its own probe.
    pub(super) fn should_let_others_fence(&self) -> bool {
        let mut out = self.fences_out_of_reach().peekable();
        let is_lasting = |(key, since): (&(PlanId, StepId), &Duration)| {
            key.0.as_str() == OWED && self.now.monotonic.saturating_sub(*since) >= HAND_OVER_AFTER
        };
        out.peek().is_some() && (!self.soft.is_started || self.soft.out_of_reach.iter().any(is_lasting))
    }

    /// A promotion that was sent came about after all, in its own time: its plan goes on, with its fence. And one that waited
    /// for an old primary that has gone silent meanwhile is judged anew.
    pub(super) fn retry_what_came_about(&mut self, id: &IncidentId) {
        let Some(incident) = self.incident(id) else { return };
        let plan = &incident.plan;
        let again = plan.steps.iter().filter_map(|step| {
            let Action::DatabasePromoted { database, from, .. } = &step.action else { return None };
            let progress = plan.progress.get(&step.id)?;
            let is_over =
                progress.ended.is_none_or(|ended| self.hard.elapsed(ended, self.now) >= self.policy.guards.recheck);
            let has_failed = progress.state == StepState::Failed && is_over && plan.is_wanted(&step.id);
            let why = if progress.has_sent() && self.takes_writes(database) {
                "the database takes writes".to_owned()
            } else if self.waits_in_vain(incident, step) {
                format!("{from} is silent, and is not waited for any longer")
            } else if self.has_waited_enough(incident, step) {
                "the standby does not catch up, and what it lacks is within the RPO".to_owned()
            } else {
                return None;
            };
            has_failed.then(|| (step.id.clone(), format!("failoverd: {why}")))
        });
        let again: Vec<(StepId, String)> = again.collect();
        let plan = plan.id.clone();
        for (step, by) in again {
            self.record(Fact::RetryOrdered { plan: plan.clone(), step, by });
        }
    }

    /// It answers, as a primary that takes writes.
    pub(super) fn takes_writes(&self, database: &InstanceId) -> bool {
        let watch = self.soft.watches.get(database).filter(|watch| watch.is_answering(self.now.monotonic));
        watch.is_some_and(|watch| watch.evidence.serving == Some(Serving::Writable))
    }

    /// Its standby was promoted by an open plan, and is seen to take writes, whatever became of the step. Where the plan puts
    /// the fence up itself, nobody else does.
    fn is_replaced_in_the_world(&self, database: &InstanceId) -> bool {
        self.hard.open_incidents().any(|incident| {
            let puts_it_up = |step: &Step| {
                incident.plan.fence_of(&step.id).as_ref() == Some(database) && incident.plan.is_to_start(&step.id)
            };
            let is_at_it = incident.plan.steps.iter().any(puts_it_up);
            !is_at_it
                && incident.plan.steps.iter().any(|step| {
                    let is_sent = incident.plan.progress.get(&step.id).is_some_and(Progress::has_sent);
                    is_sent
                        && matches!(&step.action, Action::DatabasePromoted { database: standby, from, .. }
                        if from == database && self.takes_writes(standby))
                })
        })
    }

    /// Another instance serves in its place, and takes writes as far as is known. Where a person said that it was promoted
    /// by hand, it has to be seen.
    fn is_served_elsewhere(&self, database: &InstanceId) -> bool {
        let Some(region) = self.hard.placement.get(&database.component) else { return false };
        if *region == database.region {
            return false;
        }
        let serving = InstanceId { component: database.component.clone(), region: region.clone() };
        let is_by_hand = self.hard.incidents.values().any(|incident| {
            incident.plan.steps.iter().any(|step| {
                matches!(&step.action, Action::DatabasePromoted { database, .. } if *database == serving)
                    && incident.plan.state(&step.id) == StepState::Skipped
            })
        });
        match self.soft.watches.get(&serving).and_then(|watch| watch.evidence.serving) {
            Some(serving) => serving == Serving::Writable,
            None => !is_by_hand,
        }
    }

    /// A fence that could not be put up is tried again where its database answers and the promotion waits for it.
    pub(super) fn fence_what_answers(&mut self, id: &IncidentId) {
        let Some(incident) = self.incident(id) else { return };
        let plan = &incident.plan;
        let promotes_after = |fence: &Step| {
            plan.steps.iter().any(|step| {
                step.after.contains(&fence.id)
                    && matches!(step.action, Action::DatabasePromoted { .. })
                    && plan.state(&step.id) == StepState::Waiting
            })
        };
        let again: Vec<StepId> = plan
            .steps
            .iter()
            .filter(|step| plan.state(&step.id) == StepState::Owed && plan.is_wanted(&step.id) && promotes_after(step))
            .filter(|step| plan.fence_of(&step.id).is_some_and(|database| self.is_seen_answering(&database)))
            .filter(|step| {
                let ended = plan.progress.get(&step.id).and_then(|progress| progress.ended);
                ended.is_none_or(|ended| self.hard.elapsed(ended, self.now) >= FENCE_AGAIN)
            })
            .map(|step| step.id.clone())
            .collect();
        let plan = plan.id.clone();
        for step in again {
            let by = "failoverd: the database answers".to_owned();
            self.record(Fact::RetryOrdered { plan: plan.clone(), step, by });
        }
    }

    pub(super) fn fence_paid(&mut self, database: InstanceId, attempt: u32, outcome: Result<String, String>) {
        if self.hard.owed.get(&database).is_none_or(|owed| owed.attempts != attempt) {
            return;
        }
        match outcome {
            Ok(note) => {
                self.soft.owed_under_way.remove(&database);
                self.record(Fact::OwedFenceSettled { database, note });
            }
            Err(why) => {
                let attempt = self.soft.owed_under_way.entry(database).or_default();
                let wait = self.policy.guards.recheck * 2u32.pow(attempt.failures.min(OWED_DOUBLINGS_MAX));
                attempt.failures = attempt.failures.saturating_add(1);
                attempt.again = Some(self.now.monotonic + wait);
                attempt.why = Some(why);
            }
        }
    }
}
