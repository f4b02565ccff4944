//! The invariants of the design, checked in the world and against the durable facts, after every call.
//!
//! An independent reading of the ledger: what the controller believes is not asked.

mod calls;
mod end;
mod leave;
mod roles;
mod shares;
mod truth;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::daemon::{Running, Work};
use super::world::{Promotion, World};
use crate::decide::{Fact, GuardKind, Outcome, Severity, Status, StepState, Task};
use crate::domain::{ComponentId, IncidentId, InstanceId, Kind, Level, Now, PlanId, Policy, RegionId, StepId};
use crate::domain::{Mode, time::human};
use crate::ledger::MemoryDisk;
use crate::plan::{Action, Part, Reversal, Step};

/// What was found to be wrong, and the state to find it with.
pub(super) struct Checks {
    policy: Policy,
    home: BTreeMap<ComponentId, RegionId>,
    /// By the ledger.
    placement: BTreeMap<ComponentId, RegionId>,
    databases: BTreeSet<ComponentId>,
    /// What only one region may serve.
    writers: Vec<ComponentId>,
    frames_read: usize,
    steps: BTreeMap<(PlanId, StepId), Known>,
    incidents: BTreeMap<IncidentId, Incident>,
    plans: BTreeMap<PlanId, IncidentId>,
    ordered: BTreeSet<IncidentId>,
    owed_attempts: BTreeSet<(InstanceId, u32)>,
    /// Databases whose unfenced promotion was recorded as an exception.
    excepted: BTreeSet<ComponentId>,
    /// Until when, by the wall of whoever paused it, and in the world.
    paused: Option<(jiff::Timestamp, Duration)>,
    halted: bool,
    unwinding: BTreeSet<(PlanId, Part)>,
    orders: BTreeSet<String>,
    /// Plans that wait for a person because a witness contradicts.
    contradicted: BTreeSet<PlanId>,
    /// The regions with an observer that others can hear and that can tell, and since when.
    voices: BTreeMap<RegionId, truth::Voice>,
    leave: leave::Leave,
    acting: roles::Acting,
    is_to_end: bool,
    epoch: u64,
    /// The highest epoch that a mutating call was made in.
    acting_epoch: u64,
    is_split: bool,
    shares: shares::Shares,
    pub(super) broken: Vec<String>,
}

/// What the ledger says of an incident.
struct Incident {
    source: RegionId,
    level: Level,
    parts: BTreeSet<Part>,
    outcome: Option<Outcome>,
    /// Nothing of it is lost, so nothing may be.
    is_planned: bool,
}

/// What the ledger says of a step.
struct Known {
    step: Step,
    after: BTreeSet<StepId>,
    parts: BTreeSet<Part>,
    /// A person accepted what the promotion loses.
    is_loss_accepted: bool,
    /// A person accepted that the old primary is not fenced.
    is_unfenced_accepted: bool,
    /// What it was said to lose at most.
    told: Option<Duration>,
    /// It was to lose nothing.
    is_lossless: bool,
    /// In which frame it was planned, and in which it started first.
    planned: usize,
    started: Option<usize>,
    /// A person wants it to be tried again, as things are.
    is_retried: bool,
    attempts: u32,
    put_back: u32,
    undo_attempts: u32,
    has_undo_failed: bool,
    is_settled: bool,
    is_undone: bool,
    is_committed: bool,
}

impl Known {
    /// It moves a share of the traffic.
    fn is_share(&self) -> bool {
        self.step.is_share()
    }
}

impl Checks {
    pub(super) fn new(policy: &Policy) -> Self {
        let primary = policy.primary();
        Self {
            policy: policy.clone(),
            home: policy
                .components
                .iter()
                .filter(|(_, c)| c.kind.has_a_place())
                .filter_map(|(id, c)| primary.filter(|p| c.regions.contains(*p)).map(|p| (id.clone(), p.clone())))
                .collect(),
            placement: BTreeMap::new(),
            databases: policy.of_kind(Kind::Database).map(|(id, _)| id.clone()).collect(),
            writers: [Kind::Database, Kind::Cache]
                .into_iter()
                .flat_map(|kind| policy.of_kind(kind).map(|(id, _)| id.clone()))
                .collect(),
            frames_read: 0,
            steps: BTreeMap::new(),
            incidents: BTreeMap::new(),
            plans: BTreeMap::new(),
            ordered: BTreeSet::new(),
            owed_attempts: BTreeSet::new(),
            excepted: BTreeSet::new(),
            paused: None,
            halted: false,
            unwinding: BTreeSet::new(),
            orders: BTreeSet::new(),
            contradicted: BTreeSet::new(),
            voices: BTreeMap::new(),
            leave: leave::Leave::default(),
            acting: roles::Acting::default(),
            is_to_end: false,
            epoch: 0,
            acting_epoch: 0,
            is_split: false,
            shares: shares::Shares::default(),
            broken: Vec::new(),
        }
    }

