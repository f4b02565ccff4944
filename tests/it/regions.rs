//! Two whole regions of real servers, the real daemon on them, and a judge that never asks it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "every area uses a part of it")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use failoverd::decide::{Fact, IncidentStatus, Status, VerdictKind};
use serde_json::Value;

use crate::lab::Lab;

/// The region that serves, and the one that waits.
pub(crate) const EAST: &str = "us-east-1";
pub(crate) const WEST: &str = "us-west-2";

/// On a busy machine everything takes longer. No test waits this long when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// A lab and a daemon with a configuration for it.
pub(crate) struct Regions {
    pub(crate) lab: Lab,
    api: SocketAddr,
    /// Where the daemon is told that everything is.
    json: PathBuf,
    variables: Vec<(String, String)>,
    daemon: Option<Child>,
    writer: Option<Child>,
}

impl Regions {
    /// Starts the lab with options of `lab.py up`, and writes a configuration with options of `failoverd_config.py`.
    pub(crate) fn up(lab_options: &[&str], config_options: &[&str]) -> Self {
        Self::up_with("", lab_options, config_options)
    }

    /// The same with another component, such as `etcd`.
    pub(crate) fn up_with(more: &str, lab_options: &[&str], config_options: &[&str]) -> Self {
        let components = format!("pg,redis,s3,aws,dns,k8s,app,{more}");
        let components = components.trim_end_matches(',');
        let lab = Lab::up(components, &[&["--client-addresses"], lab_options].concat());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let api = listener.local_addr().unwrap();
        let json = lab.folder().join("lab/lab.json");
        let regions = Self { lab, api, json, variables: Vec::new(), daemon: None, writer: None };
        regions.configure(config_options);
        regions
    }

    /// Leads the daemon to other addresses than the lab's own.
    pub(crate) fn lead_through(&mut self, lab: &Value, config_options: &[&str]) {
        self.json = self.lab.folder().join("led-through.json");
        std::fs::write(&self.json, lab.to_string()).unwrap();
        self.configure(config_options);
    }

    fn configure(&self, options: &[&str]) {
        let port = self.api.port().to_string();
        let output = Command::new("python3")
            .arg(script("failoverd_config.py"))
            .arg("--lab")
            .arg(&self.json)
            .arg("--out")
            .arg(self.config())
            .args(["--api-port", &port])
            .args(options)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A `FAILOVERD__…` variable of every daemon that is started from now on.
    pub(crate) fn set(&mut self, variable: &str, value: &str) {
        self.variables.retain(|(name, _)| name != variable);
        self.variables.push((variable.to_owned(), value.to_owned()));
    }

    /// Starts the daemon, waits until it has seen every instance alive, and has the ledger adopted where it is new.
    pub(crate) fn watch(&mut self) {
        self.start();
        let count = |regions: &Self, is: fn(&Fact) -> bool| regions.facts().iter().filter(|fact| is(fact)).count();
        self.wait("every instance has been seen alive", |regions| {
            let instances = regions.status().instances.len();
            instances > 0 && count(regions, |fact| matches!(fact, Fact::SeenAlive { .. })) >= instances
        });
        if self.status().placement.is_empty() {
            let adopted = self.cli(&["adopt"]);
            assert!(adopted.status.success(), "{}", String::from_utf8_lossy(&adopted.stderr));
        }
        self.wait("the standby is ready", |regions| {
            regions.status().instances.iter().filter(|instance| !instance.active).all(|instance| instance.ready)
        });
    }

    /// On a busy machine a probe may have gone wrong a moment ago.
    pub(crate) fn wait_until_what_serves_is_well(&self) {
        self.wait("what serves is well", |regions| {
            let instances = regions.status().instances;
            instances.iter().filter(|of| of.active).all(|of| of.verdict == VerdictKind::Alive)
        });
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_failoverd"));
        command
            .args(["run", "--config"])
            .arg(self.config())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.daemon = Some(command.spawn().unwrap());
        self.wait_with(|regions| {
            let ended = regions.daemon.as_mut().and_then(|daemon| daemon.try_wait().unwrap());
            assert!(ended.is_none(), "the daemon ended with {ended:?}\n{}", regions.story());
            regions.ask("/live").is_some_and(|(code, _)| code == 200)
        });
    }

    /// The process id of the daemon that runs.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("a daemon runs").id()
    }

