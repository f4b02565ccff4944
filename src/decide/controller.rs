//! The controller: one input at a time, facts and effects out.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Duration;

use jiff::SignedDuration;

use super::hard::Hard;
use super::soft::Soft;
use super::{Decision, Effect, Fact, Frame, Input, Sample};
use crate::domain::{Bug, Bugs, Evidence, Finding, InstanceId, Kind, Layer, Now, Observation, PlanId, Policy, Serving};
use crate::health::{References, Silence, Watch};

/// Decides. Owned by exactly one loop; everything it knows of the world comes in as an [`Input`].
#[derive(Debug)]
pub struct Controller {
    pub(super) policy: Policy,
    pub(super) policy_hash: String,
    pub(super) hard: Hard,
    pub(super) soft: Soft,
    /// An append is open: soft state goes on, decisions wait.
    pub(super) is_recording: bool,
    pub(super) deadline: Option<(Duration, &'static str)>,
    pub(super) bugs: Bugs,
}

/// What may not be sent although it has started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standstill {
    /// Everything but owed fences; who paused it.
    pub paused: Option<String>,
    /// The plans of incidents that a person holds.
    pub held: BTreeSet<PlanId>,
    /// Everything, owed fences too: another failoverd is in charge.
    pub claimed: Option<String>,
}

/// A ledger whose facts do not follow from each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("frame {index} of the ledger cannot be: {why}")]
pub struct CorruptLedger {
    /// Which frame.
    pub index: u64,
    /// What is wrong with it.
    pub why: String,
}

/// Nothing is decided again sooner than this because of the time alone, lest a mistake uses up a processor.
const SOON: Duration = Duration::from_millis(50);

impl Controller {
    /// Rebuilds the hard state from the ledger's frames.
    pub fn recover(
        policy: Policy,
        policy_hash: String,
        frames: impl IntoIterator<Item = Frame>,
    ) -> Result<Self, CorruptLedger> {
        Self::recover_with(policy, policy_hash, frames, Bugs::default())
    }

    /// As [`Self::recover`], with a deliberate bug for the tests to find.
    pub(crate) fn recover_with(
        policy: Policy,
        policy_hash: String,
        frames: impl IntoIterator<Item = Frame>,
        bugs: Bugs,
    ) -> Result<Self, CorruptLedger> {
        let mut hard = Hard::default();
        for (next, frame) in (0..).zip(frames) {
            if frame.index != next {
                return Err(CorruptLedger { index: frame.index, why: format!("frame {next} was expected") });
            }
            for fact in &frame.facts {
                if bugs.has(Bug::ReplayAsksThePlanner)
                    && let Some(redrawn) = redrawn(&policy, &hard, fact)
                {
                    hard.apply(frame.at, &redrawn);
                    continue;
                }
                hard.apply(frame.at, fact);
            }
        }
        let soft = Soft::new(&policy, bugs);
        Ok(Self { policy, policy_hash, hard, soft, is_recording: false, deadline: None, bugs })
    }

