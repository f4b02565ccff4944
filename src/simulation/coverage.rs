//! What simulations came across, from the enums themselves: what never happens is not tested.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use strum::VariantNames;

use super::story::{Behaviour, Condition, Fate, Happening, Order};
use crate::decide::{Fact, GuardKind, Outcome, StepState};
use crate::plan::Action;

/// What chance does to calls and frames, and how the ledger and the world refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::VariantNames, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(super) enum Chance {
    /// An answer comes a second time.
    AnswerTwice,
    /// A call arrives late.
    CallLate,
    /// The clock of a daemon is set while a call of its is under way.
    ClockSetMeanwhile,
    /// A call gets lost.
    CallLost,
    /// A call arrives, and its answer gets lost.
    AnswerLost,
    /// A frame gets lost on its way to the ledger.
    FrameLost,
    /// A frame is recorded, and the answer gets lost.
    FrameAnswerLost,
    /// A frame arrives late.
    FrameLate,
    /// A daemon is stopped between a decision and its record.
    StopsBeforeFrame,
    /// A daemon is stopped when it is about to send a call.
    StopsBeforeCall,
    /// A person pauses everything when a call is about to be sent.
    PausedAtTheGate,
    /// An invariant breaks in a daemon that is about to send a call.
    HaltsBeforeCall,
    /// A daemon dies before a frame is recorded.
    DiesBeforeFrame,
    /// A daemon dies after a frame is recorded and before it knows.
    DiesAfterFrame,
    /// A daemon dies before a call is sent.
    DiesBeforeCall,
    /// A daemon dies after a call was sent.
    DiesAfterCall,
    /// A daemon dies when it knows how a step ended, and before it has recorded that.
    DiesBeforeOutcome,
}

/// What becomes of a role without the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::VariantNames, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(super) enum RoleMatter {
    /// Every other daemon knew of the same roles while the ledger was silent.
    Promised,
    /// A guardian made its database refuse writes.
    Demoted,
    /// And took that back.
    Restored,
}

/// How somebody was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::VariantNames, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(super) enum Refusal {
    /// The ledger took no frame of a deposed leader.
    FrameFenced,
    /// Nobody knew whether a frame was recorded.
    FrameUnknown,
    /// A lease ran out, or was given away.
    LeaseLost,
    /// A permit ran out before the call was sent.
    PermitRanOut,
    /// A call was not sent again because the world was another one by then.
    Outdated,
    /// A call was not sent because the daemon was halted.
    Halted,
    /// A call was not sent because a person had paused or held it meanwhile.
    StoodStill,
    /// What a daemon had measured counted no more, because its clocks had jumped apart.
    ClocksJumped,
    /// The world refused a call for good.
    CallRefused,
    /// The world refused a call for now, or did not answer.
    CallFailed,
    /// An order of a person was refused.
    OrderRefused,
    /// An order came when nobody led.
    NobodyLeads,
}

/// What comes of a process of its own, a person's, is tried by stories and on real components.
const BESIDE: [(&str, &str); 4] =
    [("order", "merge"), ("fact", "break_glass_began"), ("fact", "break_glass_merged"), ("outcome", "superseded")];
/// What no fault of the world brings about. A daemon that cannot record what it has to halts without a fact of it (refusal
/// `halted` counts that); the fact is for an invariant that broke inside, which is the planner drawing a plan that cannot be.
/// It would be a violation, and is tried in the tests of the planner's rules.
/// And a halted daemon withholds nothing, because it records nothing: the guard is for whoever asks it for its status.
const CANNOT: [(&str, &str); 2] = [("fact", "halted"), ("guard", "halted")];

/// How often each thing came up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage(BTreeMap<(&'static str, &'static str), u64>);

impl Coverage {
    /// Nothing has, yet.
    pub(super) fn new() -> Self {
        let all: [(&'static str, &[&'static str]); 13] = [
            ("happens", Happening::VARIANTS),
            ("instance", Condition::VARIANTS),
            ("daemon", Fate::VARIANTS),
            ("work", Behaviour::VARIANTS),
            ("order", Order::VARIANTS),
            ("chance", Chance::VARIANTS),
            ("refusal", Refusal::VARIANTS),
            ("role", RoleMatter::VARIANTS),
            ("guard", GuardKind::VARIANTS),
            ("action", Action::VARIANTS),
            ("step", StepState::VARIANTS),
            ("outcome", Outcome::VARIANTS),
            ("fact", Fact::VARIANTS),
        ];
        let named = all.into_iter().flat_map(|(kind, names)| names.iter().map(move |name| (kind, *name)));
        Self(named.filter(|named| !BESIDE.contains(named)).map(|named| (named, 0)).collect())
    }

    pub(super) fn count(&mut self, kind: &'static str, name: impl Into<&'static str>) {
        *self.0.entry((kind, name.into())).or_default() += 1;
    }

    /// What a leader is held back by, and how its steps stand.
    pub(super) fn look(&mut self, guards: BTreeSet<GuardKind>, states: BTreeSet<StepState>) {
        guards.into_iter().for_each(|guard| self.count("guard", guard));
        states.into_iter().for_each(|state| self.count("step", state));
    }

    /// Takes in what another run came across.
    pub(super) fn add(&mut self, other: &Self) {
        for (key, count) in &other.0 {
            *self.0.entry(*key).or_default() += count;
        }
    }

    /// What has never come up and could have, as `kind name`.
    pub fn never(&self) -> Vec<String> {
        let never = self.0.iter().filter(|(key, count)| **count == 0 && !CANNOT.contains(key));
        never.map(|((kind, name), _)| format!("{kind} {name}")).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = "";
        for ((kind, name), count) in &self.0 {
            let shown = if *kind == last { "" } else { kind };
            last = kind;
            writeln!(f, "  {shown:<10} {name:<24} {count:>12}")?;
        }
        Ok(())
    }
}
