//! The guardian beside a database, on a real PostgreSQL with sessions that were there before: whatever becomes of the
//! daemon, what its region may not write any more is not written.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::daemon_run::free_port;
use super::data_plane::eventually;
use super::lab::Lab;
use super::postgres::Pair;

const EAST: &str = "us-east-1";
const WEST: &str = "us-west-2";
/// `api.self_fence_after` of the daemons here.
const SELF_FENCE_AFTER: Duration = Duration::from_secs(3);
/// `databases.database.demote.deadline`.
const DEADLINE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_daemon_that_is_stopped_leaves_no_database_that_takes_writes_and_gets_it_back_when_it_goes_on() {
    let pair = Pair::up();
    let mut daemon = Guarded::start(&pair.lab);
    daemon.is_armed().await;
    let writer = Writer::start(&pair, EAST).await;
    writer.goes_on().await;

    daemon.signal("STOP");
    let stopped = Instant::now();
    let last = writer.end().await;
    assert!(stopped.elapsed() < SELF_FENCE_AFTER + DEADLINE, "{:?}", stopped.elapsed());
    assert!(last > Duration::ZERO);
    // Nobody comes in either.
    assert!(pair.connect(EAST, "app").await.is_err());

    daemon.signal("CONT");
    eventually("it takes writes again", async || pair.connect(EAST, "app").await.ok()).await;
    daemon.is_armed().await;
    daemon.end().await;
}

#[tokio::test]
async fn a_daemon_that_is_killed_leaves_its_guardian_and_the_next_one_takes_over_from_it() {
    let pair = Pair::up();
    let mut daemon = Guarded::start(&pair.lab);
    daemon.is_armed().await;
    let writer = Writer::start(&pair, EAST).await;
    writer.goes_on().await;
    let former = daemon.guardians();
    assert_eq!(former.len(), 1, "{former:?}");

    // A restart is no loss of the role.
    daemon.kill();
    daemon.run();
    daemon.is_armed().await;
    eventually("the former guardian has left", async || {
        let now = daemon.guardians();
        (now.len() == 1 && now.is_disjoint(&former)).then_some(())
    })
    .await;
    writer.goes_on().await;

    // Without a next one it is.
    daemon.kill();
    writer.end().await;
    assert!(pair.connect(EAST, "app").await.is_err());
    // Whoever comes after finds the fence, and takes it down: the role is confirmed again.
    daemon.run();
    eventually("it takes writes again", async || pair.connect(EAST, "app").await.ok()).await;
    daemon.is_armed().await;
    daemon.end().await;
}

#[tokio::test]
async fn a_daemon_that_is_asked_to_end_takes_its_guardian_along_and_the_application_goes_on_writing() {
    let pair = Pair::up();
    let mut daemon = Guarded::start(&pair.lab);
    daemon.is_armed().await;
    let writer = Writer::start(&pair, EAST).await;
    daemon.end().await;
    assert!(daemon.guardians().is_empty());
    tokio::time::sleep(SELF_FENCE_AFTER + Duration::from_secs(1)).await;
    writer.goes_on().await;
}

#[tokio::test]
async fn a_role_that_moves_away_is_taken_at_once() {
    let pair = Pair::up();
    let mut daemon = Guarded::start(&pair.lab);
    daemon.is_armed().await;
    let writer = Writer::start(&pair, EAST).await;
    writer.goes_on().await;
    // A mistyped region takes nothing from anybody.
    let there = format!("database={WEST}");
    let (taken, answer) = daemon.cli(&["adopt", "--placement", &there]);
    assert!(!taken && answer.contains(&format!("database@{WEST} is a replica")), "{answer}");
    writer.goes_on().await;
    pair.superuser(WEST).await.batch_execute("SELECT pg_promote()").await.unwrap();
    eventually("the placement is adopted", async || daemon.cli(&["adopt", "--placement", &there]).0.then_some(()))
        .await;
    let moved = Instant::now();
    writer.end().await;
    assert!(moved.elapsed() < SELF_FENCE_AFTER, "{:?}", moved.elapsed());
    daemon.kill();
}

