//! Name lookups that say who is to blame when they fail, for clients that accept a resolver.
//!
//! Deliberately without a cache: a probe that works only because an answer was remembered hides a broken zone.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};

use super::failure::ResolveFailure;

/// Resolves names with the configured servers, or with the system's where none are configured.
#[derive(Clone)]
pub struct Resolver {
    servers: Servers,
    limit: Duration,
}

#[derive(Clone)]
enum Servers {
    /// `getaddrinfo`, with everything that the machine's administrator configured.
    System,
    /// The servers of `[probes] nameservers`.
    Configured(Box<TokioResolver>),
    /// The configured servers cannot be used; the text says why.
    Unusable(String),
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Resolver {
    /// `nameservers` as configured, empty for the system's; a lookup that takes longer than `limit` is our own failure.
    pub fn new(nameservers: &[SocketAddr], limit: Duration) -> Self {
        let servers = if nameservers.is_empty() {
            Servers::System
        } else {
            match configured(nameservers, ResolveHosts::Auto, limit) {
                Ok(resolver) => Servers::Configured(Box::new(resolver)),
                Err(error) => Servers::Unusable(error.to_string()),
            }
        };
        Self { servers, limit }
    }

    /// The addresses of `name`, never empty. IPv6 addresses only where there is no IPv4 one: an attempt on a family
    /// that this machine has no route for would hide why the other one failed.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveFailure> {
        let no_resolver = |why: String| ResolveFailure::NoResolver { name: name.to_owned(), why };
        let answer = tokio::time::timeout(self.limit, self.ask(name))
            .await
            .map_err(|_| no_resolver(format!("no answer within {:?}", self.limit)))??;
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = answer.into_iter().partition(IpAddr::is_ipv4);
        let usable = if v4.is_empty() { v6 } else { v4 };
        if usable.is_empty() { Err(ResolveFailure::NoSuchName(name.to_owned())) } else { Ok(usable) }
    }

    async fn ask(&self, name: &str) -> Result<Vec<IpAddr>, ResolveFailure> {
        let no_resolver = |why: String| ResolveFailure::NoResolver { name: name.to_owned(), why };
        match &self.servers {
            Servers::System => match tokio::net::lookup_host((name, 0)).await {
                Ok(addresses) => Ok(addresses.map(|address| address.ip()).collect()),
                Err(error) => match super::failure::from_chain(&error) {
                    Some(super::failure::NetworkFailure::Dns) => Err(ResolveFailure::NoSuchName(name.to_owned())),
                    Some(_) | None => Err(no_resolver(error.to_string())),
                },
            },
            Servers::Configured(resolver) => match resolver.lookup_ip(name).await {
                Ok(addresses) => Ok(addresses.iter().collect()),
                // A server answered that it cannot say (SERVFAIL): that is how a broken zone looks from here.
                Err(NetError::Dns(DnsError::NoRecordsFound(_) | DnsError::ResponseCode(_))) => {
                    Err(ResolveFailure::NoSuchName(name.to_owned()))
                }
                Err(error) => Err(no_resolver(error.to_string())),
            },
            Servers::Unusable(why) => Err(no_resolver(why.clone())),
        }
    }
}

/// A resolver without cache that asks just these servers. Each question takes at most `limit`.
pub(crate) fn configured(
    nameservers: &[SocketAddr],
    hosts: ResolveHosts,
    limit: Duration,
) -> Result<TokioResolver, NetError> {
    let servers = nameservers
        .iter()
        .map(|address| {
            let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
            for connection in &mut connections {
                connection.port = address.port();
            }
            NameServerConfig::new(address.ip(), true, connections)
        })
        .collect();
    let mut builder =
        TokioResolver::builder_with_config(ResolverConfig::from_name_servers(servers), TokioRuntimeProvider::default());
    let mut options = ResolverOpts::default();
    options.timeout = limit / 2;
    options.attempts = 1;
    options.cache_size = 0;
    options.use_hosts_file = hosts;
    options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
    *builder.options_mut() = options;
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_server_that_does_not_answer_is_our_own_trouble() {
        // Bound and never read: questions vanish.
        let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let address = silent.local_addr().expect("bound");
        let resolver = Resolver::new(&[address], Duration::from_millis(300));
        let failure = resolver.resolve("example.org").await.expect_err("nobody answers");
        assert!(matches!(failure, ResolveFailure::NoResolver { .. }), "{failure}");
    }

    #[tokio::test]
    async fn the_system_knows_localhost() {
        let resolver = Resolver::new(&[], Duration::from_secs(5));
        let addresses = resolver.resolve("localhost").await.expect("every machine knows it");
        assert!(addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
    }
}
