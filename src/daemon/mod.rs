//! The shell: what keeps the core informed and carries out what it asks for. No policy.

pub mod clock;
pub mod prober;
