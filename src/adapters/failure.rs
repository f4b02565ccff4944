//! What an error from a network library says about where it went wrong: out there, or with us.
//!
//! Every client wraps the cause differently (hyper, reqwest, kube, tokio-postgres and the AWS SDKs all end in an
//! `io::Error`, a `rustls::Error` or a failed name lookup), so the whole chain is inspected. It deliberately knows
//! nothing about what a server *answered*: an error without a network cause gives `None`.

use std::error::Error;
use std::fmt::Write as _;
use std::io;

use rustix::io::Errno;

use crate::domain::{Finding, Layer};

/// Where a connection came to grief.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkFailure {
    /// The name does not resolve (a resolver answered that there is no such name, or no address for it).
    Dns,
    /// No connection, or the connection broke.
    Tcp,
    /// Connected, and no TLS session came about.
    Tls,
    /// The server showed a certificate that has expired.
    Expired,
    /// The server showed a certificate that we do not trust: nothing is known about the server.
    UntrustedByUs,
    /// The reason lies with this machine (resolver, sockets, routes, memory, a client certificate that is not
    /// accepted); the text says which.
    Own(String),
}

impl NetworkFailure {
    /// What a probe concludes from it. `why` is the text for people, usually [`describe`] of the same error.
    pub fn finding(self, why: String) -> Finding {
        match self {
            Self::Dns => Finding::Failing { layer: Layer::Dns, why },
            Self::Tcp => Finding::Failing { layer: Layer::Tcp, why },
            Self::Tls | Self::Expired => Finding::Failing { layer: Layer::Tls, why },
            Self::UntrustedByUs => Finding::Unknown { why: format!("its certificate is not trusted here: {why}") },
            Self::Own(own) => Finding::Unknown { why: format!("{own}: {why}") },
        }
    }
}

/// A name lookup that failed, told apart by who is to blame. For clients with a resolver of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveFailure {
    /// A resolver answered, and there is no such name or no address for it.
    #[error("the name {0} does not resolve")]
    NoSuchName(String),
    /// No resolver gave a usable answer.
    #[error("cannot resolve {name}: {why}")]
    NoResolver {
        /// The name that was asked for.
        name: String,
        /// What happened.
        why: String,
    },
}

