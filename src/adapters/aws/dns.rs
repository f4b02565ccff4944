//! What the clients are told after a change: every answer of the configured name servers has to be one of the new addresses.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::actuator::AwsActuator;
use super::traffic::Goal;
use crate::adapters::dns;
use crate::ports::Setback;

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
        let record = &goal.wanted.record;
        let answers = dns::ask_all(servers, record, self.aws.config.probes.timeout).await;
        dns::judge(&answers, record, &wanted)
    }
}
