//! The other observers of a deployment: real controllers that watch from their own regions and tell the leader what they
//! see.

use super::*;
use crate::domain::{ObserverId, RegionId};
use crate::simulation::story::Fate;

/// From one ballot to the next.
const BALLOT_EVERY: Duration = Duration::from_secs(2);
/// Through the ledger.
const BALLOT_TAKES: Duration = Duration::from_millis(50);

/// An observer that follows.
pub(super) struct Peer {
    observer: ObserverId,
    region: RegionId,
    controller: Controller,
    sequence: u64,
    /// Dead, or cut off from the ledger: nobody hears it.
    is_silent: bool,
}

/// What happens to one of them.
pub(super) enum ForPeer {
    Probe(InstanceId),
    Ask(ReferenceId),
    Take(Box<Input>),
    Cast,
}

impl Simulation<'_> {
    pub(super) fn gather_peers(&mut self) {
        let frames = self.disk.frames();
        let own = self.setup.policy.observer.clone();
        let observers = self.setup.policy.council.observers.clone();
        for (observer, region) in observers.into_iter().filter(|(observer, _)| *observer != own) {
            let mut policy = self.setup.policy.clone();
            policy.observer = observer.clone();
            policy.observer_region = region.clone();
            let hash = self.setup.policy_hash.clone();
            let controller = match Controller::recover_with(policy, hash, frames.clone(), self.setup.bugs) {
                Ok(controller) => controller,
                Err(corrupt) => return self.broken(vec![format!("an observer refuses the ledger: {corrupt}")]),
            };
            let n = self.peers.len();
            self.peers.push(Peer { observer, region, controller, sequence: 0, is_silent: false });
            let instances: Vec<InstanceId> = self.world.instances().cloned().collect();
            for id in instances {
                let after = self.spread(self.interval(&id));
                self.for_peer(n, after, ForPeer::Probe(id));
            }
            let references: Vec<ReferenceId> = self.world.references().cloned().collect();
            for id in references {
                let after = self.spread(Duration::from_secs(5));
                self.for_peer(n, after, ForPeer::Ask(id));
            }
            let after = self.spread(BALLOT_EVERY);
            self.for_peer(n, after, ForPeer::Cast);
        }
    }

    pub(super) fn befall_peer(&mut self, observer: &ObserverId, fate: Fate) -> Result<(), String> {
        let peer = self.peers.iter_mut().find(|peer| peer.observer == *observer);
        let peer = peer.ok_or_else(|| format!("{observer} is no other observer of this deployment"))?;
        match fate {
            Fate::FallsSilent => peer.is_silent = true,
            Fate::IsBack => peer.is_silent = false,
            Fate::Halts => peer.controller.halt("the story says so".to_owned()),
        }
        Ok(())
    }

    /// They follow the ledger.
    pub(super) fn tell_peers(&mut self, frame: &Frame) {
        for peer in &mut self.peers {
            peer.controller.apply(frame.at, &frame.facts);
        }
    }

    fn for_peer(&mut self, n: usize, after: Duration, event: ForPeer) {
        self.schedule(self.now + after, Event::Peer(n, event));
    }

    pub(super) fn peer_takes(&mut self, n: usize, event: ForPeer) {
        let Some(region) = self.peers.get(n).map(|peer| peer.region.clone()) else { return };
        match event {
            ForPeer::Probe(id) => {
                let dice = self.probe_dice.percent();
                let (finding, evidence, takes) = self.world.observe(self.now, &id, dice, &region);
                let (began, ended) = (self.now, self.now + takes);
                let input = Input::Observed(Observation { instance: id.clone(), began, ended, finding, evidence });
                self.for_peer(n, takes, ForPeer::Take(Box::new(input)));
                let interval = self.interval(&id);
                let jitter = self.spread(interval / 10);
                let again = (interval - jitter).max(takes + Duration::from_millis(1));
                self.for_peer(n, again, ForPeer::Probe(id));
            }
            ForPeer::Ask(reference) => {
                let Some(known) = self.setup.policy.references.get(&reference) else { return };
                let probing = known.probing;
                let answers = self.world.is_reference_up(&reference);
                let takes = if answers { LATENCY } else { probing.timeout };
                let answer = if answers { Ok(()) } else { Err("no answer".to_owned()) };
                let (began, ended) = (self.now, self.now + takes);
                let again = probing.interval.max(takes + Duration::from_millis(1));
                let input = Input::ReferenceObserved(ReferenceObservation {
                    reference: reference.clone(),
                    began,
                    ended,
                    answer,
                });
                self.for_peer(n, takes, ForPeer::Take(Box::new(input)));
                self.for_peer(n, again, ForPeer::Ask(reference));
            }
            ForPeer::Take(input) => {
                let now = self.clock();
                let decision = self.peers[n].controller.step(now, *input);
                if !decision.record.is_empty() || !decision.perform.is_empty() {
                    self.broken(vec![format!("an observer that does not lead decided something: {decision:?}")]);
                }
            }
            ForPeer::Cast => {
                let (now, from) = (self.clock(), self.story.settings.from);
                let peer = &mut self.peers[n];
                peer.sequence += 1;
                let ballot = peer.controller.ballot(now, from, peer.sequence);
                if !peer.is_silent && !self.world.link_cut {
                    self.for_daemon(BALLOT_TAKES, ForDaemon::Deliver(Box::new(Input::Heard(ballot))));
                }
                self.for_peer(n, BALLOT_EVERY, ForPeer::Cast);
            }
        }
    }
}
