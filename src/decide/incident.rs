//! An incident and the progress of its plan, as the facts tell them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::handover::HandedOver;
use super::hard::Stamp;
use super::{Fact, GuardKind, Outcome, StepState};
use crate::domain::{ComponentId, IncidentId, InstanceId, Level, PlanId, RegionId, StepId};
use crate::plan::{Action, Part, Purpose, Reversal, Step};

/// A declared loss.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Incident {
    pub(super) id: IncidentId,
    pub(super) number: u64,
    pub(super) level: Level,
    pub(super) source: RegionId,
    pub(super) target: RegionId,
    pub(super) first_failing: Timestamp,
    pub(super) detected_after: Duration,
    pub(super) declared: Stamp,
    pub(super) evidence: Vec<String>,
    pub(super) ordered_by: Option<String>,
    pub(super) purpose: Purpose,
    pub(super) is_forced: bool,
    pub(super) is_held: bool,
    pub(super) is_false_positive: bool,
    pub(super) acknowledged_by: Option<String>,
    pub(super) closed: Option<(Stamp, Outcome)>,
    pub(super) plan: Plan,
}

/// Where a part stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartState {
    Open,
    Unwinding { aborted: bool },
    Unwound { aborted: bool },
}

/// A person's approval.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Approval {
    pub(super) hash: String,
    pub(super) by: String,
    pub(super) until: Timestamp,
    pub(super) stamp: Stamp,
    pub(super) accept_unfenced: bool,
    pub(super) accept_loss: Option<Duration>,
    /// Whoever approved was shown that a witness contradicts.
    pub(super) against_witness: bool,
}

/// What a person was asked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Requested {
    /// Of the plan.
    pub(super) hash: String,
    /// Because of these.
    pub(super) guards: BTreeSet<GuardKind>,
    pub(super) stamp: Stamp,
}

/// A plan and how far it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) id: PlanId,
    pub(super) steps: Vec<Step>,
    /// Of the steps; approvals are for it.
    pub(super) hash: String,
    pub(super) progress: BTreeMap<StepId, Progress>,
    pub(super) parts: BTreeMap<Part, PartState>,
    /// Parts that a person ordered.
    pub(super) ordered: BTreeSet<Part>,
    /// Which parts need a step.
    pub(super) needed_by: BTreeMap<StepId, BTreeSet<Part>>,
    pub(super) approval: Option<Approval>,
    /// The last request for approval, as long as nobody has answered it.
    pub(super) requested: Option<Requested>,
    pub(super) committed: Option<Stamp>,
    pub(super) last_change: Option<Stamp>,
    pub(super) loss: Option<Duration>,
    pub(super) exceptions: Vec<String>,
    pub(super) is_stuck: bool,
}

/// How far a step is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Progress {
    pub(super) state: StepState,
    pub(super) attempts: u32,
    pub(super) undo_attempts: u32,
    pub(super) undo_failed: bool,
    pub(super) previous: serde_json::Value,
    pub(super) started: Option<Stamp>,
    pub(super) ended: Option<Stamp>,
    pub(super) note: String,
    pub(super) has_passed_commit_point: bool,
    /// What it promotes has everything by then. Another attempt is no different, or is judged anew.
    pub(super) is_lossless: bool,
    /// Attempts of which nothing was sent.
    pub(super) put_back: u32,
    /// A daemon that could not reach what it needs left it to another one.
    pub(super) handed_over: Option<HandedOver>,
    /// It is to be tried again, and judged again before that.
    pub(super) is_retried: bool,
    /// Why the share of the clients that it sent goes back, or has gone.
    pub(super) taken_back: Option<String>,
    /// A person does not want to wait for the end of its stage.
    pub(super) is_waived: bool,
}

impl Progress {
    /// An attempt may have changed something.
    pub(super) fn has_sent(&self) -> bool {
        self.attempts > self.put_back
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            state: StepState::Waiting,
            attempts: 0,
            undo_attempts: 0,
            undo_failed: false,
            previous: serde_json::Value::Null,
            started: None,
            ended: None,
            note: String::new(),
            has_passed_commit_point: false,
            is_lossless: false,
            put_back: 0,
            handed_over: None,
            is_retried: false,
            taken_back: None,
            is_waived: false,
        }
    }
}

