//! Break-glass on the command line and in the controller: whom it asks, what it wants typed, what it records, and how
//! that is merged. On whole regions of real servers: `break_glass_lab.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command as Process, Output, Stdio};
use std::time::Duration;

use failoverd::config::{load, policy_hash};
use failoverd::decide::{
    BreakGlass, BreakGlassIncident, BreakGlassRecord, Command, Controller, Decision, Effect, Fact, Frame, Input,
    Outcome, initial_placement,
};
use failoverd::domain::{ComponentId, InstanceId, LedgerId, Now, Policy, RegionId};
use failoverd::ports::{Claim, Term};
use jiff::Timestamp;

pub(crate) const SHARED: &str = "0190aaaa-0000-7000-8000-000000000001";
pub(crate) const BESIDE: &str = "0190bbbb-0000-7000-8000-000000000002";

// --- the controller ---

#[test]
fn a_broken_glass_is_one_frame_and_nothing_is_sent_before_the_claim_is_up() {
    let mut world = World::with(BESIDE, &[]);
    let steps = world.steps_of("us-east-1");
    let order = world.order(steps);
    let decision = world.command(Command::BreakGlass(Box::new(order)));
    let names: Vec<&str> = decision.record.iter().map(Into::into).collect();
    let at = |name: &str| names.iter().position(|known| *known == name).unwrap_or_else(|| panic!("{name}: {names:?}"));
    assert!(at("break_glass_began") < at("placement_adopted"), "{names:?}");
    assert!(at("plan_made") < at("approved"), "{names:?}");
    assert!(!names.contains(&"approval_requested"), "whoever broke the glass was asked before: {names:?}");
    assert!(decision.perform.iter().any(|effect| matches!(effect, Effect::Claim { replace: true, .. })));
    assert!(!sends(&decision), "{:?}", decision.perform);
    let again = world.order(BTreeSet::new());
    let again = world.command(Command::BreakGlass(Box::new(again)));
    assert!(answer(&again).is_err_and(|why| why.contains("in use")), "once is enough");
}

#[test]
fn a_plan_that_is_another_one_than_was_shown_leaves_nothing_behind() {
    let mut world = World::with(BESIDE, &[]);
    let mut steps = world.steps_of("us-east-1");
    steps.pop_first();
    let order = world.order(steps);
    let decision = world.command(Command::BreakGlass(Box::new(order)));
    assert!(answer(&decision).is_err_and(|why| why.contains("another one than was shown")));
    assert_eq!(decision.record, [], "all of it, or nothing");
    assert!(!decision.perform.iter().any(|effect| matches!(effect, Effect::Claim { .. })));
}

