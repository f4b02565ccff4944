//! Performs what the controller asks for: every step a task of its own, every end of it an input.
//!
//! Deliberately without policy: what is performed, when, and what follows is decided elsewhere. Two things are its
//! own. Work on one step is never done twice at a time: a new attempt waits until the former one has ended. And a
//! panic is the failure of that one step: recorded, counted, never silent.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::ensure::{Ensure, Stopped};
use super::gate::{Closed, Gate, Permits};
use super::supervise::panic_message;
use crate::decide::{Input, Measure, Measured, StepOutcome, Task};
use crate::domain::time::human;
use crate::domain::{InstanceId, LedgerId, PlanId, RegionId, StepId};
use crate::plan::Action;
use crate::ports::{Actuator, Claim, Claims, Clock, Look, Losses, Permit, Setback, Term, Watermarks};
use crate::telemetry;

/// Looks that are under way at the same time; more wait. A plan has a few dozen steps.
const LOOKS_MAX: usize = 32;
/// A look that takes longer says nothing about the world any more.
const LOOK_MAX: Duration = Duration::from_secs(30);
/// The claims of all clusters, read or written.
const CLAIMS_MAX: Duration = Duration::from_secs(60);

/// Where effects come about. Replaced as a whole when the configuration is read again.
#[derive(Clone)]
pub struct World {
    /// Brings actions about.
    pub actuator: Arc<dyn Actuator>,
    /// Who is in charge of the clusters.
    pub claims: Arc<dyn Claims>,
    /// What promotions lost.
    pub losses: Arc<dyn Losses>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

/// Starts tasks and cancels them. Owned by the event loop; no method waits.
#[derive(Debug)]
pub struct Executor {
    shared: Arc<Shared>,
    world: World,
    running: BTreeMap<String, Running>,
    tracker: TaskTracker,
}

#[derive(Debug)]
struct Running {
    cancel: CancellationToken,
    /// Fires when the task has ended, however it ended.
    ended: CancellationToken,
}

struct Shared {
    gate: Arc<Gate>,
    permits: Permits,
    clock: Arc<dyn Clock>,
    call_timeout: Duration,
    holder: String,
    outcomes: mpsc::Sender<Input>,
    looks: Semaphore,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("holder", &self.holder).finish_non_exhaustive()
    }
}

/// What an executor is made of.
pub struct Parts {
    /// Looked at before every mutating call.
    pub gate: Arc<Gate>,
    /// More time for long steps.
    pub permits: Permits,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The longest single mutating call.
    pub call_timeout: Duration,
    /// Written into claims, for people.
    pub holder: String,
    /// Where the ends of tasks go.
    pub outcomes: mpsc::Sender<Input>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("holder", &self.holder).finish_non_exhaustive()
    }
}

impl Executor {
    /// Nothing runs yet.
    pub fn new(world: World, parts: Parts) -> Self {
        let Parts { gate, permits, clock, call_timeout, holder, outcomes } = parts;
        let looks = Semaphore::new(LOOKS_MAX);
        let shared = Shared { gate, permits, clock, call_timeout, holder, outcomes, looks };
        Self { shared: Arc::new(shared), world, running: BTreeMap::new(), tracker: TaskTracker::new() }
    }

    /// From now on, effects come about there. What runs goes on where it began.
    pub fn replace_world(&mut self, world: World) {
        self.world = world;
    }

    /// Brings a step's goal about; ends with `Finished`.
    pub fn perform(&mut self, task: Task, permit: Permit) {
        let (shared, world) = (self.shared.clone(), self.world.clone());
        let slot = self.slot(task.key());
        self.spawn(async move { shared.perform(&world, &task, permit, slot).await });
    }

    /// Brings a step's former state back; ends with `UndoFinished`.
    pub fn undo(&mut self, task: Task, previous: serde_json::Value, permit: Permit) {
        let (shared, world) = (self.shared.clone(), self.world.clone());
        let slot = self.slot(task.key());
        self.spawn(async move { shared.undo(&world, &task, &previous, permit, slot).await });
    }

    /// Fences an old primary that came back; ends with `OwedFenceFinished`.
    pub fn fence_owed(&mut self, database: InstanceId, key: String, attempt: u32, deadline: Duration, permit: Permit) {
        let (shared, world) = (self.shared.clone(), self.world.clone());
        let slot = self.slot(key.clone());
        let fence = OwedFence { database, key, attempt, deadline };
        self.spawn(async move { shared.fence_owed(&world, fence, permit, slot).await });
    }