impl Incident {
    pub(super) fn declared(stamp: Stamp, fact: &Fact) -> Option<Self> {
        let Fact::IncidentDeclared {
            incident,
            level,
            source,
            target,
            first_failing,
            detected_after,
            evidence,
            ordered_by,
            forced,
            purpose,
        } = fact
        else {
            return None;
        };
        Some(Self {
            id: incident.clone(),
            number: incident.as_str().rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or_default(),
            level: *level,
            source: source.clone(),
            target: target.clone(),
            first_failing: *first_failing,
            detected_after: *detected_after,
            declared: stamp,
            evidence: evidence.clone(),
            ordered_by: ordered_by.clone(),
            purpose: *purpose,
            is_forced: *forced,
            is_held: false,
            is_false_positive: false,
            acknowledged_by: None,
            closed: None,
            plan: Plan {
                id: PlanId::from(""),
                steps: Vec::new(),
                progress: BTreeMap::new(),
                parts: BTreeMap::new(),
                ordered: BTreeSet::new(),
                hash: String::new(),
                needed_by: BTreeMap::new(),
                approval: None,
                requested: None,
                committed: None,
                last_change: None,
                loss: None,
                exceptions: Vec::new(),
                is_stuck: false,
            },
        })
    }
}

impl Incident {
    /// What was planned is lost meanwhile: it goes on as a failover.
    pub(super) fn overtaken(&mut self, evidence: &[String], stamp: Stamp) {
        self.purpose = Purpose::Failover;
        self.evidence = evidence.to_vec();
        self.plan.is_stuck = false;
        let part = Part::Region;
        self.plan.expect_nothing_of(&self.source, &part, &[]);
        self.plan.hurry(stamp);
        for id in self.plan.waits_to_catch_up() {
            if let Some(step) = self.plan.steps.iter_mut().find(|step| step.id == id) {
                step.best_effort = true;
            }
            // One that is under way ends by itself.
            if self.plan.state(&id) != StepState::Running {
                self.plan.end(&id, StepState::Skipped, "the old primary is lost: its last position is judged", stamp);
            }
        }
        self.plan.hash = crate::plan::hash(&self.plan.steps);
    }
}

impl Plan {
    /// The steps that wait for an old primary's last writes, and have not seen them.
    pub(super) fn waits_to_catch_up(&self) -> Vec<StepId> {
        let waits = self.steps.iter().filter(|step| step.action.waits_for().is_some());
        waits.map(|step| step.id.clone()).filter(|id| self.state(id) != StepState::Done).collect()
    }

    /// Nothing goes by stages any more: what has not been sent of the shares, and what was only for them, is left out.
    fn hurry(&mut self, stamp: Stamp) {
        let shares: BTreeSet<StepId> =
            self.steps.iter().filter(|step| step.stage.is_some()).map(|step| step.id.clone()).collect();
        let mut only_for_shares = shares.clone();
        loop {
            let before = |step: &Step| {
                let mut followers = self.steps.iter().filter(|other| other.after.contains(&step.id)).peekable();
                followers.peek().is_some() && followers.all(|other| only_for_shares.contains(&other.id))
            };
            let more: Vec<StepId> = self
                .steps
                .iter()
                .filter(|step| !only_for_shares.contains(&step.id) && before(step))
                .filter(|step| !matches!(step.action, Action::Replicas { .. }))
                .map(|step| step.id.clone())
                .collect();
            if more.is_empty() {
                break;
            }
            only_for_shares.extend(more);
        }
        for step in &mut self.steps {
            if only_for_shares.contains(&step.id) {
                step.best_effort = true;
            }
        }
        for id in only_for_shares {
            if self.state(&id) == StepState::Waiting || self.state(&id) == StepState::Failed {
                self.end(&id, StepState::Skipped, "all of the clients move at once", stamp);
            }
        }
    }

