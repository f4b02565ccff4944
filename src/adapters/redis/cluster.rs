//! A cluster whose primaries are lost in part: one replica of each orphaned shard takes over.
//!
//! `CLUSTER FAILOVER TAKEOVER` needs neither the old primary nor a majority of the cluster, which is the situation
//! here: the region that held the majority is gone.

use futures::future::join_all;
use tokio::time::Instant;

use super::Redis;
use super::info::{Info, Node, SLOTS, nodes};
use crate::adapters::Endpoint;
use crate::domain::InstanceId;
use crate::ports::{Permit, Setback};

/// The cluster as one of its nodes sees it.
pub(super) struct Survey {
    state: String,
    nodes: Vec<Node>,
}

impl Survey {
    /// Primaries with slots that are lost, with the replicas that could take over.
    fn orphans(&self) -> impl Iterator<Item = (&Node, Vec<&Node>)> {
        let lost = self.nodes.iter().filter(|node| node.is_master && node.is_lost && !node.slots.is_empty());
        lost.map(|master| {
            let follows = |node: &&Node| node.master.as_deref() == Some(master.id.as_str()) && !node.is_lost;
            (master, self.nodes.iter().filter(follows).collect())
        })
    }

    fn slots_served(&self) -> usize {
        let serving = self.nodes.iter().filter(|node| node.is_master && !node.is_lost);
        serving.flat_map(|node| &node.slots).map(|range| range.len()).sum()
    }

    /// What is missing, for people; none where every slot is served and the cluster says that it works.
    pub(super) fn gap(&self) -> Option<String> {
        let served = self.slots_served();
        let whole = self.state == "ok" && served == usize::from(SLOTS);
        (!whole).then(|| format!("the cluster is {}, {served} of {SLOTS} slots are served", self.state))
    }

    /// Where each serving primary is, with one of its slots; `asked` is where the node is that was asked.
    pub(super) fn shards_at(&self, asked: &Endpoint) -> Vec<(Endpoint, u16)> {
        let serving = self.nodes.iter().filter(|node| node.is_master && !node.is_lost);
        serving.filter_map(|node| Some((place(node, asked)?, node.some_slot()?))).collect()
    }
}

impl Redis {
    /// Asks the node at `at` what the cluster looks like.
    pub(super) async fn survey(&self, instance: &InstanceId, at: &Endpoint, until: Instant) -> Result<Survey, Setback> {
        let mut session = self.open_at(instance, at, until).await.map_err(|trouble| trouble.setback(instance))?;
        let mut questions = redis::pipe();
        questions.cmd("CLUSTER").arg("INFO");
        questions.cmd("CLUSTER").arg("NODES");
        let answers = session.texts(&questions).await.map_err(|trouble| trouble.setback(instance))?;
        let [Ok(info), Ok(known)] = answers.as_slice() else {
            let said = answers.into_iter().find_map(Result::err);
            return Err(match said {
                Some(trouble) => trouble.setback(instance),
                None => Setback::Transient(format!("{instance} did not say what its cluster looks like")),
            });
        };
        let state = Info::parse(info).text("cluster_state").unwrap_or("unknown").to_owned();
        Ok(Survey { state, nodes: nodes(known) })
    }

    /// Has one replica of each orphaned shard take over: the one that received most.
    pub(super) async fn take_over(
        &self,
        instance: &InstanceId,
        at: &Endpoint,
        permit: &Permit,
        until: Instant,
    ) -> Result<(), Setback> {
        let survey = self.survey(instance, at, until).await?;
        for (master, replicas) in survey.orphans() {
            let asked = replicas.iter().filter_map(|node| place(node, at)).map(|place| async {
                let position = self.replica_position(instance, &place, until).await;
                position.map(|position| (position, place))
            });
            let best = join_all(asked).await.into_iter().flatten().max_by_key(|(position, _)| *position);
            let Some((_, place)) = best else {
                return Err(Setback::Transient(format!(
                    "{instance}: no replica answers for slots {} of the lost primary {}",
                    master.slots_shown(),
                    master.id
                )));
            };
            let mut session =
                self.open_at(instance, &place, until).await.map_err(|trouble| trouble.setback(instance))?;
            self.time_left(permit)?;
            let takeover = session.ask(redis::cmd("CLUSTER").arg("FAILOVER").arg("TAKEOVER")).await;
            takeover.map_err(|trouble| trouble.setback(instance))?;
        }
        Ok(())
    }

    /// How far the replica at `place` is; none where it does not answer or is no replica.
    async fn replica_position(&self, instance: &InstanceId, place: &Endpoint, until: Instant) -> Option<u64> {
        // Half of the time that is left: one that is silent must not take it all.
        let soon = Instant::now() + until.saturating_duration_since(Instant::now()) / 2;
        let mut session = self.open_at(instance, place, soon).await.ok()?;
        let info = session.text(redis::cmd("INFO").arg("replication")).await.ok()?;
        let info = Info::parse(&info);
        (info.is_master() == Some(false)).then(|| info.position().unwrap_or(0))
    }
}

/// Where a node is. The one that was asked may not know its own address, and is where we asked it.
fn place(node: &Node, asked: &Endpoint) -> Option<Endpoint> {
    if node.is_asked { Some(asked.clone()) } else { node.at.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_LOST: &str = "\
a 127.0.0.1:1@2 master,fail - 0 0 1 disconnected 0-5460\n\
b 127.0.0.1:2@2 master,fail? - 0 0 2 connected 5461-10922\n\
c 127.0.0.1:3@2 master - 0 0 3 connected 10923-16383\n\
d 127.0.0.1:4@2 myself,slave a 0 0 1 connected\n\
e 127.0.0.1:5@2 slave b 0 0 2 connected\n\
f 127.0.0.1:6@2 slave,fail b 0 0 2 disconnected\n\
g 127.0.0.1:7@2 slave c 0 0 3 connected\n";

    #[test]
    fn only_shards_without_a_primary_are_taken_over_and_only_by_live_replicas() {
        let survey = Survey { state: "fail".into(), nodes: nodes(TWO_LOST) };
        let orphans: Vec<(String, Vec<String>)> = survey
            .orphans()
            .map(|(master, replicas)| (master.id.clone(), replicas.iter().map(|node| node.id.clone()).collect()))
            .collect();
        assert_eq!(orphans, [("a".into(), vec!["d".into()]), ("b".into(), vec!["e".to_owned()])]);
        assert_eq!(survey.gap().unwrap(), "the cluster is fail, 5461 of 16384 slots are served");
    }
}
