//! What a failover really lost, once that can be known: how far the promoted database had come, and what its old primary
//! holds beyond that when it is back. Before a promotion there is only what is expected (`health::loss`).

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::controller::Draft;
use super::incident::Incident;
use super::{Effect, Fact, LossStatus, Sample, StepState};
use crate::domain::{ComponentId, InstanceId, Mode, PlanId, RegionId};
use crate::plan::Action;

/// How far a promoted database had come when it became a primary of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RecoveryPoint {
    /// Where its write-ahead log leaves its old primary's, in bytes; none where it does not say (it was restarted since).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// When the last transaction that came over was committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transaction: Option<Timestamp>,
    /// By table, the newest value of the column that only grows; none where the table was empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub watermarks: BTreeMap<String, Option<String>>,
}

/// What an old primary holds beyond a recovery point.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Divergence {
    /// Where its write-ahead log ends, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// By table, how many rows are beyond the watermark.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rows: BTreeMap<String, u64>,
}

/// Under this key the look at a promotion may have how far the standby had come: what is there before it is promoted is not
/// mixed with what clients write there a moment later.
pub const RECOVERY_POINT: &str = "recovery_point";

/// What is asked of a database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// How far had it come when it was promoted?
    RecoveryPoint {
        /// The promoted database.
        database: InstanceId,
    },
    /// What does it hold beyond what its successor had?
    Divergence {
        /// The old primary.
        database: InstanceId,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Measured {
    /// To `Measure::RecoveryPoint`.
    RecoveryPoint(RecoveryPoint),
    /// To `Measure::Divergence`.
    Divergence(Divergence),
}

/// What is known of one promotion's loss, by the durable facts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Loss {
    plan: PlanId,
    promoted: InstanceId,
    at: Timestamp,
    point: RecoveryPoint,
    last_known: Option<Sample>,
    lossless: bool,
    found: Option<(Timestamp, Divergence)>,
    /// The old primary is a standby again: what it held is overwritten.
    is_overwritten: bool,
}

/// All of them, by old primary.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Losses {
    known: BTreeMap<InstanceId, Loss>,
}

impl Losses {
    pub(super) fn apply(&mut self, fact: &Fact, at: Timestamp) {
        if let Fact::RecoveryPointReached { plan, database, from, point, last_known, lossless } = fact {
            let (plan, promoted, point) = (plan.clone(), database.clone(), point.clone());
            let (last_known, lossless) = (*last_known, *lossless);
            let loss = Loss { plan, promoted, at, point, last_known, lossless, found: None, is_overwritten: false };
            self.known.insert(from.clone(), loss);
        }
        if let Fact::DivergenceFound { database, found, .. } = fact
            && let Some(loss) = self.known.get_mut(database)
        {
            loss.found = Some((at, found.clone()));
        }
    }

    /// A component serves from there again: what was lost when it left is history.
    pub(super) fn served(&mut self, component: &ComponentId, region: &RegionId) {
        self.known.retain(|old, _| old.component != *component || old.region != *region);
    }

    pub(super) fn rejoined(&mut self, old: &InstanceId) {
        if let Some(loss) = self.known.get_mut(old) {
            loss.is_overwritten = true;
        }
    }

    /// Whether an old primary holds nothing that its successor has not.
    ///
    /// # Errors
    /// What it holds, or why that is not known.
    pub(super) fn kept_by(&self, old: &InstanceId, successor: &InstanceId, is_fenced: bool) -> Result<(), String> {
        match self.known.get(old).filter(|loss| loss.promoted == *successor) {
            None => Err(format!("it is not known what {old} holds that {successor} has not")),
            Some(loss) if loss.lossless && is_fenced => Ok(()),
            Some(loss) if loss.lossless => {
                Err(format!("{old} is not fenced, so something may have been written there"))
            }
            Some(loss) if loss.found.is_none() => Err(format!("what {old} holds is not counted yet")),
            Some(loss) if loss.holds_something() => Err(loss.told(old)),
            Some(_) => Ok(()),
        }
    }

