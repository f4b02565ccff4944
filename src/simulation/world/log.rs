//! The log of a database: it grows while the database is written, and stands still while it is not.

use std::time::Duration;

/// When a database has taken writes.
#[derive(Debug, Clone, Default)]
pub(super) struct Log {
    /// Since when it has not, while it is down or fenced.
    silent_since: Option<Duration>,
    /// The silences before, each with its end, in their order.
    silences: Vec<(Duration, Duration)>,
}

impl Log {
    pub(super) fn falls_silent(&mut self, now: Duration) {
        self.silent_since.get_or_insert(now);
    }

    pub(super) fn is_written_again(&mut self, now: Duration) {
        if let Some(since) = self.silent_since.take() {
            self.silences.push((since, now));
        }
    }

    /// It is another one's log that goes on here: what silences there were is in it.
    pub(super) fn begins_anew(&mut self) {
        self.silences.clear();
    }

    /// Its last write, as of now.
    pub(super) fn last_write(&self, now: Duration) -> Duration {
        self.silent_since.map_or(now, |since| since.min(now))
    }

    /// For how long it had been written by then.
    pub(super) fn written_by(&self, then: Duration) -> Duration {
        let then = self.last_write(then);
        let silent: Duration = self.silences.iter().map(|(from, until)| then.min(*until).saturating_sub(*from)).sum();
        then.saturating_sub(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_stands_still_while_nothing_is_written() {
        let at = Duration::from_secs;
        let mut log = Log::default();
        log.falls_silent(at(100));
        log.falls_silent(at(110));
        assert_eq!((log.last_write(at(130)), log.written_by(at(130))), (at(100), at(100)));
        log.is_written_again(at(150));
        assert_eq!(log.written_by(at(120)), at(100));
        assert_eq!(log.written_by(at(160)), at(110), "50 s of it were silence");
    }
}
