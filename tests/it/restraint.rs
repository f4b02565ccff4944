//! What must not lead to a failover, on real components: a daemon that slept, a link of its own that was cut, a standby
//! that could not take over, a control plane that cannot be reached, a ledger that does not fit the world.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use failoverd::decide::{Fact, Outcome};

use crate::regions::{EAST, Regions, WEST};

/// Divides the document's thresholds: 3.75 s, 15 s, 37.5 s and 75 s.
const SPEED: f64 = 8.0;

#[test]
fn six_minutes_of_sleep_and_then_failures_for_one_second_less_than_each_threshold_move_nothing() {
    let mut regions = Regions::up(&["--proxy"], &[]);
    // The longest one is shorter than an eighth of ten minutes: it is waited for.
    regions.set("FAILOVERD__BUCKETS__STORAGE__TRIGGER", "{ after = \"45s\" }");
    regions.watch();
    let calls = regions.lab.actions().len();
    regions.signal("STOP");
    std::thread::sleep(Duration::from_secs_f64(360.0 / SPEED));
    // What is in flight fails, and so does all that follows.
    for instance in ["k8s", "redis", "pg", "s3"] {
        regions.link(&format!("{instance}@{EAST} reset"));
    }
    regions.signal("CONT");
    let woken = std::time::Instant::now();
    // The document's rows, shortest first, and the region's two minutes, which end with the first of them.
    for (instance, threshold) in [("k8s", 30.0), ("redis", 120.0), ("pg", 300.0), ("s3", 360.0)] {
        let failing = Duration::from_secs_f64(threshold / SPEED - 1.0);
        regions.holds("it waits", failing.saturating_sub(woken.elapsed()), |regions| regions.declared() == 0);
        regions.link(&format!("{instance}@{EAST} ok"));
    }
    regions.wait("everything is alive again", |regions| {
        let is_alive =
            |instance: &failoverd::decide::InstanceStatus| instance.verdict == failoverd::decide::VerdictKind::Alive;
        regions.status().instances.iter().all(is_alive)
    });
    assert_eq!(regions.declared(), 0, "{}", regions.story());
    let since: Vec<String> = regions.lab.actions().split_off(calls);
    assert!(since.iter().all(|action| is_reading(action)), "{since:?}");
    regions.judge(&["--negative"]);

    // One that can fail: the same threshold, not one second less.
    regions.link(&format!("k8s@{EAST} reset"));
    regions.wait("an incident", |regions| regions.declared() == 1);
}

#[test]
fn when_only_the_daemons_own_link_is_cut_nothing_moves() {
    let mut regions = Regions::up(&["--proxy"], &[]);
    regions.watch();
    regions.write_rows();
    regions.link("* blackhole");
    // Longer than any row of the matrix but the longest.
    regions.holds("nothing is declared", Duration::from_secs(45), |regions| regions.declared() == 0);
    let explained = regions.explain();
    assert!(explained.contains("reference point"), "{explained}");
    regions.link("* ok");
    regions.stop_writing();
    regions.judge(&["--negative"]);
}

#[test]
fn a_standby_that_lags_beyond_the_rpo_is_not_promoted() {
    let mut regions = Regions::up(&["--proxy"], &[]);
    regions.set("FAILOVERD__LEVELS__REGIONAL_OUTAGE__RPO", "10s");
    regions.set("FAILOVERD__LEVELS__COMPONENT_FAILURE__RPO", "10s");
    regions.watch();
    regions.write_rows();
    // It receives no more: what it has received and not replayed would not be lost.
    let primary = value(&regions, WEST, "SHOW primary_conninfo");
    follow(&regions, "host=127.0.0.1 port=1");
    regions.wait("the lag is an alarm of its own", |regions| {
        regions.status().alarms.iter().any(|alarm| alarm.key.starts_with("standby-database"))
    });
    lose_the_east(&regions);
    let said = held(&regions, "it lags", "RPO");
    assert!(said.contains("RPO") && said.contains("--accept-loss"), "{said}");
    nothing_irreversible_happened(&regions);

    // What would change it, does.
    follow(&regions, &primary);
    regions.wait_until_closed();
    assert_eq!(promotions(&regions), 1);
}

