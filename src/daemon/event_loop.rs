//! The one owner of the controller: inputs in, facts to the ledger, effects out, in that order.
//!
//! Nothing in it waits for anybody. An append is a future that is polled beside everything else, and while it is open
//! inputs go on being taken in. There is no polling: the loop wakes up for an input, for a request, for the end of an
//! append, for the controller's next deadline, and once a second to show that it lives.

mod clocks;
mod council;
mod people;
mod requests;
mod unrecorded;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::executor::Executor;
use super::gate::{Closed, Gate, Renewal};
use super::handle::{Answer, Board, Request};
use super::keepsake::Keepsake;
use super::memory::Diary;
use super::notices::Notices;
use super::prober::Sighting;
use super::pulse::Pulse;
use super::seat::News;
use super::supervise::panic_message;
use crate::decide::{Alarm, Controller, Decision, Effect, Fact, Frame, Input, Severity, Status};
use crate::domain::{Now, PlanId, StepId};
use crate::ports::{AppendError, Clock, Durable, Lease, Ledger};
use crate::telemetry::{self, Meters};
pub use council::Council;

/// Inputs taken in before the rest of the world gets a turn. A step takes microseconds.
const INPUTS_AT_ONCE: usize = 256;
/// A deadline that stays in the past is not tried more often than this: tokio's timers are no finer.
const DEADLINE_AGAIN: Duration = Duration::from_millis(1);
/// The same where nothing can be recorded and a decision is as good a second later.
const DEADLINE_AGAIN_HALTED: Duration = Duration::from_millis(500);
/// Who claims the clusters is read this often although nothing is done: one object of each. A copy of this ledger that
/// took over, or a person's break-glass, is to be noticed before it counts.
const CLAIMS_EVERY: Duration = Duration::from_secs(15);
/// A step's progress is logged no more often than this; the status has every word of it.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// A controller that panics this often is beyond help; the supervisor above starts the process anew.
const PANICS_MAX: u32 = 20;

/// What the loop works with.
pub struct Parts {
    /// Decides.
    pub controller: Controller,
    /// The record, and the right to write to it; none where it is damaged and the daemon runs halted.
    pub ledger: Option<(Arc<dyn Ledger>, Lease)>,
    /// Where the ledger is shared with other daemons: who leads is decided there.
    pub council: Option<Council>,
    /// Index of the next frame.
    pub next_index: u64,
    /// How long a permit lasts after its facts were decided.
    pub permit: Duration,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Performs effects.
    pub executor: Executor,
    /// Closed when something breaks.
    pub gate: Arc<Gate>,
    /// What others can see without asking.
    pub board: Arc<Board>,
    /// Observations. Bounded: a schedule waits where it is full.
    pub observations: mpsc::Receiver<Sighting>,
    /// Ends of steps, of looks, of surveys.
    pub outcomes: mpsc::Receiver<Input>,
    /// What the API asks.
    pub requests: mpsc::Receiver<Request>,
    /// What the executor asks.
    pub renewals: mpsc::Receiver<Renewal>,
    /// Tells people.
    pub notices: Notices,
    /// Shows that the loop lives.
    pub pulse: Pulse,
    /// Nobody guards a database beside this daemon any more: it may end.
    pub released: CancellationToken,
    /// Meters of the probes.
    pub meters: Meters,
    /// Where to keep what somebody has to know who goes on without a ledger that is shared.
    pub keepsake: Option<PathBuf>,
    /// Where to keep what the next run of this daemon has to know.
    pub diary: Option<PathBuf>,
    /// Alarms that were found before the loop began.
    pub alarms: Vec<Alarm>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("next_index", &self.next_index).finish_non_exhaustive()
    }
}

type Appended = Result<Durable, AppendError>;

/// An append under way.
struct Open {
    frame: Arc<Frame>,
    perform: Vec<Effect>,
    /// When the input that led to it was taken in.
    decided: Duration,
    /// It was sent before, and nobody knows what became of that.
    is_again: bool,
    append: BoxFuture<'static, Appended>,
}