    /// Everything in the primary region.
    pub(super) fn home(&self) -> BTreeMap<ComponentId, RegionId> {
        self.home.clone()
    }

    /// Takes in what has become durable.
    pub(super) fn read(&mut self, disk: &MemoryDisk, world: &World, now: Duration) -> Vec<String> {
        let mut found = Vec::new();
        let frames = disk.frames_from(self.frames_read);
        for frame in &frames {
            if frame.epoch < self.epoch {
                found.push(format!("frame {} has epoch {} after epoch {}", frame.index, frame.epoch, self.epoch));
            }
            self.epoch = frame.epoch;
            // What a witness inside the region contradicts is for a person: until then it is no decision.
            let asked = frame.facts.iter().filter_map(|fact| {
                let Fact::ApprovalRequested { plan, guards, .. } = fact else { return None };
                guards.iter().any(|guard| guard.kind == GuardKind::Witness).then_some(plan)
            });
            self.contradicted.extend(asked.cloned());
            for fact in &frame.facts {
                self.follow_shares(fact, world, now, &mut found);
                self.take(fact, frame.at, now, &mut found);
                self.judge(fact, world, now, &mut found);
                self.weigh_leave(fact, world, now, &mut found);
            }
            self.frames_read += 1;
        }
        found
    }

    fn take(&mut self, fact: &Fact, at: Now, now: Duration, found: &mut Vec<String>) {
        match fact {
            Fact::IncidentDeclared { incident, ordered_by, source, level, purpose, .. } => {
                let new = Incident {
                    source: source.clone(),
                    level: *level,
                    parts: BTreeSet::new(),
                    outcome: None,
                    is_planned: purpose.is_planned(),
                };
                if self.incidents.insert(incident.clone(), new).is_some() {
                    found.push(format!("{incident} was declared twice"));
                }
                if ordered_by.is_some() {
                    self.ordered.insert(incident.clone());
                }
            }
            Fact::PlanMade { incident, plan, part, steps } => {
                self.plans.insert(plan.clone(), incident.clone());
                self.join(plan, part);
                self.learn(plan, part, steps, found);
            }
            Fact::PlanGrown { plan, part, steps, shares, ordered_by, .. } => {
                if ordered_by.is_some()
                    && let Some(incident) = self.plans.get(plan)
                {
                    self.ordered.insert(incident.clone());
                }
                self.join(plan, part);
                self.learn(plan, part, steps, found);
                for (step, after) in shares {
                    if let Some(known) = self.steps.get_mut(&(plan.clone(), step.clone())) {
                        // Nobody needed it any more: what began meanwhile did not have to wait for it.
                        if known.parts.is_empty() {
                            known.planned = self.frames_read;
                        }
                        known.parts.insert(part.clone());
                        known.is_settled = known.is_settled && !known.is_undone;
                        if known.attempts == 0 {
                            known.after.extend(after.iter().filter(|id| *id != step).cloned());
                        }
                    }
                }
                self.mended(plan, found);
            }
            Fact::Approved { plan, .. } => {
                if self.contradicted.remove(plan)
                    && let Some(incident) = self.plans.get(plan)
                {
                    self.ordered.insert(incident.clone());
                }
            }
            Fact::CommitPointPassed { plan, step, exceptions, loss, lossless } => {
                if let Some(known) = self.steps.get_mut(&(plan.clone(), step.clone())) {
                    (known.is_committed, known.told, known.is_lossless) = (true, *loss, *lossless);
                    known.is_loss_accepted = exceptions.iter().any(|exception| exception.contains("loss"));
                    known.is_unfenced_accepted = exceptions.iter().any(|exception| exception.contains("accepted by"));
                    if let (Action::DatabasePromoted { database, .. }, false) =
                        (&known.step.action, exceptions.is_empty())
                    {
                        self.excepted.insert(database.component.clone());
                    }
                }
            }
            Fact::StepStarted { plan, step, attempt, .. } => {
                let frame = self.frames_read;
                self.edit(plan, step, |known| {
                    known.started.get_or_insert(frame);
                    known.attempts = *attempt;
                    known.is_undone = false;
                });
            }
            Fact::UndoStarted { plan, step, attempt } => self.edit(plan, step, |known| {
                known.undo_attempts = *attempt;
                known.has_undo_failed = false;
            }),
            Fact::UndoFailed { plan, step, .. } => self.edit(plan, step, |known| known.has_undo_failed = true),
            Fact::StepDone { plan, step, .. }
            | Fact::StepOwed { plan, step, .. }
            | Fact::StepCancelled { plan, step } => self.edit(plan, step, |known| known.is_settled = true),
            // Nothing of this attempt was sent. What an earlier one sent cannot be judged away.
            Fact::StepPutBack { plan, step, untouched, .. } => self.edit(plan, step, |known| {
                known.is_settled = false;
                known.put_back = if *untouched { known.attempts } else { known.put_back + 1 };
                known.is_committed &= known.attempts > known.put_back;
            }),
            Fact::OrderTaken { request, .. } => {
                if !self.orders.insert(request.clone()) {
                    found.push(format!("{request} of a person was carried out twice"));
                }
            }
            // A person says that it is so.
            Fact::StepSkipped { plan, step, .. } => {
                self.take_a_persons_word(now);
                self.edit(plan, step, |known| known.is_settled = true);
            }
            Fact::StepUndone { plan, step, .. } => self.edit(plan, step, |known| {
                known.is_settled = true;
                known.is_undone = true;
                known.started = None;
            }),
            Fact::RetryOrdered { plan, step, by } => {
                let is_retried = !by.starts_with("failoverd");
                self.edit(plan, step, |known| known.is_retried |= is_retried);
            }
            Fact::OwedFenceStarted { database, attempt } => {
                self.owed_attempts.insert((database.clone(), *attempt));
            }
            Fact::OwedFenceSettled { database, .. } => {
                self.excepted.remove(&database.component);
            }
            Fact::Paused { until, .. } => {
                let lasts = Duration::try_from(until.duration_since(at.wall)).unwrap_or_default();
                self.paused = Some((*until, now + lasts));
            }
            Fact::Resumed { .. } => self.paused = None,
            Fact::Halted { .. } => self.halted = true,
            Fact::PlacementAdopted { placement, .. } => {
                self.take_a_persons_word(now);
                self.halted = false;
                self.placement.clone_from(placement);
            }
            Fact::BreakGlassBegan { .. } => {}
            Fact::BreakGlassMerged { record, .. } => self.placement.extend(record.placement.clone()),
            Fact::PlacementChanged { component, region } => {
                self.placement.insert(component.clone(), region.clone());
            }
            Fact::PlannedMoveOvertaken { incident, .. } => {
                if let Some(incident) = self.incidents.get_mut(incident) {
                    incident.is_planned = false;
                }
                // Nothing waits for the last writes of what is lost, nor for shares of the clients.
                let plans = self.plans.iter().filter(|(_, of)| *of == incident).map(|(plan, _)| plan.clone());
                let plans: BTreeSet<PlanId> = plans.collect();
                let given_up = self.steps.iter_mut().filter(|((plan, _), known)| {
                    plans.contains(plan) && (known.is_share() || known.step.action.waits_for().is_some())
                });
                given_up.for_each(|(_, known)| known.is_settled = true);
            }
            Fact::IncidentEscalated { incident, level, .. } => {
                if let Some(incident) = self.incidents.get_mut(incident) {
                    incident.level = *level;
                }
            }
            Fact::IncidentClosed { incident, outcome } => {
                if let Some(incident) = self.incidents.get_mut(incident) {
                    incident.outcome = Some(*outcome);
                }
            }
            Fact::UnwindingStarted { plan, part, .. } => {
                self.unwinding.insert((plan.clone(), part.clone()));
            }
            Fact::PartUnwound { plan, part } => {
                let of_plan = self.steps.iter_mut().filter(|((of, _), _)| of == plan);
                for (_, known) in of_plan {
                    known.parts.remove(part);
                }
                self.unwinding.remove(&(plan.clone(), part.clone()));
            }
            Fact::LedgerCreated { .. }
            | Fact::EpochStarted { .. }
            | Fact::TakeoverCompleted { .. }
            | Fact::RegionRevoked { .. }
            | Fact::RolesReturned { .. }
            | Fact::CheckFailed { .. }
            | Fact::CheckHolds { .. }
            | Fact::RecoveryPointReached { .. }
            | Fact::DivergenceFound { .. }
            | Fact::GuardiansChanged { .. }
            | Fact::StepHandedOver { .. }
            | Fact::SeenAlive { .. }
            | Fact::SuspicionRaised { .. }
            | Fact::SuspicionCleared { .. }
            | Fact::ApprovalRequested { .. }
            | Fact::StepFailed { .. }
            | Fact::ShareTakenBack { .. }
            | Fact::StageContinued { .. }
            | Fact::Withheld { .. }
            | Fact::PlanStuck { .. }
            | Fact::Held { .. }
            | Fact::Released { .. }
            | Fact::Acknowledged { .. } => {}
        }
    }

