//! Plans as data: what is to be done, in which order, by when, and how it is undone.
//!
//! Deliberately without effects: a plan is made, rendered, hashed and journalled here and carried out elsewhere.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

mod action;
mod budget;
mod graph;
mod planner;
mod step;

pub use action::*;
pub use budget::*;
pub use graph::*;
pub use planner::*;
pub use step::*;

/// Names a plan by what is in it: an approval binds to this hash. Sixteen hexadecimal digits.
pub fn hash<'a>(steps: impl IntoIterator<Item = &'a Step>) -> String {
    let mut hasher = blake3::Hasher::new();
    for step in steps {
        // A step is plain data with string keys, which always serializes.
        hasher.update(&serde_json::to_vec(step).unwrap_or_default());
        hasher.update(b"\n");
    }
    hasher.finalize().to_hex().chars().take(16).collect()
}
