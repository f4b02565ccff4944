//! The days by chance can fail: each deliberate bug that makes failoverd do wrong breaks an invariant of the world on one of
//! the first days, without a comparison to a daemon that does not have it.
//!
//! `FIND_SEEDS=500 cargo test --lib seeds_are_found -- --nocapture` looks for the seeds anew, among so many for each bug, and
//! prints the table below; with `FIND_BUG=Quorum`, for the bugs with such a name.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use strum::VariantArray as _;

use crate::cli::simulate;
use crate::domain::{Bug, Bugs};
use crate::ledger;
use crate::simulation::{Setup, Story};

/// A bug, a seed that catches it, and what breaks. Every change of what a day holds makes other days: where such a seed
/// catches its bug no more, the first ones are looked through.
const CAUGHT: &[(Bug, u64, &str)] = &[
    (Bug::UnknownIsFailing, 132, "was not lost for"),
    (Bug::RefusalIsFailing, 8, "was not lost for"),
    (Bug::GapIsFailing, 7, "was not lost for"),
    (Bug::LossByAge, 2, "a person is asked to accept what promoting"),
    (Bug::CommitPointNotJudged, 1, "may still act by its role"),
    (Bug::AnyTargetWillDo, 97, "traffic moved before"),
    (Bug::PromotionBeforeFence, 4, "accept writes at the same time"),
    (Bug::TrafficFirst, 1, "performed before"),
    (Bug::TrafficUnconfirmed, 148, "has not failed for"),
    (Bug::StartedStepsForgotten, 5, "does not end, and everything is well"),
    (Bug::KeyChangesAtRestart, 1, "was restarted twice"),
    (Bug::UnwoundAfterCommitPoint, 1, "unwinds after the commit point of"),
    (Bug::UnwoundWithoutUnfencing, 25, "which takes no writes"),
    (Bug::EscalationJoinsUnwinding, 45, "grew while it was unwinding"),
    (Bug::OwedFenceForgotten, 4, "still accept writes at the end"),
    (Bug::PauseIgnored, 36, "started while paused"),
    (Bug::DriftIgnored, 95, "still accept writes at the end"),
    (Bug::CooldownIgnored, 40, "is moved again"),
    (Bug::ObserveActs, 29, "performed in mode observe"),
    (Bug::ApprovalOfAnotherPlan, 99, "the plan as it stands was not approved"),
    (Bug::PerformedBeforeDurable, 1, "performed without a durable fact"),
    (Bug::LostAppendIsFailure, 38, "performed without a durable fact"),
    (Bug::HaltedGoesOn, 1, "a call was sent while halted"),
    (Bug::QuorumIgnored, 5, "was not lost for"),
    (Bug::WitnessIgnored, 6, "was not lost for"),
    (Bug::AbstainerCounts, 5, "was not lost for"),
    (Bug::TakeoverAtOnce, 26, "arrived after one of epoch"),
    (Bug::StaleEpochAccepted, 10, "after epoch"),
    (Bug::RoleWaitSkipped, 4, "may still act by its role"),
];

/// So many seeds are looked through where the one that is named for a bug does not catch it.
const WITHIN: u64 = 200;

/// What only keeps failoverd from acting, needs another configuration, or a disk that is no shared ledger. Their stories
/// catch them.
const NOT_IN_A_DAY: &[(Bug, &str)] = &[
    (Bug::AnswerResetsTheWindow, "its story: it only keeps failoverd from acting"),
    (Bug::NeverSeenCounts, "its story: it needs a configuration with a mistake"),
    (Bug::NoSelfDoubt, "its story: among several daemons, whose networks fail one by one, the others outvote it"),
    (Bug::OldOutcomeAccepted, "its story: an answer has to wait through three retries"),
    (Bug::FailedAppendTriedAgain, "its story: it is about a disk, and days have a shared ledger"),
    (Bug::StaleBallotCounts, "its story"),
    (Bug::VotesByObserver, "its story: it needs two observers in one region"),
    (Bug::JumpIgnored, "its story"),
    (Bug::ReplayAsksThePlanner, "its story: it takes a reload in the middle of a plan, and days have none"),
    (Bug::CatchUpSkipped, "its story: it takes a standby that lags at the moment of a planned move"),
    (Bug::BrokenCheckForgotten, "its story: nothing of the world depends on it"),
    (Bug::StagesSkipped, "its story"),
    (Bug::ShareNotWatched, "its story"),
];

