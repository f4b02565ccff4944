//! A ward on a database that is made up, with leases by the real clock.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;

use async_trait::async_trait;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::config::schema::Demote;
use crate::daemon::clock::SystemClock;
use crate::plan::Action;
use crate::ports::{Actuator, Look, Permit, Setback};

const LONG: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_demotion_that_failed_half_way_is_taken_back_once_the_role_is_confirmed() {
    let database = Database::taking_writes();
    database.fails(true);
    let folder = tempfile::tempdir().unwrap();
    let mut ward = database.ward(folder.path(), Duration::ZERO);
    ward.is("troubled").await;
    // As long as what is there looks like no fence, nothing but the attempt tells that there is something to take back.
    database.does("act");
    database.fails(false);
    database.refuses(false);
    ward.lease(LONG);
    ward.is("armed").await;
    assert_eq!(database.last(), "undo");
}

#[tokio::test]
async fn a_new_guardian_takes_back_what_is_left_once_and_no_more() {
    let database = Database::taking_writes();
    let folder = tempfile::tempdir().unwrap();
    let mut ward = database.ward(folder.path(), LONG);
    ward.is("armed").await;
    assert_eq!(database.last(), "undo");
    let undone = database.count("undo");
    ward.lease(Duration::ZERO);
    ward.is("demoted").await;
    ward.lease(LONG);
    ward.is("armed").await;
    assert_eq!(database.count("undo"), undone + 1);
}

#[tokio::test]
async fn what_takes_writes_again_while_its_role_is_not_confirmed_is_demoted_again() {
    let database = Database::taking_writes();
    let folder = tempfile::tempdir().unwrap();
    let mut ward = database.ward(folder.path(), Duration::ZERO);
    ward.is("demoted").await;
    let acted = database.count("act");
    database.refuses(false);
    ward.is("demoted").await;
    assert_eq!(database.count("act"), acted + 1);
}

#[tokio::test]
async fn a_command_is_taken_back_after_a_moment_without_the_role_and_by_whoever_comes_next() {
    let folder = tempfile::tempdir().unwrap();
    let said = folder.path().join("said");
    let say =
        |word: &str| Some(["sh", "-c", &format!("echo {word} >> {}", said.display())].map(str::to_owned).to_vec());
    let demote = Demote { deadline: SOON, command: say("stop"), restore: say("go") };
    let mut ward = Keeping::start(folder.path(), demote.clone(), Database::taking_writes().0, LONG);
    ward.is("armed").await;
    ward.lease(Duration::ZERO);
    ward.is("demoted").await;
    ward.lease(LONG);
    ward.is("armed").await;
    assert_eq!(std::fs::read_to_string(&said).unwrap(), "go\nstop\ngo\n");
    drop(ward);
    let mut next = Keeping::start(folder.path(), demote, Database::taking_writes().0, LONG);
    next.is("armed").await;
    assert_eq!(std::fs::read_to_string(&said).unwrap(), "go\nstop\ngo\ngo\n");
}

#[tokio::test]
async fn nothing_is_armed_that_a_restart_of_the_machine_would_forget() {
    let database = Database::taking_writes();
    let folder = tempfile::tempdir().unwrap();
    let mut ward = database.ward(&folder.path().join("not-there"), LONG);
    let why = ward.is("troubled").await;
    assert!(why.contains("cannot be written"), "{why}");
    std::fs::create_dir(folder.path().join("not-there")).unwrap();
    ward.is("armed").await;
    let path = folder.path().join("not-there/guarded");
    assert_eq!(Marker::open(path, &BTreeSet::from([id()])).1, BTreeSet::from([id()]));
}

#[tokio::test]
async fn a_lease_is_acknowledged_while_a_demotion_is_under_way() {
    let database = Database::taking_writes();
    database.hangs();
    let folder = tempfile::tempdir().unwrap();
    let mut ward = database.ward(folder.path(), Duration::ZERO);
    eventually(|| database.count("act") == 1).await;
    ward.lease(Duration::ZERO);
    let number = ward.number;
    ward.says(Word::Heard(number)).await;
}

fn id() -> InstanceId {
    InstanceId::new("database", "east")
}

async fn eventually(is_so: impl Fn() -> bool) {
    let so = async {
        while !is_so() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, so).await.expect("it does not come about");
}