    pub(super) fn step(&self, id: &StepId) -> Option<&Step> {
        self.steps.iter().find(|step| step.id == *id)
    }

    pub(super) fn state(&self, id: &StepId) -> StepState {
        self.progress.get(id).map_or(StepState::Waiting, |progress| progress.state)
    }

    /// The database that the step fences, if that is what it does.
    pub(super) fn fence_of(&self, id: &StepId) -> Option<InstanceId> {
        match &self.step(id)?.action {
            Action::Fenced { database } => Some(database.clone()),
            Action::IncidentDeclared { .. }
            | Action::Replicas { .. }
            | Action::DatabasePromoted { .. }
            | Action::CaughtUp { .. }
            | Action::Rejoined { .. }
            | Action::Protected { .. }
            | Action::Published { .. }
            | Action::RolledOut { .. }
            | Action::CacheActive { .. }
            | Action::StorageReachable { .. }
            | Action::Traffic { .. }
            | Action::Manifests { .. }
            | Action::Restored { .. }
            | Action::ManifestsRemoved { .. }
            | Action::IncidentEnded { .. }
            | Action::Verified { .. } => None,
        }
    }

    /// The databases whose fence could not be put up, and is needed.
    pub(super) fn owed_fences(&self) -> Vec<InstanceId> {
        let owed = self.steps.iter().filter(|step| self.state(&step.id) == StepState::Owed && self.is_wanted(&step.id));
        owed.filter_map(|step| self.fence_of(&step.id)).collect()
    }

    /// Weights that give a share to a region without placing anything there, from the first attempt on until it is undone.
    pub(super) fn shares(&self) -> impl Iterator<Item = (&ComponentId, &BTreeMap<RegionId, u8>)> {
        self.steps.iter().filter(|step| step.is_share()).filter_map(|step| {
            let progress = self.progress.get(&step.id)?;
            let is_there = progress.has_sent() && progress.state != StepState::Undone;
            match &step.action {
                Action::Traffic { traffic, weights } if is_there => Some((traffic, weights)),
                Action::Traffic { .. }
                | Action::IncidentDeclared { .. }
                | Action::Replicas { .. }
                | Action::Fenced { .. }
                | Action::DatabasePromoted { .. }
                | Action::CaughtUp { .. }
                | Action::Rejoined { .. }
                | Action::Protected { .. }
                | Action::Published { .. }
                | Action::RolledOut { .. }
                | Action::CacheActive { .. }
                | Action::StorageReachable { .. }
                | Action::Manifests { .. }
                | Action::Restored { .. }
                | Action::ManifestsRemoved { .. }
                | Action::IncidentEnded { .. }
                | Action::Verified { .. } => None,
            }
        })
    }

    /// It has not started, or its start was lost with a former run of the daemon.
    pub(super) fn is_to_start(&self, step: &StepId) -> bool {
        matches!(self.state(step), StepState::Waiting | StepState::Running)
    }

    /// The steps that have begun and are not undone.
    pub(super) fn begun(&self) -> BTreeSet<StepId> {
        let begun = self.progress.iter().filter(|(_, progress)| {
            progress.has_sent() && !matches!(progress.state, StepState::Undone | StepState::Cancelled)
        });
        begun.map(|(step, _)| step.clone()).collect()
    }

    /// A person ordered a part that needs the step.
    pub(super) fn is_ordered(&self, step: &StepId) -> bool {
        self.ordered.iter().any(|part| self.is_needed_by(step, part))
    }

    pub(super) fn hash(&self) -> &str {
        &self.hash
    }

    /// A commit point of a step that the part needs was passed: roll forward only.
    pub(super) fn is_committed(&self, part: &Part) -> bool {
        self.steps.iter().any(|step| {
            self.is_needed_by(&step.id, part)
                && self.progress.get(&step.id).is_some_and(|progress| progress.has_passed_commit_point)
        })
    }

    pub(super) fn is_needed_by(&self, step: &StepId, part: &Part) -> bool {
        self.needed_by.get(step).is_some_and(|parts| parts.contains(part))
    }

