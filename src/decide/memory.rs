//! What is known of databases beyond what this run of this observer saw of them: by the word of the others, and by that of the
//! run before.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::controller::{Controller, Draft, active};
use super::watches::Watched;
use crate::domain::{InstanceId, Kind, Now, ObserverId};
use crate::health::{Memory, Remembered, Rules, Sighted, SilentAgo, Watch};

impl Controller {
    /// What the next run of this observer has to know, should this one end now.
    pub fn memory(&mut self, now: Now) -> Memory {
        self.read_draft(now, |draft| {
            let remembered = |(id, watch): (&InstanceId, &Watched)| Remembered {
                fingerprint: watch.fingerprint.clone(),
                silence: draft.silence_to_remember(id, watch),
                answered: watch.answered_ago(now.monotonic),
                alive: draft.last_alive(id).map(|at| now.monotonic.saturating_sub(at)),
                log: watch
                    .positions
                    .recorded()
                    .into_iter()
                    .filter_map(|sample| Sighted::of(sample, now.wall))
                    .collect(),
            };
            Memory {
                at: now,
                databases: draft.serving_databases().map(|found| (found.0.clone(), remembered(found))).collect(),
            }
        })
    }

    /// Takes over what the run before this one knew, on the same machine, not booted since. To be called before anything is
    /// observed.
    pub fn recall(&mut self, now: Now, memory: &Memory) {
        let Some(age) = memory.age(now) else { return };
        for (id, remembered) in &memory.databases {
            let is_active = active(&self.policy, &self.hard, id);
            let watch = self.soft.watches.get_mut(id);
            let Some(watch) = watch.filter(|watch| is_active && watch.fingerprint == remembered.fingerprint) else {
                continue;
            };
            let silence = remembered.silence.and_then(|silence| silence.silence(now.wall, age));
            let at = |ago: Option<Duration>| now.monotonic.checked_sub(ago?.checked_add(age)?);
            let answers = (at(remembered.answered), at(remembered.alive));
            watch.recall(silence, answers, remembered.log.iter().filter_map(|seen| seen.sample(now.wall, age)));
        }
    }

    /// Where the logs of databases stood by the word of another observer. It counts where this one has not seen it itself,
    /// whose samples are younger.
    pub(super) fn hear_of_logs(&mut self, now: Now, observer: &ObserverId) {
        let fresh = self.policy.council.ballot_fresh;
        let rules = Rules { policy: &self.policy_hash, fresh, bugs: self.bugs };
        let Ok(ballot) = self.soft.council.ballot(observer, rules, now.monotonic) else { return };
        for (id, seen) in &ballot.log {
            if !active(&self.policy, &self.hard, id) {
                continue;
            }
            // A ballot that counts was cast no longer ago than that.
            let sample = seen.sample(now.wall, fresh);
            let (Some(watch), Some(sample)) = (self.soft.watches.get_mut(id), sample) else { continue };
            if watch.heard.newest().is_none_or(|newest| newest.at < sample.at) {
                watch.heard.push(sample);
            }
        }
    }
}

impl Draft<'_> {
    /// Where the logs of the databases that serve stood when they were seen last from here.
    pub(super) fn log_as_seen(&self) -> BTreeMap<InstanceId, Sighted> {
        let databases = self.serving_databases();
        let seen = databases.filter_map(|(id, watch)| {
            let newest = watch.positions.newest()?;
            Some((id.clone(), Sighted::of(newest, self.now.wall)?))
        });
        seen.collect()
    }

    /// The failure as it is now, or as it was before it was restarted, for as long as nobody knows whether it has ended.
    fn silence_to_remember(&self, id: &InstanceId, watch: &Watched) -> Option<SilentAgo> {
        let fails = self.view(id, watch).and_then(|view| view.silent_for.or(view.failing_for));
        // It may have written until the probe after its last answer, whoever had that.
        let alive = self.last_alive(id).map(|at| self.now.monotonic.saturating_sub(at + watch.probing().gap()));
        let since = |silent: Duration| alive.map_or(silent, |alive| alive.min(silent));
        let fails = fails.map(|silent| SilentAgo { since: since(silent), until: Duration::ZERO });
        fails.or_else(|| watch.silence().and_then(|silence| SilentAgo::of(silence, self.now.wall)))
    }

    /// When anybody saw it answer last, at the latest, as far as it was ever told. An observer that has fallen silent since saw what it
    /// saw.
    pub(super) fn last_alive(&self, id: &InstanceId) -> Option<Duration> {
        let others = self.policy.council.observers.keys().filter(|observer| **observer != self.policy.observer);
        let told = others.filter_map(|observer| self.soft.council.answered(observer, id, self.rules()));
        let own = self.soft.watches.get(id).and_then(|watch| watch.last_alive());
        told.chain(own).max()
    }

    /// For how long it has written nothing, as far as was seen from here, in this run and the one before it.
    pub(super) fn silent_for_as_watched(&self, watch: &Watch, failing_for: Duration) -> Duration {
        let stopped = self.stopped_as_watched(watch, failing_for);
        Duration::try_from(self.now.wall.duration_since(stopped)).unwrap_or(failing_for)
    }

    fn stopped_as_watched(&self, watch: &Watch, failing_for: Duration) -> Timestamp {
        let failing_since = self.wall_at(self.now.monotonic.saturating_sub(failing_for));
        watch.silence().map_or(failing_since, |silence| silence.stopped(failing_since))
    }

    fn serving_databases(&self) -> impl Iterator<Item = (&InstanceId, &Watched)> {
        let databases = self.soft.watches.iter().filter(|(_, watch)| watch.kind == Kind::Database);
        databases.filter(|(id, _)| active(self.policy, &self.hard, id))
    }
}
