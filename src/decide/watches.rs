//! All instances under watch, and which of them have to be looked at again.
//!
//! Deciding happens at every change of a verdict, and most instances are fine most of the time. An instance that answers
//! well is *quiet*: nothing about it can change until it is observed again or goes stale. Only the others, the restless
//! ones, are gone through when something is decided, so that a decision costs what is wrong and not what is watched.

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use super::VerdictKind;
use super::hard::Hard;
use crate::domain::{InstanceId, Kind, Policy, Role};
use crate::health::{Limits, Watch};

/// One instance under watch, with what the policy says of it.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    watch: Watch,
    pub(super) kind: Kind,
    /// Counts towards a regional outage, or is evidence for one.
    pub(super) matters: bool,
    /// Its loss is answered by a row of its own.
    pub(super) has_row: bool,
    /// Clients notice when it is only partly there.
    pub(super) answers_clients: bool,
    /// It lives in a region that nothing moves to by itself.
    pub(super) is_cold: bool,
    /// Hash of its settings.
    pub(super) fingerprint: String,
    /// It was seen alive under these settings, and the ledger says so.
    pub(super) is_known: bool,
    is_restless: bool,
}

impl Deref for Watched {
    type Target = Watch;

    fn deref(&self) -> &Watch {
        &self.watch
    }
}

impl DerefMut for Watched {
    fn deref_mut(&mut self) -> &mut Watch {
        &mut self.watch
    }
}

impl Watched {
    fn is_watched_like(&self, other: &Self) -> bool {
        self.kind == other.kind && self.fingerprint == other.fingerprint && self.watch.is_like(&other.watch)
    }

    /// Since when it has been failing. Of a database the first failure counts: where its log stood has to be on record
    /// before anything happens to this process, or nobody knows what a promotion would lose.
    pub(super) fn suspect_since(&self, limits: &Limits, now: Duration) -> Option<Duration> {
        let first = || self.watch.first_of_current_failures().filter(|_| self.kind == Kind::Database);
        self.watch.failing_since(limits, now).or_else(first)
    }

    /// Nothing about it changes before it is observed again or goes stale. A database never is: how far a standby lags
    /// behind depends on what its primary writes. Nor is a cluster: its workloads have a clock of their own.
    fn is_quiet(&self, verdict: VerdictKind, limits: &Limits, now: Duration) -> bool {
        verdict == VerdictKind::Alive
            && !matches!(self.kind, Kind::Database | Kind::Kubernetes)
            && self.watch.answered_last()
            && self.watch.has_recovered(limits, now)
            && !self.watch.evidence.credential_refused
            && self.watch.evidence.not_ready.is_empty()
    }
}

/// Every instance of the policy, in the order of their names.
#[derive(Debug, Clone, Default)]
pub(super) struct Watches {
    list: Vec<(InstanceId, Watched)>,
    /// Places in the list.
    restless: BTreeSet<usize>,
    /// When each instance goes stale, in nanoseconds; never, for the restless. Apart from the list and as small as can be,
    /// because the earliest one is looked for at every decision.
    goes_stale: Vec<u64>,
}

impl Watches {
    /// Nothing is observed yet, and everything restless. `keep` is the longest window that anybody asks for.
    pub(super) fn new(policy: &Policy, keep: Duration) -> Self {
        let mut list: Vec<(InstanceId, Watched)> = policy
            .instances()
            .filter_map(|id| {
                let component = policy.components.get(&id.component)?;
                let needed = component.workloads.iter().map(|w| (w.name.clone(), w.active)).collect();
                let matters = component.critical || component.independent_evidence;
                let row = component.row.iter().flat_map(|row| [row.after, row.confirm_for]);
                let triggers = row.chain(matters.then_some(policy.regional.after)).collect();
                let watched = Watched {
                    watch: Watch::new(component.probing, keep, triggers, needed),
                    kind: component.kind,
                    matters,
                    has_row: component.row.is_some(),
                    answers_clients: component.answers_clients(),
                    is_cold: policy.regions.get(&id.region) == Some(&Role::Tertiary),
                    fingerprint: component.fingerprints.get(&id.region).cloned().unwrap_or_default(),
                    is_known: false,
                    is_restless: true,
                };
                Some((id, watched))
            })
            .collect();
        list.sort_by(|(a, _), (b, _)| a.cmp(b));
        let restless = (0..list.len()).collect();
        let goes_stale = vec![NEVER; list.len()];
        Self { list, restless, goes_stale }
    }

    /// Takes over what another list knows of instances that are watched in the same way here.
    pub(super) fn inherit(&mut self, former: Self) {
        for (id, old) in former.list {
            let Some(place) = self.place(&id) else { continue };
            let new = &mut self.list[place].1;
            if new.is_watched_like(&old) {
                new.watch = old.watch;
            }
        }
    }

