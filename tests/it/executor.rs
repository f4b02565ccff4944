//! The executor against actuators that do what a test tells them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use failoverd::daemon::executor::{Executor, Parts, World};
use failoverd::daemon::gate::{Closed, Gate, Permits};
use failoverd::decide::{Divergence, Input, RecoveryPoint, Standstill, StepOutcome, Task};
use failoverd::domain::{InstanceId, LedgerId, Now, RegionId};
use failoverd::plan::Action;
use failoverd::ports::{Actuator, Claim, Claims, Clock, Look, Losses, Permit, Setback, Term, Watermarks};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

#[tokio::test]
async fn a_goal_that_holds_already_is_verified_and_nothing_is_sent() {
    let mut lab = Lab::new(Script { looks: vec![Ok(true)], ..Script::default() });
    assert_eq!(lab.perform(60).await, StepOutcome::Reached { note: "seen".into(), acted: false });
    assert_eq!(lab.calls(), ["look plan-1/step", "verify plan-1/step"]);
}

#[tokio::test]
async fn a_goal_is_brought_about_once_and_looked_at_until_it_holds() {
    let verifies = vec![not_yet("3 of 10 ready"), not_yet("3 of 10 ready"), not_yet("7 of 10 ready"), Ok("10 ready")];
    let mut lab = Lab::new(Script { verifies, ..Script::default() });
    assert_eq!(lab.perform(60).await, StepOutcome::Reached { note: "10 ready".into(), acted: true });
    assert_eq!(lab.count("act"), 1);
    // Each text once, so that a slow step does not flood anybody.
    assert_eq!(lab.notes, ["is not so; acting", "3 of 10 ready", "7 of 10 ready"]);
}

#[tokio::test]
async fn a_slow_goal_is_asked_about_less_and_less_often() {
    let mut lab = Lab::new(Script { verifies: vec![not_yet("modifying")], ..Script::default() });
    assert!(matches!(lab.perform(5).await, StepOutcome::Failed { .. }));
    // 50 ms at first, half as much again each time.
    let verifies = lab.count("verify");
    assert!((5..=12).contains(&verifies), "{verifies} questions in five seconds");
}

#[tokio::test]
async fn throttling_is_tried_again_after_another_look() {
    let acts = vec![transient("throttled"), transient("throttled"), Act::Done];
    let mut lab = Lab::new(Script { acts, ..Script::default() });
    assert!(matches!(lab.perform(60).await, StepOutcome::Reached { acted: true, .. }));
    assert_eq!((lab.count("look"), lab.count("act"), lab.count("verify")), (3, 3, 1));
}

#[tokio::test]
async fn a_call_whose_answer_was_lost_is_not_sent_again_when_it_had_worked() {
    let (looks, acts) = (vec![Ok(false), Ok(true)], vec![transient("the connection broke")]);
    let mut lab = Lab::new(Script { looks, acts, ..Script::default() });
    assert!(matches!(lab.perform(60).await, StepOutcome::Reached { acted: true, .. }));
    assert_eq!(lab.count("act"), 1);
}

#[tokio::test]
async fn a_refusal_ends_the_step_at_once_and_says_which_call_was_refused() {
    let mut lab = Lab::new(Script { acts: vec![refused("AccessDenied")], ..Script::default() });
    let StepOutcome::Failed { why } = lab.perform(600).await else { panic!("it did not fail") };
    assert_eq!(why, "refused at act: AccessDenied");
    assert!(lab.elapsed() < Duration::from_secs(60), "{:?}", lab.elapsed());
}

#[tokio::test]
async fn after_the_deadline_a_step_without_an_answer_is_out_of_reach_and_says_what_was_tried() {
    let mut lab = Lab::new(Script { looks: vec![Err(Setback::Transient("503".into()))], ..Script::default() });
    let StepOutcome::OutOfReach { why } = lab.perform(2).await else { panic!("it was not given up") };
    assert!(why.starts_with("not reached within 2.0 s, after ") && why.ends_with("the last one: look: 503"), "{why}");
    assert_eq!(lab.count("act"), 0);
}