#[tokio::test]
async fn a_guardian_without_a_predecessor_fences_what_was_guarded_until_the_role_is_confirmed() {
    let pair = Pair::up();
    let mut daemon = Guarded::start(&pair.lab);
    daemon.is_armed().await;
    // As a restart of the machine leaves it: nobody is there, and the database takes writes.
    daemon.kill();
    daemon.end_guardians();
    let writer = Writer::start(&pair, EAST).await;
    writer.goes_on().await;
    let guardian = daemon.guardian_alone();
    writer.end().await;
    eventually("nobody comes in", async || pair.connect(EAST, "app").await.is_err().then_some(())).await;
    daemon.run();
    eventually("it takes writes again", async || pair.connect(EAST, "app").await.ok()).await;
    daemon.is_armed().await;
    drop(guardian);
    // In order, there is nothing left to fence for.
    daemon.end().await;
    assert!(!daemon.marker().exists());
    let mut guardian = daemon.guardian_alone();
    tokio::time::sleep(Duration::from_secs(2)).await;
    Writer::start(&pair, EAST).await.goes_on().await;
    guardian.kill().unwrap();
    guardian.wait().unwrap();
}

#[tokio::test]
async fn a_guardian_that_is_stopped_is_replaced_and_the_application_goes_on_writing() {
    let pair = Pair::up();
    let mut daemon = Guarded::start(&pair.lab);
    daemon.is_armed().await;
    let writer = Writer::start(&pair, EAST).await;
    writer.goes_on().await;
    let former = daemon.guardians();
    daemon.stop_guardians();
    let stopped = Instant::now();
    eventually("another one", async || {
        let now = daemon.guardians();
        (now.len() == 1 && now.is_disjoint(&former)).then_some(())
    })
    .await;
    assert!(stopped.elapsed() < Duration::from_secs(10), "{:?}", stopped.elapsed());
    tokio::time::sleep(SELF_FENCE_AFTER + Duration::from_secs(2)).await;
    writer.goes_on().await;
    daemon.is_armed().await;
    // Nor does one that hangs keep the next daemon's from its place.
    let former = daemon.guardians();
    daemon.stop_guardians();
    daemon.kill();
    daemon.run();
    eventually("another one", async || {
        let now = daemon.guardians();
        (now.len() == 1 && now.is_disjoint(&former)).then_some(())
    })
    .await;
    eventually("it takes writes", async || pair.connect(EAST, "app").await.ok()).await;
    daemon.end().await;
}

#[tokio::test]
async fn a_reload_after_the_program_was_replaced_leaves_the_database_to_the_application() {
    let pair = Pair::up();
    let program = pair.lab.folder().join("failoverd-to-be-replaced");
    std::fs::copy(env!("CARGO_BIN_EXE_failoverd"), &program).unwrap();
    let mut daemon = Guarded::start_as(&pair.lab, program.clone());
    daemon.is_armed().await;
    let writer = Writer::start(&pair, EAST).await;
    let former = daemon.guardians();
    std::fs::remove_file(&program).unwrap();
    daemon.signal("HUP");
    eventually("another guardian", async || {
        let now = daemon.guardians();
        (now.len() == 1 && now.is_disjoint(&former)).then_some(())
    })
    .await;
    tokio::time::sleep(SELF_FENCE_AFTER + Duration::from_secs(2)).await;
    writer.goes_on().await;
    daemon.end().await;
}

