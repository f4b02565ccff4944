//! What clients are told: name servers are asked one by one, past every cache.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolveHosts;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{RData, RecordType};

use super::resolver::configured;
use crate::config::Config;
use crate::config::schema::DnsCheck;
use crate::domain::RegionId;
use crate::ports::Setback;

/// Weighted answers differ from question to question, so each server is asked a few times.
const QUESTIONS: usize = 3;
/// Where name servers answer (RFC 1035, 4.2).
const PORT: u16 = 53;

/// Every answer that each of these servers gives for `record`, an absolute name without its last dot.
pub async fn ask_all(
    servers: &[SocketAddr],
    record: &str,
    limit: Duration,
) -> Vec<(SocketAddr, Result<BTreeSet<Ipv4Addr>, String>)> {
    let asking = servers.iter().map(|server| async move { (*server, ask(*server, record, limit).await) });
    join_all(asking).await
}

/// Right answers from every server that answers, and from one at least; in words.
///
/// # Errors
/// `NotYet` with the first wrong answer, or with why nobody answers.
pub fn judge(
    answers: &[(SocketAddr, Result<BTreeSet<Ipv4Addr>, String>)],
    record: &str,
    wanted: &BTreeSet<Ipv4Addr>,
) -> Result<String, Setback> {
    let mut right = 0;
    let mut silent = Vec::new();
    for (server, answer) in answers {
        match answer {
            Ok(found) if !found.is_empty() && found.is_subset(wanted) => right += 1,
            Ok(found) => {
                let (found, wanted) = (listed(found), listed(wanted));
                return Err(Setback::NotYet(format!("{server} answers {found} for {record}, not {wanted} alone")));
            }
            Err(why) => silent.push(format!("{server}: {why}")),
        }
    }
    if right == 0 {
        return Err(Setback::NotYet(format!("no name server answers: {}", silent.join("; "))));
    }
    let mut text = format!("{right} of {} name servers answer {}", answers.len(), listed(wanted));
    if !silent.is_empty() {
        text.push_str(&format!(" ({})", silent.join("; ")));
    }
    Ok(text)
}

/// Asks as the check says: its own name servers, or else the ones that are responsible for the record's zone.
///
/// # Errors
/// As [`judge`]; `Refused` where the configuration does not say what is expected in `region`.
pub(crate) async fn check(config: &Config, check: &DnsCheck, region: &RegionId) -> Result<String, Setback> {
    let (record, wanted) = expected(config, check, region)?;
    let limit = config.probes.timeout;
    let servers = match check.nameservers.as_slice() {
        [] => authoritative(&record, &config.probes.nameservers, PORT, limit).await.map_err(Setback::NotYet)?,
        servers => servers.to_vec(),
    };
    let answers = ask_all(&servers, &record, limit).await;
    judge(&answers, &record, &wanted).map(|seen| format!("{record}: {seen}"))
}

/// The record, and the addresses that clients have to be told of it while `region` serves.
fn expected(config: &Config, check: &DnsCheck, region: &RegionId) -> Result<(String, BTreeSet<Ipv4Addr>), Setback> {
    let traffic = check.traffic.as_ref().and_then(|traffic| config.traffic.get(traffic));
    let record = check.record.as_deref().or(traffic.map(|traffic| traffic.record.as_str())).unwrap_or_default();
    let of_traffic = || traffic.and_then(|traffic| traffic.regions.get(region)?.value.parse().ok());
    let wanted = match check.addresses.get(region) {
        Some(addresses) => addresses.clone(),
        None => of_traffic().into_iter().collect(),
    };
    if wanted.is_empty() {
        return Err(Setback::Refused(format!("no address of {record} is configured for {region}; write addresses")));
    }
    Ok((record.trim_end_matches('.').to_owned(), wanted))
}

/// The servers that are responsible for the zone of `record`, found as a resolver finds them: `through` is asked, or the
/// system's resolver where it is empty.
pub async fn authoritative(
    record: &str,
    through: &[SocketAddr],
    port: u16,
    limit: Duration,
) -> Result<Vec<SocketAddr>, String> {
    let resolver = match through {
        [] => TokioResolver::builder_tokio().and_then(|builder| builder.build()),
        servers => configured(servers, ResolveHosts::Never, limit),
    };
    let resolver = resolver.map_err(|error| format!("the system's resolver cannot be used: {error}"))?;
    let find = async {
        let mut zone = record;
        // The zone begins at the record itself or above it; a single label is nobody's own zone.
        while zone.contains('.') {
            let names = name_servers(&resolver, zone).await?;
            if !names.is_empty() {
                return addresses_of(&resolver, zone, &names, port).await;
            }
            zone = zone.split_once('.').map_or("", |(_, parent)| parent);
        }
        Err(format!("nobody names the servers of the zone of {record}; write nameservers"))
    };
    tokio::time::timeout(limit * 2, find)
        .await
        .unwrap_or_else(|_| Err(format!("the servers of the zone of {record} were not found within {:?}", limit * 2)))
}

async fn name_servers(resolver: &TokioResolver, zone: &str) -> Result<Vec<String>, String> {
    match resolver.lookup(format!("{zone}."), RecordType::NS).await {
        Ok(found) => {
            let names = found.answers().iter().filter_map(|record| {
                let RData::NS(name) = &record.data else { return None };
                Some(name.0.to_string())
            });
            Ok(names.collect())
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(_))) => Ok(Vec::new()),
        Err(error) => Err(format!("the servers of {zone} cannot be found: {error}")),
    }
}

async fn addresses_of(
    resolver: &TokioResolver,
    zone: &str,
    names: &[String],
    port: u16,
) -> Result<Vec<SocketAddr>, String> {
    let found = join_all(names.iter().map(|name| resolver.ipv4_lookup(name.as_str()))).await;
    let mut servers = BTreeSet::new();
    for record in found.iter().flatten().flat_map(|answer| answer.answers()) {
        if let RData::A(address) = &record.data {
            servers.insert(SocketAddr::from((address.0, port)));
        }
    }
    if servers.is_empty() {
        return Err(format!("none of the servers of {zone} ({}) has an address", names.join(", ")));
    }
    Ok(servers.into_iter().collect())
}

async fn ask(server: SocketAddr, record: &str, limit: Duration) -> Result<BTreeSet<Ipv4Addr>, String> {
    let resolver = configured(&[server], ResolveHosts::Never, limit).map_err(|error| error.to_string())?;
    let mut answers = BTreeSet::new();
    for _ in 0..QUESTIONS {
        let question = resolver.ipv4_lookup(format!("{record}."));
        let answer = tokio::time::timeout(limit, question).await.map_err(|_| format!("no answer within {limit:?}"))?;
        let answer = match answer {
            Ok(answer) => answer,
            // That there is nothing is an answer, and a wrong one.
            Err(NetError::Dns(DnsError::NoRecordsFound(_))) => return Ok(BTreeSet::new()),
            Err(error) => return Err(error.to_string()),
        };
        for record in answer.answers() {
            // Anything else is a name on the way to the address.
            if let RData::A(address) = &record.data {
                answers.insert(address.0);
            }
        }
    }
    Ok(answers)
}

fn listed(addresses: &BTreeSet<Ipv4Addr>) -> String {
    if addresses.is_empty() {
        return "nothing".to_owned();
    }
    addresses.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>().join(" or ")
}