#[test]
fn a_daemon_stands_still_under_the_claim_of_break_glass_until_it_is_merged() {
    let mut world =
        World::with(SHARED, &[Fact::PlacementAdopted { placement: everything("us-east-1"), by: "test".into() }]);
    let claim = Claim {
        ledger: BESIDE.into(),
        term: Some(term()),
        holder: format!("{}alice, bastion:/var/lib/failoverd/break-glass/x/ledger", Claim::BREAK_GLASS),
    };
    let seen = |claim: &Claim| BTreeMap::from([(RegionId::from("us-west-2"), Some(claim.clone()))]);
    let (asked, claims) = (world.at, seen(&claim));
    let _ = world.step(Input::Surveyed { asked, claims: BTreeMap::from([(RegionId::from("us-west-2"), None)]) });
    world.at += Duration::from_secs(15);
    let asked = world.at;
    let decision = world.step(Input::ClaimsSeen { asked, claims: claims.clone() });
    let page = decision.perform.iter().find_map(|e| if let Effect::Alarm(alarm) = e { Some(alarm) } else { None });
    let page = page.expect("a page");
    assert_eq!(page.key, "drift");
    assert!(page.text.contains("alice") && page.text.contains("failoverd ledger merge"), "{}", page.text);
    let status = world.controller.status(world.now());
    assert!(status.headline.starts_with("NOT IN CHARGE"), "{}", status.headline);
    assert!(world.controller.standstill(world.now()).claimed.is_some(), "what is under way sends nothing more");
    assert_eq!(world.controller.is_in_charge(), Some(false), "no role is answered for");

    // What was read before that which is known says how things were.
    let old = Duration::from_secs(1);
    let stale = world.step(Input::ClaimsSeen { asked: old, claims: BTreeMap::new() });
    assert_eq!(stale, Decision::default());

    let mut record = record();
    record.departs_from = Some("another".into());
    assert!(world.merge(&record, false).is_err_and(|why| why.contains("went on from ledger another")));
    record.departs_from = Some(SHARED.into());
    record.incidents[0].outcome = None;
    assert!(world.merge(&record, false).is_err_and(|why| why.contains("--unfinished")));
    record.incidents[0].outcome = Some(Outcome::Recovered);
    record.reason = "two\nlines".to_owned();
    assert!(world.merge(&record, false).is_err());
    record.reason = "fire".to_owned();
    record.placement.insert("database".into(), "atlantis".into());
    assert!(world.merge(&record, false).is_err_and(|why| why.contains("atlantis")));
    record.placement.insert("database".into(), "us-west-2".into());

    // The record does not say that the old primary owes a fence; it does.
    record.owed.clear();
    let merged =
        world.command(Command::Merge { by: "bob".into(), record: Box::new(record.clone()), unfinished: false });
    assert!(answer(&merged).is_ok(), "{:?}", answer(&merged));
    let fact = merged
        .record
        .iter()
        .find_map(|f| if let Fact::BreakGlassMerged { record, .. } = f { Some(record) } else { None });
    let owed: Vec<String> = fact.expect("one fact").owed.iter().map(ToString::to_string).collect();
    assert_eq!(owed, ["database@us-east-1"]);
    assert!(merged.perform.iter().any(|effect| matches!(effect, Effect::Claim { replace: true, .. })));
    let status = world.controller.status(world.now());
    assert_eq!(status.placement[&ComponentId::from("database")], RegionId::from("us-west-2"));
    assert_eq!(status.owed_fences.len(), 1);
    assert!(!status.headline.starts_with("NOT IN CHARGE"), "{}", status.headline);

    assert_eq!(world.controller.is_in_charge(), None, "the claims are to be read anew");

    // Twice does no harm, and what was changed since is found out.
    assert!(world.merge(&record, false).is_ok_and(|told| told.contains("merged already")));
    let frames = world.frames;
    record.head = "another".to_owned();
    assert!(world.merge(&record, false).is_err_and(|why| why.contains("changed")));
    assert_eq!(world.frames, frames, "nothing was recorded");

    // A cluster that comes back with the claim that was merged is taken over; one of somebody who went on is not.
    world.at += Duration::from_secs(15);
    let asked = world.at;
    let _ = world.step(Input::Surveyed { asked, claims });
    assert_eq!(world.controller.is_in_charge(), Some(true));
    assert!(!world.controller.status(world.now()).headline.starts_with("NOT"));
    world.at += Duration::from_secs(15);
    let later = Claim { term: Some(Term { epoch: 2, since: Timestamp::now() }), ..claim };
    let asked = world.at;
    let _ = world.step(Input::ClaimsSeen { asked, claims: seen(&later) });
    assert!(world.controller.status(world.now()).headline.starts_with("NOT IN CHARGE"));
}

#[test]
fn what_wanted_to_leave_a_region_that_has_been_left_is_superseded() {
    let mut world =
        World::with(SHARED, &[Fact::PlacementAdopted { placement: everything("us-east-1"), by: "test".into() }]);
    let asked = world.at;
    let _ = world.step(Input::Surveyed { asked, claims: BTreeMap::new() });
    let ordered = Command::Failover {
        by: "carol".into(),
        reason: "before the ledger went".into(),
        from: "us-east-1".into(),
        component: None,
        force: true,
    };
    assert!(answer(&world.command(ordered)).is_ok());
    let merged = world.command(Command::Merge { by: "bob".into(), record: Box::new(record()), unfinished: false });
    assert!(answer(&merged).is_ok(), "{:?}", answer(&merged));
    let closed = merged.record.iter().any(|f| matches!(f, Fact::IncidentClosed { outcome: Outcome::Superseded, .. }));
    assert!(closed, "{:?}", merged.record);
    assert!(world.controller.status(world.now()).incidents.iter().all(|incident| incident.closed.is_some()));
}

