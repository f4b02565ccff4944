//! Stories in virtual time: the real controller, a ledger in memory, and a small world that goes on by itself.
//!
//! `failoverd replay` asks it "what would have been done?"; the tests let it crash everywhere and check the
//! invariants of the design in the world, after every call. One thread, no clock, no randomness but a seed: the same
//! story gives the same run.

mod chance;
mod check;
mod coverage;
mod daemon;
#[cfg(test)]
mod deliberate_bugs;
mod dice;
mod options;
mod parse;
mod report;
mod run;
mod search;
mod story;
mod world;

pub use coverage::Coverage;
#[cfg(test)]
pub(crate) use dice::Dice;
pub use options::{Crash, Options, Setup, SetupError};
pub use parse::{SEPARATOR, StoryError, parse};
pub use report::{Detail, End, Entry, Report, What};
pub use run::run;
pub use search::{Found, Search, SearchError, Searched};
pub use story::*;
