//! Whether an automatic failover can keep its promise: detection, waits, the longest way through the plan, and what
//! resolvers remember, against `failover_within`.
//!
//! Deliberately the worst case that the configuration allows: every step takes all of its deadline. A plan that fits here
//! may still be late, but then a step was `Stuck` and somebody was paged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::{Action, BadPlan, NoPlan, Part, Purpose, Situation, Step, check, plan};
use crate::domain::time::friendly;
use crate::domain::{ComponentId, ComponentPolicy, IncidentId, InstanceId, Kind, Policy, RegionId, Role, StepId};

/// Waits that do not depend on the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    /// Until an observer has told the others what it sees; zero for a single one.
    pub ballots: Duration,
    /// A region that is cut off is given this long to stop by itself; zero where no role is served.
    pub self_fence: Duration,
    /// One takeover or restart: until a lease has run out, and the longest call that a predecessor may have under way.
    pub takeover: Duration,
}

/// What would be done about the failing of a part while everything is served in the primary region.
#[derive(Debug, Clone)]
pub struct Answer {
    /// A component's row, or the whole region.
    pub part: Part,
    /// The steps, or why there are none.
    pub steps: Result<Vec<Step>, Unanswered>,
}

/// Why there is no usable plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// Nothing to be done.
    #[error(transparent)]
    NoPlan(#[from] NoPlan),
    /// It could not be carried out.
    #[error(transparent)]
    BadPlan(#[from] BadPlan),
}

/// The answers to everything that may be answered automatically: every row of the matrix, the regional outage, the service
/// degradation where a share of the traffic is rerouted, and a workload that is healed and a zone that is lost where those
/// are on.
pub fn answers(policy: &Policy) -> Vec<Answer> {
    let Some(source) = policy.primary() else { return vec![] };
    let in_primary = || policy.components.iter().filter(|(_, component)| component.regions.contains(source));
    let rows = in_primary().filter(|(_, component)| component.row.is_some());
    let parts = rows.map(|(id, _)| Part::Component(id.clone()));
    let regional = in_primary().any(|(_, component)| component.critical).then_some(Part::Region);
    let reroute = (policy.degradation.reroute_percent > 0).then_some(Part::Reroute);
    // One workload stands for all of them: their steps are the same.
    let healing = policy.of_kind(Kind::Kubernetes).filter(|_| policy.healing.enabled).find_map(|(cluster, of)| {
        let workload = of.workloads.first().filter(|_| of.regions.contains(source))?.name.clone();
        Some(Part::Healing { cluster: cluster.clone(), workload })
    });
    let zone = policy.of_kind(Kind::Kubernetes).filter(|_| policy.zones.enabled).find_map(|(cluster, of)| {
        let zone = Part::Zone { cluster: cluster.clone(), zone: "zone".to_owned() };
        of.regions.contains(source).then_some(zone)
    });
    parts
        .chain(regional)
        .chain(reroute)
        .chain(healing)
        .chain(zone)
        .map(|part| Answer { steps: answer(policy, source, &part), part })
        .collect()
}

fn answer(policy: &Policy, source: &RegionId, part: &Part) -> Result<Vec<Step>, Unanswered> {
    let placement = policy
        .components
        .iter()
        .filter(|(_, component)| component.regions.contains(source))
        .map(|(id, _)| (id.clone(), source.clone()))
        .collect();
    let is_lost = |instance: &InstanceId| match part {
        Part::Component(component) => instance.component == *component && instance.region == *source,
        Part::Region => instance.region == *source,
        Part::Reroute | Part::Healing { .. } | Part::Zone { .. } | Part::Rejoin { .. } => false,
    };
    let alive = policy.instances().filter(|instance| !is_lost(instance)).collect();
    let situation = Situation {
        policy,
        placement: &placement,
        source,
        purpose: Purpose::Failover,
        incident: &IncidentId::from("budget"),
        alive: &alive,
        existing: &BTreeSet::new(),
        begun: &BTreeSet::new(),
    };
    let steps = plan(situation, part)?.steps;
    check(&steps)?;
    Ok(steps)
}

/// A stretch of the longest way through a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leg {
    /// The step.
    pub step: StepId,
    /// What it brings about, for people.
    pub what: String,
    /// The key under `[deadlines]` that it takes its deadline from.
    pub deadline_key: &'static str,
    /// Waiting for `confirm_for` before it may start.
    #[serde(with = "friendly")]
    pub waiting: Duration,
    /// Its deadline.
    #[serde(with = "friendly")]
    pub deadline: Duration,
}

