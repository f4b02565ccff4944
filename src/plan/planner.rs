//! From a loss to a plan.
//!
//! The planner chooses which goals are needed and in which order; it never judges whether they may be pursued. Asked
//! again for a plan that exists, it returns only what is missing, so that an escalation adds steps and repeats none.

mod failback;
mod healing;
mod protect;
mod rejoin;
mod replication;
mod reroute;
mod zone;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Action, Confirm, Part, Purpose, Reversal, Step, Value};
use crate::domain::{
    CheckPolicy, ComponentId, ComponentPolicy, IncidentId, InstanceId, Kind, ObjectKind, Policy, Publication,
    PublishedValue, RegionId, StepId,
};

/// What the planner has to know of the moment.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The operators' wishes.
    pub policy: &'a Policy,
    /// Where each component is served.
    pub placement: &'a BTreeMap<ComponentId, RegionId>,
    /// The region that is left.
    pub source: &'a RegionId,
    /// Why it is left.
    pub purpose: Purpose,
    /// For the declaration in the clusters.
    pub incident: &'a IncidentId,
    /// Instances that answer: what is alive in the source is moved without loss, and told.
    pub alive: &'a BTreeSet<InstanceId>,
    /// Steps that the plan has already.
    pub existing: &'a BTreeSet<StepId>,
    /// Those of them that have begun and are not undone.
    pub begun: &'a BTreeSet<StepId>,
}

/// What the planner found to be missing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Planned {
    /// New steps, in an order in which every step comes after those it waits for.
    pub steps: Vec<Step>,
    /// Existing steps that this part needs as well, with what they have to wait for in addition where they have not
    /// started yet.
    pub shares: BTreeMap<StepId, BTreeSet<StepId>>,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPlan {
    /// There is nowhere to go.
    #[error("{0} has no instance outside {1} that could take over; give it one in a warm region")]
    NoTarget(ComponentId, RegionId),
    /// It is no standby's place.
    #[error("{0} cannot become a standby: {1}")]
    NoStandby(InstanceId, String),
    /// Nothing of it is served there.
    #[error("nothing that could be moved is served in {0}")]
    NothingThere(RegionId),
    /// The component is not moved by itself.
    #[error("{0} is evidence only; it moves with the traffic")]
    EvidenceOnly(ComponentId),
    /// There is no such workload.
    #[error("{0} has no workload {1}")]
    NoWorkload(ComponentId, String),
    /// Rerouting is off, or there is no record whose weights could be changed.
    #[error(
        "no share of the traffic of {0} can be rerouted: that takes degradation.reroute_percent above 0 and a traffic \
         component that is served there"
    )]
    NothingToReroute(RegionId),
}