#[test]
fn without_a_standby_database_nothing_irreversible_happens() {
    let mut regions = Regions::up(&["--proxy"], &[]);
    regions.watch();
    regions.lab.tell("kill", &["pg@us-west-2"]);
    regions.wait("the dead standby is an alarm of its own", |regions| {
        regions.status().alarms.iter().any(|alarm| alarm.key.starts_with("standby-database"))
    });
    lose_the_east(&regions);
    let said = held(&regions, "the standby is dead", "database@us-west-2");
    assert!(said.contains("database@us-west-2"), "{said}");
    nothing_irreversible_happened(&regions);
}

#[test]
fn a_replica_that_is_backing_up_is_promoted_when_it_is_done_and_not_before() {
    let mut regions = Regions::up(&["--proxy"], &[]);
    regions.watch();
    let replica = "omnimesh-prod-replica-us-west-2";
    let set = |status: &str| serde_json::json!({"rds": {replica: {"status": status}}});
    regions.lab.tell_aws("state", &set("backing-up"));
    regions.wait("the replica's state is an alarm of its own", |regions| {
        regions.status().alarms.iter().any(|alarm| alarm.text.contains("backing-up"))
    });
    lose_the_east(&regions);
    let said = held(&regions, "it is backing up", "backing-up");
    assert!(said.contains("backing-up"), "{said}");
    nothing_irreversible_happened(&regions);
    regions.lab.tell_aws("state", &set("available"));
    regions.wait_until_closed();
    assert_eq!(promotions(&regions), 1);
}

#[test]
fn a_standby_that_refuses_our_credential_is_not_a_target() {
    let mut regions = Regions::up(&["--proxy"], &[]);
    regions.watch();
    // A rule at the top of the standby's own pg_hba.conf; roles would come from the primary.
    let hba = format!("{}/pg_hba.conf", regions.lab.text("/regions/us-west-2/postgres/data_dir"));
    let rules = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, format!("host all failoverd all reject\nhostssl all failoverd all reject\n{rules}")).unwrap();
    sql(&regions, WEST, "SELECT pg_reload_conf()");
    regions.wait("the refusal is an alarm of its own", |regions| {
        regions.status().alarms.iter().any(|alarm| alarm.key.contains("database@us-west-2"))
    });
    lose_the_east(&regions);
    let said = held(&regions, "it refuses us", "credential");
    assert!(said.contains("credential"), "{said}");
    nothing_irreversible_happened(&regions);
    std::fs::write(&hba, rules).unwrap();
    sql(&regions, WEST, "SELECT pg_reload_conf()");
    regions.wait_until_closed();
    assert_eq!(promotions(&regions), 1);
}

#[test]
fn without_route_53_nothing_irreversible_happens_and_with_it_the_plan_goes_on() {
    let mut regions = Regions::up(&["--proxy"], &[]);
    regions.watch();
    regions.lab.tell_aws("faults/add", &serde_json::json!([{"service": "route53", "drop": true}]));
    lose_the_east(&regions);
    let said = held(&regions, "no Route 53", "traffic-traffic");
    assert!(said.contains("traffic"), "{said}");
    nothing_irreversible_happened(&regions);
    let faults: Vec<serde_json::Value> = regions.lab.aws("faults").as_array().unwrap().clone();
    let rest: Vec<_> = faults.into_iter().filter(|fault| fault["service"] != "route53").collect();
    regions.lab.tell_aws("faults", &serde_json::json!(rest));
    regions.wait_until_closed();
    assert_eq!(promotions(&regions), 1);
}

