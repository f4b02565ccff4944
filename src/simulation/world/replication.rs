//! Databases and their replicas: where a log stands, what came over, what a promotion loses.

use std::time::Duration;

use super::log::Log;
use super::{Vantage, World, written};
use crate::decide::{Divergence, Measure, Measured, RecoveryPoint};
use crate::domain::InstanceId;

/// A standby that falls behind is seen to by the next probes, and by others with the ballots after them.
const SEEN_WITHIN: Duration = Duration::from_secs(15);

impl World {
    /// Where the write-ahead log of a database stands.
    pub(super) fn position(&self, now: Duration, id: &InstanceId) -> u64 {
        let Some(own) = self.instances.get(id) else { return 0 };
        if own.writable {
            return written(own.log.written_by(now));
        }
        match self.source_of(now, id) {
            // What a dead primary did not send will never arrive.
            Some(source) => written(source.log.written_by(source.replayed(own.lag))),
            None => written(now.saturating_sub(own.lag)),
        }
    }

    /// Whether a standby has everything that its source ever wrote.
    pub(super) fn has_all(&self, now: Duration, standby: &InstanceId, source: &InstanceId) -> bool {
        self.position(now, standby) >= self.position(now, source)
    }

    /// An old primary is a standby from now on: what it wrote that nobody has is gone.
    pub(super) fn rejoin(&mut self, id: &InstanceId) {
        if let Some(instance) = self.instances.get_mut(id) {
            instance.writable = false;
            instance.fenced = false;
            instance.demoted = false;
            instance.forked_at = None;
            instance.log = Log::default();
            instance.lag = Duration::ZERO;
        }
    }

    /// What a replica replicates.
    fn source_of(&self, now: Duration, id: &InstanceId) -> Option<Source<'_>> {
        let sources = self
            .instances
            .iter()
            .filter(|(other, instance)| other.component == id.component && *other != id && instance.writable);
        let sources = sources.map(|(source, instance)| {
            let wrote = instance.log.last_write(now);
            // One that is only fenced sends what it wrote before.
            let sent = instance.gone_since.unwrap_or(now).min(now);
            let cut = self.network.parted_since(&source.region, &id.region);
            let heard = self.network.unheard_since(&source.region, wrote).map_or(wrote, |unheard| wrote.min(unheard));
            Source { log: &instance.log, wrote, heard, received: cut.map_or(sent, |cut| sent.min(cut)) }
        });
        sources.max_by_key(|source| source.received)
    }

    /// Its primary takes writes at this moment.
    pub(in crate::simulation) fn is_written_elsewhere(&self, now: Duration, id: &InstanceId) -> bool {
        self.source_of(now, id).is_some_and(|source| source.wrote == now)
    }

    /// What a promoted database or an old primary says of what was lost.
    pub(in crate::simulation) fn measure(
        &self,
        now: Duration,
        from: &Vantage,
        measure: &Measure,
    ) -> Result<Measured, String> {
        let (Measure::RecoveryPoint { database } | Measure::Divergence { database }) = measure;
        if !self.reaches(now, from, database) {
            return Err("no answer".to_owned());
        }
        Ok(match measure {
            Measure::RecoveryPoint { .. } => {
                let position = self.instances.get(database).and_then(|instance| instance.forked_at);
                Measured::RecoveryPoint(RecoveryPoint { position, ..RecoveryPoint::default() })
            }
            Measure::Divergence { .. } => {
                let position = Some(self.position(now, database));
                Measured::Divergence(Divergence { position, ..Divergence::default() })
            }
        })
    }

    /// What promoting it would lose.
    pub(in crate::simulation) fn lost_by_promoting(&self, now: Duration, id: &InstanceId) -> Lost {
        let lag = self.instances.get(id).map_or(Duration::ZERO, |instance| {
            // No real standby falls behind all at once, and nobody sees it at once.
            let (before, until) = instance.lagged;
            if now.saturating_sub(until) < SEEN_WITHIN { instance.lag.min(before) } else { instance.lag }
        });
        let Some(source) = self.source_of(now, id) else { return Lost { writes: lag, knowable: lag, span: lag } };
        let (replayed, log) = (source.replayed(lag), source.log);
        let writes_since = |until: Duration| log.written_by(until).saturating_sub(log.written_by(replayed));
        Lost {
            writes: writes_since(source.wrote),
            knowable: writes_since(source.heard),
            span: source.wrote.saturating_sub(replayed),
        }
    }
}

/// What a promotion loses.
#[derive(Debug, Clone, Copy)]
pub(in crate::simulation) struct Lost {
    /// The writes of that long before the source fell silent.
    pub(in crate::simulation) writes: Duration,
    /// What of that anybody can know: a region that nobody hears may write on for as long as it lives.
    pub(in crate::simulation) knowable: Duration,
    /// From the last write that came over to the last one, with all in between in which nothing was written: nobody who did
    /// not look on can tell that from writes.
    pub(in crate::simulation) span: Duration,
}

/// Until when a primary wrote, until when anybody outside could know that, and until when it sent it to its replica.
struct Source<'w> {
    log: &'w Log,
    wrote: Duration,
    heard: Duration,
    received: Duration,
}

impl Source<'_> {
    /// Up to when a replica that lags has what was written.
    fn replayed(&self, lag: Duration) -> Duration {
        self.wrote.min(self.received.saturating_sub(lag))
    }
}
