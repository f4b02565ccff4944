//! What the clients are told: the configured name servers are asked, and every answer has to be one of the new
//! addresses.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::ResolveHosts;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::RData;

use super::actuator::AwsActuator;
use super::traffic::Goal;
use crate::adapters::resolver::configured;
use crate::ports::Setback;

/// Weighted answers differ from question to question, so each server is asked a few times.
const QUESTIONS: usize = 3;

impl AwsActuator {
    /// Right answers from every configured name server that answers, and from one at least.
    pub(super) async fn verify_answers(&self, goal: &Goal<'_>) -> Result<String, Setback> {
        let servers = &self.aws.config.probes.nameservers;
        if servers.is_empty() {
            return Ok("no name servers are configured to ask, so the answers were not checked".to_owned());
        }
        let serving = goal.wanted.shares.values().filter(|share| share.weight > 0);
        let Some(wanted) = serving.map(|share| share.value.parse().ok()).collect::<Option<BTreeSet<Ipv4Addr>>>() else {
            return Ok("an alias has no fixed address, so the answers were not checked".to_owned());
        };
        let limit = self.aws.config.probes.timeout;
        let asking = servers.iter().map(|server| ask(*server, &goal.wanted.record, limit));
        let mut right = 0;
        let mut silent = Vec::new();
        for (server, answer) in servers.iter().zip(futures::future::join_all(asking).await) {
            match answer {
                Ok(answers) if !answers.is_empty() && answers.is_subset(&wanted) => right += 1,
                Ok(answers) => {
                    let answers = listed(&answers);
                    let record = &goal.wanted.record;
                    return Err(Setback::NotYet(format!(
                        "{server} answers {answers} for {record}, not {} alone",
                        listed(&wanted)
                    )));
                }
                Err(why) => silent.push(format!("{server}: {why}")),
            }
        }
        if right == 0 {
            return Err(Setback::NotYet(format!("no name server answers: {}", silent.join("; "))));
        }
        let mut text = format!("{right} of {} name servers answer {}", servers.len(), listed(&wanted));
        if !silent.is_empty() {
            text.push_str(&format!(" ({})", silent.join("; ")));
        }
        Ok(text)
    }
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
