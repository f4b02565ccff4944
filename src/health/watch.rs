//! One instance under watch.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{FAILURES_IN_A_ROW, Positions, Silence, Window};
use crate::decide::{Sample, VerdictKind};
use crate::domain::{Bug, Bugs, Evidence, Finding, Layer, Observation, Probing, WorkloadSeen, ZoneSeen};

/// What an observer concludes about one instance, at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// In a word.
    pub kind: VerdictKind,
    /// Monotonic time since when: for `Failing` the start of the first failed probe.
    pub since: Option<Duration>,
}

/// The window of one instance and what its last probes saw.
#[derive(Debug, Clone)]
pub struct Watch {
    window: Window,
    probing: Probing,
    last: Option<Finding>,
    last_began: Option<Duration>,
    last_ended: Option<Duration>,
    last_answer: Option<Duration>,
    /// When somebody was known to have seen it answer, before this run of the observer began.
    alive_before: Option<Duration>,
    degraded_since: Option<Duration>,
    /// Since when every observation was an answer, and not a degraded one.
    well_since: Option<Duration>,
    /// How many ready replicas each workload needs while its cluster serves.
    needed: BTreeMap<String, u32>,
    workloads: BTreeMap<String, Replicas>,
    /// What probes saw of workloads that began before this says nothing any more.
    workloads_from: Duration,
    zones: BTreeMap<String, Replicas>,
    /// What the last answer carried.
    pub evidence: Evidence,
    /// Where its write-ahead log stood while it was alive and writable, as seen from here.
    pub positions: Positions,
    /// The same by the word of others, for whom the time is a little earlier than it was.
    pub heard: Positions,
    /// It was failing before this run of the observer began, and has not answered since.
    silence: Option<Silence>,
    verdict: Verdict,
}

/// A workload or a zone, as its cluster has told of it without a gap.
#[derive(Debug, Clone, Copy)]
struct Replicas {
    is_short: bool,
    /// Start of the first probe that saw it so.
    since: Duration,
    /// Start of the last one.
    seen: Duration,
}

impl Watch {
    /// Nothing observed yet. `keep` is the longest window that anybody asks for, `triggers` how long a failure of this one has
    /// to last for something to be done, `needed` how many ready replicas each workload needs while its cluster serves.
    pub fn new(probing: Probing, keep: Duration, triggers: Vec<Duration>, needed: BTreeMap<String, u32>) -> Self {
        Self {
            window: Window::new(probing.gap(), keep, triggers),
            probing,
            last: None,
            last_began: None,
            last_ended: None,
            last_answer: None,
            alive_before: None,
            degraded_since: None,
            well_since: None,
            needed,
            workloads: BTreeMap::new(),
            workloads_from: Duration::ZERO,
            zones: BTreeMap::new(),
            evidence: Evidence::default(),
            positions: Positions::default(),
            heard: Positions::default(),
            silence: None,
            verdict: Verdict { kind: VerdictKind::Unknown, since: None },
        }
    }

    /// Takes an observation in. `counts` is false for an instance that was never seen alive under the present
    /// configuration: its failures are not known to mean anything. Returns whether the verdict changed.
    pub fn observe(&mut self, observation: Observation, counts: bool, limits: &Limits, now: Duration) -> bool {
        let took = observation.ended.saturating_sub(observation.began);
        let stalled = took > self.probing.timeout + self.probing.interval && !limits.bugs.has(Bug::GapIsFailing);
        let finding = if stalled {
            Finding::Unknown {
                why: format!(
                    "the probe ended {} after it began: this observer was stopped or starved",
                    crate::domain::time::human(took)
                ),
            }
        } else {
            observation.finding
        };
        if limits.bugs.has(Bug::GapIsFailing) {
            self.window.bridge(observation.began);
        }
        match &finding {
            Finding::Alive => {
                self.last_answer = Some(observation.began);
                self.window.push(observation.began, false);
                self.silence = None;
                self.count(&observation.evidence.workloads, observation.began);
                self.count_zones(&observation.evidence.zones, observation.began);
                self.evidence = observation.evidence;
            }
            Finding::Failing { .. } if counts => self.window.push(observation.began, true),
            Finding::Unknown { .. } if limits.bugs.has(Bug::UnknownIsFailing) => {
                self.window.push(observation.began, true);
            }
            Finding::Failing { .. } | Finding::Unknown { .. } => {}
        }
        self.last = Some(finding);
        self.last_began = Some(observation.began);
        self.last_ended = Some(observation.ended);
        self.weigh(observation.began, limits, now);
        let verdict = self.judge(limits, now);
        let changed = verdict.kind != self.verdict.kind
            || (verdict.kind == VerdictKind::Failing && verdict.since != self.verdict.since);
        self.verdict = verdict;
        changed
    }

