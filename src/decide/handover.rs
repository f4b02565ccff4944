//! Handing a step over: where this daemon cannot reach what a step needs, another one may. Once for each step, and before
//! anything is stuck.

use std::time::Duration;

use super::controller::Draft;
use super::incident::Incident;
use super::targets::target;
use super::{Fact, Guard, GuardKind};
use crate::domain::{IncidentId, ObserverId, PlanId, StepId};
use crate::plan::Step;

/// What a step needs has not answered this daemon for so long: longer than the restart of a name server or a proxy takes.
pub(super) const HAND_OVER_AFTER: Duration = Duration::from_secs(30);

/// Who handed a step over, and in which epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HandedOver {
    pub(super) observer: ObserverId,
    pub(super) epoch: u64,
}

impl Draft<'_> {
    /// Somebody else can be heard who could lead, and the step has not been handed over before.
    fn can_hand_over(&self, incident: &Incident, step: &StepId) -> bool {
        let is_first = incident.plan.progress.get(step).is_some_and(|progress| progress.handed_over.is_none());
        let council = &self.policy.council;
        let mut others = council.observers.keys().filter(|observer| **observer != self.policy.observer);
        is_first && self.hard.break_glass.is_none() && others.any(|observer| self.has_voice(observer))
    }

    /// The step failed because nothing answered. Returns whether another daemon gets it.
    pub(super) fn hand_over(&mut self, plan: &PlanId, step: &StepId, why: &str) -> bool {
        let can = self.hard.incident_of(plan).is_some_and(|incident| self.can_hand_over(incident, step));
        if can {
            let observer = self.policy.observer.clone();
            self.record(Fact::StepHandedOver { plan: plan.clone(), step: step.clone(), observer, why: why.to_owned() });
        }
        can
    }

    /// A step that is held because what it needs does not answer here.
    pub(super) fn hand_over_what_is_out_of_reach(&mut self, id: &IncidentId, step: &Step, guards: &[Guard]) {
        let Some(incident) = self.incident(id) else { return };
        let plan = incident.plan.id.clone();
        let can = self.is_out_of_reach(step, guards) && self.can_hand_over(incident, &step.id);
        let key = (plan.clone(), step.id.clone());
        if !can {
            self.soft.out_of_reach.remove(&key);
            return;
        }
        let since = *self.soft.out_of_reach.entry(key).or_insert(self.now.monotonic);
        let until = since + HAND_OVER_AFTER;
        if until > self.now.monotonic {
            self.wake(until, "what a step needs does not answer this daemon");
            return;
        }
        let why = guards.first().map(|guard| guard.evidence.clone()).unwrap_or_default();
        self.hand_over(&plan, &step.id, &why);
    }

    /// Nothing but its reach keeps this daemon from the step: others see answer what does not answer it, or it does not
    /// know whether anybody would get further.
    fn is_out_of_reach(&self, step: &Step, guards: &[Guard]) -> bool {
        let answers_others =
            || target(step).is_some_and(|(target, _)| !self.is_answering(target) && self.is_seen_answering(target));
        // Nobody gets further with what is lost for everybody.
        let is_lost = step
            .action
            .waits_for()
            .is_some_and(|from| self.failing_for(from).is_some() && !self.is_seen_answering(from));
        let is_about_reach = |guard: &Guard| {
            // How far a standby is behind is not known to whom it does not answer.
            let follows = matches!(guard.kind, GuardKind::TargetNotReady | GuardKind::DataLoss);
            guard.kind == GuardKind::PathNotReady || (follows && answers_others())
        };
        !is_lost && !guards.is_empty() && guards.iter().all(is_about_reach)
    }

    /// A step waits for another daemon to lead, because this one handed it over.
    pub(super) fn has_handed_over(&self) -> bool {
        let is_by_this_one = |incident: &Incident, step: &StepId| {
            let handed = incident.plan.progress.get(step).and_then(|progress| progress.handed_over.as_ref());
            handed.is_some_and(|handed| handed.observer == self.policy.observer) && self.is_handed_over(incident, step)
        };
        self.hard
            .open_incidents()
            .any(|incident| incident.plan.progress.keys().any(|step| is_by_this_one(incident, step)))
    }

    /// The step was handed over, and nobody has led since.
    pub(super) fn is_handed_over(&self, incident: &Incident, step: &StepId) -> bool {
        let handed = incident.plan.progress.get(step).and_then(|progress| progress.handed_over.as_ref());
        handed.is_some_and(|handed| handed.epoch == self.hard.epoch) && incident.plan.is_wanted(step)
    }
}
