//! Expected loss: how much written data a standby does not have.
//!
//! Measured by positions, not by the age of the last replayed transaction, which grows with the outage itself.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::decide::Sample;

/// What would be lost if a standby were promoted now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// At most the writes of this long before the failure.
    AtMost(Duration),
    /// More than the writes of this long; how much more is not known.
    MoreThan(Duration),
    /// It cannot be said.
    Unknown(String),
}

impl Loss {
    /// The smaller of two that are both true.
    #[must_use]
    pub fn or_less(self, other: Self) -> Self {
        match (self, other) {
            (Self::AtMost(one), Self::AtMost(another)) => Self::AtMost(one.min(another)),
            (Self::AtMost(loss), _) | (_, Self::AtMost(loss)) => Self::AtMost(loss),
            (Self::MoreThan(one), Self::MoreThan(another)) => Self::MoreThan(one.max(another)),
            (Self::MoreThan(loss), Self::Unknown(_)) | (Self::Unknown(_), Self::MoreThan(loss)) => Self::MoreThan(loss),
            (unknown @ Self::Unknown(_), Self::Unknown(_)) => unknown,
        }
    }
}

/// Where a primary's write-ahead log stood while it was alive.
#[derive(Debug, Clone, Default)]
pub struct Positions {
    samples: VecDeque<Sample>,
}

/// One sample in this many seconds is kept, and the newest always.
const SPACING_SECONDS: f64 = 5.0;
/// At that spacing an hour. Where it is more, the older ones are thinned out, so that there is no end to how far they reach back.
const SAMPLES_MAX: usize = 720;
/// What is thinned out keeps samples that are apart by this part of their age: a loss is overstated by 2 % then.
const KEPT_PARTS: f64 = 48.0;
/// What goes into the ledger when a suspicion is raised.
const RECORDED_MAX: usize = 64;
/// A sample is recorded that is older than the next one by this part of its age.
const RECORDED_PARTS: f64 = 8.0;

impl Positions {
    /// Adds a sample of the living primary.
    pub fn push(&mut self, sample: Sample) {
        if let [.., before, newest] = self.samples.make_contiguous()
            && seconds_between(before.at, newest.at) < SPACING_SECONDS
            && before.at <= sample.at
        {
            *newest = sample;
            return;
        }
        // A clock that is being corrected: where the log stands now, it stood then at most.
        while self.samples.back().is_some_and(|newest| newest.at > sample.at) {
            self.samples.pop_back();
        }
        self.samples.push_back(sample);
        if self.samples.len() > SAMPLES_MAX {
            self.samples = self.thinned(KEPT_PARTS, SAMPLES_MAX).into();
        }
    }

    /// The wall clock was set back: so were the times of what was sampled before. One that was set ahead makes the samples look
    /// older, which is the safe way.
    pub fn clock_jumped(&mut self, by: SignedDuration) {
        if !by.is_negative() {
            return;
        }
        let moved = |sample: &Sample| Some(Sample { at: sample.at.checked_add(by).ok()?, ..*sample });
        self.samples = self.samples.iter().filter_map(moved).collect();
    }

    /// The last one.
    pub fn newest(&self) -> Option<Sample> {
        self.samples.back().copied()
    }

    /// Forgets what another primary wrote.
    pub fn clear(&mut self) {
        self.samples.clear();
    }

    /// Nothing was ever sampled.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// A bounded selection for the ledger: the newest samples closely, the older ones thinned out.
    pub fn recorded(&self) -> Vec<Sample> {
        self.thinned(RECORDED_PARTS, RECORDED_MAX)
    }

    /// Samples that are apart by a part of their age, the newest and the oldest among them.
    fn thinned(&self, parts: f64, most: usize) -> Vec<Sample> {
        let mut kept: Vec<Sample> = Vec::new();
        let Some(newest) = self.samples.back() else { return kept };
        for sample in self.samples.iter().rev() {
            let age = seconds_between(sample.at, newest.at);
            let is_apart = |last: &Sample| seconds_between(sample.at, last.at) >= age / parts;
            if kept.len() + 1 < most && kept.last().is_none_or(is_apart) {
                kept.push(*sample);
            }
        }
        // How far back the samples go is what a loss can be compared with.
        if let (Some(oldest), Some(last)) = (self.samples.front(), kept.last())
            && oldest != last
        {
            kept.push(*oldest);
        }
        kept.reverse();
        kept
    }

    /// The samples, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Sample> + Clone {
        self.samples.iter()
    }
}

/// Compares a standby's position with what the primary had written, up to `failing_since`.
pub fn expected<'a>(
    samples: impl DoubleEndedIterator<Item = &'a Sample> + Clone,
    standby: Option<u64>,
    failing_since: Timestamp,
) -> Loss {
    let Some(standby) = standby else {
        return Loss::Unknown("the standby's position is not known".to_owned());
    };
    let Some(oldest) = samples.clone().next() else {
        return Loss::Unknown("the primary's position was never sampled while it was alive".to_owned());
    };
    match samples.rev().find(|sample| sample.position <= standby) {
        Some(common) => duration_between(common.at, failing_since).map(Loss::AtMost),
        None => duration_between(oldest.at, failing_since).map(Loss::MoreThan),
    }
    .unwrap_or_else(|| Loss::Unknown("what was sampled is of another time: the clock was set back".to_owned()))
}

