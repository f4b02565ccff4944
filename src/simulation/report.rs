//! What came of a story, for people, for programs and for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::coverage::Coverage;
use super::world::{World, weights_text};
use crate::decide::{Alarm, Fact, Outcome, Severity, Status};
use crate::domain::time::friendly;
use crate::domain::{ComponentId, IncidentId, InstanceId, RegionId};
use crate::plan;

/// Everything that came of a story.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What happened, in order.
    pub entries: Vec<Entry>,
    /// How it stands at the end.
    pub end: End,
    /// Invariants that broke. Empty, or failoverd has a bug.
    pub broken: Vec<String>,
    /// What there was to crash at.
    pub counts: Counts,
    /// What came up.
    #[serde(skip)]
    pub coverage: Coverage,
}

/// How often things happened: the places where a crash can be put.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Frames recorded.
    pub frames: u64,
    /// Mutating calls.
    pub calls: u64,
    /// Ends of steps that were reported.
    pub outcomes: u64,
}

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// After the beginning of the story; negative times are the warm-up and are shown as zero.
    #[serde(with = "friendly")]
    pub at: Duration,
    /// Before the beginning of the story.
    pub is_warm_up: bool,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum What {
    /// The story said so.
    Happens {
        /// In its words.
        text: String,
    },
    /// A fact was recorded.
    Fact {
        /// It.
        recorded: Fact,
    },
    /// The world is changed.
    Does {
        /// In words.
        text: String,
    },
    /// People are told.
    Alarm {
        /// What.
        alarm: Alarm,
    },
    /// It is over.
    Over {
        /// The alarm's key.
        key: String,
    },
    /// An operator gets an answer.
    Answer {
        /// What was done, or why not.
        answer: Result<String, String>,
    },
    /// What would have been done, had the mode allowed it: the plan, in full.
    Would {
        /// The steps.
        plan: String,
    },
    /// Something about the daemon itself.
    Daemon {
        /// In words.
        text: String,
    },
    /// An invariant broke.
    Broken {
        /// Which.
        text: String,
    },
}

/// How it stands at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct End {
    /// One sentence of the status.
    pub headline: String,
    /// Where each component is served, by the ledger.
    pub placement: BTreeMap<ComponentId, RegionId>,
    /// The databases that accept writes, in the world.
    pub writable: BTreeSet<InstanceId>,
    /// The databases that are fenced, in the world.
    pub fenced: BTreeSet<InstanceId>,
    /// Who gets the clients, in the world.
    pub weights: BTreeMap<ComponentId, BTreeMap<RegionId, u8>>,
    /// Replicas, in the world.
    pub replicas: BTreeMap<String, u32>,
    /// Published values, restarts, declarations and manifests, in the world.
    pub texts: BTreeMap<String, String>,
    /// Incidents, and how they ended if they did.
    pub incidents: BTreeMap<IncidentId, Option<Outcome>>,
    /// Guards that hold something back.
    pub guards: Vec<String>,
    /// Alarms that are on.
    pub alarms: BTreeSet<String>,
}

/// How much is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What a story expects.
    Story,
    /// With the plans in full.
    Plans,
}

impl Report {
    /// The report as lines.
    pub fn render(&self, detail: Detail) -> String {
        let mut text = String::new();
        for entry in &self.entries {
            if entry.is_hidden() {
                continue;
            }
            if let What::Would { plan } = &entry.what {
                if detail == Detail::Plans {
                    indented(&mut text, plan);
                }
                continue;
            }
            let (kind, words) = entry.what.words();
            line(&mut text, &offset(entry.at), kind, &words);
            if detail == Detail::Plans
                && let What::Fact { recorded: Fact::PlanMade { steps, .. } | Fact::PlanGrown { steps, .. } } =
                    &entry.what
            {
                indented(&mut text, &plan::render(steps));
            }
        }
        for (kind, words) in self.end.lines() {
            line(&mut text, "end", kind, &words);
        }
        for broken in &self.broken {
            line(&mut text, "end", "BROKEN", broken);
        }
        text
    }
}

impl Entry {
    /// Routine that would only hide what matters.
    fn is_hidden(&self) -> bool {
        match &self.what {
            // The effect is shown.
            What::Fact {
                recorded: Fact::StepStarted { .. } | Fact::UndoStarted { .. } | Fact::OwedFenceStarted { .. },
            } => true,
            What::Fact { recorded: Fact::SeenAlive { .. } | Fact::EpochStarted { .. } } => self.is_warm_up,
            What::Does { .. } | What::Daemon { .. } => self.is_warm_up,
            What::Happens { .. }
            | What::Fact { .. }
            | What::Alarm { .. }
            | What::Over { .. }
            | What::Answer { .. }
            | What::Would { .. }
            | What::Broken { .. } => false,
        }
    }
}

