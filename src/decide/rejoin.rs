//! An old primary becomes a standby again. That overwrites what it holds, so nothing that nobody else has may be among it
//! without a person saying so.

use super::controller::Draft;
use super::hard::Hard;
use super::incident::{Incident, PartState};
use super::judge::{Candidate, Order};
use super::{Fact, Guard, GuardKind};
use crate::domain::{IncidentId, InstanceId, PlanId, Serving, StepId};
use crate::plan::{Action, Part, Purpose, Step};

impl Draft<'_> {
    /// What a person ordered; `discard`: whatever it holds.
    pub(super) fn rejoin(
        &mut self,
        ordered_by: String,
        database: &InstanceId,
        discard: bool,
    ) -> Result<String, String> {
        self.may_be_ordered(&database.region)?;
        if let Some(incident) = self.hard.open_incidents().next() {
            return Err(format!("{} is open: nothing is overwritten while something is moved", incident.id));
        }
        let part = Part::Rejoin { database: database.component.clone() };
        let planned = self
            .draw(&IncidentId::from("inc-0"), &database.region, &part, Purpose::Rejoin, None)
            .map_err(|no_plan| no_plan.to_string())?;
        let guard = planned.steps.iter().find_map(|step| self.overwrites(step, discard));
        if let Some(guard) = guard {
            return Err(guard.to_string());
        }
        let candidate = Candidate::ordered(&database.region, part, self.now);
        self.order(&candidate, Order { by: ordered_by, forced: discard, purpose: Purpose::Rejoin })
    }

    /// The same once more before the step is sent.
    pub(super) fn overwrites_too_much(&self, incident: &Incident, step: &Step) -> Option<Guard> {
        self.overwrites(step, incident.is_forced)
    }

    fn overwrites(&self, step: &Step, discard: bool) -> Option<Guard> {
        let Action::Rejoined { database, from } = &step.action else { return None };
        let unready = |evidence: String, lifted_by: &str| {
            Some(Guard { kind: GuardKind::TargetNotReady, evidence, lifted_by: lifted_by.to_owned() })
        };
        if self.hard.placement.get(&database.component) != Some(&from.region) {
            return unready(format!("{from} does not serve any more"), "`failoverd abort`, and another plan");
        }
        if !self.takes_writes(from) {
            return unready(format!("{from} is not seen to take writes"), "it answering again");
        }
        let watch = self.soft.watches.get(database);
        // A standby holds nothing of its own.
        if discard || watch.is_some_and(|watch| watch.evidence.serving == Some(Serving::Replica)) {
            return None;
        }
        let held = if self.is_answering(database) {
            let is_fenced = self.hard.fenced.contains(database);
            self.hard.losses.kept_by(database, from, is_fenced).err()?
        } else {
            format!("{database} does not answer, so it is not known what it holds")
        };
        Some(Guard {
            kind: GuardKind::DataLoss,
            evidence: format!("{held}; making it a standby would overwrite that"),
            lifted_by: format!(
                "copying out what is needed, then `failoverd rejoin {database} --discard`, which gives the rest up"
            ),
        })
    }

    /// Something is lost where a planned move or a rejoin is under way: its incident goes on as a failover.
    pub(super) fn overtake_for(&mut self, candidate: &Candidate, evidence: &[String]) {
        let is_hit = |incident: &&Incident| incident.source == candidate.source && incident.purpose.is_planned();
        let Some(incident) = self.hard.open_incidents().find(is_hit) else { return };
        // A cluster or a cache beside a planned move is no reason to give writes up.
        let is_for_good = incident.purpose == Purpose::Rejoin || self.is_about_a_database(candidate);
        let is_open = incident.plan.parts.values().any(|state| *state == PartState::Open);
        if candidate.part.moves() && is_for_good && is_open {
            let (incident, evidence) = (incident.id.clone(), evidence.to_vec());
            self.record(Fact::PlannedMoveOvertaken { incident, evidence });
        }
    }
}

impl Hard {
    /// A step that is done made an old primary a standby: no fence stands there, and none is owed.
    pub(super) fn rejoined(&mut self, plan: &PlanId, step: &StepId) {
        let action = self.incident_of(plan).and_then(|incident| Some(incident.plan.step(step)?.action.clone()));
        if let Some(Action::Rejoined { database, .. }) = action {
            self.owed.remove(&database);
            self.fenced.remove(&database);
            self.losses.rejoined(&database);
        }
    }
}
