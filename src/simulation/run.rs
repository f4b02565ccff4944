//! The loop of a simulation: one queue of events, one clock that jumps from one to the next.

mod life;
mod peers;
mod perform;
mod probes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::FutureExt as _;
use jiff::SignedDuration;

use super::check::Checks;
use super::daemon::{Daemon, Phase, Running, Then, Work};
use super::dice::Dice;
use super::report::{Counts, End, Entry, Report, What};
use super::story::{Condition, Happening, LedgerBefore, Order, Story};
use super::world::{LATENCY, World};
use crate::decide::{
    Command, Controller, Decision, Effect, Fact, Frame, Input, ReferenceObservation, Scope, StepOutcome,
};
use crate::domain::{Bug, Bugs, Finding, InstanceId, Layer, Now, Observation, Policy, ReferenceId};
use crate::ledger::{MemoryDisk, MemoryLedger, Permit, Sabotage};
use crate::plan::{self, Action};
use crate::ports::Ledger;

/// The daemon has been watching for that long when a story begins.
const WARM_UP: Duration = Duration::from_secs(300);
/// The machine has been up for that long when a story begins.
const START: Duration = Duration::from_secs(10_000);
/// Looked at for that long after the last line, unless the story says until when.
const AFTER: Duration = Duration::from_secs(20 * 60);
/// An fsync.
const APPEND: Duration = Duration::from_millis(2);
/// A daemon that crashed is back after this.
const BACK_AFTER: Duration = Duration::from_secs(5);
/// Somebody makes room on the disk and starts a halted daemon anew after this.
const MENDED_AFTER: Duration = Duration::from_secs(60);
/// Nothing was recorded for so long: whatever was going on is over.
const SETTLED_AFTER: Duration = Duration::from_secs(90);
/// Events after which a simulation is given up: it does not settle.
const EVENTS_MAX: u64 = 20_000_000;
const LEDGER: &str = "0190a1b2-0000-7000-8000-5701240000ff";

/// What a story is played with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The policy of the configuration, with the story's settings.
    pub policy: Policy,
    /// Its hash.
    pub policy_hash: String,
    /// How long a permit lasts.
    pub permit: Duration,
    /// Mistakes to be made, in tests of the tests.
    pub(crate) bugs: Bugs,
}

/// What else goes wrong.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// With a seed, probes are spread, answers take their time, come twice and overtake each other. Without one,
    /// everything is on time.
    pub seed: Option<u64>,
    /// The daemon dies at each of these, once.
    pub crashes: Vec<Crash>,
    /// Somebody edits the configuration: what a daemon reads when it starts anew. None means the same as before.
    pub after_restart: Option<Box<Setup>>,
    /// Ends early once no incident is open, nothing is going on any more, and the story only has approvals left to give.
    pub until_settled: bool,
}

/// Where a daemon dies, or its disk does. It is back a moment later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// While it records this frame (from 0): before it is written, or after.
    Frame {
        /// Which.
        nth: u64,
        /// It is durable.
        written: bool,
    },
    /// At this mutating call (from 0): before it is sent, or before its answer is heard.
    Call {
        /// Which.
        nth: u64,
        /// It was sent.
        sent: bool,
    },
    /// When this step's end (from 0) is known, and before it is recorded.
    Outcome {
        /// Which.
        nth: u64,
    },
    /// The append of this frame (from 0) fails: the disk is full, or the frame is there and the answer says otherwise.
    /// The daemon lives on, halted, until it is started anew.
    Disk {
        /// Which.
        nth: u64,
        /// It is durable, and nobody knows.
        written: bool,
    },
}

/// A story that cannot be played.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// A line is about something that is not in the configuration.
    #[error("line {line}: {what}")]
    Line {
        /// Line number.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// It goes on for ever.
    #[error("the simulation did not come to its end: {0} events and counting")]
    Endless(u64),
}

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
    Boot,
    /// Somebody ends the run of the daemon with this number, which is halted.
    Mend(u64),
    /// For the run of the daemon with this number; lost if it is another one.
    Daemon(u64, ForDaemon),
    /// For one of the other observers.
    Peer(usize, peers::ForPeer),
}

enum ForDaemon {
    Probe(InstanceId),
    Ask(ReferenceId),
    Observed(Box<Observation>),
    Answered(ReferenceObservation),
    Deadline(u64),
    Appended,
    Task(u64),
    Deliver(Box<Input>),
}