/// A ward, what it is told, and what it says.
struct Keeping {
    lease: watch::Sender<Lease>,
    words: mpsc::Receiver<(InstanceId, Word)>,
    task: JoinHandle<()>,
    number: u64,
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keeping {
    fn start(folder: &Path, demote: Demote, actuator: Arc<dyn Actuator>, lasting: Duration) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let reins = Reins::with(BTreeMap::from([(id().component, demote)]), actuator, clock.clone());
        let (marker, _) = Marker::open(folder.join("guarded"), &BTreeSet::from([id()]));
        let (lease, leased) = watch::channel(Lease::default());
        let (out, words) = mpsc::channel(16);
        let task = tokio::spawn(keep(id(), leased, Arc::new(Means { reins, marker, clock }), out));
        let mut keeping = Self { lease, words, task, number: 0 };
        keeping.lease(lasting);
        keeping
    }

    /// For so long from now on.
    fn lease(&mut self, lasting: Duration) {
        self.number += 1;
        let until = if lasting.is_zero() { lasting } else { SystemClock.now().monotonic + lasting };
        self.lease.send_replace(Lease { until: Some(until), said: None, number: self.number });
    }

    /// Waits until it stands like that; why, where something is in the way.
    async fn is(&mut self, wanted: &str) -> String {
        let told = async {
            loop {
                let (_, word) = self.words.recv().await.expect("it goes on");
                let (name, why) = match word {
                    Word::Heard(_) => continue,
                    Word::Stands(Standing::Idle) => ("idle", String::new()),
                    Word::Stands(Standing::Armed) => ("armed", String::new()),
                    Word::Stands(Standing::Demoted) => ("demoted", String::new()),
                    Word::Stands(Standing::Troubled { why, .. }) => ("troubled", why),
                };
                if name == wanted {
                    return why;
                }
            }
        };
        timeout(SOON, told).await.unwrap_or_else(|_| panic!("it is not {wanted}"))
    }

    async fn says(&mut self, wanted: Word) {
        let said = async { while self.words.recv().await.expect("it goes on").1 != wanted {} };
        timeout(SOON, said).await.unwrap_or_else(|_| panic!("it does not say {wanted:?}"));
    }
}

/// A database that does as it is told, or not.
#[derive(Clone)]
struct Database(Arc<Told>);

#[derive(Default)]
struct Told {
    done: Mutex<Vec<&'static str>>,
    how: Mutex<How>,
}

#[derive(Clone, Copy, Default)]
struct How {
    refuses: bool,
    fails: bool,
    hangs: bool,
}

impl Database {
    fn taking_writes() -> Self {
        Self(Arc::default())
    }

    fn ward(&self, folder: &Path, lasting: Duration) -> Keeping {
        let demote = Demote { deadline: SOON, command: None, restore: None };
        Keeping::start(folder, demote, self.0.clone(), lasting)
    }

    fn refuses(&self, refuses: bool) {
        self.0.how.lock().unwrap().refuses = refuses;
    }

    fn fails(&self, fails: bool) {
        self.0.how.lock().unwrap().fails = fails;
    }

    fn hangs(&self) {
        self.0.how.lock().unwrap().hangs = true;
    }

    fn does(&self, what: &'static str) {
        assert!(self.count(what) > 0, "it did not {what}");
    }

    fn count(&self, what: &'static str) -> usize {
        self.0.done.lock().unwrap().iter().filter(|done| **done == what).count()
    }

    fn last(&self) -> &'static str {
        self.0.done.lock().unwrap().last().copied().unwrap_or_default()
    }
}

#[async_trait]
impl Actuator for Told {
    async fn look(&self, _key: &str, _action: &Action) -> Result<Look, Setback> {
        let satisfied = self.how.lock().unwrap().refuses;
        Ok(Look { satisfied, summary: String::new(), previous: Value::Null })
    }

    async fn act(&self, _key: &str, _action: &Action, _look: &Look, _permit: &Permit) -> Result<(), Setback> {
        self.done.lock().unwrap().push("act");
        if self.how.lock().unwrap().hangs {
            std::future::pending::<()>().await;
        }
        let mut how = self.how.lock().unwrap();
        if how.fails {
            return Err(Setback::Transient("the sessions have not ended yet".to_owned()));
        }
        how.refuses = true;
        Ok(())
    }

    async fn verify(&self, _key: &str, _action: &Action) -> Result<String, Setback> {
        Ok("it refuses writes".to_owned())
    }

    async fn undo(&self, _key: &str, _action: &Action, _previous: &Value, _permit: &Permit) -> Result<String, Setback> {
        self.done.lock().unwrap().push("undo");
        self.how.lock().unwrap().refuses = false;
        Ok("it takes writes".to_owned())
    }
}
