//! From observations to verdicts: windows, degradation, self-doubt, expected loss.
//!
//! Soft state only: all of it may be lost, and then a window starts again. A five-minute pause never looks like a
//! five-minute outage, and not knowing never looks like failing.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

mod ballot;
mod council;
mod doubt;
mod loss;
mod memory;
mod watch;
mod window;

pub use ballot::{Ballot, Opinion, View};
pub use council::{Council, Rules};
pub use doubt::References;
pub use loss::{Loss, Positions, expected as expected_loss, least_lag};
pub use memory::{Memory, Remembered, Sighted, Silence, SilentAgo};
pub use watch::{Limits, Verdict, Watch};
pub use window::Window;

/// The last observations of an outage have to be failures, this many in a row, whatever the ratio says.
pub const FAILURES_IN_A_ROW: u32 = 3;
