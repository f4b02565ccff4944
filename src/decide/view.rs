//! The status: what the controller knows, arranged for people and programs.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::controller::{Controller, Draft};
use super::incident::Incident;
use super::judge::initial_placement;
use super::{
    Guard, GuardKind, IncidentStatus, InstanceStatus, Outcome, PendingStatus, ReferenceStatus, Status, StepState,
    StepStatus, Times, VerdictKind,
};
use crate::domain::{ComponentId, IncidentId, InstanceId, Kind, Mode, Now, RegionId, time::human};
use crate::health::{Loss, Watch};
use crate::plan::{self, NoPlan, Part, Purpose, Situation, Step};

/// What a dry run is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The whole region is lost.
    Region(RegionId),
    /// One component fails where it is served.
    Component(ComponentId),
    /// Nothing fails: everything that the region serves is moved by plan, or one component.
    Switchover {
        /// Region that is left.
        region: RegionId,
        /// Only this component.
        component: Option<ComponentId>,
    },
    /// What answers the clients of the region is only partly there.
    Degradation(RegionId),
    /// A workload lacks replicas where it serves.
    Workload(String),
    /// A zone of the region is down.
    Zone {
        /// Where.
        region: RegionId,
        /// Which.
        zone: String,
    },
    /// An old primary becomes a standby.
    Rejoin(InstanceId),
    /// Everything goes back to the primary region.
    Failback,
}

impl Scope {
    /// What the part would be planned for.
    pub fn of(source: &RegionId, part: &Part) -> Self {
        match part {
            Part::Region => Self::Region(source.clone()),
            Part::Component(component) => Self::Component(component.clone()),
            Part::Reroute => Self::Degradation(source.clone()),
            Part::Healing { workload, .. } => Self::Workload(workload.clone()),
            Part::Zone { zone, .. } => Self::Zone { region: source.clone(), zone: zone.clone() },
            Part::Rejoin { database } => {
                Self::Rejoin(InstanceId { component: database.clone(), region: source.clone() })
            }
        }
    }
}

/// The plan that would be made, and what speaks against it now.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct DryRun {
    /// Region that is left.
    pub source: RegionId,
    /// Region that takes over.
    pub target: RegionId,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// The hash that an approval would bind to.
    pub hash: String,
    /// What a careful person would ask about.
    pub warnings: Vec<String>,
    /// What holds now.
    pub guards: Vec<Guard>,
}

impl Controller {
    /// Everything at a glance.
    pub fn status(&self, now: Now) -> Status {
        // The draft only reads here; its soft state is a copy that is thrown away.
        self.with_draft(now, |draft| draft.status())
    }

