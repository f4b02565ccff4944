//! What an SDK error means: judged by the error's code, never by the HTTP status alone.

use std::error::Error;
use std::time::Duration;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::adapters::failure::{NetworkFailure, describe, from_chain};
use crate::domain::{Evidence, Finding, Layer};
use crate::ports::Setback;

/// A call that did not give what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {why}")]
pub(crate) struct Trouble {
    /// Which call, in the service's own words (`rds DescribeDBInstances`).
    pub(crate) call: String,
    /// What it means.
    pub(crate) kind: TroubleKind,
    /// What was seen, for a person.
    pub(crate) why: String,
}

/// What a failed call means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TroubleKind {
    /// Ours: nothing is known about the service (no credentials found, a CA file that cannot be read).
    Own,
    /// No answer, and the network knows why.
    Network(NetworkFailure),
    /// Connected, and no answer within the time.
    NoAnswer,
    /// It answered that our credential will not do.
    CredentialRefused,
    /// It answered that there is no such thing.
    NotFound,
    /// It answered that it will not, and trying again does not help.
    Refused,
    /// It answered that we ask too often.
    Throttled,
    /// It answered that it has a problem of its own.
    Broken,
    /// The thing is in a state that does not allow the call now.
    State,
    /// Somebody else changed it since we looked.
    Overtaken,
    /// It answered something that cannot be understood.
    Unreadable,
}

impl Trouble {
    /// Our own trouble, before anything was sent.
    pub(crate) fn own(call: impl Into<String>, why: impl Into<String>) -> Self {
        Self { call: call.into(), kind: TroubleKind::Own, why: why.into() }
    }

    /// An answer without what it should hold.
    pub(crate) fn unreadable(call: impl Into<String>, why: impl Into<String>) -> Self {
        Self { call: call.into(), kind: TroubleKind::Unreadable, why: format!("cannot be parsed: {}", why.into()) }
    }

    /// For steps: whether trying again can help.
    pub(crate) fn setback(self) -> Setback {
        let text = self.to_string();
        match self.kind {
            TroubleKind::CredentialRefused | TroubleKind::NotFound | TroubleKind::Refused => Setback::Refused(text),
            TroubleKind::Own
            | TroubleKind::Network(_)
            | TroubleKind::NoAnswer
            | TroubleKind::Throttled
            | TroubleKind::Broken
            | TroubleKind::State
            | TroubleKind::Overtaken => Setback::Transient(text),
            TroubleKind::Unreadable => Setback::Transient(format!("{text}: look again")),
        }
    }

    /// For probes: what it says about the service. Adds to the evidence what belongs there.
    ///
    /// What the service answered about our request (not found, a state, a refusal) says nothing about its health
    /// unless the probe knows better, so it is `Unknown`.
    pub(crate) fn finding(self, evidence: &mut Evidence) -> Finding {
        let why = self.to_string();
        match self.kind {
            TroubleKind::Own
            | TroubleKind::NotFound
            | TroubleKind::Refused
            | TroubleKind::State
            | TroubleKind::Overtaken
            | TroubleKind::Unreadable => Finding::Unknown { why },
            TroubleKind::Network(failure) => failure.finding(why),
            TroubleKind::NoAnswer | TroubleKind::Broken => Finding::Failing { layer: Layer::Query, why },
            TroubleKind::CredentialRefused => {
                evidence.credential_refused = true;
                evidence.warnings.push(why);
                Finding::Alive
            }
            TroubleKind::Throttled => {
                evidence.degraded = Some(why);
                Finding::Alive
            }
        }
    }

    /// For readiness: what is known for sure goes to `not_ready`, what could not be learned to `warnings`.
    pub(crate) fn unready(self, evidence: &mut Evidence) {
        let text = self.to_string();
        match self.kind {
            TroubleKind::CredentialRefused => {
                evidence.credential_refused = true;
                evidence.warnings.push(text);
            }
            TroubleKind::NotFound | TroubleKind::State => evidence.not_ready.push(text),
            TroubleKind::Own
            | TroubleKind::Network(_)
            | TroubleKind::NoAnswer
            | TroubleKind::Refused
            | TroubleKind::Throttled
            | TroubleKind::Broken
            | TroubleKind::Overtaken
            | TroubleKind::Unreadable => evidence.warnings.push(text),
        }
    }
}