    /// Takes one input in and decides. Changes soft state only; the returned facts come back through [`Self::apply`]
    /// once they are durable, and the effects are performed after that. While they are not, nothing new is decided.
    pub fn step(&mut self, now: Now, input: Input) -> Decision {
        let is_due = match input {
            Input::Observed(observation) => self.observe(now, observation),
            Input::ReferenceObserved(observation) => {
                let answered = self.soft.references.answers(&observation.reference);
                self.soft.references.observe(&self.policy, &observation);
                answered != self.soft.references.answers(&observation.reference)
            }
            Input::Heard(ballot) => {
                let observer = ballot.observer.clone();
                let is_news = self.soft.council.hear(ballot, self.policy.council.ballot_fresh, now.monotonic);
                self.hear_of_logs(now, &observer);
                is_news
            }
            Input::Guarded(databases) => {
                let is_news = self.soft.guarded != databases;
                self.soft.guarded = databases;
                is_news
            }
            Input::Progressed { plan, step, note } => {
                self.soft.notes.insert((plan, step), note);
                false
            }
            Input::Stopped(stopped) => {
                let is_news = self.soft.stopped != stopped;
                self.soft.stopped = stopped;
                is_news
            }
            Input::Tick => true,
            Input::ClaimsSeen { asked, claims } => self.soft.see_claims(&self.hard, asked, claims),
            input @ (Input::Restarted | Input::Elected { .. }) => {
                self.soft.inbox.push_back(input);
                true
            }
            // What comes of a time when this daemon led is the new leader's business.
            _ if !self.soft.is_started => false,
            input @ (Input::Looked { .. }
            | Input::Finished { .. }
            | Input::UndoFinished { .. }
            | Input::OwedFenceFinished { .. }
            | Input::Surveyed { .. }
            | Input::Verified { .. }
            | Input::Measured { .. }
            | Input::Commanded { .. }) => {
                self.soft.inbox.push_back(input);
                true
            }
        };
        // A follower decides nothing: there is nothing to wake it for.
        let is_idle = !self.soft.is_started && self.soft.inbox.is_empty();
        self.deadline = self.deadline.filter(|_| !is_idle);
        let is_late = self.deadline.is_some_and(|(at, _)| now.monotonic >= at);
        if is_idle || self.is_recording || !(is_due || is_late) {
            return Decision::default();
        }
        self.decide(now)
    }