/// The loop. See the module.
pub struct EventLoop {
    parts: Parts,
    ledger: Option<Arc<dyn Ledger>>,
    lease: Lease,
    open: Option<Open>,
    broken: Option<String>,
    waiting: BTreeMap<u64, (&'static str, oneshot::Sender<Answer>)>,
    next_command: u64,
    alarms: BTreeMap<String, Alarm>,
    /// What people were told under each key, and when.
    told: BTreeMap<String, (Severity, String, Duration)>,
    progress_logged: BTreeMap<StepId, Duration>,
    status: Option<(Duration, Arc<Status>)>,
    panics: u32,
    council: Option<Council>,
    /// When the claims were to be read last.
    claims_watched: Duration,
    /// The clusters are ours, as far as is known.
    is_in_charge: Option<bool>,
    keepsake: Keepsake,
    diary: Diary,
    clocks: clocks::Clocks,
}

impl std::fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLoop").field("broken", &self.broken).finish_non_exhaustive()
    }
}

/// The controller panicked again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the controller panicked {PANICS_MAX} times; this is a bug, and a restart may help")]
pub struct BeyondHelp;

/// What woke the loop up.
enum Wake {
    Appended(Appended),
    Renewal(Renewal),
    Outcome(Input),
    Observation(Input),
    Request(Request),
    News(News),
    Deadline(Duration),
    Beat,
    Drained,
    Idle,
}

impl EventLoop {
    /// A loop that has not begun.
    pub fn new(mut parts: Parts) -> Self {
        let (ledger, lease) = match parts.ledger.take() {
            Some((ledger, lease)) => (Some(ledger), lease),
            None => (None, Lease { epoch: 0, until: Duration::ZERO }),
        };
        let alarms = std::mem::take(&mut parts.alarms);
        let council = parts.council.take();
        let (parts_keepsake, parts_diary) = (parts.keepsake.take(), parts.diary.take());
        Self {
            parts,
            ledger,
            lease,
            open: None,
            broken: None,
            waiting: BTreeMap::new(),
            next_command: 1,
            alarms: alarms.into_iter().map(|alarm| (alarm.key.clone(), alarm)).collect(),
            told: BTreeMap::new(),
            progress_logged: BTreeMap::new(),
            status: None,
            panics: 0,
            council,
            claims_watched: Duration::ZERO,
            is_in_charge: None,
            keepsake: Keepsake::new(parts_keepsake),
            diary: Diary::new(parts_diary),
            clocks: clocks::Clocks::default(),
        }
    }

    /// The ledger takes nothing: observe and alert, perform nothing.
    #[must_use]
    pub fn halted(mut self, why: String) -> Self {
        self.halt(why);
        self
    }

    /// Turns until the gate drains and every task has ended, or until `give_up` fires.
    ///
    /// # Errors
    /// Where the controller is beyond help; the process has to be started anew.
    pub async fn run(mut self, give_up: CancellationToken) -> Result<(), BeyondHelp> {
        let mut beat = tokio::time::interval(self.parts.pulse.every());
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for alarm in self.alarms.values().cloned().collect::<Vec<_>>() {
            self.tell(alarm);
        }
        self.parts.board.set_ledger_healthy(self.ledger.is_some() && self.broken.is_none());
        self.parts.gate.stand_still(self.parts.controller.standstill(self.now()));
        if self.council.is_none() {
            self.step(Input::Restarted);
        }
        let mut idle: Option<BoxFuture<'static, ()>> = None;
        loop {
            let is_draining = idle.is_some();
            let deadline = self.deadline();
            let wake = tokio::select! {
                biased;
                appended = append(&mut self.open) => Wake::Appended(appended),
                Some(renewal) = self.parts.renewals.recv() => Wake::Renewal(renewal),
                Some(news) = council::news(&mut self.council) => Wake::News(news),
                _ = beat.tick() => Wake::Beat,
                Some(outcome) = self.parts.outcomes.recv() => Wake::Outcome(outcome),
                due = until(deadline) => Wake::Deadline(due),
                Some(observation) = self.parts.observations.recv() => Wake::Observation(observation.into()),
                Some(request) = self.parts.requests.recv() => Wake::Request(request),
                () = self.parts.gate.draining().cancelled(), if !is_draining => Wake::Drained,
                () = ended(&mut idle), if self.open.is_none() => Wake::Idle,
                () = give_up.cancelled() => Wake::Idle,
            };
            self.watch_the_clocks();
            match wake {
                Wake::Appended(appended) => self.appended(appended),
                Wake::Renewal(renewal) => self.renew(renewal),
                Wake::Outcome(input) | Wake::Observation(input) => self.take(input),
                Wake::Request(request) => self.answer(request),
                Wake::News(news) => self.hear(news),
                Wake::Deadline(due) => {
                    telemetry::deadline_late(self.now().monotonic.saturating_sub(due));
                    self.step(Input::Tick);
                }
                Wake::Beat => self.beat(),
                Wake::Drained => {
                    info!(tasks = self.parts.executor.under_way(), "draining: nothing new is started");
                    let (tasks, released) = (self.parts.executor.idle(), self.parts.released.clone());
                    idle = Some(Box::pin(async move {
                        tasks.await;
                        released.cancelled().await;
                    }));
                }
                Wake::Idle => break,
            }
            self.take_more();
            if self.panics >= PANICS_MAX {
                return Err(BeyondHelp);
            }
        }
        // An append that is still open is waited for: its answer decides what a person is told.
        if let Some(open) = self.open.take()
            && let Err(error) = open.append.await
        {
            error!("the last frame may not be recorded: {error}");
        }
        self.fail_commands("the daemon is ending");
        Ok(())
    }

