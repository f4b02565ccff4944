//! A whole daemon in one process: the real event loop, controller, executor and API, on a ledger in memory, with a
//! world and a clock that a test tells what to do. For the tests of the loop and of the API.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use failoverd::config::{SecretSource, load, policy_hash};
use failoverd::daemon::event_loop::{BeyondHelp, Council, EventLoop, Parts};
use failoverd::daemon::executor::{self, Executor, World};
use failoverd::daemon::gate::{Gate, Permits};
use failoverd::daemon::handle::{Answer, Board, Handle};
use failoverd::daemon::notices::Notices;
use failoverd::daemon::prober::{ProberCounters, Sighting};
use failoverd::daemon::pulse::{Herald, Pulse};
use failoverd::daemon::seat::Seat;
use failoverd::decide::{Command, Controller, Divergence, Fact, RecoveryPoint, ReferenceObservation, Status};
use failoverd::domain::{Evidence, Finding, InstanceId, Kind, Layer, Now, Observation, Policy, RegionId, Serving};
use failoverd::ledger::{MemoryDisk, MemoryLedger, Sabotage};
use failoverd::plan::Action;
use failoverd::ports::{
    Actuator, Claim, Claims, Clock, Lease, Ledger, Look, Losses, Notice, Notifier, Permit, Setback, Watermarks,
};
use failoverd::telemetry::{Gauges, Meters};
use failoverd::web::{self, Access, Api, Limits, Record};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Stands still until a test moves it.
#[derive(Debug, Clone, Default)]
pub(crate) struct TestClock {
    millis: Arc<AtomicU64>,
}

impl TestClock {
    pub(crate) fn advance(&self, by: Duration) {
        self.millis.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Now {
        let elapsed = Duration::from_millis(self.millis.load(Ordering::SeqCst));
        let wall = "2026-01-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap() + elapsed;
        Now { monotonic: Duration::from_secs(1000) + elapsed, wall }
    }
}

/// The document's deployment.
pub(crate) fn omnimesh() -> Policy {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/omnimesh.toml");
    load(&[path], &BTreeMap::new()).expect("the document's file is right").policy
}

/// Does at once what it is asked, and remembers it together with what was durable at that moment.
pub(crate) struct Obedient {
    disk: MemoryDisk,
    pub(crate) acts: Mutex<Vec<String>>,
    /// Acts whose start was not in the ledger.
    pub(crate) premature: Mutex<Vec<String>>,
}

impl Obedient {
    pub(crate) fn new(disk: &MemoryDisk) -> Self {
        Self { disk: disk.clone(), acts: Mutex::default(), premature: Mutex::default() }
    }

    fn is_recorded(&self, key: &str) -> bool {
        let started =
            |fact: &Fact| matches!(fact, Fact::StepStarted { plan, step, .. } if format!("{plan}/{step}") == key);
        self.disk.frames().iter().flat_map(|frame| &frame.facts).any(started)
    }
}

#[async_trait]
impl Actuator for Obedient {
    async fn look(&self, key: &str, _action: &Action) -> Result<Look, Setback> {
        let satisfied = self.acts.lock().unwrap().iter().any(|act| act == key);
        Ok(Look { satisfied, summary: "as told".to_owned(), previous: Value::Null })
    }

    async fn act(&self, key: &str, _action: &Action, _look: &Look, _permit: &Permit) -> Result<(), Setback> {
        if !self.is_recorded(key) {
            self.premature.lock().unwrap().push(key.to_owned());
        }
        self.acts.lock().unwrap().push(key.to_owned());
        Ok(())
    }

    async fn verify(&self, _key: &str, _action: &Action) -> Result<String, Setback> {
        Ok("it is so".to_owned())
    }

    async fn undo(&self, key: &str, _action: &Action, _previous: &Value, _permit: &Permit) -> Result<String, Setback> {
        self.acts.lock().unwrap().retain(|act| act != key);
        Ok("as before".to_owned())
    }
}

#[async_trait]
impl Claims for Obedient {
    async fn claims(&self) -> BTreeMap<RegionId, Option<Claim>> {
        BTreeMap::new()
    }

    async fn ensure(&self, _claim: &Claim, _replace: bool, _permit: &Permit) -> Result<String, Setback> {
        Ok("everywhere".to_owned())
    }
}

#[async_trait]
impl Losses for Obedient {
    async fn recovery_point(&self, _database: &InstanceId) -> Result<RecoveryPoint, Setback> {
        Err(Setback::Refused("no database is here".to_owned()))
    }

    async fn divergence(&self, _database: &InstanceId, _watermarks: &Watermarks) -> Result<Divergence, Setback> {
        Err(Setback::Refused("no database is here".to_owned()))
    }
}

/// Collects what people are told.
#[derive(Default)]
struct Listener {
    heard: Arc<Mutex<Vec<Notice>>>,
}

#[async_trait]
impl Notifier for Listener {
    fn name(&self) -> &'static str {
        "test"
    }

