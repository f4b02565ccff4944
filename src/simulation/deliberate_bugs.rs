//! The tests can fail: every deliberate bug is caught, and by what is named here.
//!
//! A bug that is caught by something else than it used to be means that an invariant or a story has become weaker.

mod by_chance;

use std::path::{Path, PathBuf};

use super::{Crash, Detail, Options, Report, Setup, Story, parse, run};
use strum::VariantArray as _;

use crate::cli::replay;
use crate::domain::{Bug, Bugs};

/// A bug and what catches it.
struct Catch {
    bug: Bug,
    told: Told,
    played: Played,
    sign: Sign,
}

/// What is played.
enum Told {
    /// One of `tests/scenarios`.
    Story(&'static str),
    /// A story that shows little without the bug.
    These(&'static str),
}

/// What goes wrong besides.
enum Played {
    /// Nothing.
    Straight,
    /// The daemon dies, somewhere.
    Crashing,
    /// The disk is full, at some frame.
    FullDisk,
    /// An answer of the disk is lost, at some frame.
    LostAnswer,
    /// Answers come twice and late.
    Shuffled,
    /// Daemons that start anew read another configuration: a key and its value.
    Reconfigured(&'static str, &'static str),
}

/// How the bug shows.
enum Sign {
    /// This invariant breaks.
    Breaks(&'static str),
    /// A line of the story's report that is no longer there.
    Misses(&'static str),
    /// A line that may not be there.
    Shows(&'static str),
}

use Played::{Crashing, FullDisk, LostAnswer, Reconfigured, Shuffled, Straight};
use Sign::{Breaks, Misses, Shows};
use Told::{Story as InStory, These};

const LOST_REGION: &str = "until +10m
    +0  everything@us-east-1 fails tcp";

const CATCHES: &[Catch] = &[
    Catch {
        bug: Bug::UnknownIsFailing,
        told: InStory("not_knowing_is_not_failing"),
        played: Straight,
        sign: Breaks("was not lost for"),
    },
    Catch {
        bug: Bug::RefusalIsFailing,
        told: InStory("a_wrong_credential_is_an_alarm_and_no_outage"),
        played: Straight,
        sign: Breaks("was not lost for"),
    },
    Catch {
        bug: Bug::GapIsFailing,
        told: InStory("a_daemon_stopped_for_six_minutes_sees_no_outage"),
        played: Straight,
        sign: Breaks("was not lost for"),
    },
    Catch {
        bug: Bug::AnswerResetsTheWindow,
        told: InStory("a_lucky_success_per_minute_does_not_hide_an_outage"),
        played: Straight,
        sign: Misses("inc-1 declared"),
    },
    Catch {
        bug: Bug::NeverSeenCounts,
        told: These(
            "until +7m
            +10s  restart 5s
            +10s  database@us-east-1 fails dns",
        ),
        played: Reconfigured("databases.database.regions.us-east-1.identifier", "omnimesh-prod-primray"),
        sign: Shows("inc-1 declared"),
    },
    Catch {
        bug: Bug::NoSelfDoubt,
        told: InStory("the_daemons_own_link_is_cut_and_nothing_is_failed_over"),
        played: Straight,
        sign: Breaks("was not lost for"),
    },
    Catch {
        bug: Bug::LossByAge,
        told: InStory("a_database_is_promoted_after_five_minutes"),
        played: Straight,
        sign: Misses("promote-database@us-west-2: commit point passed"),
    },
    Catch {
        bug: Bug::CommitPointNotJudged,
        told: InStory("a_standby_that_lags_beyond_the_rpo_waits_for_a_person"),
        played: Straight,
        sign: Breaks("and nobody accepted it"),
    },
    Catch {
        bug: Bug::AnyTargetWillDo,
        told: InStory("a_standby_that_refuses_the_credential_is_no_target"),
        played: Straight,
        sign: Misses("target not ready: database@us-west-2: it refuses our credential"),
    },
    Catch {
        bug: Bug::PromotionBeforeFence,
        told: InStory("an_operator_moves_the_region_without_an_outage"),
        played: Straight,
        sign: Breaks("performed before fence-database@us-east-1"),
    },
    Catch {
        bug: Bug::TrafficFirst,
        told: These(LOST_REGION),
        played: Straight,
        sign: Breaks("traffic moved before promote-database@us-west-2"),
    },
    Catch {
        bug: Bug::TrafficUnconfirmed,
        told: InStory("traffic_leaves_a_lost_cluster_after_ninety_seconds_and_not_before"),
        played: Straight,
        sign: Breaks("goes ahead, and kubernetes@us-east-1 has not failed for"),
    },
    Catch {
        bug: Bug::StartedStepsForgotten,
        told: These(LOST_REGION),
        played: Crashing,
        sign: Breaks("is open, and nothing is done about it for no reason"),
    },
    Catch {
        bug: Bug::ReplayAsksThePlanner,
        told: These(
            "until +10m
            +0      everything@us-east-1 fails tcp
            +40s    restart 5s",
        ),
        played: Reconfigured("clusters.kubernetes.namespace", "omnimesh-two"),
        sign: Breaks("where the plan says"),
    },
    Catch {
        bug: Bug::KeyChangesAtRestart,
        told: These(LOST_REGION),
        played: Crashing,
        sign: Breaks("was restarted twice"),
    },
    Catch {
        bug: Bug::OldOutcomeAccepted,
        told: These(
            "until +12m
            +0      database@us-east-1 fails tcp
            +0      promote refuses AccessDenied
            +5m05s  operator retry promote-database@us-west-2
            +5m08s  operator retry promote-database@us-west-2
            +5m11s  operator retry promote-database@us-west-2
            +5m13s  promote works
            +5m14s  operator retry promote-database@us-west-2",
        ),
        played: Shuffled,
        sign: Breaks("was recorded as ended while it was worked on"),
    },
    Catch {
        bug: Bug::UnwoundAfterCommitPoint,
        told: These(
            "until +10m
            +0      everything@us-east-1 fails tcp
            +2m30s  everything@us-east-1 answers",
        ),
        played: Straight,
        sign: Breaks("unwinds after the commit point of"),
    },
    Catch {
        bug: Bug::UnwoundWithoutUnfencing,
        told: InStory("a_fence_that_was_put_up_comes_down_with_the_plan"),
        played: Straight,
        sign: Breaks("which takes no writes"),
    },
    Catch {
        bug: Bug::EscalationJoinsUnwinding,
        told: InStory("an_outage_during_the_unwinding_waits_for_its_end"),
        played: Straight,
        sign: Breaks("grew while it was unwinding"),
    },
    Catch {
        bug: Bug::OwedFenceForgotten,
        told: InStory("an_old_primary_that_comes_back_is_fenced"),
        played: Straight,
        sign: Breaks("still accept writes at the end"),
    },
    Catch {
        bug: Bug::PauseIgnored,
        told: InStory("a_pause_holds_everything_back_and_says_so"),
        played: Straight,
        sign: Breaks("started while paused"),
    },
    Catch {
        bug: Bug::DriftIgnored,
        told: InStory("a_ledger_that_disagrees_with_the_world_does_nothing"),
        played: Straight,
        sign: Misses("withheld by drift"),
    },
    Catch {
        bug: Bug::CooldownIgnored,
        told: InStory("a_second_outage_within_the_cooldown_waits_for_a_person"),
        played: Straight,
        sign: Misses("withheld by cooldown"),
    },
    Catch {
        bug: Bug::ObserveActs,
        told: InStory("observe_mode_says_what_it_would_have_done"),
        played: Straight,
        sign: Breaks("performed in mode observe"),
    },
    Catch {
        bug: Bug::ApprovalOfAnotherPlan,
        told: InStory("an_approval_is_for_the_plan_that_was_shown"),
        played: Straight,
        sign: Shows("promote database@us-west-2"),
    },
    Catch {
        bug: Bug::PerformedBeforeDurable,
        told: These(LOST_REGION),
        played: Straight,
        sign: Breaks("performed without a durable fact"),
    },
    Catch {
        bug: Bug::LostAppendIsFailure,
        told: These(LOST_REGION),
        played: LostAnswer,
        sign: Breaks("was declared twice"),
    },
    Catch {
        bug: Bug::FailedAppendTriedAgain,
        told: These(LOST_REGION),
        played: FullDisk,
        sign: Breaks("performed without a durable fact"),
    },
    Catch {
        bug: Bug::HaltedGoesOn,
        told: These(LOST_REGION),
        played: FullDisk,
        sign: Breaks("a call was sent while halted"),
    },
    Catch {
        bug: Bug::QuorumIgnored,
        told: InStory("a_leader_that_alone_sees_a_failure_is_outvoted"),
        played: Straight,
        sign: Breaks("was not lost for"),
    },
    Catch {
        bug: Bug::WitnessIgnored,
        told: InStory("a_witness_inside_the_region_holds_a_failover_back_until_a_person_is_asked"),
        played: Straight,
        sign: Breaks("was not lost for"),
    },
    Catch {
        bug: Bug::AbstainerCounts,
        told: InStory("an_observer_that_abstains_has_no_vote"),
        played: Straight,
        sign: Breaks("was not lost for"),
    },
    Catch {
        bug: Bug::StaleBallotCounts,
        told: InStory("what_an_observer_said_before_it_fell_silent_does_not_count"),
        played: Straight,
        sign: Breaks("was not lost for"),
    },
    Catch {
        bug: Bug::VotesByObserver,
        told: InStory("two_observers_in_one_region_have_one_vote"),
        played: Straight,
        sign: Breaks("was not lost for"),
    },
    Catch {
        bug: Bug::TakeoverAtOnce,
        told: InStory("a_new_leader_waits_out_the_calls_of_the_former_one"),
        played: Straight,
        sign: Misses("+3m18.0s     does     claim the clusters"),
    },
    Catch {
        bug: Bug::BrokenCheckForgotten,
        told: InStory("what_took_over_and_breaks_afterwards_is_found"),
        played: Straight,
        sign: Misses("+11m22.5s    page     check-health"),
    },
    Catch {
        bug: Bug::CatchUpSkipped,
        told: InStory("a_switchover_waits_for_a_standby_that_lags_a_little"),
        played: Straight,
        sign: Breaks("by plan lost"),
    },
    Catch {
        bug: Bug::RoleWaitSkipped,
        told: InStory("a_region_that_hears_of_it_gives_its_role_up_at_once"),
        played: Straight,
        sign: Breaks("may still act by its role"),
    },
    Catch {
        bug: Bug::JumpIgnored,
        told: InStory("a_leader_whose_machine_was_suspended_leads_no_more"),
        played: Straight,
        sign: Breaks("arrived after one of epoch"),
    },
    Catch {
        bug: Bug::StagesSkipped,
        told: InStory("a_failback_goes_by_stages_and_leaves_a_warm_standby"),
        played: Straight,
        sign: Breaks("follows share-10-traffic after"),
    },
    Catch {
        bug: Bug::ShareNotWatched,
        told: InStory("a_share_of_a_failback_that_is_not_well_served_is_taken_back_until_a_person_sends_it_again"),
        played: Straight,
        sign: Misses("share-50-traffic: taken back"),
    },
];

/// What no story shows: a stale leader is stopped between a decision and its record, which only chance does; and a frame of a
/// lower epoch is a matter of the bucket's own record, whose races (`ledger::s3::race`) catch it.
const WITHOUT_A_STORY: [Bug; 2] = [Bug::StaleEpochAccepted, Bug::LowerEpochApplied];

#[test]
fn every_deliberate_bug_is_caught_by_what_is_named_for_it() {
    // Nothing waits for it, and the servers of other tests must not wait for it.
    let _ = rustix::process::nice(10);
    let mut wrong = Vec::new();
    for bug in Bug::VARIANTS.iter().copied() {
        let found: Vec<&Catch> = CATCHES.iter().filter(|catch| catch.bug == bug).collect();
        if WITHOUT_A_STORY.contains(&bug) && found.is_empty() {
            continue;
        }
        let [catch] = found.as_slice() else { panic!("{bug:?} is named {} times", found.len()) };
        wrong.extend(catch.try_it().err().map(|why| format!("{bug:?}: {why}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

impl Catch {
    fn try_it(&self) -> Result<(), String> {
        let (path, story) = self.told.read();
        let setup = |bug, edited: &[(String, String)]| {
            let mut story = story.clone();
            story.settings.overrides.extend(edited.iter().cloned());
            let setup = replay::setup(&path, &story, &[]).unwrap_or_else(|error| panic!("{:?}: {error:#}", self.bug));
            Setup { bugs: Bugs::only(bug), ..setup }
        };
        let (sound, buggy) = (setup(None, &[]), setup(Some(self.bug), &[]));
        let play = |setup: &Setup, options: &Options| {
            run(&story, setup, options).unwrap_or_else(|error| panic!("{:?}: {error}", self.bug))
        };
        let after_restart = match self.played {
            Reconfigured(key, value) => Some(Box::new(setup(None, &[(key.to_owned(), value.to_owned())]))),
            Straight | Crashing | FullDisk | LostAnswer | Shuffled => None,
        };
        let plain = Options { after_restart, ..Options::default() };
        let baseline = play(&sound, &plain);
        let mut last = None;
        for options in self.played.ways(&plain, &baseline) {
            let report = play(&buggy, &options);
            if !self.sign.is_in(&report) {
                last = Some(report);
                continue;
            }
            // What the bug is caught by has to be right about a daemon without it.
            let sound =
                if options.seed.is_some() || !options.crashes.is_empty() { play(&sound, &options) } else { baseline };
            if self.sign.is_in(&sound) || !sound.broken.is_empty() {
                return Err(format!(
                    "found without the bug as well: {:?}\n{}",
                    sound.broken,
                    sound.render(Detail::Story)
                ));
            }
            return Ok(());
        }
        let last = last.unwrap_or(baseline);
        Err(format!("not caught; broken: {:?}\n{}", last.broken, last.render(Detail::Story)))
    }
}

impl Told {
    fn read(&self) -> (PathBuf, Story) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
        match self {
            Self::Story(name) => {
                let path = folder.join(format!("{name}.txt"));
                let story = replay::read(&path).unwrap_or_else(|error| panic!("{error:#}"));
                (path, story)
            }
            Self::These(lines) => {
                let text = format!("config ../../config/omnimesh.toml\n{lines}");
                (folder.join("story.txt"), parse(&text).unwrap_or_else(|error| panic!("{error}: {lines}")))
            }
        }
    }
}

impl Played {
    /// Every way to play it; the first that shows the bug is enough.
    fn ways(&self, plain: &Options, baseline: &Report) -> Vec<Options> {
        let counts = baseline.counts;
        let crashing = |crash| Options { crashes: vec![crash], until_settled: true, ..plain.clone() };
        match self {
            Straight | Reconfigured(..) => vec![plain.clone()],
            Crashing => {
                let calls = (0..counts.calls).map(|nth| crashing(Crash::Call { nth, sent: true }));
                calls.chain((0..counts.frames).map(|nth| crashing(Crash::Frame { nth, written: true }))).collect()
            }
            FullDisk => (0..counts.frames).map(|nth| crashing(Crash::Disk { nth, written: false })).collect(),
            LostAnswer => (0..counts.frames).map(|nth| crashing(Crash::Disk { nth, written: true })).collect(),
            Shuffled => (1..40).map(|seed| Options { seed: Some(seed), ..plain.clone() }).collect(),
        }
    }
}

impl Sign {
    fn is_in(&self, report: &Report) -> bool {
        match self {
            Breaks(words) => report.broken.iter().any(|broken| broken.contains(words)),
            Misses(words) => !report.render(Detail::Story).contains(words),
            Shows(words) => report.render(Detail::Story).contains(words),
        }
    }
}
