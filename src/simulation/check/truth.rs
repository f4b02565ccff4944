//! What the ledger says, against what has really happened: a decision that nothing in the world is a reason for is wrong,
//! whatever the daemon saw.

use super::*;

/// Share of a window that has to have been failing in the world: probes are seconds apart, and one may get through.
const MOSTLY: f64 = 0.88;
/// From a verdict to a decision that counts it, beside what a ballot is good for.
const HEARD_WITHIN: Duration = Duration::from_secs(5);
/// An observer that is back has looked at everything, and told the others.
const WITNESS_SPEAKS_AFTER: Duration = Duration::from_secs(30);

/// After that, nobody knows whether it is not the own network that fails.
const UNVOUCHED_FOR: Duration = Duration::from_secs(60);

/// Whether a region is heard, and since when that is so.
pub(super) struct Voice {
    is_sound: bool,
    since: Duration,
}

impl Voice {
    pub(super) fn is_sound_for(&self, now: Duration, lasting: Duration) -> bool {
        self.is_sound && self.since + lasting <= now
    }
}

impl Checks {
    /// Which regions have an observer that runs, is not halted, and reaches the ledger.
    pub(in crate::simulation) fn hear(&mut self, sound: &[&RegionId], now: Duration) {
        if self.voices.is_empty() {
            let voices = self.policy.council.regions().into_iter().map(|region| {
                let is_sound = sound.contains(&region);
                (region.clone(), Voice { is_sound, since: now })
            });
            self.voices = voices.collect();
        }
        for (region, voice) in &mut self.voices {
            let is_sound = sound.contains(&region);
            if voice.is_sound != is_sound {
                *voice = Voice { is_sound, since: now };
            }
        }
    }

    /// Judges a fact that has become durable.
    pub(super) fn judge(&self, fact: &Fact, world: &World, now: Duration, found: &mut Vec<String>) {
        match fact {
            Fact::PlanMade { plan, part, .. } => self.judge_loss(plan, part, world, now, found),
            Fact::PlanGrown { plan, part, ordered_by, .. } => {
                // What could not be undone, in a region that is lost by now, does not hold the answer to that back.
                let has_failed = self.steps.iter().any(|((of, _), known)| of == plan && known.has_undo_failed);
                if self.unwinding.iter().any(|(of, _)| of == plan) && !has_failed {
                    found.push(format!("{plan} grew while it was unwinding"));
                }
                if ordered_by.is_none() {
                    self.judge_loss(plan, part, world, now, found);
                }
            }
            Fact::CommitPointPassed { plan, step, .. } => {
                self.judge_witness(plan, step, world, now, found);
                self.judge_commit_point(plan, step, world, now, found);
            }
            // A person may take back what was refused; the command has looked at the world.
            Fact::UnwindingStarted { aborted: true, .. } => {}
            Fact::UnwindingStarted { plan, part, .. } => {
                let committed = self
                    .steps
                    .iter()
                    .find(|((of, _), known)| of == plan && known.is_committed && known.parts.contains(part));
                if let Some(((_, step), _)) = committed {
                    found.push(format!("{plan} unwinds after the commit point of {step}"));
                }
            }
            Fact::LedgerCreated { .. }
            | Fact::EpochStarted { .. }
            | Fact::TakeoverCompleted { .. }
            | Fact::RegionRevoked { .. }
            | Fact::RolesReturned { .. }
            | Fact::CheckFailed { .. }
            | Fact::CheckHolds { .. }
            | Fact::RecoveryPointReached { .. }
            | Fact::DivergenceFound { .. }
            | Fact::GuardiansChanged { .. }
            | Fact::OrderTaken { .. }
            | Fact::PlacementAdopted { .. }
            | Fact::SeenAlive { .. }
            | Fact::SuspicionRaised { .. }
            | Fact::SuspicionCleared { .. }
            | Fact::Withheld { .. }
            | Fact::IncidentDeclared { .. }
            | Fact::IncidentEscalated { .. }
            | Fact::PlannedMoveOvertaken { .. }
            | Fact::ApprovalRequested { .. }
            | Fact::Approved { .. }
            | Fact::StepStarted { .. }
            | Fact::StepDone { .. }
            | Fact::StepFailed { .. }
            | Fact::StepOwed { .. }
            | Fact::StepSkipped { .. }
            | Fact::StepCancelled { .. }
            | Fact::StepPutBack { .. }
            | Fact::StepHandedOver { .. }
            | Fact::PlacementChanged { .. }
            | Fact::UndoStarted { .. }
            | Fact::StepUndone { .. }
            | Fact::UndoFailed { .. }
            | Fact::PartUnwound { .. }
            | Fact::PlanStuck { .. }
            | Fact::IncidentClosed { .. }
            | Fact::OwedFenceStarted { .. }
            | Fact::OwedFenceSettled { .. }
            | Fact::Paused { .. }
            | Fact::Resumed { .. }
            | Fact::Held { .. }
            | Fact::Released { .. }
            | Fact::Acknowledged { .. }
            | Fact::RetryOrdered { .. }
            | Fact::ShareTakenBack { .. }
            | Fact::StageContinued { .. }
            | Fact::BreakGlassBegan { .. }
            | Fact::BreakGlassMerged { .. }
            | Fact::Halted { .. } => {}
        }
    }

