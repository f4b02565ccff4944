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
    /// A call was not sent because the daemon was halted.
    Halted,
    /// The world refused a call for good.
    CallRefused,
    /// The world refused a call for now, or did not answer.
    CallFailed,
    /// An order of a person was refused.
    OrderRefused,
    /// An order came when nobody led.
    NobodyLeads,
}

/// How often each thing came up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage(BTreeMap<(&'static str, &'static str), u64>);

impl Coverage {
    /// Nothing has, yet.
    pub(super) fn new() -> Self {
        let all: [(&'static str, &[&'static str]); 12] = [
            ("happens", Happening::VARIANTS),
            ("instance", Condition::VARIANTS),
            ("daemon", Fate::VARIANTS),
            ("work", Behaviour::VARIANTS),
            ("order", Order::VARIANTS),
            ("chance", Chance::VARIANTS),
            ("refusal", Refusal::VARIANTS),
            ("guard", GuardKind::VARIANTS),
            ("action", Action::VARIANTS),
            ("step", StepState::VARIANTS),
            ("outcome", Outcome::VARIANTS),
            ("fact", Fact::VARIANTS),
        ];
        let named = all.into_iter().flat_map(|(kind, names)| names.iter().map(move |name| ((kind, *name), 0)));
        Self(named.collect())
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

    /// What has never come up, as `kind name`.
    pub fn never(&self) -> Vec<String> {
        self.0.iter().filter(|(_, count)| **count == 0).map(|((kind, name), _)| format!("{kind} {name}")).collect()
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
