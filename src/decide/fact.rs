//! What happened and must be remembered. Every word here is in the ledger for ever: add, never rename.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Accepted, BreakGlassRecord, Divergence, Guard, RecoveryPoint};
use crate::domain::time::friendly;
use crate::domain::{
    ComponentId, IncidentId, InstanceId, LedgerId, Level, Mode, Now, ObserverId, PlanId, RegionId, StepId,
};
use crate::plan::{Part, Purpose, Step};

/// What one decision recorded: appended as a unit, durable before any of its effects is performed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// Position in the ledger, from 0 without gaps.
    pub index: u64,
    /// The epoch of the observer that recorded it.
    pub epoch: u64,
    /// When it was decided.
    pub at: Now,
    /// What happened.
    pub facts: Vec<Fact>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, strum::VariantNames, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case", tag = "fact")]
pub enum Fact {
    /// The first frame of every ledger.
    LedgerCreated {
        /// Its identity, which claims in the world name.
        ledger: LedgerId,
    },
    /// A daemon took the ledger over.
    EpochStarted {
        /// Which.
        observer: ObserverId,
        /// Hash of the policy it works by.
        policy: String,
        /// Its mode.
        mode: Mode,
        /// The number that fences its predecessors; none where it is one more than the last one's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<u64>,
    },
    /// Nothing that the leader before had sent can be under way any more: its successor may act.
    TakeoverCompleted {
        /// Who led before.
        former: ObserverId,
    },
    /// A person declared the placement to be this, and the ledger to be the one in charge.
    PlacementAdopted {
        /// Where each component is served.
        placement: BTreeMap<ComponentId, RegionId>,
        /// Who.
        by: String,
    },
    /// The instance answered for the first time under these settings.
    SeenAlive {
        /// Which.
        instance: InstanceId,
        /// Hash of the settings.
        fingerprint: String,
    },
    /// An instance that serves failed three times in a row.
    SuspicionRaised {
        /// Which.
        instance: InstanceId,
        /// When the first failing probe began.
        since: Timestamp,
        /// What was seen.
        why: String,
        /// Database: where its write-ahead log stood over the last minutes while it was alive, oldest first.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        positions: Vec<Sample>,
    },
    /// The suspected instance is alive again.
    SuspicionCleared {
        /// Which.
        instance: InstanceId,
    },
    /// Something would have been done, and these guards hold it back. Recorded when the set of guards changes.
    Withheld {
        /// Region that is failing.
        source: RegionId,
        /// Which part would have been planned.
        part: Part,
        /// Why not.
        guards: Vec<Guard>,
    },
    /// A loss was declared.
    IncidentDeclared {
        /// Its name.
        incident: IncidentId,
        /// Its level.
        level: Level,
        /// The region that is left.
        source: RegionId,
        /// The region that takes over.
        target: RegionId,
        /// When the first failing probe began: the RTO clock starts here.
        first_failing: Timestamp,
        /// From the first failing probe to this decision.
        #[serde(with = "friendly")]
        detected_after: Duration,
        /// What was seen, one line per instance.
        evidence: Vec<String>,
        /// The person who ordered it, if one did.
        ordered_by: Option<String>,
        /// They ordered it although the target is not known to be ready.
        #[serde(default)]
        forced: bool,
        /// Why its work is moved.
        #[serde(default, skip_serializing_if = "is_default")]
        purpose: Purpose,
    },
    /// What was moved by plan was lost meanwhile: the plan goes on, as a failover.
    PlannedMoveOvertaken {
        /// Which.
        incident: IncidentId,
        /// What was seen, one line per instance.
        evidence: Vec<String>,
    },
    /// The incident grew worse.
    IncidentEscalated {
        /// Which.
        incident: IncidentId,
        /// To which level.
        level: Level,
        /// What was seen.
        evidence: Vec<String>,
    },
    /// The plan, whole.
    PlanMade {
        /// For which incident.
        incident: IncidentId,
        /// Its name.
        plan: PlanId,
        /// The part that these steps belong to.
        part: Part,
        /// The steps.
        steps: Vec<Step>,
    },
    /// Another part joined the plan. What is there stays.
    PlanGrown {
        /// Which plan.
        plan: PlanId,
        /// The part.
        part: Part,
        /// The new steps.
        steps: Vec<Step>,
        /// Steps of other parts that this part needs as well, and what they wait for in addition if they have not
        /// started.
        shares: BTreeMap<StepId, BTreeSet<StepId>>,
        /// Who ordered the part, if a person did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ordered_by: Option<String>,
        /// They ordered it although the target is not known to be ready.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        forced: bool,
    },
    /// A person is asked to approve.
    ApprovalRequested {
        /// Which plan.
        plan: PlanId,
        /// The hash of the plan that is shown.
        hash: String,
        /// Why it is asked.
        guards: Vec<Guard>,
        /// The expected loss that is shown, where there is one.
        #[serde(with = "friendly::option")]
        loss: Option<Duration>,
    },
    /// A person approved.
    Approved {
        /// Which plan.
        plan: PlanId,
        /// The plan as it stood.
        hash: String,
        /// Who.
        by: String,
        /// When the approval ends.
        until: Timestamp,
        /// Promote although the old primary is not fenced.
        accept_unfenced: bool,
        /// Promote although up to this much is lost.
        #[serde(with = "friendly::option")]
        accept_loss: Option<Duration>,
    },
    /// Everything was judged once more, and the step may start.
    CommitPointPassed {
        /// Which plan.
        plan: PlanId,
        /// Before which step.
        step: StepId,
        /// Expected loss, where a database is promoted.
        #[serde(with = "friendly::option")]
        loss: Option<Duration>,
        /// A promotion waits for everything that the old primary wrote, and does not happen without it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        lossless: bool,
        /// What was allowed although a guard spoke against it.
        exceptions: Vec<String>,
    },
    /// An attempt at a step began.
    StepStarted {
        /// Which plan.
        plan: PlanId,
        /// Which step.
        step: StepId,
        /// From 1.
        attempt: u32,
        /// What undoing it needs.
        #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
        previous: serde_json::Value,
    },
    /// The step's goal holds.
    StepDone {
        /// Which plan.
        plan: PlanId,
        /// Which step.
        step: StepId,
        /// What was seen.
        note: String,
        /// Something had to be done for it.
        acted: bool,
    },
    /// The step's goal was not reached within its deadline, or was refused.
    StepFailed {
        /// Which plan.
        plan: PlanId,
        /// Which step.
        step: StepId,
        /// What was tried, and what came of it.
        why: String,
    },
    /// A step that needs the lost region could not be done, and is owed where it matters.
    StepOwed {
        /// Which plan.
        plan: PlanId,
        /// Which step.
        step: StepId,
        /// Why.
        why: String,
    },
    /// A person decided to go on without it.
    StepSkipped {
        /// Which plan.
        plan: PlanId,
        /// Which step.
        step: StepId,
        /// Who.
        by: String,
    },
    /// A running step was stopped because its part unwinds.
    StepCancelled {
        /// Which plan.
        plan: PlanId,
        /// Which step.
        step: StepId,
    },
    /// What a step needs does not answer this daemon: another one is to try, once.
    StepHandedOver {
        /// Which plan.
        plan: PlanId,
        /// Which step.
        step: StepId,
        /// Who hands it over.
        observer: ObserverId,
        /// What did not answer.
        why: String,
    },
    /// A step that had started and sent nothing waits again, because nothing may be sent for now.
    StepPutBack {
        /// Which plan.
        plan: PlanId,
        /// Which step.
        step: StepId,
        /// What is in the way.
        why: String,
        /// The world shows that nothing came of any attempt before it either.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        untouched: bool,
    },
    /// The region that is left has the role for these no more: whoever asks there is told so, and where it cannot be told
    /// it stops by itself. It gets them back where the plan is given up.
    RegionRevoked {
        /// For which plan.
        plan: PlanId,
        /// Which region.
        region: RegionId,
        /// Which roles.
        components: BTreeSet<ComponentId>,
    },
    /// It has the role for these again, because something else than the wait for their end holds the plan: it serves as well as
    /// it did meanwhile.
    RolesReturned {
        /// For which plan they had been taken away.
        plan: PlanId,
        /// Which region.
        region: RegionId,
        /// Which roles.
        components: BTreeSet<ComponentId>,
    },
    /// An order that another daemon had passed on was carried out.
    OrderTaken {
        /// Its name.
        request: String,
        /// What whoever gave it was told.
        answer: String,
    },
    /// The guardians that an observer has beside it changed: the databases that refuse writes where their role is not
    /// confirmed any more.
    GuardiansChanged {
        /// Which observer.
        observer: ObserverId,
        /// All of its databases.
        databases: BTreeSet<InstanceId>,
    },
    /// A component is served elsewhere.
    PlacementChanged {
        /// Which.
        component: ComponentId,
        /// Where.
        region: RegionId,
    },
    /// The source recovered (or a person aborted) before the first commit point: what was done is undone.
    UnwindingStarted {
        /// Which plan.
        plan: PlanId,
        /// Which part.
        part: Part,
        /// Why.
        why: String,
        /// A person ordered it.
        #[serde(default)]
        aborted: bool,
    },
    /// An attempt to undo a step began.
    UndoStarted {
        /// Which plan.
        plan: PlanId,
        /// Which step.
        step: StepId,
        /// From 1.
        attempt: u32,
    },
    /// The step is undone.
    StepUndone {
        /// Which plan.
        plan: PlanId,
        /// Which step.
        step: StepId,
        /// What was seen.
        note: String,
    },
    /// The step could not be undone.
    UndoFailed {
        /// Which plan.
        plan: PlanId,
        /// Which step.
        step: StepId,
        /// Why.
        why: String,
    },
    /// A share of the clients is not well served where it was sent: it goes back.
    ShareTakenBack {
        /// Which plan.
        plan: PlanId,
        /// The step that sent it there.
        step: StepId,
        /// What was seen.
        why: String,
    },
    /// A person does not want to wait for the end of a stage, or wants a share that was taken back to be sent again.
    StageContinued {
        /// Which plan.
        plan: PlanId,
        /// The step of the stage.
        step: StepId,
        /// Who.
        by: String,
    },
    /// Everything the part did is undone.
    PartUnwound {
        /// Which plan.
        plan: PlanId,
        /// Which part.
        part: Part,
    },
    /// Nothing can go on without a person.
    PlanStuck {
        /// Which plan.
        plan: PlanId,
        /// The steps that failed.
        steps: Vec<StepId>,
    },
    /// The incident is over.
    IncidentClosed {
        /// Which.
        incident: IncidentId,
        /// How it ended.
        outcome: Outcome,
    },
    /// An attempt to fence an old primary that came back began.
    OwedFenceStarted {
        /// The old primary.
        database: InstanceId,
        /// From 1.
        attempt: u32,
    },
    /// The old primary is fenced.
    OwedFenceSettled {
        /// The old primary.
        database: InstanceId,
        /// What was seen.
        note: String,
    },
    /// What took over does not do what it should: a check of the end state fails again and again.
    CheckFailed {
        /// Its name in the configuration.
        check: String,
        /// The region that has to satisfy it.
        region: RegionId,
        /// What is wrong.
        why: String,
    },
    /// It does again.
    CheckHolds {
        /// Its name in the configuration.
        check: String,
        /// The region that satisfies it.
        region: RegionId,
        /// What was seen.
        seen: String,
    },
    /// How far a promoted database had come when it left its old primary behind.
    RecoveryPointReached {
        /// By which plan it was promoted.
        plan: PlanId,
        /// The promoted database.
        database: InstanceId,
        /// Its old primary.
        from: InstanceId,
        /// How far.
        point: RecoveryPoint,
        /// Where the old primary's log was seen last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_known: Option<Sample>,
        /// It had everything: nothing was lost.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        lossless: bool,
    },
    /// An old primary that is back was looked into: this much of it never came over.
    DivergenceFound {
        /// The old primary.
        database: InstanceId,
        /// What was promoted in its place.
        promoted: InstanceId,
        /// What it holds.
        found: Divergence,
    },
    /// A person stopped automatic action.
    Paused {
        /// Until when.
        until: Timestamp,
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// A pause ended.
    Resumed {
        /// Who; `failoverd` where it ended by itself.
        by: String,
    },
    /// A person stopped an incident's plan: no further step starts.
    Held {
        /// Which.
        incident: IncidentId,
        /// Who.
        by: String,
    },
    /// The plan goes on.
    Released {
        /// Which.
        incident: IncidentId,
        /// Who.
        by: String,
    },
    /// A person has seen the incident.
    Acknowledged {
        /// Which.
        incident: IncidentId,
        /// Who.
        by: String,
        /// It should not have happened; counted.
        false_positive: bool,
        /// In their words.
        note: String,
    },
    /// A person ordered a step to be tried again.
    RetryOrdered {
        /// Which plan.
        plan: PlanId,
        /// Which step.
        step: StepId,
        /// Who.
        by: String,
    },
    /// A person went on without the ledger that everybody shares; this one is beside it.
    BreakGlassBegan {
        /// Who: a user of the operating system, and the machine.
        by: String,
        /// Why.
        reason: String,
        /// The ledger that was not available, where its name was known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        departs_from: Option<LedgerId>,
        /// What was shown for each database that is promoted, and accepted.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        accepted: BTreeMap<InstanceId, Accepted>,
        /// Who was asked and did not answer, and what else could not be proven.
        unproven: Vec<String>,
    },
    /// What break-glass did while this ledger was away came into it. This one is in charge again.
    BreakGlassMerged {
        /// Who merged it.
        by: String,
        /// What was done.
        record: Box<BreakGlassRecord>,
    },
    /// An invariant broke: observe and alert, perform nothing.
    Halted {
        /// Why.
        why: String,
    },
}

/// How an incident ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::VariantNames, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every step is done.
    Recovered,
    /// The source recovered first; everything is as it was.
    Unwound,
    /// A person ended it.
    Aborted,
    /// Break-glass left the region while this ledger was away: there is nothing left to leave.
    Superseded,
}

/// Where a write-ahead log stood at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When.
    pub at: Timestamp,
    /// How far, in bytes.
    pub position: u64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