struct Simulation<'a> {
    story: &'a Story,
    setup: &'a Setup,
    now: Duration,
    queue: BTreeMap<(Duration, u64), Event>,
    events: u64,
    world: World,
    disk: MemoryDisk,
    daemon: Option<Daemon>,
    peers: Vec<peers::Peer>,
    run: u64,
    /// Stopped until then, without knowing.
    paused: Option<Duration>,
    dice: Option<Dice>,
    probe_dice: Dice,
    options: &'a Options,
    crashes: Vec<Crash>,
    /// When something was last recorded or told.
    stirred: Duration,
    checked: Duration,
    checks: Checks,
    counts: Counts,
    entries: Vec<Entry>,
    alarms: BTreeSet<String>,
    next_command: u64,
    end: Duration,
}

impl<'a> Simulation<'a> {
    fn new(story: &'a Story, setup: &'a Setup, options: &'a Options) -> Self {
        let last = story.lines.last().map_or(Duration::ZERO, |line| line.at);
        let world = World::new(&setup.policy);
        let mut simulation = Self {
            story,
            setup,
            now: START - WARM_UP,
            queue: BTreeMap::new(),
            events: 0,
            world,
            disk: MemoryDisk::default(),
            daemon: None,
            peers: Vec::new(),
            run: 0,
            paused: None,
            dice: options.seed.map(Dice::new),
            probe_dice: Dice::new(options.seed.unwrap_or(1)),
            options,
            crashes: options.crashes.clone(),
            stirred: START,
            checked: Duration::ZERO,
            checks: Checks::new(&setup.policy),
            counts: Counts::default(),
            entries: Vec::new(),
            alarms: BTreeSet::new(),
            next_command: 1,
            end: START + story.settings.until.unwrap_or(last + AFTER),
        };
        simulation.prepare_ledger();
        simulation.gather_peers();
        simulation.schedule(simulation.now, Event::Boot);
        for (n, line) in story.lines.iter().enumerate() {
            simulation.schedule(START + line.at, Event::Story(n));
        }
        simulation
    }

    fn prepare_ledger(&mut self) {
        let now = self.clock();
        self.disk = MemoryDisk::new(LEDGER, now);
        if self.story.settings.ledger == LedgerBefore::Empty {
            return;
        }
        let mut frames = self.disk.frames();
        let adopted = Fact::PlacementAdopted { placement: self.checks.home(), by: "the story".to_owned() };
        frames.push(Frame { index: 1, epoch: 0, at: now, facts: vec![adopted] });
        self.disk = MemoryDisk::with(frames);
    }

    fn clock(&self) -> Now {
        let since = SignedDuration::try_from(self.now).unwrap_or_default();
        let start = SignedDuration::try_from(START).unwrap_or_default();
        let from = self.story.settings.from;
        Now { monotonic: self.now, wall: from.checked_add(since - start).unwrap_or(from) }
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        self.events += 1;
        self.queue.insert((at.max(self.now), self.events), event);
    }