    /// The clocks jumped, and nobody knows for how long nothing was seen: what was seen before counts no more. What the log
    /// of a database was sampled at stays true.
    pub fn start_again(&mut self, now: Duration) {
        self.window.clear();
        self.workloads.clear();
        self.workloads_from = now;
        self.zones.clear();
        (self.degraded_since, self.well_since) = (None, None);
        self.silence = None;
    }

    /// A probe that began at `began` comes after a gap, in which this observer was stopped or could not tell, and starts the
    /// window anew: since when it was failing before that, and until when that was seen.
    pub fn failing_before(&self, began: Duration, limits: &Limits) -> Option<(Duration, Duration)> {
        let until = self.window.last().filter(|_| self.window.is_stale(began))?;
        let since = self.window.failing_since(limits.failing_ratio, limits.recover_for, until)?;
        // It may have written until the probe after its last answer.
        let answered = self.last_alive().map(|at| at + self.probing.gap());
        Some((answered.map_or(since, |answered| answered.max(since)), until))
    }

    /// It was failing then, and nobody knows whether that has ended.
    pub fn remember_silence(&mut self, silence: Silence) {
        self.silence = Some(silence);
    }

    /// What the run before this one saw of it, and when it, or anybody, saw it answer.
    pub fn recall(
        &mut self,
        silence: Option<Silence>,
        (answered, alive): (Option<Duration>, Option<Duration>),
        log: impl IntoIterator<Item = Sample>,
    ) {
        self.silence = silence;
        (self.last_answer, self.alive_before) = (answered, alive);
        log.into_iter().for_each(|sample| self.positions.push(sample));
    }

    /// When it answered last, as far as this observer knows; by the word of others, only before it was restarted.
    pub fn last_alive(&self) -> Option<Duration> {
        self.last_answer.max(self.alive_before)
    }

    /// The wall clock jumped, by so much.
    pub fn clock_jumped(&mut self, by: jiff::SignedDuration) {
        self.positions.clock_jumped(by);
        self.heard.clock_jumped(by);
    }

    /// The failure that the run before this one saw, for as long as no answer has ended it.
    pub fn silence(&self) -> Option<Silence> {
        self.silence
    }

    /// Another one writes from now on, or it writes again: where its log stood says nothing any more.
    pub fn forget_log(&mut self) {
        self.positions.clear();
        self.heard.clear();
    }

    /// Degraded, well, or neither.
    fn weigh(&mut self, began: Duration, limits: &Limits, now: Duration) {
        let share = self.window.failing_share(limits.degraded_over, now).unwrap_or_default();
        let is_partly_failing = share >= limits.degraded_ratio && share < limits.failing_ratio;
        let is_degraded = match &self.last {
            Some(Finding::Alive) => self.evidence.degraded.is_some() || is_partly_failing,
            // A failure among slow answers is no cure. But failing all the time is no degradation, and neither is coming
            // back from that.
            Some(Finding::Failing { .. }) => {
                is_partly_failing || (self.degraded_since.is_some() && share < limits.failing_ratio)
            }
            Some(Finding::Unknown { .. }) | None => is_partly_failing,
        };
        if is_degraded {
            self.degraded_since.get_or_insert(began);
        } else {
            self.degraded_since = None;
        }
        match &self.last {
            Some(Finding::Alive) if !is_degraded => {
                self.well_since.get_or_insert(began);
            }
            Some(Finding::Alive | Finding::Failing { .. }) => self.well_since = None,
            // Not knowing is neither.
            Some(Finding::Unknown { .. }) | None => {}
        }
    }

    /// Takes in what a cluster says of its workloads.
    fn count(&mut self, seen: &[WorkloadSeen], began: Duration) {
        if began < self.workloads_from {
            return;
        }
        let gap = self.probing.gap();
        for workload in seen {
            let Some(needed) = self.needed.get(&workload.name) else { continue };
            note(&mut self.workloads, &workload.name, workload.ready < *needed, began, gap);
        }
    }

    /// Takes in what a cluster says of its zones.
    fn count_zones(&mut self, seen: &[ZoneSeen], began: Duration) {
        for zone in seen {
            note(&mut self.zones, &zone.name, zone.is_dark(), began, self.probing.gap());
        }
    }

