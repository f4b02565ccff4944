//! What is known of databases by word of mouth: what an observer tells the others of them, and what one run of a daemon leaves to
//! the next. Everything in it counts back from when it was said, because nobody's wall clock is believed.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::decide::Sample;
use crate::domain::time::friendly;
use crate::domain::{InstanceId, Now};

/// Where the log of a database stood, some time ago. Written as `[position, milliseconds]`, because ballots are many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
pub struct Sighted {
    /// Bytes of write-ahead log, from its beginning.
    pub position: u64,
    /// How long before this was said.
    pub ago: Duration,
}

impl From<(u64, u64)> for Sighted {
    fn from((position, millis): (u64, u64)) -> Self {
        Self { position, ago: Duration::from_millis(millis) }
    }
}

impl From<Sighted> for (u64, u64) {
    fn from(seen: Sighted) -> Self {
        // Rounded up: it stood there no later than that.
        (seen.position, u64::try_from(seen.ago.as_micros().div_ceil(1000)).unwrap_or(u64::MAX))
    }
}

/// What a run of an observer leaves to the next one: without it, the time in between and all before it would be time in which
/// a database that was dead may have written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// When it was written down, by both clocks of the machine.
    pub at: Now,
    /// Of each database that served.
    pub databases: BTreeMap<InstanceId, Remembered>,
}

impl Memory {
    /// How long ago it was written down, on a machine that has not been booted since; none where its clocks contradict each
    /// other.
    pub fn age(&self, now: Now) -> Option<Duration> {
        let age = now.monotonic.checked_sub(self.at.monotonic)?;
        now.jumped_since(self.at).is_none().then_some(age)
    }
}

/// What was known of one database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Hash of its settings: of a database with others it says nothing.
    pub fingerprint: String,
    /// A failure of it that has not been seen to end; none where it answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence: Option<SilentAgo>,
    /// How long ago it was seen to answer, by this observer.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "friendly::option")]
    pub answered: Option<Duration>,
    /// The same by anybody.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "friendly::option")]
    pub alive: Option<Duration>,
    /// Where its log stood, oldest first.
    pub log: Vec<Sighted>,
}

/// A [`Silence`], counted back from when it was written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilentAgo {
    /// When it had written for the last time, at the latest, as far as was seen.
    #[serde(with = "friendly")]
    pub since: Duration,
    /// Until when that was seen: not to the end, where it was restarted before.
    #[serde(with = "friendly")]
    pub until: Duration,
}

impl SilentAgo {
    /// The same, by the clock of whoever reads it `later`.
    pub fn silence(self, now: Timestamp, later: Duration) -> Option<Silence> {
        let at = |ago: Duration| now.checked_sub(ago.checked_add(later)?).ok();
        Some(Silence { since: at(self.since)?, until: at(self.until)? })
    }

    /// What is written down of a silence.
    pub fn of(silence: Silence, now: Timestamp) -> Option<Self> {
        let ago = |at: Timestamp| Duration::try_from(now.duration_since(at)).ok();
        Some(Self { since: ago(silence.since)?, until: ago(silence.until)? })
    }
}

/// A failure that was seen before this run of the observer began, and not to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// When it had written for the last time, at the latest, as far as was seen.
    pub since: Timestamp,
    /// Until when that was seen.
    pub until: Timestamp,
}

impl Silence {
    /// When the database wrote for the last time, at the latest, if it fails again since `failing_since`. It may have written
    /// while nobody looked, and so that long is added.
    pub fn stopped(self, failing_since: Timestamp) -> Timestamp {
        if failing_since < self.until {
            return failing_since;
        }
        let unseen = failing_since.duration_since(self.until);
        self.since.checked_add(unseen).unwrap_or(failing_since).min(failing_since)
    }
}

impl Sighted {
    /// The same, by the clock of whoever hears of it `since` it was said.
    pub fn sample(self, now: Timestamp, since: Duration) -> Option<Sample> {
        Some(Sample { at: now.checked_sub(self.ago.checked_add(since)?).ok()?, position: self.position })
    }

    /// What is told of a sample; nothing of one that is still to come, by a clock that was set back.
    pub fn of(sample: Sample, now: Timestamp) -> Option<Self> {
        let ago = Duration::try_from(now.duration_since(sample.at)).ok()?;
        Some(Self { position: sample.position, ago })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn what_nobody_saw_counts_as_time_in_which_it_wrote_and_nothing_else_does() {
        let silence = Silence { since: at(100), until: at(400) };
        assert_eq!(silence.stopped(at(407)), at(107), "7 s of it were not seen");
        assert_eq!(silence.stopped(at(4000)), at(3700));
        assert_eq!(silence.stopped(at(350)), at(350), "clocks that contradict each other say nothing");
    }

    #[test]
    fn what_is_remembered_is_read_back_as_it_was() {
        let id = InstanceId { component: "database".into(), region: "us-east-1".into() };
        let remembered = Remembered {
            fingerprint: "f".to_owned(),
            silence: Some(SilentAgo { since: Duration::from_millis(61_007), until: Duration::ZERO }),
            answered: None,
            alive: Some(Duration::from_secs(2)),
            log: vec![Sighted { position: 7, ago: Duration::from_millis(5_001) }],
        };
        let written = Now { monotonic: Duration::from_secs(70), wall: at(1000) };
        let memory = Memory { at: written, databases: [(id, remembered)].into() };
        let text = serde_json::to_string(&memory).expect("serializes");
        assert_eq!(serde_json::from_str::<Memory>(&text).expect("reads"), memory);
        let later = |monotonic, wall| memory.age(Now { monotonic: Duration::from_secs(monotonic), wall: at(wall) });
        assert_eq!(later(75, 1005), Some(Duration::from_secs(5)));
        assert_eq!(later(75, 4605), None, "the wall clock was set, or the machine stood still");
        assert_eq!(later(3, 1005), None, "another boot");
    }
}