impl What {
    fn words(&self) -> (&'static str, String) {
        match self {
            Self::Happens { text } => ("happens", text.clone()),
            Self::Fact { recorded } => ("fact", recorded.to_string()),
            Self::Does { text } => ("does", text.clone()),
            Self::Alarm { alarm } => {
                let kind = match alarm.severity {
                    Severity::Page => "page",
                    Severity::Warning => "warning",
                };
                (kind, format!("{}: {}", alarm.key, alarm.text))
            }
            Self::Over { key } => ("over", key.clone()),
            Self::Answer { answer: Ok(text) } => ("answer", text.clone()),
            Self::Answer { answer: Err(why) } => ("answer", format!("NOT IN EFFECT: {why}")),
            Self::Would { plan } => ("would", plan.clone()),
            Self::Daemon { text } => ("daemon", text.clone()),
            Self::Broken { text } => ("BROKEN", text.clone()),
        }
    }
}

impl End {
    pub(super) fn of(world: &World, now: Duration, status: Option<&Status>, alarms: BTreeSet<String>) -> Self {
        let guards: BTreeSet<String> = status
            .into_iter()
            .flat_map(|status| {
                let pending = status.pending.iter().flat_map(|pending| &pending.guards);
                let open = status.incidents.iter().filter(|incident| incident.closed.is_none());
                pending.chain(open.flat_map(|incident| incident.steps.iter().flat_map(|step| &step.guards)))
            })
            .map(ToString::to_string)
            .collect();
        Self {
            headline: status.map_or_else(|| "failoverd is not running".to_owned(), |status| status.headline.clone()),
            placement: status.map(|status| status.placement.clone()).unwrap_or_default(),
            writable: world.writable(now),
            fenced: world.fenced(),
            weights: world.weights().clone(),
            replicas: world.replicas().iter().map(|((at, name), count)| (format!("{name}@{at}"), *count)).collect(),
            texts: world.texts().iter().map(|((at, name), text)| (format!("{name} in {at}"), text.clone())).collect(),
            incidents: status
                .map(|status| status.incidents.iter().map(|i| (i.incident.clone(), i.outcome)).collect())
                .unwrap_or_default(),
            guards: guards.into_iter().collect(),
            alarms,
        }
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![("status", self.headline.clone())];
        let mut by_region: BTreeMap<&RegionId, Vec<&str>> = BTreeMap::new();
        for (component, region) in &self.placement {
            by_region.entry(region).or_default().push(component.as_str());
        }
        for (region, components) in by_region {
            lines.push(("ledger", format!("{region} serves {}", components.join(", "))));
        }
        lines.push(("world", format!("writable: {}", join(&self.writable))));
        if !self.fenced.is_empty() {
            lines.push(("world", format!("fenced: {}", join(&self.fenced))));
        }
        for (component, weights) in &self.weights {
            lines.push(("world", format!("{component}: {}", weights_text(weights))));
        }
        lines.extend(self.guards.iter().map(|guard| ("guard", guard.clone())));
        if !self.alarms.is_empty() {
            lines.push(("alarms", self.alarms.iter().cloned().collect::<Vec<_>>().join(", ")));
        }
        lines
    }
}

fn join(ids: &BTreeSet<InstanceId>) -> String {
    if ids.is_empty() {
        return "none".to_owned();
    }
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn indented(text: &mut String, lines: &str) {
    for line in lines.lines() {
        let _ = writeln!(text, "{:22}{line}", "");
    }
}

fn line(text: &mut String, at: &str, kind: &str, words: &str) {
    let _ = writeln!(text, "{}", format!("{at:<13}{kind:<9}{words}").trim_end());
}

/// `+30.0s`, `+2m05.0s`, `+1h02m05.0s`.
fn offset(at: Duration) -> String {
    let tenths = at.as_millis() / 100;
    let (seconds, tenth) = (tenths / 10, tenths % 10);
    match seconds {
        0..60 => format!("+{seconds}.{tenth}s"),
        60..3600 => format!("+{}m{:02}.{tenth}s", seconds / 60, seconds % 60),
        3600.. => format!("+{}h{:02}m{:02}.{tenth}s", seconds / 3600, seconds % 3600 / 60, seconds % 60),
    }
}
