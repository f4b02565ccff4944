//! Who leads: a daemon takes the ledger over, waits out its predecessor, and follows when another one leads.

use std::collections::BTreeMap;
use std::time::Duration;

use super::controller::{Controller, Draft};
use super::incident::Incident;
use super::soft::Soft;
use super::{Effect, Fact, Guard, GuardKind, StepState};
use crate::domain::{Bug, Mode, Now, ObserverId, RegionId, time::human};

impl Controller {
    /// Another observer leads from now on. What was seen still holds, and the record so far; whatever was going on is the
    /// other one's now.
    pub fn step_down(&mut self) {
        let halted = self.soft.halted.take();
        let mut soft = Soft::new(&self.policy, self.bugs);
        std::mem::swap(&mut soft, &mut self.soft);
        self.soft.watches = soft.watches;
        self.soft.references = soft.references;
        self.soft.council = soft.council;
        self.soft.stopped = soft.stopped;
        self.soft.guarded = soft.guarded;
        self.soft.strangers = soft.strangers;
        self.soft.halted = halted;
        self.hard.is_own_clock = false;
        self.is_recording = false;
        self.deadline = None;
    }

    /// This observer.
    pub fn observer(&self) -> &ObserverId {
        &self.policy.observer
    }

    /// Hash of the policy that it decides by.
    pub fn policy_hash(&self) -> &str {
        &self.policy_hash
    }

    /// It leads: what is to be done, it decides.
    pub fn leads(&self) -> bool {
        self.soft.is_started
    }

    /// Whether it should lead.
    pub fn fitness(&mut self, now: Now) -> Fitness {
        self.read_draft(now, |draft| draft.fitness())
    }

    /// Somebody else should lead, and can be heard; or this observer must not.
    pub fn should_yield(&mut self, now: Now) -> bool {
        self.read_draft(now, |draft| match draft.fitness() {
            Fitness::Outside => false,
            Fitness::Inside => draft.hard.open_incidents().next().is_none() && draft.is_better_placed_heard(),
            // Who else is heard and knows better; where all are in doubt, one of them takes orders and says so.
            Fitness::InDoubt(_) => draft.is_anybody_sound(|_| true),
            Fitness::OutOfReach | Fitness::Outnumbered(_) | Fitness::Unfit(_) => true,
        })
    }

    /// Why nobody could do anything, as far as that is seen from here; for observers that do not lead.
    pub fn inability(&mut self, now: Now) -> Option<String> {
        self.read_draft(now, |draft| draft.too_few_voices())
    }
}

/// Whether an observer should lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fitness {
    /// It stands outside of what serves: what is lost does not take it along.
    Outside,
    /// It stands in a region that serves.
    Inside,
    /// It cannot reach what a step needs, and others come first.
    OutOfReach,
    /// It doubts itself, for this reason: nothing moves by itself while it leads, and people can still order it.
    InDoubt(String),
    /// More of those that are heard work by another configuration, and agree on that.
    Outnumbered(String),
    /// It must not, for this reason.
    Unfit(String),
}

/// A daemon inside a region that serves lets others come first for so long. It is part of a takeover's time where nobody else is
/// left, and they hear within milliseconds that the lead is free.
const INSIDE_AFTER: Duration = Duration::from_secs(2);
/// One that others should lead instead of lets them come first for so long: they have to hear of it, and one of them to win.
const LAST_AFTER: Duration = Duration::from_secs(10);

impl Fitness {
    /// How long nobody has to have led before it stands for it; none where it never does.
    pub fn patience(&self) -> Option<Duration> {
        match self {
            Self::Outside => Some(Duration::ZERO),
            Self::Inside => Some(INSIDE_AFTER),
            Self::OutOfReach | Self::InDoubt(_) | Self::Outnumbered(_) => Some(LAST_AFTER),
            Self::Unfit(_) => None,
        }
    }
}

impl std::fmt::Display for Fitness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Outside => f.write_str("it could lead"),
            Self::Inside => f.write_str("it could lead, from inside a region that serves"),
            Self::OutOfReach => f.write_str("it cannot reach what a step needs"),
            Self::InDoubt(why) | Self::Outnumbered(why) | Self::Unfit(why) => f.write_str(why),
        }
    }
}