    /// Whatever else is there already, a bounded number of it, so that nothing starves.
    fn take_more(&mut self) {
        while let Ok(renewal) = self.parts.renewals.try_recv() {
            self.renew(renewal);
        }
        for _ in 0..INPUTS_AT_ONCE {
            match self.parts.outcomes.try_recv().or_else(|_| self.parts.observations.try_recv().map(Input::from)) {
                Ok(input) => self.take(input),
                Err(_) => break,
            }
        }
        if let Ok(request) = self.parts.requests.try_recv() {
            self.answer(request);
        }
    }

    fn now(&self) -> Now {
        self.parts.clock.now()
    }

    /// How long until the controller wants to be woken; while an append is open it waits for that instead.
    fn deadline(&self) -> Option<(Instant, Duration)> {
        if self.open.is_some() {
            return None;
        }
        let (due, why) = self.parts.controller.next_deadline()?;
        let left = due.saturating_sub(self.now().monotonic);
        if left.is_zero() {
            debug!("the deadline `{why}` is in the past");
        }
        let wait = left.max(if self.broken.is_some() { DEADLINE_AGAIN_HALTED } else { DEADLINE_AGAIN });
        Some((Instant::now() + wait, due))
    }

    fn take(&mut self, input: Input) {
        match &input {
            Input::Observed(observation) => self.parts.meters.observed(observation),
            Input::ReferenceObserved(observation) => self.parts.meters.reference(observation.answer.is_ok()),
            Input::Progressed { plan, step, note } => self.log_progress(plan, step, note),
            Input::Restarted
            | Input::Tick
            | Input::Elected { .. }
            | Input::Heard(_)
            | Input::Stopped(_)
            | Input::Guarded(_)
            | Input::Looked { .. }
            | Input::Finished { .. }
            | Input::UndoFinished { .. }
            | Input::OwedFenceFinished { .. }
            | Input::Surveyed { .. }
            | Input::ClaimsSeen { .. }
            | Input::Verified { .. }
            | Input::Measured { .. }
            | Input::Commanded { .. } => {}
        }
        self.step(input);
    }

    fn log_progress(&mut self, plan: &PlanId, step: &StepId, note: &str) {
        let now = self.now().monotonic;
        self.progress_logged.retain(|_, at| now.saturating_sub(*at) < PROGRESS_EVERY);
        if !self.progress_logged.contains_key(step) {
            self.progress_logged.insert(step.clone(), now);
            info!(%plan, %step, "{step}: {note}");
        }
    }

