//! The Redis probe and the promotion of a replica, against real servers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use failoverd::adapters::names::Names;
use failoverd::adapters::redis::{Redis, RedisProbe};
use failoverd::adapters::{Endpoint, WriteProof as _};
use failoverd::daemon::clock::SystemClock;
use failoverd::domain::{Finding, InstanceId, Layer, Serving};
use failoverd::plan::Action;
use failoverd::ports::{Actuator as _, Setback};

use crate::data_plane::{
    EAST, WEST, Written, configured, eventually, failing_layer, observed, permit, permit_for, verified,
};
use crate::lab::Lab;

const KEY: &str = "plan/cache";

pub(crate) fn at(region: &str) -> InstanceId {
    InstanceId::new("cache", region)
}

/// failoverd for a cache whose instances are at these ports.
pub(crate) fn redis(lab: &Lab, ports: [u16; 2], more: &str, topology: &str) -> Redis {
    let [east, west] = ports;
    let rest = format!(
        "[caches.cache]\nprovider = \"redis\"\n{more}\n\
         [caches.cache.regions.{EAST}]\nhost = \"127.0.0.1\"\nport = {east}\ntopology = \"{topology}\"\n\
         [caches.cache.regions.{WEST}]\nhost = \"127.0.0.1\"\nport = {west}\ntopology = \"{topology}\"\n"
    );
    let ca_file = more.contains("tls = true").then(|| lab.text("/ca_file"));
    let config = configured(lab.folder(), ca_file, &rest);
    Redis::new(&config, Written::of(&config), &Names::new(&config), Arc::new(SystemClock)).unwrap()
}

/// One command past failoverd.
pub(crate) async fn told(port: u16, words: &[&str]) -> redis::RedisResult<redis::Value> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/?protocol=resp2"))?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(&mut connection).await
}

struct Pair {
    lab: Lab,
    redis: Redis,
    ports: [u16; 2],
}

impl Pair {
    fn up() -> Self {
        let lab = Lab::up("redis", &[]);
        let ports = ports(&lab);
        let redis = redis(&lab, ports, "", "single");
        Self { lab, redis, ports }
    }

    fn probe(&self, region: &str) -> RedisProbe {
        self.redis.probe(at(region), Duration::from_secs(1), None)
    }
}

pub(crate) fn ports(lab: &Lab) -> [u16; 2] {
    [EAST, WEST].map(|region| u16::try_from(lab.number(&format!("/regions/{region}/redis/port"))).unwrap())
}

fn activate() -> Action {
    Action::CacheActive { cache: at(WEST), from: at(EAST) }
}

