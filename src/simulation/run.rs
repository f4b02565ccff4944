//! The loop of a simulation: one queue of events, one clock that jumps from one to the next.

mod helper;
mod misfortune;
mod node;
mod perform;
mod probes;
mod roles;
mod seat;
mod telling;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use jiff::SignedDuration;

use super::check::Checks;
use super::coverage::{Chance, Coverage, Refusal};
use super::daemon::{Daemon, Phase, Running, Then, Work};
use super::dice::Dice;
use super::options::{Crash, Options, Setup, SetupError};
use super::report::{Counts, End, Entry, Report, What};
use super::story::{Condition, Fate, Happening, LedgerBefore, Order, Story};
use super::world::{LATENCY, Vantage, World};
use crate::decide::{
    Command, Controller, Decision, Effect, Fact, Frame, Input, ReferenceObservation, Scope, StepOutcome,
};
use crate::domain::{Bug, Finding, InstanceId, Layer, Now, Observation, ReferenceId};
use crate::health::Ballot;
use crate::ledger::{MemoryDisk, MemoryLedger, Permit, Sabotage};
use crate::plan::{self, Action};
use crate::ports::{Lease, Ledger};
use node::Node;

/// The daemon has been watching for that long when a story begins.
const WARM_UP: Duration = Duration::from_secs(300);
/// The machine has been up for that long when a story begins.
const START: Duration = Duration::from_secs(10_000);
/// Looked at for that long after the last line, unless the story says until when.
const AFTER: Duration = Duration::from_secs(20 * 60);
/// An fsync, or the round of a quorum.
const APPEND: Duration = Duration::from_millis(2);
/// A frame that was held up in the network arrives within this.
const FRAME_LATE_MAX: Duration = Duration::from_secs(8);
/// As `daemon::event_loop` has it.
const CLAIMS_EVERY: Duration = Duration::from_secs(15);
/// A daemon that crashed is back after this.
const BACK_AFTER: Duration = Duration::from_secs(5);
/// Somebody makes room on the disk and starts a halted daemon anew after this.
const MENDED_AFTER: Duration = Duration::from_secs(60);
/// Nothing was recorded for so long: whatever was going on is over.
const SETTLED_AFTER: Duration = Duration::from_secs(90);
/// Events after which a simulation is given up: it does not settle.
const EVENTS_MAX: u64 = 20_000_000;
/// A deadline that has come already is taken for this much later, as `decide::controller` has it.
const AT_ONCE: Duration = Duration::from_millis(50);
/// So often in a row is no accident.
const SPINS_MAX: u32 = 100;
const LEDGER: &str = "0190a1b2-0000-7000-8000-5701240000ff";

/// Plays the story.
///
/// # Errors
/// See [`SetupError`]. Whatever failoverd does wrong is not an error of this function but in the report.
pub fn run(story: &Story, setup: &Setup, options: &Options) -> Result<Report, SetupError> {
    let mut simulation = Simulation::new(story, setup, options);
    simulation.run()?;
    Ok(simulation.report())
}

enum Event {
    Story(usize),
    World,
    /// A daemon starts at this node.
    Boot(usize),
    /// A person does what failoverd asks for.
    Help,
    /// A frame that was held back arrives at the ledger.
    LateFrames,
    /// Somebody ends the run with this number of a node's daemon, which is halted.
    Mend(usize, u64),
    /// For the run with this number of a node's daemon; lost if it is another one.
    Daemon(usize, u64, ForDaemon),
    /// A call arrives, whatever has become of the daemon that sent it.
    Call(Box<perform::Sent>),
}

enum ForDaemon {
    Probe(InstanceId),
    /// All that is probed so often.
    Round(Duration),
    Ask(ReferenceId),
    Observed(Box<Observation>),
    Answered(ReferenceObservation),
    Deadline(u64),
    Appended,
    Task(u64),
    Deliver(Box<Input>),
    /// The record has grown.
    News,
    /// Another daemon's ballot.
    Ballot(Arc<Ballot>),
    Beat,
    /// Who claims the clusters is read, although nobody asked.
    Claims,
}