    /// A decision that has not begun.
    pub(super) fn draft(&mut self, now: Now) -> Draft<'_> {
        Draft {
            policy: &self.policy,
            policy_hash: &self.policy_hash,
            hard: Cow::Borrowed(&self.hard),
            soft: &mut self.soft,
            now,
            facts: Vec::new(),
            effects: Vec::new(),
            deadline: None,
            bugs: self.bugs,
        }
    }

    fn decide(&mut self, now: Now) -> Decision {
        let mut draft = self.draft(now);
        draft.soft.watches.settle(&draft.hard, &draft.soft.limits, now.monotonic);
        while let Some(input) = draft.soft.inbox.pop_front() {
            draft.take(input);
        }
        if draft.soft.is_started {
            draft.remember_sightings();
            draft.remember_guardians();
            draft.claim();
            draft.advance();
            let recorded = draft.facts.len();
            let mut candidates = draft.judge();
            draft.pay_fences();
            draft.verify_afterwards();
            draft.measure_losses();
            draft.go_home();
            draft.claim();
            if draft.facts.len() > recorded {
                candidates = draft.candidates();
            }
            draft.alarm(&candidates);
        }
        draft.look_ahead();
        let Draft { facts, effects, deadline, .. } = draft;
        self.deadline = deadline;
        self.is_recording = !facts.is_empty();
        Decision { record: facts, perform: effects }
    }

    /// Takes durable facts into the hard state. The shell then steps with [`Input::Tick`], because decisions waited.
    pub fn apply(&mut self, at: Now, facts: &[Fact]) {
        self.hear(at, at, facts);
    }

    /// The same of facts that another daemon recorded `at` its own time, and of which this one heard now.
    pub fn hear(&mut self, now: Now, at: Now, facts: &[Fact]) {
        self.hard.is_own_clock = self.soft.is_started;
        self.hard.hears_at = Some(now.monotonic);
        for fact in facts {
            self.hard.apply(at, fact);
            if let Fact::PlacementAdopted { .. } | Fact::BreakGlassMerged { .. } = fact {
                // A person has settled who is in charge: what was read before says nothing any more.
                self.soft.strangers.clear();
            }
            if let Fact::PlacementChanged { component, region } = fact {
                // Which role it has, and where its log stood, says nothing any more. Whether it answers still holds.
                for (id, watch) in self.soft.watches.iter_mut().filter(|(id, _)| id.component == *component) {
                    watch.evidence.serving = None;
                    if id.region != *region {
                        watch.forget_log();
                    }
                }
            }
        }
        self.is_recording = false;
    }

    /// Something broke here: it performs nothing.
    pub fn is_halted(&self) -> bool {
        self.soft.halted.is_some() || self.hard.halted.is_some()
    }

    /// Why a call of `key` (`plan/step`) that was sent before is not sent again, if so: the world is another one by now.
    pub fn outdated(&mut self, now: Now, key: &str) -> Option<String> {
        self.read_draft(now, |draft| draft.outdated(key))
    }

    /// When to step with [`Input::Tick`] if nothing else happens, on the monotonic clock, and why.
    pub fn next_deadline(&self) -> Option<(Duration, &'static str)> {
        self.deadline
    }

    /// The wall clock has jumped ahead of the monotonic one, or back: for how long nothing was seen is not known, so only what is seen from now
    /// on counts, of the instances, the reference points, the other observers and the claims.
    pub fn clocks_jumped(&mut self, now: Now, by: SignedDuration) {
        self.soft.watches.start_again(now.monotonic, by);
        self.soft.references = References::default();
        self.soft.council.start_again();
        self.soft.witnessed.clear();
        self.soft.knew_better.clear();
        self.soft.looks.clear();
        self.soft.survey = None;
        self.soft.survey_asked = None;
        self.soft.unvouched_since = None;
        self.deadline = Some((now.monotonic, "the clocks jumped"));
    }

    /// The shell found something broken (an append that failed): nothing is performed any more.
    pub fn halt(&mut self, why: String) {
        self.soft.halted.get_or_insert(why);
        self.is_recording = false;
    }

    /// Takes a new policy over. Refused while an incident is open, which keeps the policy it started under.
    pub fn reload(&mut self, policy: Policy, policy_hash: String) -> Result<(), String> {
        if let Some(incident) = self.hard.open_incidents().next() {
            return Err(format!(
                "{} is open and keeps the policy it started under; reload again once it is closed",
                incident.id
            ));
        }
        let mut soft = Soft::new(&policy, self.bugs);
        std::mem::swap(&mut soft, &mut self.soft);
        // What was seen of an instance that stayed the same still holds: a reload must not put off an outage.
        self.soft.watches.inherit(soft.watches);
        self.soft.references = soft.references;
        self.soft.council = soft.council;
        self.soft.alarms = soft.alarms;
        self.soft.survey = soft.survey;
        self.soft.strangers = soft.strangers;
        self.soft.inbox = soft.inbox;
        self.soft.halted = soft.halted;
        self.soft.stopped = soft.stopped;
        self.soft.guarded = soft.guarded;
        self.soft.claimed = soft.claimed;
        self.policy = policy;
        self.policy_hash = policy_hash;
        if soft.is_started {
            let epoch = self.hard.epoch;
            let is_alone = self.policy.council.is_alone();
            self.soft.inbox.push_back(if is_alone { Input::Restarted } else { Input::Elected { epoch } });
        }
        Ok(())
    }

    /// The epoch of the last daemon that took the ledger over.
    pub fn epoch(&self) -> u64 {
        self.hard.epoch
    }

    /// Something broke in this run of the daemon, which a restart may mend.
    pub(crate) fn has_broken(&self) -> bool {
        self.soft.halted.is_some()
    }

    /// Why nothing is performed, if so.
    pub fn halted(&self) -> Option<&str> {
        self.soft.halted.as_deref().or(self.hard.halted.as_deref())
    }

    /// What people forbade, and durably: nothing more of it is sent, whatever has started.
    pub fn standstill(&self, now: Now) -> Standstill {
        let pause = self.hard.paused.as_ref().filter(|_| !self.bugs.has(Bug::PauseIgnored));
        let pause = pause.filter(|pause| !self.hard.time_left(pause.stamp, pause.until, now).is_zero());
        let held = self.hard.open_incidents().filter(|incident| incident.is_held);
        Standstill {
            paused: pause.map(|pause| format!("paused by {}", pause.by)),
            held: held.map(|incident| incident.plan.id.clone()).collect(),
            claimed: self.soft.claimed_by_another(&self.hard).filter(|_| !self.bugs.has(Bug::DriftIgnored)),
        }
    }

    /// Returns whether the verdict changed, or anything else that a decision may depend on.
    fn observe(&mut self, now: Now, mut observation: Observation) -> bool {
        let id = observation.instance.clone();
        let Some(place) = self.soft.watches.place(&id) else { return false };
        let watch = self.soft.watches.at_mut(place);
        let must_write = matches!(watch.kind, Kind::Database | Kind::Cache);
        let is_active = must_write && active(&self.policy, &self.hard, &id);
        if is_active && observation.finding == Finding::Alive && observation.evidence.serving == Some(Serving::Replica)
        {
            observation.finding = Finding::Failing {
                layer: Layer::Role,
                why: "it serves, and answers as a replica that takes no writes".to_owned(),
            };
        }
        if self.bugs.has(Bug::RefusalIsFailing) && observation.evidence.credential_refused {
            observation.finding = Finding::Failing { layer: Layer::Query, why: "access denied".to_owned() };
        }
        if !watch.is_known {
            watch.is_known = self.hard.seen_alive.get(&id) == Some(&watch.fingerprint);
        }
        let mut is_due = false;
        if observation.finding == Finding::Alive && !watch.is_known {
            is_due = self.soft.newly_seen.insert(id.clone());
        }
        let counts = watch.is_known || self.soft.newly_seen.contains(&id) || self.bugs.has(Bug::NeverSeenCounts);
        if is_active
            && watch.kind == Kind::Database
            && let Finding::Alive = observation.finding
            && let Some(position) = observation.evidence.position
        {
            let ago = now.monotonic.saturating_sub(observation.began);
            let at = now.wall.checked_sub(ago).unwrap_or(now.wall);
            watch.positions.push(Sample { at, position });
        }
        // The time that is not seen of an outage is no loss: the same as with a restart in the middle of one.
        if let Some((since, until)) = watch.failing_before(observation.began, &self.soft.limits) {
            let at = |then: Duration| now.wall.checked_sub(now.monotonic.saturating_sub(then)).unwrap_or(now.wall);
            let since = watch.silence().map_or(at(since), |silence| silence.stopped(at(since)));
            watch.remember_silence(Silence { since, until: at(until) });
        }
        let before = readiness(&watch.evidence);
        let changed = watch.observe(observation, counts, &self.soft.limits, now.monotonic);
        let is_due = is_due || changed || readiness(&watch.evidence) != before;
        self.soft.watches.stir(place, &self.soft.limits, now.monotonic);
        is_due
    }
}