    /// Some part that has not been given up needs the step.
    pub(super) fn is_wanted(&self, step: &StepId) -> bool {
        self.needed_by
            .get(step)
            .is_some_and(|parts| parts.iter().any(|part| self.parts.get(part) == Some(&PartState::Open)))
    }

    /// What the step waits for is done, left out, owed, or taken back because nobody wants it any more.
    pub(super) fn is_due(&self, step: &Step) -> bool {
        step.after.iter().all(|id| {
            // Whoever does not wait for the last writes of an old primary waits for its fence all the same.
            let skipped = self
                .step(id)
                .filter(|before| self.state(id) == StepState::Skipped && before.action.waits_for().is_some());
            if let Some(skipped) = skipped {
                return self.is_due(skipped);
            }
            matches!(
                self.state(id),
                StepState::Done | StepState::Skipped | StepState::Owed | StepState::Undone | StepState::Cancelled
            ) || (!self.is_wanted(id) && self.step(id).is_some_and(|before| self.is_taken_back(before)))
        })
    }

    pub(super) fn is_unwinding(&self) -> bool {
        self.parts.values().any(|state| matches!(state, PartState::Unwinding { .. }))
    }

    /// Nothing has to be undone for the step: it never acted, changes nothing, or is undone.
    pub(super) fn is_taken_back(&self, step: &Step) -> bool {
        let Some(progress) = self.progress.get(&step.id) else { return true };
        match progress.state {
            StepState::Undone => true,
            StepState::Running | StepState::Undoing => false,
            StepState::Waiting
            | StepState::Held
            | StepState::Done
            | StepState::Failed
            | StepState::Owed
            | StepState::Skipped
            | StepState::Cancelled => !progress.has_sent() || step.action.reversal() != Reversal::Undo,
        }
    }

