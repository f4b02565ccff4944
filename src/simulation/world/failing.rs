//! For how long something was failing, to the moment.

use std::time::Duration;

/// How something fails over time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Failing {
    /// That share of the time.
    Share(f64),
    /// For a while in every round, from the beginning of the first one.
    Rounds { every: Duration, lasting: Duration },
}

impl Failing {
    /// As it may look by chance to everybody who probes it for so long: of a handful of probes all may fail where four in five
    /// do, and over days of windows some will.
    pub(super) fn as_probed(self, window: Duration) -> Self {
        let by_chance = match window.as_secs() {
            0..=60 => 0.5,
            61..=150 => 0.7,
            151..=330 => 0.8,
            _ => 0.85,
        };
        match self {
            Self::Share(share) if share >= by_chance => Self::Share(1.0),
            Self::Share(_) | Self::Rounds { .. } => self,
        }
    }

    /// For how long between two moments after its beginning.
    pub(super) fn between(self, from: Duration, to: Duration) -> Duration {
        match self {
            Self::Share(share) => to.saturating_sub(from).mul_f64(share),
            Self::Rounds { every, lasting } => {
                let until = |moment: Duration| {
                    let every = every.max(Duration::from_millis(1)).as_secs_f64();
                    let rounds = (moment.as_secs_f64() / every).floor();
                    let into = Duration::from_secs_f64(moment.as_secs_f64() - rounds * every);
                    lasting.mul_f64(rounds) + into.min(lasting)
                };
                until(to).saturating_sub(until(from))
            }
        }
    }
}