impl ForDaemon {
    /// Nothing changes by it in the world.
    fn is_a_look(&self) -> bool {
        match self {
            Self::Probe(_)
            | Self::Round(_)
            | Self::Ask(_)
            | Self::Observed(_)
            | Self::Answered(_)
            | Self::News
            | Self::Claims
            | Self::Beat => true,
            Self::Ballot(_) => true,
            Self::Deadline(_) | Self::Appended | Self::Task(_) | Self::Deliver(_) => false,
        }
    }
}

struct Simulation<'a> {
    story: &'a Story,
    setup: &'a Setup,
    now: Duration,
    queue: BTreeMap<(Duration, u64), Event>,
    events: u64,
    world: World,
    disk: MemoryDisk,
    nodes: Vec<Node>,
    dice: Option<Dice>,
    probe_dice: Dice,
    options: &'a Options,
    crashes: Vec<Crash>,
    /// Calls get lost, and take their time.
    is_rough: bool,
    /// When something was last recorded or told.
    stirred: Duration,
    checked: Duration,
    checks: Checks,
    counts: Counts,
    coverage: Coverage,
    entries: Vec<Entry>,
    alarms: BTreeSet<String>,
    next_command: u64,
    /// Orders in the shared ledger, with when they were given.
    requests: BTreeMap<u64, (Duration, Command)>,
    end: Duration,
}

impl<'a> Simulation<'a> {
    fn new(story: &'a Story, setup: &'a Setup, options: &'a Options) -> Self {
        let last = story.lines.last().map_or(Duration::ZERO, |line| line.at);
        let world = World::new(&setup.policy);
        let seed = options.seed.or(story.settings.seed);
        let mut simulation = Self {
            story,
            setup,
            now: START - WARM_UP,
            queue: BTreeMap::new(),
            events: 0,
            world,
            disk: MemoryDisk::default(),
            nodes: Vec::new(),
            dice: seed.map(Dice::new),
            probe_dice: Dice::new(seed.unwrap_or(1)),
            options,
            crashes: options.crashes.clone(),
            is_rough: story.settings.seed.is_some(),
            stirred: START,
            checked: Duration::ZERO,
            checks: Checks::new(&setup.policy),
            counts: Counts::default(),
            coverage: Coverage::new(),
            entries: Vec::new(),
            alarms: BTreeSet::new(),
            next_command: 1,
            requests: BTreeMap::new(),
            end: START + story.settings.until.unwrap_or(last + AFTER),
        };
        simulation.prepare_ledger();
        if setup.bugs.has(Bug::StaleEpochAccepted) {
            simulation.disk.be_careless();
        }
        simulation.gather();
        for (n, line) in story.lines.iter().enumerate() {
            simulation.schedule(START + line.at, Event::Story(n));
        }
        simulation
    }

    fn prepare_ledger(&mut self) {
        let now = self.clock(0);
        self.disk = MemoryDisk::new(LEDGER, now);
        self.disk.frames().iter().flat_map(|frame| &frame.facts).for_each(|fact| self.cover(fact));
        if self.story.settings.ledger == LedgerBefore::Empty {
            return;
        }
        let mut frames = self.disk.frames();
        let adopted = Fact::PlacementAdopted { placement: self.checks.home(), by: "the story".to_owned() };
        frames.push(Frame { index: 1, epoch: 0, at: now, facts: vec![adopted] });
        self.disk = MemoryDisk::with(frames);
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        self.events += 1;
        self.queue.insert((at.max(self.now), self.events), event);
    }

    fn for_daemon(&mut self, n: usize, after: Duration, event: ForDaemon) {
        self.schedule(self.now + after, Event::Daemon(n, self.nodes[n].run, event));
    }

    fn note(&mut self, what: What) {
        let is_warm_up = self.now < START;
        self.entries.push(Entry { at: self.now.saturating_sub(START), is_warm_up, what });
    }