#[test]
fn nobody_breaks_the_glass_through_the_api() {
    let sent = r#"{"command":"break_glass","by":"mallory","reason":"x","from":"us-east-1"}"#;
    assert!(serde_json::from_str::<Command>(sent).is_err());
}

pub(crate) struct World {
    pub(crate) controller: Controller,
    pub(crate) policy: Policy,
    pub(crate) at: Duration,
    frames: u64,
}

impl World {
    pub(crate) fn with(ledger: &str, facts: &[Fact]) -> Self {
        Self::of(Self::policy(), ledger, facts)
    }

    pub(crate) fn policy() -> Policy {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/omnimesh.toml");
        load(&[path], &BTreeMap::new()).unwrap().policy
    }

    pub(crate) fn of(policy: Policy, ledger: &str, facts: &[Fact]) -> Self {
        let at = Duration::from_secs(1000);
        let facts = [&[Fact::LedgerCreated { ledger: LedgerId::from(ledger) }], facts].concat();
        let first = Frame { index: 0, epoch: 0, at: now(at), facts };
        let controller = Controller::recover(policy.clone(), policy_hash(&policy), [first]).unwrap();
        let mut world = Self { controller, policy, at, frames: 1 };
        let _ = world.step(Input::Restarted);
        world
    }

    pub(crate) fn now(&self) -> Now {
        now(self.at)
    }

    pub(crate) fn step(&mut self, input: Input) -> Decision {
        self.at += Duration::from_millis(1);
        let at = self.now();
        let decision = self.controller.step(at, input);
        if !decision.record.is_empty() {
            self.frames += 1;
            self.controller.apply(at, &decision.record);
        }
        decision
    }

    pub(crate) fn command(&mut self, command: Command) -> Decision {
        self.step(Input::Commanded { id: 1, request: None, command })
    }

    pub(crate) fn merge(&mut self, record: &BreakGlassRecord, unfinished: bool) -> Result<String, String> {
        answer(&self.command(Command::Merge { by: "bob".into(), record: Box::new(record.clone()), unfinished }))
    }

    pub(crate) fn order(&self, steps: BTreeSet<failoverd::domain::StepId>) -> BreakGlass {
        BreakGlass {
            by: "alice@bastion".into(),
            reason: "fire".into(),
            placement: initial_placement(&self.policy),
            from: "us-east-1".into(),
            component: None,
            force: true,
            accepted: BTreeMap::new(),
            steps,
            departs_from: Some(SHARED.into()),
            unproven: vec!["etcd does not answer".into()],
        }
    }

    /// The plan as it would be shown.
    pub(crate) fn steps_of(&self, region: &str) -> BTreeSet<failoverd::domain::StepId> {
        let adopted = Fact::PlacementAdopted { placement: initial_placement(&self.policy), by: "a preview".into() };
        let frame = Frame { index: 0, epoch: 0, at: self.now(), facts: vec![adopted] };
        let preview = Controller::recover(self.policy.clone(), String::new(), [frame]).unwrap();
        let plan = preview.plan_if(self.now(), &failoverd::decide::Scope::Region(region.into())).unwrap();
        plan.steps.into_iter().map(|step| step.id).collect()
    }
}

pub(crate) fn now(at: Duration) -> Now {
    Now { monotonic: at, wall: "2026-03-01T12:00:00Z".parse::<Timestamp>().unwrap() + at }
}

pub(crate) fn term() -> Term {
    Term { epoch: 1, since: "2026-03-01T03:12:01Z".parse().unwrap() }
}

pub(crate) fn everything(region: &str) -> BTreeMap<ComponentId, RegionId> {
    let components = ["kubernetes", "database", "cache", "storage", "traffic", "api"];
    components.map(|component| (component.into(), region.into())).into()
}

