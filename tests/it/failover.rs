//! A real deployment loses a region, or a part of it: what its clients then see, judged without asking the daemon.

use failoverd::decide::{Fact, Outcome};

use crate::regions::{EAST, Regions, WEST};

#[test]
fn a_region_that_dies_is_replaced_once_and_the_application_goes_on_writing() {
    let mut regions = Regions::up(&[], &[]);
    regions.watch();
    regions.write_rows();
    regions.lab.tell("kill", &["region:us-east-1"]);
    regions.wait_until_closed();
    regions.wait("the application writes in the west", |regions| regions.rows_acknowledged("us-west-2") > 100);
    regions.stop_writing();
    let numbers = regions.judge(&[]);
    assert!(numbers["rows_acknowledged"].as_u64() > Some(200), "{numbers}");
    assert_eq!(outcomes(&regions), [Outcome::Recovered]);
    // The old database cannot be fenced while it is dead; nobody may forget it.
    assert_eq!(regions.status().owed_fences.len(), 1);

    // It comes back writable, as a killed primary does, and is locked for the application before anything is lost.
    regions.lab.tell("start", &["pg@us-east-1"]);
    regions.wait_for_fact("the owed fence", |fact| matches!(fact, Fact::OwedFenceSettled { .. }));
    regions.judge(&["--only", "database,calls"]);
}

#[test]
fn a_region_with_a_database_of_its_own_is_replaced_by_pg_promote() {
    let mut regions = Regions::up(&[], &["--database", "postgres"]);
    regions.set("FAILOVERD__VERIFICATION__EVERY", "2s");
    regions.watch();
    regions.write_rows();
    regions.lab.tell("kill", &["region:us-east-1"]);
    regions.wait_until_closed();
    regions.wait("the application writes in the west", |regions| regions.rows_acknowledged("us-west-2") > 100);
    regions.stop_writing();
    regions.judge(&["--self-managed"]);
    assert_eq!(outcomes(&regions), [Outcome::Recovered]);

    // What breaks after the plan has ended, while every server lives, is found and told, and told again when it is over.
    regions.tell_health(WEST, r#"{"status": "degraded"}"#);
    let is_it = |check: &str, region: &failoverd::domain::RegionId| check == "health" && region.as_str() == WEST;
    regions.wait_for_fact("the broken endpoint", |fact| {
        matches!(fact, Fact::CheckFailed { check, region, why } if is_it(check, region) && why.contains("degraded"))
    });
    regions.wait("it is paged", |regions| regions.status().alarms.iter().any(|alarm| alarm.key == "check-health"));
    regions.tell_health(WEST, "{}");
    regions.wait_for_fact(
        "it holds again",
        |fact| matches!(fact, Fact::CheckHolds { check, region, .. } if is_it(check, region)),
    );
    regions.wait("nobody is paged for it", |regions| {
        regions.status().alarms.iter().all(|alarm| alarm.key != "check-health")
    });
    assert!(regions.status().checks.iter().all(|check| check.holds == Some(true)), "{:?}", regions.status().checks);
}

#[test]
fn a_lost_cluster_is_replaced_with_its_traffic_and_nothing_else_moves() {
    only_this_moves("kubernetes", &["k8s@us-east-1"], &[]);
}

#[test]
fn a_lost_database_is_replaced_by_its_replica_and_nothing_else_moves() {
    only_this_moves("database", &["pg@us-east-1"], &[]);
}

#[test]
fn a_lost_database_of_ones_own_is_replaced_by_its_standby_and_nothing_else_moves() {
    only_this_moves("database", &["pg@us-east-1"], &["--database", "postgres"]);
}

#[test]
fn a_lost_cache_is_replaced_by_its_replica_and_nothing_else_moves() {
    only_this_moves("cache", &["redis@us-east-1"], &[]);
}

#[test]
fn a_lost_bucket_is_replaced_by_its_replica_and_nothing_else_moves() {
    let trigger = ("FAILOVERD__BUCKETS__STORAGE__TRIGGER", "{ after = \"15s\" }");
    only_this_moves_with("storage", &["s3@us-east-1"], &[], &[trigger]);
}

fn only_this_moves(component: &str, killed: &[&str], config: &[&str]) {
    only_this_moves_with(component, killed, config, &[]);
}

fn only_this_moves_with(component: &str, killed: &[&str], config: &[&str], variables: &[(&str, &str)]) {
    let mut regions = Regions::up(&[], config);
    for (variable, value) in variables {
        regions.set(variable, value);
    }
    if component != "kubernetes" {
        // Four seconds without an answer are not much on a busy machine, and here the cluster is not the point.
        regions.set("FAILOVERD__CLUSTERS__KUBERNETES__TRIGGER", "{ after = \"60s\", confirm_for = \"60s\" }");
    }
    regions.watch();
    regions.lab.tell("kill", killed);
    regions.wait_until_closed();
    let mut options = vec!["--moved", component];
    if config.contains(&"postgres") {
        options.push("--self-managed");
    }
    regions.judge(&options);
    assert_eq!(outcomes(&regions), [Outcome::Recovered]);
    let status = regions.status();
    for (placed, region) in &status.placement {
        let moved =
            placed.as_str() == component || component == "kubernetes" && matches!(placed.as_str(), "traffic" | "api");
        assert_eq!(region.as_str() != EAST, moved, "{placed} is in {region}");
    }
}

fn outcomes(regions: &Regions) -> Vec<Outcome> {
    let closed = |fact| if let Fact::IncidentClosed { outcome, .. } = fact { Some(outcome) } else { None };
    regions.facts().into_iter().filter_map(closed).collect()
}
