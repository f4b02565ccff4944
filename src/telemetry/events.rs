//! One log event per fact and per effect.

use std::fmt::Display;

use metrics::counter;
use tracing::{Level, debug, error, info, warn};

use super::metrics::{INCIDENTS, INCIDENTS_CLOSED};
use crate::decide::{Effect, Fact, Frame, Outcome};

/// The frame is durable and part of the state: each of its facts is logged and counted.
pub fn applied(frame: &Frame) {
    for fact in &frame.facts {
        let tags = tags(fact);
        macro_rules! event {
            ($level:ident) => {
                $level!(
                    fact = tags.name,
                    frame = frame.index,
                    epoch = frame.epoch,
                    incident = tags.incident.map(ToString::to_string),
                    plan = tags.plan.map(ToString::to_string),
                    step = tags.step.map(ToString::to_string),
                    "{fact}"
                )
            };
        }
        match urgency(fact) {
            Level::ERROR => event!(error),
            Level::WARN => event!(warn),
            Level::INFO | Level::DEBUG | Level::TRACE => event!(info),
        }
        count(fact);
    }
}

/// An effect is handed to whoever performs it.
pub fn effect(effect: &Effect) {
    match effect {
        Effect::Perform(task) => info!(
            effect = "perform", plan = %task.plan, step = %task.step, attempt = task.attempt, "{}", task.action
        ),
        Effect::Undo { task, .. } => info!(
            effect = "undo", plan = %task.plan, step = %task.step, attempt = task.attempt, "undo: {}", task.action
        ),
        Effect::FenceOwed { database, attempt, .. } => {
            info!(effect = "fence_owed", attempt, "fence {database}, which came back");
        }
        Effect::Claim { ledger, term, replace } => {
            info!(effect = "claim", %ledger, %term, replace, "claim the clusters");
        }
        Effect::Cancel { plan, step } => info!(effect = "cancel", %plan, %step, "stop working on the step"),
        Effect::Look { plan, step, action } => debug!(effect = "look", %plan, %step, "look: {action}"),
        Effect::Verify { check, expects, region, .. } => {
            debug!(effect = "verify", check, %region, "run a check: {expects}");
        }
        Effect::Measure { measure, .. } => debug!(effect = "measure", "measure: {measure:?}"),
        Effect::Survey => debug!(effect = "survey", "read the claims"),
        // Told by the notifiers, and answered to whoever asked.
        Effect::Alarm(_) | Effect::AlarmCleared { .. } | Effect::Reply { .. } => {}
    }
}

/// The daemon starts; everything that a person wants to know when they read the log from here.
pub fn booting(deployment: &str, mode: impl Display, frames: u64) {
    info!(version = env!("CARGO_PKG_VERSION"), deployment, %mode, frames, "failoverd starts");
}

fn count(fact: &Fact) {
    if let Fact::IncidentDeclared { level, purpose, .. } = fact
        && !purpose.is_planned()
    {
        counter!(INCIDENTS, "level" => level.number().to_string()).increment(1);
    }
    if let Fact::IncidentClosed { outcome, .. } = fact {
        let outcome = match outcome {
            Outcome::Recovered => "recovered",
            Outcome::Unwound => "unwound",
            Outcome::Aborted => "aborted",
            Outcome::Superseded => "superseded",
        };
        counter!(INCIDENTS_CLOSED, "outcome" => outcome).increment(1);
    }
}

/// `error`: wake someone. `warn`: look tomorrow.
fn urgency(fact: &Fact) -> Level {
    match fact {
        Fact::IncidentDeclared { .. }
        | Fact::IncidentEscalated { .. }
        | Fact::PlannedMoveOvertaken { .. }
        | Fact::ApprovalRequested { .. }
        | Fact::StepFailed { .. }
        | Fact::UndoFailed { .. }
        | Fact::PlanStuck { .. }
        | Fact::DivergenceFound { .. }
        | Fact::ShareTakenBack { .. }
        | Fact::CheckFailed { .. }
        | Fact::BreakGlassBegan { .. }
        | Fact::Halted { .. } => Level::ERROR,
        Fact::CommitPointPassed { exceptions, .. } if !exceptions.is_empty() => Level::ERROR,
        Fact::SuspicionRaised { .. }
        | Fact::Withheld { .. }
        | Fact::UnwindingStarted { .. }
        | Fact::StepOwed { .. }
        | Fact::StepSkipped { .. }
        | Fact::RegionRevoked { .. }
        | Fact::RolesReturned { .. }
        | Fact::Paused { .. }
        | Fact::BreakGlassMerged { .. }
        | Fact::Held { .. } => Level::WARN,
        Fact::LedgerCreated { .. }
        | Fact::EpochStarted { .. }
        | Fact::TakeoverCompleted { .. }
        | Fact::GuardiansChanged { .. }
        | Fact::OrderTaken { .. }
        | Fact::CheckHolds { .. }
        | Fact::RecoveryPointReached { .. }
        | Fact::PlacementAdopted { .. }
        | Fact::SeenAlive { .. }
        | Fact::SuspicionCleared { .. }
        | Fact::PlanMade { .. }
        | Fact::PlanGrown { .. }
        | Fact::Approved { .. }
        | Fact::CommitPointPassed { .. }
        | Fact::StepStarted { .. }
        | Fact::StepDone { .. }
        | Fact::StepCancelled { .. }
        | Fact::StepPutBack { .. }
        | Fact::StepHandedOver { .. }
        | Fact::PlacementChanged { .. }
        | Fact::UndoStarted { .. }
        | Fact::StepUndone { .. }
        | Fact::PartUnwound { .. }
        | Fact::IncidentClosed { .. }
        | Fact::OwedFenceStarted { .. }
        | Fact::OwedFenceSettled { .. }
        | Fact::Resumed { .. }
        | Fact::Released { .. }
        | Fact::Acknowledged { .. }
        | Fact::StageContinued { .. }
        | Fact::RetryOrdered { .. } => Level::INFO,
    }
}

