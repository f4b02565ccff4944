//! A trigger is a window: failing for T means fully observed, without gaps, and failing nearly all the time.

use std::collections::VecDeque;
use std::time::Duration;

use super::FAILURES_IN_A_ROW;

/// Consecutive observations with the same result.
#[derive(Debug, Clone, Copy)]
struct Run {
    failing: bool,
    count: u32,
    /// Start of the first and of the last probe of the run.
    first: Duration,
    last: Duration,
}

impl Run {
    /// How many of its observations began after `from`.
    fn count_from(&self, from: Duration) -> f64 {
        let count = f64::from(self.count);
        if self.first >= from {
            return count;
        }
        let span = (self.last - self.first).as_secs_f64();
        let inside = self.last.saturating_sub(from).as_secs_f64();
        if span == 0.0 { 0.0 } else { count * inside / span }
    }
}

/// The known observations of one instance since the last gap, as runs: a healthy instance costs one run.
#[derive(Debug, Clone)]
pub struct Window {
    runs: VecDeque<Run>,
    gap: Duration,
    keep: Duration,
    /// How long a failure has to last for anything to be done about it, ascending.
    triggers: Vec<Duration>,
}

/// Alternating results make one run each; beyond this the oldest are forgotten, which can only delay a verdict.
const RUNS_MAX: usize = 2048;

impl Window {
    /// A window in which observations further apart than `gap` start it anew, and which remembers at least `keep`.
    /// Something is done after each of `triggers`.
    pub fn new(gap: Duration, keep: Duration, mut triggers: Vec<Duration>) -> Self {
        triggers.sort_unstable();
        triggers.dedup();
        Self { runs: VecDeque::new(), gap, keep, triggers }
    }

    /// The same is asked of it.
    pub fn is_like(&self, other: &Self) -> bool {
        self.gap == other.gap && self.keep == other.keep && self.triggers == other.triggers
    }

    /// Adds an observation that began at `began` (monotonic). An observation older than the last is ignored.
    pub fn push(&mut self, began: Duration, failing: bool) {
        if let Some(last) = self.runs.back_mut() {
            if began <= last.last {
                return;
            }
            if began - last.last > self.gap {
                self.runs.clear();
            } else if last.failing == failing {
                last.count = last.count.saturating_add(1);
                last.last = began;
            } else {
                self.runs.push_back(Run { failing, count: 1, first: began, last: began });
            }
        }
        if self.runs.is_empty() {
            self.runs.push_back(Run { failing, count: 1, first: began, last: began });
        }
        while self.runs.len() > RUNS_MAX
            || self.runs.front().is_some_and(|run| run.last + self.keep < began && self.runs.len() > 1)
        {
            self.runs.pop_front();
        }
    }

    /// Takes a gap before `began` for time that was observed: a deliberate bug.
    pub(super) fn bridge(&mut self, began: Duration) {
        if let Some(last) = self.runs.back_mut()
            && began > last.last + self.gap
        {
            last.last = began - self.gap;
        }
    }

    /// Forgets everything: what was seen no longer counts.
    pub fn clear(&mut self) {
        self.runs.clear();
    }

    /// When the last observation began.
    pub fn last(&self) -> Option<Duration> {
        self.runs.back().map(|run| run.last)
    }

    /// The last observation is too long ago to say anything about `now`.
    pub fn is_stale(&self, now: Duration) -> bool {
        self.runs.back().is_none_or(|run| now.saturating_sub(run.last) > self.gap)
    }

    /// When the window stops counting if nothing is observed any more.
    pub fn stale_at(&self) -> Option<Duration> {
        self.runs.back().map(|run| run.last + self.gap)
    }