/// The network failure at the root of `error`, if there is one.
///
/// The deepest cause decides. `io::Error` hides its payload from `source()`, so it is opened by hand.
///
/// A client that tries several addresses reports only one error. Where it tries IPv6 addresses from a machine without
/// IPv6 after the IPv4 ones failed, the answer is `Own` (no route); a client that chooses addresses itself should not
/// try families that this machine has no route for.
pub fn from_chain(error: &(dyn Error + 'static)) -> Option<NetworkFailure> {
    inspect(error, 0)
}

/// The error with its whole chain on one line, each cause once.
pub fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    for _ in 0..DEPTH_MAX {
        let Some(cause) = next else { break };
        let cause_text = cause.to_string();
        // Many libraries repeat the source in their own text.
        if !text.contains(&cause_text) {
            // Writing to a string cannot fail.
            let _ = write!(text, ": {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// Chains are a handful deep; a cycle must not hang a probe.
const DEPTH_MAX: usize = 32;

fn inspect(error: &(dyn Error + 'static), depth: usize) -> Option<NetworkFailure> {
    if depth > DEPTH_MAX {
        return None;
    }
    let io = error.downcast_ref::<io::Error>();
    let inner = match io {
        Some(io) => io.get_ref().map(|payload| payload as &(dyn Error + 'static)),
        None => error.source(),
    };
    if let Some(found) = inner.and_then(|inner| inspect(inner, depth + 1)) {
        return Some(found);
    }
    if let Some(io) = io {
        return of_io(io);
    }
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(of_tls(tls));
    }
    if let Some(resolve) = error.downcast_ref::<ResolveFailure>() {
        return Some(match resolve {
            ResolveFailure::NoSuchName(_) => NetworkFailure::Dns,
            ResolveFailure::NoResolver { .. } => NetworkFailure::Own("our resolver does not answer".into()),
        });
    }
    if let Some(http) = error.downcast_ref::<reqwest::Error>()
        && http.is_connect()
        && http.is_timeout()
    {
        return Some(NetworkFailure::Tcp);
    }
    None
}

fn of_io(error: &io::Error) -> Option<NetworkFailure> {
    if let Some(errno) = error.raw_os_error() {
        return of_errno(Errno::from_raw_os_error(errno));
    }
    let text = error.to_string();
    if let Some(detail) = text.strip_prefix(LOOKUP_FAILED) {
        return Some(of_lookup(detail));
    }
    if text == NO_ADDRESS {
        return Some(NetworkFailure::Dns);
    }
    if text.contains("tls handshake eof") {
        return Some(NetworkFailure::Tls);
    }
    #[allow(clippy::wildcard_enum_match_arm)] // not our enum, and it grows: what is not known says nothing
    match error.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::NotConnected
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::TimedOut
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::UnexpectedEof => Some(NetworkFailure::Tcp),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => {
            Some(NetworkFailure::Own("this machine has no route".into()))
        }
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable => {
            Some(NetworkFailure::Own("this machine has no free local address or port".into()))
        }
        io::ErrorKind::PermissionDenied => Some(NetworkFailure::Own("this machine does not allow the call".into())),
        io::ErrorKind::OutOfMemory => Some(NetworkFailure::Own("this machine is out of memory".into())),
        _ => None,
    }
}

fn of_errno(errno: Errno) -> Option<NetworkFailure> {
    let own = |text: &str| Some(NetworkFailure::Own(text.to_owned()));
    match errno {
        Errno::CONNREFUSED
        | Errno::CONNRESET
        | Errno::CONNABORTED
        | Errno::TIMEDOUT
        | Errno::HOSTUNREACH
        | Errno::HOSTDOWN
        | Errno::NOTCONN
        | Errno::PIPE => Some(NetworkFailure::Tcp),
        Errno::NETUNREACH | Errno::NETDOWN => own("this machine has no route"),
        Errno::ADDRNOTAVAIL | Errno::ADDRINUSE => own("this machine has no free local address or port"),
        Errno::MFILE | Errno::NFILE => own("this process may not open more files"),
        Errno::NOBUFS | Errno::NOMEM => own("this machine is out of memory"),
        Errno::ACCESS | Errno::PERM => own("this machine does not allow the call"),
        Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT => own("this machine does not support the address family"),
        _ => None,
    }
}

/// How the standard library begins the text of a failed `getaddrinfo`. There is no typed way to learn it.
const LOOKUP_FAILED: &str = "failed to lookup address information: ";
/// How tokio says that a lookup gave no address.
const NO_ADDRESS: &str = "could not resolve to any addresses";

/// `getaddrinfo` in words. "Temporary failure" covers an unreachable resolver, so it is ours.
fn of_lookup(detail: &str) -> NetworkFailure {
    let answered =
        ["Name or service not known", "No address associated with", "nodename nor servname", "Name does not resolve"];
    if answered.iter().any(|text| detail.starts_with(text)) {
        NetworkFailure::Dns
    } else {
        NetworkFailure::Own("our resolver does not answer".to_owned())
    }
}

#[allow(clippy::wildcard_enum_match_arm)] // not our enum; everything else is a session that did not come about
fn of_tls(error: &rustls::Error) -> NetworkFailure {
    use rustls::{AlertDescription as Alert, CertificateError};
    match error {
        // One that is not valid *yet* is how our own wrong clock looks.
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            NetworkFailure::Expired
        }
        rustls::Error::InvalidCertificate(_) | rustls::Error::InvalidCertRevocationList(_) => {
            NetworkFailure::UntrustedByUs
        }
        rustls::Error::AlertReceived(
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::CertificateRequired
            | Alert::UnknownCA
            | Alert::AccessDenied,
        ) => NetworkFailure::Own("the server does not accept our client certificate".to_owned()),
        rustls::Error::FailedToGetCurrentTime | rustls::Error::FailedToGetRandomBytes => {
            NetworkFailure::Own("this machine has no clock or no randomness".to_owned())
        }
        _ => NetworkFailure::Tls,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("error sending request")]
    struct Outer(#[source] io::Error);

    #[test]
    fn a_refused_connection_is_found_below_its_wrappers() {
        let error = Outer(io::Error::other(io::Error::from_raw_os_error(111)));
        assert_eq!(from_chain(&error), Some(NetworkFailure::Tcp));
    }

    #[test]
    fn a_certificate_that_we_do_not_trust_is_found_inside_two_io_errors() {
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let error = Outer(io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls)));
        assert_eq!(from_chain(&error), Some(NetworkFailure::UntrustedByUs));
    }

    #[test]
    fn an_expired_certificate_is_the_servers_failure_and_one_of_the_future_is_not() {
        let found = |certificate| {
            let tls = rustls::Error::InvalidCertificate(certificate);
            from_chain(&Outer(io::Error::new(io::ErrorKind::InvalidData, tls)))
        };
        assert_eq!(found(rustls::CertificateError::Expired), Some(NetworkFailure::Expired));
        assert_eq!(found(rustls::CertificateError::NotValidYet), Some(NetworkFailure::UntrustedByUs));
    }

    #[test]
    fn a_plain_text_server_on_a_tls_port_is_failing_at_tls() {
        let tls = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let error = Outer(io::Error::new(io::ErrorKind::InvalidData, tls));
        assert_eq!(from_chain(&error), Some(NetworkFailure::Tls));
    }

    #[test]
    fn running_out_of_files_ports_or_routes_is_our_own_doing() {
        for errno in [Errno::MFILE, Errno::ADDRNOTAVAIL, Errno::NETUNREACH] {
            let found = from_chain(&Outer(io::Error::from_raw_os_error(errno.raw_os_error())));
            assert!(matches!(found, Some(NetworkFailure::Own(_))), "{errno:?}: {found:?}");
        }
    }

    #[test]
    fn a_resolver_that_says_no_such_name_is_told_from_one_that_does_not_answer() {
        let answer = |detail: &str| from_chain(&Outer(io::Error::other(format!("{LOOKUP_FAILED}{detail}"))));
        assert_eq!(answer("Name or service not known"), Some(NetworkFailure::Dns));
        assert!(matches!(answer("Temporary failure in name resolution"), Some(NetworkFailure::Own(_))));
    }

    #[test]
    fn an_error_without_a_network_cause_says_nothing() {
        assert_eq!(from_chain(&Outer(io::Error::other("a body that is no JSON"))), None);
    }

    #[test]
    fn a_chain_is_described_once_per_cause() {
        let error = Outer(io::Error::from_raw_os_error(111));
        assert_eq!(describe(&error), "error sending request: Connection refused (os error 111)");
    }

    #[tokio::test]
    async fn the_texts_of_this_platforms_lookups_are_recognised() {
        let refused = tokio::net::TcpStream::connect("127.0.0.1:1").await.expect_err("nothing listens there");
        assert_eq!(from_chain(&refused), Some(NetworkFailure::Tcp));
        let unknown = tokio::net::lookup_host("no-such-name.invalid:1").await.map(|_| ()).expect_err("reserved name");
        // Without any network the resolver itself is out of reach; either way it is recognised.
        assert!(matches!(from_chain(&unknown), Some(NetworkFailure::Dns | NetworkFailure::Own(_))), "{unknown}");
    }
}
