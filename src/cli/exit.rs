//! Exit codes, and errors on their way to one.

use std::fmt;
use std::process::ExitCode;

use crate::config::ConfigErrors;

/// How a command ended. The numbers are those of `sysexits.h` where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what was asked, and the answer is yes.
    Ok,
    /// The answer is no, or something is failing.
    No,
    /// The command line makes no sense.
    Usage,
    /// The daemon cannot be reached.
    Unavailable,
    /// The order is NOT IN EFFECT, or cannot be right now.
    NotInEffect,
    /// No token, or the wrong one, or a file that may not be read.
    Permission,
    /// The configuration has mistakes.
    Configuration,
}

impl Exit {
    /// Every code with its meaning, as `failoverd --help` shows them.
    pub const ALL: [Self; 7] =
        [Self::Ok, Self::No, Self::Usage, Self::Unavailable, Self::NotInEffect, Self::Permission, Self::Configuration];

    /// The number that the shell sees.
    pub fn number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::No => 1,
            Self::Usage => 2,
            Self::Unavailable => 69,
            Self::NotInEffect => 75,
            Self::Permission => 77,
            Self::Configuration => 78,
        }
    }

    /// What it means, for the help text.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done, and the answer is yes",
            Self::No => "the answer is no, or something is failing",
            Self::Usage => "the command line makes no sense",
            Self::Unavailable => "the daemon cannot be reached",
            Self::NotInEffect => "NOT IN EFFECT: the order was refused, or cannot be carried out right now",
            Self::Permission => "no token, a wrong one, or a file that may not be read",
            Self::Configuration => "the configuration has mistakes; one line for each",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

/// What a command returns.
pub type Outcome = Result<Exit, Failure>;

/// Why a command could not do its work, with the exit code and what to try.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    error: anyhow::Error,
    hint: Option<String>,
}

impl Failure {
    /// A failure that ends the process with `exit`.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into(), hint: None }
    }

    /// The same from a sentence.
    pub fn because(exit: Exit, text: impl fmt::Display) -> Self {
        Self::new(exit, anyhow::anyhow!("{text}"))
    }

    /// What to try.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, with what it means in front.
    #[must_use]
    pub fn context(mut self, text: &'static str) -> Self {
        self.error = self.error.context(text);
        self
    }

    /// The same with another exit code.
    #[must_use]
    pub fn exits_with(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// The whole chain in one line.
    pub fn sentence(&self) -> String {
        format!("{:#}", self.error)
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// The whole chain and the hint, as printed once at the edge.
    pub fn report(&self) -> String {
        // Mistakes in a configuration are one line each and begin with their place.
        let name = if self.error.is::<ConfigErrors>() { "" } else { "failoverd: " };
        let mut text = format!("{name}{}", self.sentence());
        if let Some(hint) = &self.hint {
            text.push_str("\nhint: ");
            text.push_str(hint);
        }
        text.push('\n');
        text
    }

    /// Whether it all comes from a reader that went away (`failoverd status | head`), which is no mistake.
    pub fn is_broken_pipe(&self) -> bool {
        self.error.chain().any(|cause| {
            cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
        })
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let denied = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::PermissionDenied;
        let exit = if error.is::<ConfigErrors>() {
            Exit::Configuration
        } else if error.chain().any(|cause| cause.downcast_ref().is_some_and(denied)) {
            Exit::Permission
        } else {
            Exit::No
        };
        Self::new(exit, error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::from(anyhow::Error::new(error))
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_failure_is_reported_with_its_whole_chain_and_a_hint() {
        let chain = Err::<(), _>(std::io::Error::other("disk on fire")).context("cannot read the token");
        let failure = Failure::new(Exit::Permission, chain.expect_err("an error")).hint("look at the file's mode");
        assert_eq!(failure.report(), "failoverd: cannot read the token: disk on fire\nhint: look at the file's mode\n");
    }
}
