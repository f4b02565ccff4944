//! `failoverd run`: the real binary, as systemd and an operator meet it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use failoverd::decide::{Fact, Frame, Status};
use serde_json::Value;

#[test]
fn it_tells_systemd_when_it_is_ready_that_it_lives_and_that_it_stops() {
    let lab = Lab::new();
    let mut daemon = lab.run_with(&[("WATCHDOG_USEC", "900000")]);
    // The event loop turns before the last listener is up: either may come first.
    lab.wait_for_words(&["READY=1", "STATUS="]);
    for _ in 0..3 {
        lab.wait_for_word("WATCHDOG=1");
    }
    daemon.signal("TERM");
    lab.wait_for_word("STOPPING=1");
    assert_eq!(daemon.wait().code(), Some(0));
    // What it recorded is whole.
    assert!(failoverd::ledger::read(&lab.ledger(), 0).unwrap().torn.is_none());
}

#[test]
fn a_stopped_daemon_gives_no_sign_of_life() {
    let lab = Lab::new();
    let daemon = lab.run_with(&[("WATCHDOG_USEC", "900000")]);
    lab.wait_for_word("READY=1");
    lab.wait_for("a ping of the dead-man switch", || lab.pings.load(Ordering::SeqCst) > 0);
    daemon.signal("STOP");
    std::thread::sleep(Duration::from_millis(300));
    lab.forget_words();
    let pings = lab.pings.load(Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!((lab.words(), lab.pings.load(Ordering::SeqCst)), (vec![], pings));
    daemon.signal("CONT");
    lab.wait_for_word("WATCHDOG=1");
    lab.wait_for("another ping", || lab.pings.load(Ordering::SeqCst) > pings);
}

#[test]
fn a_new_configuration_is_taken_over_and_a_bad_one_is_not() {
    let lab = Lab::new();
    let daemon = lab.run();
    lab.wait_for_word("READY=1");
    let policies = || {
        let started = |fact: Fact| if let Fact::EpochStarted { policy, .. } = fact { Some(policy) } else { None };
        lab.frames().into_iter().flat_map(|frame| frame.facts).filter_map(started).collect::<Vec<_>>()
    };
    lab.wait_for("the first epoch", || policies().len() == 1);

    lab.configure(&lab.text.replace("recover_for = \"30s\"", "recover_for = \"31s\""));
    daemon.signal("HUP");
    lab.wait_for_word("RELOADING=1");
    lab.wait_for_word("READY=1");
    lab.wait_for("the new policy in the ledger", || policies().len() == 2);
    assert_ne!(policies()[0], policies()[1]);

    lab.configure(&lab.text.replace("recover_for", "recover_after"));
    daemon.signal("HUP");
    lab.wait_for_word("READY=1");
    lab.wait_for("the mistake in the log", || daemon.log().contains("recover_after"));
    lab.wait_for("the warning", || daemon.log().contains("the new configuration is NOT in force"));
    assert_eq!(policies().len(), 2);

    lab.configure(&lab.text.replace("name = \"observer\"", "name = \"somebody-else\""));
    daemon.signal("HUP");
    lab.wait_for("why it needs a restart", || daemon.log().contains("a change of observer needs a restart"));
    assert_eq!(lab.status().observer.as_str(), "observer");
    // Probing goes on.
    lab.wait_for("a probe", || lab.metric("failoverd_probes_total").is_some());
}

#[test]
fn mistakes_in_the_configuration_end_with_78_and_nothing_is_started() {
    let lab = Lab::new();
    lab.configure(&lab.text.replace("mode = \"observe\"", "mode = \"obsreve\""));
    let mut daemon = lab.run();
    assert_eq!(daemon.wait().code(), Some(78));
    assert!(daemon.log().contains("obsreve"), "{}", daemon.log());
    assert!(!lab.ledger().exists());
}

#[test]
fn a_ledger_in_use_ends_with_75_and_an_address_in_use_with_69_and_a_ledger_without_a_folder_with_74() {
    let lab = Lab::new();
    let first = lab.run();
    lab.wait_for_word("READY=1");
    let other_port = free_port();
    let mut second = lab.run_with(&[("FAILOVERD__API__LISTEN", &format!("127.0.0.1:{other_port}"))]);
    assert_eq!(second.wait().code(), Some(75), "{}", second.log());
    let elsewhere = lab.folder.path().join("elsewhere").display().to_string();
    let mut third = lab.run_with(&[("FAILOVERD__LEDGER__PATH", &elsewhere)]);
    assert_eq!(third.wait().code(), Some(69), "{}", third.log());
    drop(first);
    let nowhere = lab.folder.path().join("no/folder/ledger").display().to_string();
    let mut fourth = lab.run_with(&[("FAILOVERD__LEDGER__PATH", &nowhere)]);
    assert_eq!(fourth.wait().code(), Some(74), "{}", fourth.log());
}

#[test]
fn a_damaged_ledger_is_left_as_it_is_and_the_daemon_watches_and_does_nothing() {
    let lab = Lab::new();
    let mut daemon = lab.run();
    lab.wait_for_word("READY=1");
    lab.wait_for("a few frames", || lab.frames().len() > 2);
    daemon.signal("TERM");
    daemon.wait();
    let mut bytes = std::fs::read(lab.ledger()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x20;
    std::fs::write(lab.ledger(), &bytes).unwrap();

    lab.forget_words();
    let daemon = lab.run();
    lab.wait_for_word("READY=1");
    let halted = lab.status().halted.expect("it is halted");
    assert!(halted.contains("damaged in frame"), "{halted}");
    assert!(daemon.log().contains("\"level\":\"ERROR\",\"message\":\"halted:"), "{}", daemon.log());
    lab.wait_for("it still watches", || lab.status().instances.iter().any(|instance| instance.why.contains("alive")));
    assert_eq!(get(lab.api, "/ready").0, 200);
    let (status, answer) = post(lab.api, "/v1/command", r#"{"command":"adopt","by":"alice"}"#);
    assert!(status == 503 && answer.contains("damaged in frame"), "{status} {answer}");
    assert_eq!(std::fs::read(lab.ledger()).unwrap(), bytes, "the damaged ledger was changed");
}

#[test]
fn after_kill_9_the_next_one_starts_an_epoch_of_its_own_with_what_was_recorded() {
    let lab = Lab::new();
    let mut daemon = lab.run();
    lab.wait_for_word("READY=1");
    let (status, answer) = post(lab.api, "/v1/command", r#"{"command":"adopt","by":"alice"}"#);
    assert_eq!(status, 200, "{answer}");
    daemon.signal("KILL");
    daemon.wait();
    lab.forget_words();
    let _daemon = lab.run();
    lab.wait_for_word("READY=1");
    lab.wait_for("the second epoch", || lab.status().epoch == 2);
    assert!(!lab.status().placement.is_empty());
}

#[test]
fn the_stop_file_is_seen_within_seconds() {
    let lab = Lab::new();
    let _daemon = lab.run();
    lab.wait_for_word("READY=1");
    std::fs::write(lab.folder.path().join("STOP"), "").unwrap();
    lab.wait_for("the alarm", || lab.status().alarms.iter().any(|alarm| alarm.text.contains("the stop file")));
    lab.wait_for("the metric", || lab.metric("failoverd_stop_file_present") == Some(1.0));
}

#[test]
fn the_unit_satisfies_systemd() {
    let folder = tempfile::tempdir().unwrap();
    let unit = include_str!("../../systemd/failoverd.service");
    // The binary that was built stands in for the one that is installed.
    let unit = unit.replace("/usr/local/bin/failoverd", env!("CARGO_BIN_EXE_failoverd"));
    let file = folder.path().join("failoverd.service");
    std::fs::write(&file, unit).unwrap();
    let output = Command::new("systemd-analyze").arg("verify").arg(&file).output().expect("systemd is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=20"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

// --- what the tests work with -------------------------------------------------------------------------------------

/// A deployment of two web services that always answer, and everything that a daemon needs around it.
struct Lab {
    folder: tempfile::TempDir,
    text: String,
    api: SocketAddr,
    systemd: UnixDatagram,
    pings: Arc<AtomicUsize>,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pings = Arc::new(AtomicUsize::new(0));
        let (east, west, first, second) = (web(None), web(None), web(None), web(None));
        let switch = web(Some(pings.clone()));
        let api = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let text = format!(
            r#"
[deployment]
name = "test"
mode = "observe"
[observer]
name = "observer"
region = "office"
[ledger]
path = "ledger"
stop_file = "STOP"
[api]
listen = "{api}"
token = {{ file = "token" }}
[heartbeat]
url = {{ file = "switch" }}
every = "1s"
[probes]
interval = "1s"
timeout = "500ms"
recover_for = "30s"
[references.first]
address = "{first}"
[references.second]
address = "{second}"
[regions.us-east-1]
role = "primary"
[regions.us-west-2]
role = "secondary"
[http.web]
trigger = {{ after = "1m" }}
[http.web.regions.us-east-1]
url = "http://{east}/"
[http.web.regions.us-west-2]
url = "http://{west}/"
"#
        );
        std::fs::write(folder.path().join("token"), "secret\n").unwrap();
        std::fs::write(folder.path().join("switch"), format!("http://{switch}/ping")).unwrap();
        let systemd = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        systemd.set_nonblocking(true).unwrap();
        let lab = Self { folder, text, api, systemd, pings };
        lab.configure(&lab.text);
        lab
    }

    fn configure(&self, text: &str) {
        std::fs::write(self.folder.path().join("failoverd.toml"), text).unwrap();
    }

    fn ledger(&self) -> PathBuf {
        self.folder.path().join("ledger")
    }

    fn frames(&self) -> Vec<Frame> {
        failoverd::ledger::read(&self.ledger(), 0).map(|contents| contents.frames).unwrap_or_default()
    }

    fn run(&self) -> Daemon {
        self.run_with(&[])
    }

    fn run_with(&self, variables: &[(&str, &str)]) -> Daemon {
        let mut child = Command::new(env!("CARGO_BIN_EXE_failoverd"))
            .arg("run")
            .arg("--config")
            .arg(self.folder.path().join("failoverd.toml"))
            .args(["--log-format", "json"])
            .env("NOTIFY_SOCKET", self.folder.path().join("notify"))
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, collected) = (child.stderr.take().unwrap(), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = collected.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        Daemon { child, log }
    }

    /// What systemd was told and nobody has read yet.
    fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(length) = self.systemd.recv(&mut buffer) {
            words.extend(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned));
        }
        words
    }

    fn forget_words(&self) {
        self.words();
    }

    fn wait_for_word(&self, word: &str) {
        self.wait_for_words(&[word]);
    }

    /// In whatever order they come.
    fn wait_for_words(&self, words: &[&str]) {
        // One message at a time, so that the ones after it are still there.
        let mut buffer = [0; 4096];
        let mut missing = words.to_vec();
        let mut heard = Vec::new();
        let until = Instant::now() + PATIENCE;
        while !missing.is_empty() {
            match self.systemd.recv(&mut buffer) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    missing.retain(|word| !text.lines().any(|line| line.starts_with(word)));
                    heard.push(text);
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
            assert!(Instant::now() < until, "systemd was not told {missing:?}, but {heard:?}");
        }
    }

    fn wait_for(&self, what: &str, is_so: impl Fn() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn status(&self) -> Status {
        let (status, body) = get(self.api, "/v1/status");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The sum over all series of a metric.
    fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = get(self.api, "/metrics");
        let values: Vec<f64> = text
            .lines()
            .filter(|line| line.starts_with(name))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse().ok())
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }
}

/// On a busy machine everything takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

struct Daemon {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Daemon {
    fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                // What it said last is on its way through a thread.
                std::thread::sleep(Duration::from_millis(100));
                return status;
            }
            assert!(Instant::now() < until, "it did not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A web service that answers everything with 200, until the test ends; counts where it is told to.
fn web(counter: Option<Arc<AtomicUsize>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let counter = counter.clone();
            std::thread::spawn(move || {
                let mut request = [0; 2048];
                if stream.read(&mut request).is_ok_and(|length| length > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                    if let Some(counter) = counter {
                        counter.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    address
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn get(api: SocketAddr, path: &str) -> (u16, String) {
    ask(api, &format!("GET {path} HTTP/1.0\r\nHost: {api}\r\nAuthorization: Bearer secret\r\n\r\n"))
}

fn post(api: SocketAddr, path: &str, body: &str) -> (u16, String) {
    assert!(serde_json::from_str::<Value>(body).is_ok());
    let length = body.len();
    ask(
        api,
        &format!(
            "POST {path} HTTP/1.0\r\nHost: {api}\r\nAuthorization: Bearer secret\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        ),
    )
}

fn ask(api: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(api).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}
