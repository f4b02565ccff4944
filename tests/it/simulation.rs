//! One daemon that dies anywhere: before a frame is written and after it, before a call is sent and before its answer
//! is heard, between an answer and its record. Its disk is full at any frame, or does not say that it has written one.
//! Probes are spread, answers come twice and overtake each other, and it dies again while it recovers. The invariants are
//! checked in the world after every call, and the same end is reached.

use std::path::Path;

use failoverd::cli::replay;
use failoverd::decide::Outcome;
use failoverd::simulation::{Crash, Detail, End, Options, Report, Setup, Story, parse, run};

use crate::simulate::in_the_background;

/// What is played. Whenever the daemon dies in it, the world has to end as it ends without a crash.
struct Case {
    name: &'static str,
    story: &'static str,
}

/// A daemon that comes up in the middle of an outage never saw the old primary alive, and so cannot say what a promotion
/// loses: a person does, at the end of each story.
const CASES: [Case; 10] = [
    Case {
        name: "a lost region",
        story: "until +24m
            +0    everything@us-east-1 fails tcp
            +16m  operator approve accept-loss 5m
            +17m  operator approve accept-loss 5m",
    },
    Case {
        name: "a lost database whose unfenced promotion needs a person",
        story: "set databases.database.unfenced_promotion approve
            until +40m
            +0    database@us-east-1 fails query 50000 out of memory
            +18m  operator approve accept-loss 5m accept-unfenced
            +19m  operator approve accept-loss 5m accept-unfenced
            +26m  operator approve accept-loss 5m accept-unfenced",
    },
    Case {
        name: "a cache, then its whole region",
        story: "until +28m
            +0    cache@us-east-1 fails tcp
            +4m   everything@us-east-1 fails tcp
            +20m  operator approve accept-loss 5m
            +21m  operator approve accept-loss 5m",
    },
    // An order that was not recorded is not in effect, and is given again.
    Case {
        name: "a switchover",
        story: "until +16m
            +1s   operator failover us-east-1
            +8m   operator failover us-east-1",
    },
    Case {
        name: "forty-three seconds",
        story: "until +12m
            +0    everything@us-east-1 fails tcp
            +43s  everything@us-east-1 answers",
    },
    Case {
        name: "a share of the clients that is sent away and taken back",
        story: "until +16m
            +0    api@us-east-1 degraded 2.4 s to answer, the limit is 1 s
            +8m   api@us-east-1 answers",
    },
    Case {
        name: "pods that hang, and are restarted once",
        story: "set degradation.reroute_percent 0
            until +16m
            +0    kubernetes@us-east-1 runs 2 nexus-prime-core until-restarted",
    },
    Case {
        name: "a zone that goes dark and comes back",
        story: "set degradation.reroute_percent 0
            until +20m
            +0    kubernetes@us-east-1 loses-zone us-east-1a
            +6m   kubernetes@us-east-1 reschedules
            +14m  kubernetes@us-east-1 answers",
    },
    Case {
        name: "a share of the clients, then the whole region",
        story: "until +26m
            +0    api@us-east-1 degraded 2.4 s to answer, the limit is 1 s
            +6m   everything@us-east-1 fails tcp
            +18m  operator approve accept-loss 5m
            +19m  operator approve accept-loss 5m",
    },
    Case {
        name: "a failback by stages",
        story: "set databases.database.fence.security_group sg-0fence
            set databases.database.rejoin.command [\"rejoin\"]
            set failback.stable_for 30s
            set failback.stage_for 60s
            set failback.interval 40s
            until +46m
            +1s   operator switchover us-east-1
            +9m   operator switchover us-east-1
            +18m  operator rejoin database@us-east-1
            +21m  operator rejoin database@us-east-1
            +24m  operator failback
            +35m  operator failback",
    },
];

/// The last one goes there and back.
const BACK_FROM: usize = 9;

/// From here on, the cases ease something without moving it for good.
const EASED_FROM: usize = 5;

/// Cases in which the disk fails at every frame as well; in the others it does by chance.
const DISK: [&str; 2] = ["a lost region", "a switchover"];

#[test]
fn a_crash_anywhere_leads_to_the_same_end_and_nothing_happens_twice() {
    in_the_background();
    crash_everywhere_in(&CASES[..EASED_FROM]);
}

#[test]
fn a_crash_anywhere_while_something_is_eased_leads_to_the_same_end() {
    in_the_background();
    crash_everywhere_in(&CASES[EASED_FROM..BACK_FROM]);
}

#[test]
fn a_crash_anywhere_on_the_way_back_leads_to_the_same_end() {
    in_the_background();
    let [case] = &CASES[BACK_FROM..] else { panic!("there is one way back") };
    let (story, setup) = case.load();
    let baseline = play(&story, &setup, &Options::default());
    assert!(baseline.broken.is_empty(), "{:?}", baseline.broken);
    // A long story with three plans: every third place, of each kind.
    let crashes = everywhere(&baseline).into_iter().filter(|crash| !matches!(crash, Crash::Disk { .. }));
    for crash in crashes.skip(1).step_by(3) {
        let options = Options { crashes: vec![crash], until_settled: true, ..Options::default() };
        check(case, &story, &setup, &baseline, &options);
    }
}

fn crash_everywhere_in(cases: &[Case]) {
    for case in cases {
        let (story, setup) = case.load();
        let baseline = play(&story, &setup, &Options::default());
        assert!(baseline.broken.is_empty(), "{}: {:?}", case.name, baseline.broken);
        let crashes = everywhere(&baseline).into_iter();
        for crash in crashes.filter(|crash| DISK.contains(&case.name) || !matches!(crash, Crash::Disk { .. })) {
            // What comes after the end is the same with and without the crash, and is played once.
            let options = Options { crashes: vec![crash], until_settled: true, ..Options::default() };
            check(case, &story, &setup, &baseline, &options);
        }
    }
}

#[test]
fn answers_that_come_twice_or_late_and_crashes_among_them_change_nothing() {
    in_the_background();
    let (first, count) = match std::env::var("SIMULATION_SEED") {
        Ok(seed) => (seed.parse().expect("SIMULATION_SEED is a number"), 1),
        Err(_) => (1, 12),
    };
    for case in &CASES {
        let (story, setup) = case.load();
        let baseline = play(&story, &setup, &Options::default());
        for seed in first..first + count {
            let quiet = Options { seed: Some(seed), ..Options::default() };
            let report = check(case, &story, &setup, &baseline, &quiet);
            let crashes = everywhere(&report);
            // Other crashes for another seed: many of them come up over the seeds, alone and two in one run.
            let pick = |n: u64| crashes[n as usize % crashes.len()];
            for picked in [vec![pick(seed * 7)], vec![pick(seed * 31 + 5), pick(seed * 53 + 11)]] {
                let options = Options { seed: Some(seed), crashes: picked, until_settled: true, ..Options::default() };
                check(case, &story, &setup, &baseline, &options);
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (story, setup) = CASES[0].load();
    let crashes = vec![Crash::Frame { nth: 9, written: true }];
    let options = Options { seed: Some(42), crashes, ..Options::default() };
    let [first, second] = [(); 2].map(|()| play(&story, &setup, &options).render(Detail::Plans));
    assert_eq!(first, second);
    let other = play(&story, &setup, &Options { seed: Some(43), ..options }).render(Detail::Plans);
    assert_ne!(first, other, "a seed that changes nothing tests nothing");
}

fn check(case: &Case, story: &Story, setup: &Setup, baseline: &Report, options: &Options) -> Report {
    let report = play(story, setup, options);
    let told = || {
        format!(
            "{} with {options:?}\n{}\n\nAgain: SIMULATION_SEED={} cargo nextest run simulation",
            case.name,
            report.render(Detail::Story),
            options.seed.unwrap_or(0)
        )
    };
    assert!(report.broken.is_empty(), "{:?}\n{}", report.broken, told());
    assert!(settled(&report.end), "it did not settle\n{}", told());
    assert_eq!(world(&report.end), world(&baseline.end), "another end\n{}", told());
    assert_eq!(report.end.placement, baseline.end.placement, "another placement\n{}", told());
    report
}

/// Every incident has ended, well.
fn settled(end: &End) -> bool {
    end.incidents.values().all(|outcome| matches!(outcome, Some(Outcome::Recovered | Outcome::Unwound)))
}

/// What a client of the deployment can see. Who restarted a pod, and for which incident, is not the point.
fn world(end: &End) -> impl PartialEq + std::fmt::Debug {
    let texts: Vec<(String, String)> = end
        .texts
        .iter()
        .filter(|(place, _)| !place.starts_with("restarted ") && !place.starts_with("dr-mode"))
        .map(|(place, text)| (place.clone(), text.clone()))
        .collect();
    (end.writable.clone(), end.fenced.clone(), end.weights.clone(), end.replicas.clone(), texts)
}

/// Every place where a run like this one can crash.
fn everywhere(report: &Report) -> Vec<Crash> {
    let frames = (0..report.counts.frames).flat_map(|nth| [false, true].map(|written| Crash::Frame { nth, written }));
    let calls = (0..report.counts.calls).flat_map(|nth| [false, true].map(|sent| Crash::Call { nth, sent }));
    let outcomes = (0..report.counts.outcomes).map(|nth| Crash::Outcome { nth });
    let disk = (0..report.counts.frames).flat_map(|nth| [false, true].map(|written| Crash::Disk { nth, written }));
    frames.chain(calls).chain(outcomes).chain(disk).collect()
}

impl Case {
    fn load(&self) -> (Story, Setup) {
        // Half as many probes as usual, which takes half as long, and the time that they cost.
        let fewer = "set probes.interval 10s\nset deployment.failover_within 16m";
        let text = format!("config ../../config/omnimesh.toml\n{fewer}\n{}", self.story);
        let story = parse(&text).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios/story.txt");
        let setup = replay::setup(&path, &story, &[]).unwrap_or_else(|error| panic!("{}: {error:#}", self.name));
        (story, setup)
    }
}

fn play(story: &Story, setup: &Setup, options: &Options) -> Report {
    run(story, setup, options).unwrap_or_else(|error| panic!("{options:?}: {error}"))
}
