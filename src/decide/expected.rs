//! What a promotion would lose, before it: from what was seen of both databases, and by the word of enough observers. A
//! promotion that loses more than it may is held back.

use std::time::Duration;

use super::controller::Draft;
use super::incident::Incident;
use super::{Guard, GuardKind, Sample};
use crate::domain::{Bug, ComponentId, InstanceId, Level, RegionId, time::human};
use crate::health::{Loss, expected_loss, least_lag};
use crate::plan::{Action, Part, Step};

/// Whoever accepts so much accepts what is not known, too.
pub(super) const ANY_LOSS_FROM: Duration = Duration::from_secs(24 * 3600);
/// The same as it is written.
const ANY_LOSS: &str = "24h";

impl Draft<'_> {
    /// Expected loss of moving `component` from `source` to `target`.
    pub(super) fn expected_loss(&self, component: &ComponentId, source: &RegionId, target: &RegionId) -> Loss {
        let from = InstanceId { component: component.clone(), region: source.clone() };
        let to = InstanceId { component: component.clone(), region: target.clone() };
        let (Some(old), Some(standby)) = (self.soft.watches.get(&from), self.soft.watches.get(&to)) else {
            return Loss::Unknown("it is not watched".to_owned());
        };
        if self.bugs.has(Bug::LossByAge) {
            let replayed = standby
                .evidence
                .position
                .and_then(|p| old.positions.recorded().into_iter().rev().find(|s| s.position <= p));
            let age = replayed.and_then(|s| Duration::try_from(self.now.wall.duration_since(s.at)).ok());
            return age.map_or(Loss::Unknown("nothing was replayed".to_owned()), Loss::AtMost);
        }
        let position = standby.evidence.position.filter(|_| standby.is_answering(self.now.monotonic));
        let stopped = |last: Option<&Sample>| self.stopped_by(&from, last);
        // The suspicion has what was sampled before a restart; the watch what was sampled since.
        let seen = match self.hard.suspicions.get(&from) {
            Some(suspicion) if old.positions.is_empty() => {
                expected_loss(suspicion.positions.iter(), position, stopped(suspicion.positions.last()))
            }
            Some(_) | None => expected_loss(old.positions.iter(), position, stopped(old.positions.newest().as_ref())),
        };
        // Each of them is an upper bound. Others may have seen it for longer than this observer.
        let heard = expected_loss(old.heard.iter(), position, stopped(old.positions.newest().as_ref()));
        seen.or_less(heard)
    }

    /// How far the standby is behind, at least; none where it has everything that was seen of the primary.
    pub(super) fn least_lag(&self, component: &ComponentId, source: &RegionId, target: &RegionId) -> Option<Duration> {
        let of = |region: &RegionId| InstanceId { component: component.clone(), region: region.clone() };
        let (old, standby) = (self.soft.watches.get(&of(source))?, self.soft.watches.get(&of(target))?);
        let position = standby.evidence.position.filter(|_| standby.is_answering(self.now.monotonic))?;
        let seen = least_lag(old.positions.iter(), position);
        // When others saw what they told of is known no better than that.
        let heard = least_lag(old.heard.iter(), position);
        let heard = heard.and_then(|lag| lag.checked_sub(self.policy.council.ballot_fresh));
        seen.max(heard)
    }

    /// When the database wrote for the last time, at the latest: before enough regions began to call it failing, whatever this
    /// observer itself could see of it. A daemon whose own link was cut has old samples and an old suspicion, and both together
    /// would say that nothing is lost.
    fn stopped_by(&self, database: &InstanceId, last: Option<&Sample>) -> jiff::Timestamp {
        let silent_since = self.silent_for(database).and_then(|silent| self.now.wall.checked_sub(silent).ok());
        let stopped = silent_since.unwrap_or(self.now.wall);
        // It answered somebody in the middle of its outage, and may have written until the next probe.
        let alive = self.last_alive(database).map(|at| self.wall_at(at));
        let answered = [last.map(|last| last.at), alive].into_iter().flatten().max();
        match answered {
            Some(answered) if answered >= stopped => {
                let gap = self.policy.components.get(&database.component).map(|policy| policy.probing.gap());
                (answered + gap.unwrap_or_default()).min(self.now.wall.max(answered))
            }
            Some(_) | None => stopped,
        }
    }

    /// For how long it has written nothing, by the word of enough regions. They may have seen it fail before they, or the runs
    /// of them before, were restarted.
    fn silent_for(&self, database: &InstanceId) -> Option<Duration> {
        if !self.policy.council.is_alone() {
            return self.tally(database).silent_for();
        }
        let watch = self.soft.watches.get(database)?;
        let is_silent_still = || watch.silence().map(|_| Duration::ZERO);
        let failing_for = self.failing_as_watched(database, watch).or_else(is_silent_still)?;
        Some(self.silent_for_as_watched(watch, failing_for))
    }

    /// What the promotion may lose without anybody being asked.
    fn rpo(&self, incident: &Incident, promotion: &Step) -> Duration {
        if incident.purpose.is_planned() {
            return Duration::ZERO;
        }
        self.policy.objectives(level_of(incident, promotion)).rpo
    }

    pub(super) fn is_within_rpo(&self, incident: &Incident, promotion: &Step) -> bool {
        self.lacks_at_most(promotion, self.rpo(incident, promotion))
    }

    /// What is promoted is no further behind than that, for sure.
    pub(super) fn lacks_at_most(&self, promotion: &Step, most: Duration) -> bool {
        let Action::DatabasePromoted { database, from, .. } = &promotion.action else { return true };
        let expected = self.expected_loss(&database.component, &from.region, &database.region);
        matches!(expected, Loss::AtMost(loss) if loss <= most)
    }

    pub(super) fn judge_loss(
        &self,
        incident: &Incident,
        step: &Step,
    ) -> Result<(Option<Duration>, Option<String>), Guard> {
        let Action::DatabasePromoted { database, from, lossless } = &step.action else { return Ok((None, None)) };
        if *lossless && self.is_waited_for(incident, step, from) {
            return Ok((Some(Duration::ZERO), None));
        }
        if Self::is_caught_up(incident, step) {
            return Ok((Some(Duration::ZERO), None));
        }
        let rpo = self.rpo(incident, step);
        let rule = match incident.purpose.is_planned() {
            true => "a planned move loses nothing".to_owned(),
            false => format!("the RPO of {} is {}", level_of(incident, step), human(rpo)),
        };
        let accepted = self.hard.accepted_loss(database, self.approval(incident));
        let command = format!("`failoverd approve {} --accept-loss", incident.id);
        match self.expected_loss(&database.component, &from.region, &database.region) {
            Loss::AtMost(loss) if loss <= rpo => Ok((Some(loss), None)),
            Loss::AtMost(loss) if accepted.at_most >= Some(loss) => {
                Ok((Some(loss), Some(format!("a loss of {} beyond the RPO was accepted", human(loss)))))
            }
            Loss::AtMost(loss) => Err(Guard {
                kind: GuardKind::DataLoss,
                evidence: format!("promoting {database} would lose up to {} of writes; {rule}", human(loss)),
                lifted_by: format!("the standby catching up, or {command} {}s`", loss.as_secs() + 1),
            }),
            Loss::MoreThan(loss) if accepted.unknown && accepted.at_most >= Some(loss) => {
                Ok((None, Some(format!("a loss of more than {} was accepted", human(loss)))))
            }
            Loss::MoreThan(loss) => Err(Guard {
                kind: GuardKind::DataLoss,
                evidence: format!(
                    "promoting {database} would lose more than {} of writes: it is behind everything that was sampled; \
                     {rule}",
                    human(loss)
                ),
                lifted_by: format!("the standby catching up, or {command} {ANY_LOSS}`: how much more, nobody knows"),
            }),
            Loss::Unknown(why) if accepted.unknown => Ok((None, Some(format!("an unknown loss was accepted ({why})")))),
            Loss::Unknown(why) => Err(Guard {
                kind: GuardKind::DataLoss,
                evidence: format!("it is not known how much promoting {database} would lose: {why}"),
                lifted_by: format!("a position of the standby, or {command} {ANY_LOSS}`: it may be anything"),
            }),
        }
    }
}

/// The level whose objectives hold for the step. A component that fails beside a lesser trouble of its region may lose no
/// more for that.
fn level_of(incident: &Incident, step: &Step) -> Level {
    if incident.plan.is_needed_by(&step.id, &Part::Region) { Level::RegionalOutage } else { Level::ComponentFailure }
}