#[tokio::test]
async fn while_the_stop_file_is_there_nothing_is_sent() {
    let mut lab = Lab::new(Script::default());
    std::fs::write(&lab.stop_file, "").unwrap();
    // Nothing waits for its end: by then the world is another one.
    let StepOutcome::NotBegun { why, stop_file: true } = lab.perform(60).await else { panic!("it was not put back") };
    assert!(why.contains("the stop file"), "{why}");
    assert_eq!(lab.count("act"), 0);
    std::fs::remove_file(&lab.stop_file).unwrap();
    assert!(matches!(lab.perform(60).await, StepOutcome::Reached { acted: true, .. }));
}

#[tokio::test]
async fn what_is_paused_or_held_sends_nothing_more_and_what_had_sent_nothing_is_put_back() {
    let paused = Standstill { paused: Some("paused by alice".to_owned()), ..Standstill::default() };
    let held = Standstill { held: BTreeSet::from(["plan-1".into()]), ..Standstill::default() };
    let claimed = Standstill { claimed: Some("another failoverd claims west".to_owned()), ..Standstill::default() };
    for standstill in [paused, held, claimed] {
        let mut lab = Lab::new(Script::default());
        lab.gate.stand_still(standstill.clone());
        let ended = lab.perform(60).await;
        assert!(matches!(ended, StepOutcome::NotBegun { stop_file: false, .. }), "{ended:?}");
        assert_eq!(lab.count("act"), 0);

        // What a call did whose answer was an error, nobody knows: the step is not given up, and sends nothing more.
        let mut lab = Lab::new(Script { acts: vec![transient("503"), Act::Done], ..Script::default() });
        lab.start(60);
        while lab.count("act") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        lab.gate.stand_still(standstill);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(lab.count("act"), 1);
        lab.gate.stand_still(Standstill::default());
        assert!(matches!(lab.finish().await, StepOutcome::Reached { acted: true, .. }));
    }
}

#[tokio::test]
async fn a_stop_file_that_cannot_be_looked_for_counts_as_one_that_is_there() {
    let mut lab = Lab::new(Script::default());
    // A file where its folder should be: the answer is neither yes nor no.
    let file = lab.stop_file.with_file_name("file");
    std::fs::write(&file, "").unwrap();
    lab = lab.with_stop_file(file.join("STOP"));
    let StepOutcome::NotBegun { why, stop_file: true } = lab.perform(2).await else { panic!("it was not put back") };
    assert!(why.contains("cannot tell whether the stop file"), "{why}");
    assert_eq!(lab.count("act"), 0);
}

#[tokio::test]
async fn a_halted_daemon_sends_nothing() {
    let mut lab = Lab::new(Script::default());
    lab.gate.halt("the ledger is full");
    assert_eq!(lab.perform(60).await, StepOutcome::Failed { why: "halted: the ledger is full".into() });
    assert_eq!(lab.count("act"), 0);
}

#[tokio::test]
async fn a_permit_that_ran_out_is_renewed_before_the_next_call_and_not_after() {
    let mut lab = Lab::new(Script::default());
    let renewals = lab.renew_for(Duration::from_secs(30));
    // Less is left of it than the longest call may take.
    lab.executor.perform(task(60), Permit::for_tests(BOOTED + Duration::from_secs(1)));
    assert!(matches!(lab.finish().await, StepOutcome::Reached { acted: true, .. }));
    assert_eq!(renewals.load(Ordering::SeqCst), 1);
    let left = lab.script.lock().unwrap().permits.clone();
    assert!(left.iter().all(|left| *left > Duration::from_secs(2)), "{left:?}");
}

#[tokio::test]
async fn without_a_renewal_nothing_is_sent_after_the_permit() {
    let mut lab = Lab::new(Script::default());
    lab.refuse_renewals("another epoch leads");
    lab.executor.perform(task(3), Permit::for_tests(BOOTED + Duration::from_secs(1)));
    let StepOutcome::Failed { why } = lab.finish().await else { panic!("it did not fail") };
    assert!(why.contains("no permit to act: another epoch leads"), "{why}");
    assert_eq!(lab.count("act"), 0);
}