    fn incident_of(&self, plan: &PlanId) -> Option<&Incident> {
        self.incidents.get(self.plans.get(plan)?)
    }

    fn is_ordered(&self, plan: &PlanId) -> bool {
        self.plans.get(plan).is_some_and(|incident| self.ordered.contains(incident))
    }

    fn join(&mut self, plan: &PlanId, part: &Part) {
        if let Some(incident) = self.plans.get(plan).and_then(|incident| self.incidents.get_mut(incident)) {
            incident.parts.insert(part.clone());
        }
    }

    fn learn(&mut self, plan: &PlanId, part: &Part, steps: &[Step], found: &mut Vec<String>) {
        for step in steps {
            if step.part == Part::Reroute
                && (step.commit_point || !step.places.is_empty() || step.action.reversal() == Reversal::Impossible)
            {
                found.push(format!("{plan}/{} cannot be taken back, and eases a degradation", step.id));
            }
            let is_healing = matches!(step.part, Part::Healing { .. } | Part::Zone { .. });
            if is_healing && !step.places.is_empty() {
                found.push(format!("{plan}/{} heals in place, and moves something", step.id));
            }
            let known = Known {
                step: step.clone(),
                after: step.after.clone(),
                parts: BTreeSet::from([part.clone()]),
                is_loss_accepted: false,
                is_unfenced_accepted: false,
                told: None,
                is_lossless: false,
                planned: self.frames_read,
                started: None,
                is_retried: false,
                attempts: 0,
                put_back: 0,
                undo_attempts: 0,
                has_undo_failed: false,
                is_settled: false,
                is_undone: false,
                is_committed: false,
            };
            if self.steps.insert((plan.clone(), step.id.clone()), known).is_some() {
                found.push(format!("{plan}/{} was planned twice", step.id));
            }
        }
    }

