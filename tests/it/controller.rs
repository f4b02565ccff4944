//! The controller on the document's own policy, in virtual time, with a world that does what it is asked at once.
#![allow(clippy::wildcard_enum_match_arm, reason = "a world that does the same for every action but one")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use failoverd::decide::{Command, Controller, Effect, Fact, Input, ReferenceObservation, Status, StepOutcome, explain};
use failoverd::domain::{Evidence, Finding, InstanceId, Kind, Layer, LedgerId, Now, Observation, Policy, Serving};
use failoverd::ports::{Claim, Look};

/// A deployment whose instances answer, fail or stay silent as told, probed once a second.
struct World {
    controller: Controller,
    policy: Policy,
    at: Duration,
    failing: BTreeMap<InstanceId, String>,
    references_answer: bool,
    writable: BTreeMap<InstanceId, bool>,
    /// Steps that begin so are not begun, for this reason: the stop file was there.
    put_back: Option<(&'static str, &'static str)>,
    /// The end of steps that begin so is not heard of; they are kept here.
    unheard: Option<&'static str>,
    kept: Vec<failoverd::decide::Task>,
    undone: Vec<String>,
    log: String,
}

impl World {
    fn new() -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/omnimesh.toml");
        let loaded = failoverd::config::load(&[path], &BTreeMap::new()).expect("the document's file is right");
        let policy = loaded.policy;
        let hash = failoverd::config::policy_hash(&policy);
        let created = failoverd::decide::Frame {
            index: 0,
            epoch: 0,
            at: now(Duration::ZERO),
            facts: vec![Fact::LedgerCreated { ledger: LedgerId::from("0190-test") }],
        };
        let controller = Controller::recover(policy.clone(), hash, [created]).expect("a new ledger");
        let mut world = Self {
            controller,
            at: Duration::from_secs(1000),
            failing: BTreeMap::new(),
            references_answer: true,
            writable: policy
                .instances()
                .filter(|id| policy.components[&id.component].kind == Kind::Database)
                .map(|id| (id.clone(), policy.primary() == Some(&id.region)))
                .collect(),
            policy,
            put_back: None,
            unheard: None,
            kept: Vec::new(),
            undone: Vec::new(),
            log: String::new(),
        };
        world.step(Input::Restarted);
        world.run(60);
        world.command(Command::Adopt { by: "test".to_owned(), placement: BTreeMap::new() });
        world.run(10);
        world.log.clear();
        world
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.at += Duration::from_secs(1);
            self.step(Input::Tick);
            let references: Vec<_> = self.policy.references.keys().cloned().collect();
            for reference in references {
                let answer = if self.references_answer { Ok(()) } else { Err("no route".to_owned()) };
                self.step(Input::ReferenceObserved(ReferenceObservation {
                    reference,
                    began: self.at,
                    ended: self.at,
                    answer,
                }));
            }
            let instances: Vec<_> = self.policy.instances().collect();
            for instance in instances {
                let finding = match self.failing.get(&instance) {
                    Some(why) => Finding::Failing { layer: Layer::Tcp, why: why.clone() },
                    None => Finding::Alive,
                };
                let serving = self
                    .writable
                    .get(&instance)
                    .map(|writable| if *writable { Serving::Writable } else { Serving::Replica });
                let position = serving.map(|_| self.at.as_secs() * 1000);
                let evidence = Evidence { serving, position, ..Evidence::default() };
                self.step(Input::Observed(Observation { instance, began: self.at, ended: self.at, finding, evidence }));
            }
        }
    }

    fn command(&mut self, command: Command) {
        self.step(Input::Commanded { id: 1, request: None, command });
    }

    fn step(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let at = now(self.at);
            let decision = self.controller.step(at, input);
            if !decision.record.is_empty() {
                for fact in &decision.record {
                    writeln!(self.log, "{:>6} {fact}", self.at.as_secs()).expect("a string");
                }
                self.controller.apply(at, &decision.record);
                inputs.insert(0, Input::Tick);
            }
            for effect in decision.perform {
                match effect {
                    Effect::Perform(task)
                        if self.put_back.is_some_and(|(step, _)| task.step.as_str().starts_with(step)) =>
                    {
                        let why = self.put_back.map(|(_, why)| why.to_owned()).unwrap_or_default();
                        let (plan, step, attempt) = (task.plan, task.step, task.attempt);
                        let outcome = StepOutcome::NotBegun { stop_file: why.contains("stop file"), why };
                        inputs.insert(0, Input::Finished { plan, step, attempt, outcome });
                    }
                    Effect::Perform(task) if self.unheard.is_some_and(|step| task.step.as_str().starts_with(step)) => {
                        self.kept.push(task);
                    }
                    Effect::Perform(task) => {
                        if let failoverd::plan::Action::DatabasePromoted { database, .. } = &task.action {
                            self.writable.insert(database.clone(), true);
                        }
                        inputs.insert(
                            0,
                            Input::Finished {
                                plan: task.plan,
                                step: task.step,
                                attempt: task.attempt,
                                outcome: StepOutcome::Reached { note: "ok".to_owned(), acted: true },
                            },
                        );
                    }
                    Effect::Undo { task, .. } => {
                        self.undone.push(task.step.to_string());
                        let (plan, step, attempt) = (task.plan, task.step, task.attempt);
                        let outcome = Ok("undone".to_owned());
                        inputs.insert(0, Input::UndoFinished { plan, step, attempt, outcome });
                    }
                    Effect::Look { plan, step, action } => {
                        let result = match action {
                            failoverd::plan::Action::Fenced { database } if self.failing.contains_key(&database) => {
                                Err(failoverd::ports::Setback::Transient("cannot be reached".to_owned()))
                            }
                            _ => Ok(Look {
                                satisfied: false,
                                summary: "as before".to_owned(),
                                previous: serde_json::json!("before"),
                            }),
                        };
                        inputs.insert(0, Input::Looked { plan, step, result });
                    }
                    Effect::Verify { check, region, .. } => {
                        inputs.insert(0, Input::Verified { check, region, result: Ok("it holds".to_owned()) })
                    }
                    Effect::Measure { measure, .. } => {
                        inputs.insert(0, Input::Measured { measure, answer: Err("nobody is asked here".to_owned()) })
                    }
                    Effect::Survey | Effect::Claim { .. } => {
                        inputs.insert(0, Input::Surveyed { asked: self.at, claims: BTreeMap::new() })
                    }
                    Effect::FenceOwed { database, attempt, .. } => inputs
                        .insert(0, Input::OwedFenceFinished { database, attempt, outcome: Ok("fenced".to_owned()) }),
                    Effect::Reply { answer, .. } => {
                        writeln!(self.log, "{:>6} reply {answer:?}", self.at.as_secs()).expect("a string")
                    }
                    Effect::Cancel { .. } | Effect::Alarm(_) | Effect::AlarmCleared { .. } => {}
                }
            }
        }
    }

    fn fail_region(&mut self, region: &str) {
        for id in self.policy.instances().filter(|id| id.region.as_str() == region) {
            self.failing.insert(id, "connection refused".to_owned());
        }
    }

    fn fail(&mut self, instance: &str) {
        self.failing.insert(instance.parse().expect("an instance"), "connection refused".to_owned());
    }

    fn status(&self) -> Status {
        self.controller.status(now(self.at))
    }
}