#[tokio::test]
async fn a_guardian_that_nobody_feeds_any_more_is_an_alarm() {
    let pair = Pair::up();
    let mut daemon = Guarded::start(&pair.lab);
    daemon.is_armed().await;
    daemon.kill();
    let former = daemon.guardians();
    let config = std::fs::read_to_string(daemon.config()).unwrap();
    let without: Vec<&str> = config.lines().filter(|line| !line.starts_with("demote")).collect();
    std::fs::write(daemon.config(), without.join("\n")).unwrap();
    daemon.run();
    eventually("the alarm", async || daemon.status().contains("a guardian that an earlier run left").then_some(()))
        .await;
    assert_eq!(daemon.guardians(), former, "it is told nothing");
    // What the alarm says to do.
    std::fs::write(daemon.config(), &config).unwrap();
    daemon.kill();
    daemon.run();
    eventually("it takes writes", async || pair.connect(EAST, "app").await.ok()).await;
    daemon.is_armed().await;
    std::fs::write(daemon.config(), without.join("\n")).unwrap();
    daemon.signal("HUP");
    eventually("it has left", async || daemon.guardians().is_empty().then_some(())).await;
    Writer::start(&pair, EAST).await.goes_on().await;
    assert!(!daemon.status().contains("guardian"), "{}", daemon.status());
    daemon.end().await;
}

/// A daemon in the region of the primary.
struct Guarded {
    program: PathBuf,
    folder: PathBuf,
    deployment: String,
    daemon: Option<Child>,
}

impl Guarded {
    fn start(lab: &Lab) -> Self {
        Self::start_as(lab, PathBuf::from(env!("CARGO_BIN_EXE_failoverd")))
    }

    fn start_as(lab: &Lab, program: PathBuf) -> Self {
        let folder = lab.folder().to_owned();
        // A guardian's address is one for the whole machine.
        let deployment = format!("guarded-{}-{}", std::process::id(), free_port());
        let (api, first, second) = (free_port(), free_port(), free_port());
        // A port that is free may be given twice.
        let role = std::iter::repeat_with(free_port).find(|port| *port != api).unwrap();
        let port = |region: &str| lab.number(&format!("/regions/{region}/postgres/port"));
        let config = format!(
            r#"
[deployment]
name = "{deployment}"
mode = "approve"
[observer]
name = "in-{EAST}"
region = "{EAST}"
[ledger]
path = "guarded-ledger"
stop_file = "STOP"
[api]
listen = "127.0.0.1:{api}"
role_listen = "127.0.0.1:{role}"
token = {{ file = "token" }}
self_fence_after = "{}s"
[probes]
interval = "1s"
timeout = "500ms"
[references.first]
address = "127.0.0.1:{first}"
[references.second]
address = "127.0.0.1:{second}"
[regions.{EAST}]
role = "primary"
ca_file = "{ca}"
[regions.{WEST}]
role = "secondary"
ca_file = "{ca}"
[databases.database]
provider = "postgres"
name = "omnimesh_db"
user = "failoverd"
password = {{ file = "password" }}
trigger = {{ after = "1m" }}
demote = {{ deadline = "{}s" }}
[databases.database.fence]
application_roles = ["app"]
[databases.database.regions.{EAST}]
host = "127.0.0.1"
port = {}
[databases.database.regions.{WEST}]
host = "127.0.0.1"
port = {}
"#,
            SELF_FENCE_AFTER.as_secs(),
            DEADLINE.as_secs(),
            port(EAST),
            port(WEST),
            ca = lab.text("/ca_file"),
        );
        std::fs::write(folder.join("guarded.toml"), config).unwrap();
        std::fs::write(folder.join("token"), "secret").unwrap();
        std::fs::write(folder.join("password"), "lab-failoverd").unwrap();
        let mut guarded = Self { program, folder, deployment, daemon: None };
        guarded.run();
        guarded
    }

    fn run(&mut self) {
        self.daemon = Some(self.spawn("run"));
    }

    /// As nobody starts it but a daemon: without one, and so without leases.
    fn guardian_alone(&self) -> Child {
        self.spawn("guardian")
    }

    fn spawn(&self, what: &str) -> Child {
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let mut command = Command::new(&self.program);
        command.arg(what).arg("--config").arg(self.config()).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap()
    }

