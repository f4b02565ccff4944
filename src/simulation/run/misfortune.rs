//! What goes wrong by chance, and what has come up.

use super::*;

/// A process that is starved.
const STOPS_BRIEFLY: Duration = Duration::from_secs(20);
/// A process that was stopped, or whose memory is swapped out.
const STOPS_LONG: Duration = Duration::from_secs(180);

impl Simulation<'_> {
    /// Whether chance strikes, with that many in a thousand.
    pub(super) fn by_chance(&mut self, thousandths: u64, what: Chance) -> bool {
        let Some(dice) = self.dice.as_mut().filter(|_| self.is_rough) else { return false };
        let strikes = dice.below(1000) < thousandths;
        if strikes {
            self.coverage.count("chance", what);
        }
        strikes
    }

    /// The process is stopped at the worst moment, for anything up to minutes. Whoever asks goes on after that.
    pub(super) fn stops_by_chance(&mut self, n: usize, what: Chance) -> bool {
        if !self.by_chance(3, what) {
            return false;
        }
        let limit =
            if self.spread(Duration::from_secs(2)) < Duration::from_secs(1) { STOPS_BRIEFLY } else { STOPS_LONG };
        self.nodes[n].paused = Some(self.now + self.spread(limit));
        true
    }

    pub(super) fn sabotage_by_chance(&mut self) -> Option<(Crash, Sabotage)> {
        let nth = self.counts.frames;
        let crash = |written| Crash::Frame { nth, written };
        if self.by_chance(5, Chance::DiesBeforeFrame) {
            return Some((crash(false), Sabotage::CrashBefore));
        }
        if self.by_chance(5, Chance::DiesAfterFrame) {
            return Some((crash(true), Sabotage::CrashAfter));
        }
        if self.is_alone() {
            return None;
        }
        if self.by_chance(20, Chance::FrameLost) {
            return Some((crash(false), Sabotage::RequestLost));
        }
        if self.by_chance(20, Chance::FrameAnswerLost) {
            return Some((crash(true), Sabotage::AnswerLost));
        }
        self.by_chance(20, Chance::FrameLate).then_some((crash(false), Sabotage::Delayed))
    }

    /// What the facts tell of what came up.
    pub(super) fn cover(&mut self, fact: &Fact) {
        self.coverage.count("fact", fact);
        if let Fact::Withheld { guards, .. } | Fact::ApprovalRequested { guards, .. } = fact {
            guards.iter().for_each(|guard| self.coverage.count("guard", guard.kind));
        }
        if let Fact::PlanMade { steps, .. } | Fact::PlanGrown { steps, .. } = fact {
            steps.iter().for_each(|step| self.coverage.count("action", &step.action));
        }
        if let Fact::IncidentClosed { outcome, .. } = fact {
            self.coverage.count("outcome", outcome);
        }
    }
}
