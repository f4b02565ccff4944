//! Real regions that take the work back by stages, while an application writes all the time.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use failoverd::decide::{Fact, Outcome};
use failoverd::plan::Purpose;

use crate::regions::{EAST, Regions, WEST};
use crate::rejoin::{order, with_a_way_back};
use crate::switchover::ends;

/// Where the daemon dies: pods are told, a share is on its way, the writers wait, and everything that cannot be taken back begins.
const DEATHS: [&str; 6] = [
    "tell-secret-database-credentials-host@us-east-1",
    "share-50-traffic",
    "fence-database@us-west-2",
    "promote-database@us-east-1",
    "activate-cache@us-east-1",
    "traffic-traffic",
];

#[test]
fn killed_again_and_again_a_failback_loses_nothing_and_does_nothing_twice() {
    let mut regions = away_from_home();
    let before = regions.rows_acknowledged(EAST);
    begin(&regions);
    for step in DEATHS {
        regions.wait_for_fact(step, |fact| matches!(fact, Fact::StepStarted { step: of, .. } if of.as_str() == step));
        regions.kill();
        regions.start();
    }
    regions.wait_until_closed();
    regions.wait("the application writes in the east", |regions| regions.rows_acknowledged(EAST) > before + 100);
    regions.stop_writing();
    assert_eq!(ends(&regions).last(), Some(&(Purpose::Failback, Outcome::Recovered)), "{}", regions.story());
    // The switchover, two shares, and everybody.
    let subjects = "database,kubernetes,traffic,calls,rows";
    regions.judge(&["--negative", "--there-and-back", "--rows-lost-max", "0", "--batches", "4", "--only", subjects]);
    let status = regions.status();
    assert!(status.placement.values().all(|region| region.as_str() == EAST), "{:?}", status.placement);
}

#[test]
fn a_share_whose_service_breaks_is_taken_back_and_the_failback_can_be_given_up() {
    let mut regions = away_from_home();
    begin(&regions);
    regions.wait_for_fact(
        "half of the clients are there",
        |fact| matches!(fact, Fact::StepDone { step, .. } if step.as_str() == "share-50-traffic"),
    );
    regions.lab.tell("kill", &["app@us-east-1"]);
    regions.wait_for_fact("it is taken back", |fact| {
        matches!(fact, Fact::ShareTakenBack { step, why, .. }
            if step.as_str() == "share-50-traffic" && why.contains(EAST))
    });
    regions.wait("somebody is told why", |regions| {
        let alarms = regions.status().alarms;
        alarms.iter().any(|alarm| alarm.key.ends_with("-taken-back") && alarm.text.contains("failoverd continue"))
    });
    let open = regions.status().incidents.into_iter().find(|incident| incident.closed.is_none()).unwrap();
    regions.tell(&["abort", open.incident.as_str()]);
    regions.wait_until_closed();
    let before = regions.rows_acknowledged(WEST);
    regions.wait("the application goes on in the west", |regions| regions.rows_acknowledged(WEST) > before + 100);
    regions.stop_writing();
    assert_eq!(ends(&regions).last(), Some(&(Purpose::Failback, Outcome::Aborted)), "{}", regions.story());
    regions.judge(&["--self-managed", "--rows-lost-max", "0", "--only", "traffic,rows"]);
}

/// Everything is served in the west by plan, and the old primary is a standby; the stages are short.
fn away_from_home() -> Regions {
    let mut regions = with_a_way_back();
    // A machine that has two labs to run must not take a cluster for lost: that ends a failback.
    for key in ["AFTER", "CONFIRM_FOR"] {
        regions.set(&format!("FAILOVERD__CLUSTERS__KUBERNETES__TRIGGER__{key}"), "30s");
    }
    for (key, value) in [("STABLE_FOR", "3s"), ("STAGE_FOR", "6s"), ("INTERVAL", "4s")] {
        regions.set(&format!("FAILOVERD__FAILBACK__{key}"), value);
    }
    regions.watch();
    regions.write_rows();
    order(&regions, &["switchover", "--from", EAST]);
    regions.wait_until_what_serves_is_well();
    order(&regions, &["rejoin", "database@us-east-1"]);
    regions.wait("the standbys are ready", |regions| {
        regions.status().instances.iter().filter(|instance| !instance.active).all(|instance| instance.ready)
    });
    regions
}

/// Orders it, and does not wait for its end.
fn begin(regions: &Regions) {
    let said = regions.tell(&["failback", "--reason", "exercise", "--yes"]);
    assert!(said.contains("is declared"), "{said}");
}
