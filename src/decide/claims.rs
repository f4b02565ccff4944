//! Who is in charge of the clusters: claims as they were read, and what follows from one that is not ours.

use std::collections::BTreeMap;
use std::time::Duration;

use super::controller::{Controller, Draft};
use super::hard::Hard;
use super::soft::Soft;
use super::{Guard, GuardKind, Input};
use crate::domain::{Bug, Mode, RegionId};
use crate::ports::Claim;

impl Soft {
    /// A claim that is neither ours nor one that was merged. Where a cluster does not answer, what was read there last holds:
    /// that it cannot be read makes nobody leave.
    pub(super) fn foreign_claim(&self, hard: &Hard) -> Option<(&RegionId, &Claim)> {
        let read = self.survey.as_ref().map(|(_, claims)| claims);
        let claims = read.into_iter().flatten().filter_map(|(region, claim)| Some((region, claim.as_ref()?)));
        let is_read = |region: &RegionId| read.is_some_and(|claims| claims.contains_key(region));
        let before = self.strangers.iter().filter(|(region, _)| !is_read(region));
        claims.chain(before).find(|(region, claim)| self.is_foreign(hard, region, claim))
    }

    fn is_foreign(&self, hard: &Hard, region: &RegionId, claim: &Claim) -> bool {
        let Some(ledger) = &hard.ledger else { return false };
        if claim.ledger != *ledger {
            return !hard.is_merged(claim);
        }
        // Whoever leads wrote it, and a follower may not have heard of that yet. To a leader, whoever took over last is
        // in charge, although it may name a ledger of the same name.
        let ours = Some(hard.term());
        self.is_started && (claim.term > ours || (claim.term != ours && self.claimed.contains(region)))
    }

    /// Keeps what was read for as long as its cluster is not read again.
    fn read_claims(&mut self, hard: &Hard, asked: Duration, claims: BTreeMap<RegionId, Option<Claim>>) {
        for (region, claim) in &claims {
            match claim {
                Some(claim) if self.is_foreign(hard, region, claim) => {
                    self.strangers.insert(region.clone(), claim.clone());
                }
                Some(_) | None => {
                    self.strangers.remove(region);
                }
            }
        }
        self.survey = Some((asked, claims));
    }

    /// Who claims a cluster that we believe to be in charge of, in words.
    pub(super) fn claimed_by_another(&self, hard: &Hard) -> Option<String> {
        let (region, claim) = self.foreign_claim(hard)?;
        Some(match claim.term {
            Some(term) if Some(&claim.ledger) == hard.ledger.as_ref() => {
                format!("a copy of this ledger took over ({}, {term}) and claims {region}", claim.holder)
            }
            Some(_) | None => format!("another failoverd ({}, ledger {}) claims {region}", claim.holder, claim.ledger),
        })
    }

    /// Claims that were read although nobody asked: once in a while, by whoever leads and by whoever follows. Returns
    /// whether there is something to decide.
    pub(super) fn see_claims(
        &mut self,
        hard: &Hard,
        asked: Duration,
        claims: BTreeMap<RegionId, Option<Claim>>,
    ) -> bool {
        let are_news = self.are_news(asked, &claims);
        if are_news && self.is_started {
            self.inbox.push_back(Input::ClaimsSeen { asked, claims });
        } else if are_news {
            // Whoever follows only tells of it.
            self.read_claims(hard, asked, claims);
        }
        are_news && self.is_started
    }

    fn are_news(&self, asked: Duration, claims: &BTreeMap<RegionId, Option<Claim>>) -> bool {
        // An answer that was asked for is on its way, and knows of what is being written at this moment.
        if self.survey_asked.is_some() {
            return false;
        }
        match &self.survey {
            Some((read, known)) => asked > *read && known != claims,
            None => !self.is_started,
        }
    }
}

impl Controller {
    /// Whether the clusters are ours, as far as was read: none before that. Nobody answers for a role under the claim of
    /// another one, and a guardian is told nothing: what the ledger says of who serves may be old.
    pub fn is_in_charge(&self) -> Option<bool> {
        if self.soft.clusters.is_empty() || self.bugs.has(Bug::DriftIgnored) {
            return Some(true);
        }
        if self.soft.foreign_claim(&self.hard).is_some() {
            return Some(false);
        }
        self.soft.survey.as_ref().map(|_| true)
    }
}

impl Draft<'_> {
    /// Who claims a cluster that we believe to be in charge of.
    pub(super) fn claimed_by_another(&self) -> Option<String> {
        self.soft.claimed_by_another(&self.hard)
    }

    /// The same as a reason not to act, with what lifts it.
    pub(super) fn foreign_claim(&self) -> Option<Guard> {
        let evidence = self.claimed_by_another()?;
        let is_break_glass = self.soft.foreign_claim(&self.hard).is_some_and(|(_, claim)| claim.is_break_glass());
        let lifted_by = if is_break_glass {
            "`failoverd ledger merge FILE`, where FILE is the record that break-glass has written there"
        } else {
            "stopping the other one, then `failoverd adopt` here"
        };
        Some(Guard { kind: GuardKind::Drift, evidence, lifted_by: lifted_by.to_owned() })
    }

    /// The claims of the clusters were read. `asked`: when the reading began.
    pub(super) fn surveyed(&mut self, asked: Duration, claims: BTreeMap<RegionId, Option<Claim>>) {
        // What was read before that which is known, or before our own claim went out, says how things were.
        let is_old = self.soft.survey.as_ref().is_some_and(|(read, _)| asked < *read)
            || self.soft.survey_asked.is_some_and(|last| asked < last);
        if is_old {
            return;
        }
        self.soft.survey_asked = None;
        let ours = Some(self.hard.term());
        if self.soft.is_started {
            for (region, claim) in &claims {
                if claim.as_ref().is_some_and(|claim| claim.term == ours) {
                    self.soft.claimed.insert(region.clone());
                }
            }
        }
        // A cluster that could not be reached when the claim was put up gets it with the next fact.
        let is_missing = |claim: &Option<Claim>| {
            claim.as_ref().is_none_or(|claim| {
                (Some(&claim.ledger) == self.hard.ledger.as_ref() && claim.term < ours) || self.hard.is_merged(claim)
            })
        };
        let is_ours = self.soft.is_started && self.hard.is_adopted && self.policy.mode != Mode::Observe;
        self.soft.is_to_claim |= is_ours && claims.values().any(is_missing);
        self.soft.read_claims(&self.hard, asked, claims);
    }

    /// A claim that was merged is still up somewhere, and gives way; nobody else's does.
    pub(super) fn replaces_merged(&self) -> bool {
        let claims = self.soft.survey.as_ref().map(|(_, claims)| claims);
        let mut claims = claims.into_iter().flat_map(BTreeMap::values).flatten();
        claims.any(|claim| self.hard.is_merged(claim)) && self.claimed_by_another().is_none()
    }
}
