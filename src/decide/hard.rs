//! Hard state: the fold of the durable facts, and nothing else. Living and replaying are the same code.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::controller::CorruptLedger;
use super::losses::Losses;
pub(super) use super::stamp::Stamp;
use super::{Accepted, BreakGlassRecord, Fact, Frame, GuardKind, Incident, Outcome, Sample};
use crate::domain::{ComponentId, IncidentId, InstanceId, LedgerId, Now, ObserverId, PlanId, RegionId};
use crate::plan::{Action, Part};
use crate::ports::{Claim, Term};

/// An instance that was suspected when it mattered.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Suspicion {
    pub(super) since: Timestamp,
    pub(super) positions: Vec<Sample>,
}

/// When a component was moved, and whether a person has seen it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Moved {
    pub(super) stamp: Stamp,
    pub(super) incident: Option<IncidentId>,
    pub(super) acknowledged: bool,
}

/// Since when it is known where a component is served.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Placed {
    pub(super) at: Timestamp,
    /// The ledger of break-glass that knew; none for this one.
    pub(super) merged: Option<LedgerId>,
}

/// An incident that counts towards those of a day.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Declared {
    pub(super) stamp: Stamp,
    /// What was left, or was to be.
    pub(super) source: RegionId,
    incident: IncidentId,
    /// Something was to be moved; otherwise it was eased where it is.
    pub(super) moves: bool,
}

/// A role that was taken away, before what it is for has moved.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Revoked {
    pub(super) region: RegionId,
    pub(super) plan: PlanId,
    /// The how manyth time it is that anything was taken away.
    pub(super) number: u64,
}

/// A fence that could not be put up, and has to be.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Owed {
    pub(super) attempts: u32,
}

/// A check of the end state that does not hold.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct BrokenCheck {
    pub(super) since: Timestamp,
    pub(super) why: String,
}

/// A person's stop.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pause {
    pub(super) until: Timestamp,
    pub(super) stamp: Stamp,
    pub(super) by: String,
    pub(super) reason: String,
}

/// Closed incidents that are still shown.
const CLOSED_SHOWN: usize = 10;
/// Times of declared incidents that are remembered for the blast radius.
const DECLARED_MAX: usize = 256;

/// Merged ledgers that are remembered: nobody breaks the glass that often.
const MERGED_MAX: usize = 32;
/// Orders are known again for longer than they wait in the ledger.
const ORDERS_KEPT: usize = 64;

/// Everything that must survive.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Hard {
    pub(super) ledger: Option<LedgerId>,
    pub(super) epoch: u64,
    pub(super) policy: String,
    /// Who leads in this epoch.
    pub(super) leader: Option<ObserverId>,
    /// When this epoch began.
    pub(super) anchor: Option<Now>,
    /// This epoch is of this run of the daemon: its monotonic times are by the clock of this machine.
    pub(super) is_own_clock: bool,
    /// The time at which what is applied next was heard of, by this machine's monotonic clock.
    pub(super) hears_at: Option<Duration>,
    pub(super) is_adopted: bool,
    pub(super) placement: BTreeMap<ComponentId, RegionId>,
    pub(super) seen_alive: BTreeMap<InstanceId, String>,
    pub(super) suspicions: BTreeMap<InstanceId, Suspicion>,
    /// Shared, because whoever reads one while others are recorded keeps a copy of it.
    pub(super) incidents: BTreeMap<IncidentId, Arc<Incident>>,
    pub(super) incidents_ever: u64,
    pub(super) declared: VecDeque<Declared>,
    /// When each part that moves nothing for good came to its end, and whether a person has seen it.
    pub(super) eased: BTreeMap<(RegionId, Part), Moved>,
    pub(super) unwound: Option<Stamp>,
    pub(super) moved: BTreeMap<ComponentId, Moved>,
    pub(super) placed: BTreeMap<ComponentId, Placed>,
    pub(super) owed: BTreeMap<InstanceId, Owed>,
    pub(super) fenced: BTreeSet<InstanceId>,
    /// Roles that were taken away from the region that the placement still names.
    pub(super) revoked: BTreeMap<ComponentId, Revoked>,
    /// How many times a role was taken away, ever.
    pub(super) revocations: u64,
    /// The databases that each observer guards.
    pub(super) guardians: BTreeMap<ObserverId, BTreeSet<InstanceId>>,
    /// Orders that daemons passed on, and what their givers were told.
    pub(super) orders: BTreeMap<String, String>,
    /// By name, and the region that has to satisfy it.
    pub(super) broken_checks: BTreeMap<(String, RegionId), BrokenCheck>,
    /// What promotions lost, by old primary.
    pub(super) losses: Losses,
    pub(super) paused: Option<Pause>,
    pub(super) halted: Option<String>,
    pub(super) withheld: BTreeMap<(RegionId, Part), BTreeSet<GuardKind>>,
    pub(super) false_positives: u64,
    /// This is a ledger of break-glass.
    pub(super) break_glass: Option<Began>,
    /// What was merged.
    pub(super) merged: BTreeMap<LedgerId, Merged>,
}

