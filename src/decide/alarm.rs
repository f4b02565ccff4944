//! What people have to know, and when to decide again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::controller::Draft;
use super::judge::Candidate;
use super::watches::Watched;
use super::{Alarm, Effect, Guard, GuardKind, Incident, Severity, StepState};
use crate::domain::{InstanceId, Kind, Level, Mode, PlanId, RegionId, StepId, time::human};
use crate::plan::Part;

/// After this long every instance has been probed once: the longest usual interval and timeout, twice.
const FIRST_PROBES: Duration = Duration::from_secs(60);

/// What was not well without a break for this many times as long as its row asks for is told to people.
const UNSETTLED_PARTS: u32 = 3;

impl Draft<'_> {
    /// Raises what is new and clears what is over. Alarms are levels, not events: the same key is one alarm.
    pub(super) fn alarm(&mut self, candidates: &[Candidate]) {
        if self.claimed_by_another().is_some() {
            // The other one may be gone, or what was read may be old.
            self.is_surveyed();
            self.wake(self.now.monotonic + self.policy.guards.recheck, "the claims are read again");
        }
        self.soft.unvouched_since = match self.unvouched() {
            Some(_) => Some(self.soft.unvouched_since.unwrap_or(self.now.monotonic)),
            None => None,
        };
        self.watch_guardians();
        let wanted = self.wanted_alarms(candidates);
        let former = std::mem::take(&mut self.soft.alarms);
        for (key, alarm) in &wanted {
            if former.get(key).is_none_or(|old| alarm.is_news_after(old)) {
                self.perform(Effect::Alarm(alarm.clone()));
            }
        }
        for key in former.keys().filter(|key| !wanted.contains_key(*key)) {
            self.perform(Effect::AlarmCleared { key: key.clone() });
        }
        self.soft.alarms = wanted;
    }

    fn wanted_alarms(&self, candidates: &[Candidate]) -> BTreeMap<String, Alarm> {
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
        for (database, text) in self.unguarded() {
            raise(format!("unguarded-{database}"), Severity::Page, Some(&database.region), text);
        }
        if let Some(drift) = self.drift() {
            let severity = if self.policy.mode == Mode::Observe { Severity::Warning } else { Severity::Page };
            raise("drift".to_owned(), severity, None, drift.to_string());
        }
        for candidate in candidates {
            if !candidate.is_full() {
                continue;
            }
            if self.is_answered(candidate) {
                if let Some(incident) = self.undone_first(candidate) {
                    let text = format!(
                        "{} is lost, and {} is still being undone: it is answered when that has ended; see what holds it \
                         with `failoverd status`",
                        candidate.source, incident.id
                    );
                    raise(format!("lost-{}", candidate.source), Severity::Page, Some(&candidate.source), text);
                }
                continue;
            }
            let guards = self.guards_of(candidate);
            if guards.is_empty() {
                // It is about to be declared, alone or with its region.
                continue;
            }
            let what = match &candidate.part {
                Part::Component(component) => format!("{component}@{}", candidate.source),
                Part::Region => format!("all of {}", candidate.source),
                Part::Reroute => format!("share-of-{}", candidate.source),
                Part::Healing { cluster, workload } => format!("{workload}-of-{cluster}@{}", candidate.source),
                Part::Zone { cluster, zone } => format!("{zone}-of-{cluster}@{}", candidate.source),
                Part::Rejoin { database } => format!("{database}@{}-as-a-standby", candidate.source),
            };
            let told = match &candidate.part {
                Part::Component(_) | Part::Region => format!("{what} is failing"),
                Part::Reroute => self.told_of_rerouting(&candidate.source),
                Part::Healing { cluster, workload } => self.told_of_healing(&candidate.source, cluster, workload),
                Part::Zone { cluster, zone } => self.told_of_zone(&candidate.source, cluster, zone),
                Part::Rejoin { .. } => what.clone(),
            };
            let why: Vec<String> = guards.iter().map(ToString::to_string).collect();
            raise(
                format!("withheld-{what}"),
                Severity::Page,
                Some(&candidate.source),
                format!("{told} and nothing is done. {}", why.join("; ")),
            );
        }
        for incident in self.hard.open_incidents() {
            let state = if incident.plan.is_stuck {
                "is STUCK and needs a person: `failoverd explain`"
            } else if incident.plan.is_unwinding() {
                "is unwinding"
            } else if incident.plan.progress.values().any(|progress| progress.state == StepState::Failed) {
                "has a step that FAILED: `failoverd explain`; what does not need it goes on"
            } else {
                "is under way"
            };
            let (id, level, source, target) = (&incident.id, incident.level, &incident.source, &incident.target);
            let doing = if incident.plan.parts.keys().any(Part::moves) {
                format!("moving to {target}")
            } else if let Some(zone) = incident.plan.parts.keys().find(|part| matches!(part, Part::Zone { .. })) {
                format!("going on without {zone}")
            } else if let Some(part) = incident.plan.parts.keys().find(|part| matches!(part, Part::Rejoin { .. })) {
                format!("bringing back {part}")
            } else if incident.plan.parts.contains_key(&Part::Reroute) {
                format!("sending a share of the clients to {target}")
            } else {
                let mended: Vec<String> = incident.plan.parts.keys().map(ToString::to_string).collect();
                format!("healing {} in place", mended.join(", "))
            };
            let is_planned = incident.purpose.is_planned();
            let what = if is_planned { incident.purpose.to_string() } else { level.to_string() };
            // Whoever ordered it is awake.
            let severity = if is_planned && !incident.plan.is_stuck { Severity::Warning } else { Severity::Page };
            raise(id.to_string(), severity, Some(source), format!("{id}: {what} of {source}, {doing}, {state}"));
            if let Some(text) = self.told_of_clients_taken_back(incident) {
                raise(format!("{id}-taken-back"), Severity::Page, Some(target), text);
            }
            let held = self.held_of(incident);
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
            let failed = self.soft.owed_under_way.get(database).and_then(|attempt| attempt.why.as_ref());
            let (severity, text) = match failed {
                Some(why) => (
                    Severity::Page,
                    format!(
                        "{database} is back and could NOT be fenced: {why}; keep its applications away from it: what \
                         they write there is lost to everybody else"
                    ),
                ),
                None => (
                    Severity::Warning,
                    format!(
                        "{database} is not fenced and will be when it comes back; do not let applications write to it"
                    ),
                ),
            };
            raise(format!("owed-fence-{database}"), severity, Some(&database.region), text);
        }
        for (database, text) in self.diverged() {
            raise(format!("diverged-{database}"), Severity::Page, Some(&database.region), text);
        }
        // What a share of the clients meets is told with what becomes of them.
        let serves = |region: &RegionId| self.hard.placement.values().any(|serving| serving == region);
        for ((check, region), broken) in self.hard.broken_checks.iter().filter(|((_, region), _)| serves(region)) {
            raise(
                format!("check-{check}"),
                Severity::Page,
                Some(region),
                format!("{region} serves since it took over, and check {check} does not hold there: {}", broken.why),
            );
        }
        for (id, lasting) in self.degraded() {
            raise(
                format!("degraded-{id}"),
                Severity::Page,
                Some(&id.region),
                format!(
                    "{}: {id} has been only partly available for {}; {}",
                    Level::ServiceDegradation,
                    human(lasting),
                    self.told_of_degraded(&id)
                ),
            );
        }
        if let Some(why) = self.unvouched().filter(|_| self.soft.unvouched_since.is_some_and(|at| self.is_lasting(at)))
        {
            raise(
                "unvouched".to_owned(),
                Severity::Page,
                None,
                format!("if a region were lost now, failoverd would not act by itself: {why}"),
            );
        }
        // One for each region: a broken link makes everything behind it look lost.
        let mut outvoted: BTreeMap<&RegionId, String> = BTreeMap::new();
        for (id, lasting, votes) in self.outvoted() {
            let after = self.policy.components.get(&id.component).and_then(|policy| policy.row).map(|row| row.after);
            if self.is_active(id) && lasting >= after.unwrap_or(self.policy.regional.after) {
                outvoted.entry(&id.region).or_insert(votes);
            }
        }
        for (id, suspected_for, after) in self.unsettled() {
            let region = &id.region;
            let is_told = outvoted.contains_key(region)
                || candidates.iter().any(|candidate| candidate.source == *region && candidate.is_full());
            // What answers at this moment may be about to be well. What has been told stays until it is.
            let key = format!("unsettled-{id}");
            let is_settling = self.is_answering(id) && !self.soft.alarms.contains_key(&key);
            if !is_told && !is_settling && suspected_for >= after * UNSETTLED_PARTS {
                let seen = self.soft.watches.get(id).map(|watch| watch.why(self.now.monotonic)).unwrap_or_default();
                raise(
                    key,
                    Severity::Page,
                    Some(region),
                    format!(
                        "{id} has not been well for {}, and nothing is done, because nobody saw it fail for {} without a break (seen from \
                         here now: {seen}). Observers that restart begin to count anew",
                        human(suspected_for),
                        human(after)
                    ),
                );
            }
        }
        for (region, votes) in outvoted {
            raise(
                format!("outvoted-{region}"),
                Severity::Page,
                Some(region),
                format!("{region} seems to fail, at least in part, and nothing is done: {votes}"),
            );
        }
        if let Some(why) = self.too_few_voices().filter(|_| self.is_lasting(self.soft.started_at)) {
            raise(
                "voices".to_owned(),
                Severity::Page,
                None,
                format!("if a region were lost now, failoverd would not act by itself: {why}"),
            );
        }
        let unprotected = self.unprotected();
        for (serving, left) in &unprotected {
            let why = match self.is_answering(left) {
                true => "was left, and streams from nobody",
                false => "was left, and does not answer",
            };
            raise(
                format!("unprotected-{serving}"),
                Severity::Page,
                Some(&serving.region),
                format!(
                    "{serving} serves WITHOUT A STANDBY: if it is lost as well, so is the data. {left} {why}; `failoverd rejoin \
                     {left}` makes it a standby"
                ),
            );
        }
        for (id, watch) in self.soft.watches.restless() {
            let reasons = self.why_unready_as_watched(id, watch);
            let is_told = unprotected.iter().any(|(_, left)| left == id);
            if is_told || reasons.is_empty() || !self.hard.seen_alive.contains_key(id) {
                continue;
            }
            // A daemon that has just started knows nothing yet; a prober that does not probe is found out soon.
            let first_probes = FIRST_PROBES.max(watch.probing().interval * 2);
            if !watch.is_probed() && self.now.monotonic < self.soft.started_at + first_probes {
                continue;
            }
            let reasons = reasons.join("; ");
            let text = match watch.kind {
                Kind::Holdings => format!("{} could not be rebuilt from what it holds: {reasons}", id.region),
                Kind::Kubernetes
                | Kind::Database
                | Kind::Cache
                | Kind::Storage
                | Kind::Http
                | Kind::Cloud
                | Kind::Traffic => format!("standby {id} could not take over: {reasons}"),
            };
            raise(format!("standby-{id}"), Severity::Page, Some(&id.region), text);
        }
        for (id, watch) in self.soft.watches.restless() {
            if self.blind_since(id, watch).is_some_and(|since| self.is_lasting(since)) {
                raise(
                    format!("blind-{id}"),
                    Severity::Page,
                    Some(&id.region),
                    format!(
                        "nothing is known of {id}, which serves: {}; if it were lost, nobody would notice here",
                        watch.why(self.now.monotonic)
                    ),
                );
            }
            if watch.is_answering(self.now.monotonic) && watch.evidence.credential_refused {
                raise(
                    format!("credential-{id}"),
                    Severity::Warning,
                    Some(&id.region),
                    format!("{id} is alive and refuses our credential: mend the configuration, we could not act there"),
                );
            }
            if watch.failing_layer().is_none() {
                continue;
            }
            let fingerprint = self.policy.components.get(&id.component).and_then(|c| c.fingerprints.get(&id.region));
            let is_known = self.hard.seen_alive.get(id) == fingerprint
                || self.hard.seen_alive.contains_key(id) && fingerprint.is_none();
            if !is_known {
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

    /// The databases that serve and whose only other instance is the old primary that they left behind, with that one.
    pub(super) fn unprotected(&self) -> Vec<(InstanceId, InstanceId)> {
        let mut unprotected = Vec::new();
        for (component, policy) in self.policy.of_kind(Kind::Database) {
            let at = |region: &RegionId| InstanceId { component: component.clone(), region: region.clone() };
            let Some(serving) = self.hard.placement.get(component).map(at) else { continue };
            let is_left = |id: &InstanceId| self.hard.fenced.contains(id) || self.hard.owed.contains_key(id);
            let others: Vec<InstanceId> = policy.regions.iter().map(at).filter(|id| *id != serving).collect();
            if let Some(left) = others.iter().find(|id| is_left(id))
                && others.iter().all(|id| is_left(id) || self.why_unready(id, true).is_some())
            {
                unprotected.push((serving, left.clone()));
            }
        }
        unprotected
    }

    /// The incident that has to be undone before the loss of its whole region can be answered.
    fn undone_first(&self, candidate: &Candidate) -> Option<&Incident> {
        let mut open = self.hard.open_incidents().filter(|incident| incident.source == candidate.source);
        open.find(|incident| candidate.part == Part::Region && incident.plan.is_unwinding())
    }

    /// Since when nothing has been known of an instance whose loss would matter.
    fn blind_since(&self, id: &InstanceId, watch: &Watched) -> Option<Duration> {
        let is_blind = (watch.matters || watch.has_row)
            && self.is_active(id)
            && watch.judge(&self.soft.limits, self.now.monotonic).kind == super::VerdictKind::Unknown;
        is_blind.then(|| watch.stale_at().unwrap_or_default().max(self.soft.started_at))
    }

    /// Why nobody would believe us if the region that serves were lost.
    pub(super) fn unvouched(&self) -> Option<String> {
        let now = self.now.monotonic;
        let serves = |region: &RegionId| self.hard.placement.values().any(|serving| serving == region);
        let doubted = |region: &RegionId| self.soft.references.doubt(self.policy, region, Duration::ZERO, now).err();
        // There are many components and few regions, and hardly ever a doubt.
        self.policy.regions.keys().find_map(|region| doubted(region).filter(|_| serves(region)))
    }

    /// Long enough to be no hiccup.
    fn is_lasting(&self, since: Duration) -> bool {
        self.now.monotonic.saturating_sub(since) >= FIRST_PROBES
    }

    /// What holds the steps of an incident, each reason once: what many steps wait for is one thing to mend.
    fn held_of(&self, incident: &Incident) -> Vec<String> {
        let is_paged = |plan: &PlanId, step: &StepId| *plan == incident.plan.id && self.is_paged_for(incident, step);
        let held = self.soft.held.iter().filter(|((plan, step), _)| is_paged(plan, step));
        let mut reasons: Vec<(&Guard, Vec<&StepId>)> = Vec::new();
        for ((_, step), guards) in held {
            let is_target_away = guards.iter().any(|guard| guard.kind == GuardKind::TargetNotReady);
            for guard in guards {
                // The first passes by itself within seconds; that nothing answers a look follows from the second.
                let goes_without_saying = matches!(guard.kind, GuardKind::Role | GuardKind::Stage)
                    || (is_target_away && guard.kind == GuardKind::PathNotReady);
                match reasons.iter_mut().find(|(reason, _)| *reason == guard) {
                    _ if goes_without_saying => {}
                    Some((_, steps)) if steps.last() == Some(&step) => {}
                    Some((_, steps)) => steps.push(step),
                    None => reasons.push((guard, vec![step])),
                }
            }
        }
        reasons
            .into_iter()
            .map(|(guard, steps)| match steps.as_slice() {
                [step] => format!("{step}: {guard}"),
                [first, second] => format!("{first} and {second}: {guard}"),
                [first, others @ ..] => format!("{first} and {} others: {guard}", others.len()),
                [] => guard.to_string(),
            })
            .collect()
    }

    /// A step that is held is worth a page. One that was under way when a former run of this daemon ended only after the
    /// first probes: until then nothing is known.
    fn is_paged_for(&self, incident: &Incident, step: &StepId) -> bool {
        let is_settling = self.now.monotonic < self.soft.started_at + FIRST_PROBES;
        if incident.plan.is_unwinding() && !incident.plan.is_wanted(step) {
            return true;
        }
        match incident.plan.state(step) {
            StepState::Waiting => true,
            StepState::Running => !is_settling,
            StepState::Held
            | StepState::Done
            | StepState::Failed
            | StepState::Owed
            | StepState::Skipped
            | StepState::Undoing
            | StepState::Undone
            | StepState::Cancelled => false,
        }
    }

    /// Standbys that were seen alive once and could not take over now, with the reasons.
    pub(super) fn unready_standbys(&self) -> BTreeMap<InstanceId, Vec<String>> {
        let unready = self.soft.watches.iter().map(|(id, watch)| (id, self.why_unready_as_watched(id, watch)));
        unready
            .filter(|(id, reasons)| !reasons.is_empty() && self.hard.seen_alive.contains_key(*id))
            .map(|(id, reasons)| (id.clone(), reasons))
            .collect()
    }

    /// Why a standby could not take over; empty for what serves, and for what could.
    pub(super) fn why_standby_unready(&self, id: &InstanceId) -> Vec<String> {
        self.soft.watches.get(id).map_or_else(Vec::new, |watch| self.why_unready_as_watched(id, watch))
    }

    /// The same, where the watch is at hand.
    fn why_unready_as_watched(&self, id: &InstanceId, watch: &Watched) -> Vec<String> {
        let is_standby = match watch.kind {
            Kind::Holdings => true,
            Kind::Traffic => false,
            Kind::Cloud | Kind::Http => watch.is_cold && !self.is_active(id),
            Kind::Kubernetes | Kind::Database | Kind::Cache | Kind::Storage => !self.is_active(id),
        };
        if !is_standby {
            return Vec::new();
        }
        // One lost probe is not worth a page; what it found when it last answered counts until the verdict is clear.
        if watch.judge(&self.soft.limits, self.now.monotonic).kind == super::VerdictKind::Suspect {
            return Vec::new();
        }
        let mut reasons: Vec<String> = self.why_unready(id, true).into_iter().collect();
        if watch.kind == Kind::Database
            && let Some(source) = self.hard.placement.get(&id.component)
            && reasons.is_empty()
            && self.is_known(&InstanceId { component: id.component.clone(), region: source.clone() })
        {
            let rpo = self.policy.objectives(crate::domain::Level::ComponentFailure).rpo;
            // What a promotion would lose at most, its guard asks. A page needs to know better.
            if let Some(lag) = self.least_lag(&id.component, source, &id.region).filter(|lag| *lag > rpo) {
                reasons.push(format!("it lags at least {} behind, more than the RPO of {}", human(lag), human(rpo)));
            }
        }
        reasons
    }

    /// What serves and has been suspected for some time, by the record, while no incident is about its region; with after what time its
    /// row acts.
    fn unsettled(&self) -> impl Iterator<Item = (&InstanceId, Duration, Duration)> {
        let is_dealt_with = |region: &RegionId| self.hard.open_incidents().any(|incident| incident.source == *region);
        let suspected =
            self.hard.suspicions.iter().filter(move |(id, _)| self.is_active(id) && !is_dealt_with(&id.region));
        suspected.filter_map(|(id, suspicion)| {
            let lasting = Duration::try_from(self.now.wall.duration_since(suspicion.since)).ok()?;
            Some((id, lasting, self.policy.components.get(&id.component)?.row?.after))
        })
    }

    /// There is a verdict about it. Without one, how far its standby lags behind is not known either.
    fn is_known(&self, id: &InstanceId) -> bool {
        self.soft
            .watches
            .get(id)
            .is_some_and(|watch| watch.judge(&self.soft.limits, self.now.monotonic).kind != super::VerdictKind::Unknown)
    }

    /// Names the next moment at which something changes although nothing happens.
    pub(super) fn look_ahead(&mut self) {
        let now = self.now.monotonic;
        if let Some(at) = self.soft.watches.changes_at(&self.soft.limits, now) {
            self.wake(at, "a verdict goes stale or a recovery is complete");
        }
        let unsettled =
            self.unsettled().filter_map(|(_, lasting, after)| (after * UNSETTLED_PARTS).checked_sub(lasting));
        if let Some(left) = unsettled.filter(|left| !left.is_zero()).min() {
            self.wake(now + left, "something is neither lost nor well");
        }
        // Who falls silent may be the one without whom nothing can be decided any more.
        if let Some(at) = self.soft.council.stale_at(self.policy.council.ballot_fresh, now) {
            self.wake(at, "a ballot ceases to count");
        }
        if let Some(pause) = &self.hard.paused {
            let left = self.hard.time_left(pause.stamp, pause.until, self.now);
            if left.is_zero() {
                self.record(super::Fact::Resumed { by: "failoverd: the pause is over".to_owned() });
            } else {
                self.wake(now + left, "a pause ends");
            }
        }
        let blind = self.soft.watches.restless().filter_map(|(id, watch)| self.blind_since(id, watch));
        let lasting = blind.chain(self.soft.unvouched_since).map(|since| since + FIRST_PROBES).filter(|at| *at > now);
        if let Some(at) = lasting.min() {
            self.wake(at, "not knowing has lasted long enough to be told");
        }
        // What is due and not tried waits for its database to answer, which is news.
        let retries = self.soft.owed_under_way.values().filter_map(|attempt| attempt.again).filter(|at| *at > now);
        if let Some(at) = retries.min() {
            self.wake(at, "an owed fence is tried again");
        }
        let open: Vec<_> = self
            .hard
            .open_incidents()
            .filter_map(|incident| incident.plan.approval.as_ref())
            .map(|approval| self.hard.time_left_for_sure(approval.stamp, approval.until, self.now))
            .filter(|left| !left.is_zero())
            .collect();
        for left in open {
            self.wake(now + left, "an approval expires");
        }
    }
}
