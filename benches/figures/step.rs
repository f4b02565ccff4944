//! How many inputs a second one core decides on: `Controller::step` over a mixture of answers, failures, flapping,
//! not knowing, references, ticks, a regional outage and the outcomes of its plan, on a policy with 1,000 instances.

use std::collections::{BTreeMap, VecDeque};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use failoverd::decide::{Command, Controller, Decision, Effect, Fact, Frame, Input, ReferenceObservation, StepOutcome};
use failoverd::domain::{
    ComponentId, Evidence, Finding, InstanceId, Kind, Layer, LedgerId, Now, Observation, Policy, ReferenceId, RegionId,
    Serving,
};
use failoverd::ports::Look;

use crate::table::{Figure, Goal};

const INPUTS: usize = 1_000_000;
const INSTANCES: usize = 1_000;
/// Each over all inputs; the median counts, because others share the machine.
const ROUNDS: usize = 3;

/// Inputs a second.
pub(crate) fn measure(_folder: &Path) -> Result<Vec<Figure>> {
    let policy = policy()?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(round(&policy)?);
    }
    rounds.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    let (slowest, middle, fastest) = (&rounds[0], &rounds[ROUNDS / 2], &rounds[ROUNDS - 1]);
    let note = format!(
        "{:.0} k to {:.0} k in {ROUNDS} rounds; {} facts, {} outcomes, {} incidents",
        slowest.per_second / 1e3,
        fastest.per_second / 1e3,
        middle.facts,
        middle.outcomes,
        middle.incidents,
    );
    Ok(vec![Figure {
        name: "step".to_owned(),
        what: "Controller::step, 1,000,000 mixed inputs of 1,000 instances".to_owned(),
        value: middle.per_second,
        unit: "inputs/s on one core",
        goal: Some(Goal::AtLeast(500_000.0)),
        note,
    }])
}

struct Round {
    per_second: f64,
    facts: usize,
    outcomes: usize,
    incidents: usize,
}

fn round(policy: &Policy) -> Result<Round> {
    let mix = Mix::new(policy);
    let mut controller = controller(policy.clone())?;
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut inputs = Vec::with_capacity(INPUTS);
    for n in 0..INPUTS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        inputs.push((now(at(n)), mix.input(n, random)));
    }
    let mut outcomes = VecDeque::new();
    let (mut facts, mut incidents, mut answered) = (0, 0, 0);
    let started = Instant::now();
    let began = processor_time()?;
    for (now, input) in inputs {
        // What came of effects is an input like any other.
        while let Some(outcome) = outcomes.pop_front() {
            answered += 1;
            let decision = controller.step(now, outcome);
            carry_out(&mut controller, now, decision, &mut outcomes, &mut facts, &mut incidents);
        }
        let decision = controller.step(now, input);
        carry_out(&mut controller, now, decision, &mut outcomes, &mut facts, &mut incidents);
    }
    // Of this thread alone: on a machine that is shared, a clock on the wall would measure the others.
    let took = processor_time()?.saturating_sub(began);
    ensure!(incidents > 0, "the outage led to no incident: the mixture is not what it says");
    ensure!(started.elapsed() + Duration::from_millis(50) > took, "more processor time than time");
    Ok(Round { per_second: (INPUTS + answered) as f64 / took.as_secs_f64(), facts, outcomes: answered, incidents })
}

/// What the event loop does with a decision, with a world in which everything succeeds at once.
fn carry_out(
    controller: &mut Controller,
    now: Now,
    decision: Decision,
    outcomes: &mut VecDeque<Input>,
    facts: &mut usize,
    incidents: &mut usize,
) {
    let mut decision = decision;
    loop {
        for effect in decision.perform {
            outcomes.extend(outcome(black_box(effect)));
        }
        if decision.record.is_empty() {
            return;
        }
        *facts += decision.record.len();
        *incidents += decision.record.iter().filter(|fact| matches!(fact, Fact::IncidentDeclared { .. })).count();
        controller.apply(now, &decision.record);
        decision = controller.step(now, Input::Tick);
    }
}

fn outcome(effect: Effect) -> Option<Input> {
    match effect {
        Effect::Look { plan, step, .. } => {
            let look = Look { satisfied: false, summary: "not yet".to_owned(), previous: serde_json::Value::Null };
            Some(Input::Looked { plan, step, result: Ok(look) })
        }
        Effect::Perform(task) => Some(Input::Finished {
            plan: task.plan,
            step: task.step,
            attempt: task.attempt,
            outcome: StepOutcome::Reached { note: "reached".to_owned(), acted: true },
        }),
        Effect::Undo { task, .. } => Some(Input::UndoFinished {
            plan: task.plan,
            step: task.step,
            attempt: task.attempt,
            outcome: Ok("undone".to_owned()),
        }),
        Effect::FenceOwed { database, attempt, .. } => {
            Some(Input::OwedFenceFinished { database, attempt, outcome: Ok("fenced".to_owned()) })
        }
        Effect::Verify { check, region, .. } => {
            Some(Input::Verified { check, region, result: Ok("it holds".to_owned()) })
        }
        Effect::Survey | Effect::Claim { .. } => {
            Some(Input::Surveyed { asked: Duration::MAX, claims: BTreeMap::new() })
        }
        Effect::Measure { .. }
        | Effect::Cancel { .. }
        | Effect::Alarm(_)
        | Effect::AlarmCleared { .. }
        | Effect::Reply { .. } => None,
    }
}