#[tokio::test]
async fn a_promotion_whose_permit_ran_out_before_it_was_sent_is_judged_anew() {
    let mut lab = Lab::new(Script::default());
    let renewals = lab.renew_for(Duration::from_secs(30));
    lab.executor.perform(promotion(), Permit::for_tests(BOOTED));
    let outcome = lab.finish().await;
    assert!(matches!(outcome, StepOutcome::TooLate { acted: false, .. }), "{outcome:?}");
    assert_eq!((lab.count("act"), renewals.load(Ordering::SeqCst)), (0, 0));
}

#[tokio::test]
async fn a_promotion_without_an_answer_is_sent_again_only_while_it_would_be_judged_so() {
    let acts = vec![transient("no answer"), Act::Done];
    let mut lab = Lab::new(Script { acts: acts.clone(), ..Script::default() });
    let renewals = lab.renew_for(Duration::from_secs(30));
    lab.executor.perform(promotion(), permit());
    assert!(matches!(lab.finish().await, StepOutcome::Reached { acted: true, .. }));
    assert_eq!((lab.count("act"), renewals.load(Ordering::SeqCst)), (2, 1));

    let mut lab = Lab::new(Script { acts, ..Script::default() });
    lab.outdate("database@us-east-1 answers again");
    lab.executor.perform(promotion(), permit());
    let why = "database@us-east-1 answers again".to_owned();
    assert_eq!(lab.finish().await, StepOutcome::TooLate { why, acted: true });
    assert_eq!(lab.count("act"), 1);
}

#[tokio::test]
async fn a_cancelled_step_lets_its_running_call_finish_and_stops_before_the_next() {
    let mut lab = Lab::new(Script { hold_act: true, ..Script::default() });
    lab.start(60);
    lab.acting().await;
    lab.executor.cancel(&"plan-1".into(), &"step".into());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(lab.outcome().is_none(), "it was given up in the middle of a mutating call");
    lab.let_go();
    assert_eq!(lab.finish().await, StepOutcome::Cancelled);
    assert_eq!((lab.count("act done"), lab.count("verify")), (1, 0));
}

#[tokio::test]
async fn a_second_attempt_begins_when_the_first_has_ended() {
    let mut lab = Lab::new(Script { hold_act: true, ..Script::default() });
    lab.start(60);
    lab.acting().await;
    lab.executor.perform(Task { attempt: 2, ..task(60) }, permit());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(lab.count("look"), 1, "two attempts at the same time");
    lab.let_go();
    let mut ends = vec![lab.end().await, lab.end().await];
    ends.sort_by_key(|(attempt, _)| *attempt);
    assert_eq!(ends[0], (1, StepOutcome::Cancelled));
    assert!(matches!(ends[1], (2, StepOutcome::Reached { .. })), "{ends:?}");
}

#[tokio::test]
async fn a_panic_is_the_failure_of_that_step_and_of_nothing_else() {
    let mut lab = Lab::new(Script { acts: vec![Act::Panic], ..Script::default() });
    let StepOutcome::Failed { why } = lab.perform(60).await else { panic!("it did not fail") };
    assert!(why.contains("it panicked, which is a bug: out of cheese"), "{why}");
    // Everything goes on, the same step included.
    assert!(matches!(lab.perform(60).await, StepOutcome::Reached { .. }));
}

#[tokio::test]
async fn when_the_daemon_ends_a_running_call_finishes_and_nothing_is_reported() {
    let mut lab = Lab::new(Script { hold_act: true, ..Script::default() });
    lab.start(60);
    lab.acting().await;
    lab.gate.drain();
    let idle = lab.executor.idle();
    tokio::pin!(idle);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut idle).await.is_err(), "the call is still running");
    lab.let_go();
    idle.await;
    assert_eq!((lab.count("act done"), lab.count("verify")), (1, 0));
    // The next start finds the step started in the ledger and looks at the world.
    assert!(lab.outcome().is_none());
}

#[tokio::test]
async fn a_call_that_never_ends_is_given_up_long_after_its_permit_and_the_world_is_looked_at_again() {
    let mut lab = Lab::new(Script { hold_act: true, ..Script::default() });
    lab.refuse_renewals("not now");
    lab.executor.perform(task(14), Permit::for_tests(BOOTED + Duration::from_millis(2500)));
    let StepOutcome::OutOfReach { why } = lab.finish().await else { panic!("it was not given up") };
    assert!(why.contains("not now"), "{why}");
    assert_eq!((lab.count("act"), lab.count("look")), (1, 2));
}