    fn is_measured(&self, plan: &PlanId, promoted: &InstanceId) -> bool {
        self.known.values().any(|loss| loss.plan == *plan && loss.promoted == *promoted)
    }
}

impl Loss {
    /// Of the old primary's log, this many bytes did not come over: as far as it was seen before it failed, or all of it where it
    /// is back. Not all of it need be writes of an application.
    fn bytes(&self) -> Option<u64> {
        let end = match &self.found {
            Some((_, found)) => found.position,
            None => self.last_known.map(|sample| sample.position),
        };
        end.zip(self.point.position).map(|(end, position)| end.saturating_sub(position))
    }

    /// The old primary was looked into, and something was there.
    fn holds_something(&self) -> bool {
        match self.point.watermarks.is_empty() {
            true => self.bytes().is_none_or(|bytes| bytes > 0),
            false => self.rows() > 0,
        }
    }

    /// That, in words.
    fn told(&self, old: &InstanceId) -> String {
        let rows = self.found.iter().flat_map(|(_, found)| &found.rows).filter(|(_, rows)| **rows > 0);
        let mut held: Vec<String> = rows.map(|(table, rows)| format!("{rows} rows of {table}")).collect();
        held.extend(self.bytes().map(|bytes| format!("{bytes} bytes of its log")));
        let held = if held.is_empty() { "writes".to_owned() } else { held.join(" and ") };
        let from = self.point.position.map(|position| format!(", from {} on", lsn(position))).unwrap_or_default();
        format!("{old} holds {held}{from} that {} never got", self.promoted)
    }

    fn rows(&self) -> u64 {
        self.found.iter().flat_map(|(_, found)| found.rows.values()).sum()
    }
}

/// A question that was asked of a database.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asked {
    /// When it is asked again; none while it is under way.
    again: Option<Duration>,
    failures: u32,
}

/// An answer may take so long.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// A question that failed is asked again after the recheck, then twice that, up to 2 to this power of it.
const DOUBLINGS_MAX: u32 = 5;

