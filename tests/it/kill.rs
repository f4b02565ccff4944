//! `kill -9` of the daemon in the middle of a real failover: before a call, after it, after its answer. The next daemon
//! goes on with the plan that it finds, and the servers count what was done.

use failoverd::decide::Fact;
use failoverd::plan::Reversal;

use crate::regions::{EAST, Regions, WEST};
use crate::trap::{Moment, Trap};

const PROMOTE: &str = "Action=PromoteReadReplica";
const CHANGE_RECORDS: &str = "<ChangeResourceRecordSetsRequest";
const PROMOTE_CACHE: &str = "REPLICAOF";
const WORKLOADS: [&str; 3] = ["nexus-prime-core", "go-node-proxies", "ai-agents"];
pub(crate) const PG_PROMOTE: &str = "SELECT pg_promote(";

#[test]
fn killed_before_every_irreversible_call_and_in_three_other_steps_the_same_end_is_reached() {
    a_lost_region_with_kills(Moment::BeforeTheCall, 1);
}

#[test]
fn killed_after_every_irreversible_call_and_in_three_other_steps_the_same_end_is_reached() {
    a_lost_region_with_kills(Moment::AfterTheCall, 2);
}

#[test]
fn killed_between_every_irreversible_answer_and_its_fact_and_in_three_other_steps_the_same_end_is_reached() {
    a_lost_region_with_kills(Moment::AfterTheAnswer, 3);
}

#[test]
fn killed_before_pg_promote_the_database_is_promoted_once() {
    a_lost_database_with_a_kill(Moment::BeforeTheCall);
}

#[test]
fn killed_after_pg_promote_the_database_is_promoted_once() {
    a_lost_database_with_a_kill(Moment::AfterTheCall);
}

#[test]
fn killed_between_the_answer_of_pg_promote_and_its_fact_the_database_is_promoted_once() {
    a_lost_database_with_a_kill(Moment::AfterTheAnswer);
}

fn a_lost_region_with_kills(moment: Moment, seed: u64) {
    // Slow enough that a restart is caught before it is through.
    let mut regions = Regions::up(&["--pod-delay", "1"], &[]);
    let aws = Trap::before(regions.lab.text("/aws/endpoint").trim_start_matches("http://"), &[PROMOTE, CHANGE_RECORDS]);
    let port = regions.lab.number("/regions/us-west-2/redis/port");
    let cache = Trap::before(&format!("127.0.0.1:{port}"), &[PROMOTE_CACHE]);
    let mut lab = regions.lab.json.clone();
    lab["aws"]["endpoint"] = format!("http://{}", aws.address).into();
    lab["regions"][WEST]["redis"]["port"] = cache.address.port().into();
    regions.lead_through(&lab, &[]);
    regions.watch();
    regions.write_rows();
    for text in [PROMOTE, CHANGE_RECORDS] {
        aws.arm(text, moment);
    }
    cache.arm(PROMOTE_CACHE, moment);

    regions.lab.tell("kill", &["region:us-east-1"]);
    regions.wait_for_fact("the plan", |fact| matches!(fact, Fact::PlanMade { .. }));
    let mut others = three_of(&regions, seed);
    eprintln!("seed {seed}: also killed when {others:?} have started");
    // Restarting pods cannot be taken back either. Their API speaks TLS, so the world tells when the call is through.
    let mut restarts: Vec<&str> = WORKLOADS.to_vec();
    let mut kills = 0;
    regions.wait_with(|regions| {
        // Asked first: what started before the end is among the facts then.
        let is_closed = regions.is_closed();
        let mut reasons: Vec<String> = aws.sprung().into_iter().chain(cache.sprung()).map(str::to_owned).collect();
        for fact in regions.facts() {
            let Fact::StepStarted { step, .. } = fact else { continue };
            let of_workload = |workload: &&str| step.as_str().starts_with(&format!("restart-{workload}@{WEST}"));
            if let Some(place) = others.iter().position(|other| other == step.as_str()) {
                reasons.push(others.remove(place));
            } else if let Some(place) = restarts.iter().position(of_workload)
                && (moment == Moment::BeforeTheCall || regions.lab.revision(WEST, restarts[place]) > 1)
            {
                reasons.push(format!("restart of {}", restarts.remove(place)));
            }
        }
        if !reasons.is_empty() {
            regions.kill();
            kills += 1;
            eprintln!("killed: {reasons:?}");
            aws.open();
            cache.open();
            regions.start();
            return false;
        }
        is_closed
    });
    assert!(others.is_empty(), "never started: {others:?}\n{}", regions.story());
    // Some fall together; each irreversible call was caught.
    assert!(kills >= 4 && restarts.is_empty(), "{kills} kills, none at {restarts:?}");
    assert_eq!((aws.count(PROMOTE), aws.count(CHANGE_RECORDS), cache.count(PROMOTE_CACHE)), (1, 1, 1));

    regions.wait("the application writes in the west", |regions| regions.rows_acknowledged(WEST) > 100);
    regions.stop_writing();
    regions.judge(&[]);
    regions.judge(&["--only", "restarts"]);
}

/// Regions whose standby database is reached through a trap for its promotion.
pub(crate) fn behind_a_trap() -> (Regions, Trap) {
    let mut regions = Regions::up(&[], &["--database", "postgres"]);
    let port = regions.lab.number("/regions/us-west-2/postgres/port");
    let database = Trap::before(&format!("127.0.0.1:{port}"), &[PG_PROMOTE]);
    let mut lab = regions.lab.json.clone();
    lab["regions"][WEST]["postgres"]["port"] = database.address.port().into();
    regions.lead_through(&lab, &["--database", "postgres"]);
    // In plain text, for the trap to read.
    regions.set("FAILOVERD__DATABASES__DATABASE__TLS", "disable");
    (regions, database)
}

fn a_lost_database_with_a_kill(moment: Moment) {
    let (mut regions, database) = behind_a_trap();
    regions.set("FAILOVERD__DATABASES__DATABASE__TRIGGER", "{ after = \"5s\" }");
    regions.watch();
    database.arm(PG_PROMOTE, moment);
    regions.lab.tell("kill", &["pg@us-east-1"]);
    regions.wait("the call is stopped", |_| !database.sprung().is_empty());
    let done = |fact: &Fact| matches!(fact, Fact::StepDone { step, .. } if step.as_str().starts_with("promote-"));
    regions.kill();
    assert!(!regions.facts().iter().any(done), "its fact was recorded before the kill");
    database.open();
    regions.start();
    regions.wait_until_closed();
    assert_eq!(database.count(PG_PROMOTE), 1);
    regions.judge(&["--moved", "database", "--self-managed"]);
    assert_ne!(regions.status().placement[&"database".into()].as_str(), EAST);
}

/// Three steps of the plan that can be undone, or need no undoing, chosen by the seed.
fn three_of(regions: &Regions, seed: u64) -> Vec<String> {
    let mut steps: Vec<String> = Vec::new();
    for fact in regions.facts() {
        if let Fact::PlanMade { steps: planned, .. } | Fact::PlanGrown { steps: planned, .. } = fact {
            // What is in the lost region is owed and never starts.
            let others = planned.into_iter().filter(|step| step.action.reversal() != Reversal::Impossible);
            steps.extend(others.map(|step| step.id.to_string()).filter(|id| !id.contains(EAST)));
        }
    }
    let mut random = seed;
    let mut next = || {
        // Knuth's multiplier, as in MMIX.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize
    };
    (0..3).map(|_| steps.remove(next() % steps.len())).collect()
}