    /// Sends a signal to the daemon: `STOP`, `CONT`, `HUP`, …
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// SIGKILL, and nothing after it.
    pub(crate) fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// Forgets everything that was decided: the next daemon begins with an empty ledger.
    pub(crate) fn forget_ledger(&self) {
        assert!(self.daemon.is_none(), "its owner runs");
        std::fs::remove_file(self.ledger()).unwrap();
    }

    /// Starts an application that commits a row every 10 ms, and waits for its first two hundred.
    pub(crate) fn write_rows(&mut self) {
        let log = File::create(self.lab.folder().join("writer.log")).unwrap();
        let writer = Command::new(lab_python())
            .arg(script("writer.py"))
            .arg("--lab")
            .arg(self.lab.folder().join("lab/lab.json"))
            .arg("--history")
            .arg(self.history())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.writer = Some(writer);
        self.wait("two hundred rows", |regions| regions.rows_acknowledged("") >= 200);
    }

    /// Rows that the application knows to be committed, with this text in their line of the history.
    pub(crate) fn rows_acknowledged(&self, with: &str) -> usize {
        let history = std::fs::read_to_string(self.history()).unwrap_or_default();
        history.lines().filter(|line| line.contains("\"acknowledged\"") && line.contains(with)).count()
    }

    /// Ends the application; its history stays.
    pub(crate) fn stop_writing(&mut self) {
        let mut writer = self.writer.take().expect("it writes");
        assert!(Command::new("kill").arg("-TERM").arg(writer.id().to_string()).status().unwrap().success());
        writer.wait().unwrap();
    }

