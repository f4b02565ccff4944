//! Names for probes: a name that does not resolve is the instance's failure only while reference names resolve.
//!
//! Nothing is remembered between two lookups, apart from the answer of the reference names, for a second: when a
//! zone is lost, every instance in it asks about them at the same moment.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use super::failure::ResolveFailure;
use super::resolver::Resolver;
use crate::config::Config;

/// Resolves names, and knows whether a failure is ours. Shared by all probes.
#[derive(Debug)]
pub struct Names {
    resolver: Resolver,
    /// Host names of the reference points.
    references: Vec<String>,
    /// When they were asked last, and which one resolved.
    asked: Mutex<Option<(Instant, Option<String>)>>,
    /// The system's resolver blocks a thread per question; a dead one must not take the threads that others need.
    places: Semaphore,
}

/// Questions to the resolver at the same time.
const PLACES: usize = 64;
/// How long an answer of the reference names counts.
const REFERENCES_FRESH: Duration = Duration::from_secs(1);

impl Names {
    /// With the configured name servers and the host names of the configured reference points.
    pub fn new(config: &Config) -> Arc<Self> {
        let shortest = config
            .clusters
            .values()
            .map(|cluster| cluster.probe)
            .chain(config.http.values().map(|http| http.probe))
            .filter_map(|probe| probe.timeout)
            .fold(config.probes.timeout, Duration::min);
        let references = config.references.values().filter_map(|reference| host_name(&reference.address)).collect();
        // Two lookups in a row, the name's and the reference names', have to fit into a probe with time to spare.
        Self::with(Resolver::new(&config.probes.nameservers, shortest / 3), references)
    }

    fn with(resolver: Resolver, references: Vec<String>) -> Arc<Self> {
        Arc::new(Self { resolver, references, asked: Mutex::new(None), places: Semaphore::new(PLACES) })
    }

    /// The addresses of `host`, never empty. An address in brackets or without stands for itself.
    ///
    /// `NoSuchName` only while a reference name resolves; without any reference name that is never known.
    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveFailure> {
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(vec![address]);
        }
        let failure = match self.ask(host).await {
            Ok(addresses) => return Ok(addresses),
            Err(failure) => failure,
        };
        match self.a_reference_resolves(host).await {
            Some(_) => Err(ResolveFailure::NoSuchName(host.to_owned())),
            None => Err(ResolveFailure::NoResolver {
                name: host.to_owned(),
                why: if self.references.is_empty() {
                    format!("{failure}, and no reference point has a name to compare with")
                } else {
                    format!("{failure}, and no reference name resolves either")
                },
            }),
        }
    }

    async fn ask(&self, host: &str) -> Result<Vec<IpAddr>, ResolveFailure> {
        // The semaphore is never closed.
        let _place = self.places.acquire().await;
        self.resolver.resolve(host).await
    }

    /// A reference name, other than `host`, that resolves right now.
    async fn a_reference_resolves(&self, host: &str) -> Option<String> {
        let mut asked = self.asked.lock().await;
        if let Some((when, answer)) = &*asked
            && when.elapsed() < REFERENCES_FRESH
            && answer.as_deref() != Some(host)
        {
            return answer.clone();
        }
        let mut answers: FuturesUnordered<_> = self
            .references
            .iter()
            .filter(|name| *name != host)
            .map(async |name| self.resolver.resolve(name).await.map(|_| name.clone()))
            .collect();
        let mut found = None;
        while let Some(answer) = answers.next().await {
            if let Ok(name) = answer {
                found = Some(name);
                break;
            }
        }
        *asked = Some((Instant::now(), found.clone()));
        found
    }
}

/// The name in `host:port` or in a URL; none for an address and for the machine itself, which prove nothing.
fn host_name(address: &str) -> Option<String> {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, authority)| authority);
    if authority.starts_with('[') {
        return None;
    }
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let is_local = host == "localhost" || host.ends_with(".localhost");
    (!host.is_empty() && !is_local && host.parse::<IpAddr>().is_err()).then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_need_a_resolver_are_reference_names() {
        let names = [
            "one.example:53",
            "https://two.example/status",
            "http://u:p@three.example:8080?x",
            "192.0.2.1:53",
            "[2001:db8::1]:53",
            "https://[2001:db8::1]/",
            "localhost:80",
        ];
        let found: Vec<String> = names.iter().filter_map(|name| host_name(name)).collect();
        assert_eq!(found, ["one.example", "two.example", "three.example"]);
    }

    #[tokio::test]
    async fn an_address_stands_for_itself() {
        let names = Names::with(Resolver::new(&[], Duration::from_secs(1)), vec![]);
        assert_eq!(names.resolve("[::1]").await, Ok(vec!["::1".parse().unwrap()]));
        assert_eq!(names.resolve("127.0.0.1").await, Ok(vec!["127.0.0.1".parse().unwrap()]));
    }

    #[tokio::test]
    async fn a_name_that_fails_while_no_reference_name_resolves_is_our_trouble() {
        let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let resolver = Resolver::new(&[silent.local_addr().unwrap()], Duration::from_millis(200));
        let names = Names::with(resolver, vec!["reference.example".into()]);
        let failure = names.resolve("service.example").await.expect_err("nobody answers");
        assert!(matches!(failure, ResolveFailure::NoResolver { .. }), "{failure}");
    }
}
