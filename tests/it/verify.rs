//! `failoverd verify` on two real regions: each thing that a failover may have left broken is found, and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use failoverd::adapters::dns;
use serde_json::Value;

use crate::kubernetes::scale;
use crate::lab::Lab;
use crate::regions::{EAST, PATIENCE, Regions, WEST};

/// Beside the checks that `failoverd_config.py` writes: `health` (an HTTP endpoint) and `pods`.
const CHECKS: &str = r#"
[checks.workloads]
workloads = { cluster = "kubernetes" }
[checks.write]
canary = { component = "database" }
[checks.write-cache]
canary = { component = "cache" }
[checks.rows]
sql = { database = "database", query = "SELECT count(*) FROM verified", min = 1 }
[checks.newest]
sql = { database = "database", query = "SELECT max(created_at) FROM verified", newest_within = "1h" }
[checks.clients]
dns = { traffic = "traffic", nameservers = ["NAMESERVER"] }
[checks.agent]
http = { url = "http://APP/v1/agents/register", method = "POST", body = '{"agent_type": "PC"}', status = 201, answer = { "/agent_type" = "PC", "/agent_id" = "*" }, repeatable = true }
[checks.task]
http = { url = "http://APP/v1/ai/tasks", method = "POST", body = '{"task_type": "inference"}', status = 202, answer = { "/task_id" = "*" }, repeatable = true }
[checks.script]
command = { argv = ["sh", "-c", "test $FAILOVERD_REGION = us-east-1"], repeatable = true }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_finds_each_thing_that_is_broken_and_nothing_else() {
    let regions = Regions::up(&[], &[]);
    let suite = Suite::of(&regions);
    let database = superuser(&regions.lab).await;
    database
        .batch_execute(
            "CREATE TABLE verified (created_at timestamptz NOT NULL DEFAULT now()); INSERT INTO verified DEFAULT VALUES; \
             GRANT SELECT ON verified TO failoverd",
        )
        .await
        .unwrap();
    suite.comes_to(&[]);

    // A workload without a ready pod.
    scale(&regions.lab, EAST, "go-node-proxies", 0).await;
    suite.comes_to(&["pods", "workloads"]);
    assert!(suite.said("workloads").contains("go-node-proxies 0 of 10"), "{}", suite.said("workloads"));
    scale(&regions.lab, EAST, "go-node-proxies", 10).await;

    // An endpoint that answers 200, and says that it is not well.
    regions.tell_health(EAST, r#"{"status": "degraded"}"#);
    suite.comes_to(&["health"]);
    regions.tell_health(EAST, "{}");
    suite.comes_to(&[]);

    // A database that answers, and takes no writes.
    database.batch_execute("ALTER SYSTEM SET default_transaction_read_only = on").await.unwrap();
    database.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    suite.comes_to(&["write"]);
    for statement in [
        "SET default_transaction_read_only = off",
        "ALTER SYSTEM RESET default_transaction_read_only",
        "SELECT pg_reload_conf()",
    ] {
        database.batch_execute(statement).await.unwrap();
    }
    suite.comes_to(&[]);

    // A table whose newest row is old; and an empty one.
    database.batch_execute("UPDATE verified SET created_at = now() - interval '2 hours'").await.unwrap();
    suite.comes_to(&["newest"]);
    database.batch_execute("TRUNCATE verified").await.unwrap();
    suite.comes_to(&["newest", "rows"]);

    // Name servers that still lead clients to the region that was left.
    let (code, stale) = suite.run(&["clients", "--region", WEST]);
    assert_eq!(code, 1);
    let address = regions.lab.text("/regions/us-east-1/public_address");
    assert!(stale["checks"][0]["seen"].as_str().unwrap().contains(&format!("answers {address}")), "{stale}");
}

#[test]
fn where_the_daemon_runs_it_says_which_region_has_to_hold_and_a_person_can_wait_for_it() {
    let mut regions = Regions::up(&[], &[]);
    regions.watch();
    let suite = Suite::of(&regions);
    let table = suite.cli(&["workloads", "clients", "--url", &regions.url()]);
    let shown = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.status.success() && shown.contains("all 2 checks hold") && shown.contains(EAST), "{shown}");

    let unknown = suite.cli(&["nonsense", "--region", EAST]);
    assert_eq!(unknown.status.code(), Some(2));
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(said.contains("there is no check `nonsense`") && said.contains("workloads"), "{said}");

    regions.tell_health(EAST, r#"{"status": "degraded"}"#);
    let (code, _) = suite.run(&["health", "--region", EAST]);
    assert_eq!(code, 1, "nobody waits");
    let mut waiting = suite.command(&["health", "--region", EAST, "--wait", "2m"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(waiting.try_wait().unwrap().is_none(), "it waits");
    regions.tell_health(EAST, "{}");
    assert!(waiting.wait().unwrap().success());

    // Nobody knows which region serves, and a guess could be the wrong one.
    regions.kill();
    let lost = suite.cli(&["clients", "--url", &regions.url()]);
    assert_eq!(lost.status.code(), Some(69));
    let said = String::from_utf8_lossy(&lost.stderr).into_owned();
    assert!(said.contains("which region serves is not known") && said.contains("--region"), "{said}");
}

#[tokio::test]
async fn the_servers_of_a_zone_are_found_as_a_resolver_finds_them() {
    let lab = Lab::up("aws,dns", &[]);
    let server: SocketAddr = lab.text("/dns/server").parse().unwrap();
    let limit = Duration::from_secs(3);
    let found = dns::authoritative("api.omnimesh.com", &[server], server.port(), limit).await;
    assert_eq!(found, Ok(vec![server]), "the zone is above the record");
    let answers = dns::ask_all(&[server], "api.omnimesh.com", limit).await;
    let east: BTreeSet<_> = [lab.text("/regions/us-east-1/public_address").parse().unwrap()].into();
    assert!(dns::judge(&answers, "api.omnimesh.com", &east).is_ok(), "{answers:?}");
    let nobody = dns::authoritative("nobody.ref.example", &[server], server.port(), limit).await;
    assert!(nobody.as_ref().is_err_and(|why| why.contains("write nameservers")), "{nobody:?}");
}

/// `failoverd verify` with the lab's configuration and the checks of this file.
struct Suite {
    files: String,
}

impl Suite {
    fn of(regions: &Regions) -> Self {
        let file = regions.lab.folder().join("checks.toml");
        let checks = CHECKS
            .replace("NAMESERVER", regions.lab.text("/dns/server"))
            .replace("APP", regions.lab.text("/regions/us-east-1/app/http").trim_start_matches("http://"));
        std::fs::write(&file, checks).unwrap();
        Self { files: format!("{},{}", regions.config().display(), file.display()) }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_failoverd"));
        command.arg("verify").args(words).args(["--config", &self.files]).env("COLUMNS", "160");
        command.env_remove("FAILOVERD_URL").env("FAILOVERD_TOKEN", "lab-token");
        command
    }

    fn cli(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    fn run(&self, words: &[&str]) -> (i32, Value) {
        let output = self.cli(&[words, &["--json"]].concat());
        let json = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        (output.status.code().unwrap(), json)
    }

    /// What does not hold in the region that serves, with what was said of it.
    fn broken(&self) -> BTreeMap<String, String> {
        let (code, suite) = self.run(&["--region", EAST]);
        let text = |checked: &Value, key: &str| checked[key].as_str().unwrap().to_owned();
        let checks = suite["checks"].as_array().unwrap();
        assert!(checks.len() > 9, "{suite}");
        let broken: BTreeMap<_, _> = checks
            .iter()
            .filter(|checked| checked["holds"] == false)
            .map(|checked| (text(checked, "check"), text(checked, "seen")))
            .collect();
        assert_eq!(code, i32::from(!broken.is_empty()), "{suite}");
        broken
    }

    /// Pods come and go, and settings are taken over, within moments.
    fn comes_to(&self, wanted: &[&str]) {
        let until = Instant::now() + PATIENCE;
        loop {
            let broken = self.broken();
            if broken.keys().eq(wanted) {
                return;
            }
            assert!(Instant::now() < until, "expected {wanted:?} to be broken: {broken:#?}");
        }
    }

    fn said(&self, check: &str) -> String {
        self.broken().remove(check).unwrap_or_default()
    }
}

async fn superuser(lab: &Lab) -> tokio_postgres::Client {
    let dsn = lab.text("/regions/us-east-1/postgres/dsn/postgres");
    let (client, connection) = tokio_postgres::connect(dsn, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
