//! What an error means: for a probe, a finding; for a step, a reason to try again or not to.

use tokio_postgres::error::SqlState;

use crate::adapters::connect::{Broken, one_line};
use crate::adapters::failure::describe;
use crate::domain::{Evidence, Finding, InstanceId, Layer};
use crate::ports::Setback;

/// A conversation with a server that did not end well.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Trouble {
    /// There was no conversation.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The server answered with an error.
    #[error("{message} (SQLSTATE {})", code.code())]
    Answered {
        /// While it greeted, or while it was asked.
        during: Layer,
        /// Its code; messages are translated and change.
        code: SqlState,
        /// Its message, for people.
        message: String,
    },
    /// It lives, and it wants a credential that we do not have.
    #[error("{0}")]
    NoCredential(String),
    /// It answered something that is not to be understood.
    #[error("{0}")]
    Garbled(String),
}

impl Trouble {
    /// Sorts an error of the client library. `reached` is the layer that was being worked on.
    pub(super) fn of(error: &tokio_postgres::Error, reached: Layer) -> Self {
        if let Some(answer) = error.as_db_error() {
            let during = if reached < Layer::Query { Layer::Greeting } else { reached };
            return Self::Answered { during, code: answer.code().clone(), message: one_line(answer.message(), 300) };
        }
        if let Some(broken) = Broken::of(error, reached) {
            return Self::Broken(broken);
        }
        if error.is_closed() {
            return Self::Broken(Broken::There { layer: reached, why: "it closed the connection".to_owned() });
        }
        // The library has no public kinds; these texts are pinned by tests against a real server.
        let kind = error.to_string();
        let why = one_line(&describe(error), 300);
        if kind == TLS && why.contains(NO_TLS) {
            return Self::Broken(Broken::Here { why: "the server does not offer TLS; see the `tls` key".to_owned() });
        }
        if kind == TLS {
            return Self::Broken(Broken::There { layer: Layer::Tls, why });
        }
        if kind == AUTHENTICATION || kind == CONFIGURATION {
            return Self::NoCredential(why);
        }
        Self::Garbled(why)
    }

    /// The code that the server answered with.
    pub(super) fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Answered { code, .. } => Some(code),
            Self::Broken(_) | Self::NoCredential(_) | Self::Garbled(_) => None,
        }
    }

    /// What a probe concludes, with what it has to say besides.
    pub(super) fn conclude(self, evidence: &mut Evidence) -> Finding {
        match self {
            Self::Broken(broken) => broken.finding(),
            Self::NoCredential(why) => {
                evidence.credential_refused = true;
                evidence.details.push(format!("credential={why}"));
                Finding::Alive
            }
            Self::Garbled(why) => Finding::Unknown { why: format!("an answer that is not to be understood: {why}") },
            Self::Answered { during, code, message } => {
                let why = format!("{message} (SQLSTATE {})", code.code());
                match Meaning::of(&code) {
                    Meaning::Refusal if during == Layer::Greeting => {
                        evidence.credential_refused = true;
                        evidence.details.push(format!("credential={why}"));
                        Finding::Alive
                    }
                    // It works, and our own question was not allowed or not known: an older server, a missing grant.
                    Meaning::Refusal => {
                        evidence.warnings.push(format!("the probe's question was not answered: {why}"));
                        Finding::Alive
                    }
                    Meaning::TooMany => {
                        evidence.degraded = Some(why);
                        Finding::Alive
                    }
                    Meaning::ReadOnly | Meaning::Passing => Finding::Failing { layer: during, why },
                }
            }
        }
    }

    /// What a step makes of it.
    pub(super) fn setback(self, instance: &InstanceId) -> Setback {
        match self {
            Self::Broken(Broken::There { why, .. }) => {
                Setback::Transient(format!("{instance} cannot be reached: {why}"))
            }
            Self::Broken(Broken::Here { why }) => Setback::Transient(format!("{instance} cannot be reached: {why}")),
            Self::NoCredential(why) => Setback::Refused(format!("{instance} wants another credential: {why}")),
            Self::Garbled(why) => Setback::Transient(format!("{instance} answered something unknown: {why}")),
            Self::Answered { code, message, .. } => {
                let text = format!("{instance}: {message} (SQLSTATE {})", code.code());
                match Meaning::of(&code) {
                    Meaning::Refusal => Setback::Refused(text),
                    Meaning::TooMany | Meaning::ReadOnly | Meaning::Passing => Setback::Transient(text),
                }
            }
        }
    }
}

/// How `tokio_postgres::Error` begins, by kind.
const TLS: &str = "error performing TLS handshake";
const AUTHENTICATION: &str = "authentication error";
const CONFIGURATION: &str = "invalid configuration";
/// The cause of a TLS error where the server answered that it has none.
const NO_TLS: &str = "does not support TLS";

/// What a code says, by its class (the first two characters).
enum Meaning {
    /// It will not do that for us, now or later.
    Refusal,
    /// Too many connections.
    TooMany,
    /// It takes no writes.
    ReadOnly,
    /// It cannot do that now: starting, stopping, out of resources, broken, cancelled.
    Passing,
}

impl Meaning {
    fn of(code: &SqlState) -> Self {
        if *code == SqlState::TOO_MANY_CONNECTIONS {
            return Self::TooMany;
        }
        if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
            return Self::ReadOnly;
        }
        match code.code().get(..2) {
            // Not supported, data and constraints, authorisation, no such database or schema, syntax and access.
            Some("0A" | "22" | "23" | "28" | "2B" | "2F" | "3D" | "3F" | "42") => Self::Refusal,
            Some(_) | None => Self::Passing,
        }
    }
}