/// Who broke the glass, and why.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Began {
    pub(super) by: String,
    pub(super) reason: String,
    pub(super) departs_from: Option<LedgerId>,
    pub(super) accepted: BTreeMap<InstanceId, Accepted>,
    pub(super) at: Timestamp,
}

/// A ledger of break-glass that has come into this one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Merged {
    pub(super) frames: u64,
    pub(super) head: String,
    term: Term,
    pub(super) by: String,
}

impl Hard {
    /// The claim is of a ledger that was merged, and nobody went on with that one since.
    pub(super) fn is_merged(&self, claim: &Claim) -> bool {
        self.merged.get(&claim.ledger).is_some_and(|merged| claim.term <= Some(merged.term))
    }

    /// What break-glass did, as if it had been done here.
    fn merge(&mut self, by: &str, record: &BreakGlassRecord, stamp: Stamp) {
        self.is_adopted = true;
        for (component, region) in &record.placement {
            if self.placement.get(component) != Some(region) {
                self.placement.insert(component.clone(), region.clone());
                self.revoked.remove(component);
                // The person who did it has seen it.
                self.moved.insert(component.clone(), Moved { stamp, incident: None, acknowledged: true });
            }
            // No clock of another machine is ahead of this moment.
            let at = record.knew(component).min(stamp.at.wall);
            self.placed.insert(component.clone(), Placed { at, merged: Some(record.ledger.clone()) });
        }
        self.owed.extend(record.owed.iter().map(|database| (database.clone(), Owed::default())));
        self.fenced.extend(record.fenced.iter().cloned());
        let placement = &self.placement;
        let serves = |database: &InstanceId| placement.get(&database.component) == Some(&database.region);
        self.owed.retain(|database, _| !serves(database) && !record.fenced.contains(database));
        self.fenced.retain(|database| !serves(database));
        self.withheld.clear();
        let merged = Merged { frames: record.frames, head: record.head.clone(), term: record.term, by: by.to_owned() };
        self.merged.insert(record.ledger.clone(), merged);
        if self.merged.len() > MERGED_MAX {
            // Names of ledgers begin with their time.
            self.merged.pop_first();
        }
    }

    /// The fold of a ledger from its beginning.
    pub(super) fn folded(frames: impl IntoIterator<Item = Frame>) -> Result<Self, CorruptLedger> {
        let mut hard = Self::default();
        for (next, frame) in (0..).zip(frames) {
            if frame.index != next {
                return Err(CorruptLedger { index: frame.index, why: format!("frame {next} was expected") });
            }
            for fact in &frame.facts {
                hard.apply(frame.at, fact);
            }
        }
        Ok(hard)
    }

    /// Databases that a plan under way replaces, past the point from which it only goes forward.
    fn leaving(&self) -> BTreeSet<InstanceId> {
        let plans = self.open_incidents().map(|incident| &incident.plan);
        let steps = plans.flat_map(|plan| plan.steps.iter().map(move |step| (plan, step)));
        let leaving = steps.filter_map(|(plan, step)| {
            let Action::DatabasePromoted { from, .. } = &step.action else { return None };
            let has_passed = plan.progress.get(&step.id).is_some_and(|progress| progress.has_passed_commit_point);
            has_passed.then(|| from.clone())
        });
        leaving.collect()
    }

