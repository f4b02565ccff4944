//! How many inputs a second one core decides on: `Controller::step` over a mixture of answers, failures, flapping,
//! references and deadlines, on a policy with 1,000 instances. Goal: 500,000 a second; fails below half of that.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use failoverd::decide::{Controller, Fact, Frame, Input, ReferenceObservation};
use failoverd::domain::{
    ComponentId, Evidence, Finding, InstanceId, Layer, LedgerId, Now, Observation, Policy, ReferenceId,
};

const INPUTS: usize = 1_000_000;
const INSTANCES: usize = 1_000;
const GOAL_PER_SECOND: f64 = 500_000.0;

fn main() -> ExitCode {
    let policy = policy();
    let instances: Vec<InstanceId> = policy.instances().collect();
    let references: Vec<ReferenceId> = policy.references.keys().cloned().collect();
    let mut controller = controller(policy);
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut inputs = Vec::with_capacity(INPUTS);
    for n in 0..INPUTS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let at = at(n);
        inputs.push((now(at), input(n, at, random, &instances, &references)));
    }
    let mut facts = 0;
    let started = Instant::now();
    for (now, input) in inputs {
        let decision = controller.step(now, input);
        if !decision.record.is_empty() {
            facts += decision.record.len();
            controller.apply(now, &decision.record);
        }
        black_box(decision.perform);
    }
    let took = started.elapsed();
    let per_second = INPUTS as f64 / took.as_secs_f64();
    println!(
        "step: {per_second:.0} inputs/s on one core ({INPUTS} mixed inputs, {} instances, {facts} facts, {:.2} s); goal {GOAL_PER_SECOND:.0}",
        instances.len(),
        took.as_secs_f64(),
    );
    if per_second * 2.0 < GOAL_PER_SECOND { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// One round over all instances a second.
fn at(n: usize) -> Duration {
    Duration::from_secs(1_000) + Duration::from_secs_f64(n as f64 / INSTANCES as f64)
}

fn now(at: Duration) -> Now {
    Now { monotonic: at, wall: jiff::Timestamp::UNIX_EPOCH + at }
}

/// 1 % references, 1 % ticks; of the instances a tenth flaps, a hundredth fails for good, the rest answers.
fn input(n: usize, at: Duration, random: u64, instances: &[InstanceId], references: &[ReferenceId]) -> Input {
    if random.is_multiple_of(100) {
        return Input::ReferenceObserved(ReferenceObservation {
            reference: references[n % references.len()].clone(),
            began: at,
            ended: at,
            answer: Ok(()),
        });
    }
    if random % 100 == 1 {
        return Input::Tick;
    }
    let which = n % instances.len();
    let fails = match which % 100 {
        0 => n > INPUTS / 10,
        1..=10 => random.is_multiple_of(7),
        _ => false,
    };
    let finding = if fails {
        Finding::Failing { layer: Layer::Tcp, why: "connection refused".to_owned() }
    } else {
        Finding::Alive
    };
    let evidence = Evidence { latency: Some(Duration::from_millis(3)), ..Evidence::default() };
    Input::Observed(Observation { instance: instances[which].clone(), began: at, ended: at, finding, evidence })
}

/// The document's policy with HTTP services added until there are 1,000 instances.
fn policy() -> Policy {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/omnimesh.toml");
    let mut policy = failoverd::config::load(&[path], &BTreeMap::new()).expect("the shipped configuration").policy;
    let service = policy.components[&ComponentId::from("api")].clone();
    let mut n = 0;
    while policy.instances().count() < INSTANCES {
        let mut service = service.clone();
        service.independent_evidence = false;
        policy.components.insert(ComponentId::from(format!("service-{n}")), service);
        n += 1;
    }
    policy
}

fn controller(policy: Policy) -> Controller {
    let created = Frame {
        index: 0,
        epoch: 0,
        at: now(Duration::ZERO),
        facts: vec![Fact::LedgerCreated { ledger: LedgerId::from("bench") }],
    };
    let hash = failoverd::config::policy_hash(&policy);
    let mut controller = Controller::recover(policy, hash, [created]).expect("a new ledger");
    let start = now(Duration::from_secs(999));
    let decision = controller.step(start, Input::Restarted);
    controller.apply(start, &decision.record);
    controller
}