/// The fact with the plan that would be drawn today: a deliberate bug.
fn redrawn(policy: &Policy, hard: &Hard, fact: &Fact) -> Option<Fact> {
    let Fact::PlanMade { incident, plan, part, .. } = fact else { return None };
    let source = &hard.incidents.get(incident)?.source;
    let alive = policy.instances().filter(|id| id.region != *source).collect();
    let situation = crate::plan::Situation {
        policy,
        placement: &hard.placement,
        source,
        purpose: hard.incidents.get(incident).map(|incident| incident.purpose).unwrap_or_default(),
        incident,
        alive: &alive,
        existing: &BTreeSet::new(),
        begun: &BTreeSet::new(),
    };
    let steps = crate::plan::plan(situation, part).ok()?.steps;
    Some(Fact::PlanMade { incident: incident.clone(), plan: plan.clone(), part: part.clone(), steps })
}

/// What decides whether a standby could take over.
fn readiness(evidence: &Evidence) -> (bool, bool, usize, Option<Serving>, usize) {
    let dark = evidence.zones.iter().filter(|zone| zone.is_dark()).count();
    (evidence.credential_refused, evidence.degraded.is_some(), evidence.not_ready.len(), evidence.serving, dark)
}

/// The instance serves: by the placement, or by its role while nothing was adopted.
pub(super) fn active(policy: &Policy, hard: &Hard, id: &InstanceId) -> bool {
    match hard.placement.get(&id.component) {
        Some(region) => *region == id.region,
        None => policy.primary() == Some(&id.region),
    }
}