    /// The verdict as of `now`; one that was fine may have gone stale.
    pub fn judge(&self, limits: &Limits, now: Duration) -> Verdict {
        let verdict = |kind, since| Verdict { kind, since };
        if self.window.is_stale(now) {
            return verdict(VerdictKind::Unknown, None);
        }
        if let Some(since) = self.window.failing_since(limits.failing_ratio, limits.recover_for, now) {
            return verdict(VerdictKind::Failing, Some(since));
        }
        if let Some(since) = self.window.first_of_current_failures() {
            return verdict(VerdictKind::Suspect, Some(since));
        }
        let Some(since) = self.window.alive_since(now) else { return verdict(VerdictKind::Unknown, None) };
        if self.window.has_failed_before() && now.saturating_sub(since) < limits.recover_for {
            return verdict(VerdictKind::Recovering, Some(since));
        }
        match self.degraded_since {
            Some(degraded) => verdict(VerdictKind::Degraded, Some(degraded)),
            None => verdict(VerdictKind::Alive, Some(since)),
        }
    }

    /// How long it has been failing without a break, as of `now`.
    pub fn failing_for(&self, limits: &Limits, now: Duration) -> Option<Duration> {
        self.window.failing_since(limits.failing_ratio, limits.recover_for, now).map(|since| now.saturating_sub(since))
    }

    /// Start of the failing window.
    pub fn failing_since(&self, limits: &Limits, now: Duration) -> Option<Duration> {
        self.window.failing_since(limits.failing_ratio, limits.recover_for, now)
    }

    /// It asks the same of the same observations.
    pub fn is_like(&self, other: &Self) -> bool {
        self.probing == other.probing && self.needed == other.needed && self.window.is_like(&other.window)
    }

    /// Start of the first of the failures that no answer has ended yet.
    pub fn first_of_current_failures(&self) -> Option<Duration> {
        self.window.first_of_current_failures()
    }

    /// It has answered every probe for `recover_for`.
    pub fn has_recovered(&self, limits: &Limits, now: Duration) -> bool {
        self.window.alive_since(now).is_some_and(|since| now.saturating_sub(since) >= limits.recover_for)
    }

    /// How long ago it answered last; none where it never did, as far as this run of the daemon knows.
    pub fn answered_ago(&self, now: Duration) -> Option<Duration> {
        self.last_answer.map(|at| now.saturating_sub(at))
    }

    /// The last probe was answered, however long ago that is.
    pub fn answered_last(&self) -> bool {
        matches!(self.last, Some(Finding::Alive))
    }

    /// The last probe found out something, whatever it was.
    pub fn could_tell_last(&self) -> bool {
        !matches!(self.last, Some(Finding::Unknown { .. }))
    }

    /// When what was seen last says nothing any more, if nothing is observed until then.
    pub fn stale_at(&self) -> Option<Duration> {
        self.window.stale_at()
    }

    /// Degraded for how long, as of `now`.
    pub fn degraded_for(&self, now: Duration) -> Option<Duration> {
        if self.window.is_stale(now) {
            return None;
        }
        self.degraded_since.map(|since| now.saturating_sub(since))
    }

    /// Since when it has been well: every probe answered, and none of the answers was degraded.
    pub fn well_since(&self, now: Duration) -> Option<Duration> {
        Some(self.window.alive_since(now)?.max(self.well_since?))
    }

    /// The workloads that have had fewer ready replicas than they need, with since when. What was not seen lately is not
    /// known.
    pub fn short_workloads(&self, now: Duration) -> impl Iterator<Item = (&str, Duration)> {
        self.known(&self.workloads, now).filter(|(_, known)| known.is_short).map(|(name, known)| (name, known.since))
    }

    /// The zones none of whose nodes has been ready, with since when.
    pub fn dark_zones(&self, now: Duration) -> impl Iterator<Item = (&str, Duration)> {
        self.known(&self.zones, now).filter(|(_, known)| known.is_short).map(|(name, known)| (name, known.since))
    }

    /// A node of some zone is ready.
    pub fn has_lit_zone(&self, now: Duration) -> bool {
        self.known(&self.zones, now).any(|(_, known)| !known.is_short)
    }

    /// Since when a node of the zone has been ready.
    pub fn zone_lit_since(&self, zone: &str, now: Duration) -> Option<Duration> {
        let mut known = self.known(&self.zones, now);
        known.find(|(name, known)| *name == zone && !known.is_short).map(|(_, known)| known.since)
    }

