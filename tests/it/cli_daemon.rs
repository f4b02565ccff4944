//! The command line and a running daemon, as processes: what an operator orders, and what is then in effect.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const TOKEN: &str = "a-long-random-text";

#[test]
fn an_order_is_in_effect_once_it_is_in_the_ledger_and_a_refused_one_says_why() {
    let daemon = Daemon::start("orders");

    let status = daemon.cli(&["status"]);
    assert_eq!(status.status.code(), Some(1), "a new ledger pages: {}", out(&status));
    assert!(out(&status).contains("What to type next\n  failoverd adopt\n"), "{}", out(&status));

    let adopted = daemon.cli(&["adopt", "--as", "alice"]);
    assert_eq!(adopted.status.code(), Some(0), "{}", err(&adopted));
    assert_eq!(daemon.status()["placement"]["cache"], "east");

    let unknown = daemon.cli(&["hold", "inc-99"]);
    assert_eq!(unknown.status.code(), Some(75));
    assert!(err(&unknown).starts_with("failoverd: NOT IN EFFECT: "), "{}", err(&unknown));
    assert!(err(&unknown).contains("inc-99"), "{}", err(&unknown));

    let paused = daemon.cli(&["pause", "--until", "1h", "--reason", "change 4711", "--as", "bob", "--json"]);
    assert_eq!(paused.status.code(), Some(0), "{}", err(&paused));
    let answer: serde_json::Value = serde_json::from_slice(&paused.stdout).unwrap();
    assert_eq!(answer["in_effect"], true);
    let explained = out(&daemon.cli(&["explain"]));
    assert!(explained.contains("Paused until") && explained.contains("`failoverd resume`"), "{explained}");

    let too_long = daemon.cli(&["pause", "--until", "300h", "--reason", "x"]);
    assert_eq!(too_long.status.code(), Some(75), "{}", out(&too_long));

    assert_eq!(daemon.cli(&["resume"]).status.code(), Some(0));
    assert_eq!(daemon.status()["paused_until"], serde_json::Value::Null);

    let ledger = daemon.folder.path().join("ledger");
    let facts = out(&cli(&["ledger", "show", ledger.to_str().unwrap()]));
    assert!(facts.contains("alice") && facts.contains("change 4711") && facts.contains("tester@"), "{facts}");
    let verified = cli(&["ledger", "verify", ledger.to_str().unwrap()]);
    assert!(out(&verified).contains("intact"), "{}{}", out(&verified), err(&verified));
}

#[test]
fn without_the_right_token_nothing_is_told_and_nothing_is_done() {
    let daemon = Daemon::start("token");
    let url = daemon.url.as_str();
    for args in [
        &["status", "--url", url][..],
        &["adopt", "--url", url],
        &["failover", "--from", "east", "--reason", "x", "--yes", "--url", url],
    ] {
        let without = cli(args);
        assert_eq!(without.status.code(), Some(77), "{args:?}");
        assert!(err(&without).contains("wants a token\nhint: set FAILOVERD_TOKEN"), "{}", err(&without));
        let wrong = command(args).env("FAILOVERD_TOKEN", "a-guess").output().unwrap();
        assert_eq!(wrong.status.code(), Some(77), "{args:?}");
        assert!(err(&wrong).contains("refuses the token"), "{}", err(&wrong));
        assert!(!err(&wrong).contains("a-guess"), "a token is never shown");
    }
    assert_eq!(daemon.status()["placement"], serde_json::json!({}));

    let file = daemon.folder.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let by_file = cli(&["adopt", "--url", url, "--token-file", file.to_str().unwrap()]);
    assert_eq!(by_file.status.code(), Some(0), "{}", err(&by_file));
}