impl Draft<'_> {
    /// Asks what has not been asked. Nothing waits for it.
    pub(super) fn measure_losses(&mut self) {
        let may = self.policy.mode != Mode::Observe && !self.is_halted() && self.takeover().is_none();
        let open = if may { self.unmeasured() } else { Vec::new() };
        self.soft.measures.retain(|measure, _| open.contains(measure));
        for measure in open {
            let asked = self.soft.measures.get(&measure).copied();
            match asked.map(|asked| asked.again) {
                Some(None) => continue,
                Some(Some(again)) if again > self.now.monotonic => {
                    self.wake(again, "what a failover lost is asked again");
                    continue;
                }
                Some(Some(_)) | None => {}
            }
            self.soft.measures.entry(measure.clone()).or_default().again = None;
            let watermarks = match &measure {
                Measure::RecoveryPoint { .. } => BTreeMap::new(),
                Measure::Divergence { database } => {
                    self.hard.losses.known.get(database).map(|loss| loss.point.watermarks.clone()).unwrap_or_default()
                }
            };
            self.perform(Effect::Measure { measure, watermarks, deadline: ANSWERED_WITHIN });
        }
    }

    /// Promotions whose recovery point is not known, and old primaries that are back and were not looked into.
    fn unmeasured(&self) -> Vec<Measure> {
        let serves = |database: &InstanceId| self.hard.placement.get(&database.component) == Some(&database.region);
        let promotions = last_promotions(self.hard.incidents.values().map(|incident| &**incident));
        let unknown = promotions.into_iter().filter(|(database, promotion)| {
            let is_measured = self.hard.losses.is_measured(promotion.plan, database);
            !is_measured && serves(database) && self.is_answering(database)
        });
        let points = unknown.map(|(database, _)| Measure::RecoveryPoint { database: database.clone() });
        let back = self.hard.losses.known.iter().filter(|(old, loss)| {
            // What is still written there is counted once that has ended.
            let is_quiet = !self.hard.owed.contains_key(*old);
            loss.found.is_none() && !loss.lossless && is_quiet && serves(&loss.promoted) && self.takes_writes(old)
        });
        points.chain(back.map(|(old, _)| Measure::Divergence { database: old.clone() })).collect()
    }

    /// What was answered.
    pub(super) fn measured(&mut self, measure: Measure, answer: Result<Measured, String>) {
        let Some(asked) = self.soft.measures.get_mut(&measure) else { return };
        match (measure, answer) {
            (Measure::RecoveryPoint { database }, Ok(Measured::RecoveryPoint(point))) => {
                self.record_recovery_point(database, point);
            }
            (Measure::Divergence { database }, Ok(Measured::Divergence(found))) => {
                let Some(loss) = self.hard.losses.known.get(&database) else { return };
                let promoted = loss.promoted.clone();
                self.record(Fact::DivergenceFound { database, promoted, found });
            }
            (_, Ok(_) | Err(_)) => {
                let wait = self.policy.guards.recheck * 2u32.pow(asked.failures.min(DOUBLINGS_MAX));
                asked.failures = asked.failures.saturating_add(1);
                asked.again = Some(self.now.monotonic + wait);
            }
        }
    }

    fn record_recovery_point(&mut self, database: InstanceId, mut point: RecoveryPoint) {
        let promotions = last_promotions(self.hard.incidents.values().map(|incident| &**incident));
        let Some(Promotion { plan, from, lossless, .. }) = promotions.get(&database) else { return };
        let (plan, from, lossless) = ((*plan).clone(), (*from).clone(), *lossless);
        // Nothing was replayed between that look and the promotion: what was there then is what came over.
        let seen = self.seen_before(&plan, &database).filter(|seen| seen.position == point.position);
        if let Some(seen) = seen {
            point.watermarks = seen.watermarks;
        }
        let suspected = self.hard.suspicions.get(&from).and_then(|suspicion| suspicion.positions.last());
        let watch = self.soft.watches.get(&from);
        let seen = watch.into_iter().flat_map(|watch| [watch.positions.newest(), watch.heard.newest()]).flatten();
        let last_known = suspected.copied().into_iter().chain(seen).max_by_key(|sample| sample.at);
        self.record(Fact::RecoveryPointReached { plan, database, from, point, last_known, lossless });
    }

    fn seen_before(&self, plan: &PlanId, database: &InstanceId) -> Option<RecoveryPoint> {
        let incident = self.hard.incident_of(plan)?;
        let mut steps = incident.plan.steps.iter();
        let step = steps.find(|step| promotion(&step.action).is_some_and(|(promoted, _)| promoted == database))?;
        let seen = incident.plan.progress.get(&step.id)?.previous.get(RECOVERY_POINT)?;
        let seen = serde_json::from_value::<RecoveryPoint>(seen.clone()).ok()?;
        seen.position.is_some().then_some(seen)
    }

    /// What is known of every loss, for people.
    pub(super) fn loss_statuses(&self) -> Vec<LossStatus> {
        let statuses = self.hard.losses.known.iter().map(|(old, loss)| LossStatus {
            database: old.clone(),
            promoted: loss.promoted.clone(),
            at: loss.at,
            lossless: loss.lossless,
            last_transaction: loss.point.last_transaction,
            from_position: loss.point.position,
            to_position: loss.found.as_ref().and_then(|(_, found)| found.position),
            bytes: loss.bytes().filter(|_| !loss.lossless),
            watermarks: loss.point.watermarks.clone(),
            rows: loss.found.as_ref().map(|(_, found)| found.rows.clone()),
        });
        statuses.collect()
    }

    /// Old primaries that hold what nobody else has: `(old primary, in words)`.
    pub(super) fn diverged(&self) -> Vec<(InstanceId, String)> {
        let known = self.hard.losses.known.iter();
        let holding = known.filter(|(_, loss)| loss.found.is_some() && !loss.is_overwritten && loss.holds_something());
        let told = holding.map(|(old, loss)| {
            let told = loss.told(old);
            let text = format!(
                "{told}; only `failoverd rejoin {old} --discard` overwrites them: copy what is needed out of it first"
            );
            (old.clone(), text)
        });
        told.collect()
    }
}