fn now(at: Duration) -> Now {
    let wall = jiff::Timestamp::from_second(1_790_000_000).expect("in range") + at;
    Now { monotonic: at, wall }
}

#[test]
fn a_regional_outage_moves_everything_once_and_traffic_last() {
    let mut world = World::new();
    world.fail_region("us-east-1");
    world.run(200);
    let position = |text: &str| world.log.find(text).unwrap_or_else(|| panic!("`{text}` is not in\n{}", world.log));
    assert_eq!(world.log.matches("promote-database@us-west-2: started").count(), 1, "{}", world.log);
    assert_eq!(world.log.matches("traffic-traffic: started").count(), 1, "{}", world.log);
    assert!(position("promote-database@us-west-2: done") < position("traffic-traffic: started"), "{}", world.log);
    assert!(position("restart-ai-agents@us-west-2-for-region: done") < position("traffic-traffic: started"));
    assert!(world.status().placement.values().all(|region| region.as_str() == "us-west-2"));
    assert!(explain(&world.status()).contains("database@us-east-1 still has to be fenced"));
}

#[test]
fn a_short_outage_of_the_cluster_is_undone() {
    let mut world = World::new();
    world.fail("kubernetes@us-east-1");
    world.run(45);
    assert!(world.log.contains("scale-ai-agents@us-west-2: done"), "{}", world.log);
    world.failing.clear();
    world.run(60);
    assert!(world.log.contains("scale-ai-agents@us-west-2: undone"), "{}", world.log);
    assert!(world.log.contains("inc-1 closed: unwound"), "{}", world.log);
    assert!(!world.log.contains("traffic-traffic: started"), "{}", world.log);
}

