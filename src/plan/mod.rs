//! Plans as data: what is to be done, in which order, by when, and how it is undone.
//!
//! Deliberately without effects: a plan is made, rendered, hashed and journalled here and carried out elsewhere.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

mod action;
mod step;

pub use action::*;
pub use step::*;