#[tokio::test]
async fn an_undo_is_tried_again_and_tells_what_it_saw() {
    let mut lab = Lab::new(Script { undos: vec![transient("throttled"), Act::Done], ..Script::default() });
    lab.executor.undo(task(60), json!({ "replicas": 3 }), permit());
    let Input::UndoFinished { outcome, attempt, .. } = lab.input().await else { panic!("no undo") };
    assert_eq!((attempt, outcome), (1, Ok("brought back {\"replicas\":3}".to_owned())));
    assert_eq!(lab.count("undo"), 2);
}

#[tokio::test]
async fn an_owed_fence_is_a_goal_like_any_other() {
    let mut lab = Lab::new(Script::default());
    let database = InstanceId::new("database", "us-east-1");
    lab.executor.fence_owed(database.clone(), "owed/database".into(), 3, Duration::from_secs(60), permit());
    let Input::OwedFenceFinished { database: fenced, attempt, outcome } = lab.input().await else { panic!("no fence") };
    assert_eq!((fenced, attempt, outcome), (database, 3, Ok("seen".to_owned())));
    assert_eq!(lab.calls()[0], "look owed/database");
}

#[tokio::test]
async fn a_claim_is_followed_by_a_survey_and_not_written_while_the_stop_file_is_there() {
    let mut lab = Lab::new(Script::default());
    lab.executor.claim(LedgerId::from("ours"), term(), false, permit());
    let Input::Surveyed { claims, .. } = lab.input().await else { panic!("no survey") };
    assert_eq!(claims[&RegionId::from("us-west-2")].as_ref().unwrap().ledger, LedgerId::from("ours"));
    std::fs::write(&lab.stop_file, "").unwrap();
    lab.executor.claim(LedgerId::from("theirs"), term(), true, permit());
    let Input::Surveyed { claims, .. } = lab.input().await else { panic!("no survey") };
    assert_eq!(claims[&RegionId::from("us-west-2")].as_ref().unwrap().ledger, LedgerId::from("ours"));
}

// --- what the tests work with -------------------------------------------------------------------------------------

/// Answers in order; the last one is repeated. Empty means what usually happens.
#[derive(Default)]
struct Script {
    looks: Vec<Result<bool, Setback>>,
    acts: Vec<Act>,
    verifies: Vec<Result<&'static str, Setback>>,
    undos: Vec<Act>,
    /// Calls of `act` wait until the test lets them go.
    hold_act: bool,
    calls: Vec<String>,
    /// What was left of the permit at each call.
    permits: Vec<Duration>,
}

#[derive(Debug, Clone)]
enum Act {
    Done,
    Fails(Setback),
    Panic,
}

fn transient(why: &str) -> Act {
    Act::Fails(Setback::Transient(why.to_owned()))
}

fn refused(why: &str) -> Act {
    Act::Fails(Setback::Refused(why.to_owned()))
}

fn not_yet(why: &str) -> Result<&'static str, Setback> {
    Err(Setback::NotYet(why.to_owned()))
}

/// The next answer; the last one stays.
fn next<T: Clone>(answers: &mut Vec<T>, usual: T) -> T {
    match answers.len() {
        0 => usual,
        1 => answers[0].clone(),
        _ => answers.remove(0),
    }
}

/// Plays the script, and the claims of one cluster.
struct Player {
    script: Arc<Mutex<Script>>,
    clock: TestClock,
    acting: Notify,
    go: Notify,
    claim: Mutex<Option<Claim>>,
}

impl Player {
    fn note(&self, call: String) {
        self.script.lock().unwrap().calls.push(call);
    }

    fn play(act: Act) -> Result<(), Setback> {
        match act {
            Act::Done => Ok(()),
            Act::Fails(setback) => Err(setback),
            Act::Panic => panic!("out of cheese"),
        }
    }
}

#[async_trait]
impl Actuator for Player {
    async fn look(&self, key: &str, _action: &Action) -> Result<Look, Setback> {
        self.note(format!("look {key}"));
        let satisfied = next(&mut self.script.lock().unwrap().looks, Ok(false))?;
        let summary = if satisfied { "is so" } else { "is not so" }.to_owned();
        Ok(Look { satisfied, summary, previous: Value::Null })
    }