    fn broken(&mut self, found: Vec<String>) {
        for text in found {
            self.checks.broken.push(text.clone());
            self.note(What::Broken { text });
        }
    }

    // --- the loop ---

    fn run(&mut self) -> Result<(), SetupError> {
        let mut taken = 0;
        while let Some(((at, _), event)) = self.queue.pop_first() {
            if at > self.end {
                break;
            }
            if self.is_settled() {
                return Ok(());
            }
            taken += 1;
            if taken > EVENTS_MAX {
                return Err(SetupError::Endless(taken));
            }
            self.now = at;
            // Nothing changes by being looked at.
            let is_a_look = matches!(&event, Event::Daemon(_, _, event) if event.is_a_look());
            if !is_a_look || self.now >= self.checked + Duration::from_secs(1) {
                self.let_the_world_go_on();
            }
            match event {
                Event::Story(n) => self.tell(n)?,
                Event::World => {}
                Event::Boot(n) => self.boot(n),
                Event::Help => self.help(),
                Event::LateFrames => drop(self.disk.deliver_late()),
                Event::Mend(n, run) if run == self.nodes[n].run => self.die(n, Duration::from_secs(1)),
                Event::Mend(..) => {}
                Event::Daemon(n, run, event) => {
                    if run == self.nodes[n].run && self.nodes[n].daemon.is_some() {
                        self.daemon_takes(n, event);
                    }
                }
                Event::Call(sent) => self.arrives(*sent),
            }
        }
        self.now = self.end;
        Ok(())
    }

    /// Nothing more will come, if only that is asked for.
    fn is_settled(&mut self) -> bool {
        if !self.options.until_settled || self.now < self.stirred + SETTLED_AFTER {
            return false;
        }
        // Looked at once in a while: a status is expensive.
        self.stirred = self.now;
        let Some(leader) = self.leader() else { return false };
        let now = self.clock(leader);
        let is_quiet = self.daemon(leader).is_some_and(|daemon| {
            daemon.open.is_none() && daemon.running.is_empty() && daemon.controller.status(now).pending.is_empty()
        });
        is_quiet
            && self.checks.is_over()
            && self.world.next().is_none()
            && self
                .story
                .lines
                .iter()
                .filter(|line| START + line.at > self.now)
                .all(|line| matches!(line.happening, Happening::Operator(Order::Approve { .. })))
    }

    fn let_the_world_go_on(&mut self) {
        self.checked = self.now;
        self.listen();
        self.watch_roles();
        self.world.go_on(self.now);
        let found = self.checks.world(&self.disk, &self.world, self.now);
        self.broken(found);
    }

    fn daemon_takes(&mut self, n: usize, event: ForDaemon) {
        if let Some(until) = self.nodes[n].paused.filter(|until| *until > self.now) {
            let event = match event {
                // The timer of a probe in flight has long run out when the process goes on.
                ForDaemon::Observed(observation) => ForDaemon::Observed(Box::new(Observation {
                    ended: self.monotonic(n, until).max(observation.began),
                    finding: Finding::Failing { layer: Layer::Tcp, why: "no answer in time".to_owned() },
                    evidence: Default::default(),
                    ..*observation
                })),
                ForDaemon::Answered(answered) => ForDaemon::Answered(ReferenceObservation {
                    ended: self.monotonic(n, until).max(answered.began),
                    answer: Err("no answer in time".to_owned()),
                    ..answered
                }),
                event @ (ForDaemon::Probe(_)
                | ForDaemon::Round(_)
                | ForDaemon::Ask(_)
                | ForDaemon::Deadline(_)
                | ForDaemon::Appended
                | ForDaemon::Task(_)
                | ForDaemon::Deliver(_)
                | ForDaemon::News
                | ForDaemon::Ballot(_)
                | ForDaemon::Claims
                | ForDaemon::Beat) => event,
            };
            self.schedule(until, Event::Daemon(n, self.nodes[n].run, event));
            return;
        }
        match event {
            ForDaemon::Probe(id) => self.probe(n, id),
            ForDaemon::Round(interval) => self.round(n, interval),
            ForDaemon::Ask(id) => self.ask(n, id),
            ForDaemon::Observed(observation) => self.step(n, Input::Observed(*observation)),
            ForDaemon::Answered(answered) => self.step(n, Input::ReferenceObserved(answered)),
            ForDaemon::Deadline(nth) => {
                if self.daemon(n).is_some_and(|daemon| daemon.deadline == nth) {
                    self.step(n, Input::Tick);
                    self.watch_for_spinning(n);
                }
            }
            ForDaemon::Appended => self.appended(n),
            ForDaemon::Task(id) => self.work_on(n, id),
            ForDaemon::Deliver(input) => self.deliver(n, *input),
            ForDaemon::News => {
                self.reaches_ledger(n);
                self.follow(n);
            }
            ForDaemon::Ballot(ballot) => self.step(n, Input::Heard(ballot)),
            ForDaemon::Beat => self.beat(n),
            ForDaemon::Claims => self.watch_claims(n),
        }
    }