/// What a program searches a log by.
struct Tags<'a> {
    name: &'static str,
    incident: Option<&'a crate::domain::IncidentId>,
    plan: Option<&'a crate::domain::PlanId>,
    step: Option<&'a crate::domain::StepId>,
}

fn tags(fact: &Fact) -> Tags<'_> {
    let of = |name| Tags { name, incident: None, plan: None, step: None };
    match fact {
        Fact::LedgerCreated { .. } => of("ledger_created"),
        Fact::EpochStarted { .. } => of("epoch_started"),
        Fact::TakeoverCompleted { .. } => of("takeover_completed"),
        Fact::RegionRevoked { plan, .. } => Tags { plan: Some(plan), ..of("region_revoked") },
        Fact::RolesReturned { plan, .. } => Tags { plan: Some(plan), ..of("roles_returned") },
        Fact::GuardiansChanged { .. } => of("guardians_changed"),
        Fact::OrderTaken { .. } => of("order_taken"),
        Fact::CheckFailed { .. } => of("check_failed"),
        Fact::CheckHolds { .. } => of("check_holds"),
        Fact::RecoveryPointReached { plan, .. } => Tags { plan: Some(plan), ..of("recovery_point_reached") },
        Fact::DivergenceFound { .. } => of("divergence_found"),
        Fact::PlacementAdopted { .. } => of("placement_adopted"),
        Fact::SeenAlive { .. } => of("seen_alive"),
        Fact::SuspicionRaised { .. } => of("suspicion_raised"),
        Fact::SuspicionCleared { .. } => of("suspicion_cleared"),
        Fact::Withheld { .. } => of("withheld"),
        Fact::IncidentDeclared { incident, .. } => Tags { incident: Some(incident), ..of("incident_declared") },
        Fact::PlannedMoveOvertaken { incident, .. } => {
            Tags { incident: Some(incident), ..of("planned_move_overtaken") }
        }
        Fact::IncidentEscalated { incident, .. } => Tags { incident: Some(incident), ..of("incident_escalated") },
        Fact::PlanMade { incident, plan, .. } => Tags { incident: Some(incident), plan: Some(plan), ..of("plan_made") },
        Fact::PlanGrown { plan, .. } => Tags { plan: Some(plan), ..of("plan_grown") },
        Fact::ApprovalRequested { plan, .. } => Tags { plan: Some(plan), ..of("approval_requested") },
        Fact::Approved { plan, .. } => Tags { plan: Some(plan), ..of("approved") },
        Fact::CommitPointPassed { plan, step, .. } => of_step("commit_point_passed", plan, step),
        Fact::StepStarted { plan, step, .. } => of_step("step_started", plan, step),
        Fact::StepDone { plan, step, .. } => of_step("step_done", plan, step),
        Fact::StepFailed { plan, step, .. } => of_step("step_failed", plan, step),
        Fact::StepOwed { plan, step, .. } => of_step("step_owed", plan, step),
        Fact::StepSkipped { plan, step, .. } => of_step("step_skipped", plan, step),
        Fact::StepCancelled { plan, step } => of_step("step_cancelled", plan, step),
        Fact::StepHandedOver { plan, step, .. } => of_step("step_handed_over", plan, step),
        Fact::StepPutBack { plan, step, .. } => of_step("step_put_back", plan, step),
        Fact::PlacementChanged { .. } => of("placement_changed"),
        Fact::UnwindingStarted { plan, .. } => Tags { plan: Some(plan), ..of("unwinding_started") },
        Fact::UndoStarted { plan, step, .. } => of_step("undo_started", plan, step),
        Fact::StepUndone { plan, step, .. } => of_step("step_undone", plan, step),
        Fact::UndoFailed { plan, step, .. } => of_step("undo_failed", plan, step),
        Fact::PartUnwound { plan, .. } => Tags { plan: Some(plan), ..of("part_unwound") },
        Fact::PlanStuck { plan, .. } => Tags { plan: Some(plan), ..of("plan_stuck") },
        Fact::IncidentClosed { incident, .. } => Tags { incident: Some(incident), ..of("incident_closed") },
        Fact::OwedFenceStarted { .. } => of("owed_fence_started"),
        Fact::OwedFenceSettled { .. } => of("owed_fence_settled"),
        Fact::Paused { .. } => of("paused"),
        Fact::Resumed { .. } => of("resumed"),
        Fact::Held { incident, .. } => Tags { incident: Some(incident), ..of("held") },
        Fact::Released { incident, .. } => Tags { incident: Some(incident), ..of("released") },
        Fact::Acknowledged { incident, .. } => Tags { incident: Some(incident), ..of("acknowledged") },
        Fact::RetryOrdered { plan, step, .. } => of_step("retry_ordered", plan, step),
        Fact::ShareTakenBack { plan, step, .. } => of_step("share_taken_back", plan, step),
        Fact::StageContinued { plan, step, .. } => of_step("stage_continued", plan, step),
        Fact::BreakGlassBegan { .. } => of("break_glass_began"),
        Fact::BreakGlassMerged { .. } => of("break_glass_merged"),
        Fact::Halted { .. } => of("halted"),
    }
}

fn of_step<'a>(name: &'static str, plan: &'a crate::domain::PlanId, step: &'a crate::domain::StepId) -> Tags<'a> {
    Tags { name, incident: None, plan: Some(plan), step: Some(step) }
}