impl Draft<'_> {
    fn fitness(&self) -> Fitness {
        // What halts everybody is in the record, and lifted by an order that somebody has to take.
        if let Some(why) = &self.soft.halted {
            return Fitness::Unfit(format!("halted: {why}"));
        }
        if let Some(doubt) = self.unvouched() {
            return Fitness::InDoubt(doubt);
        }
        if let Some(why) = self.outnumbered() {
            return Fitness::Outnumbered(why);
        }
        if self.has_handed_over() || self.should_let_others_fence() {
            return Fitness::OutOfReach;
        }
        let is_inside = self.hard.placement.values().any(|region| *region == self.policy.observer_region);
        if is_inside { Fitness::Inside } else { Fitness::Outside }
    }

    fn is_better_placed_heard(&self) -> bool {
        self.is_anybody_sound(|region| !self.is_serving(region))
    }

    /// Another observer, in such a region, can be heard and has no doubt about what serves: it would lead.
    fn is_anybody_sound(&self, is_there: impl Fn(&RegionId) -> bool) -> bool {
        let others = self.policy.council.observers.iter().filter(|(observer, _)| **observer != self.policy.observer);
        others.filter(|(_, region)| is_there(region)).any(|(observer, _)| {
            let ballot = self.soft.council.ballot(observer, self.rules(), self.now.monotonic);
            ballot.is_ok_and(|ballot| !ballot.doubts.keys().any(|region| self.is_serving(region)))
                && self.reaches_owed_fences(observer)
        })
    }

    fn is_serving(&self, region: &RegionId) -> bool {
        self.hard.placement.values().any(|serving| serving == region)
    }

    /// Of those that are heard, more work by one other configuration than by this one: they would be a quorum, and this one
    /// could only keep them from acting.
    fn outnumbered(&self) -> Option<String> {
        let now = self.now.monotonic;
        let mut own = 1;
        let mut others: BTreeMap<&str, Vec<&ObserverId>> = BTreeMap::new();
        for (observer, policy) in self.soft.council.policies(self.policy.council.ballot_fresh, now) {
            if policy == self.policy_hash {
                own += 1;
            } else if self.policy.council.observers.contains_key(observer) {
                others.entry(policy).or_default().push(observer);
            }
        }
        let most = others.into_values().max_by_key(Vec::len)?;
        let names: Vec<&str> = most.iter().map(|observer| observer.as_str()).collect();
        (most.len() > own).then(|| format!("{} work by another configuration, and agree on it", names.join(" and ")))
    }

    /// A restart is an input: a new epoch begins, and whatever was under way is looked at and performed again.
    pub(super) fn restart(&mut self, epoch: Option<u64>) {
        self.soft.is_started = true;
        self.soft.started_at = self.now.monotonic;
        self.soft.under_way.clear();
        self.soft.looks.clear();
        self.soft.out_of_reach.clear();
        self.soft.owed_under_way.clear();
        // Whose the clusters are has to be seen anew, and what an earlier term of ours wrote there is no copy's.
        self.soft.survey = None;
        self.soft.claimed.clear();
        self.soft.revoked_since.clear();
        self.soft.roles_idle_since.clear();
        // Where nobody else can lead, the former leader is the former run, whose calls may be under way like any other's.
        let is_another = epoch.map_or_else(|| self.has_calls_under_way(), |epoch| epoch != self.hard.epoch);
        let former = self.hard.leader.clone().filter(|_| is_another);
        self.soft.takeover = former.map(|former| Takeover { former, until: None });
        self.hard.to_mut().is_own_clock = true;
        self.record(Fact::EpochStarted {
            observer: self.policy.observer.clone(),
            policy: self.policy_hash.to_owned(),
            mode: self.policy.mode,
            epoch,
        });
        self.soft.survey_asked = Some(self.now.monotonic);
        let is_observing = self.policy.mode == Mode::Observe;
        self.soft.is_to_claim = self.hard.ledger.is_some() && self.hard.is_adopted && !is_observing;
        if !self.soft.is_to_claim {
            self.perform(Effect::Survey);
        }
        self.claim();
    }

    /// By the record, something is being done to the world.
    fn has_calls_under_way(&self) -> bool {
        let is_at_work = |incident: &Incident| {
            let mut states = incident.plan.progress.values().map(|progress| progress.state);
            states.any(|state| matches!(state, StepState::Running | StepState::Undoing))
        };
        self.hard.open_incidents().any(is_at_work) || self.hard.owed.values().any(|owed| owed.attempts > 0)
    }

    /// Puts the claim of this term up, as soon as nothing of a former leader's can be under way. A claim ends with a
    /// survey. Never both at once: what one reads before the other writes would come back later.
    pub(super) fn claim(&mut self) {
        if self.takeover().is_some() {
            return;
        }
        if let Some(takeover) = self.soft.takeover.take() {
            self.record(Fact::TakeoverCompleted { former: takeover.former });
        }
        // It is a change of the world like any other, and needs a fact. Without one it goes with the next.
        if self.facts.is_empty() || !std::mem::take(&mut self.soft.is_to_claim) {
            return;
        }
        if let Some(ledger) = self.hard.ledger.clone() {
            let term = self.hard.term();
            let replace = self.replaces_merged();
            self.perform(Effect::Claim { ledger, term, replace });
        }
    }

    /// Why nothing is sent yet: the leader before this one may have sent something that has not arrived. The wait begins
    /// when our own epoch is durable: from then on it can record nothing, and begins nothing.
    pub(super) fn takeover(&mut self) -> Option<Guard> {
        let wait = self.policy.council.takeover_wait;
        let is_recording = self.facts.iter().any(|fact| matches!(fact, Fact::EpochStarted { .. }));
        let takeover = self.soft.takeover.as_mut()?;
        let former = takeover.former.clone();
        let left = if is_recording {
            wait
        } else {
            let until = *takeover.until.get_or_insert(self.now.monotonic + wait);
            until.saturating_sub(self.now.monotonic)
        };
        if left.is_zero() || self.bugs.has(Bug::TakeoverAtOnce) {
            return None;
        }
        self.wake(self.now.monotonic + left, "calls of the former leader have ended");
        Some(Guard {
            kind: GuardKind::Takeover,
            evidence: match former == self.policy.observer {
                true => "this daemon was started anew, and calls of its former run may be under way".to_owned(),
                false => format!("{former} led before, and calls of its may be under way"),
            },
            lifted_by: format!("{} more", human(left)),
        })
    }
}

/// The lead was taken over from another.
#[derive(Debug, Clone)]
pub(super) struct Takeover {
    former: ObserverId,
    /// Until then calls of its may be under way; none before our own epoch is durable.
    until: Option<Duration>,
}
