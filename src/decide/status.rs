//! What people and programs are shown: one structure for the API, the command line and the page.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Alarm, Guard, Outcome};
use crate::domain::time::friendly;
use crate::domain::{ComponentId, IncidentId, InstanceId, Level, Mode, ObserverId, PlanId, RegionId, StepId};
use crate::plan::{Part, Purpose};

/// Everything at a glance (`GET /v1/status`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Name of the deployment.
    pub deployment: String,
    /// This daemon.
    pub observer: ObserverId,
    /// When this was true.
    pub at: Timestamp,
    /// What it may do.
    pub mode: Mode,
    /// One sentence: what it does, what it waits for.
    pub headline: String,
    /// The epoch it acts in.
    pub epoch: u64,
    /// Where each component is served; empty until adopted.
    pub placement: BTreeMap<ComponentId, RegionId>,
    /// Every instance.
    pub instances: Vec<InstanceStatus>,
    /// Everybody who watches, where there are several.
    #[serde(default)]
    pub observers: Vec<ObserverStatus>,
    /// Reference points.
    pub references: Vec<ReferenceStatus>,
    /// Open incidents, then the last closed ones.
    pub incidents: Vec<IncidentStatus>,
    /// Triggers that are running or held: what would happen, and why it does not.
    pub pending: Vec<PendingStatus>,
    /// Old primaries that still have to be fenced.
    pub owed_fences: Vec<InstanceId>,
    /// Why the last attempt to fence one of them failed, where one did.
    #[serde(default)]
    pub owed_fence_failures: BTreeMap<InstanceId, String>,
    /// How the checks of the end state stand, of what is served elsewhere than in the primary region.
    #[serde(default)]
    pub checks: Vec<CheckStatus>,
    /// What failovers lost, as far as it is known.
    #[serde(default)]
    pub losses: Vec<LossStatus>,
    /// A pause, if there is one.
    pub paused_until: Option<Timestamp>,
    /// Why it is halted, if it is.
    pub halted: Option<String>,
    /// Alarms that are on.
    pub alarms: Vec<Alarm>,
    /// False positives that were acknowledged, ever.
    pub false_positives: u64,
}

/// How an instance looks to this observer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictKind {
    /// Nothing can be said.
    Unknown,
    /// It answers.
    Alive,
    /// It answers badly.
    Degraded,
    /// It fails, not yet long enough to be sure.
    Suspect,
    /// It fails.
    Failing,
    /// It answers again, not yet long enough.
    Recovering,
}

/// One instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// Which.
    pub instance: InstanceId,
    /// It serves.
    pub active: bool,
    /// The verdict.
    pub verdict: VerdictKind,
    /// Failing for how long.
    #[serde(with = "friendly::option")]
    pub failing_for: Option<Duration>,
    /// The row's threshold, if it serves.
    #[serde(with = "friendly::option")]
    pub trigger_after: Option<Duration>,
    /// What the last probe found, in words.
    pub why: String,
    /// Latency of the last answer.
    #[serde(with = "friendly::option")]
    pub latency: Option<Duration>,
    /// A standby: it could take over now.
    pub ready: bool,
    /// Why it could not.
    pub not_ready: Vec<String>,
    /// Worth a look tomorrow.
    pub warnings: Vec<String>,
    /// Database: expected loss if this standby were promoted now.
    #[serde(with = "friendly::option")]
    pub expected_loss: Option<Duration>,
    /// How every observer sees it, where there are several: those with a voice.
    #[serde(default)]
    pub seen_by: BTreeMap<ObserverId, Sighting>,
}

/// One of several observers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ObserverStatus {
    /// Its name.
    pub observer: ObserverId,
    /// Where it stands.
    pub region: RegionId,
    /// It leads: what is done, it does.
    pub leads: bool,
    /// Why its word does not count at present.
    pub without_voice: Option<String>,
    /// The regions of which it says nothing, because nobody vouches for its view of them.
    pub doubts: BTreeMap<RegionId, String>,
}

/// How one observer sees an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// In a word.
    pub verdict: VerdictKind,
    /// Failing for how long.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "friendly::option")]
    pub failing_for: Option<Duration>,
}

/// One reference point.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReferenceStatus {
    /// Its name.
    pub reference: String,
    /// It answered the last time it was asked.
    pub answers: bool,
}

/// Something that would happen.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PendingStatus {
    /// Region that is failing.
    pub source: RegionId,
    /// What would be planned.
    pub part: Part,
    /// In words.
    pub what: String,
    /// Failing for how long.
    #[serde(with = "friendly")]
    pub failing_for: Duration,
    /// The threshold.
    #[serde(with = "friendly")]
    pub after: Duration,
    /// What holds it back, now or when the threshold is reached.
    pub guards: Vec<Guard>,
}

