//! Facts in words: one line each, the same in the ledger's listing, in logs, in replays and in reports.

use std::fmt;

use super::{Accepted, BreakGlassRecord, Fact, Guard, Outcome, lsn};
use crate::domain::time::human;
use crate::plan::{Part, Step};

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LedgerCreated { ledger } => write!(f, "ledger {ledger} created"),
            Self::EpochStarted { observer, policy, mode, .. } => {
                write!(f, "{observer} took over in mode {mode}, policy {}", short(policy))
            }
            Self::RegionRevoked { plan, region, components } => {
                write!(f, "{plan}: {region} has the role no more for ")?;
                list(f, components.iter().map(ToString::to_string))
            }
            Self::RolesReturned { plan, region, components } => {
                write!(f, "{plan}: {region} has the role again for ")?;
                list(f, components.iter().map(ToString::to_string))
            }
            Self::OrderTaken { request, answer } => write!(f, "order {request} taken: {answer}"),
            Self::GuardiansChanged { observer, databases } if databases.is_empty() => {
                write!(f, "{observer} guards no database")
            }
            Self::GuardiansChanged { observer, databases } => {
                write!(f, "{observer} guards ")?;
                list(f, databases.iter().map(ToString::to_string))
            }
            Self::CheckFailed { check, region, why } => write!(f, "check {check} fails in {region}: {why}"),
            Self::CheckHolds { check, region, seen } => write!(f, "check {check} holds again in {region}: {seen}"),
            Self::RecoveryPointReached { database, from, point, lossless, .. } => {
                write!(f, "{database} has everything of {from}")?;
                match (lossless, point.position) {
                    (true, _) => Ok(()),
                    (false, Some(position)) => write!(f, " up to {}", lsn(position)),
                    (false, None) => write!(f, " up to a position that it does not know any more"),
                }?;
                let marks = point.watermarks.iter().map(|(table, mark)| (table, mark.as_deref().unwrap_or("no row")));
                let marks: Vec<String> = marks.map(|(table, mark)| format!("{table} up to {mark}")).collect();
                if marks.is_empty() { Ok(()) } else { write!(f, ", {}", marks.join(", ")) }
            }
            Self::DivergenceFound { database, promoted, found } => {
                write!(f, "{database} is back")?;
                if let Some(position) = found.position {
                    write!(f, ", its log ends at {}", lsn(position))?;
                }
                for (table, rows) in &found.rows {
                    write!(f, ", {rows} rows of {table} are not in {promoted}")?;
                }
                Ok(())
            }
            Self::TakeoverCompleted { former } => write!(f, "whatever {former} had sent has ended"),
            Self::PlacementAdopted { placement, by } => {
                write!(f, "{by} adopted the placement: ")?;
                list(f, placement.iter().map(|(component, region)| format!("{component} in {region}")))
            }
            Self::SeenAlive { instance, fingerprint } => {
                write!(f, "{instance} seen alive for the first time under its settings {}", short(fingerprint))
            }
            Self::SuspicionRaised { instance, why, .. } => write!(f, "{instance} is suspected: {why}"),
            Self::SuspicionCleared { instance } => write!(f, "{instance} is alive again"),
            Self::Withheld { source, part, guards, .. } => {
                match part {
                    Part::Component(_) | Part::Region => write!(f, "leaving {source} for {part} withheld by ")?,
                    Part::Reroute => write!(f, "rerouting {part} of {source} withheld by ")?,
                    Part::Healing { .. } => write!(f, "healing {part} in {source} withheld by ")?,
                    Part::Zone { .. } => write!(f, "going on without {part} in {source} withheld by ")?,
                    Part::Rejoin { .. } => write!(f, "bringing back {part} in {source} withheld by ")?,
                }
                list(f, guards.iter().map(guard_text))
            }
            Self::PlannedMoveOvertaken { incident, .. } => {
                write!(f, "{incident} goes on as a failover: what it moves is lost meanwhile")
            }
            Self::IncidentDeclared { incident, level, source, target, detected_after, ordered_by, purpose, .. } => {
                match source == target {
                    true if purpose.is_planned() => write!(f, "{incident} declared, {purpose}: in {source}")?,
                    _ if purpose.is_planned() => {
                        write!(f, "{incident} declared, {purpose}: from {source} to {target}")?
                    }
                    true => write!(f, "{incident} declared, {level}: in {source}")?,
                    false => write!(f, "{incident} declared, {level}: from {source} to {target}")?,
                }
                match ordered_by {
                    Some(by) => write!(f, ", ordered by {by}"),
                    None => write!(f, ", detected after {}", human(*detected_after)),
                }
            }
            Self::IncidentEscalated { incident, level, .. } => write!(f, "{incident} escalated to {level}"),
            Self::PlanMade { plan, part, steps, .. } => {
                write!(f, "{plan} made for {}, {}: ", part, count(steps))?;
                list(f, steps.iter().map(|step| step.id.to_string()))
            }
            Self::PlanGrown { plan, part, steps, ordered_by, .. } => {
                write!(f, "{plan} grown for {part} by {}: ", count(steps))?;
                list(f, steps.iter().map(|step| step.id.to_string()))?;
                match ordered_by {
                    Some(by) => write!(f, ", ordered by {by}"),
                    None => Ok(()),
                }
            }
            Self::ApprovalRequested { plan, hash, guards, loss } => {
                write!(f, "{plan} waits for approval of {}", short(hash))?;
                if let Some(loss) = loss {
                    write!(f, ", expected loss {}", human(*loss))?;
                }
                if !guards.is_empty() {
                    write!(f, ", because of ")?;
                    list(f, guards.iter().map(guard_text))?;
                }
                Ok(())
            }
            Self::Approved { plan, hash, by, until, accept_unfenced, accept_loss } => {
                write!(f, "{plan} approved by {by} as {} until {until}", short(hash))?;
                if *accept_unfenced {
                    write!(f, ", without a fence")?;
                }
                if let Some(loss) = accept_loss {
                    write!(f, ", with a loss of up to {}", human(*loss))?;
                }
                Ok(())
            }
            Self::CommitPointPassed { step, loss, exceptions, .. } => {
                write!(f, "{step}: commit point passed")?;
                if let Some(loss) = loss {
                    write!(f, ", expected loss {}", human(*loss))?;
                }
                if !exceptions.is_empty() {
                    write!(f, ", with exceptions: ")?;
                    list(f, exceptions.iter().cloned())?;
                }
                Ok(())
            }
            Self::StepStarted { step, attempt, .. } => write!(f, "{step}: started{}", again(*attempt)),
            Self::StepDone { step, note, acted, .. } => {
                write!(f, "{step}: {} ({note})", if *acted { "done" } else { "was so already" })
            }
            Self::StepFailed { step, why, .. } => write!(f, "{step}: failed, {why}"),
            Self::StepOwed { step, why, .. } => write!(f, "{step}: owed, {why}"),
            Self::StepSkipped { step, by, .. } => write!(f, "{step}: skipped by {by}"),
            Self::StepCancelled { step, .. } => write!(f, "{step}: cancelled"),
            Self::StepHandedOver { step, observer, why, .. } => {
                write!(f, "{step}: handed over to another daemon, because {observer} gets no answer: {why}")
            }
            Self::StepPutBack { step, why, .. } => write!(f, "{step}: nothing was sent, it waits again: {why}"),
            Self::PlacementChanged { component, region } => write!(f, "{component} is served in {region}"),
            Self::UnwindingStarted { plan, part, why, aborted } => {
                write!(f, "{plan}: {} {}, {why}", part, if *aborted { "aborted, unwinding" } else { "unwinds" })
            }
            Self::UndoStarted { step, attempt, .. } => write!(f, "{step}: undo started{}", again(*attempt)),
            Self::StepUndone { step, note, .. } => write!(f, "{step}: undone ({note})"),
            Self::UndoFailed { step, why, .. } => write!(f, "{step}: undo failed, {why}"),
            Self::ShareTakenBack { step, why, .. } => write!(f, "{step}: taken back, {why}"),
            Self::StageContinued { step, by, .. } => write!(f, "{step}: {by} goes on"),
            Self::PartUnwound { plan, part } => write!(f, "{plan}: {} is unwound", part),
            Self::PlanStuck { plan, steps } => {
                write!(f, "{plan} is stuck at ")?;
                list(f, steps.iter().map(ToString::to_string))
            }
            Self::IncidentClosed { incident, outcome } => write!(
                f,
                "{incident} closed: {}",
                match outcome {
                    Outcome::Recovered => "recovered",
                    Outcome::Unwound => "unwound, everything is as it was",
                    Outcome::Aborted => "aborted",
                    Outcome::Superseded => "superseded, break-glass has done it",
                }
            ),
            Self::OwedFenceStarted { database, attempt } => {
                write!(f, "{database} is back: owed fence started{}", again(*attempt))
            }
            Self::OwedFenceSettled { database, note } => write!(f, "{database}: owed fence settled ({note})"),
            Self::Paused { until, by, reason } => {
                write!(f, "paused by {by} until {until}")?;
                if !reason.is_empty() {
                    write!(f, ": {reason}")?;
                }
                Ok(())
            }
            Self::Resumed { by } => write!(f, "resumed by {by}"),
            Self::Held { incident, by } => write!(f, "{incident} held by {by}"),
            Self::Released { incident, by } => write!(f, "{incident} released by {by}"),
            Self::Acknowledged { incident, by, false_positive, note } => {
                write!(f, "{incident} acknowledged by {by}")?;
                if *false_positive {
                    write!(f, " as a false positive")?;
                }
                if !note.is_empty() {
                    write!(f, ": {note}")?;
                }
                Ok(())
            }
            Self::RetryOrdered { step, by, .. } => write!(f, "{step}: retry ordered by {by}"),
            Self::BreakGlassBegan { by, reason, departs_from, accepted, unproven } => {
                write!(f, "{by} broke the glass: {reason}")?;
                if let Some(ledger) = departs_from {
                    write!(f, "; without ledger {ledger}")?;
                }
                for (database, Accepted { unfenced, loss }) in accepted {
                    let fence = if *unfenced { " without a fence and" } else { "" };
                    let loss =
                        loss.map_or("whatever is lost".to_owned(), |loss| format!("a loss of up to {}", human(loss)));
                    write!(f, "; accepted: {database}{fence} with {loss}")?;
                }
                if !unproven.is_empty() {
                    write!(f, "; not proven: ")?;
                    list(f, unproven.iter().cloned())?;
                }
                Ok(())
            }
            Self::BreakGlassMerged { by, record } => {
                let BreakGlassRecord { ledger, frames, head, by: who, reason, placement, owed, .. } = &**record;
                write!(
                    f,
                    "{by} merged what {who} did by break-glass ({reason}), {frames} frames of ledger {ledger}, "
                )?;
                write!(f, "head {}: ", short(head))?;
                list(f, placement.iter().map(|(component, region)| format!("{component} in {region}")))?;
                if !owed.is_empty() {
                    write!(f, "; to be fenced: ")?;
                    list(f, owed.iter().map(ToString::to_string))?;
                }
                Ok(())
            }
            Self::Halted { why } => write!(f, "halted: {why}"),
        }
    }
}

fn guard_text(guard: &Guard) -> String {
    format!("{} ({})", guard.kind, guard.evidence)
}

fn count(steps: &[Step]) -> String {
    match steps.len() {
        1 => "1 step".to_owned(),
        n => format!("{n} steps"),
    }
}

fn again(attempt: u32) -> String {
    if attempt > 1 { format!(", attempt {attempt}") } else { String::new() }
}

/// Enough of a hash to tell two apart.
fn short(hash: &str) -> &str {
    hash.char_indices().nth(12).map_or(hash, |(end, _)| &hash[..end])
}

fn list(f: &mut fmt::Formatter<'_>, items: impl Iterator<Item = String>) -> fmt::Result {
    for (n, item) in items.enumerate() {
        write!(f, "{}{item}", if n == 0 { "" } else { ", " })?;
    }
    Ok(())
}
