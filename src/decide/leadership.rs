//! Who leads: a daemon takes the ledger over, waits out its predecessor, and follows when another one leads.

use super::controller::{Controller, CorruptLedger, Draft};
use super::{Effect, Fact, Frame, Guard, GuardKind};
use crate::domain::{Bug, Mode, time::human};

impl Controller {
    /// Another observer leads from now on: `frames` are the whole record, as it is. What was seen still holds; whatever
    /// was going on is the other one's now.
    ///
    /// # Errors
    /// Where the record cannot be; nothing may be decided on it.
    pub fn follow(&mut self, frames: impl IntoIterator<Item = Frame>) -> Result<(), CorruptLedger> {
        let mut fresh = Self::recover_with(self.policy.clone(), self.policy_hash.clone(), frames, self.bugs)?;
        std::mem::swap(&mut self.hard, &mut fresh.hard);
        std::mem::swap(&mut self.soft, &mut fresh.soft);
        let former = fresh.soft;
        self.soft.watches = former.watches;
        self.soft.references = former.references;
        self.soft.council = former.council;
        self.soft.halted = former.halted;
        self.soft.stopped = former.stopped;
        self.is_recording = false;
        self.deadline = None;
        Ok(())
    }
}

impl Draft<'_> {
    /// A restart is an input: a new epoch begins, and whatever was under way is looked at and performed again.
    pub(super) fn restart(&mut self, epoch: Option<u64>) {
        self.soft.is_started = true;
        self.soft.started_at = self.now.monotonic;
        self.soft.under_way.clear();
        self.soft.looks.clear();
        self.soft.owed_under_way.clear();
        let former = self.hard.leader.clone();
        self.soft.takeover = former.filter(|_| epoch.is_some()).map(|former| {
            let wait = self.policy.council.takeover_wait;
            (former, self.now.monotonic + wait)
        });
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

    /// Puts the claim of this term up, as soon as nothing of a former leader's can be under way. A claim ends with a
    /// survey. Never both at once: what one reads before the other writes would come back later.
    pub(super) fn claim(&mut self) {
        if !self.soft.is_to_claim || self.takeover().is_some() {
            return;
        }
        let Some(ledger) = self.hard.ledger.clone() else { return };
        self.soft.is_to_claim = false;
        let term = self.hard.term();
        self.perform(Effect::Claim { ledger, term, replace: false });
    }

    /// Why nothing is sent yet: the leader before this one may have sent something that has not arrived.
    pub(super) fn takeover(&mut self) -> Option<Guard> {
        let (former, until) = self.soft.takeover.clone()?;
        let left = until.saturating_sub(self.now.monotonic);
        if left.is_zero() || self.bugs.has(Bug::TakeoverAtOnce) {
            self.soft.takeover = None;
            return None;
        }
        self.wake(until, "calls of the former leader have ended");
        Some(Guard {
            kind: GuardKind::Takeover,
            evidence: format!("{former} led before, and calls of its may be under way"),
            lifted_by: format!("{} more", human(left)),
        })
    }
}
