//! The edges of the daemon: what the shell needs from the outside world, as contracts.
//!
//! Traits are for ports. Every implementation lives in `adapters` or `ledger`, and the simulation brings its own.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::decide::{Alarm, Frame};
use crate::domain::{LedgerId, Now, Observation, RegionId};
use crate::ledger::LedgerError;
pub use crate::ledger::{Durable, Permit, PermitExpired};
use crate::plan::Action;

/// Reads both clocks. The only way to learn the time outside of tests.
pub trait Clock: Send + Sync + 'static {
    /// One reading.
    fn now(&self) -> Now;
}

/// One instance's health check.
///
/// Guarantees: `observe` ends within the probe's own timeout (the prober enforces it once more), never panics on
/// what a server sends, and separates failing from not knowing as DESIGN section 3 has it. It keeps no state that
/// could make one observation depend on an earlier one, apart from warm clients.
#[async_trait]
pub trait Probe: Send + Sync {
    /// Looks once. `began` is when the prober started it.
    async fn observe(&self, began: Duration) -> Observation;
}

/// Asks a point outside the deployment whether our own network works.
#[async_trait]
pub trait ReferenceProbe: Send + Sync {
    /// Any answer counts, an error page and a refused credential too. An error says what was seen instead.
    async fn ask(&self) -> Result<(), String>;
}

/// What an actuator saw before it acted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// The goal holds already: nothing needs to be done.
    pub satisfied: bool,
    /// For people: what is there now.
    pub summary: String,
    /// What `undo` needs to bring the former state back; opaque to everybody but the actuator.
    pub previous: serde_json::Value,
}

/// Why an attempt did not reach its goal. The difference decides what happens next, so it is never guessed:
/// answers are classified by error code, not by HTTP status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Setback {
    /// Throttling, 5xx, a transient state, no answer: try again within the deadline.
    #[error("{0}")]
    Transient(String),
    /// Access denied, validation, not found: trying again does not help.
    #[error("refused: {0}")]
    Refused(String),
    /// Verification only: on its way. Look again after the poll interval.
    #[error("{0}")]
    NotYet(String),
}

/// The right to lead, and the number that fences whoever led before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Every frame carries it; a higher one beats a lower one.
    pub epoch: u64,
    /// Monotonic; `Duration::MAX` where nobody else can take over.
    pub until: Duration,
}

/// Why a frame is not known to be durable. None of them may be followed by an effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Another observer leads. Throw the hard state away and read the ledger anew.
    #[error("another observer leads in epoch {epoch}; nothing was recorded")]
    Fenced {
        /// The higher epoch.
        epoch: u64,
    },
    /// No conclusive answer: the frame may be recorded yet. Send the identical frame again at that index until the
    /// answer is conclusive, or resign.
    #[error("it is not known whether the frame was recorded: {0}")]
    Unknown(String),
    /// The ledger takes nothing until a restart; the reason is for a person.
    #[error("{0}")]
    Halted(String),
}

/// The ordered, durable record of facts, and the only authority on who may act.
///
/// Guarantees:
/// * `append` answers `Ok` only when the frame survives whatever happens to this machine, nobody else wrote that
///   index, and no higher epoch exists. A deposed leader cannot record, and without a [`Durable`] there is no
///   [`Permit`]: it cannot perform.
/// * Frames come back from `read_from` as they were appended: in order, without gaps, epochs never going down. A
///   record for which that does not hold is an error, never a shorter record.
/// * A frame that was not acknowledged may or may not be there after a restart. Whoever reads decides by what is there.
/// * A failed write is never retried behind the caller's back.
#[async_trait]
pub trait Ledger: Send {
    /// Becomes the leader, or says why not. Calling it again while leading renews the lease and keeps the epoch.
    async fn campaign(&mut self, now: Now) -> Result<Lease, AppendError>;
    /// Records the frame at its index, in the epoch of the lease. One at a time. Dropping the future before it ends
    /// leaves the ledger halted.
    async fn append(&mut self, frame: Frame) -> Result<Durable, AppendError>;
    /// Every frame from `index` on.
    async fn read_from(&self, index: u64) -> Result<Vec<Frame>, LedgerError>;
}

/// Brings actions about. One implementation per kind of component, one dispatcher in front.
///
/// Guarantees: `look` changes nothing. `act` sends mutating calls with SDK-internal retries off, each conditional on
/// what `look` saw and each ending before the permit does; performing it twice is the same as performing it once.
/// `verify` judges by the world. `undo` brings `previous` back and is idempotent as well.
/// The retrying, the polling and the deadline belong to the executor, not to the actuator.
#[async_trait]
pub trait Actuator: Send + Sync {
    /// What is there now. `key` is `plan/step`, the mark that repeated work is recognised by.
    async fn look(&self, key: &str, action: &Action) -> Result<Look, Setback>;
    /// One attempt.
    async fn act(&self, key: &str, action: &Action, look: &Look, permit: &Permit) -> Result<(), Setback>;
    /// Whether the goal holds; the text says what was seen, for people and for the record.
    async fn verify(&self, key: &str, action: &Action) -> Result<String, Setback>;
    /// Brings the former state back.
    async fn undo(
        &self,
        key: &str,
        action: &Action,
        previous: &serde_json::Value,
        permit: &Permit,
    ) -> Result<String, Setback>;
}

/// What the survey of the world found, for drift and claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The ledger that the claim names.
    pub ledger: LedgerId,
    /// Which taking over of that ledger it stands for: a copy of a ledger names the same one. None where the claim does
    /// not tell.
    pub term: Option<Term>,
    /// Who wrote it, for people.
    pub holder: String,
}

/// One daemon's turn with a ledger. The greater one took over later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Term {
    /// The epoch; copies of a ledger that go their own ways may come to the same one.
    pub epoch: u64,
    /// When it began: two daemons do not begin in the same nanosecond.
    pub since: jiff::Timestamp,
}

impl std::fmt::Display for Term {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "epoch {} since {}", self.epoch, self.since)
    }
}

/// Who is in charge of a deployment, as a mark in the deployment itself: it stops a second failoverd with another
/// ledger (a cloned machine, `replicas: 2`) before it does anything.
///
/// Guarantees: bounded by the clients' own timeouts; a cluster that cannot be reached is left out, never guessed.
#[async_trait]
pub trait Claims: Send + Sync {
    /// The claim of every cluster that can be reached; none where nobody claims it.
    async fn claims(&self) -> BTreeMap<RegionId, Option<Claim>>;
    /// Puts this claim into every cluster that can be reached. One of another ledger, or of a later term of this one,
    /// stays unless `replace` is set. The text says where it is now, for people.
    async fn ensure(&self, claim: &Claim, replace: bool, permit: &Permit) -> Result<String, Setback>;
}

/// What people are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Something is wrong. The same key again replaces the former text.
    Raised(Alarm),
    /// It is over.
    Cleared {
        /// The alarm's key.
        key: String,
    },
}

/// A channel to people.
///
/// Guarantees: may fail or hang without delaying a decision or a step: it is called from a task of its own, with a
/// time limit, and what it does not take in time is counted and dropped.
#[async_trait]
pub trait Notifier: Send + Sync {
    /// Its name, for the log.
    fn name(&self) -> &'static str;
    /// Tells people, once.
    async fn notify(&self, notice: &Notice) -> Result<(), String>;
}
