//! How the simulated daemon performs effects: one attempt at a time, with crashes and lost answers in between.

use super::*;
use crate::ports::{PermitExpired, Setback};

/// The longest that a mutating call is on its way; its timeout.
const CALL_TAKES_MAX: Duration = Duration::from_secs(10);

/// What may not be sent asks again after this.
const GATE_RETRY: Duration = Duration::from_secs(1);

/// A clock that was wrong is set by up to this, and a little more.
const CLOCK_SET_BY: Duration = Duration::from_secs(120);
/// An answer that comes twice does so within this, in milliseconds.
const SOON_AFTER: u64 = 10_000;
/// Or within this.
const LONG_AFTER: u64 = 180_000;

/// A mutating call under way. It arrives, even if whoever sent it is dead by then.
pub(super) struct Sent {
    n: usize,
    run: u64,
    /// Which task.
    id: u64,
    /// Which call of the whole run.
    nth: u64,
    epoch: u64,
    from: Vantage,
    key: String,
    action: Action,
    work: Work,
    is_answer_lost: bool,
}

impl Simulation<'_> {
    pub(super) fn perform_freely(&mut self, n: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Look { plan, step, action } => {
                    let takes = LATENCY + self.spread(Duration::from_secs(1));
                    let result = self.world.look(self.now, &self.vantage(n), &format!("{plan}/{step}"), &action);
                    self.answer(n, takes, Input::Looked { plan, step, result });
                }
                Effect::Survey => {
                    let takes = LATENCY + self.spread(Duration::from_secs(1));
                    let claims = self.world.claims(self.now, &self.vantage(n));
                    self.answer(n, takes, Input::Surveyed { asked: self.clock(n).monotonic, claims });
                }
                Effect::Verify { check, expects, region, .. } => {
                    let takes = LATENCY + self.spread(Duration::from_secs(1));
                    let (key, here) = (format!("check/{check}"), self.vantage(n));
                    let action = Action::Verified { check: check.clone(), expects, region: region.clone() };
                    let result =
                        self.world.verify(self.now, &here, &key, &action).map_err(|setback| setback.to_string());
                    self.answer(n, takes, Input::Verified { check, region, result });
                }
                Effect::Measure { measure, .. } => {
                    let takes = LATENCY + self.spread(Duration::from_secs(1));
                    let answer = self.world.measure(self.now, &self.vantage(n), &measure);
                    self.answer(n, takes, Input::Measured { measure, answer });
                }
                Effect::Cancel { plan, step } => {
                    let key = format!("{plan}/{step}");
                    let Some(daemon) = self.daemon_mut(n) else { return };
                    let hit: Vec<u64> = daemon
                        .running
                        .iter_mut()
                        .filter(|(_, running)| running.key() == key)
                        .map(|(id, running)| {
                            running.cancelled = true;
                            *id
                        })
                        .collect();
                    for id in hit {
                        self.for_daemon(n, LATENCY, ForDaemon::Task(id));
                    }
                }
                Effect::Alarm(alarm) => {
                    self.alarms.insert(alarm.key.clone());
                    self.note(What::Alarm { alarm });
                }
                Effect::AlarmCleared { key } => {
                    self.alarms.remove(&key);
                    self.note(What::Over { key });
                }
                Effect::Reply { id, answer } => {
                    self.requests.remove(&id);
                    if answer.is_err() {
                        self.coverage.count("refusal", Refusal::OrderRefused);
                    }
                    self.note(What::Answer { answer });
                }
                effect @ (Effect::Perform(_)
                | Effect::Undo { .. }
                | Effect::FenceOwed { .. }
                | Effect::Claim { .. }) => {
                    self.broken(vec![format!("an effect without a fact: {effect:?}")]);
                }
            }
        }
    }

    pub(super) fn perform(&mut self, n: usize, effect: Effect, permit: &Permit) {
        let halted = self.daemon(n).and_then(|daemon| daemon.controller.halted());
        let is_told = matches!(effect, Effect::Alarm(_) | Effect::AlarmCleared { .. } | Effect::Reply { .. });
        if let Some(why) = halted.filter(|_| !is_told) {
            let text = format!("an effect was performed while halted ({why}): {effect:?}");
            self.broken(vec![text]);
        }
        let (work, text) = match effect {
            Effect::Perform(task) => {
                let text = does(&task.action, task.attempt);
                (Work::Perform(task), text)
            }
            Effect::Undo { task, previous } => {
                let text = format!("undo: {}", does(&task.action, task.attempt));
                (Work::Undo { task, previous }, text)
            }
            Effect::FenceOwed { database, key, attempt, deadline } => {
                let text = format!("fence {database}, which is owed");
                (Work::Fence { database, key, attempt, deadline }, text)
            }
            Effect::Claim { ledger, term, replace } => {
                let here = self.vantage(n);
                self.world.put_claim(self.now, &here, &ledger, term, replace);
                let text = if replace { "claim the clusters, replacing other claims" } else { "claim the clusters" };
                self.note(What::Does { text: text.to_owned() });
                let claims = self.world.claims(self.now, &here);
                return self.answer(n, LATENCY, Input::Surveyed { asked: self.clock(n).monotonic, claims });
            }
            effect @ (Effect::Look { .. }
            | Effect::Survey
            | Effect::Verify { .. }
            | Effect::Measure { .. }
            | Effect::Cancel { .. }
            | Effect::Alarm(_)
            | Effect::AlarmCleared { .. }
            | Effect::Reply { .. }) => return self.perform_freely(n, vec![effect]),
        };
        self.note(What::Does { text });
        let mut running = Running::new(work, self.now, permit.clone());
        if self.setup.bugs.has(Bug::KeyChangesAtRestart) {
            running.salt = format!("--run-{n}-{}", self.nodes[n].run);
        }
        let found = self.checks.starts(&running, self.clock(n), self.now);
        self.broken(found);
        let Some(daemon) = self.daemon_mut(n) else { return };
        let id = daemon.next_task;
        daemon.next_task += 1;
        daemon.running.insert(id, running);
        let takes = LATENCY + self.spread(Duration::from_millis(500));
        self.for_daemon(n, takes, ForDaemon::Task(id));
    }

    /// A permit that nothing durable stands behind: a deliberate bug.
    #[cfg(test)]
    pub(super) fn perform_too_early(&mut self, n: usize, effects: Vec<Effect>) {
        let permit = Permit::for_tests(Duration::MAX);
        for effect in effects {
            self.perform(n, effect, &permit);
        }
    }

    #[cfg(not(test))]
    pub(super) fn perform_too_early(&mut self, _n: usize, _effects: Vec<Effect>) {}

    /// An answer on its way to the controller; with a seed it may come twice.
    fn answer(&mut self, n: usize, after: Duration, input: Input) {
        if let Some(dice) = &mut self.dice
            && dice.percent() < 20
        {
            self.coverage.count("chance", Chance::AnswerTwice);
            // Most of what comes twice comes soon. Some of it has been waiting somewhere, until somebody has tried again.
            let later = if dice.below(4) == 0 { LONG_AFTER } else { SOON_AFTER };
            let later = Duration::from_millis(dice.below(later));
            self.for_daemon(n, after + later, ForDaemon::Deliver(Box::new(input.clone())));
        }
        self.for_daemon(n, after, ForDaemon::Deliver(Box::new(input)));
    }

    /// Somebody else may have taken over.
    pub(super) fn watch_claims(&mut self, n: usize) {
        self.for_daemon(n, CLAIMS_EVERY, ForDaemon::Claims);
        let claims = self.world.claims(self.now, &self.vantage(n));
        self.step(n, Input::ClaimsSeen { asked: self.clock(n).monotonic, claims });
    }

    /// One call of a task.
    pub(super) fn work_on(&mut self, n: usize, id: u64) {
        let Some(mut running) = self.daemon_mut(n).and_then(|daemon| daemon.running.remove(&id)) else { return };
        if running.phase == Phase::Sent {
            // Nothing more is done about it before its answer is there.
            return self.keep(n, id, running);
        }
        if running.cancelled {
            return self.ended(n, &running, StepOutcome::Cancelled);
        }
        if let Some(why) = running.out_of_time(self.now) {
            let is_unanswered = running.is_unanswered;
            let outcome = if is_unanswered { StepOutcome::OutOfReach { why } } else { StepOutcome::Failed { why } };
            return self.ended(n, &running, outcome);
        }
        let (key, action) = (running.key(), running.action());
        let here = self.vantage(n);
        let next = match running.phase {
            Phase::Look => self.world.look(self.now, &here, &key, &action).map(|look| {
                running.phase = if look.satisfied { Phase::Verify } else { Phase::Act };
                None
            }),
            Phase::Verify => self
                .world
                .verify(self.now, &here, &key, &action)
                .map(|note| Some(StepOutcome::Reached { note, acted: running.acted })),
            Phase::Act => return self.send(n, id, running),
            Phase::Sent => return,
        };
        self.go_on(n, id, running, next);
    }

    /// A mutating call leaves the daemon.
    fn send(&mut self, n: usize, id: u64, mut running: Running) {
        let Some(left) = self.before_a_call(n, id, &mut running) else { return };
        running.acted = true;
        running.phase = Phase::Sent;
        let sent = Sent {
            n,
            run: self.nodes[n].run,
            id,
            nth: self.counts.calls - 1,
            epoch: running.permit.epoch(),
            from: self.vantage(n),
            key: running.key(),
            action: running.action(),
            work: running.work.clone(),
            is_answer_lost: false,
        };
        self.keep(n, id, running);
        // On a bad day a call takes as long as its timeout, which ends before the permit does.
        if self.by_chance(100, Chance::CallLate) {
            let takes = self.spread(CALL_TAKES_MAX.min(left));
            if self.by_chance(20, Chance::ClockSetMeanwhile) {
                self.checks.clock_was_set();
                let by = SignedDuration::from_secs(2)
                    + SignedDuration::try_from(self.spread(CLOCK_SET_BY)).unwrap_or_default();
                self.nodes[n].skew += by;
            }
            return self.schedule(self.now + takes, Event::Call(Box::new(sent)));
        }
        if self.by_chance(50, Chance::CallLost) {
            return self.answered(&sent, Err(Setback::Transient("no answer in time".to_owned())));
        }
        let is_answer_lost = self.by_chance(50, Chance::AnswerLost);
        self.arrives(Sent { is_answer_lost, ..sent });
    }

    /// It reaches the world, whatever has become of the daemon that sent it.
    pub(super) fn arrives(&mut self, sent: Sent) {
        let found = self.checks.arrives(sent.epoch, &sent.key);
        self.broken(found);
        let made = match &sent.work {
            Work::Undo { previous, .. } => {
                self.world.undo(self.now, &sent.from, &sent.key, &sent.action, previous).map(Some)
            }
            Work::Perform(_) | Work::Fence { .. } => {
                self.world.act(self.now, &sent.from, &sent.key, &sent.action).map(|()| None)
            }
        };
        if made.is_ok() {
            let mut found = self.checks.accepted(&self.world);
            found.extend(self.checks.promoted_too_early(&sent.action, self.now));
            found.extend(self.checks.promoted_beside(&self.world, self.now, &sent.from, &sent.key, &sent.action));
            self.broken(found);
        }
        if let Some(next) = self.world.next() {
            self.schedule(next, Event::World);
        }
        self.let_the_world_go_on();
        if self.crashes(|crash| crash == Crash::Call { nth: sent.nth, sent: true }) {
            return self.die(sent.n, BACK_AFTER);
        }
        if self.by_chance(5, Chance::DiesAfterCall) {
            return self.die(sent.n, BACK_AFTER);
        }
        match &made {
            Err(Setback::Refused(_)) => self.coverage.count("refusal", Refusal::CallRefused),
            Err(_) => self.coverage.count("refusal", Refusal::CallFailed),
            Ok(_) => {}
        }
        let made = if sent.is_answer_lost { Err(Setback::Transient("no answer in time".to_owned())) } else { made };
        self.answered(&sent, made);
    }

    /// The daemon hears of it, if it is still the one that sent it.
    fn answered(&mut self, sent: &Sent, made: Result<Option<String>, Setback>) {
        if self.nodes[sent.n].run != sent.run {
            return;
        }
        let Some(mut running) = self.daemon_mut(sent.n).and_then(|daemon| daemon.running.remove(&sent.id)) else {
            return;
        };
        running.phase = match running.work {
            Work::Undo { .. } => Phase::Act,
            Work::Perform(_) | Work::Fence { .. } => Phase::Verify,
        };
        let next = made.map(|note| note.map(|note| StepOutcome::Reached { note, acted: true }));
        if next.as_ref().is_err_and(|setback| !matches!(setback, Setback::NotYet(_))) {
            running.phase = Phase::Act;
        }
        self.go_on(sent.n, sent.id, running, next);
    }

    fn go_on(&mut self, n: usize, id: u64, mut running: Running, next: Result<Option<StepOutcome>, Setback>) {
        match next {
            Ok(Some(outcome)) => self.ended(n, &running, outcome),
            Ok(None) => self.again(n, id, running, LATENCY),
            Err(setback) => match running.weigh(self.now, setback) {
                Then::Again(wait) => self.again(n, id, running, wait),
                Then::GiveUp(why) => self.ended(n, &running, StepOutcome::Failed { why }),
            },
        }
    }

    /// The permit, and a crash before the call is sent. How long the call may take; none means that there is no call.
    fn before_a_call(&mut self, n: usize, id: u64, running: &mut Running) -> Option<Duration> {
        if self.stops_by_chance(n, Chance::StopsBeforeCall) {
            self.again(n, id, running.clone(), Duration::ZERO);
            return None;
        }
        let is_unsent = !running.acted && matches!(running.work, Work::Perform(_));
        if is_unsent && self.by_chance(4, Chance::PausedAtTheGate) {
            self.pause_for_a_moment(n);
            self.again(n, id, running.clone(), GATE_RETRY);
            return None;
        }
        if self.by_chance(2, Chance::HaltsBeforeCall) {
            self.breaks_inside(n);
        }
        let nth = self.counts.calls;
        self.counts.calls += 1;
        let dies = self.crashes(|crash| crash == Crash::Call { nth, sent: false });
        if dies || self.by_chance(5, Chance::DiesBeforeCall) {
            self.die(n, BACK_AFTER);
            return None;
        }
        let (now, permit) = (self.clock(n), self.setup.permit);
        // The event loop is asked for leave, and finds out at every turn that its machine stood still.
        self.watch_the_clocks(n, now);
        if !self.daemon(n)?.controller.leads() {
            return None;
        }
        let is_heedless = self.setup.bugs.has(Bug::HaltedGoesOn);
        let daemon = self.daemon(n)?;
        let lease = daemon.lease;
        if let Some(why) = daemon.controller.halted().filter(|_| !is_heedless) {
            let why = format!("halted: {why}");
            self.coverage.count("refusal", Refusal::Halted);
            self.ended(n, running, StepOutcome::Failed { why });
            return None;
        }
        if let Some(why) = self.forbidden(n, running, now) {
            self.coverage.count("refusal", Refusal::StoodStill);
            // Where nothing was sent yet nothing waits for leave: by then the world is another one.
            match (&running.work, running.acted) {
                (Work::Perform(_), false) => self.ended(n, running, StepOutcome::NotBegun { why, stop_file: false }),
                (Work::Perform(_) | Work::Undo { .. } | Work::Fence { .. }, _) => {
                    self.again(n, id, running.clone(), GATE_RETRY);
                }
            }
            return None;
        }
        if is_unsent && running.permit.time_left(now).is_err() && running.is_grave() {
            // The world is another one than when it was judged.
            self.coverage.count("refusal", Refusal::PermitRanOut);
            self.ended(n, running, StepOutcome::TooLate { why: PermitExpired.to_string(), acted: false });
            return None;
        }
        if !is_unsent && running.is_grave() {
            let key = running.key();
            if let Some(why) = self.daemon_mut(n).and_then(|daemon| daemon.controller.outdated(now, &key)) {
                self.coverage.count("refusal", Refusal::Outdated);
                self.ended(n, running, StepOutcome::TooLate { why, acted: true });
                return None;
            }
        }
        if let Some(renewed) = running.permit.renewed(&lease, now, permit) {
            running.permit = renewed;
        }
        let Ok(left) = running.permit.time_left(now) else {
            self.coverage.count("refusal", Refusal::PermitRanOut);
            self.again(n, id, running.clone(), GATE_RETRY);
            return None;
        };
        let is_halted = self.daemon(n).is_some_and(|daemon| daemon.controller.halted().is_some());
        let found = self.checks.call(running, &self.world, is_halted);
        self.broken(found);
        Some(left)
    }

    /// Somebody thinks better of it, while a step has started and has sent nothing.
    fn pause_for_a_moment(&mut self, n: usize) {
        let lasting = Duration::from_secs(30) + self.spread(Duration::from_secs(300));
        let wall = self.clock(n).wall;
        let until = wall.checked_add(lasting).unwrap_or(wall);
        let (by, reason) = ("operator".to_owned(), "wait a moment".to_owned());
        self.command(n, Command::Pause { by, until, reason });
    }

    /// An invariant breaks in the daemon. Somebody starts it anew after a while.
    fn breaks_inside(&mut self, n: usize) {
        let run = self.nodes[n].run;
        if let Some(daemon) = self.daemon_mut(n) {
            daemon.controller.halt("an invariant broke".to_owned());
        }
        let text = self.of_node(n, "halts: an invariant broke");
        self.note(What::Daemon { text });
        self.schedule(self.now + MENDED_AFTER, Event::Mend(n, run));
    }

    /// What people paused or hold, as `daemon::gate` has it.
    fn forbidden(&self, n: usize, running: &Running, now: Now) -> Option<String> {
        let (Work::Perform(task) | Work::Undo { task, .. }) = &running.work else { return None };
        let standstill = self.daemon(n)?.controller.standstill(now);
        let is_held = standstill.held.contains(&task.plan);
        standstill.paused.or_else(|| is_held.then(|| "a person holds the incident".to_owned()))
    }

    fn again(&mut self, n: usize, id: u64, running: Running, wait: Duration) {
        self.keep(n, id, running);
        self.for_daemon(n, wait, ForDaemon::Task(id));
    }

    fn keep(&mut self, n: usize, id: u64, running: Running) {
        if let Some(daemon) = self.daemon_mut(n) {
            daemon.running.insert(id, running);
        }
    }

    fn ended(&mut self, n: usize, running: &Running, outcome: StepOutcome) {
        let takes = LATENCY + self.spread(Duration::from_secs(1));
        let told = match outcome.clone() {
            StepOutcome::Reached { note, .. } => Ok(note),
            StepOutcome::Failed { why } | StepOutcome::OutOfReach { why } => Err(why),
            StepOutcome::Cancelled => Err("cancelled".to_owned()),
            StepOutcome::NotBegun { why, .. } | StepOutcome::TooLate { why, .. } => Err(why),
        };
        let input = match &running.work {
            Work::Perform(task) => {
                Input::Finished { plan: task.plan.clone(), step: task.step.clone(), attempt: task.attempt, outcome }
            }
            Work::Undo { task, .. } => Input::UndoFinished {
                plan: task.plan.clone(),
                step: task.step.clone(),
                attempt: task.attempt,
                outcome: told,
            },
            Work::Fence { database, attempt, .. } => {
                Input::OwedFenceFinished { database: database.clone(), attempt: *attempt, outcome: told }
            }
        };
        self.answer(n, takes, input);
    }
}

fn does(action: &Action, attempt: u32) -> String {
    if attempt > 1 { format!("{action} (attempt {attempt})") } else { action.to_string() }
}