    /// What nobody ordered was really lost, for the whole of its window.
    fn judge_loss(&self, plan: &PlanId, part: &Part, world: &World, now: Duration, found: &mut Vec<String>) {
        let is_for_a_person = self.is_ordered(plan) || self.contradicted.contains(plan);
        let Some(incident) = self.incident_of(plan).filter(|_| !is_for_a_person) else { return };
        let silent = world.unvouched_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        if part.moves() && silent > UNVOUCHED_FOR {
            let silent = human(silent);
            found.push(format!("{plan}: decided while no reference point had answered for {silent}"));
        }
        let source = &incident.source;
        let failing = |component: &ComponentId, lasting: Duration| {
            let id = InstanceId { component: component.clone(), region: source.clone() };
            self.has_failed(world, &id, lasting, now)
        };
        match part {
            Part::Component(component) => {
                let Some(row) = self.policy.components.get(component).and_then(|policy| policy.row) else { return };
                if !failing(component, row.after) {
                    found.push(format!("{plan}: {component}@{source} was not lost for {}", human(row.after)));
                }
            }
            // Neither is a loss, and nothing leaves for good.
            Part::Reroute | Part::Healing { .. } | Part::Zone { .. } | Part::Rejoin { .. } => {}
            Part::Region => {
                let after = self.policy.regional.after;
                let critical: Vec<&ComponentId> = self
                    .policy
                    .components
                    .iter()
                    .filter(|(component, policy)| policy.critical && self.placement.get(*component) == Some(source))
                    .map(|(component, _)| component)
                    .collect();
                let needed = self.policy.regional.critical_failing.map_or(critical.len(), |n| n as usize);
                if critical.iter().filter(|component| failing(component, after)).count() < needed.min(critical.len()) {
                    found.push(format!("{plan}: {source} was not lost for {}", human(after)));
                }
            }
        }
    }

    /// The first thing that cannot be taken back waits for whoever stands inside, is heard, and sees all of it alive.
    fn judge_witness(&self, plan: &PlanId, step: &StepId, world: &World, now: Duration, found: &mut Vec<String>) {
        let Some(incident) = self.incident_of(plan).filter(|_| !self.is_for_a_person(plan, step)) else { return };
        let is_first = !self.steps.iter().any(|((of, other), known)| of == plan && other != step && known.is_committed);
        let lately = now.saturating_sub(WITNESS_SPEAKS_AFTER);
        let is_heard = self.voices.get(&incident.source).is_some_and(|voice| voice.is_sound && voice.since < lately);
        let is_well = |id: &&InstanceId| world.failing_between(id, lately, now).is_zero();
        let Some(known) = self.steps.get(&(plan.clone(), step.clone())) else { return };
        let is_about = |component: &ComponentId, is_critical: bool| {
            known.parts.contains(&Part::Component(component.clone()))
                || (known.parts.contains(&Part::Region) && is_critical)
        };
        let about = self.policy.components.iter().filter(|(component, policy)| {
            is_about(component, policy.critical) && self.placement.get(*component) == Some(&incident.source)
        });
        let about: Vec<InstanceId> = about
            .map(|(component, _)| InstanceId { component: component.clone(), region: incident.source.clone() })
            .collect();
        let is_alone = self.policy.council.is_alone();
        if is_first
            && known.step.part.moves()
            && !is_alone
            && is_heard
            && !about.is_empty()
            && about.iter().all(|id| is_well(&id))
        {
            found.push(format!("{plan}/{step} goes ahead against the word of a witness"));
        }
    }