    /// A workload was changed: only what is seen from now on counts.
    pub fn forget_workload(&mut self, workload: &str, now: Duration) {
        self.workloads.remove(workload);
        self.workloads_from = now;
    }

    /// Since when the workload has had as many ready replicas as it needs.
    pub fn workload_well_since(&self, workload: &str, now: Duration) -> Option<Duration> {
        let mut known = self.known(&self.workloads, now);
        known.find(|(name, known)| *name == workload && !known.is_short).map(|(_, known)| known.since)
    }

    /// Since when all workloads have had as many ready replicas as they need; for ever where there are none.
    pub fn workloads_well_since(&self, now: Duration) -> Option<Duration> {
        let since = self.needed.keys().map(|name| self.workload_well_since(name, now));
        since.collect::<Option<Vec<_>>>().map(|since| since.into_iter().max().unwrap_or_default())
    }

    fn known<'a>(
        &self,
        of: &'a BTreeMap<String, Replicas>,
        now: Duration,
    ) -> impl Iterator<Item = (&'a str, &'a Replicas)> + use<'a> {
        let gap = self.probing.gap();
        of.iter()
            .filter(move |(_, known)| now.saturating_sub(known.seen) <= gap)
            .map(|(name, known)| (name.as_str(), known))
    }

    /// It answered the last time, and that is not long ago.
    pub fn is_answering(&self, now: Duration) -> bool {
        matches!(self.last, Some(Finding::Alive)) && !self.window.is_stale(now)
    }

    /// The next moment at which the verdict changes although nothing is observed.
    pub fn changes_at(&self, limits: &Limits, now: Duration) -> Option<Duration> {
        let recovered = self.window.alive_since(now).map(|since| since + limits.recover_for);
        [self.window.stale_at(), recovered].into_iter().flatten().filter(|at| *at > now).min()
    }

    /// The last finding, in words.
    pub fn why(&self, now: Duration) -> String {
        match &self.last {
            None => "not probed yet".to_owned(),
            Some(_) if self.last_ended.is_some_and(|ended| now.saturating_sub(ended) > self.probing.gap()) => {
                "no recent observation".to_owned()
            }
            Some(Finding::Alive) if self.window.is_stale(now) => "no answer lately".to_owned(),
            Some(Finding::Alive) if self.evidence.credential_refused => "alive, and refuses our credential".to_owned(),
            Some(Finding::Alive) => match &self.evidence.degraded {
                Some(degraded) => format!("alive, degraded: {degraded}"),
                None => "alive".to_owned(),
            },
            Some(Finding::Failing { layer, why }) => format!("failing at {layer}: {why}"),
            Some(Finding::Unknown { why }) => format!("unknown: {why}"),
        }
    }

    /// The layer that failed last.
    pub fn failing_layer(&self) -> Option<Layer> {
        match &self.last {
            Some(Finding::Failing { layer, .. }) => Some(*layer),
            Some(Finding::Alive | Finding::Unknown { .. }) | None => None,
        }
    }

    /// When the last probe began.
    pub fn last_began(&self) -> Option<Duration> {
        self.last_began
    }

    /// How it is probed.
    pub fn probing(&self) -> Probing {
        self.probing
    }

    /// It was probed since this daemon started.
    pub fn is_probed(&self) -> bool {
        self.last.is_some()
    }

    /// The verdict of the last observation.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }
}

/// Goes on counting where the last observation is no further away than `gap`, and begins anew where it is, or where it is
/// otherwise than before.
fn note(known: &mut BTreeMap<String, Replicas>, name: &str, is_short: bool, began: Duration, gap: Duration) {
    let goes_on = |known: &&mut Replicas| known.is_short == is_short && began.saturating_sub(known.seen) <= gap;
    match known.get_mut(name).filter(goes_on) {
        Some(known) => known.seen = began,
        None => {
            known.insert(name.to_owned(), Replicas { is_short, since: began, seen: began });
        }
    }
}

/// The numbers of the policy that a verdict depends on.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Share of failed observations that makes a window failing.
    pub failing_ratio: f64,
    /// Alive for this long means recovered.
    pub recover_for: Duration,
    /// Share of failed observations that is degraded.
    pub degraded_ratio: f64,
    /// Over this long.
    pub degraded_over: Duration,
    /// Mistakes to be made, in tests of the tests.
    pub(crate) bugs: Bugs,
}

const _: () = assert!(FAILURES_IN_A_ROW >= 2, "one lost packet is not an outage");