/// For how long the primary wrote what a standby at this position does not have, at least; none where it has all that was sampled.
pub fn least_lag<'a>(mut samples: impl Iterator<Item = &'a Sample>, standby: u64) -> Option<Duration> {
    let first = samples.find(|sample| sample.position > standby)?;
    Duration::try_from(samples.last().unwrap_or(first).at.duration_since(first.at)).ok()
}

/// None where the later one is not later.
fn duration_between(earlier: Timestamp, later: Timestamp) -> Option<Duration> {
    let exact = Duration::try_from(later.duration_since(earlier)).ok()?;
    // Rounded up: a loss is never said to be smaller than it may be.
    u64::try_from(exact.as_micros().div_ceil(1000)).ok().map(Duration::from_millis)
}

fn seconds_between(earlier: Timestamp, later: Timestamp) -> f64 {
    later.duration_since(earlier).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(second: i64, position: u64) -> Sample {
        Sample { at: Timestamp::from_second(second).expect("in range"), position }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn a_standby_that_has_everything_loses_at_most_one_probe_interval() {
        let samples = [sample(0, 100), sample(5, 200)];
        assert_eq!(expected(samples.iter(), Some(200), at(7)), Loss::AtMost(Duration::from_secs(2)));
    }

    #[test]
    fn the_loss_does_not_grow_with_the_outage() {
        let samples: Vec<_> = (0..60).map(|s| sample(s * 5, s as u64 * 100)).collect();
        // The standby replayed what was written until second 200; the primary failed at 296. Asked an hour later:
        assert_eq!(expected(samples.iter(), Some(4_000), at(296)), Loss::AtMost(Duration::from_secs(96)));
    }

    #[test]
    fn a_standby_lags_by_what_is_known_to_be_missing_and_not_by_what_nobody_saw() {
        let samples = [sample(0, 100), sample(600, 200), sample(605, 300)];
        assert_eq!(least_lag(samples.iter(), 150), Some(Duration::from_secs(5)), "nobody looked for ten minutes");
        assert_eq!(least_lag(samples.iter(), 50), Some(Duration::from_secs(605)));
        assert_eq!(least_lag(samples.iter(), 300), None);
    }

    #[test]
    fn what_was_never_sampled_is_unknown() {
        assert!(matches!(expected([].iter(), Some(1), at(0)), Loss::Unknown(_)));
        assert!(matches!(expected([sample(0, 5)].iter(), None, at(0)), Loss::Unknown(_)));
    }

    #[test]
    fn a_standby_behind_everything_that_was_sampled_loses_more_than_that() {
        let samples = [sample(0, 5), sample(60, 9)];
        assert_eq!(expected(samples.iter(), Some(4), at(90)), Loss::MoreThan(Duration::from_secs(90)));
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_loss_smaller() {
        let mut positions = Positions::default();
        (0..20).for_each(|n| positions.push(sample(1000 + n * 5, 100 + n as u64)));
        positions.clock_jumped(SignedDuration::from_secs(-600));
        positions.push(sample(500, 200));
        let loss = expected(positions.iter(), Some(100), at(501));
        assert_eq!(loss, Loss::AtMost(Duration::from_secs(101)), "as long ago as it was");
        let samples = [sample(1000, 100)];
        assert!(matches!(expected(samples.iter(), Some(100), at(900)), Loss::Unknown(_)), "from the future");
    }

    #[test]
    fn what_is_recorded_of_what_was_recorded_is_the_same() {
        let mut positions = Positions::default();
        (0..1000).for_each(|n| positions.push(sample(n * 5, n as u64)));
        let recorded = positions.recorded();
        let mut again = Positions::default();
        recorded.iter().for_each(|sample| again.push(*sample));
        assert_eq!(again.recorded(), recorded);
    }

    #[test]
    fn how_long_a_standby_lags_is_known_for_longer_than_an_hour() {
        let mut positions = Positions::default();
        (0..5000).for_each(|n| positions.push(sample(n * 5, n as u64)));
        assert!(positions.iter().count() <= SAMPLES_MAX);
        let lag = least_lag(positions.iter(), 100).expect("it lags");
        assert!(lag > Duration::from_secs(4750 * 5), "{lag:?}");
    }

    #[test]
    fn an_hour_of_samples_is_kept_and_a_handful_recorded() {
        let mut positions = Positions::default();
        for second in 0..7200 {
            positions.push(sample(second, second as u64));
        }
        let recorded = positions.recorded();
        assert!(recorded.len() <= RECORDED_MAX);
        assert_eq!(recorded.last().map(|s| s.position), Some(7199));
        assert!(recorded.windows(2).all(|pair| pair[0].at < pair[1].at));
        assert!(recorded[0].position < 7199 - 3000, "reaches back: {:?}", recorded[0]);
    }
}
