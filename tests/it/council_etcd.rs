//! Three daemons as processes, on a real etcd of three members: who leads, what every one of them answers, and what they
//! say when the ledger has lost its quorum.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use failoverd::decide::Status;
use serde_json::Value;

use super::lab::Lab;

const REGIONS: [&str; 3] = ["us-east-1", "us-west-2", "eu-west-1"];
const EAST: &str = REGIONS[0];
/// As configured below.
const SELF_FENCE_AFTER: Duration = Duration::from_secs(4);
/// Elections, leases of 10 s, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn three_daemons_on_etcd_have_one_leader_that_is_replaced_and_say_so_when_the_ledger_is_gone() {
    let lab = Lab::up("etcd", &[]);
    let mut trio = Trio::start(&lab);

    // An order is taken by any of them, and the role is answered for by all.
    trio.wait_for("somebody leads", |trio| trio.leader().is_some());
    let adopted = trio.order(trio.follower(), &["adopt"]);
    assert!(adopted.status.success(), "{}", String::from_utf8_lossy(&adopted.stderr));
    trio.wait_for("the role is answered for by every daemon", |trio| {
        REGIONS.iter().all(|at| trio.role(at, EAST) == 200 && trio.role(at, "us-west-2") == 503)
    });
    trio.wait_for("the one inside the region that serves has given the lead up", |trio| {
        trio.leader().is_some_and(|leader| leader != EAST)
    });
    trio.wait_for("everybody is heard by everybody", |trio| {
        REGIONS.iter().all(|at| trio.status(at).observers.iter().all(|observer| observer.without_voice.is_none()))
    });

    // The leader dies, and another one takes over.
    let former = trio.whoever_leads();
    let died = Instant::now();
    trio.kill(former);
    trio.wait_for("another one leads", |trio| trio.leader().is_some_and(|leader| leader != former));
    // The lease of 10 s, an election, and the status of this test.
    assert!(died.elapsed() < Duration::from_secs(25), "{:?}", died.elapsed());
    trio.run(former);
    trio.wait_for("the one that died is back", |trio| get(trio.api[former], "/live").is_some());
    trio.wait_for("it follows", |trio| trio.status(former).placement == trio.status(EAST).placement);

    // The ledger loses its quorum: nothing is in effect, everybody pages, and the roles end.
    lab.tell("stop", &["etcd-0"]);
    lab.tell("stop", &["etcd-1"]);
    trio.wait_for("every daemon pages", |trio| {
        REGIONS.iter().all(|at| trio.status(at).alarms.iter().any(|alarm| alarm.key == "daemon/ledger"))
    });
    // The region that serves keeps its role as long as everybody else answers: nobody can have taken it away.
    let gone = Instant::now();
    while gone.elapsed() < SELF_FENCE_AFTER * 3 {
        for at in REGIONS {
            assert_eq!(
                (trio.role(at, EAST), trio.role(at, "us-west-2")),
                (200, 503),
                "{at} after {:?}",
                gone.elapsed()
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let paused = trio.order(EAST, &["pause", "--until", "5m", "--reason", "test"]);
    assert_eq!(paused.status.code(), Some(75), "{}", String::from_utf8_lossy(&paused.stderr));
    assert!(trio.status(EAST).headline.starts_with("NOBODY CAN ACT"), "{}", trio.status(EAST).headline);

    // Where one of them does not answer, it may have been told something that the others were not.
    trio.kill("us-west-2");
    let silent = Instant::now();
    trio.wait_for("no role is answered for", |trio| {
        ["us-east-1", "eu-west-1"].iter().all(|at| trio.role(at, EAST) == 503)
    });
    assert!(silent.elapsed() < SELF_FENCE_AFTER + Duration::from_secs(2), "{:?}", silent.elapsed());
    // One that was not there has nothing to say of roles, and agrees with nobody.
    trio.run("us-west-2");
    trio.wait_for("it answers", |trio| get(trio.api["us-west-2"], "/live").is_some());
    std::thread::sleep(SELF_FENCE_AFTER);
    assert!(REGIONS.iter().all(|at| trio.role(at, EAST) == 503));

    // It is back, and so are they.
    lab.tell("cont", &["etcd-0"]);
    lab.tell("cont", &["etcd-1"]);
    trio.wait_for("one leads again", |trio| trio.leader().is_some());
    trio.wait_for("the role is back", |trio| REGIONS.iter().all(|at| trio.role(at, EAST) == 200));
}

/// Two web services, and a daemon for each region.
struct Trio<'a> {
    lab: &'a Lab,
    daemons: BTreeMap<&'static str, Child>,
    api: BTreeMap<&'static str, SocketAddr>,
    roles: BTreeMap<&'static str, SocketAddr>,
}

impl<'a> Trio<'a> {
    fn start(lab: &'a Lab) -> Self {
        let (first, second) = (web(), web());
        let addresses = || REGIONS.map(|region| (region, free_address())).into();
        let mut trio = Self { lab, daemons: BTreeMap::new(), api: addresses(), roles: addresses() };
        let endpoints = lab.json.pointer("/etcd/endpoints").unwrap();
        let seats: String = REGIONS
            .map(|region| {
                let api = trio.api[region];
                format!("[council.observers.in-{region}]\nregion = \"{region}\"\napi = \"{api}\"\n")
            })
            .concat();
        for region in REGIONS {
            let (api, role) = (trio.api[region], trio.roles[region]);
            let text = format!(
                r#"
[deployment]
name = "trio"
[observer]
name = "in-{region}"
region = "{region}"
[ledger]
stop_file = "STOP-{region}"
[ledger.etcd]
endpoints = {endpoints}
[api]
listen = "{api}"
role_listen = "{role}"
self_fence_after = "{}s"
token = {{ file = "token" }}
[probes]
interval = "1s"
timeout = "500ms"
[references.first]
address = "{first}"
[references.second]
address = "{second}"
[regions.us-east-1]
role = "primary"
[regions.us-west-2]
role = "secondary"
[regions.eu-west-1]
role = "tertiary"
[http.web]
trigger = {{ after = "20s" }}
[http.web.regions.us-east-1]
url = "http://{first}/"
[http.web.regions.us-west-2]
url = "http://{second}/"
{seats}
"#,
                SELF_FENCE_AFTER.as_secs()
            );
            std::fs::write(trio.file(region), text).unwrap();
        }
        std::fs::write(lab.folder().join("token"), "secret\n").unwrap();
        for region in REGIONS {
            trio.run(region);
        }
        for region in REGIONS {
            trio.wait_for("it answers", |trio| get(trio.api[region], "/live").is_some());
        }
        trio
    }

    fn file(&self, region: &str) -> std::path::PathBuf {
        self.lab.folder().join(format!("{region}.toml"))
    }

    fn run(&mut self, region: &'static str) {
        let log = std::fs::File::options().create(true).append(true).open(self.log(region)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_failoverd"))
            .arg("run")
            .arg("--config")
            .arg(self.file(region))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemons.insert(region, child);
    }

    fn log(&self, region: &str) -> std::path::PathBuf {
        self.lab.folder().join(format!("{region}.log"))
    }

    fn kill(&mut self, region: &str) {
        let mut child = self.daemons.remove(region).expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn status(&self, region: &str) -> Status {
        let body = get(self.api[region], "/v1/status").unwrap_or_else(|| panic!("{region} does not answer"));
        serde_json::from_str(&body.1).unwrap()
    }

    /// The region of the one that leads, as it says itself.
    /// A lease may be lost and won again on a busy machine.
    fn whoever_leads(&self) -> &'static str {
        let leader = std::cell::Cell::new(None);
        self.wait_for("one leads", |trio| {
            leader.set(trio.leader());
            leader.get().is_some()
        });
        leader.get().expect("one leads")
    }

    fn leader(&self) -> Option<&'static str> {
        let leads = |region: &str| {
            let status = self.status(region);
            status.observers.iter().any(|observer| observer.leads && observer.observer == status.observer)
        };
        let leaders: Vec<&str> = REGIONS.into_iter().filter(|region| self.daemons.contains_key(region)).collect();
        let leaders: Vec<&'static str> = leaders.into_iter().filter(|region| leads(region)).collect();
        assert!(leaders.len() < 2, "{leaders:?} lead");
        leaders.first().copied()
    }

    fn follower(&self) -> &'static str {
        let leader = self.leader();
        REGIONS.into_iter().find(|region| Some(*region) != leader).unwrap()
    }

    fn role(&self, at: &str, region: &str) -> u16 {
        get(self.roles[at], &format!("/v1/role/{region}/web")).map_or(0, |(status, _)| status)
    }

    fn order(&self, at: &str, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_failoverd"))
            .args(words)
            .args(["--url", &format!("http://{}", self.api[at])])
            .env("FAILOVERD_TOKEN", "secret")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn wait_for(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is_so(self) {
            let logs = || REGIONS.map(|region| format!("--- {region}\n{}", tail(&self.log(region)))).concat();
            assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}\n{}", logs());
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Trio<'_> {
    fn drop(&mut self) {
        for child in self.daemons.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n") + "\n"
}

/// A web service that answers everything with 200, until the test ends.
fn web() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut request = [0; 2048];
                if stream.read(&mut request).is_ok_and(|length| length > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                }
            });
        }
    });
    address
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAuthorization: Bearer secret\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let is_json = serde_json::from_str::<Value>(body).is_ok() || body.is_empty() || !body.starts_with('{');
    is_json.then_some(())?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}