#[test]
fn an_own_network_that_is_down_is_no_outage() {
    let mut world = World::new();
    world.references_answer = false;
    for region in ["us-east-1", "us-west-2", "eu-west-1"] {
        world.fail_region(region);
    }
    world.run(900);
    assert!(!world.log.contains("declared"), "{}", world.log);
    assert!(explain(&world.status()).contains("may be this observer's own network"), "{}", explain(&world.status()));
}

#[test]
fn an_old_primary_that_comes_back_is_fenced() {
    let mut world = World::new();
    world.fail_region("us-east-1");
    world.run(200);
    world.failing.clear();
    world.run(5);
    assert!(world.log.contains("database@us-east-1: fenced") || world.status().owed_fences.is_empty(), "{}", world.log);
    assert!(world.status().owed_fences.is_empty());
}

const STOP_FILE: &str = "the stop file /etc/failoverd/STOP is there; remove it to go on";

#[test]
fn a_promotion_of_which_nothing_was_sent_is_judged_again_however_often_it_was_put_back() {
    for times in 1..4 {
        let mut world = World::new();
        world.fail("database@us-east-1");
        world.put_back = Some(("promote", STOP_FILE));
        world.run(299);
        for n in 0..times {
            // The file is put there within the second before the step begins.
            world.step(Input::Stopped(None));
            world.run(if n == 0 { 3 } else { 1 });
            world.step(Input::Stopped(Some(STOP_FILE.to_owned())));
            world.run(60);
        }
        let put_back = world.log.matches("promote-database@us-west-2: nothing was sent").count();
        assert!(put_back >= times, "{put_back}: {}", world.log);
        // The database is back, and has been for long, when the file is removed for good.
        world.failing.clear();
        world.run(120);
        world.put_back = None;
        world.step(Input::Stopped(None));
        world.run(60);
        assert!(!world.log.contains("database is served in us-west-2"), "put back {times} times:\n{}", world.log);
        assert!(world.log.contains("inc-1 closed: unwound"), "put back {times} times:\n{}", world.log);
    }
}

#[test]
fn what_never_acted_is_not_undone() {
    let mut world = World::new();
    world.fail("kubernetes@us-east-1");
    world.put_back = Some(("scale", STOP_FILE));
    world.run(33);
    world.step(Input::Stopped(Some(STOP_FILE.to_owned())));
    assert!(world.log.contains("scale-ai-agents@us-west-2: nothing was sent"), "{}", world.log);
    world.failing.clear();
    world.run(60);
    world.step(Input::Stopped(None));
    world.run(60);
    assert!(world.log.contains("inc-1 closed: unwound"), "{}", world.log);
    assert!(!world.undone.iter().any(|step| step.starts_with("scale")), "{:?}", world.undone);
}