    /// `lab.py link`: a fault of the proxy that the lab was started with.
    pub(crate) fn link(&self, fault: &str) {
        let address = self.lab.text("/proxy/control").trim_start_matches("http://").to_owned();
        let mut proxy = TcpStream::connect(&address).unwrap();
        writeln!(proxy, "{fault}").unwrap();
        let mut answer = String::new();
        proxy.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("ok"), "{fault}: {answer}");
    }

    /// The judge's verdict from the servers alone. Panics with everything that it found wrong.
    pub(crate) fn judge(&self, options: &[&str]) -> Value {
        let mut command = Command::new(lab_python());
        command.arg(script("judge.py")).arg("--lab").arg(&self.json).arg("--json");
        if self.history().exists() {
            command.arg("--history").arg(self.history());
        } else if !options.contains(&"--only") {
            command.args(["--only", "region,database,cache,storage,kubernetes,traffic,calls"]);
        }
        let output = command.args(options).output().unwrap();
        let verdict: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        let wrong: Vec<&Value> =
            verdict["findings"].as_array().unwrap().iter().filter(|finding| finding[0] == false).collect();
        assert!(wrong.is_empty() && verdict["ok"] == true, "the judge: {wrong:#?}\n{}", self.story());
        verdict["numbers"].clone()
    }

    /// A session of the superuser's, directly at the region's database.
    pub(crate) fn superuser(&self, region: &str) -> (tokio_postgres::Client, tokio::runtime::Runtime) {
        let dsn = self.lab.text(&format!("/regions/{region}/postgres/dsn/postgres")).to_owned();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (client, connection) = runtime.block_on(tokio_postgres::connect(&dsn, tokio_postgres::NoTls)).unwrap();
        runtime.spawn(connection);
        (client, runtime)
    }

    /// One statement of the superuser's.
    pub(crate) fn sql(&self, region: &str, statement: &str) {
        let (client, runtime) = self.superuser(region);
        runtime.block_on(client.batch_execute(statement)).unwrap();
    }

    /// What the application's health endpoint answers in a region from now on, with 200; as it is again where nothing is in it.
    pub(crate) fn tell_health(&self, region: &str, json: &str) {
        let address = self.lab.text(&format!("/regions/{region}/app/http")).trim_start_matches("http://").to_owned();
        let mut stream = TcpStream::connect(&address).unwrap();
        let length = json.len();
        write!(stream, "POST /lab/health HTTP/1.0\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n{json}")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 204 "), "{answer}");
    }

    /// Where the daemon's API is.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.api)
    }

    /// `failoverd COMMAND`, with the daemon's address and token.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_failoverd"))
            .args(arguments)
            .args(["--url", &self.url()])
            .env("FAILOVERD_TOKEN", "lab-token")
            .env("COLUMNS", "160")
            .output()
            .unwrap()
    }

    /// What a command that has to succeed prints.
    pub(crate) fn tell(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// What `failoverd explain` prints, whatever it thinks of it.
    pub(crate) fn explain(&self) -> String {
        String::from_utf8_lossy(&self.cli(&["explain"]).stdout).into_owned()
    }

    /// `GET /v1/status`.
    pub(crate) fn status(&self) -> Status {
        let (code, body) = self.ask("/v1/status").expect("the daemon answers");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
    }

    /// The newest incident that is not closed.
    pub(crate) fn incident(&self) -> Option<IncidentStatus> {
        self.status().incidents.into_iter().find(|incident| incident.closed.is_none())
    }

    /// Everything that is durable, read from the ledger's file as it is now.
    pub(crate) fn facts(&self) -> Vec<Fact> {
        match failoverd::ledger::read(&self.ledger(), 0) {
            Ok(contents) => contents.frames.into_iter().flat_map(|frame| frame.facts).collect(),
            Err(failoverd::ledger::LedgerError::Missing { .. }) => Vec::new(),
            Err(error) => panic!("{error}"),
        }
    }

    /// Incidents that were ever declared.
    pub(crate) fn declared(&self) -> usize {
        self.facts().iter().filter(|fact| matches!(fact, Fact::IncidentDeclared { .. })).count()
    }

    /// Waits for the fact, by its text.
    pub(crate) fn wait_for_fact(&self, what: &str, is: impl Fn(&Fact) -> bool) {
        self.wait(what, |regions| regions.facts().iter().any(&is));
    }

    /// Something was declared, and everything that was has ended.
    pub(crate) fn is_closed(&self) -> bool {
        let facts = self.facts();
        let count = |is: fn(&Fact) -> bool| facts.iter().filter(|fact| is(fact)).count();
        let declared = count(|fact| matches!(fact, Fact::IncidentDeclared { .. }));
        declared > 0 && declared == count(|fact| matches!(fact, Fact::IncidentClosed { .. }))
    }

    /// Waits until every incident is closed.
    pub(crate) fn wait_until_closed(&self) {
        self.wait("the incident is closed", Self::is_closed);
    }

    /// Waits for a condition; the daemon's story is shown where it does not come true.
    pub(crate) fn wait(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}\n{}", self.story());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Does something until it says that it is through.
    pub(crate) fn wait_with(&mut self, mut act: impl FnMut(&mut Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !act(self) {
            assert!(Instant::now() < until, "not within {PATIENCE:?}\n{}", self.story());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What holds for this long, looked at all the time.
    pub(crate) fn holds(&self, what: &str, how_long: Duration, condition: impl Fn(&Self) -> bool) {
        let until = Instant::now() + how_long;
        while Instant::now() < until {
            assert!(condition(self), "{what}\n{}", self.story());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Everything that the daemon recorded, and what it says now.
    pub(crate) fn story(&self) -> String {
        let ledger = Command::new(env!("CARGO_BIN_EXE_failoverd")).args(["ledger", "show"]).arg(self.ledger()).output();
        let facts = ledger.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let log = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(40).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        format!("{facts}\n--- explain\n{}\n--- log\n{}", self.explain(), tail.join("\n"))
    }

    /// The daemon's log.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.lab.folder().join("failoverd.log")
    }

    /// The ledger's file.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.lab.folder().join("ledger")
    }

    /// The configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.lab.folder().join("failoverd.toml")
    }

    fn history(&self) -> PathBuf {
        self.lab.folder().join("history.jsonl")
    }

    fn ask(&self, path: &str) -> Option<(u16, String)> {
        ask(self.api, path)
    }
}

/// What a daemon of the lab answers; none where it does not.
pub(crate) fn ask(api: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(api).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {api}\r\nAuthorization: Bearer lab-token\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

impl Drop for Regions {
    fn drop(&mut self) {
        for child in [self.daemon.as_mut(), self.writer.as_mut()].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab").join(name)
}

/// The Python that has the lab's packages.
fn lab_python() -> PathBuf {
    let cache = std::env::var_os("FAILOVERD_LAB_CACHE").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/failoverd-lab"),
        PathBuf::from,
    );
    cache.join("venv/bin/python")
}
