//! What is typed when the glass is broken accepts what was shown for each database, and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a world that does the same for every action but two")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use failoverd::decide::{Accepted, Command, Decision, Effect, Input, StepOutcome};
use failoverd::domain::{
    ComponentId, Evidence, Finding, InstanceId, Kind, Layer, Observation, Serving, UnfencedPromotion,
};
use failoverd::plan::Action;
use failoverd::ports::Look;

use crate::break_glass::{BESIDE, World, answer};

const ANY: Option<Duration> = None;

#[test]
fn no_database_is_promoted_beside_an_old_primary_that_answers() {
    let mut glass = Glass::broken(["database"], [("database", true, ANY), ("orders", true, ANY)]);
    glass.run(120);
    assert!(!glass.promoted().contains(&"orders@us-west-2"), "{}", glass.guards());
    assert!(glass.guards().contains("orders@us-east-1 answers and is not fenced"), "{}", glass.guards());
    assert!(!glass.guards().contains("--accept-unfenced"), "nobody can accept that: {}", glass.guards());
    glass.approve(true, ANY);
    glass.run(120);
    assert!(!glass.promoted().contains(&"orders@us-west-2"), "{}", glass.guards());
    // It does not answer any more, and that had been accepted.
    glass.silent.insert("orders@us-east-1".parse().unwrap());
    glass.run(120);
    assert_eq!(glass.promoted(), ["database@us-west-2", "orders@us-west-2"], "{}", glass.guards());
}

#[test]
fn a_missing_fence_is_accepted_for_the_database_that_it_was_shown_for() {
    let mut glass = Glass::broken(["database", "orders"], [("database", true, ANY), ("orders", false, ANY)]);
    glass.run(120);
    assert!(!glass.promoted().contains(&"orders@us-west-2"), "{}", glass.guards());
    assert!(glass.guards().contains("orders@us-east-1 could not be reached to be fenced"), "{}", glass.guards());
    assert!(glass.guards().contains("--accept-unfenced"), "{}", glass.guards());
    glass.approve(true, ANY);
    glass.run(120);
    assert_eq!(glass.promoted(), ["database@us-west-2", "orders@us-west-2"], "{}", glass.guards());
}

#[test]
fn a_loss_is_accepted_for_the_database_that_it_was_shown_for() {
    let shown = Some(Duration::from_secs(1));
    let mut glass = Glass::broken(["database", "orders"], [("database", true, ANY), ("orders", true, shown)]);
    glass.run(120);
    assert!(!glass.promoted().contains(&"orders@us-west-2"), "{}", glass.guards());
    assert!(glass.guards().contains("how much promoting orders@us-west-2 would lose"), "{}", glass.guards());
    assert!(!glass.guards().contains("how much promoting database@us-west-2 would lose"), "{}", glass.guards());
    glass.approve(false, Some(Duration::from_secs(3600)));
    glass.run(120);
    assert!(!glass.promoted().contains(&"orders@us-west-2"), "nobody knows that it is less than an hour");
    glass.approve(false, Some(Duration::from_secs(24 * 3600)));
    glass.run(120);
    assert_eq!(glass.promoted(), ["database@us-west-2", "orders@us-west-2"], "{}", glass.guards());
}

/// The glass is broken for us-east-1, with two databases; the fence of `orders` is refused.
struct Glass {
    world: World,
    silent: BTreeSet<InstanceId>,
    promoted: BTreeSet<String>,
}

impl Glass {
    fn broken<const N: usize>(silent: [&str; N], accepted: [(&str, bool, Option<Duration>); 2]) -> Self {
        let mut policy = World::policy();
        let mut database = policy.components[&ComponentId::from("database")].clone();
        database.unfenced_promotion = UnfencedPromotion::Approve;
        for name in ["database", "orders"] {
            policy.components.insert(name.into(), database.clone());
        }
        let silent = silent.map(|name| InstanceId::new(name, "us-east-1")).into();
        let mut glass = Self { world: World::of(policy, BESIDE, &[]), silent, promoted: BTreeSet::new() };
        glass.run(5);
        let steps = glass.world.steps_of("us-east-1");
        let mut order = glass.world.order(steps);
        let accepted =
            accepted.map(|(name, unfenced, loss)| (InstanceId::new(name, "us-west-2"), Accepted { unfenced, loss }));
        order.accepted = accepted.into();
        let decision = glass.world.command(Command::BreakGlass(Box::new(order)));
        assert!(answer(&decision).is_ok(), "{:?}", answer(&decision));
        glass.obey(decision);
        glass
    }