    pub(super) fn open_incidents(&self) -> impl Iterator<Item = &Incident> {
        self.incidents.values().map(|incident| &**incident).filter(|incident| incident.closed.is_none())
    }

    pub(super) fn incident_of(&self, plan: &PlanId) -> Option<&Incident> {
        self.incidents.values().map(|incident| &**incident).find(|incident| incident.plan.id == *plan)
    }

    /// The shares of traffic that are moved, or were being moved, to a region that does not serve: which record, and
    /// where to.
    pub(super) fn shares(&self) -> impl Iterator<Item = (&ComponentId, &RegionId)> {
        self.open_incidents().flat_map(|incident| incident.plan.shares()).flat_map(|(traffic, weights)| {
            weights
                .iter()
                .filter(|(region, weight)| **weight > 0 && self.placement.get(traffic) != Some(*region))
                .map(move |(region, _)| (traffic, region))
        })
    }

    /// This daemon's turn with the ledger.
    pub(super) fn term(&self) -> Term {
        let since = self.anchor.map_or(Timestamp::UNIX_EPOCH, |anchor| anchor.wall);
        Term { epoch: self.epoch, since }
    }

    fn incident_of_mut(&mut self, plan: &PlanId) -> Option<&mut Incident> {
        self.incidents.values_mut().find(|incident| incident.plan.id == *plan).map(Arc::make_mut)
    }

