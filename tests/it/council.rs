//! Several daemons on one ledger: the real event loops, controllers and seats, in real time with short thresholds.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use failoverd::daemon::handle::Answer;
use failoverd::daemon::prober::Sighting;
use failoverd::decide::{Command, Fact, ReferenceObservation, Status};
use failoverd::domain::{
    Evidence, Finding, Kind, Layer, Now, Observation, ObserverId, Policy, Probing, RegionId, Serving,
};
use failoverd::ledger::{MemoryDisk, MemoryLedger, Sabotage};
use failoverd::ports::{Clock, Lease, Ledger};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::daemon_shell::{Obedient, Running, omnimesh};

/// Long enough for a takeover, its wait and everything that follows.
const PATIENCE: Duration = Duration::from_secs(120);
const LEASE: Duration = Duration::from_secs(2);
/// A failure that lasts for so long is an outage.
const AFTER: Duration = Duration::from_secs(3);
/// Much longer than any threshold, any lease and any wait here.
const LONG: Duration = Duration::from_secs(12);
const PROBING: Probing = Probing { interval: Duration::from_millis(200), timeout: Duration::from_millis(100) };
const EAST: &str = "us-east-1";
const WEST: &str = "us-west-2";
const EUROPE: &str = "eu-west-1";

#[tokio::test]
async fn one_of_three_leads_and_it_is_one_outside_of_what_serves() {
    let town = Town::of_three();
    town.adopted().await;
    let leader = town.leader().await.expect("one leads");
    assert_ne!(leader, town.name(EAST));
    for region in [EAST, WEST, EUROPE] {
        let status = town.status(region).await;
        let leading: Vec<_> = status.observers.iter().filter(|observer| observer.leads).collect();
        assert_eq!(leading.len(), 1, "{region}: {:?}", status.observers);
        assert_eq!(leading[0].observer, leader);
        assert!(status.observers.iter().all(|observer| observer.without_voice.is_none()), "{:?}", status.observers);
    }
}

#[tokio::test]
async fn a_lost_region_is_replaced_although_the_leader_dies_in_the_middle_and_nothing_is_done_twice() {
    let mut town = Town::of_three();
    town.adopted().await;
    town.lose(EAST);
    town.kill(EAST);
    town.until("the promotion is recorded as started", |facts| {
        facts.iter().any(|fact| matches!(fact, Fact::StepStarted { step, .. } if step.as_str().starts_with("promote")))
    })
    .await;
    let leader = town.leader().await.expect("one leads");
    let (died, epochs_so_far) = (Instant::now(), epochs(&town.facts()).len());
    town.kill(&town.region_of(&leader));
    town.until("another one takes over", |facts| epochs(facts).len() > epochs_so_far).await;
    town.until("the incident is closed", |facts| facts.iter().any(|fact| matches!(fact, Fact::IncidentClosed { .. })))
        .await;
    assert!(died.elapsed() < Duration::from_secs(40), "{:?}", died.elapsed());
    let acts = town.world.acts.lock().unwrap().clone();
    let promotions: Vec<_> = acts.iter().filter(|act| act.contains("promote")).collect();
    assert_eq!(promotions.len(), 1, "{acts:?}");
    assert_eq!(*town.world.premature.lock().unwrap(), [""; 0]);
    let epochs = epochs(&town.facts());
    assert!(epochs.windows(2).all(|pair| pair[0] < pair[1]), "{epochs:?}");
}

#[tokio::test]
async fn what_one_region_alone_does_not_see_is_no_outage() {
    let town = Town::of_three();
    town.adopted().await;
    town.blind(WEST, EAST);
    sleep(LONG).await;
    assert_eq!(*town.world.acts.lock().unwrap(), [""; 0]);
    let status = town.status(EUROPE).await;
    assert!(
        status.alarms.iter().any(|alarm| alarm.key == "outvoted-us-east-1") || !leads(&status),
        "{:?}",
        status.alarms
    );
    let seen = failoverd::decide::disagreements(&status);
    assert!(
        seen.iter().any(|line| line == "us-west-2 cannot reach us-east-1; eu-west-1 and us-east-1 say it is fine"),
        "{seen:?}"
    );
}

#[tokio::test]
async fn an_order_is_taken_by_every_daemon_and_recorded_by_the_one_that_leads() {
    let town = Town::of_three();
    town.adopted().await;
    let leader = town.leader().await.expect("one leads");
    let follower = [EAST, WEST, EUROPE].into_iter().find(|region| town.name(region) != leader).unwrap();
    let answer = town.members[follower].running.handle.command(town.pause()).await;
    assert!(matches!(answer, Answer::InEffect(_)), "{answer:?}");
    assert!(town.facts().iter().any(|fact| matches!(fact, Fact::Paused { by, .. } if by == "somebody")));
    let hold = Command::Hold { by: "somebody".to_owned(), incident: "inc-77".into() };
    let answer = town.members[follower].running.handle.command(hold).await;
    assert!(matches!(&answer, Answer::Refused(why) if why.contains("inc-77")), "{answer:?}");
}

