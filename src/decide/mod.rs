//! From verdicts to incidents, from incidents to plans, from plans to effects.
//!
//! Deliberately without I/O and without a clock: [`Controller::step`] takes the time and one input, and returns the
//! facts to record and the effects to perform once they are durable. The hard state is the fold of the facts.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

mod advance;
mod again;
mod alarm;
mod break_glass;
mod claims;
mod command;
mod confirmed;
mod controller;
mod degraded;
mod disagreement;
mod effect;
mod expected;
mod fact;
mod fact_text;
mod failback;
mod fences;
mod growth;
mod guard;
mod guardians;
mod handover;
mod hard;
mod headline;
mod healing;
mod incident;
mod input;
mod judge;
mod leadership;
mod losses;
mod memory;
mod planned;
mod readiness;
mod rejoin;
mod roles;
mod sightings;
mod soft;
mod stamp;
mod status;
mod targets;
mod verification;
mod view;
mod votes;
mod watches;
mod zones;

pub use break_glass::{Accepted, BreakGlass, BreakGlassIncident, BreakGlassRecord, LastKnown};
pub use confirmed::{Confirmed, Known, Roles};
pub use controller::{Controller, CorruptLedger, Standstill};
pub use disagreement::disagreements;
pub use effect::*;
pub use fact::*;
pub use fences::OWED;
pub use guard::*;
pub use input::*;
pub use judge::initial_placement;
pub use leadership::Fitness;
pub use losses::{Divergence, Measure, Measured, RECOVERY_POINT, RecoveryPoint, lsn};
pub use status::*;
pub use view::{DryRun, Scope, explain};

use incident::Incident;