    // --- deciding ---

    fn deliver(&mut self, n: usize, input: Input) {
        if matches!(input, Input::Finished { .. } | Input::UndoFinished { .. } | Input::OwedFenceFinished { .. }) {
            let nth = self.counts.outcomes;
            self.counts.outcomes += 1;
            if self.crashes(|crash| crash == Crash::Outcome { nth }) || self.by_chance(5, Chance::DiesBeforeOutcome) {
                return self.die(n, BACK_AFTER);
            }
        }
        self.step(n, input);
    }

    fn step(&mut self, n: usize, input: Input) {
        self.steps(n, [input]);
    }

    /// What comes at one moment.
    fn steps(&mut self, n: usize, inputs: impl IntoIterator<Item = Input>) {
        let now = self.clock(n);
        self.watch_the_clocks(n, now);
        // Whoever was stopped for longer than its lease finds out before it says anything.
        if self.daemon(n).is_some_and(|daemon| daemon.controller.leads() && daemon.lease.until <= now.monotonic) {
            self.deposed(n, "its lease ran out");
        }
        for input in inputs {
            let Some(daemon) = self.daemon_mut(n) else { return };
            let decision = daemon.controller.step(now, input);
            if !(decision.record.is_empty() && decision.perform.is_empty()) {
                self.decided(n, now, decision);
            }
        }
        self.write_the_diary(n, now);
        self.watch_the_deadline(n, now.monotonic);
    }

    fn decided(&mut self, n: usize, now: Now, Decision { record, perform }: Decision) {
        let is_heedless = self.setup.bugs.has(Bug::HaltedGoesOn) || self.setup.bugs.has(Bug::FailedAppendTriedAgain);
        let Some(daemon) = self.daemon_mut(n) else { return };
        let is_open = daemon.open.is_some();
        let is_broken = daemon.controller.has_broken() && !is_heedless;
        if record.is_empty() {
            self.perform_freely(n, perform);
        } else if is_broken {
            if let Some(why) = daemon.controller.halted().map(str::to_owned) {
                daemon.controller.halt(why);
            }
            // Nothing can be recorded, so nothing of it may be done; what people have to know still reaches them.
            let harmless =
                perform.into_iter().filter(|effect| matches!(effect, Effect::Alarm(_) | Effect::AlarmCleared { .. }));
            self.perform_freely(n, harmless.collect());
        } else if is_open {
            self.broken(vec!["the controller decided while an append was open".to_owned()]);
        } else if !daemon.controller.leads() {
            self.broken(vec![format!("a daemon that does not lead decided something: {record:?}")]);
        } else {
            let frame = Frame { index: daemon.next_index, epoch: daemon.lease.epoch, at: now, facts: record };
            let early = self.setup.bugs.has(Bug::PerformedBeforeDurable);
            let held_back = if early { Vec::new() } else { perform.clone() };
            if let Some(daemon) = self.daemon_mut(n) {
                daemon.open = Some((frame, held_back));
            }
            self.stirred = self.now;
            self.for_daemon(n, APPEND, ForDaemon::Appended);
            if early {
                self.perform_too_early(n, perform);
            }
        }
    }