#[tokio::test]
async fn a_leader_that_cannot_reach_the_ledger_does_nothing_and_another_one_leads() {
    let town = Town::of_three();
    town.adopted().await;
    let former = town.leader().await.expect("one leads");
    let epochs_so_far = epochs(&town.facts()).len();
    town.disk.cut(&former);
    town.until("another one takes over", |facts| epochs(facts).len() > epochs_so_far).await;
    assert_ne!(town.leader().await, Some(former.clone()));
    let region = town.region_of(&former);
    let answer = town.members[region.as_str()].running.handle.command(Command::Resume { by: "test".to_owned() }).await;
    assert!(!matches!(answer, Answer::InEffect(_)), "{answer:?}");
    town.disk.heal(&former);
    sleep(LONG).await;
    // It follows again, and knows what was recorded meanwhile.
    let recorded = town.disk.frames().len() as u64;
    assert_eq!(town.members[region.as_str()].running.handle.board().frames(), recorded);
}

#[tokio::test]
async fn a_daemon_that_is_alone_with_the_ledger_does_nothing_and_says_why() {
    let mut town = Town::of_three();
    town.adopted().await;
    town.kill(EAST);
    town.kill(WEST);
    town.lose(EAST);
    sleep(LONG).await;
    assert_eq!(*town.world.acts.lock().unwrap(), [""; 0]);
    let status = town.status(EUROPE).await;
    let silent: Vec<_> = status.observers.iter().filter(|observer| observer.without_voice.is_some()).collect();
    assert_eq!(silent.len(), 2, "{:?}", status.observers);
    assert!(status.headline.contains("1 of 2 needed regions say so (eu-west-1)"), "{}", status.headline);
}