#[test]
fn an_empty_ledger_and_one_that_disagrees_with_the_world_do_nothing_and_say_what_would_help() {
    let mut regions = Regions::up(&["--proxy"], &[]);
    regions.start();
    regions.wait("everything was seen", |regions| {
        let status = regions.status();
        !status.instances.is_empty() && status.instances.iter().all(|instance| instance.latency.is_some())
    });
    // A new ledger on a live deployment.
    lose_the_east(&regions);
    regions.holds("nothing is declared", Duration::from_secs(20), |regions| regions.declared() == 0);
    let said = regions.explain();
    assert!(said.contains("failoverd adopt"), "{said}");
    find_the_east(&regions);

    // Somebody promoted the standby by hand.
    regions.kill();
    regions.watch();
    sql(&regions, WEST, "SELECT pg_promote()");
    regions.wait("drift", |regions| regions.explain().contains("accepts writes"));
    lose_the_east(&regions);
    regions.holds("nothing is declared", Duration::from_secs(20), |regions| regions.declared() == 0);
    let said = regions.explain();
    assert!(said.contains("the ledger says") && said.contains("failoverd adopt"), "{said}");
    nothing_irreversible_happened(&regions);
}

#[test]
fn a_fence_is_taken_down_when_a_person_aborts_the_plan_behind_it() {
    let mut regions = Regions::up(&["--proxy"], &["--database", "postgres"]);
    regions.watch();
    regions.write_rows();
    regions.tell(&["failover", "--from", EAST, "--component", "database", "--reason", "a test", "--yes"]);
    lose_the_standby_while_the_fence_goes_up(&mut regions);

    // The daemon dies on the way, too.
    let incident = regions.incident().expect("it is open").incident;
    regions.kill();
    regions.start();
    regions.wait("it knows its plan", |regions| regions.incident().is_some());
    regions.tell(&["abort", incident.as_str()]);
    regions.wait_until_closed();
    the_application_goes_on_in_the_east(&mut regions);
}

#[test]
fn a_fence_is_taken_down_when_the_region_recovers_before_the_first_commit_point() {
    let mut regions = Regions::up(&["--proxy"], &["--database", "postgres"]);
    // The database of the lost region still answers: it is to be moved without loss, behind a fence.
    regions.set("FAILOVERD__REGIONAL__CRITICAL_FAILING", "3");
    regions.watch();
    regions.write_rows();
    lose_the_east(&regions);
    regions.link(&format!("pg@{EAST} ok"));
    lose_the_standby_while_the_fence_goes_up(&mut regions);
    find_the_east(&regions);
    regions.wait_until_closed();
    let outcomes: Vec<Outcome> = regions
        .facts()
        .into_iter()
        .filter_map(|fact| if let Fact::IncidentClosed { outcome, .. } = fact { Some(outcome) } else { None })
        .collect();
    assert_eq!(outcomes, [Outcome::Unwound], "{}", regions.story());
    the_application_goes_on_in_the_east(&mut regions);
}

// --- what the tests work with -----------------------------------------------------------------------------------------

/// Every link of the daemon to the region fails, and its cloud API does.
fn lose_the_east(regions: &Regions) {
    regions.link(&format!("*@{EAST} refuse"));
    // Route 53 is signed for this region, and lives on.
    let fault = serde_json::json!([{"region": EAST, "drop": true, "not_service": ["route53"]}]);
    regions.lab.tell_aws("faults/add", &fault);
}

/// So the fence stands, and the promotion behind it is held at its commit point.
fn lose_the_standby_while_the_fence_goes_up(regions: &mut Regions) {
    let of_fence = |step: &failoverd::domain::StepId| step.as_str().starts_with("fence-");
    regions.wait_with(|regions| {
        regions.facts().iter().any(|fact| matches!(fact, Fact::StepStarted { step, .. } if of_fence(step)))
    });
    regions.signal("STOP");
    regions.lab.tell("kill", &["pg@us-west-2"]);
    regions.signal("CONT");
    regions.wait_for_fact("the fence", |fact| matches!(fact, Fact::StepDone { step, .. } if of_fence(step)));
    let said = held(regions, "the standby is dead", "database@us-west-2");
    assert_eq!(application_write(regions, EAST), Err("28000".to_owned()), "the application is locked out\n{said}");
}

