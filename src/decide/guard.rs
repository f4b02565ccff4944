//! Reasons not to act, as values with evidence.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which guard.
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
pub enum GuardKind {
    /// Fewer than the required votes, or this observer doubts itself.
    Quorum,
    /// The source is not failing (any more) for as long as it has to.
    Verdict,
    /// The standby could not take over.
    TargetNotReady,
    /// More would be lost than the RPO allows, or it is not known how much.
    DataLoss,
    /// The old primary is not certain to be fenced.
    Unfenced,
    /// A later step could not even be looked at.
    PathNotReady,
    /// The ledger and the world disagree, or the ledger is empty.
    Drift,
    /// Moved a short while ago.
    Cooldown,
    /// A person said so.
    Paused,
    /// A person holds this incident.
    Held,
    /// The mode does not allow it, or an approval is missing.
    Mode,
    /// Too much at once.
    BlastRadius,
    /// An observer inside the region sees it alive: a partition, not an outage.
    Witness,
    /// Calls of the former leader may still be under way.
    Takeover,
    /// The region that is left may still act by its role.
    Role,
    /// A share of the clients is looked at before more of them follow.
    Stage,
    /// An invariant broke.
    Halted,
}

impl GuardKind {
    /// Every guard there is.
    pub const ALL: [Self; 17] = [
        Self::Quorum,
        Self::Verdict,
        Self::TargetNotReady,
        Self::DataLoss,
        Self::Unfenced,
        Self::PathNotReady,
        Self::Drift,
        Self::Cooldown,
        Self::Paused,
        Self::Held,
        Self::Mode,
        Self::BlastRadius,
        Self::Witness,
        Self::Takeover,
        Self::Role,
        Self::Stage,
        Self::Halted,
    ];

    /// As it stands in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Verdict => "verdict",
            Self::TargetNotReady => "target_not_ready",
            Self::DataLoss => "data_loss",
            Self::Unfenced => "unfenced",
            Self::PathNotReady => "path_not_ready",
            Self::Drift => "drift",
            Self::Cooldown => "cooldown",
            Self::Paused => "paused",
            Self::Held => "held",
            Self::Mode => "mode",
            Self::BlastRadius => "blast_radius",
            Self::Witness => "witness",
            Self::Takeover => "takeover",
            Self::Role => "role",
            Self::Stage => "stage",
            Self::Halted => "halted",
        }
    }
}

impl fmt::Display for GuardKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.label().replace('_', " "))
    }
}

/// A guard that holds. The same words stand in `explain`, the API, the page and the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// Which.
    pub kind: GuardKind,
    /// What was seen.
    pub evidence: String,
    /// What would lift it.
    pub lifted_by: String,
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}. Lifted by: {}", self.kind, self.evidence, self.lifted_by)
    }
}