/// Plans one part: a component's row of the matrix, or everything that the region still serves.
pub fn plan(situation: Situation<'_>, part: &Part) -> Result<Planned, NoPlan> {
    let has_several_clusters = situation.policy.of_kind(Kind::Kubernetes).nth(1).is_some();
    let mut draft = Draft {
        situation,
        part,
        has_several_clusters,
        planned: Planned::default(),
        ids: BTreeSet::new(),
        prepared: BTreeSet::new(),
        caught_up: BTreeSet::new(),
        staged: BTreeSet::new(),
    };
    let mut moved: Vec<&ComponentId> = match part {
        Part::Reroute => return draft.reroute(),
        Part::Healing { cluster, workload } => return draft.heal(cluster, workload),
        Part::Zone { cluster, zone } => return draft.withstand(cluster, zone),
        Part::Rejoin { database } => return draft.rejoin(database),
        Part::Component(component) => vec![component],
        Part::Region => situation
            .placement
            .iter()
            .filter(|(_, region)| *region == situation.source)
            .map(|(component, _)| component)
            .collect(),
    };
    if moved.is_empty() {
        return Err(NoPlan::NothingThere(situation.source.clone()));
    }
    draft.declare();
    if situation.purpose == Purpose::Failback {
        draft.staged = draft.stages()?;
    }
    let mut before_traffic = draft.staged.clone();
    draft.prepared = draft.staged.clone();
    draft.replicated(&moved);
    let mut published = Vec::new();
    if situation.purpose.is_planned() {
        moved.sort_by_key(|component| situation.policy.components.get(*component).map(|policy| turn(policy.kind)));
    }
    for component in &moved {
        let Some(policy) = situation.policy.components.get(*component) else { continue };
        match policy.kind {
            Kind::Database => before_traffic.extend(draft.database(component, policy, &mut published)?),
            Kind::Cache => before_traffic.extend(draft.cache(component, policy, &mut published)?),
            Kind::Storage => before_traffic.extend(draft.storage(component, policy, &mut published)?),
            Kind::Kubernetes => {
                let scaled = draft.scale(component, policy)?;
                if situation.purpose.is_planned() {
                    draft.prepared.extend(scaled.iter().cloned());
                }
                before_traffic.extend(scaled);
            }
            Kind::Http | Kind::Cloud | Kind::Traffic | Kind::Holdings => {}
        }
    }
    before_traffic.extend(draft.restart(&published));
    let moves_traffic = match part {
        Part::Reroute | Part::Healing { .. } | Part::Zone { .. } | Part::Rejoin { .. } => false,
        Part::Region => true,
        Part::Component(component) => situation
            .policy
            .components
            .get(component)
            .is_some_and(|policy| matches!(policy.kind, Kind::Kubernetes | Kind::Http)),
    };
    let mut last = before_traffic.clone();
    if moves_traffic {
        if matches!(part, Part::Component(_)) {
            // The clients that follow need all of the clusters, whichever of them failed.
            for (cluster, policy) in situation.policy.of_kind(Kind::Kubernetes) {
                before_traffic.extend(draft.scale(cluster, policy)?);
            }
        }
        last.extend(draft.traffic(&before_traffic));
    }
    draft.protect(&moved, &last);
    let verified = draft.verify(&moved, &last);
    match (part, situation.purpose) {
        (Part::Region, Purpose::Failback) => draft.stand_down(&last.union(&verified).cloned().collect()),
        (Part::Region, Purpose::Failover | Purpose::Switchover | Purpose::Rejoin) => draft.aftermath(&last),
        (Part::Component(_) | Part::Reroute | Part::Healing { .. } | Part::Zone { .. } | Part::Rejoin { .. }, _) => {}
    }
    if draft.planned.steps.is_empty() && draft.planned.shares.is_empty() {
        return Err(NoPlan::NothingThere(situation.source.clone()));
    }
    Ok(draft.planned)
}

struct Draft<'a> {
    situation: Situation<'a>,
    part: &'a Part,
    has_several_clusters: bool,
    planned: Planned,
    ids: BTreeSet<StepId>,
    /// What a planned move has ready before it keeps a writer waiting.
    prepared: BTreeSet<StepId>,
    /// The databases' standbys have everything: before that a planned move does nothing that cannot be taken back.
    caught_up: BTreeSet<StepId>,
    /// The last share of the clients that goes back before everything does.
    staged: BTreeSet<StepId>,
}

/// The order of a planned move: while it keeps writers waiting, they wait for nothing that could have been done before; and
/// what cannot be taken back comes after the databases' standbys, which may not catch up.
fn turn(kind: Kind) -> u8 {
    match kind {
        Kind::Kubernetes => 0,
        Kind::Database => 1,
        Kind::Cache | Kind::Storage | Kind::Http | Kind::Cloud | Kind::Traffic | Kind::Holdings => 2,
    }
}

/// A key that was pointed at the new instance, and the workloads that read it.
struct Published {
    step: StepId,
    cluster: InstanceId,
    restart: BTreeSet<String>,
}

/// The key in the cluster names `to`.
fn published_in(cluster: &InstanceId, of: &ComponentPolicy, publication: &Publication, to: &InstanceId) -> Action {
    let value = match publication.value {
        PublishedValue::Region => Value::Literal(to.region.to_string()),
        PublishedValue::Host | PublishedValue::Port | PublishedValue::Bucket => {
            Value::Of { instance: to.clone(), property: publication.value }
        }
    };
    Action::Published {
        cluster: cluster.clone(),
        namespace: of.namespace.clone(),
        object: publication.object,
        name: publication.name.clone(),
        key: publication.key.clone(),
        value,
    }
}