fn the_application_goes_on_in_the_east(regions: &mut Regions) {
    assert_eq!(application_write(regions, EAST), Ok(()), "{}", regions.story());
    let rows = regions.rows_acknowledged(EAST);
    regions.wait("rows in the east", |regions| regions.rows_acknowledged(EAST) > rows + 100);
    regions.stop_writing();
    nothing_irreversible_happened(regions);
}

fn find_the_east(regions: &Regions) {
    regions.link(&format!("*@{EAST} ok"));
    regions.lab.tell_aws("faults", &serde_json::json!([]));
}

/// Waits until the promotion is held for a reason with this text in it; then looks for a while that it goes on being held.
/// What `explain` says.
fn held(regions: &Regions, what: &str, reason: &str) -> String {
    let is_held = |regions: &Regions| {
        regions.incident().is_some_and(|incident| {
            let mut promotions = incident.steps.iter().filter(|step| step.step.as_str().starts_with("promote-"));
            promotions.any(|step| step.guards.iter().any(|guard| guard.evidence.contains(reason)))
        })
    };
    regions.wait(&format!("the promotion is held: {what}"), is_held);
    regions.holds(what, Duration::from_secs(8), |regions| promotions(regions) == 0);
    regions.explain()
}

fn nothing_irreversible_happened(regions: &Regions) {
    regions.judge(&["--moved", "", "--only", "cache,traffic"]);
    let actions = regions.lab.actions();
    assert!(
        !actions.iter().any(|action| action == "PromoteReadReplica" || action == "ChangeResourceRecordSets"),
        "{actions:?}"
    );
}

/// A statement of the operator, past the proxy.
fn sql(regions: &Regions, region: &str, statement: &str) {
    run_as(regions, region, "postgres", statement).unwrap_or_else(|code| panic!("{statement}: {code}"));
}

/// Tells the standby which primary to follow.
fn follow(regions: &Regions, primary: &str) {
    let quoted = primary.replace('\'', "''");
    sql(regions, WEST, &format!("ALTER SYSTEM SET primary_conninfo = '{quoted}'"));
    sql(regions, WEST, "SELECT pg_reload_conf()");
}

/// What becomes of a write of the application, on a new connection past the proxy: the server's code where it refuses.
fn application_write(regions: &Regions, region: &str) -> Result<(), String> {
    run_as(regions, region, "app", "INSERT INTO compute_nodes (payload) VALUES ('by hand')")
}

fn run_as(regions: &Regions, region: &str, user: &str, statement: &str) -> Result<(), String> {
    asked_as(regions, region, user, statement).map(drop)
}

/// The first column of the first row of an operator's question.
fn value(regions: &Regions, region: &str, question: &str) -> String {
    asked_as(regions, region, "postgres", question).unwrap().expect("a row")
}

fn asked_as(regions: &Regions, region: &str, user: &str, statement: &str) -> Result<Option<String>, String> {
    let dsn = regions.lab.text(&format!("/direct/regions/{region}/postgres/dsn/{user}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let code = |error: tokio_postgres::Error| error.code().map_or(error.to_string(), |code| code.code().to_owned());
        let (client, connection) = tokio_postgres::connect(dsn, tokio_postgres::NoTls).await.map_err(code)?;
        let driven = tokio::spawn(connection);
        let answer = client.simple_query(statement).await.map_err(code);
        driven.abort();
        Ok(answer?.iter().find_map(|message| {
            let tokio_postgres::SimpleQueryMessage::Row(row) = message else { return None };
            row.get(0).map(str::to_owned)
        }))
    })
}

fn promotions(regions: &Regions) -> usize {
    regions.lab.actions().iter().filter(|action| *action == "PromoteReadReplica").count()
}

fn is_reading(action: &str) -> bool {
    ["Describe", "List", "Get", "HEAD", "GET"].iter().any(|verb| action.starts_with(verb))
}