    pub(super) fn apply(&mut self, stamp: Stamp, fact: &Fact) {
        match fact {
            Fact::ApprovalRequested { hash, guards, .. } => {
                let guards = guards.iter().map(|guard| guard.kind).collect();
                self.requested = Some(Requested { hash: hash.clone(), guards, stamp });
            }
            Fact::Approved { hash, by, until, accept_unfenced, accept_loss, .. } => {
                let shown = self.requested.take().is_some_and(|asked| asked.guards.contains(&GuardKind::Witness));
                // A second yes takes nothing back.
                let former = self.approval.take().filter(|former| former.hash == *hash);
                self.approval = Some(Approval {
                    hash: hash.clone(),
                    by: by.clone(),
                    until: *until,
                    stamp,
                    accept_unfenced: *accept_unfenced,
                    accept_loss: *accept_loss,
                    against_witness: shown || former.is_some_and(|former| former.against_witness),
                });
            }
            Fact::CommitPointPassed { step, loss, lossless, exceptions, .. } => {
                self.committed.get_or_insert(stamp);
                self.loss = self.loss.max(*loss);
                self.exceptions.extend(exceptions.iter().cloned());
                self.edit(step, |progress| {
                    progress.has_passed_commit_point = true;
                    progress.is_lossless = *lossless;
                });
            }
            Fact::StepStarted { step, attempt, previous, .. } => self.edit(step, |progress| {
                progress.state = StepState::Running;
                progress.started.get_or_insert(stamp);
                progress.ended = None;
                // What the first attempt found is what has to come back; a later one finds our own work.
                if !progress.has_sent() || progress.previous.is_null() {
                    progress.previous.clone_from(previous);
                }
                progress.attempts = *attempt;
                progress.undo_failed = false;
                progress.is_retried = false;
                progress.is_waived = false;
                progress.note.clear();
            }),
            Fact::StepDone { step, note, acted, .. } => {
                if *acted {
                    self.last_change = Some(stamp);
                }
                self.end(step, StepState::Done, note, stamp);
            }
            Fact::StepFailed { step, why, .. } => self.end(step, StepState::Failed, why, stamp),
            Fact::StepOwed { step, why, .. } => self.end(step, StepState::Owed, why, stamp),
            Fact::StepSkipped { step, by, .. } => {
                self.is_stuck = false;
                let state = if self.state(step) == StepState::Undoing { StepState::Undone } else { StepState::Skipped };
                self.end(step, state, &format!("skipped by {by}"), stamp);
            }
            Fact::StepCancelled { step, .. } => {
                self.is_stuck = false;
                self.end(step, StepState::Cancelled, "stopped", stamp);
            }
            // It stays as it is: whoever leads next goes on with it.
            Fact::StepHandedOver { step, observer, why, .. } => self.edit(step, |progress| {
                progress.handed_over = Some(HandedOver { observer: observer.clone(), epoch: stamp.epoch });
                progress.note = format!("handed over by {observer}: {why}");
            }),
            Fact::StepPutBack { step, untouched, .. } => self.edit(step, |progress| {
                progress.state = StepState::Waiting;
                progress.put_back = if *untouched { progress.attempts } else { progress.put_back + 1 };
                // What an earlier attempt sent cannot be judged away.
                progress.has_passed_commit_point &= progress.has_sent();
            }),
            Fact::RetryOrdered { step, .. } => {
                self.is_stuck = false;
                let is_fence = self.fence_of(step).is_some();
                self.edit(step, |progress| {
                    progress.undo_failed = false;
                    if progress.state == StepState::Failed || (is_fence && progress.state == StepState::Owed) {
                        progress.state = StepState::Waiting;
                        progress.is_retried = true;
                    }
                });
            }
            Fact::UnwindingStarted { part, aborted, .. } => {
                self.parts.insert(part.clone(), PartState::Unwinding { aborted: *aborted });
                let given_up: Vec<StepId> =
                    self.progress.keys().filter(|step| !self.is_wanted(step)).cloned().collect();
                for step in given_up {
                    self.edit(&step, |progress| {
                        if progress.state == StepState::Waiting {
                            progress.state = StepState::Cancelled;
                        }
                    });
                }
            }
            Fact::UndoStarted { step, attempt, .. } => self.edit(step, |progress| {
                progress.state = StepState::Undoing;
                progress.undo_attempts = *attempt;
                progress.undo_failed = false;
            }),
            Fact::ShareTakenBack { step, why, .. } => self.edit(step, |progress| {
                progress.taken_back = Some(why.clone());
            }),
            Fact::StageContinued { step, .. } => self.edit(step, |progress| {
                progress.is_waived = true;
                if progress.taken_back.take().is_some() {
                    progress.state = StepState::Waiting;
                }
            }),
            Fact::StepUndone { step, note, .. } => self.end(step, StepState::Undone, note, stamp),
            Fact::UndoFailed { step, why, .. } => self.edit(step, |progress| {
                progress.undo_failed = true;
                progress.note.clone_from(why);
            }),
            Fact::PartUnwound { part, .. } => {
                let aborted = matches!(self.parts.get(part), Some(PartState::Unwinding { aborted: true }));
                self.parts.insert(part.clone(), PartState::Unwound { aborted });
            }
            Fact::PlanStuck { .. } => self.is_stuck = true,
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
            | Fact::PlanMade { .. }
            | Fact::PlanGrown { .. }
            | Fact::PlacementChanged { .. }
            | Fact::IncidentClosed { .. }
            | Fact::OwedFenceStarted { .. }
            | Fact::OwedFenceSettled { .. }
            | Fact::Paused { .. }
            | Fact::Resumed { .. }
            | Fact::Held { .. }
            | Fact::Released { .. }
            | Fact::Acknowledged { .. }
            | Fact::BreakGlassBegan { .. }
            | Fact::BreakGlassMerged { .. }
            | Fact::Halted { .. } => {}
        }
    }

    fn edit(&mut self, step: &StepId, edit: impl FnOnce(&mut Progress)) {
        if let Some(progress) = self.progress.get_mut(step) {
            edit(progress);
        }
    }

    fn end(&mut self, step: &StepId, state: StepState, note: &str, stamp: Stamp) {
        self.edit(step, |progress| {
            progress.state = state;
            note.clone_into(&mut progress.note);
            progress.ended = Some(stamp);
        });
    }
}
