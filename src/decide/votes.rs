//! What several observers make of an instance together: votes by region, the word of a witness, and one's own ballot.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::controller::{Controller, Draft};
use super::judge::Candidate;
use super::watches::Watched;
use super::{Guard, GuardKind, ObserverStatus, Sighting, VerdictKind};
use crate::domain::{Bug, ComponentPolicy, InstanceId, Now, ObserverId, RegionId, time::human};
use crate::health::{Ballot, Opinion, Rules, View};
use crate::plan::Part;

/// One ballot in this many tells where logs stand: of a hundred instances, that may be more than all the rest. The first one of a run
/// counts for nothing, the second one for what it says.
const LOG_EVERY: u64 = 4;
const LOG_FROM: u64 = 2;

/// How the regions with observers vote on one instance.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Those that call it failing, with for how long.
    failing: BTreeMap<RegionId, Duration>,
    /// The same, with for how long it has written nothing.
    silent: BTreeMap<RegionId, Duration>,
    /// Those that see it answer; whether it is well.
    answering: BTreeMap<RegionId, bool>,
    /// Those that say nothing, with why.
    unsure: BTreeMap<RegionId, String>,
    needed: usize,
}

impl Tally {
    /// For how long enough of them have called it failing.
    fn failing_for(&self) -> Option<Duration> {
        self.nth_longest(&self.failing)
    }

    /// For how long it has written nothing, by the word of enough of them.
    pub(super) fn silent_for(&self) -> Option<Duration> {
        self.nth_longest(&self.silent)
    }

    fn nth_longest(&self, of: &BTreeMap<RegionId, Duration>) -> Option<Duration> {
        let mut lasting: Vec<Duration> = of.values().copied().collect();
        lasting.sort_unstable_by(|a, b| b.cmp(a));
        lasting.get(self.needed.checked_sub(1)?).copied()
    }

    /// For how long the first of them has.
    fn longest(&self) -> Option<Duration> {
        self.failing.values().copied().max()
    }

    /// Enough of them see it well.
    fn is_well(&self) -> bool {
        self.answering.values().filter(|is_well| **is_well).count() >= self.needed
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} needed regions say so", self.failing.len(), self.needed)?;
        let names: Vec<&str> = self.failing.keys().map(RegionId::as_str).collect();
        if !names.is_empty() {
            write!(f, " ({})", names.join(", "))?;
        }
        for (region, is_well) in &self.answering {
            write!(f, "; {region} says it {}", if *is_well { "is fine" } else { "answers again" })?;
        }
        for (region, why) in &self.unsure {
            write!(f, "; {region} says nothing: {why}")?;
        }
        Ok(())
    }
}

impl Controller {
    /// This observer's verdicts, for the others. `run` is when this run of the daemon began, `sequence` has to rise with every
    /// call.
    pub fn ballot(&mut self, now: Now, run: Timestamp, sequence: u64) -> Ballot {
        // Whoever leads decides first on what has ended: nothing is quiet before that.
        if !self.leads() {
            self.soft.watches.settle(&self.hard, &self.soft.limits, now.monotonic);
        }
        self.read_draft(now, |draft| Ballot {
            observer: draft.policy.observer.clone(),
            region: draft.policy.observer_region.clone(),
            run,
            sequence,
            policy: draft.policy_hash.to_owned(),
            abstains: draft.soft.halted.as_ref().or(draft.hard.halted.as_ref()).map(|why| format!("halted: {why}")),
            doubts: draft.doubts(),
            views: draft.views(),
            log: if sequence % LOG_EVERY == LOG_FROM { draft.log_as_seen() } else { BTreeMap::new() },
            guards: draft.soft.guarded.clone(),
            revocations: draft.hard.revocations,
            revoked: draft.hard.revoked.iter().map(|(id, revoked)| (id.clone(), revoked.region.clone())).collect(),
        })
    }
}