/// Runs one call for at most `limit` and classifies what comes back.
pub(crate) async fn call<T, E>(
    name: &str,
    limit: Duration,
    sending: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Result<T, Trouble>
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    match tokio::time::timeout(limit, sending).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(of_sdk(name, &error)),
        Err(_) => Err(no_answer(name, limit)),
    }
}

/// A call that was given up.
pub(crate) fn no_answer(name: &str, limit: Duration) -> Trouble {
    Trouble { call: name.to_owned(), kind: TroubleKind::NoAnswer, why: format!("no answer within {limit:?}") }
}

fn of_sdk<E>(name: &str, error: &SdkError<E, HttpResponse>) -> Trouble
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let trouble = |kind, why: String| Trouble { call: name.to_owned(), kind, why: bounded(why) };
    match error {
        SdkError::ServiceError(refusal) => {
            let status = refusal.raw().status().as_u16();
            let meta = refusal.err().meta();
            match meta.code() {
                Some(code) => {
                    let message = match meta.message() {
                        Some(message) => format!("{code}: {message}"),
                        None => format!("{code} ({})", describe(refusal.err())),
                    };
                    trouble(of_code(code, status), message)
                }
                None => trouble(of_status(status), format!("HTTP {status} without an error code")),
            }
        }
        SdkError::ResponseError(unreadable) => {
            let status = unreadable.raw().status().as_u16();
            let kind = if status >= 500 { TroubleKind::Broken } else { TroubleKind::Unreadable };
            trouble(kind, format!("HTTP {status}, and the answer cannot be parsed: {}", describe(error)))
        }
        SdkError::TimeoutError(_) => trouble(TroubleKind::NoAnswer, describe(error)),
        SdkError::DispatchFailure(failure) => {
            let why = failure.as_connector_error().map_or_else(|| describe(error), |cause| describe(cause));
            let kind = match from_chain(error) {
                Some(network) => TroubleKind::Network(network),
                None if failure.is_timeout() || failure.is_io() => TroubleKind::Network(NetworkFailure::Tcp),
                None if failure.is_user() => TroubleKind::Own,
                // Among them: the server closed the connection instead of answering.
                None => TroubleKind::NoAnswer,
            };
            trouble(kind, why)
        }
        SdkError::ConstructionFailure(_) => trouble(TroubleKind::Own, describe(error)),
        // Not our enum; a kind of failure that is not known yet says nothing.
        _ => trouble(TroubleKind::Unreadable, describe(error)),
    }
}