    /// Takes one durable fact in.
    pub(super) fn apply(&mut self, at: Now, fact: &Fact) {
        let stamp = self.stamp(at);
        match fact {
            Fact::LedgerCreated { ledger } => self.ledger = Some(ledger.clone()),
            Fact::EpochStarted { policy, epoch, observer, .. } => {
                self.epoch = epoch.unwrap_or(self.epoch + 1);
                self.leader = Some(observer.clone());
                self.anchor = Some(at);
                self.policy.clone_from(policy);
            }
            Fact::TakeoverCompleted { .. } => {}
            Fact::PlacementAdopted { placement, .. } => {
                self.is_adopted = true;
                self.placement.clone_from(placement);
                let placed = |component: &ComponentId| (component.clone(), Placed { at: at.wall, merged: None });
                self.placed = placement.keys().map(placed).collect();
                // What serves owes no fence, and is not fenced.
                let serves = |database: &InstanceId| placement.get(&database.component) == Some(&database.region);
                let leaving = self.leaving();
                self.owed.retain(|database, _| !serves(database) || leaving.contains(database));
                self.fenced.retain(|database| !serves(database));
                // What is open goes on, and what it moves is nobody's until it has.
                self.revoked.retain(|component, revoked| placement.get(component) == Some(&revoked.region));
                self.give_roles_back(|_, _| true);
                self.halted = None;
                self.withheld.clear();
                self.broken_checks.clear();
            }
            Fact::SeenAlive { instance, fingerprint } => {
                self.seen_alive.insert(instance.clone(), fingerprint.clone());
            }
            Fact::SuspicionRaised { instance, since, positions, .. } => {
                let suspicion = Suspicion { since: *since, positions: positions.clone() };
                self.suspicions.insert(instance.clone(), suspicion);
            }
            Fact::SuspicionCleared { instance } => {
                self.suspicions.remove(instance);
                self.withheld.retain(|(region, _), _| *region != instance.region);
            }
            Fact::Withheld { source, part, guards } => {
                let kinds = guards.iter().map(|guard| guard.kind).collect();
                self.withheld.insert((source.clone(), part.clone()), kinds);
            }
            Fact::IncidentDeclared { incident, source, purpose, .. } => {
                self.incidents_ever += 1;
                // What was planned uses up nothing of what a real loss may need.
                if !purpose.is_planned() {
                    self.declared.push_back(Declared {
                        stamp,
                        source: source.clone(),
                        incident: incident.clone(),
                        moves: true,
                    });
                }
                if self.declared.len() > DECLARED_MAX {
                    self.declared.pop_front();
                }
                self.withheld.retain(|(region, _), _| region != source);
                if let Some(new) = Incident::declared(stamp, fact) {
                    self.incidents.insert(incident.clone(), Arc::new(new));
                }
            }
            Fact::PlannedMoveOvertaken { incident, evidence } => {
                if let Some(incident) = self.incidents.get_mut(incident).map(Arc::make_mut) {
                    incident.overtaken(evidence, stamp);
                }
            }
            Fact::IncidentEscalated { incident, level, evidence } => {
                if let Some(incident) = self.incidents.get_mut(incident).map(Arc::make_mut) {
                    incident.level = incident.level.min(*level);
                    incident.evidence.clone_from(evidence);
                }
            }
            Fact::PlanMade { incident, plan, part, steps } => {
                if let Some(incident) = self.incidents.get_mut(incident).map(Arc::make_mut) {
                    incident.plan.id = plan.clone();
                    incident.plan.grow(part, steps, &BTreeMap::new());
                    if incident.ordered_by.is_some() {
                        incident.plan.ordered.insert(part.clone());
                    }
                }
                for declared in self.declared.iter_mut().filter(|declared| declared.incident == *incident) {
                    declared.moves = part.moves();
                }
            }
            Fact::PlanGrown { plan, part, steps, shares, ordered_by, forced } => {
                let Some(incident) = self.incident_of_mut(plan) else { return };
                incident.plan.grow(part, steps, shares);
                incident.plan.expect_nothing_of(&incident.source, part, steps);
                if ordered_by.is_some() {
                    incident.plan.ordered.insert(part.clone());
                    incident.ordered_by.clone_from(ordered_by);
                }
                incident.is_forced |= forced;
                if incident.target == incident.source
                    && let Some(target) = steps.iter().flat_map(|step| step.places.values()).next()
                {
                    // What was to be mended where it is leaves after all.
                    incident.target.clone_from(target);
                }
                // What was forgiven because nobody needed it any more is owed again where it was not tried anew.
                let owed = incident.plan.owed_fences();
                let id = incident.id.clone();
                for database in owed {
                    self.owed.entry(database).or_default();
                }
                for declared in self.declared.iter_mut().filter(|declared| declared.incident == id) {
                    declared.moves |= part.moves();
                }
            }
            Fact::PlacementChanged { component, region } => {
                let incident = self.open_incidents().max_by_key(|incident| incident.number);
                // Whoever planned it has seen it.
                let acknowledged = incident.is_some_and(|incident| incident.purpose.is_planned());
                let incident = incident.map(|incident| incident.id.clone());
                self.placement.insert(component.clone(), region.clone());
                self.moved.insert(component.clone(), Moved { stamp, incident, acknowledged });
                self.placed.insert(component.clone(), Placed { at: at.wall, merged: None });
                self.fenced.remove(&InstanceId { component: component.clone(), region: region.clone() });
                self.revoked.remove(component);
                self.losses.served(component, region);
                // It is about another world now. What is still wrong is found again.
                self.broken_checks.clear();
            }
            Fact::RegionRevoked { plan, region, components } => {
                self.revocations += 1;
                for component in components {
                    let number = self.revocations;
                    let revoked = Revoked { region: region.clone(), plan: plan.clone(), number };
                    self.revoked.insert(component.clone(), revoked);
                }
            }
            Fact::RolesReturned { components, .. } => {
                self.revoked.retain(|component, _| !components.contains(component));
            }
            Fact::CheckFailed { check, region, why } => {
                let broken = BrokenCheck { since: at.wall, why: why.clone() };
                self.broken_checks.insert((check.clone(), region.clone()), broken);
            }
            Fact::CheckHolds { check, region, .. } => {
                self.broken_checks.remove(&(check.clone(), region.clone()));
            }
            Fact::RecoveryPointReached { .. } | Fact::DivergenceFound { .. } => self.losses.apply(fact, at.wall),
            Fact::OrderTaken { request, answer } => {
                self.orders.insert(request.clone(), answer.clone());
                // They sort by when they were given.
                while self.orders.len() > ORDERS_KEPT {
                    self.orders.pop_first();
                }
            }
            Fact::GuardiansChanged { observer, databases } => {
                self.guardians.insert(observer.clone(), databases.clone());
                self.guardians.retain(|_, databases| !databases.is_empty());
            }
            Fact::StepOwed { plan, step, .. } => {
                let owed = self.incident_of(plan).and_then(|incident| incident.plan.fence_of(step));
                if let Some(database) = owed {
                    self.owed.entry(database).or_default();
                }
                self.in_plan(plan, stamp, fact);
            }
            Fact::StepDone { plan, step, .. } => {
                let fenced = self.incident_of(plan).and_then(|incident| incident.plan.fence_of(step));
                if let Some(database) = fenced {
                    self.owed.remove(&database);
                    self.fenced.insert(database);
                }
                self.rejoined(plan, step);
                self.in_plan(plan, stamp, fact);
            }
            Fact::StepUndone { plan, step, .. } => {
                let unfenced = self.incident_of(plan).and_then(|incident| incident.plan.fence_of(step));
                if let Some(database) = unfenced {
                    self.fenced.remove(&database);
                    self.owed.remove(&database);
                }
                self.in_plan(plan, stamp, fact);
                self.give_roles_back(|hard, database| !hard.fenced.contains(database));
                self.forget_checks_of_nobody();
            }
            Fact::ApprovalRequested { plan, .. }
            | Fact::Approved { plan, .. }
            | Fact::CommitPointPassed { plan, .. }
            | Fact::StepStarted { plan, .. }
            | Fact::StepFailed { plan, .. }
            | Fact::StepSkipped { plan, .. }
            | Fact::StepCancelled { plan, .. }
            | Fact::StepPutBack { plan, .. }
            | Fact::StepHandedOver { plan, .. }
            | Fact::UndoStarted { plan, .. }
            | Fact::UndoFailed { plan, .. }
            | Fact::PlanStuck { plan, .. }
            | Fact::ShareTakenBack { plan, .. }
            | Fact::StageContinued { plan, .. }
            | Fact::RetryOrdered { plan, .. } => self.in_plan(plan, stamp, fact),
            Fact::UnwindingStarted { plan, .. } => {
                self.in_plan(plan, stamp, fact);
                // A guardian that is told of its role takes a fence down, and that is the plan's to undo, when it may.
                self.give_roles_back(|hard, database| !hard.fenced.contains(database));
            }
            Fact::PartUnwound { plan, .. } => {
                self.in_plan(plan, stamp, fact);
                self.forgive_fences();
            }
            Fact::IncidentClosed { incident, outcome } => {
                self.close(incident, *outcome, stamp);
                self.forget_checks_of_nobody();
                self.give_roles_back(|_, _| true);
            }
            Fact::OwedFenceStarted { database, attempt } => {
                self.owed.entry(database.clone()).or_default().attempts = *attempt;
            }
            Fact::OwedFenceSettled { database, .. } => {
                self.owed.remove(database);
                self.fenced.insert(database.clone());
            }
            Fact::Paused { until, by, reason } => {
                self.paused = Some(Pause { until: *until, stamp, by: by.clone(), reason: reason.clone() });
            }
            Fact::Resumed { .. } => self.paused = None,
            Fact::Held { incident, .. } => {
                if let Some(incident) = self.incidents.get_mut(incident).map(Arc::make_mut) {
                    incident.is_held = true;
                }
            }
            Fact::Released { incident, .. } => {
                if let Some(incident) = self.incidents.get_mut(incident).map(Arc::make_mut) {
                    incident.is_held = false;
                }
            }
            Fact::Acknowledged { incident, by, false_positive, .. } => {
                if let Some(incident) = self.incidents.get_mut(incident).map(Arc::make_mut) {
                    incident.acknowledged_by = Some(by.clone());
                    if *false_positive && !incident.is_false_positive {
                        incident.is_false_positive = true;
                        self.false_positives += 1;
                    }
                }
                let seen = |moved: &&mut Moved| moved.incident.as_ref() == Some(incident);
                for moved in self.moved.values_mut().chain(self.eased.values_mut()).filter(seen) {
                    moved.acknowledged = true;
                }
            }
            Fact::BreakGlassBegan { by, reason, departs_from, accepted, .. } => {
                let (by, reason, departs_from) = (by.clone(), reason.clone(), departs_from.clone());
                let accepted = accepted.clone();
                self.break_glass = Some(Began { by, reason, departs_from, accepted, at: at.wall });
            }
            Fact::BreakGlassMerged { by, record } => self.merge(by, record, stamp),
            Fact::Halted { why } => self.halted = Some(why.clone()),
        }
    }