    /// As `daemon::event_loop::clocks` does.
    fn watch_the_clocks(&mut self, n: usize, now: Now) {
        let is_careless = self.setup.bugs.has(Bug::JumpIgnored);
        let Some(daemon) = self.daemon_mut(n) else { return };
        let seen = daemon.clocks.replace(now);
        let Some(by) = seen.and_then(|seen| now.jumped_since(seen)).filter(|_| !is_careless) else { return };
        let leads = daemon.controller.leads();
        daemon.controller.clocks_jumped(now, by);
        daemon.confirmed.void(now);
        self.coverage.count("refusal", Refusal::ClocksJumped);
        if leads && !self.is_alone() {
            if let Some(daemon) = self.daemon_mut(n) {
                let _ = daemon.ledger.resign().now_or_never();
            }
            self.deposed(n, "its clocks jumped apart");
        }
    }

    fn watch_the_deadline(&mut self, n: usize, now: Duration) {
        let Some(daemon) = self.daemon_mut(n) else { return };
        if daemon.open.is_some() {
            return;
        }
        let Some((due, _)) = daemon.controller.next_deadline() else { return };
        if daemon.due == Some(due) && due > now {
            return;
        }
        daemon.due = Some(due);
        daemon.deadline += 1;
        let nth = daemon.deadline;
        let after = due.saturating_sub(now).max(Duration::from_millis(1));
        let after = self.takes(n, after);
        self.for_daemon(n, after, ForDaemon::Deadline(nth));
    }

    /// A daemon that wants to be woken at once whenever it was woken uses up its machine.
    fn watch_for_spinning(&mut self, n: usize) {
        let now = self.clock(n).monotonic;
        let Some(daemon) = self.daemon_mut(n) else { return };
        let at_once =
            daemon.controller.next_deadline().filter(|(due, _)| *due <= now + AT_ONCE && daemon.open.is_none());
        daemon.spins = if at_once.is_some() { daemon.spins + 1 } else { 0 };
        if let Some((_, why)) = at_once
            && daemon.spins == SPINS_MAX
        {
            self.broken(vec![format!("a daemon is woken over and over, and does nothing: {why}")]);
        }
    }