    /// Puts the claim into the clusters; ends with `Surveyed`.
    pub fn claim(&mut self, ledger: LedgerId, term: Term, replace: bool, permit: Permit) {
        let (shared, world) = (self.shared.clone(), self.world.clone());
        let claim = Claim { ledger, term: Some(term), holder: self.shared.holder.clone() };
        self.spawn(async move { shared.claim(&world, &claim, replace, &permit).await });
    }

    /// Looks at a step's world; ends with `Looked`.
    pub fn look(&mut self, plan: PlanId, step: StepId, action: Action) {
        let (shared, world) = (self.shared.clone(), self.world.clone());
        self.spawn_harmless(async move { shared.look(&world, plan, step, &action).await });
    }

    /// Reads the claims; ends with `Surveyed`.
    pub fn survey(&mut self) {
        let (shared, world) = (self.shared.clone(), self.world.clone());
        self.spawn_harmless(async move { shared.survey(&world).await });
    }

    /// Runs a check of the end state, once; ends with `Verified`.
    pub fn verify(&mut self, check: String, expects: String, region: RegionId, deadline: Duration) {
        let (shared, world) = (self.shared.clone(), self.world.clone());
        self.spawn_harmless(async move { shared.verify(&world, check, expects, region, deadline).await });
    }

    /// Asks a database what came over, or what it holds beyond that; ends with `Measured`.
    pub fn measure(&mut self, measure: Measure, watermarks: Watermarks, deadline: Duration) {
        let (shared, world) = (self.shared.clone(), self.world.clone());
        self.spawn_harmless(async move { shared.measure(&world, measure, watermarks, deadline).await });
    }

    /// Reads the claims although nobody asked; ends with `ClaimsSeen`.
    pub fn watch_claims(&mut self) {
        let (shared, world) = (self.shared.clone(), self.world.clone());
        self.spawn_harmless(async move {
            let (asked, claims) = shared.read_claims(&world).await;
            Some(Input::ClaimsSeen { asked, claims })
        });
    }

    /// Stops work on a step as soon as no mutating call is under way.
    pub fn cancel(&mut self, plan: &PlanId, step: &StepId) {
        if let Some(running) = self.running.get(&format!("{plan}/{step}")) {
            running.cancel.cancel();
        }
    }

    /// Stops everything between two calls: whatever it was for, another daemon decides now.
    pub fn cancel_all(&mut self) {
        for running in self.running.values() {
            running.cancel.cancel();
        }
    }

    /// How many tasks have not ended.
    pub fn under_way(&self) -> usize {
        self.tracker.len()
    }

    /// Ends when every task has.
    pub fn idle(&self) -> impl Future<Output = ()> + Send + 'static {
        self.tracker.close();
        let tracker = self.tracker.clone();
        async move { tracker.wait().await }
    }

    /// The place of the next task on `key`: it starts when the former one has ended.
    fn slot(&mut self, key: String) -> Slot {
        self.running.retain(|_, running| !running.ended.is_cancelled());
        let (cancel, ended) = (CancellationToken::new(), CancellationToken::new());
        let running = Running { cancel: cancel.clone(), ended: ended.clone() };
        let former = self.running.insert(key, running).map(|former| {
            former.cancel.cancel();
            former.ended
        });
        Slot { former, cancel, ended: ended.drop_guard() }
    }

    /// The same for work that changes nothing: it is given up at once when the daemon ends.
    fn spawn_harmless(&self, task: impl Future<Output = Option<Input>> + Send + 'static) {
        let gate = self.shared.gate.clone();
        self.spawn(async move {
            tokio::select! {
                biased;
                () = gate.draining().cancelled() => None,
                input = task => input,
            }
        });
    }

    fn spawn(&self, task: impl Future<Output = Option<Input>> + Send + 'static) {
        let outcomes = self.shared.outcomes.clone();
        self.tracker.spawn(async move {
            if let Some(input) = task.await {
                // Nobody listens any more only when the daemon ends.
                let _ = outcomes.send(input).await;
            }
        });
    }
}

struct Slot {
    former: Option<CancellationToken>,
    cancel: CancellationToken,
    /// Fires `ended` when it is dropped.
    ended: DropGuard,
}

struct OwedFence {
    database: InstanceId,
    key: String,
    attempt: u32,
    deadline: Duration,
}

