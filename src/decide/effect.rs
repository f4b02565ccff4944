//! What the controller asks of the outside world.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Fact, Measure};
use crate::domain::{InstanceId, LedgerId, PlanId, RegionId, StepId};
use crate::plan::Action;
use crate::ports::Term;

/// What one step decided: first record, then perform.
#[must_use]
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    /// To be made durable as one frame before anything is performed. May be empty.
    pub record: Vec<Fact>,
    /// To be performed once the facts are durable.
    pub perform: Vec<Effect>,
}

/// Something asked of the outside world.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Bring the step's goal about: look, act if needed, verify, within the deadline. Mutating: consumes a permit.
    Perform(Task),
    /// Bring the former state back. Mutating: consumes a permit.
    Undo {
        /// What.
        task: Task,
        /// What the step found before it acted.
        previous: serde_json::Value,
    },
    /// Fence an old primary that came back. Mutating: consumes a permit.
    FenceOwed {
        /// The old primary.
        database: InstanceId,
        /// Idempotency key.
        key: String,
        /// Which attempt.
        attempt: u32,
        /// How long it may take.
        deadline: Duration,
    },
    /// Put this ledger's claim into every reachable cluster. Mutating: consumes a permit; never overwrites another's
    /// claim unless a person adopted.
    Claim {
        /// Whose.
        ledger: LedgerId,
        /// This daemon's turn with it.
        term: Term,
        /// Replace a foreign claim: a person adopted.
        replace: bool,
    },
    /// See what is there, change nothing.
    Look {
        /// Which plan.
        plan: PlanId,
        /// Which step.
        step: StepId,
        /// The goal.
        action: Action,
    },
    /// Read the claims of all clusters.
    Survey,
    /// Run a check of the end state, once.
    Verify {
        /// Its name in the configuration.
        check: String,
        /// What it expects, for people.
        expects: String,
        /// The region that has to satisfy it.
        region: RegionId,
        /// How long it may take.
        deadline: Duration,
    },
    /// Ask a database what came over, or what it holds beyond that.
    Measure {
        /// What.
        measure: Measure,
        /// For a divergence: by table, how far its successor had come.
        watermarks: BTreeMap<String, Option<String>>,
        /// How long the answer may take.
        deadline: Duration,
    },
    /// Stop working on the step as soon as no call is under way, and report `Cancelled` (or how it ended).
    Cancel {
        /// Which plan.
        plan: PlanId,
        /// Which step.
        step: StepId,
    },
    /// Tell people. Needs no fact.
    Alarm(Alarm),
    /// What was told is over.
    AlarmCleared {
        /// The alarm's key.
        key: String,
    },
    /// Answer a command.
    Reply {
        /// Which command.
        id: u64,
        /// What was done, or why not.
        answer: Result<String, String>,
    },
}

/// One attempt at a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Which plan.
    pub plan: PlanId,
    /// Which step.
    pub step: StepId,
    /// From 1.
    pub attempt: u32,
    /// The goal.
    pub action: Action,
    /// From now on.
    pub deadline: Duration,
}

impl Task {
    /// `plan/step`: the same for every attempt and every observer.
    pub fn key(&self) -> String {
        format!("{}/{}", self.plan, self.step)
    }
}

/// How loud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Look tomorrow.
    Warning,
    /// Wake someone.
    Page,
}

/// Something a person has to know.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Alarm {
    /// Deduplicates: an alarm with the same key replaces the former one.
    pub key: String,
    /// How loud.
    pub severity: Severity,
    /// What is wrong and what to do, in a sentence or two.
    pub text: String,
    /// Which region it concerns, if one.
    pub region: Option<RegionId>,
}

impl Alarm {
    /// Whether people have to be told once more. A text in which only a number or a duration went on ("6 min left") is
    /// no news.
    pub fn is_news_after(&self, former: &Self) -> bool {
        self.severity != former.severity || (self.text != former.text && gist(&self.text) != gist(&former.text))
    }
}

fn gist(text: &str) -> Vec<&str> {
    let is_passing = |word: &str| {
        let word = word.trim_matches(|c: char| c.is_ascii_punctuation());
        word.starts_with(|c: char| c.is_ascii_digit()) || matches!(word, "" | "s" | "min" | "h")
    };
    text.split_whitespace().filter(|word| !is_passing(word)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_goes_by_is_no_news_and_another_reason_is() {
        let alarm = |severity, text: &str| Alarm { key: "a".to_owned(), severity, text: text.to_owned(), region: None };
        let page = |text| alarm(Severity::Page, text);
        let first = page("all of us-east-1 has been failing for 57 s. Lifted by: 2 min more");
        assert!(!page("all of us-east-1 has been failing for 1 min 02 s. Lifted by: 1 min more").is_news_after(&first));
        assert!(page("all of us-west-2 has been failing for 57 s. Lifted by: 2 min more").is_news_after(&first));
        assert!(alarm(Severity::Warning, &first.text).is_news_after(&first));
    }
}