    /// One input to the controller, and what it decided on its way. A panic in it halts.
    fn step(&mut self, input: Input) {
        let now = self.now();
        // Whoever was stopped for longer than its lease finds out before it says anything.
        if self.council.is_some() && self.parts.controller.leads() && self.lease.until <= now.monotonic {
            self.deposed("its lease ran out, by its own clock");
        }
        let controller = AssertUnwindSafe(&mut self.parts.controller);
        let decided = std::panic::catch_unwind(move || { controller }.0.step(now, input));
        match decided {
            Ok(decision) => self.carry_out(now, decision),
            Err(panic) => {
                self.panics += 1;
                telemetry::panicked("controller");
                self.halt(format!("the controller panicked, which is a bug: {}", panic_message(&*panic)));
            }
        }
    }

    fn carry_out(&mut self, now: Now, decision: Decision) {
        let Decision { record, perform } = decision;
        if record.is_empty() {
            self.perform_unrecorded(perform);
            return;
        }
        self.status = None;
        let Some(ledger) = self.ledger.clone() else {
            // Nothing can be recorded, so nothing of it may be done; what people have to know still reaches them.
            let why = self.broken.clone().unwrap_or_else(|| "there is no ledger".to_owned());
            self.parts.controller.halt(why.clone());
            return self.perform_harmless(perform, &why);
        };
        if self.open.is_some() {
            return self.halt("the controller decided while an append was open, which is a bug".to_owned());
        }
        let index = self.parts.next_index;
        let frame = Frame { index, epoch: self.lease.epoch, at: now, facts: record };
        let shown = Arc::new(frame.clone());
        let append = Box::pin(async move { ledger.append(frame).await });
        self.open = Some(Open { frame: shown, perform, decided: now.monotonic, is_again: false, append });
    }

    fn appended(&mut self, result: Appended) {
        let Some(open) = self.open.take() else { return };
        let durable = match result {
            Ok(durable) => durable,
            Err(error) if self.council.is_some() => return self.not_appended(error, open),
            Err(error) => {
                // A file ledger never becomes healthy again; with others, resigning and a restart is the safe way too. It may
                // be on the disk all the same, and then the next start goes on from there.
                let why = error.to_string();
                self.reply_unknown(&open.perform, &why);
                self.halt(why.clone());
                return self.perform_harmless(open.perform, &why);
            }
        };
        let Open { frame, perform, decided, .. } = open;
        let now = self.now();
        telemetry::append_took(now.monotonic.saturating_sub(decided));
        // Something may have broken meanwhile. The facts are durable all the same.
        self.parts.next_index = frame.index + 1;
        let controller = AssertUnwindSafe(&mut self.parts.controller);
        let applied = std::panic::catch_unwind(|| { controller }.0.apply(frame.at, &frame.facts));
        telemetry::applied(&frame);
        self.parts.board.add(frame.clone());
        self.tell_applied();
        self.status = None;
        if let Err(panic) = applied {
            self.panics += 1;
            telemetry::panicked("controller");
            let why = format!("the controller panicked, which is a bug: {}", panic_message(&*panic));
            self.halt(why.clone());
            return self.perform_harmless(perform, &why);
        }
        if let Some(why) = self.broken.clone() {
            self.parts.controller.halt(why.clone());
            return self.perform_harmless(perform, &why);
        }
        if let Some(why) = frame.facts.iter().find_map(halted_by) {
            self.parts.gate.halt(why);
        }
        self.confirm(now);
        self.parts.gate.stand_still(self.parts.controller.standstill(now));
        // From when it was decided, however long the record took.
        let permit = durable.permit(frame.at, self.parts.permit);
        let is_anything_asked = !perform.is_empty();
        for effect in perform {
            telemetry::effect(&effect);
            match effect {
                Effect::Perform(task) => self.parts.executor.perform(task, permit.clone()),
                Effect::Undo { task, previous } => self.parts.executor.undo(task, previous, permit.clone()),
                Effect::FenceOwed { database, key, attempt, deadline } => {
                    self.parts.executor.fence_owed(database, key, attempt, deadline, permit.clone());
                }
                Effect::Claim { ledger, term, replace } => {
                    self.parts.executor.claim(ledger, term, replace, permit.clone());
                }
                effect @ (Effect::Look { .. }
                | Effect::Survey
                | Effect::Verify { .. }
                | Effect::Measure { .. }
                | Effect::Cancel { .. }
                | Effect::Alarm(_)
                | Effect::AlarmCleared { .. }
                | Effect::Reply { .. }) => self.perform_unrecorded(vec![effect]),
            }
        }
        if is_anything_asked {
            telemetry::decision_took(self.now().monotonic.saturating_sub(decided));
        }
        self.step(Input::Tick);
    }

