//! What people have to know, and when to decide again.

use std::collections::BTreeMap;

use super::controller::Draft;
use super::{Alarm, Effect, Severity};
use crate::domain::{InstanceId, Mode, RegionId, Role, time::human};

impl Draft<'_> {
    /// Raises what is new and clears what is over. Alarms are levels, not events: the same key is one alarm.
    pub(super) fn alarm(&mut self) {
        let wanted = self.wanted_alarms();
        let former = std::mem::take(&mut self.soft.alarms);
        for (key, alarm) in &wanted {
            if former.get(key).is_none_or(|old| old.text != alarm.text || old.severity != alarm.severity) {
                self.perform(Effect::Alarm(alarm.clone()));
            }
        }
        for key in former.keys().filter(|key| !wanted.contains_key(*key)) {
            self.perform(Effect::AlarmCleared { key: key.clone() });
        }
        self.soft.alarms = wanted;
    }

    fn wanted_alarms(&self) -> BTreeMap<String, Alarm> {
        let mut alarms = BTreeMap::new();
        let mut raise = |key: String, severity: Severity, region: Option<&RegionId>, text: String| {
            alarms.insert(key.clone(), Alarm { key, severity, text, region: region.cloned() });
        };
        if let Some(why) = self.soft.halted.as_ref().or(self.hard.halted.as_ref()) {
            raise(
                "halted".to_owned(),
                Severity::Page,
                None,
                format!("failoverd is halted and performs nothing: {why}"),
            );
        }
        if let Some(drift) = self.drift() {
            let severity = if self.policy.mode == Mode::Observe { Severity::Warning } else { Severity::Page };
            raise("drift".to_owned(), severity, None, drift.to_string());
        }
        for candidate in self.candidates() {
            if !candidate.is_full() || self.is_answered(&candidate) {
                continue;
            }
            let guards = self.guards_of(&candidate);
            let what = match &candidate.part {
                crate::plan::Part::Component(component) => format!("{component}@{}", candidate.source),
                crate::plan::Part::Region => format!("all of {}", candidate.source),
            };
            let why: Vec<String> = guards.iter().map(ToString::to_string).collect();
            raise(
                format!("withheld-{what}"),
                Severity::Page,
                Some(&candidate.source),
                format!("{what} is failing and nothing is done. {}", why.join("; ")),
            );
        }
        for incident in self.hard.open_incidents() {
            let state = if incident.plan.is_stuck {
                "is STUCK and needs a person: `failoverd explain`"
            } else if incident.plan.is_unwinding() {
                "is unwinding"
            } else {
                "is under way"
            };
            raise(
                incident.id.to_string(),
                Severity::Page,
                Some(&incident.source),
                format!(
                    "{}: {} of {}, moving to {}, {state}",
                    incident.id, incident.level, incident.source, incident.target
                ),
            );
            let held: Vec<String> = self
                .soft
                .held
                .iter()
                .filter(|((plan, step), _)| {
                    *plan == incident.plan.id && incident.plan.state(step) == super::StepState::Waiting
                })
                .flat_map(|((_, step), guards)| guards.iter().map(move |guard| format!("{step}: {guard}")))
                .collect();
            if !held.is_empty() {
                raise(
                    format!("{}-held", incident.id),
                    Severity::Page,
                    Some(&incident.source),
                    format!("{} waits. {}", incident.id, held.join("; ")),
                );
            }
        }
        for database in self.hard.owed.keys() {
            raise(
                format!("owed-fence-{database}"),
                Severity::Warning,
                Some(&database.region),
                format!("{database} is not fenced and will be when it comes back; do not let applications write to it"),
            );
        }
        for (id, reasons) in self.unready_standbys() {
            raise(
                format!("standby-{id}"),
                Severity::Page,
                Some(&id.region),
                format!("standby {id} could not take over: {}", reasons.join("; ")),
            );
        }
        for (id, watch) in &self.soft.watches {
            if watch.is_answering(self.now.monotonic) && watch.evidence.credential_refused {
                raise(
                    format!("credential-{id}"),
                    Severity::Warning,
                    Some(&id.region),
                    format!("{id} is alive and refuses our credential: mend the configuration, we could not act there"),
                );
            }
            let fingerprint = self.policy.components.get(&id.component).and_then(|c| c.fingerprints.get(&id.region));
            let is_known = self.hard.seen_alive.get(id) == fingerprint
                || self.hard.seen_alive.contains_key(id) && fingerprint.is_none();
            if !is_known && watch.failing_layer().is_some() {
                raise(
                    format!("never-seen-{id}"),
                    Severity::Warning,
                    Some(&id.region),
                    format!(
                        "{id} has never answered under this configuration, so its failing counts for nothing: {}",
                        watch.why(self.now.monotonic)
                    ),
                );
            }
        }
        alarms
    }

    /// Standbys that were seen alive once and could not take over now, with the reasons.
    pub(super) fn unready_standbys(&self) -> BTreeMap<InstanceId, Vec<String>> {
        let mut unready = BTreeMap::new();
        for id in self.soft.watches.keys() {
            let reasons = self.why_standby_unready(id);
            if !reasons.is_empty() && self.hard.seen_alive.contains_key(id) {
                unready.insert(id.clone(), reasons);
            }
        }
        unready
    }

    /// Why a standby could not take over; empty for what serves, and for what could.
    pub(super) fn why_standby_unready(&self, id: &InstanceId) -> Vec<String> {
        let Some(policy) = self.policy.components.get(&id.component) else { return Vec::new() };
        let movable = !matches!(policy.kind, crate::domain::Kind::Cloud | crate::domain::Kind::Http);
        let is_cold = self.policy.regions.get(&id.region) == Some(&Role::Tertiary);
        if self.is_active(id) || !(movable || is_cold) || policy.kind == crate::domain::Kind::Traffic {
            return Vec::new();
        }
        // One lost probe is not worth a page; what it found when it last answered counts until the verdict is clear.
        let is_unclear = self.soft.watches.get(id).is_some_and(|watch| {
            let verdict = watch.judge(&self.soft.limits, self.now.monotonic).kind;
            verdict == super::VerdictKind::Suspect
        });
        if is_unclear {
            return Vec::new();
        }
        let mut reasons: Vec<String> = self.why_unready(id, true).into_iter().collect();
        if policy.kind == crate::domain::Kind::Database
            && let Some(source) = self.hard.placement.get(&id.component)
            && reasons.is_empty()
        {
            let rpo = self.policy.objectives(crate::domain::Level::ComponentFailure).rpo;
            match self.expected_loss(&id.component, source, &id.region) {
                crate::health::Loss::AtMost(loss) if loss > rpo => {
                    reasons.push(format!("it lags {} behind, more than the RPO of {}", human(loss), human(rpo)));
                }
                crate::health::Loss::AtMost(_) | crate::health::Loss::Unknown(_) => {}
            }
        }
        reasons
    }

    /// Names the next moment at which something changes although nothing happens.
    pub(super) fn look_ahead(&mut self) {
        let now = self.now.monotonic;
        let next = self.soft.watches.values().filter_map(|watch| watch.changes_at(&self.soft.limits, now)).min();
        if let Some(at) = next {
            self.wake(at, "a verdict goes stale or a recovery is complete");
        }
        if let Some(pause) = &self.hard.paused {
            let left = self.hard.time_left(pause.stamp, pause.until, self.now);
            if left.is_zero() {
                self.record(super::Fact::Resumed { by: "failoverd: the pause is over".to_owned() });
            } else {
                self.wake(now + left, "a pause ends");
            }
        }
        let retries: Vec<_> = self.soft.owed_under_way.values().flatten().copied().collect();
        for at in retries {
            self.wake(at, "an owed fence is tried again");
        }
        let open: Vec<_> = self
            .hard
            .open_incidents()
            .filter_map(|incident| incident.plan.approval.as_ref())
            .map(|approval| self.hard.time_left(approval.stamp, approval.until, self.now))
            .filter(|left| !left.is_zero())
            .collect();
        for left in open {
            self.wake(now + left, "an approval expires");
        }
    }
}