impl Shared {
    async fn perform(self: &Arc<Self>, world: &World, task: &Task, permit: Permit, slot: Slot) -> Option<Input> {
        let began = self.clock.now().monotonic;
        let Slot { former, cancel, ended } = slot;
        let key = task.key();
        let progress = |note: &str| self.progress(&task.plan, &task.step, note);
        let attempt = async {
            self.after(former, &cancel).await?;
            self.ensure(world, &key, &task.action, task.deadline, &cancel, &progress).reach(permit).await
        };
        let outcome = match guarded("executor", attempt).await {
            Ok(reached) => StepOutcome::Reached { note: reached.note, acted: reached.acted },
            Err(Stopped::Failed(why)) => StepOutcome::Failed { why },
            Err(Stopped::OutOfReach(why)) => StepOutcome::OutOfReach { why },
            Err(Stopped::Cancelled) => StepOutcome::Cancelled,
            Err(Stopped::NotBegun { why, stop_file }) => StepOutcome::NotBegun { why, stop_file },
            Err(Stopped::TooLate { why, acted }) => StepOutcome::TooLate { why, acted },
            Err(Stopped::Interrupted) => return None,
        };
        drop(ended);
        let label = match &outcome {
            StepOutcome::Reached { .. } => "reached",
            StepOutcome::Failed { .. } | StepOutcome::OutOfReach { .. } => "failed",
            StepOutcome::Cancelled => "cancelled",
            StepOutcome::NotBegun { .. } | StepOutcome::TooLate { .. } => "not_begun",
        };
        telemetry::step_ended(&task.action, label, self.clock.now().monotonic.saturating_sub(began));
        Some(Input::Finished { plan: task.plan.clone(), step: task.step.clone(), attempt: task.attempt, outcome })
    }

    async fn undo(
        self: &Arc<Self>,
        world: &World,
        task: &Task,
        previous: &serde_json::Value,
        permit: Permit,
        slot: Slot,
    ) -> Option<Input> {
        let began = self.clock.now().monotonic;
        let Slot { former, cancel, ended } = slot;
        let key = task.key();
        let progress = |note: &str| self.progress(&task.plan, &task.step, note);
        let attempt = async {
            self.after(former, &cancel).await?;
            self.ensure(world, &key, &task.action, task.deadline, &cancel, &progress).undo(previous, permit).await
        };
        let outcome = told(guarded("executor", attempt).await)?;
        drop(ended);
        let label = if outcome.is_ok() { "undone" } else { "undo_failed" };
        telemetry::step_ended(&task.action, label, self.clock.now().monotonic.saturating_sub(began));
        Some(Input::UndoFinished { plan: task.plan.clone(), step: task.step.clone(), attempt: task.attempt, outcome })
    }

    async fn fence_owed(
        self: &Arc<Self>,
        world: &World,
        fence: OwedFence,
        permit: Permit,
        slot: Slot,
    ) -> Option<Input> {
        let Slot { former, cancel, ended } = slot;
        let action = Action::Fenced { database: fence.database.clone() };
        let progress = |note: &str| tracing::info!(key = fence.key, "{note}");
        let attempt = async {
            self.after(former, &cancel).await?;
            self.ensure(world, &fence.key, &action, fence.deadline, &cancel, &progress).reach(permit).await
        };
        let outcome = told(guarded("executor", attempt).await.map(|reached| reached.note))?;
        drop(ended);
        Some(Input::OwedFenceFinished { database: fence.database, attempt: fence.attempt, outcome })
    }

    async fn claim(&self, world: &World, claim: &Claim, replace: bool, permit: &Permit) -> Option<Input> {
        let claiming = async {
            let permit = match self.gate.pass_with("claim", permit, self.call_timeout, false, &self.permits).await {
                Ok(permit) => permit,
                Err(Closed::Draining) => return,
                Err(closed) => return tracing::warn!("the clusters are not claimed: {closed}"),
            };
            match world.claims.ensure(claim, replace, &permit).await {
                Ok(note) => tracing::info!("claimed: {note}"),
                Err(setback) => tracing::warn!("the clusters are not claimed: {setback}"),
            }
        };
        if tokio::time::timeout(CLAIMS_MAX, caught("claim", claiming)).await.is_err() {
            tracing::warn!("the clusters are not claimed: no answer within {CLAIMS_MAX:?}");
        }
        self.survey(world).await
    }

    async fn survey(&self, world: &World) -> Option<Input> {
        let (asked, claims) = self.read_claims(world).await;
        Some(Input::Surveyed { asked, claims })
    }

    /// The claims, and when they were asked for.
    async fn read_claims(&self, world: &World) -> (Duration, BTreeMap<RegionId, Option<Claim>>) {
        let asked = self.clock.now().monotonic;
        let claims = tokio::time::timeout(CLAIMS_MAX, caught("survey", world.claims.claims())).await;
        // No answer, or a panic: no cluster could be reached.
        (asked, claims.ok().and_then(Result::ok).unwrap_or_default())
    }

