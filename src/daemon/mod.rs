//! The shell: what keeps the core informed and carries out what it asks for. No policy.

pub mod clock;
mod ensure;
pub mod event_loop;
pub mod executor;
pub mod gate;
pub mod handle;
pub mod notices;
pub mod prober;
pub mod pulse;
mod supervise;