    /// Everything is observed once a second.
    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.world.at += Duration::from_secs(1);
            let decision = self.world.step(Input::Tick);
            self.obey(decision);
            for instance in self.world.policy.instances().collect::<Vec<_>>() {
                let is_silent = self.silent.contains(&instance);
                let finding = match is_silent {
                    true => Finding::Failing { layer: Layer::Greeting, why: "no answer".to_owned() },
                    false => Finding::Alive,
                };
                let is_database = self.world.policy.components[&instance.component].kind == Kind::Database;
                let serving = match instance.region.as_str() {
                    "us-east-1" => Serving::Writable,
                    _ if self.promoted.contains(&instance.to_string()) => Serving::Writable,
                    _ => Serving::Replica,
                };
                let evidence = Evidence { serving: is_database.then_some(serving), ..Evidence::default() };
                let evidence = if is_silent { Evidence::default() } else { evidence };
                let (began, ended) = (self.world.at, self.world.at);
                let observed = Observation { instance, began, ended, finding, evidence };
                let decision = self.world.step(Input::Observed(observed));
                self.obey(decision);
            }
        }
    }

    /// Does what is asked at once.
    fn obey(&mut self, decision: Decision) {
        let mut decisions = vec![decision];
        while let Some(decision) = decisions.pop() {
            if !decision.record.is_empty() {
                decisions.push(self.world.step(Input::Tick));
            }
            for effect in decision.perform {
                let input = match effect {
                    Effect::Perform(task) => {
                        let outcome = match &task.action {
                            Action::Fenced { database } if database.component.as_str() == "orders" => {
                                StepOutcome::Failed { why: "refused: not the owner".to_owned() }
                            }
                            Action::DatabasePromoted { database, .. } => {
                                self.promoted.insert(database.to_string());
                                StepOutcome::Reached { note: "ok".to_owned(), acted: true }
                            }
                            _ => StepOutcome::Reached { note: "ok".to_owned(), acted: true },
                        };
                        Input::Finished { plan: task.plan, step: task.step, attempt: task.attempt, outcome }
                    }
                    Effect::Look { plan, step, action } => {
                        let result = match action {
                            Action::Fenced { database } if self.silent.contains(&database) => {
                                Err(failoverd::ports::Setback::Transient("cannot be reached".to_owned()))
                            }
                            _ => Ok(Look {
                                satisfied: false,
                                summary: "as before".to_owned(),
                                previous: serde_json::json!("before"),
                            }),
                        };
                        Input::Looked { plan, step, result }
                    }
                    Effect::Survey | Effect::Claim { .. } => {
                        Input::Surveyed { asked: self.world.at, claims: BTreeMap::new() }
                    }
                    _ => continue,
                };
                decisions.push(self.world.step(input));
            }
        }
    }

    /// A person accepts more by hand.
    fn approve(&mut self, accept_unfenced: bool, accept_loss: Option<Duration>) {
        let incident = self.world.controller.status(self.world.now()).incidents[0].incident.clone();
        let order = Command::Approve { by: "alice".into(), incident, hash: None, accept_unfenced, accept_loss };
        let decision = self.world.command(order);
        assert!(answer(&decision).is_ok(), "{:?}", answer(&decision));
        self.obey(decision);
    }

    fn promoted(&self) -> Vec<&str> {
        self.promoted.iter().map(String::as_str).collect()
    }

    fn guards(&self) -> String {
        let status = self.world.controller.status(self.world.now());
        let steps = status.incidents.iter().flat_map(|incident| &incident.steps);
        let told = steps.flat_map(|step| {
            step.guards.iter().map(|guard| format!("{}: {}; {}\n", step.step, guard.evidence, guard.lifted_by))
        });
        told.collect()
    }
}