    fn marker(&self) -> PathBuf {
        self.folder.join(format!("{}.in-{EAST}.guarded.json", self.deployment))
    }

    fn status(&self) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_failoverd"));
        let output = command.arg("status").arg("--config").arg(self.config()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn config(&self) -> PathBuf {
        self.folder.join("guarded.toml")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("guarded.log")
    }

    fn cli(&self, words: &[&str]) -> (bool, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_failoverd"));
        let output = command.args(words).arg("--config").arg(self.config()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The ledger knows that the database has a guardian.
    async fn is_armed(&self) {
        let mut adopted = false;
        let armed = async || {
            adopted = adopted || self.cli(&["adopt"]).0;
            let shown = Command::new(env!("CARGO_BIN_EXE_failoverd"))
                .args(["ledger", "show", "--config"])
                .arg(self.config())
                .output()
                .unwrap();
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            let last = shown.lines().rfind(|line| line.contains("guards") || line.contains("took over"))?.to_owned();
            last.contains(&format!("guards database@{EAST}")).then_some(())
        };
        let began = Instant::now();
        let mut armed = armed;
        while armed().await.is_none() {
            assert!(began.elapsed() < Duration::from_secs(40), "{}", std::fs::read_to_string(self.log()).unwrap());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Process ids of the guardians of this deployment.
    fn guardians(&self) -> BTreeSet<u32> {
        let config = self.config();
        let is_ours = |pid: &u32| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
            words.contains(&b"guardian".as_slice()) && words.contains(&config.as_os_str().as_encoded_bytes())
        };
        let all =
            std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        all.filter(is_ours).collect()
    }

    fn signal(&self, name: &str) {
        signal(self.daemon.as_ref().unwrap().id(), name);
    }

    fn stop_guardians(&self) {
        self.guardians().into_iter().for_each(|guardian| signal(guardian, "STOP"));
    }

    fn end_guardians(&self) {
        self.guardians().into_iter().for_each(|guardian| signal(guardian, "KILL"));
    }

    fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    async fn end(&mut self) {
        self.signal("TERM");
        let mut daemon = self.daemon.take().unwrap();
        let code = eventually("it ends", async || daemon.try_wait().unwrap()).await;
        assert!(code.success(), "{code}\n{}", std::fs::read_to_string(self.log()).unwrap());
    }
}

fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
    assert!(status.success(), "{name} {pid}");
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        for guardian in self.guardians() {
            let _ = Command::new("kill").arg("-9").arg(guardian.to_string()).status();
        }
        if std::thread::panicking() {
            eprintln!("{}: {}", self.deployment, std::fs::read_to_string(self.log()).unwrap_or_default());
        }
    }
}

/// Commits a row every 10 ms on one session, until that is over.
struct Writer {
    rows: std::sync::Arc<std::sync::atomic::AtomicU64>,
    task: tokio::task::JoinHandle<Duration>,
}

impl Writer {
    async fn start(pair: &Pair, region: &str) -> Self {
        let session = pair.connect(region, "app").await.unwrap();
        let rows = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let counted = rows.clone();
        let task = tokio::spawn(async move {
            let began = Instant::now();
            let mut last = Duration::ZERO;
            while session.batch_execute("INSERT INTO compute_nodes (payload) VALUES ('guarded')").await.is_ok() {
                last = began.elapsed();
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            last
        });
        Self { rows, task }
    }

    async fn goes_on(&self) {
        let so_far = self.rows.load(std::sync::atomic::Ordering::SeqCst);
        eventually("fifty more rows", async || {
            (self.rows.load(std::sync::atomic::Ordering::SeqCst) > so_far + 50).then_some(())
        })
        .await;
    }

    /// When the last row was acknowledged, once no more are.
    async fn end(self) -> Duration {
        tokio::time::timeout(Duration::from_secs(20), self.task).await.expect("it still writes").unwrap()
    }
}