impl Draft<'_> {
    /// For how long it has been failing, as far as enough regions say so.
    pub(super) fn failing_for(&self, id: &InstanceId) -> Option<Duration> {
        if self.policy.council.is_alone() {
            return self.vote_on(id, self.soft.watches.get(id)?);
        }
        self.tally(id).failing_for()
    }

    /// Everything that fails.
    pub(super) fn failing<'d>(&'d self) -> Vec<(&'d InstanceId, &'d ComponentPolicy, Duration)> {
        let with_policy =
            |(id, lasting): (&'d InstanceId, Duration)| Some((id, self.policy.components.get(&id.component)?, lasting));
        if self.policy.council.is_alone() {
            let restless = self.soft.watches.restless();
            let failing = restless.filter_map(|(id, watch)| Some((id, self.vote_on(id, watch)?)));
            return failing.filter_map(with_policy).collect();
        }
        let failing = self.called_failing().into_iter().filter_map(|id| Some((id, self.tally(id).failing_for()?)));
        failing.filter_map(with_policy).collect()
    }

    /// For how long it has been failing, as this observer says. Who could not tell at the last probe says nothing: what was
    /// found before may have been its own network, and that network is another one by now.
    fn vote_on(&self, id: &InstanceId, watch: &Watched) -> Option<Duration> {
        let counts = watch.could_tell_last() || self.bugs.has(Bug::UnknownIsFailing);
        self.failing_as_watched(id, watch).filter(|_| counts)
    }

    /// What too few regions call failing, with for how long and who says what.
    pub(super) fn outvoted(&self) -> Vec<(&InstanceId, Duration, String)> {
        if self.policy.council.is_alone() {
            return Vec::new();
        }
        let is_dealt_with = |region: &RegionId| self.hard.open_incidents().any(|incident| incident.source == *region);
        let called = self.called_failing().into_iter().filter(|id| !is_dealt_with(&id.region));
        let called = called.map(|id| (id, self.tally(id)));
        let outvoted = called.filter(|(_, tally)| tally.failing_for().is_none());
        outvoted.filter_map(|(id, tally)| Some((id, tally.longest()?, tally.to_string()))).collect()
    }

    /// It has been well for long enough, as far as enough regions say so.
    pub(super) fn has_been_well(&self, id: &InstanceId) -> bool {
        if self.policy.council.is_alone() {
            let watch = self.soft.watches.get(id);
            return watch.is_some_and(|watch| watch.has_recovered(&self.soft.limits, self.now.monotonic));
        }
        self.tally(id).is_well()
    }

    /// Somebody sees it answer.
    pub(super) fn is_seen_answering(&self, id: &InstanceId) -> bool {
        self.is_answering(id) || !self.tally(id).answering.is_empty()
    }

    /// Why too few regions have a voice for anything to be done, if so.
    pub(super) fn too_few_voices(&self) -> Option<String> {
        let council = &self.policy.council;
        if council.is_alone() {
            return None;
        }
        let mut silent = Vec::new();
        let mut heard: BTreeSet<&RegionId> = BTreeSet::new();
        for (observer, region) in &council.observers {
            match self.soft.council.ballot(observer, self.rules(), self.now.monotonic) {
                _ if *observer == self.policy.observer => {
                    heard.insert(region);
                }
                Ok(_) => {
                    heard.insert(region);
                }
                Err(why) => silent.push(format!("{observer} in {region} {why}")),
            }
        }
        (heard.len() < council.needed()).then(|| {
            format!(
                "only {} of {} needed regions have an observer with a voice: {}",
                heard.len(),
                council.needed(),
                silent.join("; ")
            )
        })
    }

    /// An observer inside the region that sees alive what is called lost.
    pub(super) fn witness(&self, source: &RegionId, part: &Part) -> Option<String> {
        if self.policy.council.is_alone() || self.bugs.has(Bug::WitnessIgnored) {
            return None;
        }
        let (suspected, needed) = match part {
            Part::Component(component) => {
                (vec![InstanceId { component: component.clone(), region: source.clone() }], 1)
            }
            Part::Region => {
                let critical = self.critical_in(source);
                let needed = self.critical_needed(critical.len());
                (critical, needed)
            }
            // What these are about, the region tells itself.
            Part::Reroute | Part::Healing { .. } | Part::Zone { .. } | Part::Rejoin { .. } => return None,
        };
        let inside = self.policy.council.observers.iter().filter(|(_, region)| *region == source);
        inside.map(|(observer, _)| observer).find_map(|observer| {
            let contradicts = |id: &&InstanceId| self.contradicts(observer, id, part);
            let seen: Vec<String> = suspected.iter().filter(contradicts).map(ToString::to_string).collect();
            let is_refuted = suspected.len() - seen.len() < needed;
            (is_refuted && !seen.is_empty()).then(|| format!("{observer} in {source} sees {} alive", seen.join(", ")))
        })
    }

    /// An observer inside sees it alive, or did within the window that others call lost: what looked dead from outside for
    /// minutes and fails inside for a moment was a partition for the rest of the time. And who cannot tell of it, but sees
    /// alive what nobody outside reaches, knows that outside nobody knows.
    fn contradicts(&self, observer: &ObserverId, id: &InstanceId, part: &Part) -> bool {
        let policy = self.policy.components.get(&id.component);
        let after = match part {
            Part::Component(_) => policy.and_then(|policy| policy.row).map(|row| row.after),
            Part::Region => Some(self.policy.regional.after),
            Part::Reroute | Part::Healing { .. } | Part::Zone { .. } | Part::Rejoin { .. } => None,
        };
        // Two observers do not begin to see the same failure in the same moment.
        let window = after.unwrap_or_default().saturating_sub(policy.map(|p| p.probing.gap()).unwrap_or_default());
        // When it saw it answer, as far as it ever said: a restart makes nobody forget that it was there.
        let answered_ago = self.answered(observer, id).map(|at| self.now.monotonic.saturating_sub(at));
        match self.opinion(observer, id) {
            Opinion::Answers { .. } => true,
            Opinion::Fails(lasting) => lasting < window && answered_ago.is_none_or(|ago| ago < window),
            Opinion::Unsure(_) => {
                let verdict = self.view_of(observer, id).map(|view| view.verdict);
                let is_blind = verdict == Some(VerdictKind::Unknown) && *part != Part::Region;
                // Once one link of a partition heals, nothing is lost by the votes of the others any more, and the window in
                // which they were cut off is as full as it was.
                let knew = self.soft.knew_better.get(&(observer.clone(), id.region.clone()));
                let knew = knew.is_some_and(|at| self.now.monotonic.saturating_sub(*at) < window);
                answered_ago.is_some_and(|ago| ago < window)
                    || (is_blind && (knew || self.knows_better(observer, &id.region)))
            }
        }
    }

    /// When an observer saw an instance answer last, as far as it ever said.
    fn answered(&self, observer: &ObserverId, id: &InstanceId) -> Option<Duration> {
        if *observer == self.policy.observer {
            let ago = self.soft.watches.get(id)?.answered_ago(self.now.monotonic)?;
            return Some(self.now.monotonic.saturating_sub(ago));
        }
        self.soft.council.answered(observer, id, self.rules())
    }

    /// What an observer with a voice makes of an instance that is not well.
    pub(super) fn view_of(&self, observer: &ObserverId, id: &InstanceId) -> Option<View> {
        if *observer == self.policy.observer {
            return self.view(id, self.soft.watches.get(id)?);
        }
        let ballot = self.soft.council.ballot(observer, self.rules(), self.now.monotonic).ok()?;
        ballot.views.get(id).cloned()
    }

    /// It sees something of the region alive that is lost by the votes of the others.
    fn knows_better(&self, observer: &ObserverId, region: &RegionId) -> bool {
        self.called_failing().into_iter().filter(|id| id.region == *region).any(|id| {
            matches!(self.opinion(observer, id), Opinion::Answers { .. }) && self.tally(id).failing_for().is_some()
        })
    }

    /// An observer inside the region sees something critical there answer, at this moment.
    pub(super) fn is_seen_inside(&self, source: &RegionId) -> bool {
        let inside = self.policy.council.observers.iter().filter(|(_, region)| *region == source);
        let critical = self.critical_in(source);
        let answers = |observer: &ObserverId, id| matches!(self.opinion(observer, id), Opinion::Answers { .. });
        inside.map(|(observer, _)| observer).any(|observer| critical.iter().any(|id| answers(observer, id)))
    }

    /// What a witness forbids, for as long as a person is not asked instead.
    pub(super) fn witness_veto(&self, candidate: &Candidate) -> Option<Guard> {
        let seen = self.witness(&candidate.source, &candidate.part)?;
        let since = self.soft.witnessed.get(&(candidate.source.clone(), candidate.part.clone()));
        let lasting = since.map_or(Duration::ZERO, |since| self.now.monotonic.saturating_sub(*since));
        let left = self.policy.council.witness_hold.saturating_sub(lasting);
        (!left.is_zero()).then(|| Guard {
            kind: GuardKind::Witness,
            evidence: format!("{seen}: a partition between regions, and no outage"),
            lifted_by: format!("it failing there too; or {} more, and then a person is asked", human(left)),
        })
    }

    /// Remembers since when witnesses contradict.
    pub(super) fn hear_witnesses(&mut self, candidates: &[Candidate]) {
        let now = self.now.monotonic;
        let council = &self.policy.council;
        let inside = council.observers.iter().filter(|_| !council.is_alone() && !candidates.is_empty());
        let knowing: Vec<_> = inside
            .filter(|(observer, region)| self.knows_better(observer, region))
            .map(|(observer, region)| (observer.clone(), region.clone()))
            .collect();
        self.soft.knew_better.extend(knowing.into_iter().map(|knowing| (knowing, now)));
        let contradicted: BTreeSet<(RegionId, Part)> = candidates
            .iter()
            .filter(|candidate| candidate.is_full() && self.witness(&candidate.source, &candidate.part).is_some())
            .map(|candidate| (candidate.source.clone(), candidate.part.clone()))
            .collect();
        self.soft.witnessed.retain(|key, _| contradicted.contains(key));
        for key in contradicted {
            let since = *self.soft.witnessed.entry(key).or_insert(now);
            let ends = since + self.policy.council.witness_hold;
            if ends > now {
                self.wake(ends, "the word of a witness has held long enough to ask a person");
            }
        }
    }

    /// Everything that anybody calls failing.
    fn called_failing(&self) -> BTreeSet<&InstanceId> {
        let own = self.soft.watches.restless();
        let own = own.filter(|(id, watch)| self.failing_as_watched(id, watch).is_some()).map(|(id, _)| id);
        self.soft.council.called_failing().chain(own).collect()
    }

    fn has_voice_or_is(&self, observer: &ObserverId) -> bool {
        *observer == self.policy.observer || self.has_voice(observer)
    }

    /// It is heard, and does not abstain.
    pub(super) fn has_voice(&self, observer: &ObserverId) -> bool {
        self.soft.council.ballot(observer, self.rules(), self.now.monotonic).is_ok()
    }

    pub(super) fn tally(&self, id: &InstanceId) -> Tally {
        let council = &self.policy.council;
        let needed = if self.bugs.has(Bug::QuorumIgnored) { 1 } else { council.needed() };
        let mut tally = Tally { needed, ..Tally::default() };
        for (observer, region) in &council.observers {
            // One vote for each region: whoever there sees it answer, speaks for all of them.
            let voter =
                if self.bugs.has(Bug::VotesByObserver) { RegionId::from(observer.as_str()) } else { region.clone() };
            match self.opinion(observer, id) {
                Opinion::Answers { is_well } => {
                    let all_well = tally.answering.entry(voter).or_insert(is_well);
                    *all_well &= is_well;
                }
                Opinion::Fails(lasting) => {
                    let silent = self.view_of(observer, id).and_then(|view| view.silent_for).unwrap_or(lasting);
                    let shortest = tally.silent.entry(voter.clone()).or_insert(silent);
                    *shortest = silent.min(*shortest);
                    let shortest = tally.failing.entry(voter).or_insert(lasting);
                    *shortest = lasting.min(*shortest);
                }
                Opinion::Unsure(why) => {
                    tally.unsure.insert(voter, why);
                }
            }
        }
        for (observer, region) in &council.observers {
            // One who is not sure yet saw it answer after the other in its region had lost it.
            let Some(lasting) = tally.failing.get_mut(region) else { continue };
            if let Some(at) = self.answered(observer, id) {
                let ago = self.now.monotonic.saturating_sub(at);
                let is_unsure =
                    matches!(self.opinion(observer, id), Opinion::Unsure(_)) && self.has_voice_or_is(observer);
                *lasting = if is_unsure { ago.min(*lasting) } else { *lasting };
            }
        }
        tally.failing.retain(|region, _| !tally.answering.contains_key(region));
        tally.silent.retain(|region, _| !tally.answering.contains_key(region));
        let has_spoken = |region: &RegionId| tally.failing.contains_key(region) || tally.answering.contains_key(region);
        tally.unsure.retain(|region, _| !has_spoken(region));
        tally
    }

    pub(super) fn opinion(&self, observer: &ObserverId, id: &InstanceId) -> Opinion {
        if *observer != self.policy.observer {
            return self.soft.council.opinion(observer, id, self.rules(), self.now.monotonic);
        }
        let Some(watch) = self.soft.watches.get(id) else { return Opinion::Unsure("it is not watched".to_owned()) };
        match self.view(id, watch) {
            None => Opinion::Answers { is_well: true },
            Some(view) => view.opinion(None),
        }
    }

    /// Everybody who watches; nobody, where there is only one.
    pub(super) fn observers(&self) -> Vec<ObserverStatus> {
        let council = &self.policy.council;
        if council.is_alone() {
            return Vec::new();
        }
        let observers = council.observers.iter().map(|(observer, region)| {
            let (without_voice, doubts) = if *observer == self.policy.observer {
                (None, self.doubts())
            } else {
                match self.soft.council.ballot(observer, self.rules(), self.now.monotonic) {
                    Ok(ballot) => (None, ballot.doubts.clone()),
                    Err(why) => (Some(why), BTreeMap::new()),
                }
            };
            // Of oneself one knows; of another, what it recorded last.
            let leads = match *observer == self.policy.observer {
                true => self.soft.is_started,
                false => !self.soft.is_started && self.hard.leader.as_ref() == Some(observer),
            };
            ObserverStatus { observer: observer.clone(), region: region.clone(), leads, without_voice, doubts }
        });
        observers.collect()
    }

    /// How those with a voice see an instance.
    pub(super) fn seen_by(&self, id: &InstanceId) -> BTreeMap<ObserverId, Sighting> {
        let council = &self.policy.council;
        if council.is_alone() {
            return BTreeMap::new();
        }
        let well = Sighting { verdict: VerdictKind::Alive, failing_for: None };
        let seen = |view: Option<&View>| {
            view.map_or(well.clone(), |view| Sighting { verdict: view.verdict, failing_for: view.failing_for })
        };
        let sightings = council.observers.keys().filter_map(|observer| {
            if *observer == self.policy.observer {
                let view = self.soft.watches.get(id).and_then(|watch| self.view(id, watch));
                return Some((observer.clone(), seen(view.as_ref())));
            }
            let ballot = self.soft.council.ballot(observer, self.rules(), self.now.monotonic).ok()?;
            Some((observer.clone(), seen(ballot.views.get(id))))
        });
        sightings.collect()
    }

    pub(super) fn rules(&self) -> Rules<'_> {
        Rules { policy: self.policy_hash, fresh: self.policy.council.ballot_fresh, bugs: self.bugs }
    }

    fn doubts(&self) -> BTreeMap<RegionId, String> {
        let now = self.now.monotonic;
        let doubt = |region: &RegionId| self.soft.references.doubt(self.policy, region, Duration::ZERO, now).err();
        self.policy.regions.keys().filter_map(|region| Some((region.clone(), doubt(region)?))).collect()
    }

    fn views(&self) -> BTreeMap<InstanceId, View> {
        let watches = self.soft.watches.not_quiet(self.now.monotonic);
        watches.filter_map(|(id, watch)| Some((id.clone(), self.view(id, watch)?))).collect()
    }

    /// How an instance looks from here; none where it is well.
    pub(super) fn view(&self, id: &InstanceId, watch: &Watched) -> Option<View> {
        let now = self.now.monotonic;
        let verdict = watch.judge(&self.soft.limits, now).kind;
        if verdict == VerdictKind::Alive {
            return None;
        }
        let why = watch.why(now);
        let answered_ago = watch.answered_ago(now);
        let failing_for = self.vote_on(id, watch).filter(|_| verdict == VerdictKind::Failing);
        // Its own network is in doubt: what it says of a failure says nothing.
        if let Some(lasting) = failing_for
            && let Some(doubt) = self.doubt(&id.region, now.saturating_sub(lasting))
        {
            return Some(View { verdict, failing_for: None, silent_for: None, answered_ago, why: doubt.evidence });
        }
        let silent_for = failing_for.map(|lasting| self.silent_for_as_watched(watch, lasting));
        let silent_for = silent_for.filter(|silent| failing_for.is_some_and(|lasting| lasting < *silent));
        Some(View { verdict, failing_for, silent_for, answered_ago, why })
    }
}
