//! What an API server's answer means, by its reason first and its status second.

use kube::core::response::reason;

use crate::adapters::connect::{Broken, one_line};
use crate::adapters::failure::{describe, from_chain};
use crate::domain::Layer;
use crate::ports::Setback;

/// An answer that is not the object that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum No {
    /// 401 or 403: it lives, and we may not.
    Refused(String),
    /// It is not there.
    Absent(String),
    /// Somebody else changed it meanwhile.
    Changed(String),
    /// It has too much to do.
    Throttled(String),
    /// Validation: asking again does not help.
    Invalid(String),
    /// It answered that it cannot answer.
    Ailing(String),
    /// The connection broke, or the answer never came.
    Broken(Broken),
    /// An answer that cannot be understood, or a request that could not be made here.
    Unclear(String),
}

impl No {
    /// Classifies what the client library reports; `layer` is what was being tried.
    #[allow(clippy::wildcard_enum_match_arm)] // not our enum; what is not named has nothing to do with the cluster
    pub(super) fn of(error: &kube::Error, layer: Layer) -> Self {
        match error {
            kube::Error::Api(status) => {
                let said = match (status.code, one_line(&status.message, 300)) {
                    (0, said) => said,
                    (code, said) if said.is_empty() => format!("answered {code}"),
                    (code, said) => format!("answered {code}: {said}"),
                };
                match (status.reason.as_str(), status.code) {
                    (reason::UNAUTHORIZED | reason::FORBIDDEN, _) | (_, 401 | 403) => Self::Refused(said),
                    (reason::NOT_FOUND, _) => Self::Absent(said),
                    (reason::CONFLICT | reason::ALREADY_EXISTS, _) => Self::Changed(said),
                    (reason::TOO_MANY_REQUESTS, _) | (_, 429) => Self::Throttled(said),
                    (reason::INVALID | reason::BAD_REQUEST | reason::METHOD_NOT_ALLOWED, _) => Self::Invalid(said),
                    (_, 404) => Self::Absent(said),
                    (_, 409) => Self::Changed(said),
                    (_, 400..=499) => Self::Invalid(said),
                    (_, _) => Self::Ailing(said),
                }
            }
            kube::Error::SerdeError(cause) => Self::Unclear(format!("its answer cannot be read: {cause}")),
            // The library's text may quote what a credential helper printed.
            kube::Error::Auth(_) => Self::Unclear("the credential for the cluster cannot be used".to_owned()),
            kube::Error::Service(cause) => match Broken::of(&**cause, layer) {
                Some(broken) => Self::Broken(broken),
                None if from_chain(&**cause).is_none() => {
                    Self::Broken(Broken::There { layer, why: describe(&**cause) })
                }
                None => Self::Unclear(describe(&**cause)),
            },
            other => Self::Unclear(one_line(&describe(other), 300)),
        }
    }

    /// What it means for a step.
    pub(super) fn setback(self) -> Setback {
        match self {
            Self::Refused(said) => Setback::Refused(format!("the cluster refuses our credential: {said}")),
            Self::Absent(said) | Self::Invalid(said) => Setback::Refused(said),
            Self::Changed(said) => Setback::Transient(format!("it was changed meanwhile: {said}")),
            Self::Throttled(said) | Self::Ailing(said) | Self::Unclear(said) => Setback::Transient(said),
            Self::Broken(broken) => Setback::Transient(broken.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: u16, reason: &str) -> No {
        let status: kube::core::Status =
            serde_json::from_value(serde_json::json!({ "code": code, "reason": reason, "message": "m" })).unwrap();
        No::of(&kube::Error::Api(status.boxed()), Layer::Query)
    }

    #[test]
    fn the_reason_counts_before_the_status() {
        assert!(matches!(said(500, "Forbidden"), No::Refused(_)));
        assert!(matches!(said(401, ""), No::Refused(_)));
        assert!(matches!(said(409, "AlreadyExists"), No::Changed(_)));
        assert!(matches!(said(422, "Invalid"), No::Invalid(_)));
        assert!(matches!(said(429, ""), No::Throttled(_)));
        assert!(matches!(said(504, "Timeout"), No::Ailing(_)));
        assert!(matches!(said(500, "InternalError"), No::Ailing(_)));
    }

    #[test]
    fn only_what_trying_again_cannot_help_is_a_refusal() {
        assert!(matches!(said(409, "Conflict").setback(), Setback::Transient(_)));
        assert!(matches!(said(503, "ServiceUnavailable").setback(), Setback::Transient(_)));
        assert!(matches!(said(404, "NotFound").setback(), Setback::Refused(_)));
        assert!(matches!(said(403, "Forbidden").setback(), Setback::Refused(_)));
    }
}
