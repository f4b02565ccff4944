//! Roles: who serves what, and how a region loses that before another one gets it.
//!
//! Whoever follows the ledger is told by a fact. Whoever cannot, stops by itself: a role is answered for only so long
//! after the ledger confirmed it, and a guardian beside a database makes it refuse writes. The wait for that is over
//! before anything begins that cannot be taken back.

use std::collections::BTreeSet;
use std::time::Duration;

use super::controller::{Controller, Draft};
use super::incident::Incident;
use super::{Fact, Guard, GuardKind};
use crate::domain::{Bug, ComponentId, IncidentId, InstanceId, Kind, ObserverId, RegionId, RolePolicy, time::human};
use crate::plan::{Action, Part, Step};

/// A plan that has taken roles away is held by something else for so long: longer than a look, a takeover or a lost ballot
/// takes.
const RETURNED_AFTER: Duration = Duration::from_secs(15);

/// Since when a role has been known to be taken away.
#[derive(Debug, Clone, Copy)]
pub(super) struct Revoked {
    /// This leader knows it to be durable.
    since: Duration,
    /// Everybody who answers for roles was seen to know it.
    told: Option<Duration>,
}

impl Controller {
    /// Whether `region` serves `component`, according to the durable facts. While a share of the clients is rerouted,
    /// what answers them serves in both regions.
    pub fn serves(&self, region: &RegionId, component: &ComponentId) -> bool {
        let kind = self.policy.components.get(component).map(|policy| policy.kind);
        let moves_with_clients = matches!(kind, Some(Kind::Traffic | Kind::Kubernetes | Kind::Http));
        let is_revoked = self.hard.revoked.get(component).is_some_and(|revoked| revoked.region == *region);
        (self.hard.placement.get(component) == Some(region) && !is_revoked)
            || (moves_with_clients && self.hard.shares().any(|(_, to)| to == region))
    }

    /// The databases that `observer` guards, according to the durable facts.
    pub fn guarded_by(&self, observer: &ObserverId) -> BTreeSet<InstanceId> {
        self.hard.guardians.get(observer).cloned().unwrap_or_default()
    }
}