#[tokio::test]
async fn a_leader_whose_clocks_jump_apart_gives_the_lead_up_and_campaigns_anew() {
    let town = Town::of_three();
    town.adopted().await;
    let former = town.leader().await.expect("one leads");
    let region = town.region_of(&former);
    let member = &town.members[region.as_str()];
    let serves = || member.running.handle.board().serves(&EAST.into(), &"database".into(), LONG);
    assert!(serves());
    let epochs_so_far = epochs(&town.facts()).len();
    // The machine was suspended: an hour has passed by the wall, and nothing by its own clock.
    member.ahead.store(3600, Ordering::SeqCst);
    assert!(!serves(), "a role that was confirmed an hour ago");
    town.until("a new epoch begins", |facts| epochs(facts).len() > epochs_so_far).await;
    let status = town.status(&region).await;
    assert!(status.alarms.iter().any(|alarm| alarm.key == "daemon/clocks"), "{:?}", status.alarms);
    let again = async {
        while !serves() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, again).await.expect("the ledger confirms it anew");
    assert_eq!(*town.world.acts.lock().unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_leader_that_halts_gives_the_lead_back_and_never_leads_again() {
    let town = Town::of_three();
    town.adopted().await;
    let former = town.leader().await.expect("one leads");
    let region = town.region_of(&former);
    let epochs_so_far = epochs(&town.facts()).len();
    town.members[region.as_str()].ledger.sabotage_next(Sabotage::Full);
    let answer = town.members[region.as_str()].running.handle.command(town.pause()).await;
    assert!(matches!(answer, Answer::Unknown(_)), "nobody knows what a ledger that failed has kept: {answer:?}");
    town.until("another one takes over", |facts| epochs(facts).len() > epochs_so_far).await;
    sleep(LONG).await;
    let status = town.status(&region).await;
    assert!(!leads(&status) && status.alarms.iter().any(|alarm| alarm.key == "daemon/halted"), "{:?}", status.alarms);
    assert_ne!(town.leader().await.expect("one leads"), former);
    let successor = town.region_of(&town.leader().await.unwrap());
    let answer = town.members[successor.as_str()].running.handle.command(town.pause()).await;
    assert!(matches!(answer, Answer::InEffect(_)), "{answer:?}");
    // The others know that it says nothing, and why.
    let seen = town.status(&successor).await;
    let seat = seen.observers.iter().find(|observer| observer.observer == former).expect("it has a seat");
    assert!(seat.without_voice.as_ref().is_some_and(|why| why.contains("halted")), "{seat:?}");
}

#[tokio::test]
async fn an_order_whose_record_got_no_answer_is_not_called_without_effect() {
    let town = Town::of_three();
    town.adopted().await;
    let former = town.leader().await.expect("one leads");
    let region = town.region_of(&former);
    // Its frame is recorded; the answer is lost, and then the ledger itself until its lease has run out.
    town.members[region.as_str()].ledger.sabotage_next(Sabotage::AnswerLost);
    let order = town.members[region.as_str()].running.handle.command(town.pause());
    let cut = town.until("the order is recorded", |facts| facts.iter().any(|fact| matches!(fact, Fact::Paused { .. })));
    let (answer, ()) = tokio::join!(order, async {
        cut.await;
        town.disk.cut(&former);
    });
    assert!(matches!(&answer, Answer::Unknown(why) if why.contains("it may be recorded")), "{answer:?}");
}

#[tokio::test]
async fn where_everybody_doubts_itself_one_leads_all_the_same_says_so_and_takes_orders() {
    let town = Town::of_three();
    town.adopted().await;
    town.troubles.lock().unwrap().references_fail = true;
    sleep(2 * LONG).await;
    let leader = town.leader().await.expect("one leads");
    town.lose(EAST);
    sleep(LONG).await;
    assert_eq!(*town.world.acts.lock().unwrap(), [""; 0], "nothing moves by itself");
    let answer = town.members[town.region_of(&leader).as_str()].running.handle.command(town.pause()).await;
    assert!(matches!(answer, Answer::InEffect(_)), "{answer:?}");
}

fn leads(status: &Status) -> bool {
    status.observers.iter().any(|observer| observer.leads && observer.observer == status.observer)
}

fn epochs(facts: &[Fact]) -> Vec<u64> {
    let epoch = |fact: &Fact| if let Fact::EpochStarted { epoch, .. } = fact { *epoch } else { None };
    facts.iter().filter_map(epoch).collect()
}

// --- what the tests work with -------------------------------------------------------------------------------------

/// Since the test began.
#[derive(Debug, Clone)]
struct RuntimeClock {
    start: Instant,
    /// By how many seconds the wall clock is ahead.
    ahead: Arc<AtomicU64>,
}

impl Clock for RuntimeClock {
    fn now(&self) -> Now {
        let elapsed = self.start.elapsed();
        let ahead = Duration::from_secs(self.ahead.load(Ordering::SeqCst));
        let wall = "2026-01-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap() + elapsed + ahead;
        Now { monotonic: Duration::from_secs(1000) + elapsed, wall }
    }
}

struct Member {
    running: Running,
    ledger: Arc<MemoryLedger>,
    /// Of its own clock.
    ahead: Arc<AtomicU64>,
    looking: tokio::task::AbortHandle,
}

/// What is lost, and who does not see what.
#[derive(Debug, Default)]
struct Troubles {
    lost: BTreeSet<RegionId>,
    blind: BTreeSet<(RegionId, RegionId)>,
    references_fail: bool,
}

struct Town {
    policy: Policy,
    clock: Arc<RuntimeClock>,
    disk: MemoryDisk,
    world: Arc<Obedient>,
    troubles: Arc<Mutex<Troubles>>,
    members: BTreeMap<&'static str, Member>,
}

impl Town {
    /// A daemon in each of the document's regions.
    fn of_three() -> Self {
        let clock = Arc::new(RuntimeClock { start: Instant::now(), ahead: Arc::default() });
        let disk = MemoryDisk::new("0190-test", clock.now());
        let world = Arc::new(Obedient::new(&disk));
        let mut policy = omnimesh();
        policy.council.observers =
            [EAST, WEST, EUROPE].map(|region| (format!("in-{region}").into(), region.into())).into();
        for component in policy.components.values_mut() {
            component.probing = PROBING;
            if let Some(row) = &mut component.row {
                (row.after, row.confirm_for) = (AFTER, AFTER);
            }
        }
        policy.references.values_mut().for_each(|reference| reference.probing = PROBING);
        policy.regional.after = AFTER;
        policy.recover_for = Duration::from_secs(1);
        policy.guards.recheck = Duration::from_millis(500);
        policy.council.ballot_fresh = AFTER;
        policy.council.takeover_wait = Duration::from_secs(1);
        let troubles = Arc::default();
        let mut town = Self { policy, clock, disk, world, troubles, members: BTreeMap::new() };
        for region in [EAST, WEST, EUROPE] {
            let member = town.join(region);
            town.members.insert(region, member);
        }
        town
    }

    fn join(&self, region: &'static str) -> Member {
        let mut policy = self.policy.clone();
        policy.observer = self.name(region);
        policy.observer_region = region.into();
        let ledger = Arc::new(MemoryLedger::join(&self.disk, policy.observer.clone(), LEASE));
        let used: Arc<dyn Ledger> = ledger.clone();
        let nobodys = Lease { epoch: 0, until: Duration::ZERO };
        let among_others = Some(Duration::from_millis(500));
        let ahead = Arc::<AtomicU64>::default();
        let clock = Arc::new(RuntimeClock { ahead: ahead.clone(), ..self.clock.as_ref().clone() });
        let running = Running::begin(&policy, clock.clone(), (used, nobodys), &self.disk, &self.world, among_others);
        let sightings = running.sightings.clone();
        let looking = tokio::spawn(look(policy, clock, self.world.clone(), self.troubles.clone(), sightings));
        Member { running, ledger, ahead, looking: looking.abort_handle() }
    }

    fn name(&self, region: &str) -> ObserverId {
        format!("in-{region}").into()
    }

    fn region_of(&self, observer: &ObserverId) -> String {
        observer.as_str().trim_start_matches("in-").to_owned()
    }

    /// Somebody said where everything is.
    async fn adopted(&self) {
        let adopting = async {
            loop {
                let adopt = Command::Adopt { by: "test".to_owned(), placement: BTreeMap::new() };
                if let Answer::InEffect(_) = self.members[EUROPE].running.handle.command(adopt).await {
                    return;
                }
                sleep(Duration::from_secs(1)).await;
            }
        };
        timeout(PATIENCE, adopting).await.expect("adopted in time");
        // Whoever is best placed leads by then, and everybody has heard of everybody.
        sleep(LONG).await;
    }

    /// An order that is recorded.
    fn pause(&self) -> Command {
        let until = self.clock.now().wall + Duration::from_secs(600);
        Command::Pause { by: "somebody".to_owned(), until, reason: "maintenance".to_owned() }
    }

    fn lose(&self, region: &str) {
        self.troubles.lock().unwrap().lost.insert(region.into());
    }

    /// From `from`, nothing of `region` can be reached.
    fn blind(&self, from: &str, region: &str) {
        self.troubles.lock().unwrap().blind.insert((from.into(), region.into()));
    }

    /// The process dies: nothing of it goes on, and nobody is told.
    fn kill(&mut self, region: &str) {
        let member = self.members.remove(region).expect("it runs");
        member.end();
    }

    async fn status(&self, region: &str) -> Arc<Status> {
        self.members[region].running.handle.status().await.expect("the loop answers")
    }

    /// Who leads, as those who live say.
    async fn leader(&self) -> Option<ObserverId> {
        for member in self.members.values() {
            let status = member.running.handle.status().await.expect("the loop answers");
            if leads(&status) {
                return Some(status.observer.clone());
            }
        }
        None
    }

    fn facts(&self) -> Vec<Fact> {
        self.disk.frames().into_iter().flat_map(|frame| frame.facts).collect()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&[Fact]) -> bool) {
        let waiting = async {
            while !is_so(&self.facts()) {
                sleep(Duration::from_millis(100)).await;
            }
        };
        let facts = || self.facts().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(timeout(PATIENCE, waiting).await.is_ok(), "not in time: {what}\n{}", facts());
    }
}

impl Member {
    fn end(&self) {
        self.running.stop.cancel();
        self.running.give_up.cancel();
        self.running.event_loop.abort();
        self.looking.abort();
    }
}

impl Drop for Town {
    fn drop(&mut self) {
        self.members.values().for_each(Member::end);
    }
}

/// Probes everything, again and again.
async fn look(
    policy: Policy,
    clock: Arc<RuntimeClock>,
    world: Arc<Obedient>,
    troubles: Arc<Mutex<Troubles>>,
    sightings: mpsc::Sender<Sighting>,
) {
    let own = policy.observer_region.clone();
    loop {
        let now = clock.now().monotonic;
        for reference in policy.references.keys().cloned() {
            let fails = troubles.lock().unwrap().references_fail;
            let answer = if fails { Err("no route".to_owned()) } else { Ok(()) };
            let seen = ReferenceObservation { reference, began: now, ended: now, answer };
            let _ = sightings.send(Sighting::Reference(seen)).await;
        }
        for instance in policy.instances() {
            let kind = policy.components[&instance.component].kind;
            let fails = {
                let troubles = troubles.lock().unwrap();
                let is_blind = troubles.blind.contains(&(own.clone(), instance.region.clone()));
                (troubles.lost.contains(&instance.region) || is_blind) && kind != Kind::Traffic
            };
            let finding = if fails {
                Finding::Failing { layer: Layer::Tcp, why: "no connection".to_owned() }
            } else {
                Finding::Alive
            };
            let is_promoted = world.acts.lock().unwrap().iter().any(|act| act.contains("promote"));
            let is_primary = policy.primary() == Some(&instance.region);
            let serving = (kind == Kind::Database).then_some(match is_primary || is_promoted {
                true => Serving::Writable,
                false => Serving::Replica,
            });
            let position = (kind == Kind::Database).then_some(1_000_000);
            let evidence = Evidence { serving, position, ..Evidence::default() };
            let seen = Observation { instance, began: now, ended: now, finding, evidence };
            let _ = sightings.send(Sighting::Instance(seen)).await;
        }
        sleep(PROBING.interval).await;
    }
}