    /// The plan for a loss that has not happened.
    pub fn plan_if(&self, now: Now, scope: &Scope) -> Result<DryRun, String> {
        let placement =
            if self.hard.placement.is_empty() { initial_placement(&self.policy) } else { self.hard.placement.clone() };
        let purpose = match scope {
            Scope::Switchover { .. } => Purpose::Switchover,
            Scope::Rejoin(_) => Purpose::Rejoin,
            Scope::Failback => Purpose::Failback,
            Scope::Region(_)
            | Scope::Component(_)
            | Scope::Degradation(_)
            | Scope::Workload(_)
            | Scope::Zone { .. } => Purpose::Failover,
        };
        let is_planned = purpose.is_planned();
        let (source, part) = match scope {
            Scope::Switchover { region, .. } if !self.policy.regions.contains_key(region) => {
                return Err(format!("there is no region {region}"));
            }
            Scope::Switchover { region, component } => {
                (region.clone(), component.clone().map_or(Part::Region, Part::Component))
            }
            Scope::Region(region) if self.policy.regions.contains_key(region) => (region.clone(), Part::Region),
            Scope::Degradation(region) if self.policy.regions.contains_key(region) => (region.clone(), Part::Reroute),
            Scope::Region(region) | Scope::Degradation(region) => return Err(format!("there is no region {region}")),
            Scope::Zone { region, zone } => {
                let mut clusters = self.policy.of_kind(Kind::Kubernetes);
                let (cluster, _) = clusters
                    .find(|(_, of)| of.regions.contains(region))
                    .ok_or_else(|| format!("no cluster is in {region}"))?;
                (region.clone(), Part::Zone { cluster: cluster.clone(), zone: zone.clone() })
            }
            Scope::Workload(workload) => {
                let mut clusters = self.policy.of_kind(Kind::Kubernetes);
                let (cluster, _) = clusters
                    .find(|(_, of)| of.workloads.iter().any(|of| of.name == *workload))
                    .ok_or_else(|| format!("no cluster has a workload {workload}"))?;
                let source = placement.get(cluster).ok_or_else(|| format!("{cluster} is not served anywhere"))?;
                let part = Part::Healing { cluster: cluster.clone(), workload: workload.clone() };
                (source.clone(), part)
            }
            Scope::Failback => (self.with_draft(now, |draft| draft.region_to_leave())?, Part::Region),
            Scope::Rejoin(database) => (database.region.clone(), Part::Rejoin { database: database.component.clone() }),
            Scope::Component(component) => {
                let source =
                    placement.get(component).ok_or_else(|| format!("there is no component {component} to move"))?;
                (source.clone(), Part::Component(component.clone()))
            }
        };
        let lost = |id: &InstanceId| match &part {
            _ if is_planned => false,
            Part::Region => id.region == source,
            Part::Component(component) => id.region == source && id.component == *component,
            Part::Reroute | Part::Healing { .. } | Part::Zone { .. } | Part::Rejoin { .. } => false,
        };
        let alive: BTreeSet<InstanceId> = self.policy.instances().filter(|id| !lost(id)).collect();
        let incident = IncidentId::from("inc-0");
        let planned = plan::plan(
            Situation {
                policy: &self.policy,
                placement: &placement,
                source: &source,
                purpose,
                incident: &incident,
                alive: &alive,
                existing: &BTreeSet::new(),
                begun: &BTreeSet::new(),
            },
            &part,
        )
        .map_err(|no_plan: NoPlan| no_plan.to_string())?;
        plan::check(&planned.steps).map_err(|bad| bad.to_string())?;
        let target = planned
            .steps
            .iter()
            .flat_map(|step| step.places.values())
            .next()
            .cloned()
            .or_else(|| self.with_draft(now, |draft| draft.target_of(&source, &part)))
            .ok_or_else(|| "there is no other region".to_owned())?;
        let guards = self.with_draft(now, |draft| draft.standing_guards());
        Ok(DryRun {
            hash: plan::hash(&planned.steps),
            warnings: self.warnings(&planned.steps, &source),
            steps: planned.steps,
            source,
            target,
            guards,
        })
    }

    fn warnings(&self, steps: &[Step], source: &RegionId) -> Vec<String> {
        let mut warnings = Vec::new();
        for (component, policy) in self.policy.of_kind(Kind::Traffic) {
            let Some(control) = &policy.control_plane else { continue };
            if steps
                .iter()
                .any(|step| matches!(&step.action, plan::Action::Traffic { traffic, .. } if traffic == component))
            {
                let lost = if control == source { ", the region that is lost here" } else { "" };
                warnings.push(format!(
                    "{component}: changing records needs the Route 53 control plane, which lives in {control}{lost}; \
                     a data-plane flip does not"
                ));
            }
        }
        let owed: Vec<&str> = steps.iter().filter(|step| step.best_effort).map(|step| step.id.as_str()).collect();
        if !owed.is_empty() {
            warnings.push(format!("need the lost region, and nothing waits for them: {}", owed.join(", ")));
        }
        for (component, policy) in self.policy.of_kind(Kind::Database) {
            if !policy.fence {
                warnings.push(format!("{component}: no fence is configured, so a promotion is always unfenced"));
            }
        }
        warnings
    }