    /// Since when it has been failing: the beginning of the earliest failed probe from which on, without a gap, at
    /// least `ratio` of the observations failed, the last three included. What was before a recovery, which is answers for
    /// `recover_for`, was another failure: a moment's trouble after a long outage is no outage. And failing for as long as a
    /// trigger is only what failed at that ratio over just that long: the hour before makes up for no answer since.
    pub fn failing_since(&self, ratio: f64, recover_for: Duration, now: Duration) -> Option<Duration> {
        let last = self.runs.back()?;
        if !last.failing || last.count < FAILURES_IN_A_ROW || self.is_stale(now) {
            return None;
        }
        let (mut total, mut failed, mut since, mut later) = (0_u64, 0_u64, None, last.first);
        for run in self.runs.iter().rev() {
            if !run.failing && later.saturating_sub(run.first) >= recover_for {
                break;
            }
            let falls_short = |trigger: &Duration| {
                let from = now.saturating_sub(*trigger);
                let count = if from > run.first && from <= later { run.count_from(from) } else { return false };
                let failing = if run.failing { count } else { 0.0 };
                failed as f64 + failing < ratio * (total as f64 + count)
            };
            if self.triggers.iter().any(falls_short) {
                break;
            }
            later = run.first;
            total += u64::from(run.count);
            if run.failing {
                failed += u64::from(run.count);
                if failed as f64 >= ratio * total as f64 {
                    since = Some(run.first);
                }
            }
        }
        since
    }

    /// Start of the first probe of the current run of failures, however short.
    pub fn first_of_current_failures(&self) -> Option<Duration> {
        self.runs.back().filter(|run| run.failing).map(|run| run.first)
    }

    /// Since when every probe has answered.
    pub fn alive_since(&self, now: Duration) -> Option<Duration> {
        let last = self.runs.back()?;
        (!last.failing && !self.is_stale(now)).then_some(last.first)
    }

    /// It failed before the current run of answers, within what the window remembers.
    pub fn has_failed_before(&self) -> bool {
        self.runs.len() > 1
    }

    /// Share of the observations of the trailing `over` that failed, 0 to 1; none while there are fewer than three.
    pub fn failing_share(&self, over: Duration, now: Duration) -> Option<f64> {
        let from = now.saturating_sub(over);
        let (mut total, mut failed) = (0.0, 0.0);
        for run in self.runs.iter().rev() {
            if run.last < from {
                break;
            }
            let inside = run.count_from(from);
            total += inside;
            if run.failing {
                failed += inside;
            }
        }
        (total >= 3.0 && !self.is_stale(now)).then(|| failed / total)
    }