/// One decision in the making. Facts recorded here are visible to what is decided after them, as if they were durable;
/// the hard state itself changes only in [`Controller::apply`].
pub(super) struct Draft<'a> {
    pub(super) policy: &'a Policy,
    pub(super) policy_hash: &'a str,
    pub(super) hard: Cow<'a, Hard>,
    pub(super) soft: &'a mut Soft,
    pub(super) now: Now,
    pub(super) facts: Vec<Fact>,
    pub(super) effects: Vec<Effect>,
    pub(super) deadline: Option<(Duration, &'static str)>,
    pub(super) bugs: Bugs,
}

impl Draft<'_> {
    pub(super) fn record(&mut self, fact: Fact) {
        let hard = self.hard.to_mut();
        hard.hears_at = Some(self.now.monotonic);
        hard.apply(self.now, &fact);
        self.facts.push(fact);
    }

    pub(super) fn perform(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Names a moment at which to decide again. One that has come was considered now; soon is early enough.
    pub(super) fn wake(&mut self, at: Duration, why: &'static str) {
        let at = at.max(self.now.monotonic + SOON);
        if self.deadline.is_none_or(|(earliest, _)| at < earliest) {
            self.deadline = Some((at, why));
        }
    }

    pub(super) fn is_active(&self, id: &InstanceId) -> bool {
        active(self.policy, &self.hard, id)
    }

    /// For how long the instance has failed, as seen from here, while our own network was vouched for. What failed while
    /// nobody outside answered either says nothing: when our link comes back, the first answers must not make an outage
    /// of it.
    pub(super) fn failing_as_watched(&self, id: &InstanceId, watch: &Watch) -> Option<Duration> {
        let now = self.now.monotonic;
        let failing_for = watch.failing_for(&self.soft.limits, now)?;
        if self.bugs.has(Bug::GapIsFailing) || self.bugs.has(Bug::NoSelfDoubt) {
            return Some(failing_for);
        }
        match self.soft.references.trusted_since(self.policy, &id.region, now) {
            Some(trusted) => Some(failing_for.min(now.saturating_sub(trusted))),
            None => Some(failing_for),
        }
    }

    pub(super) fn is_answering(&self, id: &InstanceId) -> bool {
        self.soft.watches.get(id).is_some_and(|watch| watch.is_answering(self.now.monotonic))
    }

    /// The wall time of a monotonic moment not long ago.
    pub(super) fn wall_at(&self, monotonic: Duration) -> jiff::Timestamp {
        let ago = self.now.monotonic.saturating_sub(monotonic);
        self.now.wall.checked_sub(ago).unwrap_or(self.now.wall)
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Restarted => self.restart(None),
            Input::Elected { epoch } => self.restart(Some(epoch)),
            Input::Looked { plan, step, result } => {
                let look = self.soft.looks.entry((plan, step)).or_default();
                look.asked = None;
                look.seen = Some((self.now.monotonic, result));
            }
            Input::Finished { plan, step, attempt, outcome } => self.finished(plan, step, attempt, outcome),
            Input::UndoFinished { plan, step, attempt, outcome } => self.undo_finished(plan, step, attempt, outcome),
            Input::OwedFenceFinished { database, attempt, outcome } => self.fence_paid(database, attempt, outcome),
            Input::Surveyed { asked, claims } | Input::ClaimsSeen { asked, claims } => self.surveyed(asked, claims),
            Input::Verified { check, region, result } => self.verified(check, region, result),
            Input::Measured { measure, answer } => self.measured(measure, answer),
            Input::Commanded { id, request, command } => {
                let answer = self.take_order(request, command);
                self.perform(Effect::Reply { id, answer });
            }
            Input::Observed(_)
            | Input::ReferenceObserved(_)
            | Input::Progressed { .. }
            | Input::Heard(_)
            | Input::Stopped(_)
            | Input::Guarded(_)
            | Input::Tick => {}
        }
    }
}
