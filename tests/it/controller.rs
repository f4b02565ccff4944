//! The controller on the document's own policy, in virtual time, with a world that does what it is asked at once.
#![allow(clippy::wildcard_enum_match_arm, reason = "a world that does the same for every action but one")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use failoverd::decide::{Command, Controller, Effect, Fact, Input, ReferenceObservation, Status, StepOutcome, explain};
use failoverd::domain::{Evidence, Finding, InstanceId, Kind, Layer, LedgerId, Now, Observation, Policy, Serving};
use failoverd::ports::Look;

/// A deployment whose instances answer, fail or stay silent as told, probed once a second.
struct World {
    controller: Controller,
    policy: Policy,
    at: Duration,
    failing: BTreeMap<InstanceId, String>,
    references_answer: bool,
    writable: BTreeMap<InstanceId, bool>,
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
        self.step(Input::Commanded { id: 1, command });
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
                    Effect::Undo { task, .. } => inputs.insert(
                        0,
                        Input::UndoFinished {
                            plan: task.plan,
                            step: task.step,
                            attempt: task.attempt,
                            outcome: Ok("undone".to_owned()),
                        },
                    ),
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
                    Effect::Survey | Effect::Claim { .. } => {
                        inputs.insert(0, Input::Surveyed { claims: BTreeMap::new() })
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
