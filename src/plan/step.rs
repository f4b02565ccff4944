//! A step: an action with its place in the graph, its deadline and its commit point.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Action;
use crate::domain::time::friendly;
use crate::domain::{ComponentId, InstanceId, RegionId, StepId};

/// The part of a plan that a step belongs to: a component's row, the whole region, or what eases a lesser trouble
/// without moving anything for good.
///
/// A part is what unwinds when its source recovers before the part's first commit point.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// One row of the matrix.
    Component(ComponentId),
    /// A regional outage: everything that the rows have not asked for yet.
    Region,
    /// A service degradation: a share of the clients goes to the standby until the region is well again. Every step of it
    /// can be undone, and nothing changes its place.
    Reroute,
    /// One workload of a cluster that answers is brought back where it is.
    Healing {
        /// The cluster.
        cluster: ComponentId,
        /// The workload's name.
        workload: String,
    },
    /// One zone of the region is down: everything is to run in the others.
    Zone {
        /// The cluster whose nodes are gone.
        cluster: ComponentId,
        /// The zone's name.
        zone: String,
    },
    /// An old primary becomes a standby of what serves in its place.
    Rejoin {
        /// The database, in the region where it does not serve any more.
        database: ComponentId,
    },
}

impl Part {
    /// It takes something out of the region for good; the other parts end with everything where it was.
    pub fn moves(&self) -> bool {
        match self {
            Self::Component(_) | Self::Region => true,
            Self::Reroute | Self::Healing { .. } | Self::Zone { .. } | Self::Rejoin { .. } => false,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Component(component) => write!(f, "{component}"),
            Self::Region => f.write_str("the region"),
            Self::Reroute => f.write_str("a share of the traffic"),
            Self::Healing { cluster, workload } => write!(f, "{workload} of {cluster}"),
            Self::Zone { cluster, zone } => write!(f, "zone {zone} of {cluster}"),
            Self::Rejoin { database } => write!(f, "{database} as a standby"),
        }
    }
}

/// Why work is moved.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, strum::VariantNames, strum::IntoStaticStr,
)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Something is lost, or a person says so.
    #[default]
    Failover,
    /// A planned move: nothing is lost, and nothing may be.
    Switchover,
    /// An old primary becomes a standby; nothing is moved.
    Rejoin,
    /// A planned move back to where the work belongs, a share of the clients at a time.
    Failback,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.into())
    }
}

impl Purpose {
    /// It was planned: it goes on only where every step does, and is taken back where one does not.
    pub fn is_planned(&self) -> bool {
        match self {
            Self::Failover => false,
            Self::Switchover | Self::Rejoin | Self::Failback => true,
        }
    }
}

/// One goal within a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Unique within the plan, and stable: it names the goal, so that growing a plan never asks for a goal twice.
    pub id: StepId,
    /// What it brings about.
    pub action: Action,
    /// Why it is there.
    pub part: Part,
    /// Steps that have to be done (or skipped) first.
    pub after: BTreeSet<StepId>,
    /// Judged once more before it starts: guards, verdicts, drift and the world.
    pub commit_point: bool,
    /// There is an undo, or nothing that one would be for: until a commit point of its part is passed it is undone if the
    /// source recovers.
    pub undoable: bool,
    /// It needs something in the region that is being left; nothing depends on it and its failure is owed, not stuck.
    pub best_effort: bool,
    /// Once it is done, these components are served there.
    pub places: BTreeMap<ComponentId, RegionId>,
    /// It starts only when this instance has been failing for this long (traffic and `confirm_for`).
    pub confirm: Option<Confirm>,
    /// From its start to its verification.
    #[serde(with = "friendly")]
    pub deadline: Duration,
    /// A share of the clients that goes back: what waits for it waits until they have been served well there for so long
    /// (document: Gradual Failback, "Monitor for 30 minutes").
    #[serde(default, skip_serializing_if = "Option::is_none", with = "friendly::option")]
    pub stage: Option<Duration>,
}

impl Step {
    /// It sends some of the clients elsewhere, and places nothing there: it can always be taken back.
    pub fn is_share(&self) -> bool {
        matches!(self.action, Action::Traffic { .. }) && (self.part == Part::Reroute || self.stage.is_some())
    }

    /// It restarts what serves nobody: there is nothing to take back.
    pub fn is_idle_restart(&self) -> bool {
        matches!(self.action, Action::RolledOut { .. }) && self.undoable
    }
}

/// A window that has to last before a step may start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirm {
    /// Which instance.
    pub instance: InstanceId,
    /// Failing for how long.
    #[serde(rename = "for", with = "friendly")]
    pub lasting: Duration,
}