impl Draft<'_> {
    /// Takes the roles away that move with the step, and says how long whoever has them may still act by them. A fence
    /// does not wait for that, and its fact begins the wait.
    pub(super) fn roles_left(&mut self, incident: &Incident, step: &Step) -> Option<Guard> {
        let roles = self.policy.roles?;
        let moving = self.moving_with(incident, step);
        let source = &incident.source;
        let is_known = |component: &ComponentId| {
            self.hard
                .revoked
                .get(component)
                .is_some_and(|revoked| revoked.region == *source && revoked.plan == incident.plan.id)
        };
        let new: BTreeSet<ComponentId> = moving.iter().filter(|component| !is_known(component)).cloned().collect();
        if !new.is_empty() {
            let (plan, region) = (incident.plan.id.clone(), source.clone());
            // Taken away before and given back since: the wait of that time is nobody's any more.
            self.soft.revoked_since.retain(|(of, component), _| *of != plan || !new.contains(component));
            self.record(Fact::RegionRevoked { plan, region, components: new });
        }
        if !step.commit_point || moving.is_empty() || self.bugs.has(Bug::RoleWaitSkipped) {
            return None;
        }
        let left = moving.iter().map(|component| self.role_left(roles, incident, component)).max()?;
        if left.is_zero() {
            return None;
        }
        self.wake(self.now.monotonic + left, "a role that was taken away has ended everywhere");
        Some(Guard {
            kind: GuardKind::Role,
            evidence: format!("{source} may still act by roles that were taken away from it"),
            lifted_by: format!("{} more: then whoever could not be told has stopped by itself", human(left)),
        })
    }

    /// A region whose plan does not go on, once its roles were taken away, gets them back: it would serve nobody, and nobody
    /// else does. The next attempt takes them away anew. A fence that stands is the plan's to undo.
    pub(super) fn return_roles(&mut self, id: &IncidentId, step: &Step, guards: &[Guard]) {
        let Some(incident) = self.incident(id) else { return };
        let (plan, region) = (incident.plan.id.clone(), incident.source.clone());
        let is_committed = |part: &Part| incident.plan.is_committed(part);
        let is_idle = step.commit_point
            && guards.iter().any(|guard| guard.kind != GuardKind::Role)
            && !incident.plan.needed_by.get(&step.id).into_iter().flatten().any(is_committed);
        let is_to_return = |component: &ComponentId| {
            let revoked = self.hard.revoked.get(component);
            let instance = InstanceId { component: component.clone(), region: region.clone() };
            revoked.is_some_and(|revoked| revoked.plan == plan) && !self.hard.fenced.contains(&instance)
        };
        let moving = if is_idle { self.moving_with(incident, step) } else { BTreeSet::new() };
        let components: BTreeSet<ComponentId> = moving.into_iter().filter(is_to_return).collect();
        let key = (plan.clone(), step.id.clone());
        if components.is_empty() {
            self.soft.roles_idle_since.remove(&key);
            return;
        }
        let since = *self.soft.roles_idle_since.entry(key.clone()).or_insert(self.now.monotonic);
        let until = since + RETURNED_AFTER;
        if until > self.now.monotonic {
            self.wake(until, "roles were taken away for a plan that does not go on");
            return;
        }
        self.soft.roles_idle_since.remove(&key);
        self.record(Fact::RolesReturned { plan, region, components });
    }

    /// The components that are moved by what the step is decided together with.
    fn moving_with(&self, incident: &Incident, step: &Step) -> BTreeSet<ComponentId> {
        let plan = &incident.plan;
        let parts = plan.needed_by.get(&step.id);
        let is_along = |other: &&Step| {
            plan.is_wanted(&other.id)
                && parts.zip(plan.needed_by.get(&other.id)).is_some_and(|(ours, theirs)| !ours.is_disjoint(theirs))
        };
        let placed = plan.steps.iter().filter(is_along).flat_map(|other| other.places.keys());
        placed.filter(|component| self.hard.placement.get(*component) == Some(&incident.source)).cloned().collect()
    }

    fn role_left(&mut self, roles: RolePolicy, incident: &Incident, component: &ComponentId) -> Duration {
        let database = InstanceId { component: component.clone(), region: incident.source.clone() };
        let demotion = self.demotion(&database).unwrap_or_default();
        let is_recording = self.facts.iter().any(|fact| {
            matches!(fact, Fact::RegionRevoked { plan, components, .. }
                if *plan == incident.plan.id && components.contains(component))
        });
        if is_recording {
            return roles.wait(demotion);
        }
        let is_told = self.is_told(component, &incident.source);
        let now = self.now.monotonic;
        let key = (incident.plan.id.clone(), component.clone());
        let revoked = self.soft.revoked_since.entry(key).or_insert(Revoked { since: now, told: None });
        // Whoever was told once does not forget it while it runs, and begins without any role.
        revoked.told = revoked.told.or(is_told.then_some(now));
        let all_stopped = revoked.since + roles.wait(demotion);
        let told = RolePolicy { self_fence_after: Duration::ZERO, ..roles };
        let until = revoked.told.map_or(all_stopped, |at| all_stopped.min(at + told.wait(demotion)));
        until.saturating_sub(now)
    }

    /// Every daemon says that it knows the role to be taken away; not that it knew it of an earlier time.
    fn is_told(&self, component: &ComponentId, region: &RegionId) -> bool {
        let Some(number) = self.hard.revoked.get(component).map(|revoked| revoked.number) else { return false };
        let council = &self.policy.council;
        let others = council.observers.keys().filter(|observer| **observer != self.policy.observer);
        others.into_iter().all(|observer| {
            let ballot = self.soft.council.ballot(observer, self.rules(), self.now.monotonic);
            ballot.is_ok_and(|ballot| ballot.revoked.get(component) == Some(region) && ballot.revocations >= number)
        })
    }

    /// How long the guardian beside a database takes to make it refuse writes; none where it has none.
    pub(super) fn demotion(&self, database: &InstanceId) -> Option<Duration> {
        self.policy.components.get(&database.component)?.demotion
    }
}

/// What a step takes a role away for.
pub(super) fn takes_roles(step: &Step) -> bool {
    step.commit_point || matches!(step.action, Action::Fenced { .. })
}