/// One check of the end state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckStatus {
    /// Its name.
    pub check: String,
    /// The region that has to satisfy it.
    pub region: RegionId,
    /// What it expects.
    pub expects: String,
    /// It did when it was run last; none where this daemon has not run it.
    pub holds: Option<bool>,
    /// What was seen then, or what was wrong.
    pub seen: Option<String>,
    /// How long ago that was.
    #[serde(with = "friendly::option")]
    pub ago: Option<Duration>,
    /// Since when it is known not to hold.
    pub broken_since: Option<Timestamp>,
}

/// What a promotion lost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LossStatus {
    /// The old primary, which alone may hold it.
    pub database: InstanceId,
    /// What was promoted in its place.
    pub promoted: InstanceId,
    /// When that was measured.
    pub at: Timestamp,
    /// Nothing: it had everything.
    pub lossless: bool,
    /// When the last transaction that came over was committed.
    pub last_transaction: Option<Timestamp>,
    /// Where the old primary's log goes on alone, in bytes.
    pub from_position: Option<u64>,
    /// Where it ends; none until it is back.
    pub to_position: Option<u64>,
    /// Bytes of its log that did not come over, as far as it was seen; exact once it is back. Not all of them need be writes.
    pub bytes: Option<u64>,
    /// By table, how far its rows came over.
    pub watermarks: BTreeMap<String, Option<String>>,
    /// By table, how many rows did not; none until it is back.
    pub rows: Option<BTreeMap<String, u64>>,
}

/// One incident.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IncidentStatus {
    /// Its name.
    pub incident: IncidentId,
    /// Its level.
    pub level: Level,
    /// Why its work is moved.
    #[serde(default)]
    pub purpose: Purpose,
    /// Region that is left.
    pub source: RegionId,
    /// Region that takes over.
    pub target: RegionId,
    /// The RTO clock started here.
    pub first_failing: Timestamp,
    /// When it was declared.
    pub declared: Timestamp,
    /// When it was closed, if it was.
    pub closed: Option<Timestamp>,
    /// How it ended, if it did.
    pub outcome: Option<Outcome>,
    /// One sentence.
    pub summary: String,
    /// What was seen.
    pub evidence: Vec<String>,
    /// RTO of the level.
    #[serde(with = "friendly")]
    pub rto: Duration,
    /// RPO of the level.
    #[serde(with = "friendly")]
    pub rpo: Duration,
    /// Expected loss at the promotion, once one was decided.
    #[serde(with = "friendly::option")]
    pub loss: Option<Duration>,
    /// What was allowed although a guard spoke against it.
    pub exceptions: Vec<String>,
    /// From the first failing probe until now, or until it was closed.
    #[serde(with = "friendly")]
    pub elapsed: Duration,
    /// What is left of the 15 minutes.
    #[serde(with = "friendly")]
    pub budget_left: Duration,
    /// Where the time went.
    pub times: Times,
    /// The plan.
    pub plan: PlanId,
    /// The hash that an approval binds to.
    pub plan_hash: String,
    /// Its steps, in order.
    pub steps: Vec<StepStatus>,
    /// Who acknowledged it.
    pub acknowledged_by: Option<String>,
    /// A person holds it.
    pub held: bool,
}

/// Where the time of a recovery went. What has not happened yet is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// First failing probe -> incident declared.
    #[serde(with = "friendly::option")]
    pub detect: Option<Duration>,
    /// Incident declared -> first commit point passed.
    #[serde(with = "friendly::option")]
    pub decide: Option<Duration>,
    /// First commit point passed -> last step that changes something done.
    #[serde(with = "friendly::option")]
    pub execute: Option<Duration>,
    /// -> incident closed.
    #[serde(with = "friendly::option")]
    pub verify: Option<Duration>,
}

/// Where a step stands.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    strum::VariantNames,
    strum::IntoStaticStr,
)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Its turn has not come.
    Waiting,
    /// Something holds it back.
    Held,
    /// Under way.
    Running,
    /// The goal holds.
    Done,
    /// Not reached: a person is needed.
    Failed,
    /// Needs the lost region.
    Owed,
    /// A person left it out.
    Skipped,
    /// Being undone.
    Undoing,
    /// Undone.
    Undone,
    /// Never started, and never will.
    Cancelled,
}

/// One step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepStatus {
    /// Its name.
    pub step: StepId,
    /// What it brings about.
    pub what: String,
    /// Where it stands.
    pub state: StepState,
    /// What it waits for, what it saw, or why it failed.
    pub note: String,
    /// Everything is judged once more before it.
    pub commit_point: bool,
    /// Attempts so far.
    pub attempts: u32,
    /// Running or ran for.
    #[serde(with = "friendly::option")]
    pub took: Option<Duration>,
    /// What it may take.
    #[serde(with = "friendly")]
    pub deadline: Duration,
    /// Guards that hold it back.
    pub guards: Vec<Guard>,
}
