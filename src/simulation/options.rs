//! What a story is played with, and what else goes wrong.

use std::time::Duration;

use crate::domain::{Bugs, Policy};

/// What a story is played with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The policy of the configuration, with the story's settings.
    pub policy: Policy,
    /// Its hash.
    pub policy_hash: String,
    /// How long a permit lasts.
    pub permit: Duration,
    /// How long a leader leads without having renewed that, where there are several daemons.
    pub lease: Duration,
    /// How often an observer tells the others what it sees.
    pub ballot_every: Duration,
    /// Mistakes to be made, in tests of the tests.
    pub(crate) bugs: Bugs,
}

/// What else goes wrong.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// With a seed, probes are spread, answers take their time, come twice and overtake each other. Without one,
    /// everything is on time.
    pub seed: Option<u64>,
    /// The daemon dies at each of these, once.
    pub crashes: Vec<Crash>,
    /// Somebody edits the configuration: what a daemon reads when it starts anew. None means the same as before.
    pub after_restart: Option<Box<Setup>>,
    /// Ends early once no incident is open, nothing is going on any more, and the story only has approvals left to give.
    pub until_settled: bool,
}

/// Where a daemon dies, or its disk does. It is back a moment later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// While it records this frame (from 0): before it is written, or after.
    Frame {
        /// Which.
        nth: u64,
        /// It is durable.
        written: bool,
    },
    /// At this mutating call (from 0): before it is sent, or before its answer is heard.
    Call {
        /// Which.
        nth: u64,
        /// It was sent.
        sent: bool,
    },
    /// When this step's end (from 0) is known, and before it is recorded.
    Outcome {
        /// Which.
        nth: u64,
    },
    /// The append of this frame (from 0) fails: the disk is full, or the frame is there and the answer says otherwise.
    /// The daemon lives on, halted, until it is started anew.
    Disk {
        /// Which.
        nth: u64,
        /// It is durable, and nobody knows.
        written: bool,
    },
}

/// A story that cannot be played.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// A line is about something that is not in the configuration.
    #[error("line {line}: {what}")]
    Line {
        /// Line number.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// It goes on for ever.
    #[error("the simulation did not come to its end: {0} events and counting")]
    Endless(u64),
}