    /// What moves does not wait for what is only mended where it is, and nothing is restarted twice to mend it.
    fn mended(&self, plan: &PlanId, found: &mut Vec<String>) {
        let of_plan = || self.steps.iter().filter(|((of, _), _)| of == plan);
        let mends = |id: &StepId| {
            let known = self.steps.get(&(plan.clone(), id.clone()));
            known.is_some_and(|known| matches!(known.step.part, Part::Healing { .. } | Part::Zone { .. }))
        };
        for ((_, id), known) in of_plan().filter(|(_, known)| known.step.part.moves()) {
            if let Some(before) = known.after.iter().find(|before| mends(before)) {
                found.push(format!("{plan}/{id} waits for {before}, which only mends"));
            }
        }
        let mut restarted = BTreeSet::new();
        for ((_, id), known) in of_plan().filter(|((_, id), _)| mends(id)) {
            if let Action::RolledOut { cluster, workload, .. } = &known.step.action
                && !restarted.insert((cluster, workload))
            {
                found.push(format!("{plan}/{id} restarts {workload} of {cluster} a second time"));
            }
        }
    }

    fn edit(&mut self, plan: &PlanId, step: &StepId, edit: impl FnOnce(&mut Known)) {
        if let Some(known) = self.steps.get_mut(&(plan.clone(), step.clone())) {
            edit(known);
        }
    }

