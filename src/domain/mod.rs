//! The nouns that everything else speaks in: ids, time, observations, policy.
//!
//! Deliberately without behaviour that depends on a clock or on the outside world.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

mod bug;
mod ids;
mod observation;
mod policy;
pub mod time;

pub(crate) use bug::{Bug, Bugs};
pub use ids::*;
pub use observation::*;
pub use policy::*;
pub use time::Now;