    /// When the oldest observation that still counts began.
    pub fn observed_since(&self) -> Option<Duration> {
        self.runs.front().map(|run| run.first)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::Probing;

    const RATIO: f64 = 0.95;
    const RECOVER_FOR: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn window() -> Window {
        Window::new(at(5), at(900), vec![at(30), at(120), at(300)])
    }

    fn observed(results: impl IntoIterator<Item = (u64, bool)>) -> Window {
        let mut window = window();
        for (second, failing) in results {
            window.push(at(second), failing);
        }
        window
    }

    #[test]
    fn a_window_starts_when_the_first_failed_probe_began() {
        let window = observed((0..100).map(|s| (s, s >= 40)));
        assert_eq!(window.failing_since(RATIO, RECOVER_FOR, at(99)), Some(at(40)));
    }

    #[test]
    fn silence_is_no_gap_where_a_timeout_is_longer_than_the_interval() {
        let probing = Probing { interval: Duration::from_millis(500), timeout: Duration::from_millis(1100) };
        let mut window = Window::new(probing.gap(), at(900), vec![at(30)]);
        let beat = 3 * probing.interval;
        for number in 0..60 {
            let began = number * beat;
            if number > 2 {
                // The one before is all there is to go by until this one has timed out, too.
                assert_eq!(
                    window.failing_since(RATIO, RECOVER_FOR, began + probing.timeout),
                    Some(at(0)),
                    "probe {number}"
                );
            }
            window.push(began, true);
        }
    }

    #[test]
    fn two_failures_are_not_yet_failing() {
        let window = observed((0..42).map(|s| (s, s >= 40)));
        assert_eq!(window.failing_since(RATIO, RECOVER_FOR, at(41)), None);
    }

    #[test]
    fn a_lucky_success_per_minute_does_not_hide_an_outage() {
        let window = observed((0..400).map(|s| (s, s >= 10 && s % 60 != 0)));
        assert_eq!(window.failing_since(RATIO, RECOVER_FOR, at(399)), Some(at(10)));
    }

    #[test]
    fn a_moment_after_a_recovery_is_no_part_of_the_outage_before() {
        let outage = |recovered: u64| observed((0..1300).map(move |s| (s, s < 1200 || s >= 1200 + recovered)));
        assert_eq!(outage(3).failing_since(RATIO, RECOVER_FOR, at(1299)), Some(at(0)), "it had not recovered");
        assert_eq!(outage(30).failing_since(RATIO, RECOVER_FOR, at(1299)), Some(at(1230)));
        assert_eq!(outage(97).failing_since(RATIO, RECOVER_FOR, at(1299)), Some(at(1297)));
    }

    #[test]
    fn an_answer_that_fills_most_of_a_trigger_is_not_made_up_for_by_the_long_outage_before() {
        // Fifteen minutes, 27 seconds of answers, and again: 97 % of all that failed, and 17 of the last 30 seconds.
        let window = |until| observed((0..until).map(|s| (s, !(900..927).contains(&s))));
        let failing_for = |until| {
            let now = at(until - 1);
            window(until).failing_since(RATIO, RECOVER_FOR, now).map(|since| now - since)
        };
        assert_eq!(failing_for(944), Some(at(16)));
        assert_eq!(failing_for(957), Some(at(29)));
        // A trigger of two minutes has to wait until most of those answers are older than that.
        assert_eq!(failing_for(1041), Some(at(113)));
        // Then five minutes are mostly failing at once only when they are so themselves.
        assert!(failing_for(1046).is_some_and(|lasting| lasting >= at(118) && lasting < at(300)));
        assert!(failing_for(1220).is_some_and(|lasting| lasting > at(1200)));
    }

    #[test]
    fn half_failing_is_not_failing() {
        let window = observed((0..400).map(|s| (s, s % 8 < 4)));
        let since = window.failing_since(RATIO, RECOVER_FOR, at(399));
        assert!(since.is_none_or(|since| since >= at(390)), "{since:?}");
        let share = window.failing_share(at(60), at(399)).expect("observed");
        assert!((share - 0.5).abs() < 0.1, "{share}");
    }

    #[test]
    fn a_gap_starts_the_window_again() {
        let window = observed((0..50).map(|s| (s, true)).chain((400..420).map(|s| (s, true))));
        assert_eq!(window.failing_since(RATIO, RECOVER_FOR, at(419)), Some(at(400)));
    }

    #[test]
    fn what_was_seen_long_ago_says_nothing_about_now() {
        let window = observed((0..50).map(|s| (s, true)));
        assert_eq!(window.failing_since(RATIO, RECOVER_FOR, at(60)), None);
    }

    proptest! {
        #[test]
        fn failing_for_t_is_never_claimed_of_less_than_t_observed_and_mostly_failing(
            results in proptest::collection::vec((1_u64..8, any::<bool>()), 1..200),
        ) {
            let mut window = window();
            let mut seen: Vec<(u64, bool)> = Vec::new();
            let mut second = 0;
            for (pause, failing) in results {
                second += pause;
                window.push(at(second), failing);
                seen.push((second, failing));
            }
            if let Some(since) = window.failing_since(RATIO, RECOVER_FOR, at(second)) {
                let inside: Vec<_> = seen.iter().filter(|(s, _)| at(*s) >= since).collect();
                prop_assert!(inside[0].1, "it starts with a failure");
                let failed = inside.iter().filter(|(_, failing)| *failing).count();
                prop_assert!(failed as f64 >= RATIO * inside.len() as f64);
                prop_assert!(inside.windows(2).all(|pair| pair[1].0 - pair[0].0 <= 5), "no gap");
                prop_assert!(inside.iter().rev().take(3).all(|(_, failing)| *failing));
                for trigger in [30, 120, 300].map(at).into_iter().filter(|trigger| at(second) - since >= *trigger) {
                    let trailing: Vec<_> = seen.iter().filter(|(s, _)| at(*s) >= at(second) - trigger).collect();
                    let failed = trailing.iter().filter(|(_, failing)| *failing).count();
                    // Of a run of equal observations its share is taken: one more or less.
                    prop_assert!(failed as f64 + 1.0 >= RATIO * (trailing.len() as f64 - 1.0), "over {trigger:?}");
                }
            }
        }

        #[test]
        fn a_window_that_is_all_failing_without_gaps_counts_from_its_first_probe(
            pauses in proptest::collection::vec(1_u64..=5, 3..300),
        ) {
            let mut window = window();
            let mut second = 0;
            let mut first = None;
            for pause in pauses {
                second += pause;
                first.get_or_insert(second);
                window.push(at(second), true);
            }
            prop_assert_eq!(window.failing_since(RATIO, RECOVER_FOR, at(second)), first.map(at));
        }
    }
}