/// One row of the budget. The parts add up to `total`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BudgetRow {
    /// What fails.
    pub part: Part,
    /// From the beginning of the first failing probe to the end of the one that fills the window.
    #[serde(with = "friendly")]
    pub detection: Duration,
    /// Self-fencing and one takeover.
    #[serde(with = "friendly")]
    pub waits: Duration,
    /// The longest way through the plan.
    pub path: Vec<Leg>,
    /// All of it: waiting and deadlines.
    #[serde(with = "friendly")]
    pub execution: Duration,
    /// What resolvers may remember of the old answer; zero where no traffic moves.
    #[serde(with = "friendly")]
    pub ttl: Duration,
    /// The sum.
    #[serde(with = "friendly")]
    pub total: Duration,
    /// What it has to fit in.
    #[serde(with = "friendly")]
    pub limit: Duration,
    /// Why there is no plan; its parts are empty then.
    pub unanswered: Option<String>,
}

impl BudgetRow {
    /// The promise can be kept.
    pub fn fits(&self) -> bool {
        self.unanswered.is_none() && self.total <= self.limit
    }

    /// What is left of the promise; none where it is broken.
    pub fn left(&self) -> Option<Duration> {
        self.limit.checked_sub(self.total)
    }

    /// `database`, `regional outage`, `degradation`, `healing`, or `data centre`.
    pub fn name(&self) -> String {
        match &self.part {
            Part::Component(component) => component.to_string(),
            Part::Region => "regional outage".to_owned(),
            Part::Reroute => "degradation".to_owned(),
            Part::Healing { .. } => "healing".to_owned(),
            Part::Zone { .. } => "data centre".to_owned(),
            Part::Rejoin { .. } => "rejoin".to_owned(),
        }
    }

