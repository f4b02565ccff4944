//! The edges of the daemon: what the shell needs from the outside world, as contracts.
//!
//! Traits are for ports. Every implementation lives in `adapters` or `ledger`, and the simulation brings its own.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::decide::{Alarm, Command, Divergence, Frame, RecoveryPoint};
use crate::domain::{InstanceId, LedgerId, Now, Observation, ObserverId, RegionId};
use crate::health::Ballot;
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
    /// Monotonic; `Duration::MAX` where nobody else can take over. Counted from when the request was sent, less a
    /// margin: it ends before anybody else can lead.
    pub until: Duration,
}

/// What became of a candidacy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Candidacy {
    /// This daemon leads.
    Leading(Lease),
    /// Another one does, as far as the ledger knows.
    Following {
        /// Who. Its name may be ours: a former run of this daemon, or a copy of it.
        leader: ObserverId,
        /// Its epoch.
        epoch: u64,
    },
}

impl Candidacy {
    /// The lease, where it was won.
    pub fn lease(&self) -> Option<Lease> {
        match self {
            Self::Leading(lease) => Some(*lease),
            Self::Following { .. } => None,
        }
    }
}

/// Why a frame is not known to be durable. None of them may be followed by an effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// This daemon leads no more. Throw the hard state away, read the ledger anew and campaign again. The frame may
    /// stand in the ledger if its append had been unknown before; whoever reads finds out.
    #[error("this daemon leads no more: only epoch {epoch} and later ones can record")]
    Fenced {
        /// The lowest epoch that can record now.
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

/// Why the ledger did not do something other than recording. Whether it was done all the same is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// No answer in time, no quorum, a passing fault: ask again.
    #[error("{0}")]
    Unavailable(String),
    /// It answers that it will not (credential, certificate, permission, space): a person has to mend that. Asking
    /// again does no harm.
    #[error("{0}")]
    Refused(String),
    /// It takes nothing until a restart; the reason is for a person.
    #[error("{0}")]
    Halted(String),
}

/// How the ledger stood when this daemon heard of it last. What it has kept in memory, at once and without asking.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// Who leads, and in which epoch. None: nobody does, and it is time to campaign.
    pub leader: Option<(ObserverId, u64)>,
    /// Number of frames. Whoever has applied fewer is behind.
    pub frames: u64,
    /// Monotonic; when the request was *sent* whose linearizable answer confirmed `leader` and `frames` last. A role
    /// may be answered for from here on, for `self_fence_after`. None before the first answer.
    pub confirmed: Option<Duration>,
    /// What speaks against using it at present, in words for people. None while all is well.
    pub trouble: Option<Unusable>,
    /// Rises with every change of `leader`, of a ballot, of a request or of an answer; see [`Ledger::stirred`].
    pub version: u64,
}

/// What an operator asked of a daemon that does not lead, on its way to the one that does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperatorRequest {
    /// Its name, which the answer carries as well. Letters, digits and `-`; never used twice.
    pub id: String,
    /// What is asked.
    pub command: Command,
    /// The daemon that was asked.
    pub from: ObserverId,
}

impl OperatorRequest {
    /// One that was given at this moment. Ids sort by their time, and no two runs of a daemon share one.
    pub fn given(at: Timestamp, number: u64, command: Command, from: ObserverId) -> Self {
        let id = format!("{:020}-{from}-{number}", at.as_nanosecond().max(0));
        Self { id, command, from }
    }

    /// How long ago it was given, by the clocks of two machines; none where its name does not say when.
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        let (nanoseconds, _) = self.id.split_once('-')?;
        let given = Timestamp::from_nanosecond(nanoseconds.parse().ok()?).ok()?;
        Some(Duration::try_from(now.duration_since(given)).unwrap_or_default())
    }
}

/// What became of an operator's request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperatorAnswer {
    /// Its facts are durable.
    InEffect(String),
    /// The controller said no; nothing was recorded.
    Refused(String),
    /// It could not be recorded. NOT IN EFFECT.
    NotRecorded(String),
}