    async fn act(&self, key: &str, _action: &Action, _look: &Look, permit: &Permit) -> Result<(), Setback> {
        self.note(format!("act {key}"));
        let left = permit.time_left(self.clock.now()).expect("the permit is checked before every call");
        self.script.lock().unwrap().permits.push(left);
        self.acting.notify_one();
        if self.script.lock().unwrap().hold_act {
            self.go.notified().await;
        }
        // Out of the lock before it panics.
        let act = next(&mut self.script.lock().unwrap().acts, Act::Done);
        if matches!(act, Act::Panic) {
            self.script.lock().unwrap().acts = vec![Act::Done];
        }
        Self::play(act)?;
        self.note(format!("act done {key}"));
        Ok(())
    }

    async fn verify(&self, key: &str, _action: &Action) -> Result<String, Setback> {
        self.note(format!("verify {key}"));
        next(&mut self.script.lock().unwrap().verifies, Ok("seen")).map(str::to_owned)
    }

    async fn undo(&self, key: &str, _action: &Action, previous: &Value, _permit: &Permit) -> Result<String, Setback> {
        self.note(format!("undo {key}"));
        let act = next(&mut self.script.lock().unwrap().undos, Act::Done);
        Self::play(act).map(|()| format!("brought back {previous}"))
    }
}

#[async_trait]
impl Claims for Player {
    async fn claims(&self) -> BTreeMap<RegionId, Option<Claim>> {
        BTreeMap::from([(RegionId::from("us-west-2"), self.claim.lock().unwrap().clone())])
    }

    async fn ensure(&self, claim: &Claim, _replace: bool, _permit: &Permit) -> Result<String, Setback> {
        *self.claim.lock().unwrap() = Some(claim.clone());
        Ok("us-west-2".to_owned())
    }
}

#[async_trait]
impl Losses for Player {
    async fn recovery_point(&self, _database: &InstanceId) -> Result<RecoveryPoint, Setback> {
        Err(Setback::Refused("no database is here".to_owned()))
    }

    async fn divergence(&self, _database: &InstanceId, _watermarks: &Watermarks) -> Result<Divergence, Setback> {
        Err(Setback::Refused("no database is here".to_owned()))
    }
}

fn term() -> Term {
    Term { epoch: 1, since: jiff::Timestamp::UNIX_EPOCH }
}

/// A machine that had been up for a while when the test began.
#[derive(Debug, Clone, Copy)]
struct TestClock {
    began: std::time::Instant,
}

impl Clock for TestClock {
    fn now(&self) -> Now {
        let elapsed = self.began.elapsed();
        let wall = "2026-01-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap() + elapsed;
        Now { monotonic: BOOTED + elapsed, wall }
    }
}

/// The machine has been up for so long when a test begins.
const BOOTED: Duration = Duration::from_secs(1000);

fn permit() -> Permit {
    Permit::for_tests(BOOTED + Duration::from_secs(3600))
}

fn task(deadline_s: u64) -> Task {
    Task {
        plan: "plan-1".into(),
        step: "step".into(),
        attempt: 1,
        action: Action::IncidentDeclared {
            cluster: InstanceId::new("kubernetes", "us-west-2"),
            namespace: "default".to_owned(),
            incident: "inc-1".to_owned(),
        },
        deadline: Duration::from_secs(deadline_s),
    }
}

/// What is not simply given back.
fn promotion() -> Task {
    let action = Action::DatabasePromoted {
        database: InstanceId::new("database", "us-west-2"),
        from: InstanceId::new("database", "us-east-1"),
        lossless: false,
    };
    Task { action, ..task(60) }
}

struct Lab {
    executor: Executor,
    gate: Arc<Gate>,
    script: Arc<Mutex<Script>>,
    player: Arc<Player>,
    clock: TestClock,
    inputs: mpsc::Receiver<Input>,
    renewals: Option<mpsc::Receiver<failoverd::daemon::gate::Renewal>>,
    notes: Vec<String>,
    stop_file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Lab {
    fn new(script: Script) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stop_file = folder.path().join("STOP");
        Self::build(script, folder, stop_file)
    }

