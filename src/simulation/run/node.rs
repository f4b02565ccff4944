//! The daemons of a deployment: each starts, dies, is stopped and goes on, and looks at the world from where it stands.

use super::*;
use crate::domain::{ObserverId, RegionId};
use crate::health::Memory;
use crate::ports::Candidacy;
use crate::simulation::run::roles::Guardian;
use crate::simulation::story::Fate;

/// A daemon writes down this often what the next run of it has to know; a real one, every two seconds.
const DIARY: Duration = Duration::from_secs(6);

/// A place where a daemon runs.
pub(super) struct Node {
    pub(super) observer: ObserverId,
    pub(super) region: RegionId,
    /// Which run of the daemon; what is meant for another one is lost.
    pub(super) run: u64,
    pub(super) daemon: Option<Daemon>,
    /// Stopped until then, without knowing.
    pub(super) paused: Option<Duration>,
    /// Its own link is cut: everything looks dead to it, and nothing is.
    is_cut_off: bool,
    /// It cannot reach the ledger, whatever else it reaches.
    is_silent: bool,
    /// By how much its wall clock is wrong.
    pub(super) skew: SignedDuration,
    /// By how much its monotonic clock is ahead of that of the world: its machine was booted at another time.
    ahead: Duration,
    /// Its whole machine stands still until then, without knowing.
    pub(super) suspended: Option<Duration>,
    /// Beside the database of its region.
    pub(super) guardian: Option<Guardian>,
    /// For how long it stood still.
    stood_still: Duration,
    /// How many millionths it is too fast.
    drift: i64,
    /// What the last run of the daemon wrote down for the next one.
    diary: Option<Memory>,
}

/// Most clocks drift by less than this, in millionths.
const DRIFT: u64 = 500;
/// One in ten is that of a virtual machine which does not get its ticks.
const DRIFT_BAD: u64 = 20_000;
/// Machines were booted within so many seconds of each other.
const BOOTED_WITHIN: u64 = 30 * 24 * 3600;