    /// What takes the longest, the longest first: where to look when a row does not fit. Steps that share a deadline
    /// are counted together.
    pub fn dominating(&self) -> Vec<(&'static str, Duration)> {
        let mut sums: BTreeMap<&'static str, Duration> = BTreeMap::new();
        for leg in &self.path {
            *sums.entry(leg.deadline_key).or_default() += leg.deadline;
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by_key(|(key, sum)| (std::cmp::Reverse(*sum), *key));
        sums
    }
}

/// The budget of every answer, in the order given.
pub fn budget(policy: &Policy, waits: Waits, answers: &[Answer]) -> Vec<BudgetRow> {
    answers.iter().map(|answer| row(policy, waits, answer)).collect()
}

fn row(policy: &Policy, waits: Waits, answer: &Answer) -> BudgetRow {
    let detection = detection(policy, &answer.part);
    let waits = waits.ballots + waits.self_fence + waits.takeover;
    let start = detection + waits;
    let steps = answer.steps.as_deref().unwrap_or_default();
    let path = longest_way(policy, start, steps);
    let execution = path.iter().map(|leg| leg.waiting + leg.deadline).sum();
    let ttl = steps.iter().filter_map(|step| ttl_of(policy, &step.action)).max().unwrap_or_default();
    let total = start + execution + ttl;
    let limit = policy.failover_within;
    let unanswered = answer.steps.as_ref().err().map(ToString::to_string);
    BudgetRow { part: answer.part.clone(), detection, waits, path, execution, ttl, total, limit, unanswered }
}

fn ttl_of(policy: &Policy, action: &Action) -> Option<Duration> {
    match action {
        Action::Traffic { traffic, .. } => policy.components.get(traffic).map(|traffic| traffic.ttl),
        Action::IncidentDeclared { .. }
        | Action::Replicas { .. }
        | Action::Fenced { .. }
        | Action::DatabasePromoted { .. }
        | Action::CaughtUp { .. }
        | Action::Rejoined { .. }
        | Action::Protected { .. }
        | Action::Published { .. }
        | Action::RolledOut { .. }
        | Action::CacheActive { .. }
        | Action::StorageReachable { .. }
        | Action::Manifests { .. }
        | Action::Restored { .. }
        | Action::ManifestsRemoved { .. }
        | Action::IncidentEnded { .. }
        | Action::Verified { .. } => None,
    }
}

/// The window of the row, and the probe that is under way when it is full.
fn detection(policy: &Policy, part: &Part) -> Duration {
    match part {
        Part::Component(component) => policy.components.get(component).map_or(Duration::ZERO, |component| {
            component.row.map_or(Duration::ZERO, |row| row.after) + last_probe(component)
        }),
        Part::Region => {
            let primary = policy.region_with(Role::Primary);
            let slowest = policy
                .components
                .values()
                .filter(|component| component.critical || component.independent_evidence)
                .filter(|component| primary.is_some_and(|region| component.regions.contains(region)))
                .map(last_probe)
                .max();
            policy.regional.after + slowest.unwrap_or_default()
        }
        Part::Reroute => {
            let slowest =
                policy.components.values().filter(|component| component.answers_clients()).map(last_probe).max();
            policy.degradation.after + slowest.unwrap_or_default()
        }
        Part::Healing { cluster, .. } => {
            policy.healing.after + policy.components.get(cluster).map(last_probe).unwrap_or_default()
        }
        Part::Zone { cluster, .. } => {
            policy.zones.after + policy.components.get(cluster).map(last_probe).unwrap_or_default()
        }
        // A person orders it.
        Part::Rejoin { .. } => Duration::ZERO,
    }
}

fn last_probe(component: &ComponentPolicy) -> Duration {
    component.probing.interval + component.probing.timeout
}

/// When a step is done at the latest, and what it waited for.
#[derive(Clone)]
struct Done {
    at: Duration,
    waiting: Duration,
    after: Option<usize>,
}

/// The chain of steps that ends last when each takes all of its deadline. It does not end with a step against the region
/// that is being left, which is owed rather than waited for, nor with what protects from the next loss: clients are served by
/// then.
fn longest_way(policy: &Policy, start: Duration, steps: &[Step]) -> Vec<Leg> {
    let ids: BTreeMap<&StepId, usize> = steps.iter().enumerate().map(|(n, step)| (&step.id, n)).collect();
    let mut done: Vec<Option<Done>> = vec![None; steps.len()];
    // Every round finishes at least one step, because plans with steps that wait for each other are refused.
    loop {
        let mut progress = false;
        for (n, step) in steps.iter().enumerate() {
            if done[n].is_some() {
                continue;
            }
            let before: Option<Vec<(usize, Duration)>> = step
                .after
                .iter()
                .filter_map(|id| ids.get(id).copied())
                .map(|n| done[n].as_ref().map(|done| (n, done.at)))
                .collect();
            let Some(before) = before else { continue };
            let last = before.into_iter().max_by_key(|(n, at)| (*at, std::cmp::Reverse(*n)));
            let ready = last.map_or(start, |(_, at)| at);
            let confirmed = step.confirm.as_ref().map_or(Duration::ZERO, |confirm| {
                let probe = policy.components.get(&confirm.instance.component).map(last_probe);
                confirm.lasting + probe.unwrap_or_default()
            });
            let waiting = confirmed.saturating_sub(ready);
            let at = ready + waiting + step.deadline;
            done[n] = Some(Done { at, waiting, after: last.map(|(n, _)| n) });
            progress = true;
        }
        if !progress {
            break;
        }
    }
    let mut at = (0..steps.len())
        .filter(|n| !steps[*n].best_effort && !matches!(steps[*n].action, Action::Protected { .. }))
        .filter_map(|n| done[n].as_ref().map(|done| (done.at, std::cmp::Reverse(n))))
        .max()
        .map(|(_, n)| n.0);
    let mut path = vec![];
    while let Some(n) = at {
        let Some(Done { waiting, after, .. }) = done[n].clone() else { break };
        path.push(Leg {
            step: steps[n].id.clone(),
            what: steps[n].action.to_string(),
            deadline_key: deadline_key(policy, &steps[n]),
            waiting,
            deadline: steps[n].deadline,
        });
        at = after;
    }
    path.reverse();
    path
}

/// The key under `[deadlines]` that a step takes its deadline from.
pub fn deadline_key(policy: &Policy, step: &Step) -> &'static str {
    let managed = |component: &ComponentId| policy.components.get(component).is_some_and(|component| component.managed);
    match &step.action {
        Action::IncidentDeclared { .. } | Action::IncidentEnded { .. } => "declare",
        Action::Replicas { .. } if matches!(step.part, Part::Zone { .. }) => "reschedule",
        Action::Replicas { .. } => "replicas",
        Action::Fenced { database } if managed(&database.component) => "fence_managed",
        Action::Fenced { .. } => "fence",
        Action::DatabasePromoted { database, .. } if managed(&database.component) => "promote_managed",
        Action::DatabasePromoted { .. } => "promote",
        Action::CaughtUp { .. } => "catch_up",
        Action::Rejoined { .. } => "rejoin",
        Action::Protected { .. } => "protect",
        Action::Published { .. } | Action::Restored { .. } => "publish",
        Action::RolledOut { .. } => "rollout",
        Action::CacheActive { cache, .. } if managed(&cache.component) => "cache_managed",
        Action::CacheActive { .. } => "cache",
        Action::StorageReachable { .. } => "storage",
        Action::Traffic { .. } => "traffic",
        Action::Manifests { .. } | Action::ManifestsRemoved { .. } => "manifests",
        Action::Verified { .. } => "verify",
    }
}