    fn in_plan(&mut self, plan: &PlanId, stamp: Stamp, fact: &Fact) {
        if let Some(incident) = self.incident_of_mut(plan) {
            incident.plan.apply(stamp, fact);
        }
    }

    /// What no plan moves any more stays where it is, if it may.
    fn give_roles_back(&mut self, may: impl Fn(&Self, &InstanceId) -> bool) {
        let moving: BTreeSet<(PlanId, ComponentId)> = self
            .open_incidents()
            .flat_map(|incident| {
                let plan = &incident.plan;
                let wanted = plan.steps.iter().filter(|step| plan.is_wanted(&step.id));
                wanted.flat_map(|step| step.places.keys()).map(|component| (plan.id.clone(), component.clone()))
            })
            .collect();
        let mut revoked = std::mem::take(&mut self.revoked);
        revoked.retain(|component, revoked| {
            let instance = InstanceId { component: component.clone(), region: revoked.region.clone() };
            moving.contains(&(revoked.plan.clone(), component.clone())) || !may(self, &instance)
        });
        self.revoked = revoked;
    }

    /// What clients that have been taken back met says nothing about those who come again.
    fn forget_checks_of_nobody(&mut self) {
        let placement = &self.placement;
        self.broken_checks.retain(|(_, region), _| placement.values().any(|serving| serving == region));
    }

