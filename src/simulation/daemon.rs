//! One run of a daemon: the controller, its ledger, and the steps it works on. Dies with everything in it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value as Json;

use crate::decide::{Confirmed, Controller, Effect, Frame, Task};
use crate::domain::time::human;
use crate::domain::{InstanceId, Now};
use crate::ledger::{MemoryLedger, Permit};
use crate::plan::Action;
use crate::ports::{Lease, Setback};

/// A run of the daemon.
pub(super) struct Daemon {
    pub(super) controller: Controller,
    pub(super) ledger: MemoryLedger,
    pub(super) lease: Lease,
    pub(super) next_index: u64,
    /// An append under way, and what comes after it.
    pub(super) open: Option<(Frame, Vec<Effect>)>,
    pub(super) running: BTreeMap<u64, Running>,
    pub(super) next_task: u64,
    /// Only the last deadline that the controller named counts.
    pub(super) deadline: u64,
    /// When that is.
    pub(super) due: Option<Duration>,
    /// How often in a row it was woken, and named a moment that had come already.
    pub(super) spins: u32,
    /// When it started.
    pub(super) began: Duration,
    /// When its lease was prolonged last.
    pub(super) renewed: Duration,
    /// Since when it has seen nobody lead.
    pub(super) vacant_since: Option<Duration>,
    pub(super) cast_at: Option<Duration>,
    pub(super) sequence: u64,
    /// Both clocks, when it looked last.
    pub(super) clocks: Option<Now>,
    /// What it knows of the roles.
    pub(super) confirmed: Confirmed,
    /// Of which index that is.
    pub(super) roles_at: Option<u64>,
    /// Whether the clusters are its own, as it knew last.
    pub(super) is_in_charge: Option<bool>,
    /// It has found its guardian.
    pub(super) has_guardian: bool,
}

impl Daemon {
    pub(super) fn new(
        controller: Controller,
        ledger: MemoryLedger,
        lease: Lease,
        next_index: u64,
        began: Duration,
    ) -> Self {
        Self {
            controller,
            ledger,
            lease,
            next_index,
            open: None,
            running: BTreeMap::new(),
            next_task: 0,
            deadline: 0,
            due: None,
            spins: 0,
            began,
            renewed: Duration::ZERO,
            vacant_since: None,
            cast_at: None,
            sequence: 0,
            clocks: None,
            confirmed: Confirmed::default(),
            roles_at: None,
            is_in_charge: None,
            has_guardian: false,
        }
    }
}

/// Work on one step.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) work: Work,
    pub(super) began: Duration,
    pub(super) phase: Phase,
    pub(super) acted: bool,
    pub(super) permit: Permit,
    pub(super) cancelled: bool,
    /// Goes into the key. Empty, unless a deliberate bug is on.
    pub(super) salt: String,
    /// What was tried last got no answer.
    pub(super) is_unanswered: bool,
    tries: u32,
    last: Option<String>,
}

/// What is worked on.
#[derive(Debug, Clone)]
pub(super) enum Work {
    Perform(Task),
    Undo { task: Task, previous: Json },
    Fence { database: InstanceId, key: String, attempt: u32, deadline: Duration },
}

/// The next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Look,
    Act,
    /// The call is on its way.
    Sent,
    Verify,
}

/// Where a setback leads.
pub(super) enum Then {
    Again(Duration),
    GiveUp(String),
}

/// A verification that is not there yet is repeated after this long.
const POLL: Duration = Duration::from_secs(1);
/// After throttling, a 5xx or no answer.
const BACKOFF: Duration = Duration::from_secs(2);

impl Running {
    pub(super) fn new(work: Work, began: Duration, permit: Permit) -> Self {
        let phase = match work {
            Work::Undo { .. } => Phase::Act,
            Work::Perform(_) | Work::Fence { .. } => Phase::Look,
        };
        Self {
            work,
            began,
            phase,
            acted: false,
            permit,
            cancelled: false,
            salt: String::new(),
            is_unanswered: false,
            tries: 0,
            last: None,
        }
    }

    pub(super) fn key(&self) -> String {
        match &self.work {
            Work::Perform(task) | Work::Undo { task, .. } => task.key() + &self.salt,
            Work::Fence { key, .. } => key.clone(),
        }
    }

    pub(super) fn action(&self) -> Action {
        match &self.work {
            Work::Perform(task) | Work::Undo { task, .. } => task.action.clone(),
            Work::Fence { database, .. } => Action::Fenced { database: database.clone() },
        }
    }

    /// What is performed is not simply taken back.
    pub(super) fn is_grave(&self) -> bool {
        matches!(&self.work, Work::Perform(task) if task.action.is_grave())
    }

    pub(super) fn deadline(&self) -> Duration {
        match &self.work {
            Work::Perform(task) | Work::Undo { task, .. } => task.deadline,
            Work::Fence { deadline, .. } => *deadline,
        }
    }

    pub(super) fn out_of_time(&self, now: Duration) -> Option<String> {
        if now.saturating_sub(self.began) < self.deadline() {
            return None;
        }
        let deadline = human(self.deadline());
        Some(match &self.last {
            Some(last) => format!("not reached within {deadline}, after {} tries; the last one: {last}", self.tries),
            None => format!("not reached within {deadline}"),
        })
    }

    pub(super) fn weigh(&mut self, now: Duration, setback: Setback) -> Then {
        self.tries += 1;
        self.is_unanswered = matches!(setback, Setback::Transient(_));
        let wait = match setback {
            Setback::Refused(why) => return Then::GiveUp(format!("refused: {why}")),
            Setback::NotYet(note) => {
                self.last = Some(note);
                POLL
            }
            Setback::Transient(why) => {
                self.last = Some(why);
                // Something may have been done all the same: look again before another call.
                if !matches!(self.work, Work::Undo { .. }) {
                    self.phase = Phase::Look;
                }
                BACKOFF
            }
        };
        // Never past the deadline: that is when it is given up.
        let left = (self.began + self.deadline()).saturating_sub(now);
        Then::Again(wait.min(left).max(Duration::from_millis(1)))
    }
}