/// The ordered, durable record of facts, and the only authority on who may act.
///
/// All of it may be called at any time and at the same time: renewing, reading and watching go on while an append is
/// open. Everything that asks somebody else ends within a bounded time, and may be dropped half-way, unless said
/// otherwise.
///
/// Guarantees:
/// * `append` answers `Ok` only when the frame survives whatever happens to this machine, nobody else wrote that
///   index, and no higher epoch exists. A deposed leader cannot record, and without a [`Durable`] there is no
///   [`Permit`]: it cannot perform. The permit ends with the lease.
/// * An epoch belongs to one run of one daemon. A later leader has a higher one. Once `campaign` has answered
///   `Leading`, no frame of a lower epoch is ever added: what `read_from` gives then is all that was recorded before.
/// * Frames come back from `read_from` as they were appended: in order, without gaps, epochs never going down. A
///   record for which that does not hold is an error, never a shorter record.
/// * A frame that was not acknowledged may or may not be there later. Whoever reads decides by what is there.
/// * A failed write is never retried behind the caller's back.
///
/// Ballots and requests are soft: bounded in number, gone after a while, and never an authority on anything.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Becomes the leader, or says who is. Calling it again while leading renews the lease and keeps the epoch, unless
    /// the lease had run out or an append is unsettled: then a new epoch begins, and what is still on its way comes to
    /// nothing. Who wants to settle it renews instead, and sends the frame again.
    ///
    /// # Errors
    /// Where nobody knows; campaign again.
    async fn campaign(&self, now: Now) -> Result<Candidacy, Unusable>;
    /// Prolongs the lease. None: it is lost, and whatever was under way must end by the `until` that was known.
    ///
    /// # Errors
    /// Where nobody knows: the lease ends at the `until` that was known, unless a later call renews it.
    async fn renew(&self, now: Now) -> Result<Option<Lease>, Unusable>;
    /// Gives the lease back, so that another daemon can lead at once. To be called when no effect is under way any
    /// more. Where that cannot be told to the ledger, the lease runs out.
    async fn resign(&self);
    /// Records the frame at its index, in the epoch of the lease. One at a time. A file is halted when the future is
    /// dropped before its end; others take the identical frame again, as after `Unknown`.
    async fn append(&self, frame: Frame) -> Result<Durable, AppendError>;
    /// Every frame from `index` on, as of now: nothing that was acknowledged before the call is missing.
    ///
    /// # Errors
    /// Where it cannot be read, or is damaged.
    async fn read_from(&self, index: u64) -> Result<Vec<Frame>, LedgerError>;
    /// Completes once there is a frame at `index` or after it. May be dropped at any time.
    async fn changed(&self, index: u64);
    /// Completes once [`Standing::version`] is higher than `since`, with that version. May be dropped at any time.
    async fn stirred(&self, since: u64) -> u64;
    /// Shows this daemon's ballot to the others, in place of the one before.
    ///
    /// # Errors
    /// Where it may not have arrived; the next one will do.
    async fn publish(&self, ballot: &Ballot) -> Result<(), Unusable>;
    /// The last ballot of every observer that published lately, our own among them. Whether one is fresh is for the
    /// reader to judge, by seeing its sequence change.
    fn ballots(&self) -> Vec<Ballot>;
    /// Passes an operator's request on to whoever leads.
    ///
    /// # Errors
    /// Where it may not have arrived. The same request may be sent again.
    async fn request(&self, request: &OperatorRequest) -> Result<(), Unusable>;
    /// The requests that nobody has answered yet, by their ids.
    fn requests(&self) -> Vec<OperatorRequest>;
    /// Answers a request, which ends it. Only the leader does.
    ///
    /// # Errors
    /// Where the answer may not have arrived; it may be sent again.
    async fn answer(&self, id: &str, answer: &OperatorAnswer) -> Result<(), Unusable>;
    /// The answer to a request, once it is there. Kept for some minutes.
    fn answer_of(&self, id: &str) -> Option<OperatorAnswer>;
    /// How the ledger stands, from memory.
    fn standing(&self) -> Standing;
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

impl Claim {
    /// What the holder of a claim is called that break-glass put up begins with.
    pub const BREAK_GLASS: &str = "break-glass by ";

    /// A person put it up who went on without the shared ledger.
    pub fn is_break_glass(&self) -> bool {
        self.holder.starts_with(Self::BREAK_GLASS)
    }
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

/// By table, how far its rows had come.
pub type Watermarks = BTreeMap<String, Option<String>>;

/// What a promotion lost, asked of the databases themselves. Nothing is changed.
#[async_trait]
pub trait Losses: Send + Sync {
    /// How far a database had come when it was promoted.
    async fn recovery_point(&self, database: &InstanceId) -> Result<RecoveryPoint, Setback>;

    /// What an old primary holds beyond `watermarks`.
    async fn divergence(&self, database: &InstanceId, watermarks: &Watermarks) -> Result<Divergence, Setback>;
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