#[test]
fn a_failover_is_shown_first_and_needs_somebody_to_confirm_it() {
    let daemon = Daemon::start("confirm");
    assert_eq!(daemon.cli(&["adopt"]).status.code(), Some(0));
    let plan = out(&daemon.cli(&["plan", "--if", "cache"]));
    assert!(plan.contains("If cache in east were lost: east → west") && plan.contains("activate cache@west"), "{plan}");

    let asked = daemon.cli(&["failover", "--from", "east", "--component", "cache", "--reason", "x"]);
    assert_eq!(asked.status.code(), Some(2), "{}", err(&asked));
    assert!(out(&asked).contains("activate cache@west"), "the plan is shown: {}", out(&asked));
    assert!(err(&asked).contains("nobody is there to confirm that cache leaves east for west"), "{}", err(&asked));
    assert_eq!(daemon.status()["incidents"], serde_json::json!([]), "nothing was sent");

    let nowhere = daemon.cli(&["plan", "--if", "regional-outage", "--from", "atlantis"]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(err(&nowhere).contains("there is no region atlantis"), "{}", err(&nowhere));
}

#[test]
fn watching_into_a_pipe_prints_what_changes_and_ends_with_ctrl_c() {
    let daemon = Daemon::start("watch");
    let mut watching = daemon.command(&["status", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("failoverd adopt")), "the first status");
    assert_eq!(daemon.cli(&["adopt"]).status.code(), Some(0));
    assert!(lines.any(|line| line.contains("everything") || line.contains("watching")), "the next one");
    signal(&watching, "INT");
    let ended = wait(&mut watching, Duration::from_secs(10));
    assert_eq!(ended, Some(0));
}

/// A daemon in mode approve that watches an HTTP service that answers and a cache that does not.
struct Daemon {
    child: Child,
    url: String,
    folder: TempDir,
}

impl Daemon {
    fn start(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (service, other) = (answering_service(), answering_service());
        let path = |file: &str| folder.path().join(file).display().to_string();
        let config = format!(
            r#"
            [deployment]
            name = "{name}"
            mode = "approve"
            [ledger]
            path = "{ledger}"
            stop_file = "{stop}"
            [api]
            listen = "127.0.0.1:0"
            token = {{ env = "DAEMON_TOKEN" }}
            [regions.east]
            role = "primary"
            [regions.west]
            role = "secondary"
            [references.one]
            address = "{service}"
            [references.two]
            address = "{other}"
            [http.site]
            client_path = true
            [http.site.regions.east]
            url = "http://{service}/"
            [http.site.regions.west]
            url = "http://{other}/"
            [caches.cache]
            provider = "redis"
            trigger = {{ after = "1m" }}
            [caches.cache.regions.east]
            host = "127.0.0.1"
            port = 1
            [caches.cache.regions.west]
            host = "127.0.0.1"
            port = 2
            "#,
            ledger = path("ledger"),
            stop = path("STOP"),
        );
        let file = PathBuf::from(path("failoverd.toml"));
        std::fs::write(&file, config).unwrap();
        let mut child = command(&["run", "--log-format", "json", "--config", file.to_str().unwrap()])
            .env("DAEMON_TOKEN", TOKEN)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = String::new();
        let url = loop {
            let line = log.next().unwrap_or_else(|| panic!("the daemon ended:\n{seen}")).unwrap();
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            if let Some(address) = event["api"].as_str() {
                break format!("http://{address}");
            }
            seen.push_str(&line);
            seen.push('\n');
        };
        // Somebody has to go on reading, or lines are dropped; what they say is not looked at.
        std::thread::spawn(move || log.for_each(drop));
        Self { child, url, folder }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = command(args);
        command.args(["--url", &self.url]).env("FAILOVERD_TOKEN", TOKEN);
        command
    }

    fn cli(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn status(&self) -> serde_json::Value {
        serde_json::from_slice(&self.cli(&["status", "--json"]).stdout).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        signal(&self.child, "TERM");
        let ended = wait(&mut self.child, Duration::from_secs(30));
        if ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if !std::thread::panicking() {
            assert_eq!(ended, Some(0), "the daemon ends when it is asked to");
        }
    }
}

/// A service that answers every request with 200.
fn answering_service() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    address
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let _ = Command::new("kill").args(["-s", name, &pid]).stderr(Stdio::null()).status();
}

/// The exit code, if it ends in time.
fn wait(child: &mut Child, within: Duration) -> Option<i32> {
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

fn cli(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_failoverd"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.args(args).env_clear().env("PATH", path).env("LANG", "C.UTF-8").env("USER", "tester").stdin(Stdio::null());
    command
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