    /// An effect is about to be performed: is its fact durable, and may it be?
    pub(super) fn starts(&self, running: &Running, now: Now, world_now: Duration) -> Vec<String> {
        let mut found = Vec::new();
        let key = running.key();
        match &running.work {
            Work::Perform(task) => self.starts_step(task, &mut found),
            Work::Undo { task, .. } => match self.known(task) {
                Some(known) if known.undo_attempts == task.attempt => {}
                Some(_) | None => found.push(format!("{key}: undone without a durable fact")),
            },
            Work::Fence { database, attempt, .. } => {
                if !self.owed_attempts.contains(&(database.clone(), *attempt)) {
                    found.push(format!("{database}: owed fence without a durable fact"));
                }
                return found;
            }
        }
        if self.policy.mode == Mode::Observe && self.ordered.is_empty() {
            found.push(format!("{key}: performed in mode observe"));
        }
        if self.halted {
            found.push(format!("{key}: performed while halted"));
        }
        if self.paused.is_some_and(|(until, ends)| until > now.wall && ends > world_now) {
            found.push(format!("{key}: started while paused"));
        }
        found
    }

    fn known(&self, task: &Task) -> Option<&Known> {
        self.steps.get(&(task.plan.clone(), task.step.clone()))
    }

    fn starts_step(&self, task: &Task, found: &mut Vec<String>) {
        let key = task.key();
        let Some(known) = self.known(task) else {
            return found.push(format!("{key}: performed, and not in any durable plan"));
        };
        if known.attempts != task.attempt {
            found.push(format!("{key}: attempt {} performed without a durable fact", task.attempt));
        }
        if !calls::is_same_goal(&known.step.action, &task.action) {
            found.push(format!("{key}: performs `{}` where the plan says `{}`", task.action, known.step.action));
        }
        if known.step.commit_point && !known.is_committed {
            found.push(format!("{key}: performed without passing its commit point"));
        }
        for id in &known.after {
            // What nobody needs any more is waited for by nobody.
            let before = self.steps.get(&(task.plan.clone(), id.clone()));
            let is_unwinding = |part: &Part| self.unwinding.contains(&(task.plan.clone(), part.clone()));
            let settled = before.is_some_and(|before| before.is_settled || before.parts.iter().all(is_unwinding));
            // What has begun goes on, also where another part needs by now what nobody needed when it began.
            if !settled && task.attempt == 1 {
                found.push(format!("{key}: performed before {id}"));
            }
        }
    }

    /// Never two databases that accept writes, unless that was allowed and recorded.
    pub(super) fn world(&mut self, disk: &MemoryDisk, world: &World, now: Duration) -> Vec<String> {
        let mut found = self.read(disk, world, now);
        found.extend(self.look_at_clients(world));
        found.extend(self.shared_roles(now));
        let writable = world.writable(now);
        let mut is_split = false;
        for component in &self.databases {
            let both: Vec<&InstanceId> = writable.iter().filter(|id| id.component == *component).collect();
            if both.len() > 1 {
                is_split = true;
                if !self.is_split && !self.excepted.contains(component) {
                    found.push(format!("{} accept writes at the same time", joined(&both)));
                }
            }
        }
        self.is_split = is_split;
        found
    }

    /// Everything is well again and somebody helps: what is open now has to end.
    pub(super) fn expect_an_end(&mut self) {
        self.is_to_end = true;
    }

    /// Whether every incident has ended.
    pub(super) fn is_over(&self) -> bool {
        self.incidents.values().all(|incident| incident.outcome.is_some())
    }
}

fn plan_of(key: &str) -> &str {
    key.split_once('/').map_or(key, |(plan, _)| plan)
}

/// The key without what a deliberate bug adds to it.
fn unsalted(key: &str) -> &str {
    key.rsplit_once("--run-").map_or(key, |(key, _)| key)
}

fn joined(ids: &[&InstanceId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}
