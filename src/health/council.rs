//! What the other observers say, as far as it may be believed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Ballot, Opinion};
use crate::domain::time::human;
use crate::domain::{Bug, Bugs, InstanceId, ObserverId};

/// The last ballot of every other observer.
#[derive(Debug, Clone, Default)]
pub struct Council {
    seats: BTreeMap<ObserverId, Seat>,
}

#[derive(Debug, Clone)]
struct Seat {
    ballot: Ballot,
    /// When it was first seen, on the reader's own monotonic clock: nobody's wall clock is believed.
    heard: Duration,
}

/// What makes a ballot count.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// It was cast under this policy.
    pub policy: &'a str,
    /// It was first seen no longer ago than this.
    pub fresh: Duration,
    /// Mistakes to be made, in tests of the tests.
    pub(crate) bugs: Bugs,
}

impl Council {
    /// Takes a ballot in. One that was heard already, or that an earlier one of the same run has overtaken, is left out.
    /// Returns whether it is news: not where it says the same as the one before, which still counted for `fresh`.
    pub fn hear(&mut self, ballot: Ballot, fresh: Duration, now: Duration) -> bool {
        let former = self.seats.get(&ballot.observer);
        let is_old =
            former.is_some_and(|seat| seat.ballot.run == ballot.run && seat.ballot.sequence >= ballot.sequence);
        if is_old {
            return false;
        }
        let is_news =
            former.is_none_or(|seat| now.saturating_sub(seat.heard) > fresh || !seat.ballot.says_the_same_as(&ballot));
        self.seats.insert(ballot.observer.clone(), Seat { ballot, heard: now });
        is_news
    }

    /// The ballot of an observer, if it counts; else why not.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn ballot(&self, observer: &ObserverId, rules: Rules<'_>, now: Duration) -> Result<&Ballot, String> {
        let Some(seat) = self.seats.get(observer) else { return Err("has not been heard of".to_owned()) };
        let silent_for = now.saturating_sub(seat.heard);
        if silent_for > rules.fresh && !rules.bugs.has(Bug::StaleBallotCounts) {
            return Err(format!("has been silent for {}", human(silent_for)));
        }
        if seat.ballot.policy != rules.policy {
            return Err("works by another configuration".to_owned());
        }
        match &seat.ballot.abstains {
            Some(why) if !rules.bugs.has(Bug::AbstainerCounts) => Err(format!("abstains: {why}")),
            Some(_) | None => Ok(&seat.ballot),
        }
    }

    /// What an observer says of an instance.
    pub fn opinion(&self, observer: &ObserverId, instance: &InstanceId, rules: Rules<'_>, now: Duration) -> Opinion {
        match self.ballot(observer, rules, now) {
            Ok(ballot) if rules.bugs.has(Bug::AbstainerCounts) => {
                let views = &ballot.views;
                views.get(instance).map_or(Opinion::Answers { is_well: true }, |view| view.opinion(None))
            }
            Ok(ballot) => ballot.opinion(instance),
            Err(why) => Opinion::Unsure(format!("{observer} {why}")),
        }
    }

    /// The next moment at which a ballot that counts ceases to.
    pub fn stale_at(&self, fresh: Duration, now: Duration) -> Option<Duration> {
        self.seats.values().map(|seat| seat.heard + fresh).filter(|at| *at >= now).min()
    }

    /// Every instance that somebody calls failing.
    pub fn called_failing(&self) -> impl Iterator<Item = &InstanceId> {
        let views = self.seats.values().flat_map(|seat| &seat.ballot.views);
        views.filter(|(_, view)| view.failing_for.is_some()).map(|(instance, _)| instance)
    }

    /// When an observer was heard last.
    pub fn heard(&self, observer: &ObserverId) -> Option<Duration> {
        self.seats.get(observer).map(|seat| seat.heard)
    }
}