impl<'a> Draft<'a> {
    fn target(&self, component: &ComponentId) -> Result<RegionId, NoPlan> {
        self.situation
            .policy
            .target_of(component, self.situation.source)
            .cloned()
            .ok_or_else(|| NoPlan::NoTarget(component.clone(), self.situation.source.clone()))
    }

    fn target_region(&self) -> Option<&'a RegionId> {
        let policy = self.situation.policy;
        policy.components.keys().find_map(|component| policy.target_of(component, self.situation.source))
    }

    fn is_alive(&self, instance: &InstanceId) -> bool {
        self.situation.alive.contains(instance)
    }

    /// Adds the step unless the plan has it; either way this part needs it.
    fn need(&mut self, id: String, action: Action, after: BTreeSet<StepId>, deadline: Duration) -> StepId {
        let id = StepId::from(id);
        if self.situation.existing.contains(&id) {
            self.planned.shares.entry(id.clone()).or_default().extend(after);
        } else if self.ids.insert(id.clone()) {
            let undoable = action.reversal() != Reversal::Impossible;
            self.planned.steps.push(Step {
                id: id.clone(),
                action,
                part: self.part.clone(),
                after,
                commit_point: false,
                undoable,
                best_effort: false,
                places: BTreeMap::new(),
                confirm: None,
                deadline,
                stage: None,
            });
        }
        id
    }

    fn edit(&mut self, id: &StepId, edit: impl FnOnce(&mut Step)) {
        if let Some(step) = self.planned.steps.iter_mut().find(|step| step.id == *id) {
            edit(step);
        }
    }

    fn clusters(&self) -> impl Iterator<Item = (InstanceId, &'a ComponentPolicy)> + use<'a> {
        let policy = self.situation.policy;
        policy.of_kind(Kind::Kubernetes).flat_map(|(component, cluster)| {
            cluster
                .regions
                .iter()
                .map(move |region| (InstanceId { component: component.clone(), region: region.clone() }, cluster))
        })
    }

    /// Nothing waits for a cluster in a region that is lost, or for one that does not answer.
    fn is_lost(&self, cluster: &InstanceId) -> bool {
        let is_left = *self.part == Part::Region && cluster.region == *self.situation.source;
        !self.is_alive(cluster) || (is_left && !self.situation.purpose.is_planned())
    }

    /// Clients wait for it. A cluster that a planned move leaves is told where everything is, in nobody's way.
    fn is_awaited(&self, cluster: &InstanceId) -> bool {
        let is_left = self.situation.purpose.is_planned() && cluster.region == *self.situation.source;
        !self.is_lost(cluster) && !is_left
    }

    fn suffix(&self, cluster: &InstanceId) -> String {
        if self.has_several_clusters {
            format!(".{}@{}", cluster.component, cluster.region)
        } else {
            format!("@{}", cluster.region)
        }
    }

    fn declare(&mut self) {
        let deadline = self.situation.policy.deadlines.declare;
        for (cluster, policy) in self.clusters() {
            let id = format!("declare{}", self.suffix(&cluster));
            let lost = cluster.region == *self.situation.source || !self.is_alive(&cluster);
            let action = Action::IncidentDeclared {
                cluster,
                namespace: policy.namespace.clone(),
                incident: self.situation.incident.to_string(),
            };
            let id = self.need(id, action, BTreeSet::new(), deadline);
            self.edit(&id, |step| step.best_effort = lost);
        }
    }

    fn database(
        &mut self,
        component: &ComponentId,
        policy: &ComponentPolicy,
        published: &mut Vec<Published>,
    ) -> Result<BTreeSet<StepId>, NoPlan> {
        let target = self.target(component)?;
        let deadlines = self.situation.policy.deadlines;
        let from = InstanceId { component: component.clone(), region: self.situation.source.clone() };
        let to = InstanceId { component: component.clone(), region: target.clone() };
        let alive = self.is_alive(&from);
        let is_planned = self.situation.purpose.is_planned();
        let mut after = BTreeSet::new();
        if policy.fence {
            let action = Action::Fenced { database: from.clone() };
            // One that answers is worth waiting for: beside it only a person promotes without its fence.
            let deadline = match (policy.managed, alive) {
                (true, true) => deadlines.fence_managed.max(deadlines.promote_managed),
                (true, false) => deadlines.fence_managed,
                (false, _) => deadlines.fence,
            };
            let fence = self.need(format!("fence-{from}"), action, self.prepared.clone(), deadline);
            self.edit(&fence, |step| step.best_effort = !alive);
            after.insert(fence);
        }
        if is_planned {
            let action = Action::CaughtUp { database: to.clone(), from: from.clone() };
            let caught_up = self.need(format!("catch-up-{to}"), action, after, deadlines.catch_up);
            self.caught_up.insert(caught_up.clone());
            after = BTreeSet::from([caught_up]);
        }
        let deadline = if policy.managed { deadlines.promote_managed } else { deadlines.promote };
        let lossless = is_planned || (alive && policy.fence);
        let action = Action::DatabasePromoted { database: to.clone(), from, lossless };
        let promote = self.need(format!("promote-{to}"), action, after, deadline);
        self.edit(&promote, |step| {
            step.commit_point = true;
            step.places.insert(component.clone(), target);
        });
        Ok(self.publish(policy, &to, &promote, published))
    }

    /// What else cannot be taken back comes after the databases' standbys, and after the last share.
    fn before_commit(&self) -> BTreeSet<StepId> {
        if self.caught_up.is_empty() { self.staged.clone() } else { self.caught_up.clone() }
    }

    fn cache(
        &mut self,
        component: &ComponentId,
        policy: &ComponentPolicy,
        published: &mut Vec<Published>,
    ) -> Result<BTreeSet<StepId>, NoPlan> {
        let target = self.target(component)?;
        let deadlines = self.situation.policy.deadlines;
        let from = InstanceId { component: component.clone(), region: self.situation.source.clone() };
        let to = InstanceId { component: component.clone(), region: target.clone() };
        let deadline = if policy.managed { deadlines.cache_managed } else { deadlines.cache };
        let action = Action::CacheActive { cache: to.clone(), from };
        let activate = self.need(format!("activate-{to}"), action, self.before_commit(), deadline);
        self.edit(&activate, |step| {
            step.commit_point = true;
            step.places.insert(component.clone(), target);
        });
        Ok(self.publish(policy, &to, &activate, published))
    }

    fn storage(
        &mut self,
        component: &ComponentId,
        policy: &ComponentPolicy,
        published: &mut Vec<Published>,
    ) -> Result<BTreeSet<StepId>, NoPlan> {
        let target = self.target(component)?;
        let to = InstanceId { component: component.clone(), region: target.clone() };
        let action = Action::StorageReachable { storage: to.clone(), holds_all_of: None };
        let deadline = self.situation.policy.deadlines.storage;
        let mut after = self.before_commit();
        after.extend(self.replication(&to));
        let check = self.need(format!("switch-{to}"), action, after, deadline);
        // What follows (restarted pods that use the other bucket) is not undone, so the switch is judged like a promotion.
        self.edit(&check, |step| {
            step.commit_point = true;
            step.places.insert(component.clone(), target);
        });
        Ok(self.publish(policy, &to, &check, published))
    }

    /// Points every cluster's keys at `to`. Returns what traffic has to wait for.
    fn publish(
        &mut self,
        policy: &ComponentPolicy,
        to: &InstanceId,
        moved: &StepId,
        published: &mut Vec<Published>,
    ) -> BTreeSet<StepId> {
        let mut needed = BTreeSet::from([moved.clone()]);
        for (cluster, cluster_policy) in self.clusters() {
            let lost = self.is_lost(&cluster);
            for publication in &policy.publications {
                let object = publication.object.noun();
                let id = format!("publish-{object}-{}-{}{}", publication.name, publication.key, self.suffix(&cluster));
                let action = published_in(&cluster, cluster_policy, publication, to);
                let deadline = self.situation.policy.deadlines.publish;
                let id = self.need(id, action, BTreeSet::from([moved.clone()]), deadline);
                self.edit(&id, |step| step.best_effort = lost);
                if self.is_awaited(&cluster) {
                    needed.insert(id.clone());
                }
                published.push(Published { step: id, cluster: cluster.clone(), restart: publication.restart.clone() });
            }
        }
        needed
    }

    /// Warm pods keep the old host: restart what reads the keys that were changed, once per part.
    fn restart(&mut self, published: &[Published]) -> BTreeSet<StepId> {
        let part = match self.part {
            Part::Component(component) => component.as_str(),
            Part::Region => "region",
            Part::Reroute => "reroute",
            Part::Healing { .. } => "healing",
            Part::Zone { .. } => "zone",
            Part::Rejoin { .. } => "rejoin",
        };
        self.restart_as(published, &format!("for-{part}"), false)
    }

    /// `is_idle`: they serve nobody, so there is nothing to take back.
    fn restart_as(&mut self, published: &[Published], when: &str, is_idle: bool) -> BTreeSet<StepId> {
        let mut needed = BTreeSet::new();
        for (cluster, policy) in self.clusters() {
            let lost = self.is_lost(&cluster);
            for workload in &policy.workloads {
                let after: BTreeSet<StepId> = published
                    .iter()
                    .filter(|p| p.cluster == cluster)
                    .filter(|p| p.restart.is_empty() || p.restart.contains(&workload.name))
                    .map(|p| p.step.clone())
                    .collect();
                if after.is_empty() {
                    continue;
                }
                let id = format!("restart-{}{}-{when}", workload.name, self.suffix(&cluster));
                let action = Action::RolledOut {
                    cluster: cluster.clone(),
                    namespace: policy.namespace.clone(),
                    kind: workload.kind,
                    workload: workload.name.clone(),
                };
                let id = self.need(id, action, after, self.situation.policy.deadlines.rollout);
                self.edit(&id, |step| {
                    step.best_effort = lost;
                    step.undoable |= is_idle;
                });
                if self.is_awaited(&cluster) {
                    needed.insert(id);
                }
            }
        }
        needed
    }

    fn scale(&mut self, component: &ComponentId, policy: &ComponentPolicy) -> Result<BTreeSet<StepId>, NoPlan> {
        let cluster = InstanceId { component: component.clone(), region: self.target(component)? };
        let mut needed = BTreeSet::new();
        for workload in &policy.workloads {
            let id = format!("scale-{}{}", workload.name, self.suffix(&cluster));
            let action = Action::Replicas {
                cluster: cluster.clone(),
                namespace: policy.namespace.clone(),
                kind: workload.kind,
                workload: workload.name.clone(),
                replicas: workload.active,
                at_most: false,
            };
            needed.insert(self.need(id, action, BTreeSet::new(), self.situation.policy.deadlines.replicas));
        }
        Ok(needed)
    }

    /// Traffic moves last. What serves the clients (clusters, HTTP services, the record itself) is placed by it.
    fn traffic(&mut self, before: &BTreeSet<StepId>) -> BTreeSet<StepId> {
        let Some(target) = self.target_region() else { return BTreeSet::new() };
        let policy = self.situation.policy;
        let mut moved = BTreeSet::new();
        let served_by_traffic: BTreeMap<ComponentId, RegionId> = policy
            .components
            .iter()
            .filter(|(_, p)| matches!(p.kind, Kind::Kubernetes | Kind::Http | Kind::Traffic))
            .filter(|(component, _)| self.situation.placement.get(*component) == Some(self.situation.source))
            .map(|(component, _)| (component.clone(), target.clone()))
            .collect();
        for (component, record) in policy.of_kind(Kind::Traffic) {
            let weights = record.regions.iter().map(|r| (r.clone(), if r == target { 100 } else { 0 })).collect();
            let action = Action::Traffic { traffic: component.clone(), weights };
            let mut before = before.clone();
            before.extend(self.take_over_reroute(component));
            let id = self.need(format!("traffic-{component}"), action, before, policy.deadlines.traffic);
            let confirm = match self.part {
                Part::Component(source) => policy.components.get(source).and_then(|p| p.row).map(|row| Confirm {
                    instance: InstanceId { component: source.clone(), region: self.situation.source.clone() },
                    lasting: row.confirm_for,
                }),
                Part::Region | Part::Reroute | Part::Healing { .. } | Part::Zone { .. } | Part::Rejoin { .. } => None,
            };
            self.edit(&id, |step| {
                step.commit_point = true;
                step.confirm = confirm;
                step.places = served_by_traffic.clone();
            });
            moved.insert(id);
        }
        if moved.is_empty()
            && let Some(step) = self.planned.steps.iter_mut().rev().find(|step| before.contains(&step.id))
        {
            step.places.extend(served_by_traffic);
        }
        moved
    }

    fn verify(&mut self, moved: &[&ComponentId], after: &BTreeSet<StepId>) -> BTreeSet<StepId> {
        let part = match self.part {
            Part::Component(component) => format!("-for-{component}"),
            Part::Region => String::new(),
            Part::Reroute => "-for-reroute".to_owned(),
            Part::Healing { workload, .. } => format!("-for-{workload}"),
            Part::Zone { zone, .. } => format!("-without-{zone}"),
            Part::Rejoin { database } => format!("-for-{database}"),
        };
        let is_whole = *self.part == Part::Region;
        let policy = self.situation.policy;
        let is_wanted = |check: &CheckPolicy| {
            (is_whole && check.after.is_empty()) || moved.iter().any(|moved| check.after.contains(*moved))
        };
        let wanted = policy.checks.iter().filter(|check| is_wanted(check));
        self.verified(wanted, after, &part)
    }

    /// The checks of what answers clients, where they are to be sent.
    fn verify_for(&mut self, serving: &[&ComponentId], after: &BTreeSet<StepId>, when: &str) -> BTreeSet<StepId> {
        let policy = self.situation.policy;
        let wanted = policy.checks.iter().filter(|check| serving.iter().any(|of| check.after.contains(*of)));
        self.verified(wanted, after, when)
    }

    fn verified<'c>(
        &mut self,
        wanted: impl Iterator<Item = &'c CheckPolicy>,
        after: &BTreeSet<StepId>,
        when: &str,
    ) -> BTreeSet<StepId> {
        let mut checks = BTreeSet::new();
        let Some(target) = self.target_region() else { return checks };
        let deadline = self.situation.policy.deadlines.verify;
        for check in wanted {
            let action =
                Action::Verified { check: check.name.clone(), expects: check.expects.clone(), region: target.clone() };
            let id = format!("verify-{}{when}", check.name);
            checks.insert(self.need(id, action, after.clone(), deadline));
        }
        checks
    }

    /// Enhanced monitoring and settings of the document's last phase: after the traffic, in nobody's way.
    fn aftermath(&mut self, after: &BTreeSet<StepId>) {
        let deadlines = self.situation.policy.deadlines;
        let Some(target) = self.target_region().cloned() else { return };
        for (cluster, policy) in self.clusters().filter(|(cluster, _)| cluster.region == target) {
            for (name, key, value) in &policy.after_failover {
                let action = Action::Published {
                    cluster: cluster.clone(),
                    namespace: policy.namespace.clone(),
                    object: ObjectKind::ConfigMap,
                    name: name.clone(),
                    key: key.clone(),
                    value: Value::Literal(value.clone()),
                };
                let id = format!("set-{name}-{key}{}", self.suffix(&cluster));
                self.need(id, action, after.clone(), deadlines.publish);
            }
            for (n, path) in policy.manifests.iter().enumerate() {
                let action = Action::Manifests { cluster: cluster.clone(), path: path.clone() };
                let id = format!("apply-manifests-{}{}", n + 1, self.suffix(&cluster));
                self.need(id, action, after.clone(), deadlines.manifests);
            }
        }
    }
}