    /// As [`Self::with_draft`], without a copy: for what is asked again and again by whoever may change it.
    pub(super) fn read_draft<T>(&mut self, now: Now, read: impl FnOnce(&Draft<'_>) -> T) -> T {
        read(&self.draft(now))
    }

    /// What holds back what is to be done now, and how the steps of open incidents stand; for those who count.
    pub(crate) fn at_work(&self) -> (BTreeSet<GuardKind>, BTreeSet<StepState>) {
        let guards = self.soft.held.values().flatten().map(|guard| guard.kind).collect();
        let plans = self.hard.open_incidents().map(|incident| &incident.plan);
        let mut states: BTreeSet<StepState> =
            plans.flat_map(|plan| plan.steps.iter().map(|step| plan.state(&step.id))).collect();
        if !self.soft.held.is_empty() {
            states.insert(StepState::Held);
        }
        (guards, states)
    }

    pub(super) fn with_draft<T>(&self, now: Now, read: impl FnOnce(&Draft<'_>) -> T) -> T {
        let mut soft = self.soft.for_reading();
        read(&Draft {
            policy: &self.policy,
            policy_hash: &self.policy_hash,
            hard: Cow::Borrowed(&self.hard),
            soft: &mut soft,
            now,
            facts: Vec::new(),
            effects: Vec::new(),
            deadline: None,
            bugs: self.soft.limits.bugs,
        })
    }
}

impl Draft<'_> {
    fn status(&self) -> Status {
        let mut incidents: Vec<&Incident> = self.hard.incidents.values().map(|incident| &**incident).collect();
        incidents.sort_by_key(|incident| (incident.closed.is_some(), std::cmp::Reverse(incident.number)));
        let pending = self.pending();
        Status {
            deployment: self.policy.deployment.clone(),
            observer: self.policy.observer.clone(),
            at: self.now.wall,
            mode: self.policy.mode,
            headline: self.headline(&incidents, &pending),
            epoch: self.hard.epoch,
            placement: self.hard.placement.clone(),
            instances: self.soft.watches.iter().map(|(id, watch)| self.instance(id, watch)).collect(),
            observers: self.observers(),
            references: self
                .policy
                .references
                .keys()
                .map(|reference| ReferenceStatus {
                    reference: reference.to_string(),
                    answers: self.soft.references.answers(reference),
                })
                .collect(),
            incidents: incidents.into_iter().map(|incident| self.incident_status(incident)).collect(),
            pending,
            owed_fences: self.hard.owed.keys().cloned().collect(),
            owed_fence_failures: self
                .hard
                .owed
                .keys()
                .filter_map(|database| {
                    let why = self.soft.owed_under_way.get(database)?.why.clone()?;
                    Some((database.clone(), why))
                })
                .collect(),
            checks: self.check_statuses(),
            losses: self.loss_statuses(),
            paused_until: self.hard.paused.as_ref().map(|pause| pause.until),
            halted: self.soft.halted.clone().or_else(|| self.hard.halted.clone()),
            alarms: self.soft.alarms.values().cloned().collect(),
            false_positives: self.hard.false_positives,
        }
    }

    fn pending(&self) -> Vec<PendingStatus> {
        let mut pending = Vec::new();
        for candidate in self.candidates() {
            if self.is_answered(&candidate) {
                continue;
            }
            let mut guards = self.guards_of(&candidate);
            let what = match &candidate.part {
                Part::Component(component) => format!("{component}@{} is failing", candidate.source),
                Part::Region => format!("{} is failing as a whole", candidate.source),
                Part::Reroute => self.told_of_rerouting(&candidate.source),
                Part::Healing { cluster, workload } => self.told_of_healing(&candidate.source, cluster, workload),
                Part::Zone { cluster, zone } => self.told_of_zone(&candidate.source, cluster, zone),
                Part::Rejoin { .. } => format!("{} in {}", candidate.part, candidate.source),
            };
            if let Some(missing) = &candidate.missing {
                guards.push(Guard {
                    kind: super::GuardKind::Quorum,
                    evidence: missing.clone(),
                    lifted_by: "a second kind of evidence that fails as well".to_owned(),
                });
            }
            pending.push(PendingStatus {
                source: candidate.source,
                part: candidate.part,
                what,
                failing_for: candidate.failing_for,
                after: candidate.after,
                guards,
            });
        }
        for (id, failing_for, votes) in self.outvoted() {
            let row = self.policy.components.get(&id.component).and_then(|policy| policy.row);
            let Some(row) = row.filter(|_| self.is_active(id)) else { continue };
            pending.push(PendingStatus {
                source: id.region.clone(),
                part: Part::Component(id.component.clone()),
                what: format!("{id} is failing"),
                failing_for,
                after: row.after,
                guards: vec![Guard {
                    kind: super::GuardKind::Quorum,
                    evidence: votes,
                    lifted_by: "the other regions seeing it fail as well, or it answering".to_owned(),
                }],
            });
        }
        pending
    }

    fn instance(&self, id: &InstanceId, watch: &Watch) -> InstanceStatus {
        let now = self.now.monotonic;
        let verdict = watch.judge(&self.soft.limits, now);
        let policy = self.policy.components.get(&id.component);
        let active = self.is_active(id) && policy.is_some_and(|policy| policy.kind.has_a_place());
        let not_ready = self.why_standby_unready(id);
        let expected_loss = match (policy.map(|policy| policy.kind), self.hard.placement.get(&id.component)) {
            (Some(Kind::Database), Some(source)) if !active => {
                match self.expected_loss(&id.component, source, &id.region) {
                    Loss::AtMost(loss) => Some(loss),
                    Loss::MoreThan(_) | Loss::Unknown(_) => None,
                }
            }
            (Some(_) | None, Some(_) | None) => None,
        };
        InstanceStatus {
            instance: id.clone(),
            active,
            verdict: verdict.kind,
            failing_for: match verdict.kind {
                VerdictKind::Failing | VerdictKind::Suspect => verdict.since.map(|since| now.saturating_sub(since)),
                VerdictKind::Unknown | VerdictKind::Alive | VerdictKind::Degraded | VerdictKind::Recovering => None,
            },
            trigger_after: policy.filter(|_| active).and_then(|policy| policy.row).map(|row| row.after),
            why: watch.why(now),
            latency: watch.evidence.latency.filter(|_| watch.is_answering(now)),
            ready: not_ready.is_empty() && watch.is_answering(now),
            not_ready,
            warnings: watch.evidence.warnings.clone(),
            expected_loss,
            seen_by: self.seen_by(id),
        }
    }

    fn incident_status(&self, incident: &Incident) -> IncidentStatus {
        let plan = &incident.plan;
        let objectives = self.policy.objectives(incident.level);
        let end = incident.closed.map(|(stamp, _)| stamp);
        let since_declared = |stamp: super::hard::Stamp| {
            self.hard.elapsed(incident.declared, self.now).saturating_sub(self.hard.elapsed(stamp, self.now))
        };
        let declared_for = end.map_or_else(|| self.hard.elapsed(incident.declared, self.now), since_declared);
        let elapsed = incident.detected_after + declared_for;
        let committed = plan.committed.map(since_declared);
        let changed = plan.last_change.map(since_declared);
        let is_done = matches!(incident.closed, Some((_, Outcome::Recovered)));
        let times = Times {
            detect: Some(incident.detected_after),
            decide: committed,
            execute: changed
                .zip(committed)
                .map(|(changed, committed)| changed.saturating_sub(committed))
                .filter(|_| is_done),
            verify: changed.filter(|_| is_done).map(|changed| declared_for.saturating_sub(changed)),
        };
        IncidentStatus {
            incident: incident.id.clone(),
            level: incident.level,
            purpose: incident.purpose,
            source: incident.source.clone(),
            target: incident.target.clone(),
            first_failing: incident.first_failing,
            declared: incident.declared.at.wall,
            closed: end.map(|stamp| stamp.at.wall),
            outcome: incident.closed.map(|(_, outcome)| outcome),
            summary: self.summary(incident),
            evidence: incident.evidence.clone(),
            rto: objectives.rto,
            rpo: objectives.rpo,
            loss: plan.loss,
            exceptions: plan.exceptions.clone(),
            elapsed,
            budget_left: self.policy.failover_within.saturating_sub(elapsed),
            times,
            plan: plan.id.clone(),
            plan_hash: plan.hash().to_owned(),
            steps: plan.steps.iter().map(|step| self.step_status(incident, step)).collect(),
            acknowledged_by: incident.acknowledged_by.clone(),
            held: incident.is_held,
        }
    }

    fn step_status(&self, incident: &Incident, step: &Step) -> StepStatus {
        let plan = &incident.plan;
        let key = (plan.id.clone(), step.id.clone());
        let progress = plan.progress.get(&step.id).cloned().unwrap_or_default();
        let can_be_held = match progress.state {
            StepState::Waiting | StepState::Running => true,
            StepState::Done
            | StepState::Failed
            | StepState::Owed
            | StepState::Skipped
            | StepState::Undoing
            | StepState::Cancelled => !plan.is_wanted(&step.id) && !plan.is_taken_back(step),
            StepState::Held | StepState::Undone => false,
        };
        let held = self.soft.held.get(&key).filter(|_| can_be_held);
        let guards = held.cloned().unwrap_or_default();
        let state = if guards.is_empty() { progress.state } else { StepState::Held };
        let note = if let Some(guard) = guards.first() {
            guard.to_string()
        } else if !progress.note.is_empty() {
            progress.note.clone()
        } else if let Some(note) = self.soft.notes.get(&key) {
            note.clone()
        } else if state == StepState::Waiting {
            let open: Vec<&str> = step
                .after
                .iter()
                .filter(|id| matches!(plan.state(id), StepState::Waiting | StepState::Running | StepState::Failed))
                .map(|id| id.as_str())
                .collect();
            if open.is_empty() { String::new() } else { format!("after {}", open.join(", ")) }
        } else {
            String::new()
        };
        let ran_until = |stamp| self.hard.elapsed(stamp, self.now);
        StepStatus {
            step: step.id.clone(),
            what: step.action.to_string(),
            state,
            note,
            commit_point: step.commit_point,
            attempts: progress.attempts,
            took: progress
                .started
                .map(|started| ran_until(started).saturating_sub(progress.ended.map_or(Duration::ZERO, ran_until))),
            deadline: step.deadline,
            guards,
        }
    }
}

/// The answer of `failoverd explain`: why, why not, and what would change it.
pub fn explain(status: &Status) -> String {
    let mut lines = vec![status.headline.clone(), String::new()];
    let placement: BTreeMap<&RegionId, Vec<&str>> =
        status.placement.iter().fold(BTreeMap::new(), |mut regions, (component, region)| {
            regions.entry(region).or_insert_with(Vec::new).push(component.as_str());
            regions
        });
    for (region, components) in placement {
        lines.push(format!("{region} serves {}.", components.join(", ")));
    }
    match status.mode {
        Mode::Observe => lines.push("Mode observe: it records what it would do, and does nothing.".to_owned()),
        Mode::Approve => lines.push("Mode approve: it prepares a plan and waits for `failoverd approve`.".to_owned()),
        Mode::Automatic => lines.push("Mode automatic: it acts by itself when nothing below holds it back.".to_owned()),
    }
    if let Some(until) = status.paused_until {
        lines.push(format!("Paused until {until}: nothing starts before that, or before `failoverd resume`."));
    }
    lines.extend(super::disagreements(status).into_iter().map(|line| format!("{line}.")));
    for observer in &status.observers {
        if let Some(why) = &observer.without_voice {
            lines.push(format!("{} in {} has no voice: it {why}.", observer.observer, observer.region));
        }
    }
    for pending in &status.pending {
        lines.push(String::new());
        lines.push(format!("{} for {} of {}.", pending.what, human(pending.failing_for), human(pending.after)));
        for guard in &pending.guards {
            lines.push(format!("  held back by {guard}"));
        }
        if pending.guards.is_empty() {
            lines.push("  nothing holds it back".to_owned());
        }
    }
    for incident in status.incidents.iter().filter(|incident| incident.closed.is_none()) {
        lines.push(String::new());
        lines.push(format!("{} ({}): {}.", incident.incident, incident.level, incident.summary));
        lines.push(format!(
            "  {} since the first failure, {} of the budget left; plan {} ({})",
            human(incident.elapsed),
            human(incident.budget_left),
            incident.plan,
            incident.plan_hash
        ));
        lines.extend(incident.evidence.iter().map(|line| format!("  seen when it was declared: {line}")));
        lines.extend(incident.exceptions.iter().map(|line| format!("  exception: {line}")));
        for step in &incident.steps {
            match step.state {
                StepState::Held => {
                    for guard in &step.guards {
                        lines.push(format!("  {} is held back by {guard}", step.step));
                    }
                }
                StepState::Failed => {
                    lines.push(format!("  {} FAILED: {}", step.step, step.note));
                    lines.push(format!(
                        "    go on with `failoverd retry {0} {1}`, or do it by hand and `failoverd skip {0} {1}`",
                        incident.incident, step.step
                    ));
                }
                StepState::Running | StepState::Undoing => {
                    lines.push(format!("  {} is running. {}", step.step, step.note))
                }
                StepState::Waiting
                | StepState::Done
                | StepState::Owed
                | StepState::Skipped
                | StepState::Undone
                | StepState::Cancelled => {}
            }
        }
    }
    for instance in status.instances.iter().filter(|instance| !instance.not_ready.is_empty()) {
        lines.push(String::new());
        lines.push(format!("Standby {} could not take over: {}.", instance.instance, instance.not_ready.join("; ")));
    }
    for alarm in &status.alarms {
        if alarm.key.starts_with("never-seen") || alarm.key.starts_with("credential") || alarm.key == "drift" {
            lines.push(String::new());
            lines.push(alarm.text.clone());
        }
    }
    for database in &status.owed_fences {
        lines.push(String::new());
        lines.push(match status.owed_fence_failures.get(database) {
            Some(why) => {
                format!("{database} still has to be fenced, and the last attempt failed: {why}. It is tried again.")
            }
            None => format!("{database} still has to be fenced; that happens when it can be reached."),
        });
    }
    lines.join("\n") + "\n"
}
