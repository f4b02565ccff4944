//! Who can reach whom: links between regions, each way by itself, and the members of the ledger's engine.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::domain::{Policy, RegionId};

/// From where something is looked at, or done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::simulation) struct Vantage {
    pub(in crate::simulation) region: RegionId,
    /// Its own link: everything looks dead from there, and nothing is.
    pub(in crate::simulation) is_cut_off: bool,
}

/// The links.
#[derive(Debug, Clone)]
pub(in crate::simulation) struct Network {
    regions: BTreeSet<RegionId>,
    /// From which region which other one cannot be reached, and since when.
    parted: BTreeMap<(RegionId, RegionId), Duration>,
    /// From when to when it could not, before.
    past: BTreeMap<(RegionId, RegionId), Vec<(Duration, Duration)>>,
    /// The members of the ledger's engine, one for each region with an observer; whether they run.
    members: BTreeMap<RegionId, bool>,
}

impl Network {
    pub(super) fn new(policy: &Policy) -> Self {
        let members: BTreeMap<RegionId, bool> =
            policy.council.regions().into_iter().map(|region| (region.clone(), true)).collect();
        let regions = policy.regions.keys().chain(members.keys()).cloned().collect();
        Self { regions, parted: BTreeMap::new(), past: BTreeMap::new(), members }
    }

    /// What stands in one region cannot reach the other from now on, or can again.
    pub(in crate::simulation) fn part(
        &mut self,
        now: Duration,
        from: &RegionId,
        to: &RegionId,
        cut: bool,
    ) -> Result<(), String> {
        if let Some(unknown) = [from, to].into_iter().find(|region| !self.regions.contains(*region)) {
            return Err(format!("there is neither a region nor an observer in {unknown}"));
        }
        let pair = (from.clone(), to.clone());
        if cut {
            self.parted.entry(pair).or_insert(now);
        } else if let Some(since) = self.parted.remove(&pair) {
            self.past.entry(pair).or_default().push((since, now));
        }
        Ok(())
    }

    /// Every region has reached every other one for so long.
    pub(in crate::simulation) fn has_been_whole(&self, now: Duration, lasting: Duration) -> bool {
        self.parted.is_empty() && self.past.values().flatten().all(|(_, ended)| *ended + lasting <= now)
    }

    /// Whether what stands there cannot reach that region.
    pub(super) fn is_parted(&self, from: &Vantage, to: &RegionId) -> bool {
        from.is_cut_off || (!self.parted.is_empty() && self.parted.contains_key(&(from.region.clone(), to.clone())))
    }

    /// Since when two regions do not hear each other, both ways round.
    pub(in crate::simulation) fn parted_since(&self, one: &RegionId, other: &RegionId) -> Option<Duration> {
        if self.parted.is_empty() {
            return None;
        }
        let ways = [(one.clone(), other.clone()), (other.clone(), one.clone())];
        ways.iter().filter_map(|way| self.parted.get(way)).min().copied()
    }

    /// Since when no observer had heard anything of a region at that moment: none in another one did, and nobody heard one in
    /// there.
    pub(super) fn unheard_since(&self, region: &RegionId, moment: Duration) -> Option<Duration> {
        if self.parted.is_empty() && self.past.is_empty() {
            return None;
        }
        let listeners: Vec<&RegionId> =
            if self.members.is_empty() { self.regions.iter().collect() } else { self.members.keys().collect() };
        let way = |from: &RegionId, to: &RegionId| {
            let pair = (from.clone(), to.clone());
            let past =
                self.past.get(&pair).into_iter().flatten().filter(|(since, ended)| (since..=ended).contains(&&moment));
            let current = self.parted.get(&pair).filter(|since| **since <= moment);
            past.map(|(since, _)| *since).chain(current.copied()).min()
        };
        let others = listeners.into_iter().filter(|other| *other != region);
        let parted = others.map(|other| Some(way(other, region)?.max(way(region, other)?)));
        parted.collect::<Option<Vec<Duration>>>()?.into_iter().max()
    }

    /// For how long what stands in one region could not reach the other.
    pub(in crate::simulation) fn parted_between(
        &self,
        from: &RegionId,
        to: &RegionId,
        began: Duration,
        ended: Duration,
    ) -> Duration {
        let pair = (from.clone(), to.clone());
        let past = self.past.get(&pair).into_iter().flatten().copied();
        let current = self.parted.get(&pair).map(|since| (*since, ended));
        past.chain(current).map(|(from, to)| to.min(ended).saturating_sub(from.max(began))).sum()
    }

    /// The ledger's member in this region, or all of them, fail or are back.
    pub(in crate::simulation) fn set_members(&mut self, which: Option<&RegionId>, answers: bool) -> Result<(), String> {
        match which {
            None => self.members.values_mut().for_each(|member| *member = answers),
            Some(region) => match self.members.get_mut(region) {
                Some(member) => *member = answers,
                None => return Err(format!("the ledger has no member in {region}")),
            },
        }
        Ok(())
    }

    /// Whether the ledger can be used from there: a majority of its members hear each other, and one of them is heard.
    /// A daemon that is alone has its ledger on its own disk.
    pub(in crate::simulation) fn ledger_answers(&self, from: &Vantage) -> bool {
        if self.parted.is_empty() && self.members.values().all(|is_up| *is_up) {
            return !from.is_cut_off || self.members.is_empty();
        }
        let hear = |one: &RegionId, other: &RegionId| one == other || self.parted_since(one, other).is_none();
        let up = || self.members.iter().filter(|(_, is_up)| **is_up).map(|(region, _)| region);
        let majority = self.members.len() / 2 + 1;
        let has_quorum = |leader: &RegionId| up().filter(|member| hear(leader, member)).count() >= majority;
        let is_heard = |leader: &RegionId| up().any(|member| hear(leader, member) && !self.is_parted(from, member));
        up().any(|leader| has_quorum(leader) && is_heard(leader))
    }
}
