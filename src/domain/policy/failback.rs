//! The way back to the primary region, in stages.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::time::friendly;

/// How the work goes back to where it belongs (document: Gradual Failback).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailbackPolicy {
    /// After a failover nobody has to order it.
    #[serde(default)]
    pub automatic: bool,
    /// Everything in the region that takes the work back has been well for so long.
    #[serde(with = "friendly")]
    pub stable_for: Duration,
    /// The shares of the clients, in percent, that go back before all of them do, the smallest first.
    pub stages: Vec<u8>,
    /// Each share is looked at for so long.
    #[serde(with = "friendly")]
    pub stage_for: Duration,
    /// A share whose clients are not well served is on its way back within this.
    #[serde(with = "friendly")]
    pub interval: Duration,
}