    async fn notify(&self, notice: &Notice) -> Result<(), String> {
        self.heard.lock().unwrap().push(notice.clone());
        Ok(())
    }
}

/// An event loop, and what a test needs of what is around it.
pub(crate) struct Running {
    pub(crate) handle: Handle,
    pub(crate) gate: Arc<Gate>,
    pub(crate) heard: Arc<Mutex<Vec<Notice>>>,
    pub(crate) sightings: mpsc::Sender<Sighting>,
    pub(crate) event_loop: JoinHandle<Result<(), BeyondHelp>>,
    pub(crate) give_up: CancellationToken,
    pub(crate) stop: CancellationToken,
    pub(crate) folder: tempfile::TempDir,
}

impl Running {
    /// Begins with what is on the disk. `among_others`: how often it casts a ballot, where the ledger is shared.
    pub(crate) fn begin(
        policy: &Policy,
        clock: Arc<dyn Clock>,
        ledger: (Arc<dyn Ledger>, Lease),
        disk: &MemoryDisk,
        world: &Arc<Obedient>,
        among_others: Option<Duration>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let frames = disk.frames();
        let next_index = frames.len() as u64;
        let controller = Controller::recover(policy.clone(), policy_hash(policy), frames.iter().cloned()).unwrap();
        let gate = Arc::new(Gate::new(folder.path().join("STOP"), clock.clone()));
        let board = Arc::new(Board::new(clock.clone(), frames));
        let (handle, requests) = Handle::channel(board.clone());
        let (permits, renewals) = Permits::channel();
        let (sightings, observations) = mpsc::channel(4096);
        let (outcomes_in, outcomes) = mpsc::channel(1024);
        let executor = Executor::new(
            World { actuator: world.clone(), claims: world.clone(), losses: world.clone() },
            executor::Parts {
                gate: gate.clone(),
                permits,
                clock: clock.clone(),
                call_timeout: Duration::from_secs(10),
                holder: policy.observer.to_string(),
                outcomes: outcomes_in,
            },
        );
        let (stop, give_up) = (CancellationToken::new(), CancellationToken::new());
        let listener = Listener::default();
        let heard = listener.heard.clone();
        let council = among_others.map(|ballot_every| {
            let seat = Seat::take(ledger.0.clone(), clock.clone(), next_index, None, &stop);
            Council::new(seat, ballot_every, clock.now().wall)
        });
        let event_loop = EventLoop::new(Parts {
            keepsake: None,
            diary: None,
            controller,
            ledger: Some(ledger),
            council,
            next_index,
            permit: Duration::from_secs(30),
            clock,
            executor,
            gate: gate.clone(),
            board,
            observations,
            outcomes,
            requests,
            renewals,
            notices: Notices::start(vec![Arc::new(listener)], &stop),
            pulse: Pulse::start(Herald::start(), None, &gate, &stop),
            released: gate.draining().clone(),
            meters: Meters::new(policy),
            alarms: vec![],
        });
        let event_loop = tokio::spawn(event_loop.run(give_up.clone()));
        Self { handle, gate, heard, sightings, event_loop, give_up, stop, folder }
    }
}

pub(crate) struct Shell {
    pub(crate) policy: Policy,
    pub(crate) clock: TestClock,
    pub(crate) handle: Handle,
    pub(crate) gate: Arc<Gate>,
    pub(crate) disk: MemoryDisk,
    pub(crate) world: Arc<Obedient>,
    pub(crate) heard: Arc<Mutex<Vec<Notice>>>,
    pub(crate) sightings: mpsc::Sender<Sighting>,
    pub(crate) event_loop: JoinHandle<Result<(), BeyondHelp>>,
    give_up: CancellationToken,
    stop: CancellationToken,
    folder: tempfile::TempDir,
    failing: Vec<RegionId>,
}

impl Shell {
    pub(crate) async fn start(policy: Policy) -> Self {
        let clock = TestClock::default();
        let disk = MemoryDisk::new("0190-test", clock.now());
        Self::start_on(policy, clock, disk, None).await
    }

    /// A daemon on a disk that is there already. `sabotage`: the number of appends that go well, and what happens then.
    pub(crate) async fn start_on(
        policy: Policy,
        clock: TestClock,
        disk: MemoryDisk,
        sabotage: Option<(usize, Sabotage)>,
    ) -> Self {
        let ledger = MemoryLedger::open(&disk);
        let lease = ledger.campaign(clock.now()).await.unwrap().lease().unwrap();
        if let Some((after, sabotage)) = sabotage {
            ledger.sabotage_after(after, sabotage);
        }
        let world = Arc::new(Obedient::new(&disk));
        let running = Running::begin(&policy, Arc::new(clock.clone()), (Arc::new(ledger), lease), &disk, &world, None);
        let Running { handle, gate, heard, sightings, event_loop, give_up, stop, folder } = running;
        let failing = Vec::new();
        Self { policy, clock, handle, gate, disk, world, heard, sightings, event_loop, give_up, stop, folder, failing }
    }