    fn for_daemon(&mut self, after: Duration, event: ForDaemon) {
        self.schedule(self.now + after, Event::Daemon(self.run, event));
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
            let is_a_look = matches!(
                event,
                Event::Daemon(
                    _,
                    ForDaemon::Probe(_) | ForDaemon::Ask(_) | ForDaemon::Observed(_) | ForDaemon::Answered(_)
                ) | Event::Peer(..)
            );
            if !is_a_look || self.now >= self.checked + Duration::from_secs(1) {
                self.let_the_world_go_on();
            }
            match event {
                Event::Story(n) => self.tell(n)?,
                Event::World => {}
                Event::Peer(n, event) => self.peer_takes(n, event),
                Event::Boot => self.boot(),
                Event::Mend(run) if run == self.run => self.die(Duration::from_secs(1)),
                Event::Mend(_) => {}
                Event::Daemon(run, event) => {
                    if run == self.run && self.daemon.is_some() {
                        self.daemon_takes(event);
                    }
                }
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
        let now = self.clock();
        let is_quiet = self.daemon.as_ref().is_some_and(|daemon| {
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
        self.world.go_on(self.now);
        let found = self.checks.world(&self.disk, &self.world, self.now);
        self.broken(found);
    }

    fn daemon_takes(&mut self, event: ForDaemon) {
        if let Some(until) = self.paused.filter(|until| *until > self.now) {
            let event = match event {
                // The timer of a probe in flight has long run out when the process goes on.
                ForDaemon::Observed(observation) => ForDaemon::Observed(Box::new(Observation {
                    ended: until,
                    finding: Finding::Failing { layer: Layer::Tcp, why: "no answer in time".to_owned() },
                    evidence: Default::default(),
                    ..*observation
                })),
                ForDaemon::Answered(answered) => ForDaemon::Answered(ReferenceObservation {
                    ended: until,
                    answer: Err("no answer in time".to_owned()),
                    ..answered
                }),
                event @ (ForDaemon::Probe(_)
                | ForDaemon::Ask(_)
                | ForDaemon::Deadline(_)
                | ForDaemon::Appended
                | ForDaemon::Task(_)
                | ForDaemon::Deliver(_)) => event,
            };
            self.schedule(until, Event::Daemon(self.run, event));
            return;
        }
        match event {
            ForDaemon::Probe(id) => self.probe(id),
            ForDaemon::Ask(id) => self.ask(id),
            ForDaemon::Observed(observation) => self.step(Input::Observed(*observation)),
            ForDaemon::Answered(answered) => self.step(Input::ReferenceObserved(answered)),
            ForDaemon::Deadline(n) => {
                if self.daemon.as_ref().is_some_and(|daemon| daemon.deadline == n) {
                    self.step(Input::Tick);
                }
            }
            ForDaemon::Appended => self.appended(),
            ForDaemon::Task(id) => self.work_on(id),
            ForDaemon::Deliver(input) => self.deliver(*input),
        }
    }

    // --- the story ---

    fn tell(&mut self, n: usize) -> Result<(), SetupError> {
        let line = &self.story.lines[n];
        self.stirred = self.now;
        self.note(What::Happens { text: line.text.clone() });
        let at_line = |what: String| SetupError::Line { line: line.number, what };
        match &line.happening {
            Happening::Instances { which, condition } => {
                if let Condition::Flaps { every, lasting } = condition {
                    // The world has to be looked at when it changes by itself.
                    self.schedule(self.now + (*every).min(*lasting), Event::World);
                }
                self.world.befall(self.now, which, condition).map_err(at_line)?;
            }
            Happening::References { which, answers } => {
                self.world.set_references(which.as_ref(), *answers).map_err(at_line)?;
            }
            Happening::Link { cut } => self.world.link_cut = *cut,
            Happening::Partition { between: (one, other), cut } => {
                self.world.part(one, other, *cut).map_err(at_line)?;
            }
            Happening::Observer { observer, fate } => self.befall_peer(observer, *fate).map_err(at_line)?,
            Happening::Pause(lasting) => self.paused = Some(self.now + *lasting),
            Happening::Restart(lasting) => self.die(*lasting),
            Happening::Works { work, behaviour } => self.world.set_behaviour(work, behaviour),
            Happening::Claimed { region, ledger } => self.world.claim_as_another(region, ledger),
            Happening::Operator(order) => self.order(order.clone()).map_err(at_line)?,
        }
        self.let_the_world_go_on();
        Ok(())
    }

    fn order(&mut self, order: Order) -> Result<(), String> {
        let now = self.clock();
        let Some(daemon) = &self.daemon else {
            self.note(What::Answer { answer: Err("failoverd is not running".to_owned()) });
            return Ok(());
        };
        let latest = daemon.controller.status(now).incidents.first().map(|incident| incident.incident.clone());
        let incident = || latest.clone().ok_or_else(|| "there is no incident that an operator could mean".to_owned());
        let by = "operator".to_owned();
        let command = match order {
            Order::Approve { accept_unfenced, accept_loss } => {
                Command::Approve { by, incident: incident()?, hash: None, accept_unfenced, accept_loss }
            }
            Order::Hold => Command::Hold { by, incident: incident()? },
            Order::Pause { lasting, reason } => {
                let until = now.wall.checked_add(lasting).unwrap_or(now.wall);
                Command::Pause { by, until, reason }
            }
            Order::Resume => Command::Resume { by },
            Order::Failover { from, component, force } => {
                Command::Failover { by, reason: "the story says so".to_owned(), from, component, force }
            }
            Order::Ack { false_positive } => {
                Command::Ack { by, incident: incident()?, false_positive, note: String::new() }
            }
            Order::Retry(step) => Command::Retry { by, incident: incident()?, step },
            Order::Skip(step) => Command::Skip { by, incident: incident()?, step },
            Order::Abort => Command::Abort { by, incident: incident()? },
            Order::Adopt(placement) => Command::Adopt { by, placement: placement.into_iter().collect() },
        };
        let id = self.next_command;
        self.next_command += 1;
        self.for_daemon(Duration::ZERO, ForDaemon::Deliver(Box::new(Input::Commanded { id, command })));
        Ok(())
    }

    // --- deciding ---

    fn deliver(&mut self, input: Input) {
        if matches!(input, Input::Finished { .. } | Input::UndoFinished { .. } | Input::OwedFenceFinished { .. }) {
            let nth = self.counts.outcomes;
            self.counts.outcomes += 1;
            if self.crashes(|crash| crash == Crash::Outcome { nth }) {
                return self.die(BACK_AFTER);
            }
        }
        self.step(input);
    }

    fn step(&mut self, input: Input) {
        let now = self.clock();
        let Some(daemon) = &mut self.daemon else { return };
        let Decision { record, perform } = daemon.controller.step(now, input);
        let is_open = daemon.open.is_some();
        if record.is_empty() {
            self.perform_freely(perform);
        } else if is_open {
            self.broken(vec!["the controller decided while an append was open".to_owned()]);
        } else if let Some(daemon) = &mut self.daemon {
            self.stirred = self.now;
            let frame = Frame { index: daemon.next_index, epoch: daemon.lease.epoch, at: now, facts: record };
            let early = self.setup.bugs.has(Bug::PerformedBeforeDurable);
            daemon.open = Some((frame, if early { Vec::new() } else { perform.clone() }));
            self.for_daemon(APPEND, ForDaemon::Appended);
            if early {
                self.perform_too_early(perform);
            }
        }
        self.watch_the_deadline();
    }

    fn watch_the_deadline(&mut self) {
        let Some(daemon) = &mut self.daemon else { return };
        if daemon.open.is_some() {
            return;
        }
        let Some((due, _)) = daemon.controller.next_deadline() else { return };
        daemon.deadline += 1;
        let n = daemon.deadline;
        let after = due.saturating_sub(self.now).max(Duration::from_millis(1));
        self.for_daemon(after, ForDaemon::Deadline(n));
    }

    fn appended(&mut self) {
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
        let Some(daemon) = &mut self.daemon else { return };
        let Some((frame, perform)) = daemon.open.take() else { return };
        if let Some((_, sabotage)) = sabotage {
            daemon.ledger.sabotage_next(sabotage);
        }
        let durable = match daemon.ledger.append(frame.clone()).now_or_never() {
            Some(Ok(durable)) => durable,
            Some(Err(_)) if matches!(sabotage, Some((Crash::Frame { .. }, _))) => return self.die(BACK_AFTER),
            Some(Err(error)) => return self.append_failed(error.to_string(), frame, perform),
            None => return self.append_failed("the ledger does not answer".to_owned(), frame, perform),
        };
        daemon.next_index += 1;
        daemon.controller.apply(frame.at, &frame.facts);
        self.tell_peers(&frame);
        let permit = durable.permit(self.clock(), self.setup.permit);
        let found = self.ended_while_worked_on(&frame.facts);
        self.broken(found);
        for fact in frame.facts {
            let would = self.would_do(&fact);
            self.note(What::Fact { recorded: fact });
            if let Some(plan) = would {
                self.note(What::Would { plan });
            }
        }
        let found = self.checks.read(&self.disk, &self.world, self.now);
        self.broken(found);
        for effect in perform {
            self.perform(effect, &permit);
        }
        self.step(Input::Tick);
    }

    /// The record says that a step has ended, and somebody still works on it.
    fn ended_while_worked_on(&self, facts: &[Fact]) -> Vec<String> {
        let Some(daemon) = &self.daemon else { return Vec::new() };
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
    fn would_do(&self, fact: &Fact) -> Option<String> {
        let Fact::Withheld { source, part, .. } = fact else { return None };
        let scope = Scope::of(source, part);
        let dry_run = self.daemon.as_ref()?.controller.plan_if(self.clock(), &scope).ok()?;
        Some(plan::render(&dry_run.steps))
    }

    // --- the end ---

    fn report(mut self) -> Report {
        let now = self.clock();
        let status = self.daemon.as_ref().map(|daemon| daemon.controller.status(now));
        let is_busy = self.daemon.as_ref().is_none_or(|daemon| daemon.open.is_some() || !daemon.running.is_empty());
        let found = self.checks.end(&self.world, self.now, status.as_ref(), is_busy);
        self.broken(found);
        let end = End::of(&self.world, self.now, status.as_ref(), self.alarms);
        Report { entries: self.entries, end, broken: self.checks.broken, counts: self.counts }
    }
}
