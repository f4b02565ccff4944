//! How a plan grows: by another part of the same region that is lost, or is to be moved.

use std::collections::{BTreeMap, BTreeSet};

use super::StepState;
use super::incident::{PartState, Plan, Progress};
use crate::domain::{RegionId, StepId};
use crate::plan::{Action, Part, Step};

impl Plan {
    pub(super) fn grow(&mut self, part: &Part, steps: &[Step], shares: &BTreeMap<StepId, BTreeSet<StepId>>) {
        self.parts.insert(part.clone(), PartState::Open);
        self.is_stuck = false;
        for step in steps {
            self.progress.insert(step.id.clone(), Progress::default());
            self.needed_by.entry(step.id.clone()).or_default().insert(part.clone());
            self.steps.push(step.clone());
        }
        for (id, after) in shares {
            self.needed_by.entry(id.clone()).or_default().insert(part.clone());
            let Some(progress) = self.progress.get_mut(id) else { continue };
            let Some(step) = self.steps.iter_mut().find(|step| step.id == *id) else { continue };
            // What failed while a lesser trouble was to be eased is tried again when it is needed in earnest.
            // So is what failed for a component, when its whole region is lost.
            let is_in_earnest = !step.part.moves() || *part == Part::Region;
            let is_anew = progress.state == StepState::Failed && part.moves() && is_in_earnest;
            progress.is_retried |= is_anew;
            // What could not be undone is as it was, or is not: it is done again.
            let is_undone_in_vain = progress.state == StepState::Undoing && progress.undo_failed;
            if is_undone_in_vain {
                progress.undo_failed = false;
            }
            if matches!(progress.state, StepState::Undone | StepState::Cancelled) || is_anew || is_undone_in_vain {
                progress.state = StepState::Waiting;
            }
            if progress.state == StepState::Waiting {
                step.after.extend(after.iter().filter(|other| *other != id).cloned());
            }
        }
        self.traffic_last();
        self.hash = crate::plan::hash(&self.steps);
    }

    /// Whatever asked for which: clients that are sent to a database which is still a replica gain nothing.
    fn traffic_last(&mut self) {
        let promotions: Vec<StepId> = self
            .steps
            .iter()
            .filter(|step| matches!(step.action, Action::DatabasePromoted { .. }))
            .filter(|step| {
                matches!(
                    self.state(&step.id),
                    StepState::Waiting | StepState::Held | StepState::Running | StepState::Failed | StepState::Skipped
                )
            })
            .map(|step| step.id.clone())
            .collect();
        let moves = |step: &Step| matches!(step.action, Action::Traffic { .. }) && !step.is_share();
        let traffic: BTreeSet<StepId> =
            self.steps.iter().filter(|step| moves(step)).map(|step| step.id.clone()).collect();
        // And the pods have to know of it. The steps stand in an order in which each comes after those it waits for.
        let mut before: BTreeSet<StepId> = promotions.into_iter().collect();
        for step in &self.steps {
            let tells = matches!(step.action, Action::Published { .. } | Action::RolledOut { .. })
                && step.after.is_disjoint(&traffic);
            if tells && !step.best_effort && !step.after.is_disjoint(&before) {
                before.insert(step.id.clone());
            }
        }
        let progress = &self.progress;
        let waits = |id: &StepId| progress.get(id).is_some_and(|progress| progress.state == StepState::Waiting);
        for step in &mut self.steps {
            if moves(step) && waits(&step.id) {
                step.after.extend(before.iter().cloned());
            }
        }
    }

    /// What an earlier part wanted to do in the place that is left now is owed where it cannot be done: nothing waits
    /// for a lost region. A fence is owed in any case. And nothing waits for a share of the traffic where all of it moves.
    pub(super) fn expect_nothing_of(&mut self, source: &RegionId, part: &Part, joined: &[Step]) {
        let moves_traffic = joined.iter().any(|step| matches!(step.action, Action::Traffic { .. }));
        for step in &mut self.steps {
            let is_share = step.part == Part::Reroute
                && moves_traffic
                && matches!(step.action, Action::Traffic { .. } | Action::Verified { .. });
            let is_left = step.action.acts_at().is_some_and(|at| {
                at.region == *source
                    && match part {
                        Part::Region => true,
                        Part::Component(component) => at.component == *component,
                        Part::Reroute | Part::Healing { .. } | Part::Zone { .. } | Part::Rejoin { .. } => false,
                    }
            });
            let is_check_there = matches!(step.part, Part::Zone { .. })
                && matches!(&step.action, Action::Verified { region, .. } if region == source);
            if is_share || (is_check_there && moves_traffic) {
                step.best_effort = true;
            }
            if is_left && !matches!(step.action, Action::Fenced { .. }) {
                step.best_effort = true;
            }
        }
        self.hash = crate::plan::hash(&self.steps);
    }
}