    /// Every probe of `region` fails from now on.
    pub(crate) fn lose(&mut self, region: &str) {
        self.failing.push(RegionId::from(region));
    }

    /// Every probe answers again.
    pub(crate) fn find(&mut self) {
        self.failing.clear();
    }

    /// Lets so many seconds pass, with one probe of everything in each.
    pub(crate) async fn watch(&self, seconds: u64) {
        for _ in 0..seconds {
            self.clock.advance(Duration::from_secs(1));
            self.look_at_everything().await;
            self.settle().await;
        }
    }

    /// Waits until the loop has taken everything in and nothing follows from it any more.
    pub(crate) async fn settle(&self) {
        let mut quiet = 0;
        while quiet < 2 {
            let before = (self.disk.frames().len(), self.world.acts.lock().unwrap().len());
            let Ok(_) = self.handle.status().await else { return };
            tokio::time::sleep(Duration::from_millis(2)).await;
            let after = (self.disk.frames().len(), self.world.acts.lock().unwrap().len());
            quiet = if before == after { quiet + 1 } else { 0 };
        }
    }

    pub(crate) async fn look_at_everything(&self) {
        let now = self.clock.now().monotonic;
        for reference in self.policy.references.keys().cloned() {
            let seen = ReferenceObservation { reference, began: now, ended: now, answer: Ok(()) };
            self.sightings.send(Sighting::Reference(seen)).await.unwrap();
        }
        for instance in self.policy.instances() {
            self.sightings.send(Sighting::Instance(self.observation(instance, now))).await.unwrap();
        }
    }

    fn observation(&self, instance: InstanceId, now: Duration) -> Observation {
        let is_primary = self.policy.primary() == Some(&instance.region);
        let kind = self.policy.components[&instance.component].kind;
        let fails = self.failing.contains(&instance.region) && kind != Kind::Traffic;
        let finding = if fails {
            Finding::Failing { layer: Layer::Tcp, why: "no connection".to_owned() }
        } else {
            Finding::Alive
        };
        let promoted = self.world.acts.lock().unwrap().iter().any(|act| act.contains("promote"));
        let serving = (kind == Kind::Database).then_some(match is_primary || promoted {
            true => Serving::Writable,
            false => Serving::Replica,
        });
        let position = (kind == Kind::Database).then_some(1_000_000);
        let evidence = Evidence { serving, position, ..Evidence::default() };
        Observation { instance, began: now, ended: now, finding, evidence }
    }

    pub(crate) async fn adopt(&self) -> Answer {
        self.handle.command(Command::Adopt { by: "test".to_owned(), placement: BTreeMap::new() }).await
    }

    pub(crate) async fn status(&self) -> Arc<Status> {
        self.handle.status().await.expect("the loop answers")
    }

    /// Waits until the alarm is on, or off. In real time: the beat is the loop's own.
    pub(crate) async fn alarm(&self, key: &str, is_on: bool) {
        let waiting = async {
            loop {
                // A status is remembered for a moment.
                self.clock.advance(Duration::from_millis(200));
                if self.status().await.alarms.iter().any(|alarm| alarm.key == key) == is_on {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("the alarm in time");
    }

    pub(crate) fn facts(&self) -> Vec<Fact> {
        self.disk.frames().into_iter().flat_map(|frame| frame.facts).collect()
    }

    pub(crate) fn stop_file(&self) -> PathBuf {
        self.folder.path().join("STOP")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Serves the API on a free port.
    pub(crate) async fn serve_api(&self, token: Option<SecretSource>) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let api = Api {
            observer: self.policy.observer.clone(),
            handle: self.handle.clone(),
            access: Access::new(token, address),
            body_max: 4096,
            ledger: Record::File(self.folder.path().join("ledger")),
            metrics: failoverd::telemetry::install(),
            prober: Arc::new(ArcSwap::from_pointee(ProberCounters::default())),
            gauges: Arc::new(Mutex::new(Gauges::default())),
        };
        let limits = Limits { connections: 8, header_within: Duration::from_secs(1) };
        tokio::spawn(web::serve(Arc::new(listener), web::router(api), limits, self.stop.clone()));
        address
    }

    /// Serves the roles on a free port.
    pub(crate) async fn serve_roles(&self, self_fence_after: Duration) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = web::role_router(self.handle.board().clone(), self_fence_after);
        let limits = Limits { connections: 8, header_within: Duration::from_secs(1) };
        tokio::spawn(web::serve(Arc::new(listener), router, limits, self.stop.clone()));
        address
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.stop.cancel();
        self.give_up.cancel();
        self.event_loop.abort();
    }
}
