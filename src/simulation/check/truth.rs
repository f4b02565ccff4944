//! What the ledger says, against what has really happened: a decision that nothing in the world is a reason for is wrong,
//! whatever the daemon saw.

use super::*;

/// Share of a window that has to have been failing in the world: probes are seconds apart, and one may get through.
const MOSTLY: f64 = 0.88;

impl Checks {
    /// Judges a fact that has become durable.
    pub(super) fn judge(&self, fact: &Fact, world: &World, now: Duration, found: &mut Vec<String>) {
        match fact {
            Fact::PlanMade { plan, part, .. } => self.judge_loss(plan, part, world, now, found),
            Fact::PlanGrown { plan, part, ordered_by, .. } => {
                if self.unwinding.iter().any(|(of, _)| of == plan) {
                    found.push(format!("{plan} grew while it was unwinding"));
                }
                if ordered_by.is_none() {
                    self.judge_loss(plan, part, world, now, found);
                }
            }
            Fact::StepStarted { plan, step, .. } if self.contradicted.contains(plan) => {
                found.push(format!("{plan}/{step} was started against the word of a witness"));
            }
            Fact::StepStarted { .. } => {}
            Fact::CommitPointPassed { plan, step, .. } => self.judge_commit_point(plan, step, world, now, found),
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
            | Fact::PlacementAdopted { .. }
            | Fact::SeenAlive { .. }
            | Fact::SuspicionRaised { .. }
            | Fact::SuspicionCleared { .. }
            | Fact::Withheld { .. }
            | Fact::IncidentDeclared { .. }
            | Fact::IncidentEscalated { .. }
            | Fact::ApprovalRequested { .. }
            | Fact::Approved { .. }
            | Fact::StepDone { .. }
            | Fact::StepFailed { .. }
            | Fact::StepOwed { .. }
            | Fact::StepSkipped { .. }
            | Fact::StepCancelled { .. }
            | Fact::StepPutBack { .. }
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
            | Fact::Halted { .. } => {}
        }
    }

    /// What nobody ordered was really lost, for the whole of its window.
    fn judge_loss(&self, plan: &PlanId, part: &Part, world: &World, now: Duration, found: &mut Vec<String>) {
        let is_for_a_person = self.is_ordered(plan) || self.contradicted.contains(plan);
        let Some(incident) = self.incident_of(plan).filter(|_| !is_for_a_person) else { return };
        let source = &incident.source;
        let failing = |component: &ComponentId, lasting: Duration| {
            let id = InstanceId { component: component.clone(), region: source.clone() };
            has_failed(world, &id, lasting, now)
        };
        match part {
            Part::Component(component) => {
                let Some(row) = self.policy.components.get(component).and_then(|policy| policy.row) else { return };
                if !failing(component, row.after) {
                    found.push(format!("{plan}: {component}@{source} was not lost for {}", human(row.after)));
                }
            }
            // Neither is a loss, and nothing leaves for good.
            Part::Reroute | Part::Healing { .. } | Part::Zone { .. } => {}
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

    /// Clients are moved by one component's failing only when it has lasted.
    fn judge_commit_point(&self, plan: &PlanId, step: &StepId, world: &World, now: Duration, found: &mut Vec<String>) {
        let is_regional = self.incident_of(plan).is_some_and(|incident| incident.parts.contains(&Part::Region));
        if is_regional || self.is_ordered(plan) {
            return;
        }
        let known = self.steps.get(&(plan.clone(), step.clone()));
        if let Some(confirm) = known.and_then(|known| known.step.confirm.as_ref())
            && !has_failed(world, &confirm.instance, confirm.lasting, now)
        {
            found.push(format!(
                "{plan}/{step} goes ahead, and {} has not failed for {}",
                confirm.instance,
                human(confirm.lasting)
            ));
        }
    }
}

/// A database that takes no writes is as good as failing, whatever it answers.
fn has_failed(world: &World, id: &InstanceId, lasting: Duration, now: Duration) -> bool {
    let failing = world.failing_between(id, now.saturating_sub(lasting), now);
    failing >= lasting.mul_f64(MOSTLY) || world.takes_no_writes(id)
}