pub(crate) fn record() -> BreakGlassRecord {
    BreakGlassRecord {
        ledger: BESIDE.into(),
        term: term(),
        frames: 40,
        head: "f00d".into(),
        departs_from: Some(SHARED.into()),
        by: "alice@bastion".into(),
        reason: "fire".into(),
        began: now(Duration::from_secs(1001)).wall,
        placement: everything("us-west-2"),
        moved: None,
        owed: BTreeSet::from(["database@us-east-1".parse::<InstanceId>().unwrap()]),
        fenced: BTreeSet::new(),
        incidents: vec![BreakGlassIncident {
            incident: "inc-1".into(),
            source: "us-east-1".into(),
            target: "us-west-2".into(),
            outcome: Some(Outcome::Recovered),
            exceptions: vec![],
        }],
    }
}

pub(crate) fn answer(decision: &Decision) -> Result<String, String> {
    let reply =
        decision.perform.iter().find_map(|e| if let Effect::Reply { answer, .. } = e { Some(answer) } else { None });
    reply.cloned().expect("an answer")
}

fn sends(decision: &Decision) -> bool {
    decision.perform.iter().any(|e| matches!(e, Effect::Perform(_) | Effect::Undo { .. } | Effect::FenceOwed { .. }))
}

// --- the command line ---

#[test]
fn the_glass_is_not_broken_while_anybody_answers_and_it_is_said_who() {
    let desk = Desk::new("");
    let other = service("HTTP/1.1 503 Service Unavailable");
    let desk_with_other = Desk::new(&format!(
        "[ledger.etcd]\nendpoints = [\"http://{}\", \"http://{}\", \"http://{}\"]\n\
         [council.observers.failoverd]\nregion = \"elsewhere\"\n\
         [council.observers.other]\nregion = \"east\"\napi = \"{other}\"\n\
         [council.observers.unknown]\nregion = \"west\"\n",
        nobody(),
        nobody(),
        nobody()
    ));
    let output = desk_with_other.break_glass(&["--reason", "x", "--confirm", "desk west"]);
    assert_eq!(output.status.code(), Some(75), "{}", err(&output));
    assert!(err(&output).contains(&format!("other in east ({other}): it answers 503")), "{}", err(&output));
    assert!(err(&output).contains("hint: order it there"), "{}", err(&output));

    // Something holds the address of the daemon here, and says nothing.
    let _held = TcpListener::bind(desk.api).unwrap();
    let output = desk.break_glass(&["--reason", "x", "--confirm", "desk west"]);
    assert_eq!(output.status.code(), Some(75), "{}", err(&output));
    assert!(err(&output).contains("this machine") && err(&output).contains("systemctl stop"), "{}", err(&output));
}

#[test]
fn a_ledger_that_another_process_uses_answers() {
    let desk = Desk::new("");
    let ledger = desk.folder.path().join("ledger");
    let now = now(Duration::from_secs(1));
    let (_held, _) = failoverd::ledger::FileLedger::open(&ledger, now).unwrap();
    let output = desk.break_glass(&["--reason", "x", "--confirm", "desk west"]);
    assert_eq!(output.status.code(), Some(75), "{}", err(&output));
    assert!(err(&output).contains(&format!("in use by process {}", std::process::id())), "{}", err(&output));
}

