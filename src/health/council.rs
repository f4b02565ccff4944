//! What the other observers say, as far as it may be believed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{Ballot, Opinion};
use crate::domain::time::human;
use crate::domain::{Bug, Bugs, InstanceId, ObserverId};

/// An observer is heard after this part of the time for which a ballot counts: less than from one ballot to the next.
const LIVE_PARTS: u32 = 6;

/// The last ballot of every other observer.
#[derive(Debug, Clone, Default)]
pub struct Council {
    seats: BTreeMap<ObserverId, Seat>,
}

#[derive(Debug, Clone)]
struct Seat {
    ballot: Arc<Ballot>,
    /// When it was first seen, on the reader's own monotonic clock: nobody's wall clock is believed.
    heard: Duration,
    /// Since when it has been heard without a silence.
    since: Duration,
    /// The clocks have jumped since, and nobody knows how long ago it was cast.
    is_void: bool,
    /// When it saw answer what is not well now, as far as any of its ballots said, those of earlier runs too.
    answered: BTreeMap<InstanceId, Duration>,
    /// Another run of it was heard, once, and when: for as long as nobody knows when that was cast, the former run speaks.
    newcomer: Option<(Timestamp, Duration)>,
}

impl Seat {
    /// It was heard more than once, not all at a time: what waited in a connection while this daemon was stopped, or in the
    /// ledger while it was not there, may be as old as that.
    fn is_live(&self, fresh: Duration) -> bool {
        self.heard.saturating_sub(self.since) >= fresh / LIVE_PARTS
    }

    /// When it saw the instance answer last, at the latest. What it does not name answered when the ballot was cast.
    fn answered(&self, instance: &InstanceId) -> Option<Duration> {
        match self.ballot.views.contains_key(instance) {
            true => self.answered.get(instance).copied(),
            false => Some(self.heard),
        }
    }
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
    pub fn hear(&mut self, ballot: Arc<Ballot>, fresh: Duration, now: Duration) -> bool {
        let former = self.seats.get(&ballot.observer);
        let is_old =
            former.is_some_and(|seat| seat.ballot.run == ballot.run && seat.ballot.sequence >= ballot.sequence);
        if is_old {
            return false;
        }
        let is_fresh = |seat: &&Seat| !seat.is_void && now.saturating_sub(seat.heard) <= fresh;
        let is_another_run = |seat: &Seat| seat.ballot.run != ballot.run;
        let newcomer = former.and_then(|seat| seat.newcomer).filter(|(run, _)| *run == ballot.run);
        if former.filter(is_fresh).is_some_and(is_another_run) && newcomer.is_none() {
            if let Some(seat) = self.seats.get_mut(&ballot.observer) {
                seat.newcomer = Some((ballot.run, now));
            }
            return false;
        }
        let answered = ballot.views.iter().filter_map(|(id, view)| {
            let told = view.answered_ago.map(|ago| now.saturating_sub(ago));
            Some((id.clone(), told.max(former.and_then(|seat| seat.answered(id)))?))
        });
        let answered = answered.collect();
        let unbroken = former.filter(is_fresh).filter(|seat| !is_another_run(seat));
        let since = unbroken.map(|seat| seat.since).or(newcomer.map(|(_, since)| since)).unwrap_or(now);
        let counted = unbroken.is_some_and(|seat| seat.is_live(fresh));
        let is_the_same = unbroken.is_some_and(|seat| seat.ballot.says_the_same_as(&ballot));
        let seat = Seat { ballot, heard: now, since, is_void: false, answered, newcomer: None };
        let is_news = !is_the_same || counted != seat.is_live(fresh);
        self.seats.insert(seat.ballot.observer.clone(), seat);
        is_news
    }

    /// When an observer saw an instance answer last, at the latest, as far as it ever said, on the reader's own clock; whether or not
    /// its word counts now.
    pub fn answered(&self, observer: &ObserverId, instance: &InstanceId, rules: Rules<'_>) -> Option<Duration> {
        let seat = self.seats.get(observer)?;
        // Of what its policy does not have it says nothing.
        let knows_it = seat.ballot.policy == rules.policy || seat.ballot.views.contains_key(instance);
        seat.answered(instance).filter(|_| knows_it)
    }

    /// The clocks jumped: what was heard before counts no more.
    pub fn start_again(&mut self) {
        self.seats.values_mut().for_each(|seat| seat.is_void = true);
    }