/// What a plan promoted a database with.
struct Promotion<'a> {
    plan: &'a PlanId,
    from: &'a InstanceId,
    lossless: bool,
    number: u64,
}

/// By promoted database, the promotion that came about last: what an earlier one lost is told already, or history.
fn last_promotions<'a>(incidents: impl Iterator<Item = &'a Incident>) -> BTreeMap<&'a InstanceId, Promotion<'a>> {
    let mut last = BTreeMap::new();
    for incident in incidents {
        let plan = &incident.plan;
        for step in plan.steps.iter().filter(|step| plan.state(&step.id) == StepState::Done) {
            let Some((database, from)) = promotion(&step.action) else { continue };
            // An estimate proves nothing, however small.
            let is_fenced = plan.steps.iter().any(|other| {
                plan.fence_of(&other.id).as_ref() == Some(from) && plan.state(&other.id) == StepState::Done
            });
            let waited = plan.progress.get(&step.id).is_some_and(|progress| progress.is_lossless);
            let lossless = is_fenced && (waited || Draft::is_caught_up(incident, step));
            let this = Promotion { plan: &plan.id, from, lossless, number: incident.number };
            if last.get(database).is_none_or(|former: &Promotion<'_>| former.number < this.number) {
                last.insert(database, this);
            }
        }
    }
    last
}

/// What the action promotes, and in whose place.
pub(super) fn promotion(action: &Action) -> Option<(&InstanceId, &InstanceId)> {
    if let Action::DatabasePromoted { database, from, .. } = action { Some((database, from)) } else { None }
}

/// A position as PostgreSQL writes it.
pub fn lsn(position: u64) -> String {
    format!("{:X}/{:X}", position >> 32, position & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::super::hard::Stamp;
    use super::*;
    use crate::domain::{Level, Now};
    use crate::plan::{Part, Purpose, Step};

    /// An incident whose plan has promoted the database in the west.
    fn incident(number: u64) -> Incident {
        let now = Now { monotonic: Duration::ZERO, wall: Timestamp::UNIX_EPOCH };
        let stamp = Stamp { at: now, epoch: 1, heard: None };
        let plan = PlanId::from(format!("plan-{number}"));
        let declared = Fact::IncidentDeclared {
            incident: format!("inc-{number}").into(),
            level: Level::ComponentFailure,
            source: "east".into(),
            target: "west".into(),
            first_failing: now.wall,
            detected_after: Duration::ZERO,
            evidence: Vec::new(),
            ordered_by: None,
            forced: false,
            purpose: Purpose::Failover,
        };
        let mut incident = Incident::declared(stamp, &declared).expect("a declaration");
        let at = |region: &str| InstanceId { component: "database".into(), region: region.into() };
        let part = Part::Component("database".into());
        let step = Step {
            id: "promote".into(),
            action: Action::DatabasePromoted { database: at("west"), from: at("east"), lossless: false },
            part: part.clone(),
            after: Default::default(),
            commit_point: true,
            undoable: false,
            best_effort: false,
            places: BTreeMap::new(),
            confirm: None,
            deadline: Duration::from_secs(60),
            stage: None,
        };
        incident.plan.id = plan.clone();
        incident.plan.grow(&part, &[step], &BTreeMap::new());
        let done = Fact::StepDone { plan, step: "promote".into(), note: String::new(), acted: true };
        incident.plan.apply(stamp, &done);
        incident
    }

    #[test]
    fn of_two_promotions_of_one_database_only_the_last_is_measured() {
        // By their names, the tenth comes before the second.
        let incidents = [incident(10), incident(2)];
        let last = last_promotions(incidents.iter());
        let plans: Vec<&str> = last.values().map(|promotion| promotion.plan.as_str()).collect();
        assert_eq!(plans, ["plan-10"]);
    }
}