    fn with_stop_file(self, stop_file: PathBuf) -> Self {
        Self::build(Script::default(), self._folder, stop_file)
    }

    fn build(script: Script, folder: tempfile::TempDir, stop_file: PathBuf) -> Self {
        let clock = TestClock { began: std::time::Instant::now() };
        let gate = Arc::new(Gate::new(stop_file.clone(), Arc::new(clock)));
        let script = Arc::new(Mutex::new(script));
        let player = Arc::new(Player {
            script: script.clone(),
            clock,
            acting: Notify::new(),
            go: Notify::new(),
            claim: Mutex::default(),
        });
        let (permits, renewals) = Permits::channel();
        let (outcomes, inputs) = mpsc::channel(64);
        let parts = Parts {
            gate: gate.clone(),
            permits,
            clock: Arc::new(clock),
            call_timeout: Duration::from_secs(2),
            holder: "observer".to_owned(),
            outcomes,
        };
        let world = World { actuator: player.clone(), claims: player.clone(), losses: player.clone() };
        let executor = Executor::new(world, parts);
        let renewals = Some(renewals);
        Self { executor, gate, script, player, clock, inputs, renewals, notes: vec![], stop_file, _folder: folder }
    }

    /// Every request for a new permit is granted; the counter counts them.
    fn renew_for(&mut self, lasting: Duration) -> Arc<AtomicUsize> {
        let counter = Arc::new(AtomicUsize::new(0));
        let (mut renewals, clock, count) = (self.renewals.take().unwrap(), self.clock, counter.clone());
        tokio::spawn(async move {
            while let Some(renewal) = renewals.recv().await {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = renewal.answer.send(Ok(Permit::for_tests(clock.now().monotonic + lasting)));
            }
        });
        counter
    }

    fn refuse_renewals(&mut self, why: &'static str) {
        let mut renewals = self.renewals.take().unwrap();
        tokio::spawn(async move {
            while let Some(renewal) = renewals.recv().await {
                let _ = renewal.answer.send(Err(Closed::NoPermit(why.to_owned())));
            }
        });
    }

    /// The event loop sees that the world is another one than when the step was judged.
    fn outdate(&mut self, why: &'static str) {
        let mut renewals = self.renewals.take().unwrap();
        tokio::spawn(async move {
            while let Some(renewal) = renewals.recv().await {
                assert_eq!(renewal.key, "plan-1/step");
                let _ = renewal.answer.send(Err(Closed::Outdated(why.to_owned())));
            }
        });
    }

    fn start(&mut self, deadline_s: u64) {
        self.executor.perform(task(deadline_s), permit());
    }

    async fn perform(&mut self, deadline_s: u64) -> StepOutcome {
        self.start(deadline_s);
        self.finish().await
    }

    async fn finish(&mut self) -> StepOutcome {
        self.end().await.1
    }

    async fn end(&mut self) -> (u32, StepOutcome) {
        let input = self.input().await;
        let Input::Finished { attempt, outcome, .. } = input else { panic!("not the end of a step: {input:?}") };
        (attempt, outcome)
    }

    /// The next input that is no progress.
    async fn input(&mut self) -> Input {
        loop {
            let input = self.inputs.recv().await.expect("the executor lives");
            let Input::Progressed { note, .. } = input else { return input };
            self.notes.push(note);
        }
    }

    fn outcome(&mut self) -> Option<Input> {
        std::iter::from_fn(|| self.inputs.try_recv().ok()).find(|input| !matches!(input, Input::Progressed { .. }))
    }

    async fn acting(&self) {
        self.player.acting.notified().await;
    }

    fn let_go(&self) {
        self.script.lock().unwrap().hold_act = false;
        self.player.go.notify_waiters();
    }

    fn calls(&self) -> Vec<String> {
        self.script.lock().unwrap().calls.clone()
    }

    fn count(&self, call: &str) -> usize {
        let prefix = format!("{call} p");
        self.calls().iter().filter(|made| made.starts_with(&prefix)).count()
    }

    fn elapsed(&self) -> Duration {
        self.clock.began.elapsed()
    }
}