    /// Stop acting, at once and until a restart: an invariant broke, or the ledger did.
    fn halt(&mut self, why: String) {
        if self.broken.is_some() {
            return self.parts.controller.halt(why);
        }
        error!("halted: {why}");
        self.parts.gate.halt(&why);
        self.parts.controller.halt(why.clone());
        self.ledger = None;
        self.broken = Some(why.clone());
        // Whoever can do nothing leads nobody: another one takes over, and follows what this one had begun.
        if let Some(council) = &self.council {
            council.resign();
        }
        self.parts.board.set_ledger_healthy(false);
        self.status = None;
        self.raise("halted", Severity::Page, format!("failoverd is halted and performs nothing: {why}"));
        self.fail_commands(&why);
    }

    fn renew(&mut self, renewal: Renewal) {
        let now = self.now();
        let answer = match (&self.broken, self.parts.gate.draining().is_cancelled()) {
            (Some(why), _) => Err(Closed::NoPermit(format!("halted: {why}"))),
            (None, true) => Err(Closed::NoPermit("the daemon is ending".to_owned())),
            (None, false) => match self.parts.controller.outdated(now, &renewal.key) {
                Some(why) => Err(Closed::Outdated(why)),
                None => {
                    let renewed = renewal.permit.renewed(&self.lease, now, self.parts.permit);
                    renewed.ok_or_else(|| Closed::NoPermit("another epoch leads, or the lease ran out".to_owned()))
                }
            },
        };
        let _ = renewal.answer.send(answer);
    }

    /// Once a second: the loop lives, and says so to whoever depends on it.
    fn beat(&mut self) {
        let now = self.now();
        self.parts.board.turn(now.monotonic);
        self.confirm(now);
        self.parts.gate.stand_still(self.parts.controller.standstill(now));
        let stop_file = self.parts.pulse.stop_file();
        if let Some(seen) = &stop_file {
            self.step(Input::Stopped(seen.as_ref().err().map(ToString::to_string)));
        }
        match stop_file {
            Some(Err(closed)) => {
                self.parts.board.set_stopped(true);
                self.raise("stop-file", Severity::Page, format!("nothing is performed: {closed}"));
            }
            Some(Ok(())) => {
                self.parts.board.set_stopped(false);
                self.clear("stop-file");
            }
            None => {}
        }
        if now.monotonic.saturating_sub(self.claims_watched) >= CLAIMS_EVERY {
            self.claims_watched = now.monotonic;
            self.parts.executor.watch_claims();
        }
        self.diary.keep(&mut self.parts.controller, now);
        self.keepsake.keep(self.parts.controller.last_known(), self.parts.next_index, now.wall);
        self.beat_council(now);
        let headline = self.status().headline.clone();
        self.parts.pulse.beat(&headline);
    }
}

fn halted_by(fact: &Fact) -> Option<&str> {
    if let Fact::Halted { why } = fact { Some(why) } else { None }
}

/// The end of the open append; never, where none is open.
async fn append(open: &mut Option<Open>) -> Appended {
    match open {
        Some(open) => (&mut open.append).await,
        None => std::future::pending().await,
    }
}

/// The deadline that was reached; never, where there is none.
async fn until(deadline: Option<(Instant, Duration)>) -> Duration {
    match deadline {
        Some((at, due)) => {
            tokio::time::sleep_until(at).await;
            due
        }
        None => std::future::pending().await,
    }
}

/// The end of the last task, once the daemon drains.
async fn ended(idle: &mut Option<BoxFuture<'static, ()>>) {
    match idle {
        Some(idle) => idle.await,
        None => std::future::pending().await,
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        if !self.waiting.is_empty() {
            warn!(commands = self.waiting.len(), "commands were left unanswered");
        }
    }
}