    async fn look(&self, world: &World, plan: PlanId, step: StepId, action: &Action) -> Option<Input> {
        // Closed never; were it, the look would merely not be counted.
        let _turn = self.looks.acquire().await;
        let key = format!("{plan}/{step}");
        let look = tokio::time::timeout(LOOK_MAX, caught("look", world.actuator.look(&key, action))).await;
        let result: Result<Look, Setback> = match look {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(Setback::Transient(panic)),
            Err(_elapsed) => Err(Setback::Transient(format!("no answer within {LOOK_MAX:?}"))),
        };
        Some(Input::Looked { plan, step, result })
    }

    async fn verify(
        &self,
        world: &World,
        check: String,
        expects: String,
        region: RegionId,
        deadline: Duration,
    ) -> Option<Input> {
        // Closed never; were it, the check would merely not be counted.
        let _turn = self.looks.acquire().await;
        let action = Action::Verified { check: check.clone(), expects, region: region.clone() };
        let key = format!("check/{check}");
        let ran = tokio::time::timeout(deadline, caught("check", world.actuator.verify(&key, &action))).await;
        let result = match ran {
            Ok(Ok(result)) => result.map_err(|setback| setback.to_string()),
            Ok(Err(panic)) => Err(panic),
            Err(_elapsed) => Err(format!("no answer within {}", human(deadline))),
        };
        Some(Input::Verified { check, region, result })
    }

    async fn measure(
        &self,
        world: &World,
        measure: Measure,
        watermarks: Watermarks,
        deadline: Duration,
    ) -> Option<Input> {
        // Closed never; were it, the question would merely not be counted.
        let _turn = self.looks.acquire().await;
        let asked = async {
            match &measure {
                Measure::RecoveryPoint { database } => {
                    world.losses.recovery_point(database).await.map(Measured::RecoveryPoint)
                }
                Measure::Divergence { database } => {
                    world.losses.divergence(database, &watermarks).await.map(Measured::Divergence)
                }
            }
        };
        let answer = match tokio::time::timeout(deadline, caught("measure", asked)).await {
            Ok(Ok(answer)) => answer.map_err(|setback| setback.to_string()),
            Ok(Err(panic)) => Err(panic),
            Err(_elapsed) => Err(format!("no answer within {}", human(deadline))),
        };
        if let Err(why) = &answer {
            warn!("{measure:?} is not known yet: {why}");
        }
        Some(Input::Measured { measure, answer })
    }

    /// Waits until the former task on the same key has ended; it was told to.
    async fn after(&self, former: Option<CancellationToken>, cancel: &CancellationToken) -> Result<(), Stopped> {
        let Some(former) = former else { return Ok(()) };
        tokio::select! {
            biased;
            () = self.gate.draining().cancelled() => Err(Stopped::Interrupted),
            () = cancel.cancelled() => Err(Stopped::Cancelled),
            () = former.cancelled() => Ok(()),
        }
    }

    fn ensure<'a>(
        &'a self,
        world: &'a World,
        key: &'a str,
        action: &'a Action,
        deadline: Duration,
        cancel: &'a CancellationToken,
        progress: &'a (dyn Fn(&str) + Send + Sync),
    ) -> Ensure<'a> {
        Ensure {
            key,
            action,
            actuator: &*world.actuator,
            gate: &self.gate,
            permits: &self.permits,
            call_timeout: self.call_timeout,
            clock: self.clock.clone(),
            deadline,
            cancel,
            progress,
        }
    }

    /// For people only: dropped where the event loop is busy.
    fn progress(&self, plan: &PlanId, step: &StepId, note: &str) {
        let input = Input::Progressed { plan: plan.clone(), step: step.clone(), note: note.to_owned() };
        let _ = self.outcomes.try_send(input);
    }
}

/// What an undo or an owed fence reports; nothing where the daemon ends.
fn told(end: Result<String, Stopped>) -> Option<Result<String, String>> {
    match end {
        Ok(note) => Some(Ok(note)),
        Err(
            Stopped::Failed(why)
            | Stopped::OutOfReach(why)
            | Stopped::NotBegun { why, .. }
            | Stopped::TooLate { why, .. },
        ) => Some(Err(why)),
        Err(Stopped::Cancelled) => Some(Err("cancelled".to_owned())),
        Err(Stopped::Interrupted) => None,
    }
}

/// A panic in an attempt is its failure.
async fn guarded<T>(task: &'static str, attempt: impl Future<Output = Result<T, Stopped>>) -> Result<T, Stopped> {
    match caught(task, attempt).await {
        Ok(end) => end,
        Err(panic) => Err(Stopped::Failed(panic)),
    }
}

async fn caught<T>(task: &'static str, work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| {
        telemetry::panicked(task);
        format!("it panicked, which is a bug: {}; what it did until then is not known", panic_message(&*panic))
    })
}
