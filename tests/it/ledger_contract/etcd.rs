//! The ledger in etcd, on a real cluster of three members that are killed, stopped and cut off.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use failoverd::config::SecretSource;
use failoverd::config::schema::EtcdLedger as Settings;
use failoverd::daemon::clock::SystemClock;
use failoverd::domain::Now;
use failoverd::ledger::EtcdLedger;
use failoverd::ports::{AppendError, Clock, Ledger, Unusable};

use super::{Daemon, Link, Place, Site, ballot, frame, promises, words};
use crate::lab::Lab;
use crate::link::{Mode, TcpLink};

const LEASE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_keeps_what_a_ledger_promises_to_one_daemon() {
    promises::to_one_daemon(&Cluster::up(&[])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_keeps_what_a_ledger_promises_to_several_daemons() {
    promises::to_several_daemons(&Cluster::up(&[]), 0..3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_record_goes_on_without_one_member_waits_without_two_and_goes_on_when_they_are_back() {
    let cluster = Cluster::up(&[]);
    let site = cluster.site("members");
    let daemon = site.daemon("one").await;
    let lease = daemon.lead(&site).await;
    daemon.say(&lease, "three members").await.map(drop).expect("appends");

    // The one that the daemon talks to.
    cluster.lab.tell("kill", &["etcd-0"]);
    let lease = daemon.lead_in_time(&site).await;
    say_until_it_is_known(&daemon, &lease, "two members").await;

    cluster.lab.tell("kill", &["etcd-1"]);
    let index = 3;
    let unsure = frame(index, lease.epoch, "without a quorum");
    let unknown = daemon.ledger.append(unsure.clone()).await;
    assert!(matches!(unknown, Err(AppendError::Unknown(_))), "{unknown:?}");
    let confirmed = daemon.ledger.standing().confirmed;
    assert!(matches!(daemon.ledger.renew(site.now()).await, Err(Unusable::Unavailable(_))));
    assert!(matches!(daemon.ledger.campaign(site.now()).await, Err(Unusable::Unavailable(_))));
    assert!(daemon.ledger.read_from(0).await.is_err());
    assert!(daemon.ledger.publish(&ballot("one", 1)).await.is_err());
    let standing = daemon.ledger.standing();
    assert_eq!(standing.confirmed, confirmed, "nothing was confirmed");
    assert!(
        matches!(&standing.trouble, Some(Unusable::Unavailable(why)) if why.contains("etcd at http://")),
        "{standing:?}"
    );

    cluster.lab.tell("start", &["etcd-0"]);
    cluster.lab.tell("start", &["etcd-1"]);
    let began = Instant::now();
    let again = loop {
        match daemon.ledger.append(unsure.clone()).await {
            Err(AppendError::Unknown(_)) if began.elapsed() < Duration::from_secs(30) => {}
            conclusive => break conclusive,
        }
    };
    let heard = daemon.heard().await;
    match again {
        Ok(durable) => {
            assert_eq!(durable.index(), index);
            assert_eq!(heard, ["three members", "two members", "without a quorum"]);
        }
        // The lease ran out meanwhile; then it is there or not, and it will not come any more.
        Err(AppendError::Fenced { epoch }) => assert!(epoch > lease.epoch),
        Err(other) => panic!("{other}"),
    }
    let later = daemon.lead_in_time(&site).await;
    assert_eq!(daemon.heard().await, heard);
    daemon.say(&later, "after").await.map(drop).expect("appends");
    assert_eq!(daemon.ledger.standing().trouble, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_accepts_and_never_answers_is_left_in_time_to_keep_the_lease() {
    let cluster = Cluster::up(&[]);
    let site = cluster.site("stopped");
    let (one, other) = (site.daemon("one").await, site.daemon("other").await);
    let mut lease = one.lead(&site).await;
    other.ledger.publish(&ballot("other", 1)).await.expect("publishes");
    one.until("the ballot", |ledger| ledger.ballots().len() == 1).await;
    cluster.lab.tell("stop", &["etcd-0"]);
    let began = Instant::now();
    let mut sequence = 1;
    // A second and a half of silence, then another member; the lease is never lost.
    while began.elapsed() < 2 * LEASE {
        match one.ledger.renew(site.now()).await {
            Ok(renewed) => lease = renewed.expect("still leads"),
            Err(why) => assert!(site.now().monotonic < lease.until, "{why}"),
        }
        sequence += 1;
        let _ = one.ledger.publish(&ballot("one", sequence)).await;
        let _ = other.ledger.publish(&ballot("other", sequence)).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(site.now().monotonic < lease.until);
    say_until_it_is_known(&one, &lease, "two answer").await;
    for daemon in [&one, &other] {
        daemon.until("both ballots", |l| l.ballots().iter().map(|b| b.sequence).eq([sequence, sequence])).await;
    }
    cluster.lab.tell("cont", &["etcd-0"]);
    assert_eq!(other.heard().await, ["two answer"]);
}

/// A write that timed out is committed when the other members wake up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_was_given_up_for_lost_is_recorded_once_or_never() {
    let cluster = Cluster::up(&[]);
    let site = cluster.site("given-up");
    let daemon = site.daemon("one").await;
    let mut expected: Vec<String> = vec![];
    for round in 0..3 {
        let lease = daemon.lead_in_time(&site).await;
        let next = frame(daemon.next().await, lease.epoch, &format!("round {round}"));
        for member in ["etcd-1", "etcd-2"] {
            cluster.lab.tell("stop", &[member]);
        }
        let unknown = daemon.ledger.append(next.clone()).await;
        assert!(matches!(unknown, Err(AppendError::Unknown(_))), "{unknown:?}");
        for member in ["etcd-1", "etcd-2"] {
            cluster.lab.tell("cont", &[member]);
        }
        let began = Instant::now();
        let conclusive = loop {
            match daemon.ledger.append(next.clone()).await {
                Err(AppendError::Unknown(_)) if began.elapsed() < Duration::from_secs(30) => {}
                conclusive => break conclusive,
            }
        };
        let heard = daemon.heard().await;
        match conclusive {
            Ok(_) => expected.push(format!("round {round}")),
            Err(AppendError::Fenced { .. }) => expected.clone_from(&heard),
            Err(other) => panic!("{other}"),
        }
        assert_eq!(heard, expected);
        assert!(heard.iter().filter(|word| **word == format!("round {round}")).count() <= 1);
    }
    tokio::time::sleep(LEASE).await;
    assert_eq!(daemon.heard().await, expected, "nothing came after the answer was conclusive");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_takes_nothing_from_whoever_watches_or_was_cut_off() {
    let cluster = Cluster::up(&[]);
    let site = cluster.site("compaction");
    let (leader, follower) = (site.daemon("leader").await, site.daemon("follower").await);
    let lease = leader.lead(&site).await;
    follower.until("the leader", |ledger| ledger.standing().leader.is_some()).await;
    follower.link.cut();
    for sequence in 1..6 {
        leader.ledger.publish(&ballot("leader", sequence)).await.expect("publishes");
        leader.say(&lease, &format!("word {sequence}")).await.map(drop).expect("appends");
    }
    cluster.compact();
    follower.link.heal();
    follower.until("what was missed", |l| l.ballots() == [ballot("leader", 5)] && l.standing().frames == 6).await;
    assert_eq!(follower.heard().await.len(), 5);
    for sequence in 6..9 {
        leader.ledger.publish(&ballot("leader", sequence)).await.expect("publishes");
        cluster.compact();
        follower.until("what comes after", |ledger| ledger.ballots() == [ballot("leader", sequence)]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_removes_old_revisions_so_that_ballots_do_not_fill_etcd() {
    let cluster = Cluster::up(&[]);
    let site = cluster.site("history");
    let settings = Settings { compact_after: Duration::from_secs(1), ..site.settings() };
    let ledger = open(&settings, "history", "one");
    ledger.campaign(site.now()).await.expect("answers").lease().expect("leads");
    let first = cluster.etcdctl(&["get", "/failoverd/history/live/leader", "--rev", &cluster.revision()]);
    assert!(first.contains("live/leader"), "{first}");
    let old = cluster.revision();
    let began = Instant::now();
    let mut sequence = 0;
    while cluster.etcdctl(&["get", "/failoverd/history/tip", "--rev", &old]).contains("tip") {
        assert!(began.elapsed() < Duration::from_secs(20), "revision {old} is still there");
        sequence += 1;
        ledger.publish(&ballot("one", sequence)).await.expect("publishes");
        ledger.renew(site.now()).await.expect("answers").expect("leads");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(ledger.read_from(0).await.expect("reads").len(), 1, "frames are not history");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_vanish_or_change_behind_our_back_are_damage() {
    let cluster = Cluster::up(&[]);
    let site = cluster.site("damage");
    let daemon = site.daemon("one").await;
    let lease = daemon.lead(&site).await;
    for word in ["a", "b", "c"] {
        daemon.say(&lease, word).await.map(drop).expect("appends");
    }
    // A person may look at it without taking part.
    let contents = open(&site.settings(), "damage", "reader").contents().await.expect("reads");
    assert_eq!((contents.count, words(&contents.frames)), (4, vec!["a".into(), "b".into(), "c".into()]));
    let none = open(&site.settings(), "elsewhere", "reader").contents().await.expect_err("is not there");
    assert!(none.to_string().contains("there is none yet"), "{none}");
    let key = |index: u64| format!("/failoverd/damage/frames/{index:020}");
    let third = cluster.etcdctl(&["get", "--print-value-only", &key(3)]);
    cluster.etcdctl(&["del", &key(3)]);
    let error = daemon.ledger.read_from(0).await.expect_err("the last one is gone").to_string();
    assert!(error.contains("damaged in frame 3") && error.contains("missing"), "{error}");
    cluster.etcdctl(&["put", &key(3), &third.trim_end().replace("\"c\"", "\"x\"")]);
    let error = daemon.ledger.read_from(0).await.expect_err("the last one is another").to_string();
    assert!(error.contains("damaged in frame 3") && error.contains("hash"), "{error}");
    cluster.etcdctl(&["put", &key(3), third.trim_end()]);
    assert_eq!(daemon.heard().await, ["a", "b", "c"]);
    cluster.etcdctl(&["del", &key(2)]);
    let error = daemon.ledger.read_from(0).await.expect_err("a gap").to_string();
    assert!(error.contains("damaged in frame 2") && error.contains("missing"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_user_and_password_open_the_ledger_and_a_wrong_one_is_named() {
    let cluster = Cluster::up(&["--etcd-secure"]);
    let site = cluster.site("secure");
    let daemon = site.daemon("one").await;
    let lease = daemon.lead(&site).await;
    daemon.say(&lease, "secret").await.map(drop).expect("appends");
    daemon.ledger.publish(&ballot("one", 1)).await.expect("publishes");
    daemon.until("the ballot", |ledger| ledger.ballots().len() == 1).await;

    let literal = |text: &str| Some(SecretSource::Literal(text.into()));
    let right = || site.settings();
    for (what, settings, words) in [
        ("password", Settings { password: literal("wrong"), ..right() }, "authentication failed"),
        ("user", Settings { user: None, password: None, ..right() }, "permission denied"),
        ("prefix", Settings { prefix: "/elsewhere/".to_owned(), ..right() }, "permission denied"),
        ("certificate", Settings { cert_file: None, key_file: None, ..right() }, ""),
        ("authority", Settings { ca_file: None, ..right() }, "certificate"),
    ] {
        let ledger = open(&settings, "secure", "other");
        let error = ledger.campaign(site.now()).await.expect_err(what);
        assert!(error.to_string().contains(words), "{what}: {error}");
        assert!(!error.to_string().contains("lab-failoverd"), "{what}: {error}");
        // It names every member, and not only the one that was asked last.
        let trouble = ledger.standing().trouble.expect(what);
        assert_eq!(std::mem::discriminant(&trouble), std::mem::discriminant(&error), "{what}: {trouble}");
        assert!(trouble.to_string().contains(&error.to_string()), "{what}: {trouble}");
        assert_eq!(trouble.to_string().matches("etcd at ").count(), 3, "{what}: {trouble}");
        let is_refused = matches!(error, Unusable::Refused(_));
        assert!(is_refused || words.is_empty() || words == "certificate", "{what}: {error:?}");
    }
    assert_eq!(daemon.heard().await, ["secret"]);
    // A member that was started anew knows no token of before.
    for member in ["etcd-0", "etcd-1", "etcd-2"] {
        cluster.lab.tell("kill", &[member]);
        cluster.lab.tell("start", &[member]);
        let lease = daemon.lead_in_time(&site).await;
        say_until_it_is_known(&daemon, &lease, member).await;
    }
    assert_eq!(daemon.heard().await, ["secret", "etcd-0", "etcd-1", "etcd-2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_daemons_with_a_ballot_every_two_seconds_need_less_than_a_kibibyte_a_second_each() {
    let cluster = Cluster::up(&["--etcd-secure"]);
    let site = cluster.site("traffic");
    let daemons = [site.linked("a").await, site.linked("b").await, site.linked("c").await];
    daemons[0].0.lead(&site).await;
    let mut ballots: Vec<_> = ["a", "b", "c"].map(|name| ballot(name, 0)).into();
    let mut before = 0;
    const ROUNDS: u64 = 8;
    for round in 0..=ROUNDS {
        for ((daemon, _), ballot) in daemons.iter().zip(&mut ballots) {
            ballot.sequence += 1;
            daemon.ledger.publish(ballot).await.expect("publishes");
        }
        daemons[0].0.ledger.renew(site.now()).await.expect("answers").expect("leads");
        tokio::time::sleep(Duration::from_secs(2)).await;
        if round == 0 {
            // What it takes to connect is not what it takes to run.
            before = daemons.iter().map(|(_, links)| links.bytes()).max().unwrap_or(0);
        }
    }
    let worst = daemons.iter().map(|(_, links)| links.bytes()).max().unwrap_or(0) - before;
    let each = worst as f64 / (2 * ROUNDS) as f64;
    println!("idle traffic of the busiest of three daemons: {each:.0} bytes/s, both ways");
    assert!(each < 1024.0, "{each:.0} bytes/s");
}

/// Whoever wants to break the glass is told of a member that is there although nothing can be recorded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_three_members_answers_although_it_has_no_quorum() {
    for options in [&[][..], &["--etcd-secure"]] {
        let cluster = Cluster::up(options);
        let settings = cluster.site("last").settings();
        let answers = || async { failoverd::ledger::etcd_answers(&settings).await };
        let all = answers().await;
        assert!(all.iter().all(|(_, answer)| answer.as_deref() == Ok("it answers, and has a leader")), "{all:?}");
        cluster.lab.tell("kill", &["etcd-0", "etcd-1"]);
        let began = Instant::now();
        // It takes an election until it knows that it is alone.
        let last = loop {
            let all = answers().await;
            assert!(all[0].1.is_err() && all[1].1.is_err(), "{all:?}");
            let last = all[2].1.clone().expect("answers");
            if !last.contains("has a leader") || began.elapsed() > Duration::from_secs(20) {
                break last;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        assert_eq!(last, "it answers, without a quorum");
        cluster.lab.tell("kill", &["etcd-2"]);
        let nobody = answers().await;
        assert!(nobody.iter().all(|(_, answer)| answer.is_err()), "{nobody:?}");
    }
}

/// Appends; where the answer is not known, again.
async fn say_until_it_is_known(daemon: &Daemon, lease: &failoverd::ports::Lease, word: &str) {
    let next = frame(daemon.next().await, lease.epoch, word);
    for _ in 0..20 {
        match daemon.ledger.append(next.clone()).await {
            Ok(durable) => return assert_eq!(durable.index(), next.index),
            Err(AppendError::Unknown(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    panic!("never known");
}

fn open(settings: &Settings, deployment: &str, observer: &str) -> EtcdLedger {
    EtcdLedger::open(settings, deployment, observer.into(), Arc::new(SystemClock)).expect("opens")
}

struct Cluster {
    lab: Lab,
}

impl Cluster {
    fn up(options: &[&str]) -> Self {
        Self { lab: Lab::up("etcd", options) }
    }

    fn site(&self, name: &str) -> OneEtcd {
        let list = self.lab.json["etcd"]["endpoints"].as_array().expect("endpoints");
        let endpoints = list.iter().map(|text| text.as_str().expect("text").to_owned()).collect();
        let secure = self.lab.json["etcd"]["secure"] == true;
        let text = |key: &str| secure.then(|| self.lab.text(&format!("/etcd/{key}")).to_owned());
        let settings = Settings {
            endpoints,
            user: text("user"),
            password: text("password").map(|password| SecretSource::Literal(password.into())),
            ca_file: text("ca_file").map(Into::into),
            cert_file: text("cert_file").map(Into::into),
            key_file: text("key_file").map(Into::into),
            prefix: "/failoverd/".to_owned(),
            lease: LEASE,
            compact_after: Duration::from_secs(300),
        };
        OneEtcd { settings, name: name.to_owned() }
    }

    /// Everything before now is forgotten.
    fn compact(&self) {
        assert!(self.etcdctl(&["compaction", &self.revision()]).contains("compacted"));
    }

    fn revision(&self) -> String {
        let status = self.etcdctl(&["endpoint", "status", "-w", "json"]);
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        status[0]["Status"]["header"]["revision"].to_string()
    }

    /// What it prints; nothing where it fails.
    fn etcdctl(&self, words: &[&str]) -> String {
        let endpoint = self.lab.text("/etcd/endpoints/0");
        let output =
            Command::new("etcdctl").env("ETCDCTL_API", "3").args(["--endpoints", endpoint]).args(words).output();
        String::from_utf8(output.expect("etcdctl is installed").stdout).expect("text")
    }
}

#[async_trait]
impl Place for Cluster {
    async fn ledger(&self, name: &str) -> Box<dyn Site> {
        Box::new(self.site(name))
    }
}

struct OneEtcd {
    settings: Settings,
    name: String,
}

impl OneEtcd {
    fn settings(&self) -> Settings {
        self.settings.clone()
    }

    async fn linked(&self, observer: &str) -> (Daemon, Arc<Links>) {
        let mut links = vec![];
        for endpoint in &self.settings.endpoints {
            let address = endpoint.rsplit('/').next().expect("an address");
            links.push(TcpLink::to(address.parse::<SocketAddr>().expect("an address")).await);
        }
        let scheme = self.settings.endpoints[0].split("://").next().expect("a scheme");
        let endpoints = links.iter().map(|link| format!("{scheme}://{}", link.address)).collect();
        let settings = Settings { endpoints, ..self.settings() };
        let links = Arc::new(Links(links));
        let ledger = Arc::new(open(&settings, &self.name, observer));
        (Daemon { ledger, link: links.clone() }, links)
    }
}

#[async_trait]
impl Site for OneEtcd {
    async fn daemon(&self, observer: &str) -> Daemon {
        self.linked(observer).await.0
    }

    fn now(&self) -> Now {
        SystemClock.now()
    }

    async fn wait(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn lasting(&self) -> Duration {
        LEASE
    }
}

/// One daemon's ways to all members.
pub(super) struct Links(pub(super) Vec<TcpLink>);

impl Links {
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(TcpLink::bytes).sum()
    }

    fn set(&self, mode: Mode) {
        self.0.iter().for_each(|link| link.set(mode));
    }
}

impl Link for Links {
    fn lose_answers(&self) {
        self.set(Mode::NoAnswers);
    }

    fn cut(&self) {
        self.set(Mode::Cut);
    }

    fn heal(&self) {
        self.set(Mode::Whole);
    }
}