/// One round over all instances a second.
fn at(n: usize) -> Duration {
    Duration::from_secs(1_000) + Duration::from_secs_f64(n as f64 / INSTANCES as f64)
}

fn now(at: Duration) -> Now {
    Now { monotonic: at, wall: jiff::Timestamp::UNIX_EPOCH + at }
}

/// The time that this thread has been on a processor, in nanoseconds: the first number in schedstat.
fn processor_time() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let time = text.split_whitespace().next().context("/proc/thread-self/schedstat is empty")?;
    Ok(Duration::from_nanos(time.parse()?))
}

/// What happens when.
struct Mix {
    instances: Vec<(InstanceId, Kind)>,
    references: Vec<ReferenceId>,
    primary: Option<RegionId>,
}

impl Mix {
    fn new(policy: &Policy) -> Self {
        let kind = |id: &InstanceId| policy.components[&id.component].kind;
        Self {
            instances: policy.instances().map(|id| (id.clone(), kind(&id))).collect(),
            references: policy.references.keys().cloned().collect(),
            primary: policy.primary().cloned(),
        }
    }

    /// 1 % references, 1 % ticks. Of the instances a tenth flaps, a hundredth fails for good, a fiftieth is unknown now
    /// and then, the rest answers; and from the middle on, everything that is not a service is lost in the primary region.
    fn input(&self, n: usize, random: u64) -> Input {
        let at = at(n);
        if n == 3 * INSTANCES {
            return Input::Commanded {
                id: 1,
                request: None,
                command: Command::Adopt { by: "bench".into(), placement: BTreeMap::new() },
            };
        }
        // Twice as often as instances, so that they are fresh whatever instance fails.
        if n.is_multiple_of(100) {
            let reference = self.references[n / 100 % self.references.len()].clone();
            return Input::ReferenceObserved(ReferenceObservation { reference, began: at, ended: at, answer: Ok(()) });
        }
        if random % 100 == 1 {
            return Input::Tick;
        }
        let (instance, kind) = &self.instances[n % self.instances.len()];
        let in_primary = self.primary.as_ref() == Some(&instance.region);
        let is_service = instance.component.as_str().starts_with("service-");
        let refused = || Finding::Failing { layer: Layer::Tcp, why: "connection refused".to_owned() };
        let finding = match n % self.instances.len() % 100 {
            _ if !is_service && in_primary && n > INPUTS / 2 => refused(),
            _ if !is_service => Finding::Alive,
            0 if n > INPUTS / 10 => refused(),
            1..=10 if random.is_multiple_of(7) => refused(),
            11 | 12 if random.is_multiple_of(3) => Finding::Unknown { why: "our resolver did not answer".to_owned() },
            _ => Finding::Alive,
        };
        let mut evidence = Evidence { latency: Some(Duration::from_millis(3)), ..Evidence::default() };
        evidence.details.push("status=200".to_owned());
        if matches!(kind, Kind::Database | Kind::Cache) {
            evidence.serving = Some(if in_primary { Serving::Writable } else { Serving::Replica });
            evidence.position = Some(n as u64);
        }
        Input::Observed(Observation { instance: instance.clone(), began: at, ended: at, finding, evidence })
    }
}

/// The document's policy with HTTP services added until there are 1,000 instances, each probed once a second.
fn policy() -> Result<Policy> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/omnimesh.toml");
    let loaded =
        failoverd::config::load(&[path], &BTreeMap::new()).ok().context("config/omnimesh.toml is not valid")?;
    let mut policy = loaded.policy;
    let service = policy.components[&ComponentId::from("api")].clone();
    let mut n = 0;
    while policy.instances().count() < INSTANCES {
        let mut service = service.clone();
        service.independent_evidence = false;
        policy.components.insert(ComponentId::from(format!("service-{n}")), service);
        n += 1;
    }
    for component in policy.components.values_mut() {
        component.probing.interval = Duration::from_secs(1);
        component.probing.timeout = Duration::from_millis(900);
    }
    Ok(policy)
}

fn controller(policy: Policy) -> Result<Controller> {
    let created = Frame {
        index: 0,
        epoch: 0,
        at: now(Duration::ZERO),
        facts: vec![Fact::LedgerCreated { ledger: LedgerId::from("bench") }],
    };
    let hash = failoverd::config::policy_hash(&policy);
    let mut controller = Controller::recover(policy, hash, [created])?;
    let start = now(Duration::from_secs(999));
    let decision = controller.step(start, Input::Restarted);
    controller.apply(start, &decision.record);
    Ok(controller)
}