    /// What was seen until now counts no more, and everything is restless.
    pub(super) fn start_again(&mut self, now: Duration, by: jiff::SignedDuration) {
        for (_, watched) in &mut self.list {
            watched.watch.start_again(now);
            watched.watch.clock_jumped(by);
            watched.is_restless = true;
        }
        self.restless = (0..self.list.len()).collect();
        self.goes_stale.fill(NEVER);
    }

    /// Where in the list it stands, for as long as there is a list.
    pub(super) fn place(&self, id: &InstanceId) -> Option<usize> {
        self.list.binary_search_by(|(other, _)| other.cmp(id)).ok()
    }

    pub(super) fn get(&self, id: &InstanceId) -> Option<&Watched> {
        Some(&self.list.get(self.place(id)?)?.1)
    }

    pub(super) fn get_mut(&mut self, id: &InstanceId) -> Option<&mut Watched> {
        let place = self.place(id)?;
        Some(&mut self.list.get_mut(place)?.1)
    }

    /// What stands at a [`Self::place`].
    pub(super) fn at_mut(&mut self, place: usize) -> &mut Watched {
        &mut self.list[place].1
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&InstanceId, &Watched)> {
        self.list.iter().map(|(id, watched)| (id, watched))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&InstanceId, &mut Watched)> {
        self.list.iter_mut().map(|(id, watched)| (&*id, watched))
    }

    /// Those about which there may be something to decide, in the order of their names.
    pub(super) fn restless(&self) -> impl Iterator<Item = (&InstanceId, &Watched)> {
        self.restless.iter().filter_map(|place| self.list.get(*place)).map(|(id, watched)| (id, watched))
    }

    /// Those that may be anything but well at this moment.
    pub(super) fn not_quiet(&self, now: Duration) -> impl Iterator<Item = (&InstanceId, &Watched)> {
        let moment = nanoseconds(Some(now));
        let may_be = self
            .list
            .iter()
            .zip(&self.goes_stale)
            .filter(move |((_, watched), stale)| watched.is_restless || **stale < moment);
        may_be.map(|((id, watched), _)| (id, watched))
    }

    /// After an observation of what stands there: it may have become restless. It becomes quiet in [`Self::settle`] only, so that what
    /// ended is seen to have ended.
    pub(super) fn stir(&mut self, place: usize, limits: &Limits, now: Duration) {
        let watched = &mut self.list[place].1;
        if watched.is_restless {
            return;
        }
        if watched.is_quiet(watched.watch.verdict().kind, limits, now) {
            self.goes_stale[place] = nanoseconds(watched.watch.stale_at());
        } else {
            watched.is_restless = true;
            self.restless.insert(place);
            self.goes_stale[place] = NEVER;
        }
    }

    /// Before a decision: who went stale is restless, who answers well is quiet.
    pub(super) fn settle(&mut self, hard: &Hard, limits: &Limits, now: Duration) {
        let moment = nanoseconds(Some(now));
        for (place, at) in self.goes_stale.iter_mut().enumerate().filter(|(_, at)| **at < moment) {
            *at = NEVER;
            if let Some((_, watched)) = self.list.get_mut(place) {
                watched.is_restless = true;
                self.restless.insert(place);
            }
        }
        let (list, goes_stale) = (&mut self.list, &mut self.goes_stale);
        self.restless.retain(|place| {
            let Some((id, watched)) = list.get_mut(*place) else { return false };
            let verdict = watched.watch.judge(limits, now).kind;
            let is_quiet = watched.is_quiet(verdict, limits, now) && !hard.suspicions.contains_key(id);
            if is_quiet {
                watched.is_restless = false;
                goes_stale[*place] = nanoseconds(watched.watch.stale_at());
            }
            !is_quiet
        });
    }

    /// When a verdict changes although nothing is observed, at the earliest.
    pub(super) fn changes_at(&self, limits: &Limits, now: Duration) -> Option<Duration> {
        let restless = self.restless().filter_map(|(_, watched)| watched.watch.changes_at(limits, now)).min();
        let moment = nanoseconds(Some(now));
        let quiet = self.goes_stale.iter().filter(|at| **at > moment && **at != NEVER).min();
        [restless, quiet.map(|at| Duration::from_nanos(*at))].into_iter().flatten().min()
    }
}

/// A moment that does not come.
const NEVER: u64 = u64::MAX;

/// Since the machine booted: enough for five hundred years.
fn nanoseconds(at: Option<Duration>) -> u64 {
    at.map_or(NEVER, |at| u64::try_from(at.as_nanos()).unwrap_or(NEVER))
}
