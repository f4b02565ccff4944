//! A managed database that leaves by plan and comes home: fenced by its security groups, protected, kept under another name and
//! replaced by a replica, by the calls that RDS has for that. Real servers are behind the double.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use failoverd::decide::{Fact, Outcome};
use failoverd::plan::Purpose;

use crate::aws_rds::{REPLICA, count};
use crate::aws_rejoin::KEPT;
use crate::losses::write_what_is_lost;
use crate::regions::{EAST, Regions, WEST};
use crate::rejoin::order;
use crate::switchover::ends;

#[test]
fn a_managed_database_leaves_by_plan_and_comes_home_without_losing_a_write() {
    let mut regions = Regions::up(&[], &[]);
    for (key, value) in [
        ("DATABASES__DATABASE__FENCE__SECURITY_GROUP", "sg-0fence"),
        ("DATABASES__DATABASE__REJOIN__DEADLINE", "10m"),
        ("DATABASES__DATABASE__PROTECT__MULTI_AZ", "true"),
        ("DATABASES__DATABASE__PROTECT__BACKUP_DAYS", "7"),
        // A machine that has two labs to run must not take a cluster for lost: that ends a failback.
        ("CLUSTERS__KUBERNETES__TRIGGER__AFTER", "30s"),
        ("CLUSTERS__KUBERNETES__TRIGGER__CONFIRM_FOR", "30s"),
        ("FAILBACK__STABLE_FOR", "3s"),
        ("FAILBACK__STAGE_FOR", "6s"),
        ("FAILBACK__INTERVAL", "4s"),
    ] {
        regions.set(&format!("FAILOVERD__{key}"), value);
    }
    regions.watch();
    regions.write_rows();
    order(&regions, &["switchover", "--from", EAST]);
    regions.wait("the application writes in the west", |regions| regions.rows_acknowledged(WEST) > 100);
    let state = regions.lab.aws("state");
    assert_eq!(state["rds"][REPLICA]["backup_days"], 7, "{state}");

    regions.wait_until_what_serves_is_well();
    order(&regions, &["rejoin", "database@us-east-1"]);
    let kept = regions.lab.aws("state")["rds"][KEPT].clone();
    assert_eq!(kept["status"], "available", "what the east held is kept");
    regions.wait("the standbys are ready", |regions| {
        regions.status().instances.iter().filter(|instance| !instance.active).all(|instance| instance.ready)
    });

    let before = regions.rows_acknowledged(EAST);
    order(&regions, &["failback"]);
    regions.wait("the application writes in the east", |regions| regions.rows_acknowledged(EAST) > before + 100);
    regions.stop_writing();
    let outcomes =
        [Purpose::Switchover, Purpose::Rejoin, Purpose::Failback].map(|purpose| (purpose, Outcome::Recovered));
    assert_eq!(ends(&regions), outcomes, "{}", regions.story());
    assert_eq!((count(&regions.lab, "PromoteReadReplica"), count(&regions.lab, "CreateDBInstanceReadReplica")), (2, 1));
    regions.judge(&["--negative", "--there-and-back", "--rows-lost-max", "0", "--only", "kubernetes,traffic,rows"]);
}

#[test]
fn a_managed_database_that_returns_with_rows_of_its_own_is_set_aside_only_where_a_person_says_so() {
    let mut regions = Regions::up(&[], &[]);
    regions.set("FAILOVERD__DATABASES__DATABASE__FENCE__SECURITY_GROUP", "sg-0fence");
    regions.set("FAILOVERD__DATABASES__DATABASE__REJOIN__DEADLINE", "10m");
    write_what_is_lost(&mut regions, 100);
    regions.lab.tell("kill", &["region:us-east-1"]);
    regions.wait_until_closed();
    regions.wait("the application writes in the west", |regions| regions.rows_acknowledged(WEST) > 100);
    regions.stop_writing();
    regions.lab.tell("start", &["region:us-east-1"]);
    regions.wait_for_fact("what the old one holds", |fact| matches!(fact, Fact::DivergenceFound { .. }));
    let told = regions.status().losses.remove(0).rows.expect("it was counted")["compute_nodes"];
    assert!(told > 100, "{told}");

    let kept = |regions: &Regions| regions.lab.aws("state")["rds"].get(KEPT).cloned();
    let refused = regions.cli(&["rejoin", "database@us-east-1", "--reason", "exercise", "--yes"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("NOT IN EFFECT") && said.contains("rows of compute_nodes"), "{said}");
    assert_eq!((kept(&regions), count(&regions.lab, "CreateDBInstanceReadReplica")), (None, 0));

    regions.wait_until_what_serves_is_well();
    order(&regions, &["rejoin", "database@us-east-1", "--discard"]);
    assert_eq!(kept(&regions).expect("it is kept")["status"], "available");
    let (client, runtime) = regions.superuser(EAST);
    let row = runtime.block_on(client.query_one("SELECT pg_is_in_recovery(), count(*) FROM compute_nodes", &[]));
    let (is_standby, rows) = row.map(|row| (row.get::<_, bool>(0), row.get::<_, i64>(1))).unwrap();
    let (client, runtime) = regions.superuser(WEST);
    let served =
        runtime.block_on(client.query_one("SELECT count(*) FROM compute_nodes", &[])).unwrap().get::<_, i64>(0);
    assert_eq!((is_standby, rows), (true, served));
}
