//! What an error means: for a probe, a finding; for a step, a reason to try again or not to. The first word of a Redis
//! error is its code; what follows is for people and changes between versions.

use redis::{RedisError, ServerError};

use crate::adapters::connect::{Broken, one_line};
use crate::adapters::failure::describe;
use crate::domain::{Evidence, Finding, InstanceId, Layer, Serving};
use crate::ports::Setback;

/// A conversation with a server that did not end well.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Trouble {
    /// There was no conversation.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The server answered with an error.
    #[error("{code} {message}")]
    Answered {
        /// Its code.
        code: String,
        /// Its message, for people.
        message: String,
    },
    /// It answered something that is not to be understood.
    #[error("{0}")]
    Garbled(String),
}

impl Trouble {
    /// Sorts an error of the client library. `reached` is the layer that was being worked on.
    pub(super) fn of(error: &RedisError, reached: Layer) -> Self {
        if let (Some(code), redis::ErrorKind::Server(_) | redis::ErrorKind::Extension) = (error.code(), error.kind()) {
            return Self::answered(code, error.detail());
        }
        if let Some(broken) = Broken::of(error, reached) {
            return Self::Broken(broken);
        }
        if error.is_io_error() || error.is_connection_dropped() {
            return Self::Broken(Broken::There { layer: reached, why: one_line(&describe(error), 200) });
        }
        Self::Garbled(one_line(&describe(error), 200))
    }

    pub(super) fn of_answer(error: &ServerError) -> Self {
        Self::answered(error.code(), error.details())
    }

    fn answered(code: &str, message: Option<&str>) -> Self {
        Self::Answered { code: one_line(code, 40), message: one_line(message.unwrap_or_default(), 200) }
    }

    /// The code that the server answered with.
    pub(super) fn code(&self) -> Option<&str> {
        match self {
            Self::Answered { code, .. } => Some(code),
            Self::Broken(_) | Self::Garbled(_) => None,
        }
    }

    /// What a probe concludes, with what it has to say besides.
    pub(super) fn conclude(self, evidence: &mut Evidence) -> Finding {
        let meaning = self.meaning();
        let why = self.to_string();
        match (self, meaning) {
            (Self::Broken(broken), _) => broken.finding(),
            (Self::Garbled(_), _) => Finding::Unknown { why: format!("an answer that is not to be understood: {why}") },
            (Self::Answered { .. }, Meaning::Credential) => {
                evidence.credential_refused = true;
                evidence.details.push(format!("credential={why}"));
                Finding::Alive
            }
            (Self::Answered { .. }, Meaning::NoWrites | Meaning::TooMany) => {
                evidence.degraded = Some(why);
                Finding::Alive
            }
            (Self::Answered { .. }, Meaning::StandbyAlone) => {
                evidence.serving = Some(Serving::Replica);
                evidence.warnings.push(why);
                Finding::Alive
            }
            (Self::Answered { .. }, Meaning::Passing | Meaning::Other) => Finding::Failing { layer: Layer::Query, why },
        }
    }

    /// What a step makes of it.
    pub(super) fn setback(self, instance: &InstanceId) -> Setback {
        let meaning = self.meaning();
        match self {
            Self::Broken(broken) => Setback::Transient(format!("{instance} cannot be reached: {broken}")),
            Self::Garbled(why) => Setback::Transient(format!("{instance} answered something unknown: {why}")),
            answer @ Self::Answered { .. } => {
                let text = format!("{instance}: {answer}");
                match meaning {
                    Meaning::Credential | Meaning::Other => Setback::Refused(text),
                    Meaning::TooMany | Meaning::NoWrites | Meaning::StandbyAlone | Meaning::Passing => {
                        Setback::Transient(text)
                    }
                }
            }
        }
    }

    fn meaning(&self) -> Meaning {
        let Self::Answered { code, message } = self else { return Meaning::Other };
        match code.as_str() {
            // DENIED: protected mode lets nobody in from outside.
            "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" => Meaning::Credential,
            "ERR" if message.starts_with("max number of clients") => Meaning::TooMany,
            "OOM" | "READONLY" | "NOREPLICAS" | "MISCONF" => Meaning::NoWrites,
            "MASTERDOWN" => Meaning::StandbyAlone,
            "LOADING" | "BUSY" | "CLUSTERDOWN" | "TRYAGAIN" | "MOVED" | "ASK" => Meaning::Passing,
            _ => Meaning::Other,
        }
    }
}

/// What a code says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// It lives, and wants another credential or more rights.
    Credential,
    /// Too many clients.
    TooMany,
    /// It answers and takes no writes.
    NoWrites,
    /// A replica that lost its primary and is configured not to answer from what it has. It can be promoted.
    StandbyAlone,
    /// It cannot answer now.
    Passing,
    /// Everything else: the command itself is at fault.
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn concluded(code: &str, message: &str) -> (Finding, Evidence) {
        let mut evidence = Evidence::default();
        (Trouble::answered(code, Some(message)).conclude(&mut evidence), evidence)
    }

    #[test]
    fn an_answer_that_refuses_our_credential_proves_life() {
        for code in ["NOAUTH", "WRONGPASS", "NOPERM", "DENIED"] {
            let (finding, evidence) = concluded(code, "no");
            assert_eq!((finding, evidence.credential_refused), (Finding::Alive, true), "{code}");
        }
    }

    #[test]
    fn a_replica_that_lost_its_primary_is_alive_and_can_be_promoted() {
        let (finding, evidence) = concluded("MASTERDOWN", "Link with MASTER is down");
        assert_eq!((finding, evidence.serving), (Finding::Alive, Some(Serving::Replica)));
        assert_eq!(evidence.not_ready, Vec::<String>::new());
    }

    #[test]
    fn a_server_that_cannot_answer_now_is_failing_at_the_query() {
        for code in ["LOADING", "BUSY", "CLUSTERDOWN"] {
            assert!(matches!(concluded(code, "").0, Finding::Failing { layer: Layer::Query, .. }), "{code}");
        }
    }

    #[test]
    fn a_server_that_refuses_writes_or_clients_is_degraded() {
        for (code, message) in [("OOM", ""), ("MISCONF", ""), ("ERR", "max number of clients reached")] {
            let (finding, evidence) = concluded(code, message);
            assert_eq!((finding, evidence.degraded.is_some()), (Finding::Alive, true), "{code}");
        }
    }
}