/// A matter of the record in a bucket, whose own races catch it: days have a ledger with its contract, and not its objects.
const IN_A_RACE: Bug = Bug::LowerEpochApplied;

#[test]
fn every_deliberate_bug_is_caught_by_a_seed() {
    let mut named: Vec<Bug> =
        CAUGHT.iter().map(|caught| caught.0).chain(NOT_IN_A_DAY.iter().map(|not| not.0)).collect();
    named.push(IN_A_RACE);
    for bug in Bug::VARIANTS {
        assert_eq!(named.iter().filter(|named| *named == bug).count(), 1, "{bug:?} has to be named once");
    }
    // Nothing waits for it, and the servers of other tests must not wait for it.
    let _ = rustix::process::nice(10);
    let told = on_every_core(CAUGHT, |(bug, seed, words)| {
        let caught = std::iter::once(*seed).chain(1..=WITHIN).find_map(|seed| {
            let with = breaks(Some(*bug), seed);
            with.into_iter().find(|broken| broken.contains(words)).map(|broken| (seed, broken))
        });
        let Some((seed, broken)) = caught else {
            return Err(format!("{bug:?}: neither seed {seed} nor any of the first {WITHIN} catches it"));
        };
        let without = breaks(None, seed);
        if !without.is_empty() {
            return Err(format!("{bug:?}: seed {seed} breaks something without the bug as well: {without:?}"));
        }
        Ok(format!("{:<26} seed {seed:>4}  {broken}\n", format!("{bug:?}")))
    });
    let wrong: Vec<String> = told.iter().filter_map(|told| told.clone().err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let mut table: String = told.into_iter().filter_map(Result::ok).collect();
    let (seed, broken) = ledger::caught(IN_A_RACE).expect("a race for a bucket catches it");
    let _ = writeln!(table, "{:<26} seed {seed:>4}  {broken} (races for a bucket)", format!("{IN_A_RACE:?}"));
    for (bug, why) in NOT_IN_A_DAY {
        let _ = writeln!(table, "{:<26} {why}", format!("{bug:?}"));
    }
    // Past what the test runner holds back of tests that pass.
    let _ = std::io::stdout().write_all(format!("\nDeliberate bugs, and what catches them:\n{table}").as_bytes());
}

#[test]
fn seeds_are_found() {
    let Some(limit) = std::env::var("FIND_SEEDS").ok().and_then(|limit| limit.parse::<u64>().ok()) else { return };
    let only = std::env::var("FIND_BUG").unwrap_or_default();
    let is_wanted = |bug: &Bug| only.split(',').any(|only| format!("{bug:?}").contains(only));
    let wanted: Vec<Bug> = Bug::VARIANTS.iter().copied().filter(is_wanted).collect();
    on_every_core(&wanted, |bug| {
        let first = (1..=limit).find_map(|seed| {
            let with = breaks(Some(*bug), seed);
            let is_sound = with.is_empty() || breaks(None, seed).is_empty();
            with.first().filter(|_| is_sound).map(|broken| (seed, broken.clone()))
        });
        let line = match first {
            Some((seed, broken)) => format!("    (Bug::{bug:?}, {seed}, {broken:?}),\n"),
            None => format!("    NOT FOUND: {bug:?}\n"),
        };
        let _ = std::io::stdout().write_all(line.as_bytes());
    });
}

fn breaks(bug: Option<Bug>, seed: u64) -> Vec<String> {
    let config = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/config/omnimesh.toml"));
    let days = simulate::Days::new(&[config], false).unwrap_or_else(|error| panic!("{error:#}"));
    let setup = |story: &Story| days.setup(story).map(|setup| Setup { bugs: Bugs::only(bug), ..setup });
    let search = days.search(&setup, seed, 1, 1);
    search.breaks(seed).unwrap_or_else(|error| panic!("{bug:?}: {error}"))
}

/// In the order of `of`.
fn on_every_core<T: Sync, R: Send>(of: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(one) = of.get(place) else { return };
                    let came = work(one);
                    done.lock().unwrap().insert(place, came);
                }
            });
        }
    });
    done.into_inner().unwrap().into_values().collect()
}
