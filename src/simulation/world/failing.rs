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