#[test]
fn without_a_reason_or_the_right_words_nothing_is_done() {
    let desk = Desk::new("");
    let no_reason = desk.break_glass(&["--confirm", "desk west"]);
    assert_eq!(no_reason.status.code(), Some(2), "{}", err(&no_reason));
    assert!(err(&no_reason).contains("--reason"), "{}", err(&no_reason));
    let yes = desk.break_glass(&["--reason", "x", "--yes"]);
    assert_eq!(yes.status.code(), Some(2), "{}", err(&yes));
    let nobody = desk.break_glass(&["--reason", "x"]);
    assert_eq!(nobody.status.code(), Some(2), "{}", err(&nobody));
    assert!(err(&nobody).contains("--confirm \"desk west\""), "{}", err(&nobody));
    let shown = out(&nobody);
    for words in ["BREAK-GLASS for desk: east", "What cannot be proven", "Who was asked", "activate cache@west"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let wrong = desk.break_glass(&["--reason", "x", "--confirm", "desk east"]);
    assert_eq!(wrong.status.code(), Some(1), "{}", err(&wrong));
    let elsewhere =
        desk.command(&["failover", "--break-glass", "--from", "west", "--reason", "x", "--confirm", "desk east"]);
    assert_eq!(elsewhere.status.code(), Some(75), "{}", err(&elsewhere));
    assert!(err(&elsewhere).contains("nothing of that is served in west"), "{}", err(&elsewhere));
    assert!(!desk.folder.path().join("break-glass").exists(), "nothing was begun");
}

#[test]
fn a_record_goes_on_where_it_was_left_and_another_file_is_no_record() {
    let desk = Desk::new("");
    let ledger = desk.folder.path().join("other");
    drop(failoverd::ledger::FileLedger::open(&ledger, now(Duration::from_secs(1))).unwrap());
    let path = ledger.to_str().unwrap();
    let merged = desk.command(&["ledger", "merge", path, "--url", "http://127.0.0.1:1"]);
    assert_eq!(merged.status.code(), Some(1), "{}", err(&merged));
    assert!(err(&merged).contains("is no record of break-glass"), "{}", err(&merged));
    let missing = desk.command(&["ledger", "merge", "/nowhere/at/all"]);
    assert!(err(&missing).contains("there is no ledger at"), "{}", err(&missing));
}

#[test]
fn what_was_left_before_its_end_goes_on_and_what_is_merged_unfinished_says_so() {
    let desk = Desk::new("");
    let words = ["failover", "--break-glass", "--from", "east", "--reason", "fire", "--confirm", "desk west"];
    // The cache of the other region does not answer, so the plan waits.
    let (running, told) = desk.begin(&words, "target not ready");
    assert!(told.iter().any(|line| line.contains("broke the glass: fire")), "{told:#?}");
    let begun = std::fs::read_dir(desk.folder.path().join("break-glass")).unwrap().next().unwrap().unwrap();
    let record = begun.path().join("ledger").display().to_string();

    // It is there, and so nobody else breaks the glass, and nothing is merged.
    let second = desk.break_glass(&["--reason", "x", "--confirm", "desk west"]);
    assert_eq!(second.status.code(), Some(75), "{}", err(&second));
    assert!(err(&second).contains("this machine"), "{}", err(&second));
    let merged = desk.command(&["ledger", "merge", &record]);
    assert_eq!(merged.status.code(), Some(75), "{}", err(&merged));
    assert!(err(&merged).contains("still goes on there"), "{}", err(&merged));

    let ended = interrupt(running);
    assert_eq!(ended.status.code(), Some(1), "{}", err(&ended));
    assert!(err(&ended).contains(&format!("--continue {record}")), "{}", err(&ended));
    let words = ["failover", "--break-glass", "--continue", &record, "--confirm", "desk west"];
    let (running, told) = desk.begin(&words, "target not ready");
    assert!(told.iter().any(|line| line.contains("BREAK-GLASS goes on: east")), "{told:#?}");
    interrupt(running);

    // A daemon is back, on its own ledger.
    let daemon = {
        let log = std::fs::File::create(desk.folder.path().join("log")).unwrap();
        Process::new(env!("CARGO_BIN_EXE_failoverd"))
            .arg("run")
            .env("FAILOVERD_CONFIG", desk.folder.path().join("failoverd.toml"))
            .env("DESK_TOKEN", "secret")
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    };
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while desk.command(&["status"]).status.code() == Some(69) {
        assert!(std::time::Instant::now() < until);
        std::thread::sleep(Duration::from_millis(100));
    }
    let merged = desk.command(&["ledger", "merge", &record]);
    assert_eq!(merged.status.code(), Some(75), "{}", err(&merged));
    assert!(err(&merged).contains("inc-1 of that break-glass has not ended"), "{}", err(&merged));
    let merged = desk.command(&["ledger", "merge", &record, "--unfinished"]);
    assert_eq!(merged.status.code(), Some(0), "{}", err(&merged));
    let shown = out(&desk.command(&["ledger", "show"]));
    assert!(shown.contains("merged what tester@") && shown.contains("(fire)"), "{shown}");
    let again = desk.command(&["ledger", "merge", &record, "--unfinished"]);
    assert!(out(&again).contains("merged already"), "{}{}", out(&again), err(&again));
    interrupt(daemon);
}

/// A configuration, and nobody who runs.
pub(crate) struct Desk {
    pub(crate) folder: tempfile::TempDir,
    api: SocketAddr,
}

impl Desk {
    pub(crate) fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (site, other, api) = (service("HTTP/1.1 200 OK"), service("HTTP/1.1 200 OK"), nobody());
        let path = |file: &str| folder.path().join(file).display().to_string();
        let text = format!(
            r#"
[deployment]
name = "desk"
mode = "approve"
[observer]
name = "failoverd"
region = "elsewhere"
[ledger]
path = "{ledger}"
stop_file = "{stop}"
[api]
listen = "{api}"
token = {{ env = "DESK_TOKEN" }}
[references.one]
address = "{site}"
[references.two]
address = "{other}"
[regions.east]
role = "primary"
[regions.west]
role = "secondary"
[http.site]
client_path = true
[http.site.regions.east]
url = "http://{site}/"
[http.site.regions.west]
url = "http://{site}/"
[caches.cache]
provider = "redis"
[caches.cache.regions.east]
host = "127.0.0.1"
port = 1
[caches.cache.regions.west]
host = "127.0.0.1"
port = 2
{more}"#,
            ledger = path("ledger"),
            stop = path("STOP"),
        );
        std::fs::write(folder.path().join("failoverd.toml"), text).unwrap();
        Self { folder, api }
    }

    pub(crate) fn break_glass(&self, more: &[&str]) -> Output {
        self.command(&[&["failover", "--break-glass", "--from", "east"], more].concat())
    }

    pub(crate) fn command(&self, words: &[&str]) -> Output {
        Process::new(env!("CARGO_BIN_EXE_failoverd"))
            .args(words)
            .env("FAILOVERD_CONFIG", self.folder.path().join("failoverd.toml"))
            .env("COLUMNS", "160")
            .env("USER", "tester")
            .env("DESK_TOKEN", "secret")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// A process whose lines are read until one has this in it.
    pub(crate) fn begin(&self, words: &[&str], until: &str) -> (Child, Vec<String>) {
        let mut child = Process::new(env!("CARGO_BIN_EXE_failoverd"))
            .args(words)
            .env("FAILOVERD_CONFIG", self.folder.path().join("failoverd.toml"))
            .env("COLUMNS", "160")
            .env("USER", "tester")
            .env("DESK_TOKEN", "secret")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let mut read = Vec::new();
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        for line in lines.by_ref() {
            read.push(line);
            if read.last().is_some_and(|line| line.contains(until)) {
                break;
            }
        }
        let is_there = read.last().is_some_and(|line| line.contains(until));
        if !is_there {
            let output = child.wait_with_output().unwrap();
            panic!("no `{until}`: {read:#?} {}", err(&output));
        }
        // Whatever else it says is read, so that it can say it.
        std::thread::spawn(move || lines.for_each(drop));
        (child, read)
    }
}

/// SIGINT, and how it ends.
pub(crate) fn interrupt(child: Child) -> Output {
    assert!(Process::new("kill").arg("-INT").arg(child.id().to_string()).status().unwrap().success());
    child.wait_with_output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An address where nobody listens.
pub(crate) fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Says the same to everybody, until the test ends.
fn service(says: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut request = [0; 2048];
                if stream.read(&mut request).is_ok_and(|length| length > 0) {
                    let _ = write!(stream, "{says}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                }
            });
        }
    });
    address
}
