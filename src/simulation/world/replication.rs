//! Databases and their replicas: where a log stands, what came over, what a promotion loses.

use std::time::Duration;

use super::{Vantage, World, written};
use crate::decide::{Divergence, Measure, Measured, RecoveryPoint};
use crate::domain::InstanceId;

impl World {
    /// Where the write-ahead log of a database stands.
    pub(super) fn position(&self, now: Duration, id: &InstanceId) -> u64 {
        let Some(own) = self.instances.get(id) else { return 0 };
        if own.writable {
            return written(own.silent_since.unwrap_or(now).min(now));
        }
        // What a dead primary did not send will never arrive.
        written(self.replayed(now, id, own.lag))
    }

    /// Up to when a replica has what its source wrote.
    fn replayed(&self, now: Duration, id: &InstanceId, lag: Duration) -> Duration {
        self.source_of(now, id)
            .map_or(now.saturating_sub(lag), |source| source.wrote.min(source.received.saturating_sub(lag)))
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
            instance.silent_since = None;
            instance.lag = Duration::ZERO;
        }
    }

    /// What a replica replicates.
    fn source_of(&self, now: Duration, id: &InstanceId) -> Option<Source> {
        let sources = self
            .instances
            .iter()
            .filter(|(other, instance)| other.component == id.component && *other != id && instance.writable);
        let sources = sources.map(|(source, instance)| {
            let wrote = instance.silent_since.unwrap_or(now).min(now);
            // One that is only fenced sends what it wrote before.
            let sent = instance.gone_since.unwrap_or(now).min(now);
            let cut = self.network.parted_since(&source.region, &id.region);
            let heard = self.network.unheard_since(&source.region, wrote).map_or(wrote, |unheard| wrote.min(unheard));
            Source { wrote, heard, received: cut.map_or(sent, |cut| sent.min(cut)) }
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

    /// What a promotion loses: the writes of that long before the source fell silent. And what of that anybody can know:
    /// a region that nobody hears may write on for as long as it lives.
    pub(in crate::simulation) fn lost_by_promoting(&self, now: Duration, id: &InstanceId) -> (Duration, Duration) {
        let lag = self.instances.get(id).map_or(Duration::ZERO, |instance| instance.lag);
        let Some(source) = self.source_of(now, id) else { return (lag, lag) };
        let replayed = self.replayed(now, id, lag);
        (source.wrote.saturating_sub(replayed), source.heard.saturating_sub(replayed))
    }
}

/// Until when a primary wrote, until when anybody outside could know that, and until when it sent it to its replica.
struct Source {
    wrote: Duration,
    heard: Duration,
    received: Duration,
}
