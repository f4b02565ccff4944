//! How the simulated daemon performs effects: one attempt at a time, with crashes and lost answers in between.

use super::*;

impl Simulation<'_> {
    pub(super) fn perform_freely(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Look { plan, step, action } => {
                    let takes = LATENCY + self.spread(Duration::from_secs(1));
                    let result = self.world.look(self.now, &format!("{plan}/{step}"), &action);
                    self.answer(takes, Input::Looked { plan, step, result });
                }
                Effect::Survey => {
                    let takes = LATENCY + self.spread(Duration::from_secs(1));
                    let claims = self.world.claims(self.now);
                    self.answer(takes, Input::Surveyed { claims });
                }
                Effect::Cancel { plan, step } => {
                    let key = format!("{plan}/{step}");
                    let Some(daemon) = &mut self.daemon else { return };
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
                        self.for_daemon(LATENCY, ForDaemon::Task(id));
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
                Effect::Reply { id: _, answer } => self.note(What::Answer { answer }),
                effect @ (Effect::Perform(_)
                | Effect::Undo { .. }
                | Effect::FenceOwed { .. }
                | Effect::Claim { .. }) => {
                    self.broken(vec![format!("an effect without a fact: {effect:?}")]);
                }
            }
        }
    }

    pub(super) fn perform(&mut self, effect: Effect, permit: &Permit) {
        let halted = self.daemon.as_ref().and_then(|daemon| daemon.controller.halted());
        if let Some(why) = halted {
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
                self.world.put_claim(self.now, &ledger, term, replace);
                let text = if replace { "claim the clusters, replacing other claims" } else { "claim the clusters" };
                self.note(What::Does { text: text.to_owned() });
                let claims = self.world.claims(self.now);
                return self.answer(LATENCY, Input::Surveyed { claims });
            }
            effect @ (Effect::Look { .. }
            | Effect::Survey
            | Effect::Cancel { .. }
            | Effect::Alarm(_)
            | Effect::AlarmCleared { .. }
            | Effect::Reply { .. }) => return self.perform_freely(vec![effect]),
        };
        self.note(What::Does { text });
        let mut running = Running::new(work, self.now, permit.clone());
        if self.setup.bugs.has(Bug::KeyChangesAtRestart) {
            running.salt = format!("--run-{}", self.run);
        }
        let found = self.checks.starts(&running, self.clock());
        self.broken(found);
        let Some(daemon) = &mut self.daemon else { return };
        let id = daemon.next_task;
        daemon.next_task += 1;
        daemon.running.insert(id, running);
        let takes = LATENCY + self.spread(Duration::from_millis(500));
        self.for_daemon(takes, ForDaemon::Task(id));
    }

    /// A permit that nothing durable stands behind: a deliberate bug.
    #[cfg(test)]
    pub(super) fn perform_too_early(&mut self, effects: Vec<Effect>) {
        let permit = Permit::for_tests(Duration::MAX);
        for effect in effects {
            self.perform(effect, &permit);
        }
    }

    #[cfg(not(test))]
    pub(super) fn perform_too_early(&mut self, _effects: Vec<Effect>) {}

    /// An answer on its way to the controller; with a seed it may come twice.
    fn answer(&mut self, after: Duration, input: Input) {
        if let Some(dice) = &mut self.dice
            && dice.percent() < 20
        {
            let later = Duration::from_millis(dice.below(10_000));
            self.for_daemon(after + later, ForDaemon::Deliver(Box::new(input.clone())));
        }
        self.for_daemon(after, ForDaemon::Deliver(Box::new(input)));
    }

    /// One call of a task.
    pub(super) fn work_on(&mut self, id: u64) {
        let Some(mut running) = self.daemon.as_mut().and_then(|daemon| daemon.running.remove(&id)) else { return };
        if running.cancelled {
            return self.ended(&running, StepOutcome::Cancelled);
        }
        if let Some(why) = running.out_of_time(self.now) {
            return self.ended(&running, StepOutcome::Failed { why });
        }
        let key = running.key();
        let action = match &running.work {
            Work::Perform(task) | Work::Undo { task, .. } => task.action.clone(),
            Work::Fence { database, .. } => Action::Fenced { database: database.clone() },
        };
        let next = match running.phase {
            Phase::Look => self.world.look(self.now, &key, &action).map(|look| {
                running.phase = if look.satisfied { Phase::Verify } else { Phase::Act };
                None
            }),
            Phase::Act => {
                if let Some(early) = self.before_a_call(&mut running) {
                    return early;
                }
                let made = self.call(&key, &action, &mut running);
                let nth = self.counts.calls - 1;
                self.let_the_world_go_on();
                if self.crashes(|crash| crash == Crash::Call { nth, sent: true }) {
                    return self.die(BACK_AFTER);
                }
                made
            }
            Phase::Verify => self
                .world
                .verify(self.now, &key, &action)
                .map(|note| Some(StepOutcome::Reached { note, acted: running.acted })),
        };
        match next {
            Ok(Some(outcome)) => self.ended(&running, outcome),
            Ok(None) => self.again(id, running, LATENCY),
            Err(setback) => match running.weigh(self.now, setback) {
                Then::Again(wait) => self.again(id, running, wait),
                Then::GiveUp(why) => self.ended(&running, StepOutcome::Failed { why }),
            },
        }
        if let Some(next) = self.world.next() {
            self.schedule(next, Event::World);
        }
    }

    /// The permit, and a crash before the call is sent. `Some` means that there is no call.
    fn before_a_call(&mut self, running: &mut Running) -> Option<()> {
        let nth = self.counts.calls;
        self.counts.calls += 1;
        if self.crashes(|crash| crash == Crash::Call { nth, sent: false }) {
            self.die(BACK_AFTER);
            return Some(());
        }
        let now = self.clock();
        let daemon = self.daemon.as_ref()?;
        let lease = daemon.lease;
        if let Some(why) = daemon.controller.halted().filter(|_| !self.setup.bugs.has(Bug::HaltedGoesOn)) {
            let why = format!("halted: {why}");
            self.ended(running, StepOutcome::Failed { why });
            return Some(());
        }
        if let Some(renewed) = running.permit.renewed(&lease, now, self.setup.permit) {
            running.permit = renewed;
        }
        if running.permit.time_left(now).is_err() {
            let why = "the permit ran out".to_owned();
            self.ended(running, StepOutcome::Failed { why });
            return Some(());
        }
        let is_halted = self.daemon.as_ref().is_some_and(|daemon| daemon.controller.halted().is_some());
        let found = self.checks.call(running, &self.world, self.now, is_halted);
        self.broken(found);
        None
    }

    fn call(
        &mut self,
        key: &str,
        action: &Action,
        running: &mut Running,
    ) -> Result<Option<StepOutcome>, crate::ports::Setback> {
        running.acted = true;
        match &running.work {
            Work::Undo { previous, .. } => self
                .world
                .undo(self.now, key, action, previous)
                .map(|note| Some(StepOutcome::Reached { note, acted: true })),
            Work::Perform(_) | Work::Fence { .. } => {
                self.world.act(self.now, key, action)?;
                running.phase = Phase::Verify;
                let found = self.checks.accepted(&self.world);
                self.broken(found);
                Ok(None)
            }
        }
    }

    fn again(&mut self, id: u64, running: Running, wait: Duration) {
        if let Some(daemon) = &mut self.daemon {
            daemon.running.insert(id, running);
            self.for_daemon(wait, ForDaemon::Task(id));
        }
    }

    fn ended(&mut self, running: &Running, outcome: StepOutcome) {
        let takes = LATENCY + self.spread(Duration::from_secs(1));
        let told = match outcome.clone() {
            StepOutcome::Reached { note, .. } => Ok(note),
            StepOutcome::Failed { why } => Err(why),
            StepOutcome::Cancelled => Err("cancelled".to_owned()),
            StepOutcome::NotBegun { why } => Err(why),
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
        self.answer(takes, input);
    }
}

fn does(action: &Action, attempt: u32) -> String {
    if attempt > 1 { format!("{action} (attempt {attempt})") } else { action.to_string() }
}
