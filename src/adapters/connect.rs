//! Sockets for the clients that let us open them: one place that knows how deep a connection got, by when it has to
//! be there, and whom we trust. It deliberately speaks no protocol above TLS.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Endpoint;
use super::failure::{NetworkFailure, describe, from_chain};
use super::names::Names;
use crate::domain::time::human;
use crate::domain::{Finding, Layer};

/// A conversation that did not come about or broke off, told apart by who is to blame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Out there.
    There {
        /// The layer that was tried when it happened.
        layer: Layer,
        /// What was seen.
        why: String,
    },
    /// On this machine, or in what we trust and know.
    Here {
        /// What was seen.
        why: String,
    },
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::There { why, .. } | Self::Here { why } => f.write_str(why),
        }
    }
}

impl std::error::Error for Broken {}

impl Broken {
    /// The network failure inside `error`, if there is one; `layer` is what was being tried.
    pub(crate) fn of(error: &(dyn std::error::Error + 'static), layer: Layer) -> Option<Self> {
        let why = describe(error);
        Some(match from_chain(error)? {
            // A connection that breaks later on broke at that layer.
            NetworkFailure::Tcp => Self::There { layer: layer.max(Layer::Tcp), why },
            // A browser refuses it. Applications of databases and caches often do not check, and pods do not ask their
            // API server: it may be serving everybody but us.
            NetworkFailure::Expired => Self::Here {
                why: format!("its certificate has expired, and clients that do not check it go on: {why}"),
            },
            failure @ (NetworkFailure::Dns
            | NetworkFailure::Tls
            | NetworkFailure::UntrustedByUs
            | NetworkFailure::Own(_)) => match failure.finding(why) {
                Finding::Failing { layer, why } => Self::There { layer, why },
                Finding::Unknown { why } => Self::Here { why },
                Finding::Alive => return None,
            },
        })
    }

    /// Nothing came in time.
    pub(crate) fn late(layer: Layer, waited: Duration) -> Self {
        let what = match layer {
            Layer::Dns => "the name was not resolved",
            Layer::Tcp => "no connection",
            Layer::Tls => "connected, but no TLS session",
            Layer::Greeting => "connected, but it did not greet",
            Layer::Query => "connected, but no answer",
            Layer::Role => "no answer about its role",
            Layer::Write => "no answer to a write",
        };
        Self::There { layer, why: format!("{what} within {}", human(waited)) }
    }

    /// What a probe concludes.
    pub(crate) fn finding(self) -> Finding {
        match self {
            Self::There { layer, why } => Finding::Failing { layer, why },
            Self::Here { why } => Finding::Unknown { why },
        }
    }
}

/// Opens a TCP connection to any address that the name has, before `until`.
///
/// Every address gets an equal share of the time that is left, so that a first address that swallows packets does not
/// hide a second one that works. Our own trouble with one address is blamed only if nothing else failed.
pub(crate) async fn tcp(at: &Endpoint, names: &Names, until: Instant) -> Result<TcpStream, Broken> {
    let began = Instant::now();
    let mut addresses = addresses(at, names, until).await?;
    addresses.truncate(ADDRESSES_MAX);
    let mut worst = None;
    for (tried, address) in addresses.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(1);
        let broken = match tokio::time::timeout(share, TcpStream::connect((*address, at.port))).await {
            Ok(Ok(stream)) => {
                // Without it small requests may wait for an acknowledgement; failing to set it only costs time.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => Broken::of(&error, Layer::Tcp)
                .unwrap_or_else(|| Broken::There { layer: Layer::Tcp, why: describe(&error) }),
            Err(_) => Broken::late(Layer::Tcp, began.elapsed()),
        };
        worst = Some(match (worst, broken) {
            (Some(there @ Broken::There { .. }), _) => there,
            (Some(Broken::Here { .. }) | None, broken) => broken,
        });
    }
    Err(match worst {
        Some(Broken::There { layer, why }) => Broken::There { layer, why: format!("{}:{}: {why}", at.host, at.port) },
        Some(here @ Broken::Here { .. }) => here,
        None => Broken::There { layer: Layer::Dns, why: format!("the name {} has no address", at.host) },
    })
}

async fn addresses(at: &Endpoint, names: &Names, until: Instant) -> Result<Vec<IpAddr>, Broken> {
    match timeout_at(until, names.resolve(&at.host)).await {
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(failure)) => Err(Broken::of(&failure, Layer::Dns)
            .unwrap_or_else(|| Broken::Here { why: format!("cannot resolve {}: {failure}", at.host) })),
        Err(_) => Err(Broken::Here { why: format!("our resolver did not answer in time for {}", at.host) }),
    }
}

