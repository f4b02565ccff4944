//! What a plan has to be: a graph without cycles in which nothing irreversible comes before a commit point.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Step};
use crate::domain::StepId;

/// Whether an action can be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reversal {
    /// The former state can be brought back.
    Undo,
    /// It changes nothing, so there is nothing to take back.
    Nothing,
    /// It cannot be taken back.
    Impossible,
}

impl Action {
    /// Whether it can be taken back.
    pub fn reversal(&self) -> Reversal {
        match self {
            Self::IncidentDeclared { .. }
            | Self::Replicas { .. }
            | Self::Fenced { .. }
            | Self::Published { .. }
            | Self::Traffic { .. } => Reversal::Undo,
            Self::CaughtUp { .. } | Self::Protected { .. } | Self::StorageReachable { .. } | Self::Verified { .. } => {
                Reversal::Nothing
            }
            Self::DatabasePromoted { .. }
            | Self::Rejoined { .. }
            | Self::RolledOut { .. }
            | Self::CacheActive { .. }
            | Self::Manifests { .. }
            | Self::Restored { .. }
            | Self::ManifestsRemoved { .. }
            | Self::IncidentEnded { .. } => Reversal::Impossible,
        }
    }
}

/// Why a graph is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPlan {
    /// A step waits for one that does not exist.
    #[error("step {step} waits for {missing}, which is not in the plan")]
    Missing {
        /// Who waits.
        step: StepId,
        /// For whom.
        missing: StepId,
    },
    /// Steps wait for each other.
    #[error("steps wait for each other: {0:?}")]
    Cycle(Vec<StepId>),
    /// A step without an undo could run before a commit point.
    #[error("step {0} cannot be undone and no commit point comes before it")]
    IrreversibleBeforeCommit(StepId),
    /// Two steps have one name.
    #[error("two steps are called {0}")]
    Twice(StepId),
}

/// Checks a plan's graph.
pub fn check(steps: &[Step]) -> Result<(), BadPlan> {
    let mut by_id = BTreeMap::new();
    for step in steps {
        if by_id.insert(&step.id, step).is_some() {
            return Err(BadPlan::Twice(step.id.clone()));
        }
    }
    for step in steps {
        if let Some(missing) = step.after.iter().find(|id| !by_id.contains_key(id)) {
            return Err(BadPlan::Missing { step: step.id.clone(), missing: missing.clone() });
        }
    }
    let mut committed: BTreeMap<&StepId, bool> = BTreeMap::new();
    let mut open: Vec<&Step> = steps.iter().collect();
    while !open.is_empty() {
        let (ready, rest): (Vec<&Step>, Vec<&Step>) =
            open.into_iter().partition(|step| step.after.iter().all(|id| committed.contains_key(id)));
        if ready.is_empty() {
            return Err(BadPlan::Cycle(rest.iter().map(|step| step.id.clone()).collect()));
        }
        for step in ready {
            let safe = step.commit_point || step.after.iter().any(|id| committed.get(id) == Some(&true));
            if step.action.reversal() == Reversal::Impossible && !step.is_idle_restart() && !safe {
                return Err(BadPlan::IrreversibleBeforeCommit(step.id.clone()));
            }
            committed.insert(&step.id, safe);
        }
        open = rest;
    }
    Ok(())
}

/// The steps in waves: all steps of a wave can run at the same time once the waves before it are done.
pub fn waves(steps: &[Step]) -> Vec<Vec<&Step>> {
    let mut done: BTreeSet<&StepId> = BTreeSet::new();
    let known: BTreeSet<&StepId> = steps.iter().map(|step| &step.id).collect();
    let mut open: Vec<&Step> = steps.iter().collect();
    let mut waves = Vec::new();
    while !open.is_empty() {
        let (ready, rest): (Vec<&Step>, Vec<&Step>) =
            open.into_iter().partition(|step| step.after.iter().all(|id| done.contains(id) || !known.contains(id)));
        if ready.is_empty() {
            waves.push(rest);
            return waves;
        }
        done.extend(ready.iter().map(|step| &step.id));
        waves.push(ready);
        open = rest;
    }
    waves
}

/// A plan as text, wave by wave.
pub fn render(steps: &[Step]) -> String {
    let mut text = String::new();
    for (n, wave) in waves(steps).iter().enumerate() {
        for step in wave {
            let mut marks = Vec::new();
            if step.commit_point {
                marks.push("commit point".to_owned());
            }
            if step.action.reversal() == Reversal::Impossible && !step.is_idle_restart() {
                marks.push("no undo".to_owned());
            }
            if step.best_effort {
                marks.push("needs the lost region: owed if it cannot be done".to_owned());
            }
            if let Some(stage) = step.stage {
                marks.push(format!("watched for {}", crate::domain::time::human(stage)));
            }
            if let Some(confirm) = &step.confirm {
                let lasting = crate::domain::time::human(confirm.lasting);
                marks.push(format!("once {} has failed for {lasting}", confirm.instance));
            }
            let marks = if marks.is_empty() { String::new() } else { format!(" ({})", marks.join("; ")) };
            let within = crate::domain::time::human(step.deadline);
            text.push_str(&format!("{:>2}. {}: {}, within {within}{marks}\n", n + 1, step.id, step.action));
        }
    }
    text
}