    fn appended(&mut self, n: usize) {
        let nth = self.counts.frames;
        self.counts.frames += 1;
        let sabotage = [
            (Crash::Frame { nth, written: false }, Sabotage::CrashBefore),
            (Crash::Frame { nth, written: true }, Sabotage::CrashAfter),
            (Crash::Disk { nth, written: false }, Sabotage::Full),
            (Crash::Disk { nth, written: true }, Sabotage::Lost),
        ]
        .into_iter()
        .find(|(place, _)| self.crashes(|crash| crash == *place));
        if sabotage.is_none() && self.stops_by_chance(n, Chance::StopsBeforeFrame) {
            return self.for_daemon(n, Duration::ZERO, ForDaemon::Appended);
        }
        let sabotage = sabotage.or_else(|| self.sabotage_by_chance());
        self.reaches_ledger(n);
        let permit = self.setup.permit;
        let Some(daemon) = self.daemon_mut(n) else { return };
        let Some((frame, perform)) = daemon.open.take() else { return };
        if let Some((_, sabotage)) = sabotage {
            daemon.ledger.sabotage_next(sabotage);
        }
        if matches!(sabotage, Some((_, Sabotage::Delayed))) {
            let after = self.spread(FRAME_LATE_MAX);
            self.schedule(self.now + after, Event::LateFrames);
        }
        let Some(daemon) = self.daemon_mut(n) else { return };
        let durable = match daemon.ledger.append(frame.clone()).now_or_never() {
            Some(Ok(durable)) => durable,
            Some(Err(_)) if matches!(sabotage, Some((_, Sabotage::CrashBefore | Sabotage::CrashAfter))) => {
                return self.die(n, BACK_AFTER);
            }
            Some(Err(error)) => return self.not_appended(n, error, frame, perform),
            None => return self.append_failed(n, "the ledger does not answer".to_owned(), frame, perform),
        };
        daemon.next_index += 1;
        daemon.controller.apply(frame.at, &frame.facts);
        let permit = durable.permit(frame.at, permit);
        self.confirm_roles(n, false);
        let found = self.ended_while_worked_on(n, &frame.facts);
        self.broken(found);
        for fact in frame.facts {
            self.cover(&fact);
            let would = self.would_do(n, &fact);
            // Its answer says the same.
            if !matches!(fact, Fact::OrderTaken { .. }) {
                self.note(What::Fact { recorded: fact });
            }
            if let Some(plan) = would {
                self.note(What::Would { plan });
            }
        }
        self.listen();
        let found = self.checks.read(&self.disk, &self.world, self.now);
        self.broken(found);
        for other in (0..self.nodes.len()).filter(|other| *other != n) {
            self.for_daemon(other, seat::NEWS_TAKES, ForDaemon::News);
        }
        // Something may have broken meanwhile: then people are told, and nothing else happens.
        let is_heedless = self.setup.bugs.has(Bug::HaltedGoesOn);
        let is_broken = self.daemon(n).is_some_and(|daemon| daemon.controller.has_broken()) && !is_heedless;
        for effect in perform {
            let is_harmless = matches!(effect, Effect::Alarm(_) | Effect::AlarmCleared { .. } | Effect::Reply { .. });
            if is_harmless || !is_broken {
                self.perform(n, effect, &permit);
            }
        }
        self.step(n, Input::Tick);
    }

    /// The record says that a step has ended, and somebody still works on it.
    fn ended_while_worked_on(&self, n: usize, facts: &[Fact]) -> Vec<String> {
        let Some(daemon) = self.daemon(n) else { return Vec::new() };
        let ended = facts.iter().filter_map(|fact| {
            if let Fact::StepDone { plan, step, .. } | Fact::StepFailed { plan, step, .. } = fact {
                Some((plan, step))
            } else {
                None
            }
        });
        ended
            .filter(|(plan, step)| {
                daemon.running.values().any(|running| {
                    matches!(&running.work, Work::Perform(task) if task.plan == **plan && task.step == **step)
                })
            })
            .map(|(plan, step)| format!("{plan}/{step} was recorded as ended while it was worked on"))
            .collect()
    }

    /// The plan that the mode holds back.
    fn would_do(&self, n: usize, fact: &Fact) -> Option<String> {
        let Fact::Withheld { source, part, .. } = fact else { return None };
        let scope = Scope::of(source, part);
        let dry_run = self.daemon(n)?.controller.plan_if(self.clock(n), &scope).ok()?;
        Some(plan::render(&dry_run.steps))
    }

    // --- the end ---

    fn report(mut self) -> Report {
        // Where nobody leads, the first one that runs knows what there is to know.
        let runs = || (0..self.nodes.len()).find(|n| self.nodes[*n].daemon.is_some());
        let n = self.leader().or_else(runs).unwrap_or(0);
        let now = self.clock(n);
        let status = self.daemon(n).map(|daemon| daemon.controller.status(now));
        let is_busy = self.daemon(n).is_none_or(|daemon| daemon.open.is_some() || !daemon.running.is_empty());
        let found = self.checks.end(&self.world, self.now, status.as_ref(), is_busy);
        self.broken(found);
        let end = End::of(&self.world, self.now, status.as_ref(), self.alarms);
        let coverage = self.coverage;
        Report { entries: self.entries, end, broken: self.checks.broken, counts: self.counts, coverage }
    }
}
