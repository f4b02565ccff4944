//! Never two actors, on whole regions of real servers: a copy of the ledger on a second machine; and break-glass, whose
//! claim halts three daemons on etcd until it is merged.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use failoverd::decide::{Fact, Outcome, Status, VerdictKind};
use failoverd::domain::ComponentId;

use crate::regions::{EAST, PATIENCE, Regions, WEST, ask};

const EUROPE: &str = "eu-west-1";

#[test]
fn a_cloned_machine_and_one_with_an_empty_ledger_are_never_two_actors() {
    let mut regions = Regions::up(&[], &[]);
    regions.watch();
    let mut others = Others::new(&regions);

    // The machine was cloned with its ledger, and somebody scaled to two with an empty one.
    std::fs::create_dir(others.folder("clone")).unwrap();
    std::fs::copy(regions.ledger(), others.folder("clone").join("ledger")).unwrap();
    for name in ["clone", "fresh"] {
        others.configure(&regions, name, "");
        others.run(&regions, name);
    }
    // Whoever took over last is in charge, and the other one finds out.
    regions.wait("the first one stands still", |regions| regions.status().headline.starts_with("NOT IN CHARGE"));
    let recorded = regions.facts().len();

    regions.lab.tell("kill", &["region:us-east-1"]);
    let is_closed = |facts: &[Fact]| facts.iter().any(|fact| matches!(fact, Fact::IncidentClosed { .. }));
    regions.wait("the clone has moved the region", |_| is_closed(&others.facts("clone")));
    // The calls that arrived at the servers: every one once.
    regions.judge(&[]);
    let acts = |facts: &[Fact]| {
        let acts = facts.iter().filter(|fact| matches!(fact, Fact::StepStarted { .. } | Fact::IncidentDeclared { .. }));
        acts.map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(acts(&regions.facts()[recorded..]), [""; 0]);
    assert_eq!(acts(&others.facts("fresh")), [""; 0]);
    let explained = regions.explain();
    assert!(explained.contains("a copy of this ledger took over"), "{explained}");
}

#[test]
fn break_glass_moves_a_region_without_the_daemons_which_stand_still_until_it_is_merged() {
    let regions = Regions::up_with("etcd", &[], &[]);
    let mut trio = Others::new(&regions);
    let endpoints = regions.lab.json.pointer("/etcd/endpoints").unwrap().to_string();
    for region in [EAST, WEST, EUROPE] {
        let seats: String = [EAST, WEST, EUROPE]
            .map(|at| format!("[council.observers.in-{at}]\nregion = \"{at}\"\napi = \"{}\"\n", trio.api(at)))
            .concat();
        let more = format!(
            "[observer]\nname = \"in-{region}\"\nregion = \"{region}\"\n[probes]\ninterval = \"1s\"\n\
             [ledger.etcd]\nendpoints = {endpoints}\n{seats}"
        );
        trio.configure(&regions, region, &more);
        trio.run(&regions, region);
    }
    trio.wait(&regions, "somebody leads and knows every instance", |trio| {
        trio.leader()
            .is_some_and(|leader| trio.status(leader).instances.iter().all(|seen| seen.verdict == VerdictKind::Alive))
    });
    trio.tell(EUROPE, &["adopt"]);
    trio.wait(&regions, "the standby is ready", |trio| {
        trio.leader().is_some_and(|leader| {
            let status = trio.status(leader);
            !status.placement.is_empty() && status.instances.iter().filter(|seen| !seen.active).all(|seen| seen.ready)
        })
    });
    let kept = trio.folder(WEST).join("omnimesh-lab.last-known.json");
    trio.wait(&regions, "where everything is served is kept beside the daemon", |_| kept.exists());

    // While daemons answer, and while members of etcd do, the glass stays whole.
    let refused = trio.break_glass(&regions, "omnimesh-lab us-west-2");
    assert_eq!(refused.status.code(), Some(75), "{}", err(&refused));
    assert!(err(&refused).contains("in-us-east-1") && err(&refused).contains("this machine"), "{}", err(&refused));
    trio.kill_all();
    let refused = trio.break_glass(&regions, "omnimesh-lab us-west-2");
    assert_eq!(refused.status.code(), Some(75), "{}", err(&refused));
    assert!(err(&refused).contains("etcd at") && !err(&refused).contains("in-us-east-1"), "{}", err(&refused));
    regions.lab.tell("kill", &["etcd-0", "etcd-1", "etcd-2"]);
    regions.lab.tell("kill", &["region:us-east-1"]);

    let done = trio.break_glass(&regions, "omnimesh-lab us-west-2");
    let told = out(&done);
    assert_eq!(done.status.code(), Some(0), "{told}{}", err(&done));
    assert!(told.contains("database@us-east-1 cannot be fenced now") && told.contains("DONE"), "{told}");
    regions.judge(&[]);
    let record = told.lines().find_map(|line| line.trim().strip_prefix("failoverd ledger merge ")).unwrap();
    let record = PathBuf::from(record.split(' ').next().unwrap());
    let recorded: Vec<Fact> =
        failoverd::ledger::read(&record, 0).unwrap().frames.into_iter().flat_map(|frame| frame.facts).collect();
    assert!(recorded.iter().any(|fact| matches!(fact, Fact::BreakGlassBegan { by, .. } if by.starts_with("tester"))));
    assert!(recorded.iter().any(|fact| matches!(fact, Fact::IncidentClosed { outcome: Outcome::Recovered, .. })));

    // Everybody comes back, the old primary too: it takes writes, and is fenced by nobody yet.
    regions.lab.tell("start", &["etcd-0", "etcd-1", "etcd-2"]);
    for region in [EAST, WEST, EUROPE] {
        trio.run(&regions, region);
    }
    trio.wait(&regions, "they see whose the clusters are", |trio| {
        [EAST, WEST, EUROPE].iter().all(|at| trio.status(at).headline.starts_with("NOT IN CHARGE"))
    });
    let page = |trio: &Others| trio.status(trio.leader()?).alarms.into_iter().find(|alarm| alarm.key == "drift");
    // Whoever has just been elected reads the claims anew.
    trio.wait(&regions, "whoever leads pages", |trio| {
        page(trio).is_some_and(|page| page.text.contains("break-glass by tester"))
    });
    let page = page(&trio).unwrap();
    assert!(page.text.contains("break-glass by tester") && page.text.contains("failoverd ledger merge"), "{page:?}");
    regions.lab.tell("start", &["pg@us-east-1"]);
    let acts = |trio: &Others| {
        trio.shown().lines().filter(|l| l.contains("started") || l.contains("declared,") || l.contains("fence")).count()
    };
    let before = acts(&trio);
    let until = Instant::now() + Duration::from_secs(15);
    while Instant::now() < until {
        assert_eq!(acts(&trio), before, "they stand still\n{}", trio.shown());
        std::thread::sleep(Duration::from_secs(1));
    }

    let merged = trio.tell(EAST, &["ledger", "merge", record.to_str().unwrap()]);
    assert!(merged.contains("in charge again"), "{merged}");
    let again = trio.tell(WEST, &["ledger", "merge", record.to_str().unwrap()]);
    assert!(again.contains("merged already"), "{again}");
    trio.wait(&regions, "every daemon knows where the database is", |trio| {
        [EAST, WEST, EUROPE].iter().all(|at| {
            let status = trio.status(at);
            status.placement.get(&ComponentId::from("database")).is_some_and(|region| region.as_str() == WEST)
                && !status.headline.starts_with("NOT IN CHARGE")
        })
    });
    trio.wait(&regions, "the old primary is fenced", |trio| trio.shown().contains("owed fence settled"));
    regions.judge(&["--only", "database,calls"]);
}

/// Daemons beside the one that `Regions` has, each with a layer on top of its configuration.
struct Others {
    folder: PathBuf,
    api: BTreeMap<&'static str, SocketAddr>,
    base: PathBuf,
    daemons: BTreeMap<String, Child>,
}

impl Others {
    fn new(regions: &Regions) -> Self {
        let names = [EAST, WEST, EUROPE, "clone", "fresh"];
        let api = names.map(|name| (name, TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())).into();
        let folder = regions.lab.folder().to_path_buf();
        Self { folder, api, base: regions.config(), daemons: BTreeMap::new() }
    }

    fn api(&self, name: &str) -> SocketAddr {
        self.api[name]
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.folder.join(format!("of-{name}"))
    }

    fn config(&self, name: &str) -> String {
        format!("{},{}", self.base.display(), self.folder(name).join("layer.toml").display())
    }

    fn configure(&self, _regions: &Regions, name: &str, more: &str) {
        std::fs::create_dir_all(self.folder(name)).unwrap();
        let api = self.api(name);
        let text = format!("{more}\n[api]\nlisten = \"{api}\"\n[ledger]\npath = \"ledger\"\nstop_file = \"STOP\"\n");
        std::fs::write(self.folder(name).join("layer.toml"), text).unwrap();
    }

    fn run(&mut self, regions: &Regions, name: &str) {
        let log = File::options().create(true).append(true).open(self.folder(name).join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_failoverd"))
            .args(["run", "--config", &self.config(name)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemons.insert(name.to_owned(), child);
        self.wait(regions, "it answers", |others| ask(others.api(name), "/v1/status").is_some());
    }

    fn kill_all(&mut self) {
        for (_, mut child) in std::mem::take(&mut self.daemons) {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn facts(&self, name: &str) -> Vec<Fact> {
        let contents = failoverd::ledger::read(&self.folder(name).join("ledger"), 0).unwrap();
        contents.frames.into_iter().flat_map(|frame| frame.facts).collect()
    }

    fn cli(&self, name: &str, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_failoverd"))
            .args(words)
            .env("FAILOVERD_CONFIG", self.config(name))
            .env("COLUMNS", "200")
            .env("USER", "tester")
            .env_remove("SUDO_USER")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn tell(&self, name: &str, words: &[&str]) -> String {
        let output = self.cli(name, words);
        assert!(output.status.success(), "{words:?}: {}{}", out(&output), err(&output));
        out(&output)
    }

    fn break_glass(&self, _regions: &Regions, confirm: &str) -> Output {
        let words = ["failover", "--break-glass", "--from", EAST, "--reason", "nobody can act", "--confirm", confirm];
        self.cli(WEST, &words)
    }

    /// Asked without a process for each question: three daemons and twenty servers need the machine.
    fn status(&self, name: &str) -> Status {
        let (code, body) = ask(self.api(name), "/v1/status").expect("the daemon answers");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
    }

    /// The ledger of all of them, in words.
    fn shown(&self) -> String {
        let output = self.cli(EUROPE, &["ledger", "show"]);
        assert!(output.status.success(), "{}", err(&output));
        out(&output)
    }

    fn leader(&self) -> Option<&str> {
        self.daemons.keys().map(String::as_str).find(|name| {
            let status = self.status(name);
            status.observers.iter().any(|observer| observer.leads && observer.observer == status.observer)
        })
    }

    fn wait(&self, regions: &Regions, what: &str, condition: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !condition(self) {
            let logs = || {
                let log = |name: &String| {
                    let text = std::fs::read_to_string(self.folder(name).join("log")).unwrap_or_default();
                    let lines: Vec<&str> = text.lines().rev().take(25).collect();
                    format!("--- {name}\n{}\n", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
                };
                self.daemons.keys().map(log).collect::<String>()
            };
            assert!(
                Instant::now() < until,
                "not within {PATIENCE:?}: {what} ({})\n{}",
                regions.lab.folder().display(),
                logs()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        for child in self.daemons.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
