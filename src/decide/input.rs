//! What can happen to the controller.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BreakGlass, BreakGlassRecord, Measure, Measured};
use crate::domain::{ComponentId, IncidentId, InstanceId, Observation, PlanId, ReferenceId, RegionId, StepId};
use crate::health::Ballot;
use crate::ports::{Claim, Look, Setback};

/// One thing that happened, as the shell saw it.
#[derive(Debug, Clone)]
pub enum Input {
    /// The daemon started, or took over; always the first input after a replay.
    Restarted,
    /// As `Restarted`, on a ledger that several daemons share: this one leads from now on.
    Elected {
        /// The number that fences its predecessors.
        epoch: u64,
    },
    /// A probe ended.
    Observed(Observation),
    /// A reference point was asked.
    ReferenceObserved(ReferenceObservation),
    /// Another observer's ballot was read.
    Heard(Arc<Ballot>),
    /// These databases have a guardian beside this daemon that would make them refuse writes.
    Guarded(BTreeSet<InstanceId>),
    /// A person's stop file is there, with what to tell of it; or not any more.
    Stopped(Option<String>),
    /// A deadline named by `next_deadline` was reached.
    Tick,
    /// A look at a step's world came back.
    Looked {
        /// Which plan.
        plan: PlanId,
        /// Which step.
        step: StepId,
        /// What was seen.
        result: Result<Look, Setback>,
    },
    /// A running step has something to tell; for people only.
    Progressed {
        /// Which plan.
        plan: PlanId,
        /// Which step.
        step: StepId,
        /// One line.
        note: String,
    },
    /// A step's attempt ended.
    Finished {
        /// Which plan.
        plan: PlanId,
        /// Which step.
        step: StepId,
        /// Which attempt; an answer to an older one is ignored.
        attempt: u32,
        /// How.
        outcome: StepOutcome,
    },
    /// An attempt to undo ended.
    UndoFinished {
        /// Which plan.
        plan: PlanId,
        /// Which step.
        step: StepId,
        /// Which attempt.
        attempt: u32,
        /// What was seen, or why not.
        outcome: Result<String, String>,
    },
    /// An attempt to fence an old primary ended.
    OwedFenceFinished {
        /// The old primary.
        database: InstanceId,
        /// Which attempt.
        attempt: u32,
        /// What was seen, or why not.
        outcome: Result<String, String>,
    },
    /// The survey of the world came back: who claims the clusters. An unreachable cluster is absent.
    Surveyed {
        /// Monotonic time at which the reading began.
        asked: Duration,
        /// Claim per region; none where nobody claims it.
        claims: BTreeMap<RegionId, Option<Claim>>,
    },
    /// The same, read once in a while although nobody asked: somebody else may have taken over.
    ClaimsSeen {
        /// Monotonic time at which the reading began.
        asked: Duration,
        /// Claim per region; none where nobody claims it.
        claims: BTreeMap<RegionId, Option<Claim>>,
    },
    /// A check of the end state was run.
    Verified {
        /// Its name.
        check: String,
        /// Where.
        region: RegionId,
        /// What was seen, or what is wrong.
        result: Result<String, String>,
    },
    /// A database was asked what came over, or what it holds beyond that.
    Measured {
        /// What was asked.
        measure: Measure,
        /// The answer, or why there is none.
        answer: Result<Measured, String>,
    },
    /// A person wants something.
    Commanded {
        /// To match the answer.
        id: u64,
        /// By what name another daemon passed it on. Whoever leads next may find it again.
        request: Option<String>,
        /// What.
        command: Command,
    },
}

/// Whether a reference point answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceObservation {
    /// Which.
    pub reference: ReferenceId,
    /// Monotonic time at which the probe began.
    pub began: Duration,
    /// Monotonic time at which it ended.
    pub ended: Duration,
    /// What was seen; an error where it did not answer.
    pub answer: Result<(), String>,
}

/// How an attempt at a step ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    /// The goal holds.
    Reached {
        /// What was seen.
        note: String,
        /// Something had to be done for it.
        acted: bool,
    },
    /// Refused, or the deadline passed.
    Failed {
        /// What was tried, and what came of it.
        why: String,
    },
    /// The deadline passed, and what was tried last got no answer.
    OutOfReach {
        /// What was tried, and what came of it.
        why: String,
    },
    /// Stopped on request.
    Cancelled,
    /// The world is another one than when it was judged, and it is judged anew.
    TooLate {
        /// What is another.
        why: String,
        /// Something may have been sent.
        acted: bool,
    },
    /// Nothing was sent, and nothing may be for now: it is judged anew when that is over.
    NotBegun {
        /// What is in the way.
        why: String,
        /// It is the stop file, and nothing that is in the ledger.
        stop_file: bool,
    },
}