    /// A database that serves, and whose promotion elsewhere was given up, does not have to be fenced any more.
    fn forgive_fences(&mut self) {
        let wanted: BTreeSet<InstanceId> = self
            .open_incidents()
            .flat_map(|incident| {
                let wanted = incident.plan.steps.iter().filter(|step| incident.plan.is_wanted(&step.id));
                wanted.filter_map(|step| incident.plan.fence_of(&step.id))
            })
            .collect();
        let placement = &self.placement;
        self.owed.retain(|database, _| {
            placement.get(&database.component) != Some(&database.region) || wanted.contains(database)
        });
    }

    fn close(&mut self, id: &IncidentId, outcome: Outcome, stamp: Stamp) {
        if let Some(incident) = self.incidents.get_mut(id).map(Arc::make_mut) {
            incident.closed = Some((stamp, outcome));
            let parts = incident.plan.parts.keys();
            for part in parts.clone().filter(|part| !part.moves()) {
                let acknowledged = incident.acknowledged_by.is_some();
                let eased = Moved { stamp, incident: Some(id.clone()), acknowledged };
                self.eased.insert((incident.source.clone(), part.clone()), eased);
            }
            // What was never meant to last has a cooldown of its own; what was planned is tried again when somebody likes.
            if outcome == Outcome::Unwound && !incident.purpose.is_planned() && parts.clone().any(Part::moves) {
                self.unwound = Some(stamp);
            }
        }
        let mut closed: Vec<(u64, IncidentId)> = self
            .incidents
            .values()
            .filter(|incident| incident.closed.is_some())
            .map(|incident| (incident.number, incident.id.clone()))
            .collect();
        closed.sort();
        let surplus = closed.len().saturating_sub(CLOSED_SHOWN);
        for (_, old) in closed.into_iter().take(surplus) {
            self.incidents.remove(&old);
        }
    }
}