    /// A person ordered it, or that it be tried again.
    fn is_for_a_person(&self, plan: &PlanId, step: &StepId) -> bool {
        self.is_ordered(plan) || self.steps.get(&(plan.clone(), step.clone())).is_some_and(|known| known.is_retried)
    }

    /// Clients are moved by one component's failing only when it has lasted.
    fn judge_commit_point(&self, plan: &PlanId, step: &StepId, world: &World, now: Duration, found: &mut Vec<String>) {
        let is_regional = self.incident_of(plan).is_some_and(|incident| incident.parts.contains(&Part::Region));
        if is_regional || self.is_for_a_person(plan, step) {
            return;
        }
        let known = self.steps.get(&(plan.clone(), step.clone()));
        if let Some(confirm) = known.and_then(|known| known.step.confirm.as_ref())
            && !self.has_failed(world, &confirm.instance, confirm.lasting, now)
        {
            found.push(format!(
                "{plan}/{step} goes ahead, and {} has not failed for {}",
                confirm.instance,
                human(confirm.lasting)
            ));
        }
    }

    /// A database that takes no writes is as good as failing, whatever it answers.
    fn has_failed(&self, world: &World, id: &InstanceId, lasting: Duration, now: Duration) -> bool {
        // What is between two probes nobody has seen.
        let unseen = self.policy.components.get(&id.component).map_or(Duration::ZERO, |of| of.probing.interval);
        let (began, enough) = (now.saturating_sub(lasting), lasting.mul_f64(MOSTLY).saturating_sub(unseen));
        let failing = world.failing_between(id, began, now);
        failing >= enough || world.takes_no_writes(id) || self.is_cut_off(world, id, (began, now), enough, failing)
    }

    /// Enough of the regions that are heard cannot reach it, and nobody in its own region is heard. What somebody said a
    /// moment ago counts for as long as a ballot does, and who is back has to be heard first.
    fn is_cut_off(
        &self,
        world: &World,
        id: &InstanceId,
        (began, ended): (Duration, Duration),
        enough: Duration,
        failing: Duration,
    ) -> bool {
        let council = &self.policy.council;
        let heard_for = council.ballot_fresh + HEARD_WITHIN;
        let parted_since = |region: &RegionId, began| world.network.parted_between(region, &id.region, began, ended);
        let cannot_reach = |region: &&RegionId| {
            let parted = parted_since(region, began);
            let voice = self.voices.get(*region);
            let is_heard = voice.is_some_and(|voice| voice.is_sound || ended.saturating_sub(voice.since) < heard_for);
            is_heard && failing + parted >= enough
        };
        let witness = self.voices.get(&id.region).filter(|voice| voice.is_sound);
        // Whoever sees it fail as well contradicts nobody.
        let lately = ended.saturating_sub(WITNESS_SPEAKS_AFTER);
        let sees_it_fail = world.failing_between(id, lately, ended) > WITNESS_SPEAKS_AFTER / 4;
        let is_contradicted = !sees_it_fail && witness.is_some_and(|voice| voice.since < lately);
        // After that a person is asked, at the first thing that cannot be taken back.
        let held_for = council.witness_hold;
        let holds =
            |region: &&RegionId| parted_since(region, ended.saturating_sub(held_for)) < held_for.mul_f64(MOSTLY);
        let others = || council.regions().into_iter().filter(|region| **region != id.region);
        let is_contradicted = is_contradicted && others().filter(|region| !holds(region)).count() < council.needed();
        !council.is_alone() && !is_contradicted && others().filter(cannot_reach).count() >= council.needed()
    }
}