/// What a code means. Some protocols end codes in `Fault` or `Exception` and others leave that out.
pub(crate) fn of_code(code: &str, status: u16) -> TroubleKind {
    let bare = code.rsplit(['#', ':']).next().unwrap_or(code);
    let bare = bare.strip_suffix("Exception").or_else(|| bare.strip_suffix("Fault")).unwrap_or(bare);
    match bare {
        "Throttling"
        | "Throttled"
        | "ThrottledRequest"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "RequestThrottled"
        | "RequestThrottledRequest"
        | "BandwidthLimitExceeded"
        | "SlowDown"
        | "EC2Throttled"
        | "ProvisionedThroughputExceeded"
        | "TransactionInProgress" => TroubleKind::Throttled,

        // Route 53 serialises changes of one zone: try again in a moment.
        "PriorRequestNotComplete" => TroubleKind::Throttled,

        "InternalFailure"
        | "InternalError"
        | "InternalServerError"
        | "InternalServiceError"
        | "InternalService"
        | "ServiceUnavailable"
        | "Unavailable"
        | "RequestTimeout"
        | "ServiceFailure"
        | "InsufficientDBInstanceCapacity"
        | "InsufficientCacheClusterCapacity"
        | "InsufficientInstanceCapacity" => TroubleKind::Broken,

        "InvalidDBInstanceState"
        | "InvalidReplicationGroupState"
        | "InvalidGlobalReplicationGroupState"
        | "InvalidCacheClusterState"
        | "InvalidDBClusterState" => TroubleKind::State,

        // ElastiCache has no operation to carry out: the nodes are there by now.
        "PreconditionFailed" | "ConditionalRequestConflict" | "OperationAborted" | "NoOperation" => {
            TroubleKind::Overtaken
        }

        "AccessDenied"
        | "UnauthorizedOperation"
        | "AuthFailure"
        | "UnrecognizedClient"
        | "InvalidClientTokenId"
        | "SignatureDoesNotMatch"
        | "InvalidSignature"
        | "InvalidAccessKeyId"
        | "ExpiredToken"
        | "RequestExpired"
        | "RequestTimeTooSkewed"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenToken"
        | "IncompleteSignature"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "OptInRequired"
        | "NotAuthorized"
        | "AllAccessDisabled"
        | "AccountProblem"
        | "InvalidSecurity"
        | "NotSignedUp"
        | "Forbidden" => TroubleKind::CredentialRefused,

        "DBInstanceNotFound"
        | "ReplicationGroupNotFound"
        | "GlobalReplicationGroupNotFound"
        | "CacheClusterNotFound"
        | "NoSuchBucket"
        | "NoSuchKey"
        | "NoSuchHostedZone"
        | "NoSuchChange"
        | "NotFound"
        | "ReplicationConfigurationNotFoundError" => TroubleKind::NotFound,

        _ => match of_status(status) {
            TroubleKind::Broken => TroubleKind::Broken,
            TroubleKind::Throttled => TroubleKind::Throttled,
            TroubleKind::Own
            | TroubleKind::Network(_)
            | TroubleKind::NoAnswer
            | TroubleKind::CredentialRefused
            | TroubleKind::NotFound
            | TroubleKind::Refused
            | TroubleKind::State
            | TroubleKind::Overtaken
            | TroubleKind::Unreadable => TroubleKind::Refused,
        },
    }
}

/// The answer to a HEAD request has no body and so no code: then the status is all there is.
pub(crate) fn of_status(status: u16) -> TroubleKind {
    match status {
        401 | 403 => TroubleKind::CredentialRefused,
        404 => TroubleKind::NotFound,
        409 | 412 => TroubleKind::Overtaken,
        429 => TroubleKind::Throttled,
        400..=499 => TroubleKind::Refused,
        500..=599 => TroubleKind::Broken,
        _ => TroubleKind::Unreadable,
    }
}

/// Servers send what they like; a record of it stays short.
fn bounded(mut text: String) -> String {
    const LENGTH_MAX: usize = 400;
    if text.len() > LENGTH_MAX {
        let end = (0..=LENGTH_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_decides_whatever_the_status_is() {
        for (code, status, kind) in [
            ("Throttling", 400, TroubleKind::Throttled),
            ("SlowDown", 503, TroubleKind::Throttled),
            ("PriorRequestNotComplete", 400, TroubleKind::Throttled),
            ("InvalidDBInstanceState", 400, TroubleKind::State),
            ("InvalidReplicationGroupStateFault", 400, TroubleKind::State),
            ("UnrecognizedClientException", 400, TroubleKind::CredentialRefused),
            ("AccessDenied", 403, TroubleKind::CredentialRefused),
            ("DBInstanceNotFoundFault", 404, TroubleKind::NotFound),
            ("InvalidParameterValue", 400, TroubleKind::Refused),
            ("SomethingNew", 500, TroubleKind::Broken),
            ("SomethingNew", 400, TroubleKind::Refused),
        ] {
            assert_eq!(of_code(code, status), kind, "{code} with {status}");
        }
    }

    #[test]
    fn a_refused_credential_proves_life_and_bars_the_target() {
        let mut evidence = Evidence::default();
        let trouble = Trouble { call: "s3".into(), kind: TroubleKind::CredentialRefused, why: "AccessDenied".into() };
        assert_eq!(trouble.finding(&mut evidence), Finding::Alive);
        assert!(evidence.credential_refused);
    }

    #[test]
    fn a_long_answer_is_cut_at_a_character() {
        assert!(bounded("é".repeat(1000)).chars().count() < 250);
    }
}
