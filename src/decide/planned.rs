//! Planned moves: nothing is lost, so nothing may be. One goes on only where every step does, and is taken back where one does
//! not; where its region is lost meanwhile, it goes on as a failover.

use std::time::Duration;

use super::controller::Draft;
use super::incident::{Incident, PartState};
use super::judge::{Candidate, Order};
use super::targets::target;
use super::{Effect, Fact, Guard, GuardKind, StepState};
use crate::domain::{ComponentId, IncidentId, InstanceId, Kind, RegionId, StepId, time::human};
use crate::health::Loss;
use crate::plan::{Action, Part, Purpose, Step};

impl Draft<'_> {
    /// Moves what is well, without loss.
    pub(super) fn switchover(
        &mut self,
        ordered_by: String,
        source: &RegionId,
        component: Option<ComponentId>,
    ) -> Result<String, String> {
        let part = self.part_to_move(source, component)?;
        self.move_without_loss(ordered_by, source, part, Purpose::Switchover)
    }

    pub(super) fn move_without_loss(
        &mut self,
        ordered_by: String,
        source: &RegionId,
        part: Part,
        purpose: Purpose,
    ) -> Result<String, String> {
        self.may_be_ordered(source)?;
        if let Some(incident) = self.hard.open_incidents().next() {
            return Err(format!("{} is open: nothing is moved by plan while something else is moved", incident.id));
        }
        let planned = self
            .draw(&IncidentId::from("inc-0"), source, &part, purpose, None)
            .map_err(|no_plan| no_plan.to_string())?;
        let missing: Vec<String> = planned.steps.iter().filter_map(|step| self.why_not_planned(step)).collect();
        if !missing.is_empty() {
            return Err(format!("not everything is ready to be moved without loss: {}", missing.join("; ")));
        }
        let candidate = Candidate::ordered(source, part, self.now);
        self.order(&candidate, Order { by: ordered_by, forced: false, purpose })
    }

    /// Why the step of a planned move would not go, or would cost something.
    fn why_not_planned(&self, step: &Step) -> Option<String> {
        if let Action::Fenced { database } = &step.action {
            return (!self.takes_writes(database)).then(|| format!("{database} is not seen to take writes"));
        }
        if let Action::CaughtUp { database, from } = &step.action {
            return self.why_not_fenced_ahead(&from.component).or_else(|| self.too_far_behind(database, from));
        }
        let (instance, takes_over) = target(step).filter(|_| !step.best_effort)?;
        let is_stranger = || self.why_no_standby(instance).filter(|_| takes_over);
        let why = self.why_unready(instance, takes_over).or_else(is_stranger)?;
        Some(format!("{instance}: {why}"))
    }

    /// Nothing can be moved without loss that goes on being written.
    fn why_not_fenced_ahead(&self, component: &ComponentId) -> Option<String> {
        let policy = self.policy.components.get(component)?;
        if !policy.fence {
            return Some(format!("{component} has no fence, so writes would go on; write databases.{component}.fence"));
        }
        (!policy.fences_ahead).then(|| {
            format!(
                "{component} is managed and has a fence by roles alone, which can only be put up after the promotion; \
                 write databases.{component}.fence.security_group"
            )
        })
    }

    /// Writers wait while a standby catches up. One that is further behind than they may wait would keep them waiting for
    /// nothing.
    fn too_far_behind(&self, standby: &InstanceId, source: &InstanceId) -> Option<String> {
        let limit = self.policy.deadlines.catch_up;
        match self.expected_loss(&source.component, &source.region, &standby.region) {
            Loss::AtMost(behind) if behind <= limit => None,
            Loss::AtMost(behind) => Some(format!("{standby} is {} behind, more than {}", human(behind), human(limit))),
            Loss::MoreThan(behind) => Some(format!("{standby} is more than {} behind", human(behind))),
            Loss::Unknown(why) => Some(format!("it is not known how far {standby} is behind: {why}")),
        }
    }

    /// What would be moved out of a region while another plan still moves something into it: each would undo what the other
    /// did, and the one that is slower would win.
    pub(super) fn would_meet(&self, source: &RegionId) -> Option<Guard> {
        let (incident, component) = self.hard.open_incidents().find_map(|incident| {
            let plan = &incident.plan;
            let to_come = plan.steps.iter().filter(|step| match plan.state(&step.id) {
                StepState::Waiting | StepState::Held | StepState::Running | StepState::Failed | StepState::Undoing => {
                    true
                }
                StepState::Done | StepState::Skipped | StepState::Owed | StepState::Undone | StepState::Cancelled => {
                    false
                }
            });
            let mut places = to_come.flat_map(|step| &step.places);
            let (component, _) =
                places.find(|(component, to)| *to == source && self.hard.placement.get(*component) != Some(source))?;
            Some((incident, component))
        })?;
        let id = &incident.id;
        Some(Guard {
            kind: GuardKind::BlastRadius,
            evidence: format!(
                "{id} is still moving {component} into {source}: two plans against each other would undo each other's steps"
            ),
            lifted_by: format!(
                "the end of {id}, or `failoverd abort {id}`; past its commit point, where {source} is lost for good, \
                 `failoverd abort {id} --standby-lost`"
            ),
        })
    }

    /// What keeps a planned move from putting its fence up.
    pub(super) fn fenced_in_vain(&self, incident: &Incident, step: &Step) -> Option<Guard> {
        let Action::Fenced { database } = &step.action else { return None };
        if !incident.purpose.is_planned() {
            return None;
        }
        let follows = |other: &&Step| other.after.contains(&step.id);
        let evidence = incident.plan.steps.iter().filter(follows).find_map(|other| {
            let Action::CaughtUp { database: standby, .. } = &other.action else { return None };
            self.too_far_behind(standby, database)
        })?;
        Some(Guard {
            kind: GuardKind::DataLoss,
            evidence,
            lifted_by: format!("the standby catching up, or `failoverd abort {}`", incident.id),
        })
    }

    /// The standby has everything that the fenced primary ever wrote: the record says so.
    pub(super) fn is_caught_up(incident: &Incident, promotion: &Step) -> bool {
        let mut before = promotion.after.iter().filter_map(|id| incident.plan.step(id));
        before.any(|step| {
            matches!(step.action, Action::CaughtUp { .. }) && incident.plan.state(&step.id) == StepState::Done
        })
    }

    /// A step of a planned move that failed before anything was done for good takes all of it back, and so does a fence that
    /// has kept writers waiting for too long. Not while the old primary is silent: it may be lost, and the fence is needed.
    pub(super) fn unwind_what_does_not_go(&mut self, id: &IncidentId) {
        let Some(incident) = self.incident(id) else { return };
        let plan = &incident.plan;
        let of = plan.id.clone();
        let open: Vec<Part> = plan
            .parts
            .iter()
            .filter(|(part, state)| **state == PartState::Open && !plan.is_committed(part))
            .map(|(part, _)| part.clone())
            .collect();
        if !incident.purpose.is_planned() || open.is_empty() {
            return;
        }
        let fenced =
            plan.steps.iter().filter_map(|step| Some((plan.fence_of(&step.id)?, plan.progress.get(&step.id)?)));
        let fenced: Vec<_> = fenced.filter(|(_, progress)| progress.has_sent()).collect();
        if fenced.iter().any(|(database, _)| !self.is_answering(database)) {
            return;
        }
        let failed = plan.steps.iter().find(|step| plan.state(&step.id) == StepState::Failed && !step.best_effort);
        let why = match failed {
            Some(step) => {
                let note = plan.progress.get(&step.id).map(|progress| progress.note.clone()).unwrap_or_default();
                Some(format!("step {} failed: {note}", step.id))
            }
            None => {
                let up = fenced
                    .iter()
                    .filter_map(|(_, progress)| progress.ended.filter(|_| progress.state == StepState::Done));
                let waited = up.map(|stamp| self.hard.elapsed(stamp, self.now)).max();
                let patience = self.patience();
                match waited {
                    Some(waited) if waited >= patience => {
                        Some(format!("writers have waited for {}, and the move does not go on", human(waited)))
                    }
                    Some(waited) => {
                        self.wake(self.now.monotonic + (patience - waited), "writers have waited for long enough");
                        None
                    }
                    None => None,
                }
            }
        };
        let Some(why) = why else { return };
        for part in open {
            self.record(Fact::UnwindingStarted { plan: of.clone(), part, why: why.clone(), aborted: false });
        }
    }

    /// For so long a planned move keeps writers waiting without getting past its commit point: the standby catches up, and
    /// whoever could not be told of the old roles stops by itself.
    fn patience(&self) -> Duration {
        let roles = self.policy.roles.map_or(Duration::ZERO, |roles| roles.wait(Duration::ZERO));
        self.policy.deadlines.catch_up * 2 + roles
    }

    /// What fails is a database, or everything.
    pub(super) fn is_about_a_database(&self, candidate: &Candidate) -> bool {
        match &candidate.part {
            Part::Component(component) => {
                self.policy.components.get(component).is_some_and(|policy| policy.kind == Kind::Database)
            }
            Part::Region => true,
            Part::Reroute | Part::Healing { .. } | Part::Zone { .. } | Part::Rejoin { .. } => false,
        }
    }

    /// What was moved by plan is lost: the plan goes on, and by the rules of a failover.
    pub(super) fn overtake(&mut self, candidate: &Candidate) {
        if !candidate.part.moves() {
            return;
        }
        // What a cluster's or a cache's row sees in half a minute is too little to give a region's writes up for.
        let is_database = candidate.part != Part::Region && self.is_about_a_database(candidate);
        if candidate.part != Part::Region && !is_database && self.hurry_failback(candidate) {
            return;
        }
        let is_hit = |incident: &&Incident| {
            let covers = |part: &Part| {
                // What only joined because it failed takes nothing else along.
                let is_planned = incident.plan.ordered.contains(part);
                (*part == candidate.part && is_planned)
                    || candidate.part == Part::Region
                    || (*part == Part::Region && is_database)
            };
            let plan = &incident.plan;
            incident.source == candidate.source
                && incident.purpose.is_planned()
                && plan.parts.iter().any(|(part, state)| {
                    let is_left_undone = matches!(state, PartState::Unwinding { .. }) && self.cannot_unwind(incident);
                    covers(part) && (*state == PartState::Open || is_left_undone)
                })
        };
        let Some(incident) = self.hard.open_incidents().find(is_hit) else { return };
        let (id, plan) = (incident.id.clone(), incident.plan.id.clone());
        if !self.guards_of(candidate).is_empty() {
            self.wake(self.now.monotonic + self.policy.guards.recheck, "a planned move whose region may be lost");
            return;
        }
        let evidence = self.evidence(&candidate.source);
        self.record(Fact::PlannedMoveOvertaken { incident: id.clone(), evidence });
        let waiting: Vec<StepId> =
            self.incident(&id).map(|incident| incident.plan.waits_to_catch_up()).unwrap_or_default();
        for step in waiting {
            let key = (plan.clone(), step.clone());
            if self.soft.under_way.contains(&key) && self.soft.cancelled.insert(key) {
                self.perform(Effect::Cancel { plan: plan.clone(), step });
            }
        }
        self.advance();
    }
}
