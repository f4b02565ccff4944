//! Time as an argument: monotonic for deciding, wall for people.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// One reading of both clocks.
///
/// Only `monotonic` is ever compared. It is `CLOCK_BOOTTIME`, which keeps counting while the
/// machine is suspended; `wall` is shown and recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// Time since the machine booted, suspended time included.
    #[serde(with = "friendly")]
    pub monotonic: Duration,
    /// Time of day, in UTC.
    pub wall: Timestamp,
}

/// How far wall and monotonic time may drift apart between two looks before that is a jump. It has to be less than the margin
/// of a lease: where the monotonic clock stood still (a virtual machine that was suspended or moved), a lease has run out by
/// the ledger's clock that has not by ours.
const JUMP: Duration = Duration::from_secs(1);
/// Besides, a wall clock that is being corrected may gain or lose a thousandth: twice what NTP does at most.
const SLEWED: u32 = 1000;

impl Now {
    /// By how much the wall clock has gone ahead of the monotonic one since `earlier`, or stayed behind, where nothing but
    /// a jump explains that: one of them was set, or stood still. What was measured across it says nothing.
    pub fn jumped_since(self, earlier: Self) -> Option<SignedDuration> {
        let elapsed = self.monotonic.saturating_sub(earlier.monotonic);
        let by_the_wall = self.wall.duration_since(earlier.wall);
        let by = by_the_wall.saturating_sub(SignedDuration::try_from(elapsed).unwrap_or(SignedDuration::MAX));
        (by.unsigned_abs() > JUMP + elapsed / SLEWED).then_some(by)
    }
}

/// Durations as people write them (`5m`, `1m 30s`), both ways and without loss.
pub mod friendly {
    use std::time::Duration;

    use jiff::SignedDuration;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Serializes as `1m 30s`.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        let signed = SignedDuration::try_from(*value).map_err(serde::ser::Error::custom)?;
        serializer.collect_str(&format_args!("{signed:#}"))
    }

    /// Reads `1m 30s`; refuses negative durations.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        super::parse_duration(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }

    /// The same for an optional duration.
    pub mod option {
        use std::time::Duration;

        use serde::{Deserialize, Deserializer, Serializer};

        /// Serializes `Some` as `1m 30s`.
        pub fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
            match value {
                Some(value) => super::serialize(value, serializer),
                None => serializer.serialize_none(),
            }
        }

        /// Reads `1m 30s`, or nothing.
        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
            Option::<String>::deserialize(deserializer)?
                .map(|text| super::super::parse_duration(&text).map_err(serde::de::Error::custom))
                .transpose()
        }
    }
}

/// A text that is not a duration, with what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotADuration {
    /// It is not understood.
    #[error(
        "`{0}` is not a duration; write a number and a unit, such as \"30s\", \"5m\" or \"1h 30m\" (a day is \"24h\")"
    )]
    Unreadable(String),
    /// Time that has been.
    #[error("`{0}` is negative; write how long it takes, such as \"30s\"")]
    Negative(String),
    /// So long that sums of it would be no durations any more.
    #[error("`{0}` is longer than a hundred years; write what you mean, such as \"5m\" or \"1h 30m\"")]
    TooLong(String),
}

/// The longest duration that can be written.
const DURATION_MAX: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// Reads `30s`, `5m`, `1h 30m`, `500ms`.
pub fn parse_duration(text: &str) -> Result<Duration, NotADuration> {
    let signed: jiff::SignedDuration = text.trim().parse().map_err(|_| NotADuration::Unreadable(text.to_owned()))?;
    let duration = Duration::try_from(signed).map_err(|_| NotADuration::Negative(text.to_owned()))?;
    if duration > DURATION_MAX {
        return Err(NotADuration::TooLong(text.to_owned()));
    }
    Ok(duration)
}

/// A duration for a person in a hurry: `47 s`, `4 min 03 s`, `2 h 05 min`; below ten seconds with tenths.
pub fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600.. if seconds.is_multiple_of(3600) => format!("{} h", seconds / 3600),
        3600.. => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_shown_as_a_person_would_say_them() {
        let shown = [0.4, 9.96, 47.0, 60.0, 243.0, 7500.0].map(|s| human(Duration::from_secs_f64(s)));
        assert_eq!(shown, ["0.4 s", "10.0 s", "47 s", "1 min", "4 min 03 s", "2 h 05 min"]);
    }

    #[test]
    fn clocks_that_are_corrected_do_not_jump_and_clocks_that_are_set_or_stand_still_do() {
        let at = |monotonic: f64, wall: f64| Now {
            monotonic: Duration::from_secs_f64(monotonic),
            wall: Timestamp::UNIX_EPOCH + Duration::from_secs_f64(wall),
        };
        let earlier = at(100.0, 5000.0);
        assert_eq!(at(101.0, 5001.0005).jumped_since(earlier), None);
        assert_eq!(at(3700.0, 8601.8).jumped_since(earlier), None, "half a thousandth for an hour");
        assert_eq!(at(101.0, 5061.0).jumped_since(earlier), Some(SignedDuration::from_secs(60)));
        assert_eq!(at(160.0, 5000.0).jumped_since(earlier), Some(SignedDuration::from_secs(-60)));
        assert_eq!(at(100.0, 5001.5).jumped_since(earlier), Some(SignedDuration::from_millis(1500)));
    }

    #[test]
    fn a_duration_without_a_unit_is_refused_with_what_to_write() {
        let refused = parse_duration("30").expect_err("no unit");
        assert!(refused.to_string().contains("\"30s\""), "{refused}");
    }
}