#[test]
fn a_pause_that_put_a_step_back_is_no_stop_file() {
    let mut world = World::new();
    world.fail("database@us-east-1");
    world.put_back = Some(("promote", "paused by alice"));
    world.run(299);
    let until = now(world.at).wall + Duration::from_secs(600);
    world.command(Command::Pause { by: "alice".to_owned(), until, reason: String::new() });
    world.run(5);
    assert!(!world.status().headline.contains("STOPPED"), "{}", world.status().headline);
    assert!(!explain(&world.status()).contains("removing the stop file"), "{}", explain(&world.status()));
}

#[test]
fn a_claim_whose_cluster_cannot_be_read_any_more_still_holds() {
    let mut world = World::new();
    let claimed = |world: &World| world.controller.standstill(now(world.at)).claimed;
    let see = |world: &mut World, claims: &[(&str, Option<Claim>)]| {
        world.run(15);
        let claims = claims.iter().map(|(region, claim)| ((*region).into(), claim.clone())).collect();
        world.step(Input::ClaimsSeen { asked: world.at, claims });
    };
    let stranger = Claim { ledger: "0190-another".into(), term: None, holder: "somebody".to_owned() };
    see(&mut world, &[("us-east-1", None), ("us-west-2", Some(stranger))]);
    assert!(claimed(&world).is_some_and(|why| why.contains("us-west-2")));
    // The cluster that is claimed does not answer, and another one does.
    see(&mut world, &[("us-east-1", None)]);
    assert!(claimed(&world).is_some_and(|why| why.contains("us-west-2")), "a look without an answer took it back");
    assert_eq!(world.controller.is_in_charge(), Some(false));
    // Nor does another daemon's term take it back.
    world.controller.step_down();
    assert_eq!(world.controller.is_in_charge(), Some(false));
    world.step(Input::Elected { epoch: 7 });
    see(&mut world, &[("us-east-1", None), ("us-west-2", None)]);
    assert_eq!((claimed(&world), world.controller.is_in_charge()), (None, Some(true)));
}

#[test]
fn what_an_earlier_term_gave_up_does_not_end_a_step_of_this_one() {
    let mut world = World::new();
    world.unheard = Some("promote");
    world.fail_region("us-east-1");
    world.run(200);
    let task = world.kept.pop().expect("the promotion is under way");
    world.controller.step_down();
    world.step(Input::Elected { epoch: 7 });
    let (plan, step, attempt) = (task.plan.clone(), task.step.clone(), task.attempt);
    world.step(Input::Finished { plan, step, attempt, outcome: StepOutcome::Cancelled });
    assert!(!world.log.contains("promote-database@us-west-2: cancelled"), "{}", world.log);
    world.unheard = None;
    world.run(60);
    assert!(world.log.contains("promote-database@us-west-2: done"), "{}", world.log);
}

/// The answer of the leader that took it in may be lost, and the order stays in the ledger then.
#[test]
fn an_order_that_a_former_leader_took_is_not_taken_again_by_the_next_one() {
    let mut world = World::new();
    let hold = |id| Input::Commanded {
        id,
        request: Some("00000000000000000001-failoverd-us-west-2-7".to_owned()),
        command: Command::Resume { by: "ada".to_owned() },
    };
    let until = now(world.at).wall + Duration::from_secs(600);
    let pause = || Command::Pause { by: "ada".to_owned(), until, reason: "maintenance".to_owned() };
    world.command(pause());
    world.step(hold(2));
    assert!(world.log.contains("order 00000000000000000001-failoverd-us-west-2-7 taken"), "{}", world.log);
    world.command(pause());
    world.log.clear();
    world.step(hold(3));
    assert!(!world.log.contains("resumed"), "what another one has paused since stays paused: {}", world.log);
}