#[tokio::test]
async fn a_healthy_pair_tells_its_roles_and_how_far_it_is() {
    let pair = Pair::up();
    told(pair.ports[0], &["SET", "a", "1"]).await.unwrap();
    let primary = observed(&pair.probe(EAST)).await;
    assert_eq!((&primary.finding, primary.evidence.serving), (&Finding::Alive, Some(Serving::Writable)), "{primary:?}");
    eventually("the replica has it", async || {
        let replica = observed(&pair.probe(WEST)).await;
        assert_eq!((&replica.finding, replica.evidence.serving), (&Finding::Alive, Some(Serving::Replica)));
        (replica.evidence.position >= primary.evidence.position && primary.evidence.position.is_some()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_killed_primary_is_failing_at_tcp_and_its_replica_only_warns() {
    let pair = Pair::up();
    pair.lab.tell("kill", &["redis@us-east-1"]);
    assert_eq!(failing_layer(&observed(&pair.probe(EAST)).await), Some(Layer::Tcp));
    // Configured not to answer from what it has: it can still be promoted.
    told(pair.ports[1], &["CONFIG", "SET", "replica-serve-stale-data", "no"]).await.unwrap();
    eventually("the replica notices", async || {
        let seen = observed(&pair.probe(WEST)).await;
        assert_eq!((&seen.finding, &seen.evidence.not_ready), (&Finding::Alive, &vec![]), "{seen:?}");
        (!seen.evidence.warnings.is_empty()).then_some(())
    })
    .await;
    assert_eq!(observed(&pair.probe(WEST)).await.evidence.serving, Some(Serving::Replica));
}

#[tokio::test]
async fn a_stopped_server_is_failing_at_the_greeting_in_time() {
    let pair = Pair::up();
    pair.lab.tell("stop", &["redis@us-east-1"]);
    let began = Instant::now();
    assert_eq!(failing_layer(&observed(&pair.probe(EAST)).await), Some(Layer::Greeting));
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    pair.lab.tell("cont", &["redis@us-east-1"]);
    assert_eq!(observed(&pair.probe(EAST)).await.finding, Finding::Alive);
}

#[tokio::test]
async fn a_refused_credential_proves_life_and_is_not_shown() {
    let pair = Pair::up();
    told(pair.ports[0], &["CONFIG", "SET", "requirepass", "right"]).await.unwrap();
    for password in ["", "password = \"wr0ng-secret\""] {
        let redis = redis(&pair.lab, pair.ports, password, "single");
        let seen = observed(&redis.probe(at(EAST), Duration::from_secs(1), None)).await;
        assert_eq!((&seen.finding, seen.evidence.credential_refused), (&Finding::Alive, true), "{seen:?}");
        assert!(!format!("{seen:?}").contains("wr0ng"), "{seen:?}");
    }
    let redis = redis(&pair.lab, pair.ports, "password = \"right\"", "single");
    let seen = observed(&redis.probe(at(EAST), Duration::from_secs(1), None)).await;
    assert_eq!((&seen.finding, seen.evidence.credential_refused), (&Finding::Alive, false), "{seen:?}");
}

#[tokio::test]
async fn a_server_without_free_connections_is_degraded_not_down() {
    let pair = Pair::up();
    let held = std::net::TcpStream::connect(("127.0.0.1", pair.ports[0])).unwrap();
    told(pair.ports[0], &["CONFIG", "SET", "maxclients", "2"]).await.unwrap();
    eventually("nobody else is let in", async || {
        let seen = observed(&pair.probe(EAST)).await;
        assert_eq!(seen.finding, Finding::Alive, "{seen:?}");
        seen.evidence.degraded.as_ref().is_some_and(|why| why.contains("max number of clients")).then_some(())
    })
    .await;
    drop(held);
}

#[tokio::test]
async fn a_full_server_is_degraded_and_takes_no_proof() {
    let pair = Pair::up();
    told(pair.ports[0], &["CONFIG", "SET", "maxmemory", "1"]).await.unwrap();
    let seen = observed(&pair.probe(EAST)).await;
    assert_eq!((&seen.finding, seen.evidence.degraded.is_some()), (&Finding::Alive, true), "{seen:?}");
    let place = Endpoint { host: "127.0.0.1".into(), port: pair.ports[0] };
    let refused = pair.redis.prove_writable(&at(EAST), &place).await.unwrap_err();
    assert!(matches!(&refused, Setback::Transient(why) if why.contains("OOM")), "{refused:?}");
}

#[tokio::test]
async fn a_replica_is_activated_however_often_it_is_asked() {
    let pair = Pair::up();
    pair.lab.tell("kill", &["redis@us-east-1"]);
    let place = Endpoint { host: "127.0.0.1".into(), port: pair.ports[1] };
    let not_yet = pair.redis.prove_writable(&at(WEST), &place).await.unwrap_err();
    assert!(matches!(not_yet, Setback::NotYet(_)), "{not_yet:?}");
    let look = pair.redis.look(KEY, &activate()).await.unwrap();
    assert!(!look.satisfied);
    let late = pair.redis.act(KEY, &activate(), &look, &permit_for(Duration::ZERO)).await.unwrap_err();
    assert!(matches!(late, Setback::Transient(_)), "{late:?}");
    assert!(matches!(pair.redis.verify(KEY, &activate()).await, Err(Setback::NotYet(_))), "nothing was sent");
    for _ in 0..2 {
        pair.redis.act(KEY, &activate(), &look, &permit()).await.unwrap();
        verified(&pair.redis, &activate()).await;
    }
    assert!(pair.redis.look(KEY, &activate()).await.unwrap().satisfied);
    told(pair.ports[1], &["SET", "after", "1"]).await.unwrap();
    let left = told(pair.ports[1], &["KEYS", "failoverd:*"]).await.unwrap();
    assert_eq!(left, redis::Value::Array(vec![]), "the proof leaves nothing behind");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_tried_again_and_one_that_refuses_is_not() {
    let pair = Pair::up();
    told(pair.ports[1], &["CONFIG", "SET", "requirepass", "right"]).await.unwrap();
    let refused = pair.redis.look(KEY, &activate()).await.unwrap_err();
    assert!(matches!(&refused, Setback::Refused(why) if why.contains("NOAUTH")), "{refused:?}");
    pair.lab.tell("kill", &["redis@us-west-2"]);
    let gone = pair.redis.look(KEY, &activate()).await.unwrap_err();
    assert!(matches!(&gone, Setback::Transient(why) if why.contains("cannot be reached")), "{gone:?}");
}

#[tokio::test]
async fn tls_is_verified_and_a_certificate_that_we_do_not_trust_says_nothing_about_the_server() {
    let lab = Lab::up("pg,redis", &[]);
    let ports = ports(&lab);
    let tls = free_port();
    let certificate = std::path::Path::new(lab.text("/ca_file")).with_file_name("pg-us-east-1.crt");
    let words = [
        "CONFIG",
        "SET",
        "tls-cert-file",
        certificate.to_str().unwrap(),
        "tls-key-file",
        certificate.with_extension("key").to_str().unwrap(),
        "tls-ca-cert-file",
        lab.text("/ca_file"),
        "tls-auth-clients",
        "no",
        "tls-port",
        &tls.to_string(),
    ]
    .map(str::to_owned);
    told(ports[0], &words.each_ref().map(String::as_str)).await.unwrap();
    let trusting = redis(&lab, [tls, ports[1]], "tls = true", "single");
    let seen = observed(&trusting.probe(at(EAST), Duration::from_secs(1), None)).await;
    assert_eq!(seen.finding, Finding::Alive, "{seen:?}");
    let plain = observed(&trusting.probe(at(WEST), Duration::from_secs(1), None)).await;
    assert_eq!(failing_layer(&plain), Some(Layer::Tls), "a server without TLS does not answer a handshake: {plain:?}");
    // The same, without the lab's CA among those that are trusted.
    let rest = format!(
        "[caches.cache]\nprovider = \"redis\"\ntls = true\n[caches.cache.regions.{EAST}]\nhost = \"127.0.0.1\"\nport = {tls}\n"
    );
    let config = configured(lab.folder(), None, &rest);
    let doubting = Redis::new(&config, Written::of(&config), &Names::new(&config), Arc::new(SystemClock)).unwrap();
    let seen = observed(&doubting.probe(at(EAST), Duration::from_secs(1), None)).await;
    assert!(matches!(&seen.finding, Finding::Unknown { why } if why.contains("not trusted")), "{seen:?}");
}

#[tokio::test]
async fn a_server_that_is_loading_its_data_is_failing_at_the_query() {
    let lab = Lab::up("redis", &[]);
    let folder = lab.folder().join("loading");
    std::fs::create_dir(&folder).unwrap();
    let port = free_port();
    let filled = Own::start(port, &folder, &[]);
    eventually("it is there", async || told(port, &["PING"]).await.ok()).await;
    told(port, &["EVAL", "for n = 1, 5000 do redis.call('SET', n, string.rep('x', 100)) end", "0"]).await.unwrap();
    told(port, &["SAVE"]).await.unwrap();
    drop(filled);
    // A millisecond for each key, and a look at its clients every now and then.
    let _slow =
        Own::start(port, &folder, &["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"]);
    let redis = redis(&lab, [port, ports(&lab)[1]], "", "single");
    eventually("it says that it is loading", async || {
        let seen = observed(&redis.probe(at(EAST), Duration::from_secs(1), None)).await;
        let Finding::Failing { layer, why } = &seen.finding else { panic!("{seen:?}") };
        (*layer == Layer::Query && why.contains("LOADING")).then_some(())
    })
    .await;
}

/// A Redis with arguments of its own.
struct Own(Child);

impl Own {
    fn start(port: u16, folder: &std::path::Path, more: &[&str]) -> Self {
        let port = port.to_string();
        let usual = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--dbfilename", "dump.rdb"];
        let mut command = Command::new("redis-server");
        command.args(usual).arg("--dir").arg(folder).args(more).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