/// A control plane that a failover calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dependency {
    /// `Route 53`, `RDS`, `Kubernetes API`.
    pub service: &'static str,
    /// Where its control plane answers.
    pub region: RegionId,
    /// What is asked of it.
    pub purposes: BTreeSet<&'static str>,
    /// The answer to the loss of the primary region needs it, and it lives there: it may be gone exactly when it is
    /// needed.
    pub lost_when_needed: bool,
}

/// The control planes that the answers call, for people to judge.
pub fn dependencies(policy: &Policy, answers: &[Answer]) -> Vec<Dependency> {
    let primary = policy.primary();
    let mut found: BTreeMap<(&'static str, RegionId), Dependency> = BTreeMap::new();
    for answer in answers {
        for step in answer.steps.iter().flatten() {
            let Some((service, region, purpose)) = dependency_of(policy, &step.action) else { continue };
            let lost = answer.part == Part::Region && Some(&region) == primary && !step.best_effort;
            let dependency = found.entry((service, region.clone())).or_insert_with(|| Dependency {
                service,
                region,
                purposes: BTreeSet::new(),
                lost_when_needed: false,
            });
            dependency.purposes.insert(purpose);
            dependency.lost_when_needed |= lost;
        }
    }
    found.into_values().collect()
}

fn dependency_of(policy: &Policy, action: &Action) -> Option<(&'static str, RegionId, &'static str)> {
    let managed = |component: &ComponentId| policy.components.get(component).is_some_and(|c| c.managed);
    let kubernetes = |cluster: &InstanceId, purpose| Some(("Kubernetes API", cluster.region.clone(), purpose));
    match action {
        Action::DatabasePromoted { database, .. } if managed(&database.component) => {
            Some(("RDS", database.region.clone(), "promote the read replica"))
        }
        Action::Fenced { database } if managed(&database.component) => {
            Some(("RDS", database.region.clone(), "fence the old primary where it can be reached"))
        }
        Action::Protected { database, .. } => {
            Some(("RDS", database.region.clone(), "give the promoted database backups and a standby"))
        }
        Action::CacheActive { cache, .. } if managed(&cache.component) => {
            Some(("ElastiCache", cache.region.clone(), "activate the backup cluster"))
        }
        Action::Traffic { traffic, .. } => {
            let region = policy.components.get(traffic)?.control_plane.clone()?;
            Some(("Route 53", region, "change the records"))
        }
        Action::IncidentDeclared { cluster, .. } => kubernetes(cluster, "declare"),
        Action::Replicas { cluster, .. } => kubernetes(cluster, "scale"),
        Action::Published { cluster, .. } => kubernetes(cluster, "publish"),
        Action::RolledOut { cluster, .. } => kubernetes(cluster, "restart"),
        Action::Manifests { cluster, .. } => kubernetes(cluster, "apply manifests"),
        Action::Restored { cluster, .. } => kubernetes(cluster, "restore settings"),
        Action::ManifestsRemoved { cluster, .. } => kubernetes(cluster, "remove manifests"),
        Action::IncidentEnded { cluster, .. } => kubernetes(cluster, "declare"),
        // The data plane of the service itself, which a failover cannot do without.
        Action::DatabasePromoted { .. }
        | Action::CaughtUp { .. }
        | Action::Rejoined { .. }
        | Action::Fenced { .. }
        | Action::CacheActive { .. }
        | Action::StorageReachable { .. }
        | Action::Verified { .. } => None,
    }
}
