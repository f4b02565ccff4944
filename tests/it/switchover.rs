//! Real regions that are left by plan, while an application writes all the time: what it was told is written is there.

use failoverd::decide::{Fact, Outcome};
use failoverd::plan::Purpose;

use crate::kill::{PG_PROMOTE, behind_a_trap};
use crate::regions::{EAST, Regions, WEST};
use crate::trap::Moment;

/// Everything that the judge looks at but whether the region that was left is dead.
const SUBJECTS: &str = "database,cache,storage,kubernetes,traffic,calls,rows";

#[test]
fn a_region_is_left_by_plan_without_losing_a_write() {
    let mut regions = Regions::up(&[], &["--database", "postgres"]);
    regions.watch();
    regions.write_rows();
    let planned = regions.tell(&["plan", "--if", "switchover"]);
    assert!(planned.contains("without loss"), "{planned}");
    leave(&regions, None);
    regions.wait_until_closed();
    regions.wait("the application writes in the west", |regions| regions.rows_acknowledged(WEST) > 100);
    regions.stop_writing();
    let numbers = regions.judge(&["--self-managed", "--rows-lost-max", "0", "--only", SUBJECTS]);
    assert_eq!(ends(&regions), [(Purpose::Switchover, Outcome::Recovered)]);
    let promoted = |fact: &Fact| matches!(fact, Fact::CommitPointPassed { loss: Some(loss), .. } if loss.is_zero());
    assert!(regions.facts().iter().any(promoted), "{}", regions.story());
    assert!(numbers["write_outage_s"].as_f64() < Some(60.0), "{numbers}");
}

#[test]
fn a_managed_database_that_could_only_be_fenced_afterwards_is_not_moved_by_plan() {
    let mut regions = Regions::up(&[], &[]);
    regions.watch();
    let refused = regions.cli(&["switchover", "--from", EAST, "--reason", "exercise", "--yes"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("NOT IN EFFECT") && said.contains("fence.security_group"), "{said}");
    assert_eq!(regions.declared(), 0);
}

#[test]
fn a_standby_that_does_not_catch_up_leaves_the_application_where_it_was() {
    let mut regions = Regions::up(&[], &["--database", "postgres"]);
    regions.set("FAILOVERD__DEADLINES__CATCH_UP", "15s");
    regions.watch();
    regions.write_rows();
    leave(&regions, Some("database"));
    // It streams on, and replays nothing.
    regions.sql(WEST, "SELECT pg_wal_replay_pause()");
    regions.wait_until_closed();
    assert_eq!(ends(&regions), [(Purpose::Switchover, Outcome::Unwound)]);
    let before = regions.rows_acknowledged(EAST);
    regions.wait("the application writes in the east again", |regions| regions.rows_acknowledged(EAST) > before + 100);
    regions.stop_writing();
    assert_eq!(regions.rows_acknowledged(WEST), 0);
    regions.judge(&["--negative", "--rows-lost-max", "0", "--only", "region,database,traffic,calls,rows"]);
    let status = regions.status();
    assert!(status.placement.values().all(|region| region.as_str() == EAST), "{:?}", status.placement);
}

#[test]
fn a_switchover_is_refused_where_a_standby_is_not_ready_and_nothing_is_touched() {
    let mut regions = Regions::up(&[], &["--database", "postgres"]);
    regions.watch();
    regions.lab.tell("kill", &["redis@us-west-2"]);
    regions.wait("the dead standby is noticed", |regions| {
        regions.status().instances.iter().any(|of| of.instance.to_string() == "cache@us-west-2" && !of.ready)
    });
    let refused = regions.cli(&["switchover", "--from", EAST, "--reason", "exercise", "--yes"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("NOT IN EFFECT"), "{said}");
    assert!(said.contains("cache@us-west-2"), "{said}");
    assert_eq!(regions.declared(), 0);
}

#[test]
fn killed_before_the_promotion_of_a_switchover_it_ends_the_same() {
    moved_with_a_kill(Moment::BeforeTheCall);
}

#[test]
fn killed_after_the_promotion_of_a_switchover_it_ends_the_same() {
    moved_with_a_kill(Moment::AfterTheCall);
}

#[test]
fn killed_between_the_promotion_of_a_switchover_and_its_fact_it_ends_the_same() {
    moved_with_a_kill(Moment::AfterTheAnswer);
}

fn moved_with_a_kill(moment: Moment) {
    let (mut regions, database) = behind_a_trap();
    regions.watch();
    regions.write_rows();
    database.arm(PG_PROMOTE, moment);
    leave(&regions, Some("database"));
    regions.wait("the call is stopped", |_| !database.sprung().is_empty());
    regions.kill();
    database.open();
    regions.start();
    regions.wait_until_closed();
    regions.wait("the application writes in the west", |regions| regions.rows_acknowledged(WEST) > 100);
    regions.stop_writing();
    assert_eq!(database.count(PG_PROMOTE), 1);
    assert_eq!(ends(&regions), [(Purpose::Switchover, Outcome::Recovered)]);
    let judged = ["--moved", "database", "--self-managed", "--rows-lost-max", "0"];
    regions.judge(&judged);
}

/// Orders it, and does not wait for its end.
fn leave(regions: &Regions, component: Option<&str>) {
    let mut words = vec!["switchover", "--from", EAST, "--reason", "exercise", "--yes"];
    words.extend(component.map(|component| ["--component", component]).into_iter().flatten());
    let said = regions.tell(&words);
    assert!(said.contains("is declared"), "{said}");
}

/// Why the work of each incident was moved, and how that ended.
pub(crate) fn ends(regions: &Regions) -> Vec<(Purpose, Outcome)> {
    let facts = regions.facts();
    let purpose = |fact: &Fact| if let Fact::IncidentDeclared { purpose, .. } = fact { Some(*purpose) } else { None };
    let outcome = |fact: &Fact| if let Fact::IncidentClosed { outcome, .. } = fact { Some(*outcome) } else { None };
    facts.iter().filter_map(purpose).zip(facts.iter().filter_map(outcome)).collect()
}
