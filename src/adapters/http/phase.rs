//! How deep a request got, told by the two hooks that reqwest's connector leaves open: the resolver, and the TLS
//! session store. Without them a timeout is only a timeout.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

use crate::adapters::names::Names;

/// What a connection is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    /// For the name.
    Resolver,
    /// For the connection.
    Connection,
    /// For the TLS session.
    Session,
}

/// The phase of the request under way. A client has at most one.
#[derive(Debug, Default)]
pub(super) struct Phase(AtomicU8);

const RESOLVER: u8 = 0;
const CONNECTION: u8 = 1;
const SESSION: u8 = 2;

impl Phase {
    /// Before a request. An address needs no resolver.
    pub(super) fn reset(&self, needs_resolver: bool) {
        self.0.store(if needs_resolver { RESOLVER } else { CONNECTION }, Ordering::Relaxed);
    }

    pub(super) fn waiting(&self) -> Waiting {
        match self.0.load(Ordering::Relaxed) {
            RESOLVER => Waiting::Resolver,
            CONNECTION => Waiting::Connection,
            _ => Waiting::Session,
        }
    }
}

/// Resolves through our own resolver, or to the address that was configured instead.
pub(super) struct PhasedResolver {
    pub(super) names: Arc<Names>,
    pub(super) connect_to: Option<SocketAddr>,
    pub(super) phase: Arc<Phase>,
}

impl Resolve for PhasedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let phase = self.phase.clone();
        if let Some(address) = self.connect_to {
            phase.0.store(CONNECTION, Ordering::Relaxed);
            return Box::pin(async move { Ok(Box::new(std::iter::once(address)) as Addrs) });
        }
        let names = self.names.clone();
        Box::pin(async move {
            let found = names.resolve(name.as_str()).await?;
            phase.0.store(CONNECTION, Ordering::Relaxed);
            // Port 0 stands for the URL's.
            Ok(Box::new(found.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs)
        })
    }
}

/// Remembers no session. A resumed session would not show the server's certificate, so that one that has expired
/// since would go unseen. Being asked for a session means that the connection stands and TLS begins.
#[derive(Debug)]
pub(super) struct NoSessions(pub(super) Arc<Phase>);

impl ClientSessionStore for NoSessions {
    fn set_kx_hint(&self, _server: ServerName<'static>, _group: NamedGroup) {}

    fn kx_hint(&self, _server: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.0.store(SESSION, Ordering::Relaxed);
        None
    }

    fn set_tls12_session(&self, _server: ServerName<'static>, _value: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.0.store(SESSION, Ordering::Relaxed);
        None
    }

    fn remove_tls12_session(&self, _server: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _server: ServerName<'static>, _value: Tls13ClientSessionValue) {}

    fn take_tls13_ticket(&self, _server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.0.store(SESSION, Ordering::Relaxed);
        None
    }
}