impl Simulation<'_> {
    /// The daemon of the configuration first, then the others.
    pub(super) fn gather(&mut self) {
        let policy = &self.setup.policy;
        let own = (policy.observer.clone(), policy.observer_region.clone());
        let mut seats = policy.council.observers.clone();
        seats.remove(&own.0);
        for (observer, region) in [own].into_iter().chain(seats) {
            let (ahead, drift) = self.clock_by_chance();
            let guardian = self.guardian_of(&region);
            self.nodes.push(Node {
                observer,
                region,
                run: 0,
                daemon: None,
                paused: None,
                is_cut_off: false,
                is_silent: false,
                skew: SignedDuration::ZERO,
                ahead,
                suspended: None,
                guardian,
                stood_still: Duration::ZERO,
                drift,
                diary: None,
            });
        }
        for n in 0..self.nodes.len() {
            self.schedule(self.now, Event::Boot(n));
        }
    }

    /// By how much a machine's monotonic clock is ahead, and how many millionths it is too fast: on days by chance each has
    /// its own.
    fn clock_by_chance(&mut self) -> (Duration, i64) {
        let Some(dice) = self.dice.as_mut().filter(|_| self.is_rough) else { return (Duration::ZERO, 0) };
        let most = if dice.below(10) == 0 { DRIFT_BAD } else { DRIFT };
        let drift =
            i64::try_from(dice.below(2 * most + 1)).unwrap_or_default() - i64::try_from(most).unwrap_or_default();
        (Duration::from_secs(dice.below(BOOTED_WITHIN)), drift)
    }

    /// What a node's monotonic clock says at a moment of the world.
    pub(super) fn monotonic(&self, n: usize, at: Duration) -> Duration {
        let Some(node) = self.nodes.get(n) else { return at };
        let drifted =
            i128::try_from((at.saturating_sub(START - WARM_UP)).as_nanos()).unwrap_or(0) * i128::from(node.drift);
        let drifted = drifted / 1_000_000;
        let by = Duration::from_nanos(u64::try_from(drifted.unsigned_abs()).unwrap_or(0));
        let at = at + node.ahead;
        let at = if drifted < 0 { at.saturating_sub(by) } else { at + by };
        at.saturating_sub(node.stood_still)
    }

    /// How long it takes in the world until that has gone by on a node's clock.
    pub(super) fn takes(&self, n: usize, by_its_clock: Duration) -> Duration {
        let drift = self.nodes.get(n).map_or(0, |node| node.drift);
        let nanos = i128::try_from(by_its_clock.as_nanos()).unwrap_or(0) * 1_000_000;
        // Rounded up: a timer never fires early.
        let nanos = (nanos + i128::from(999_999 + drift)) / i128::from(1_000_000 + drift);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    pub(super) fn clock(&self, n: usize) -> Now {
        let since = SignedDuration::try_from(self.now).unwrap_or_default();
        let start = SignedDuration::try_from(START).unwrap_or_default();
        let from = self.story.settings.from;
        let skew = self.nodes.get(n).map_or(SignedDuration::ZERO, |node| node.skew);
        Now { monotonic: self.monotonic(n, self.now), wall: from.checked_add(since - start + skew).unwrap_or(from) }
    }

    pub(super) fn vantage(&self, n: usize) -> Vantage {
        let node = &self.nodes[n];
        Vantage { region: node.region.clone(), is_cut_off: node.is_cut_off }
    }

    /// Where this node can reach the ledger; the ledger is told.
    pub(super) fn reaches_ledger(&mut self, n: usize) -> bool {
        let reaches = !self.nodes[n].is_silent && self.world.network.ledger_answers(&self.vantage(n));
        let observer = &self.nodes[n].observer;
        if reaches {
            self.disk.heal(observer);
        } else {
            self.disk.cut(observer);
        }
        self.disk.set_time(self.now);
        reaches
    }

    /// The checks are told which regions are heard.
    pub(super) fn listen(&mut self) {
        if self.is_alone() {
            return;
        }
        let is_sound = |node: &&Node| {
            let vantage = Vantage { region: node.region.clone(), is_cut_off: node.is_cut_off };
            let runs = node.paused.is_none_or(|until| until <= self.now);
            let daemon = node.daemon.as_ref().filter(|daemon| daemon.controller.halted().is_none());
            runs && daemon.is_some() && !node.is_silent && self.world.network.ledger_answers(&vantage)
        };
        let sound: Vec<&RegionId> = self.nodes.iter().filter(is_sound).map(|node| &node.region).collect();
        self.checks.hear(&sound, self.now);
    }

    /// The node that leads, as far as it knows.
    pub(super) fn leader(&self) -> Option<usize> {
        let leads = |node: &Node| node.daemon.as_ref().is_some_and(|daemon| daemon.controller.leads());
        // Of two that believe it, the later one is right.
        let epoch = |n: &usize| self.nodes[*n].daemon.as_ref().map_or(0, |daemon| daemon.lease.epoch);
        (0..self.nodes.len()).filter(|n| leads(&self.nodes[*n])).max_by_key(epoch)
    }

    pub(super) fn daemon(&self, n: usize) -> Option<&Daemon> {
        self.nodes[n].daemon.as_ref()
    }

    pub(super) fn daemon_mut(&mut self, n: usize) -> Option<&mut Daemon> {
        self.nodes[n].daemon.as_mut()
    }

    pub(super) fn befall(&mut self, observer: &ObserverId, fate: Fate) -> Result<(), String> {
        let n = self.nodes.iter().position(|node| node.observer == *observer);
        let n = n.ok_or_else(|| format!("{observer} is no observer of this deployment"))?;
        self.coverage.count("daemon", fate);
        match fate {
            Fate::FallsSilent => self.nodes[n].is_silent = true,
            Fate::IsBack => self.nodes[n].is_silent = false,
            Fate::Halts => {
                if let Some(daemon) = self.daemon_mut(n) {
                    daemon.controller.halt("the story says so".to_owned());
                }
            }
            Fate::Stops(lasting) => self.die(n, lasting),
            Fate::Pauses(lasting) => self.nodes[n].paused = Some(self.now + lasting),
            Fate::IsSuspended(lasting) => {
                self.nodes[n].paused = Some(self.now + lasting);
                self.nodes[n].suspended = Some(self.now + lasting);
                self.nodes[n].stood_still += lasting;
            }
            Fate::ClockSteps(by) => {
                self.checks.clock_was_set();
                self.nodes[n].skew = self.nodes[n].skew.saturating_add(by);
            }
            Fate::LinkCut(cut) => self.nodes[n].is_cut_off = cut,
        }
        Ok(())
    }

    /// What a node of this deployment is started with.
    fn setup_of(&self, n: usize) -> Setup {
        let node = &self.nodes[n];
        let mut setup = match &self.options.after_restart {
            Some(edited) if node.run > 1 => edited.as_ref().clone(),
            Some(_) | None => self.setup.clone(),
        };
        setup.policy.observer = node.observer.clone();
        setup.policy.observer_region = node.region.clone();
        setup
    }

    pub(super) fn boot(&mut self, n: usize) {
        self.nodes[n].run += 1;
        let is_alone = self.is_alone();
        if is_alone {
            self.disk.mended();
        } else if !self.reaches_ledger(n) {
            // It waits for its ledger, as a daemon does that starts.
            return self.schedule(self.now + BACK_AFTER, Event::Boot(n));
        }
        let frames = self.disk.frames();
        let next_index = frames.len() as u64;
        let ledger = if is_alone {
            MemoryLedger::open(&self.disk)
        } else {
            MemoryLedger::join(&self.disk, self.nodes[n].observer.clone(), self.setup.lease)
        };
        let mut lease = Lease { epoch: 0, until: Duration::ZERO };
        if is_alone {
            let Some(Ok(Candidacy::Leading(won))) = ledger.campaign(self.clock(n)).now_or_never() else { return };
            lease = won;
        }
        let setup = self.setup_of(n);
        let mut controller = match Controller::recover_with(setup.policy, setup.policy_hash, frames, self.setup.bugs) {
            Ok(controller) => controller,
            Err(corrupt) => return self.broken(vec![format!("its own ledger is refused: {corrupt}")]),
        };
        if let Some(memory) = &self.nodes[n].diary {
            controller.recall(self.clock(n), memory);
        }
        self.nodes[n].daemon = Some(Daemon::new(controller, ledger, lease, next_index, self.now));
        self.stirred = self.now;
        if is_alone {
            self.alarms.clear();
            self.step(n, Input::Restarted);
        }
        self.begin_to_probe(n);
        self.for_daemon(n, CLAIMS_EVERY, ForDaemon::Claims);
        if !is_alone {
            let after = self.spread(self.beat_every());
            self.for_daemon(n, after, ForDaemon::Beat);
        }
    }

    /// As `daemon::memory` does.
    pub(super) fn write_the_diary(&mut self, n: usize, now: Now) {
        let node = &mut self.nodes[n];
        let is_due =
            node.diary.as_ref().is_none_or(|memory| now.monotonic.saturating_sub(memory.at.monotonic) >= DIARY);
        if let Some(daemon) = node.daemon.as_mut().filter(|_| is_due) {
            node.diary = Some(daemon.controller.memory(now));
        }
    }

    pub(super) fn die(&mut self, n: usize, back_after: Duration) {
        if self.nodes[n].daemon.take().is_some() {
            let text = self.of_node(n, "stops");
            self.note(What::Daemon { text });
        }
        // What it had under way is lost with it, but for calls that were sent.
        self.nodes[n].run += 1;
        self.stirred = self.now;
        self.schedule(self.now + back_after, Event::Boot(n));
    }

    /// What a node does, with its name where there are several.
    pub(super) fn of_node(&self, n: usize, does: &str) -> String {
        if self.is_alone() { does.to_owned() } else { format!("{} {does}", self.nodes[n].observer) }
    }

    pub(super) fn is_alone(&self) -> bool {
        self.nodes.len() == 1
    }

    pub(super) fn crashes(&mut self, here: impl Fn(Crash) -> bool) -> bool {
        let Some(place) = self.crashes.iter().position(|crash| here(*crash)) else { return false };
        self.crashes.remove(place);
        true
    }

    /// Nothing is performed any more: nobody knows what is in the ledger until somebody has looked.
    pub(super) fn append_failed(&mut self, n: usize, why: String, frame: Frame, perform: Vec<Effect>) {
        if self.setup.bugs.has(Bug::LostAppendIsFailure) || self.setup.bugs.has(Bug::FailedAppendTriedAgain) {
            return self.append_failed_and_nobody_cares(n, frame, perform);
        }
        let run = self.nodes[n].run;
        let Some(daemon) = self.daemon_mut(n) else { return };
        let is_news = daemon.controller.halted().is_none();
        daemon.controller.halt(why.clone());
        if is_news {
            let text = self.of_node(n, &format!("halts: {why}"));
            self.note(What::Daemon { text });
            self.schedule(self.now + MENDED_AFTER, Event::Mend(n, run));
            self.step(n, Input::Tick);
        }
    }

    /// What a careless loop would do instead.
    fn append_failed_and_nobody_cares(&mut self, n: usize, frame: Frame, perform: Vec<Effect>) {
        let now = self.clock(n);
        let ledger = MemoryLedger::open(&self.disk);
        let frames = self.disk.frames().len() as u64;
        let is_taken_for_a_failure = self.setup.bugs.has(Bug::LostAppendIsFailure);
        let Some(daemon) = self.daemon_mut(n) else { return };
        daemon.ledger = ledger;
        if let Some(Ok(Candidacy::Leading(lease))) = daemon.ledger.campaign(now).now_or_never() {
            daemon.lease = lease;
        }
        if is_taken_for_a_failure {
            daemon.next_index = frames;
            daemon.controller.apply(now, &[]);
            return self.step(n, Input::Tick);
        }
        daemon.open = Some((Frame { epoch: daemon.lease.epoch, ..frame }, perform));
        self.for_daemon(n, APPEND, ForDaemon::Appended);
    }
}
