//! How the daemon ends. The numbers are those of `sysexits.h`; systemd restarts it after all but a mistake in the
//! configuration.

use std::process::ExitCode;

/// Why the daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was asked to, and everything that was under way has ended.
    Asked,
    /// An address cannot be listened on (`EX_UNAVAILABLE`).
    Unavailable,
    /// A bug in failoverd (`EX_SOFTWARE`).
    Bug,
    /// The machine does not have what a daemon needs (`EX_OSERR`).
    System,
    /// The ledger cannot be opened or created (`EX_IOERR`).
    Ledger,
    /// Another failoverd holds the ledger (`EX_TEMPFAIL`).
    Locked,
    /// The configuration has mistakes (`EX_CONFIG`).
    Configuration,
}

impl End {
    /// The number that the shell sees.
    pub fn number(self) -> u8 {
        match self {
            Self::Asked => 0,
            Self::Unavailable => 69,
            Self::Bug => 70,
            Self::System => 71,
            Self::Ledger => 74,
            Self::Locked => 75,
            Self::Configuration => 78,
        }
    }
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        Self::from(end.number())
    }
}