/// More addresses than this would leave too little time for each.
const ADDRESSES_MAX: usize = 4;

/// Makes a TLS session on `stream`, for the name `host`, before `until`.
pub(crate) async fn tls(
    trust: Arc<ClientConfig>,
    host: &str,
    stream: TcpStream,
    until: Instant,
) -> Result<TlsStream<TcpStream>, Broken> {
    let began = Instant::now();
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Broken::Here { why: format!("`{host}` cannot be the name in a certificate") })?;
    match timeout_at(until, TlsConnector::from(trust).connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(Broken::of(&error, Layer::Tls)
            .unwrap_or_else(|| Broken::There { layer: Layer::Tls, why: describe(&error) })),
        Err(_) => Err(Broken::late(Layer::Tls, began.elapsed())),
    }
}

/// A trust store that cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The CA bundle cannot be read.
    #[error("cannot read the certificates in {path}; write a PEM file with at least one CA certificate")]
    Bundle {
        /// Which file.
        path: PathBuf,
        /// Why, where there is more to say than that it holds no certificate.
        source: Option<rustls::pki_types::pem::Error>,
    },
    /// The TLS library refuses its own defaults.
    #[error("cannot set up TLS")]
    Library(#[from] rustls::Error),
}

/// Trusts the system's certificates and those in `ca_file`.
///
/// A system without certificates is not an error: whoever only speaks to servers of one CA does not need them.
pub(crate) fn trust(ca_file: Option<&Path>) -> Result<ClientConfig, TrustError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let refuse = |source| TrustError::Bundle { path: path.to_owned(), source };
        let mut added = 0;
        for certificate in CertificateDer::pem_file_iter(path).map_err(|source| refuse(Some(source)))? {
            let certificate = certificate.map_err(|source| refuse(Some(source)))?;
            roots.add(certificate).map_err(TrustError::Library)?;
            added += 1;
        }
        if added == 0 {
            return Err(refuse(None));
        }
    }
    Ok(ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// One line for people out of what a server said: no line breaks, no more than `max` characters.
pub(crate) fn one_line(text: &str, max: usize) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if clean.chars().count() <= max { clean } else { clean.chars().take(max).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Arc<Names> {
        let config =
            crate::config::load(&[concat!(env!("CARGO_MANIFEST_DIR"), "/config/omnimesh.toml").into()], &[].into());
        Names::new(&config.unwrap_or_else(|mistakes| panic!("{mistakes}")).config)
    }

    #[tokio::test]
    async fn a_port_where_nothing_listens_is_failing_at_tcp() {
        let at = Endpoint { host: "127.0.0.1".into(), port: 1 };
        let broken =
            tcp(&at, &names(), Instant::now() + Duration::from_secs(5)).await.map(|_| ()).expect_err("nothing there");
        assert!(matches!(broken, Broken::There { layer: Layer::Tcp, .. }), "{broken:?}");
    }

    #[tokio::test]
    async fn a_server_that_accepts_and_says_nothing_is_failing_at_tls() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = Endpoint { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        let until = Instant::now() + Duration::from_millis(200);
        let stream = tcp(&at, &names(), until).await.unwrap();
        let broken =
            tls(Arc::new(trust(None).unwrap()), &at.host, stream, until).await.map(|_| ()).expect_err("silent");
        assert!(matches!(broken, Broken::There { layer: Layer::Tls, .. }), "{broken:?}");
    }

    #[test]
    fn a_ca_file_without_certificates_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refused = trust(Some(file.path())).map(|_| ()).expect_err("it is empty");
        assert!(refused.to_string().contains(file.path().to_str().unwrap()), "{refused}");
    }

    #[test]
    fn what_a_server_says_is_cut_to_one_short_line() {
        assert_eq!(one_line("a\nb\u{1b}[31m", 3), "a b…");
    }
}