    /// The ballot of an observer, if it counts; else why not.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn ballot(&self, observer: &ObserverId, rules: Rules<'_>, now: Duration) -> Result<&Ballot, String> {
        let Some(seat) = self.seats.get(observer) else { return Err("has not been heard of".to_owned()) };
        if seat.is_void {
            return Err("has not been heard of since the clocks jumped".to_owned());
        }
        let silent_for = now.saturating_sub(seat.heard);
        let is_lax = rules.bugs.has(Bug::StaleBallotCounts);
        if silent_for <= rules.fresh && !seat.is_live(rules.fresh) && !is_lax {
            return Err("has only just been heard of, and its next ballot counts".to_owned());
        }
        if silent_for > rules.fresh && !is_lax {
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

    /// The first moment at which a ballot that counts has ceased to, unless another one is heard before.
    pub fn stale_at(&self, fresh: Duration, now: Duration) -> Option<Duration> {
        let counting = self.seats.values().filter(|seat| !seat.is_void);
        counting.map(|seat| seat.heard + fresh + Duration::from_nanos(1)).filter(|at| *at > now).min()
    }

    /// Every instance that somebody calls failing.
    pub fn called_failing(&self) -> impl Iterator<Item = &InstanceId> {
        let views = self.seats.values().flat_map(|seat| &seat.ballot.views);
        views.filter(|(_, view)| view.failing_for.is_some()).map(|(instance, _)| instance)
    }

    /// The hash of the policy of everybody who is heard, whether or not its ballot counts.
    pub fn policies(&self, fresh: Duration, now: Duration) -> impl Iterator<Item = (&ObserverId, &str)> {
        let heard = self.seats.iter().filter(move |(_, seat)| !seat.is_void && now.saturating_sub(seat.heard) <= fresh);
        heard
            .filter(move |(_, seat)| seat.is_live(fresh))
            .map(|(observer, seat)| (observer, seat.ballot.policy.as_str()))
    }

    /// When an observer was heard last, whether or not its word counts.
    pub fn heard(&self, observer: &ObserverId) -> Option<Duration> {
        self.seats.get(observer).filter(|seat| !seat.is_void).map(|seat| seat.heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Duration = Duration::from_secs(10);

    fn ballot(sequence: u64) -> Ballot {
        Ballot {
            observer: "failoverd-eu".into(),
            region: "eu-west-1".into(),
            run: jiff::Timestamp::UNIX_EPOCH,
            sequence,
            policy: "p".to_owned(),
            abstains: None,
            doubts: BTreeMap::new(),
            views: BTreeMap::new(),
            log: BTreeMap::new(),
            revoked: BTreeMap::new(),
            revocations: 0,
            guards: Default::default(),
        }
    }

    fn database() -> InstanceId {
        InstanceId { component: "database".into(), region: "us-east-1".into() }
    }

    fn unknown() -> crate::health::View {
        let verdict = crate::decide::VerdictKind::Unknown;
        let why = "not probed yet".to_owned();
        crate::health::View { verdict, failing_for: None, silent_for: None, answered_ago: None, why }
    }

    fn counts(council: &Council, now: u64) -> Result<(), String> {
        let rules = Rules { policy: "p", fresh: FRESH, bugs: Bugs::default() };
        council.ballot(&"failoverd-eu".into(), rules, Duration::from_secs(now)).map(|_| ())
    }

    fn hear(council: &mut Council, sequence: u64, now: u64) -> bool {
        council.hear(ballot(sequence).into(), FRESH, Duration::from_secs(now))
    }

    #[test]
    fn an_observer_counts_from_its_second_ballot_on_and_that_is_news() {
        let mut council = Council::default();
        assert!(hear(&mut council, 1, 100));
        assert!(counts(&council, 100).is_err(), "nobody knows when that was cast");
        assert!(hear(&mut council, 2, 102), "now it counts");
        assert_eq!(counts(&council, 102), Ok(()));
        assert!(!hear(&mut council, 3, 104), "the same again");
        assert_eq!(counts(&council, 114), Ok(()));
        assert!(counts(&council, 115).is_err(), "silent for too long");
    }

    #[test]
    fn ballots_that_waited_while_this_daemon_was_stopped_count_for_nothing() {
        let mut council = Council::default();
        for n in 0..10 {
            hear(&mut council, n, 100 + 2 * n);
        }
        // Four minutes later all that was in the connection comes at a time, and nothing after it.
        for n in 10..14 {
            hear(&mut council, n, 360);
        }
        let why = counts(&council, 361).expect_err("as old as the stop");
        assert!(why.contains("only just"), "{why}");
        hear(&mut council, 14, 362);
        assert_eq!(counts(&council, 362), Ok(()));
    }

    #[test]
    fn another_run_counts_from_its_second_ballot_on_and_until_then_the_former_one_speaks() {
        let mut council = Council::default();
        for n in 0..5 {
            hear(&mut council, n, 100 + 2 * n);
        }
        let again = |sequence, second: u64| {
            let run = Timestamp::from_second(7).expect("in range");
            let views = [(database(), unknown())].into();
            (Arc::new(Ballot { run, views, ..ballot(sequence) }), Duration::from_secs(second))
        };
        let says = |council: &Council, second| {
            let rules = Rules { policy: "p", fresh: FRESH, bugs: Bugs::default() };
            council.opinion(&"failoverd-eu".into(), &database(), rules, Duration::from_secs(second))
        };
        let (first, at) = again(0, 111);
        assert!(!council.hear(first, FRESH, at), "nobody knows when that was cast");
        assert_eq!(says(&council, 111), Opinion::Answers { is_well: true }, "the former run speaks");
        let (second, at) = again(1, 113);
        assert!(council.hear(second, FRESH, at));
        assert!(matches!(says(&council, 113), Opinion::Unsure(_)));
        let rules = Rules { policy: "p", fresh: FRESH, bugs: Bugs::default() };
        let answered = council.answered(&"failoverd-eu".into(), &database(), rules);
        assert_eq!(answered, Some(Duration::from_secs(108)), "what the former run saw is not forgotten");
    }

    #[test]
    fn whoever_is_heard_is_known_to_work_by_its_configuration_whether_or_not_it_counts() {
        let mut council = Council::default();
        let other = |sequence| Arc::new(Ballot { policy: "q".to_owned(), ..ballot(sequence) });
        council.hear(other(1), FRESH, Duration::from_secs(100));
        assert!(council.policies(FRESH, Duration::from_secs(100)).next().is_none(), "nobody knows when that was cast");
        council.hear(other(2), FRESH, Duration::from_secs(102));
        let observer: ObserverId = "failoverd-eu".into();
        assert_eq!(Vec::from_iter(council.policies(FRESH, Duration::from_secs(102))), [(&observer, "q")]);
        assert!(counts(&council, 102).is_err_and(|why| why.contains("another configuration")));
        assert!(council.policies(FRESH, Duration::from_secs(113)).next().is_none());
    }
}