/// What a person can ask for. `by` is who, for the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "command", deny_unknown_fields)]
pub enum Command {
    /// Move now, without waiting for a trigger.
    Failover {
        /// Who.
        by: String,
        /// Why.
        reason: String,
        /// Region that is left.
        from: RegionId,
        /// Only this component; none means the whole region.
        #[serde(default)]
        component: Option<ComponentId>,
        /// Go on although the target is not known to be ready.
        #[serde(default)]
        force: bool,
    },
    /// Move what is well, without loss.
    Switchover {
        /// Who.
        by: String,
        /// Why.
        reason: String,
        /// Region that is left.
        from: RegionId,
        /// Only this component; none means the whole region.
        #[serde(default)]
        component: Option<ComponentId>,
    },
    /// Take the work back to where it belongs, a share of the clients at a time and without loss.
    Failback {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// Go on with the next stage of a failback now, or again with one whose clients were taken back.
    Continue {
        /// Who.
        by: String,
        /// Which incident.
        incident: IncidentId,
    },
    /// Make an old primary a standby of what serves in its place.
    Rejoin {
        /// Who.
        by: String,
        /// Why.
        reason: String,
        /// The old primary.
        database: InstanceId,
        /// Although it holds what nobody else has, or nobody knows.
        #[serde(default)]
        discard: bool,
    },
    /// Approve a plan as it was shown.
    Approve {
        /// Who.
        by: String,
        /// Which incident.
        incident: IncidentId,
        /// The plan's hash as shown; none means the plan as it stands.
        #[serde(default)]
        hash: Option<String>,
        /// Promote although the old primary is not fenced.
        #[serde(default)]
        accept_unfenced: bool,
        /// Promote although this much may be lost; also accepts an unknown loss.
        #[serde(default, with = "crate::domain::time::friendly::option")]
        accept_loss: Option<Duration>,
    },
    /// No further step of this incident starts.
    Hold {
        /// Who.
        by: String,
        /// Which incident.
        incident: IncidentId,
    },
    /// Nothing starts until then.
    Pause {
        /// Who.
        by: String,
        /// Until when; at most `guards.pause_max` from now.
        until: Timestamp,
        /// Why.
        #[serde(default)]
        reason: String,
    },
    /// End a pause and release what was held.
    Resume {
        /// Who.
        by: String,
    },
    /// Seen.
    Ack {
        /// Who.
        by: String,
        /// Which incident.
        incident: IncidentId,
        /// It should not have happened.
        #[serde(default)]
        false_positive: bool,
        /// In their words.
        #[serde(default)]
        note: String,
    },
    /// Try a failed step again.
    Retry {
        /// Who.
        by: String,
        /// Which incident.
        incident: IncidentId,
        /// Which step.
        step: StepId,
    },
    /// Go on without a failed step.
    Skip {
        /// Who.
        by: String,
        /// Which incident.
        incident: IncidentId,
        /// Which step.
        step: StepId,
    },
    /// Undo what can be undone and end the incident; refused after the first commit point, unless nothing came of that.
    Abort {
        /// Who.
        by: String,
        /// Which incident.
        incident: IncidentId,
        /// The region that was to take over is lost for good, with whatever was done there.
        #[serde(default)]
        standby_lost: bool,
    },
    /// Declare the placement, and this ledger to be in charge.
    Adopt {
        /// Who.
        by: String,
        /// Where each component is served; what is left out is taken from what the probes see.
        #[serde(default)]
        placement: BTreeMap<ComponentId, RegionId>,
    },
    /// What break-glass did without this ledger comes into it.
    Merge {
        /// Who.
        by: String,
        /// What it did.
        record: Box<BreakGlassRecord>,
        /// Although its plan has not ended.
        #[serde(default)]
        unfinished: bool,
    },
    /// Carry a plan out without the ledger that everybody shares. It comes from the process that a person started for it,
    /// and from nowhere else: it can be neither sent nor passed on.
    #[serde(skip)]
    BreakGlass(Box<BreakGlass>),
}

impl Command {
    /// What a person wrote that goes into the record: its name, the text, and how many characters it may have.
    pub(crate) fn words(&self) -> Vec<(&'static str, &str, usize)> {
        const NAME_MAX: usize = 200;
        const TEXT_MAX: usize = 2000;
        match self {
            Self::Failover { by, reason, .. }
            | Self::Switchover { by, reason, .. }
            | Self::Rejoin { by, reason, .. }
            | Self::Failback { by, reason }
            | Self::Pause { by, reason, .. } => {
                vec![("by", by, NAME_MAX), ("reason", reason, TEXT_MAX)]
            }
            Self::Ack { by, note, .. } => vec![("by", by, NAME_MAX), ("note", note, TEXT_MAX)],
            Self::Approve { by, .. }
            | Self::Hold { by, .. }
            | Self::Continue { by, .. }
            | Self::Resume { by }
            | Self::Retry { by, .. }
            | Self::Skip { by, .. }
            | Self::Abort { by, .. }
            | Self::Adopt { by, .. }
            | Self::Merge { by, .. } => vec![("by", by, NAME_MAX)],
            Self::BreakGlass(order) => vec![("by", &order.by, NAME_MAX), ("reason", &order.reason, TEXT_MAX)],
        }
    }
}
