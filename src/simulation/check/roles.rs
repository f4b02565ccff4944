//! Roles: at every moment one region at most acts by one, and nothing is given to another region before that is over.

use super::*;
use crate::decide::Roles;
use crate::domain::RolePolicy;
use crate::simulation::world::Vantage;

/// What has answered for so long has answered everybody: two probes of what is probed least often, and a ballot.
const SEEN_TO_ANSWER: Duration = Duration::from_secs(90);

/// Who acts by which role.
#[derive(Debug, Default)]
pub(super) struct Acting {
    /// When a daemon said last that a region serves what only one may serve.
    said: BTreeMap<(ComponentId, RegionId), Duration>,
    /// When a person said last what is served where.
    ordered: Option<Duration>,
    /// Told once.
    shared: BTreeSet<ComponentId>,
}

impl Checks {
    /// A daemon is asked for every role that only one region may have: whoever asked may act by the answer until it asks
    /// again.
    pub(in crate::simulation) fn hear_of_roles(&mut self, now: Duration, roles: &Roles) {
        for component in &self.writers {
            for region in roles.get(component).into_iter().flatten() {
                self.acting.said.insert((component.clone(), region.clone()), now);
            }
        }
    }

    /// A person says where it is served: that is so, whoever acted by what.
    pub(super) fn take_a_persons_word(&mut self, now: Duration) {
        self.acting.said.clear();
        self.acting.ordered = Some(now);
    }

    /// Whether somebody in the region may still act by its role.
    fn acts(&self, roles: RolePolicy, component: &ComponentId, region: &RegionId, now: Duration) -> bool {
        let said = self.acting.said.get(&(component.clone(), region.clone()));
        said.is_some_and(|said| now < *said + roles.check_period)
    }

    /// Two databases may take writes for a moment: what would have kept them apart stands still.
    pub(in crate::simulation) fn except(&mut self, component: &ComponentId) {
        self.excepted.insert(component.clone());
    }

    /// Never two regions with one role.
    pub(super) fn shared_roles(&mut self, now: Duration) -> Vec<String> {
        let Some(roles) = self.policy.roles else { return Vec::new() };
        let is_being_told = self.acting.ordered.is_some_and(|at| now < at + roles.wait(Duration::ZERO));
        if is_being_told {
            return Vec::new();
        }
        let mut found = Vec::new();
        for component in &self.writers {
            let of_it = self.acting.said.iter().filter(|((of, _), _)| of == component);
            let acting = of_it.filter(|(_, said)| now < **said + roles.check_period);
            let acting: Vec<&str> = acting.map(|((_, region), _)| region.as_str()).collect();
            if acting.len() < 2 {
                self.acting.shared.remove(component);
            } else if self.acting.shared.insert(component.clone()) {
                found.push(format!("{} have the role of {component} at the same time", acting.join(" and ")));
            }
        }
        found
    }

    /// A database is promoted: whoever had it serves it no more, and nobody acts as if it did.
    pub(in crate::simulation) fn promoted_too_early(&self, action: &Action, now: Duration) -> Option<String> {
        let (roles, Action::DatabasePromoted { database, from, .. }) = (self.policy.roles?, action) else {
            return None;
        };
        let acts = self.acts(roles, &from.component, &from.region, now);
        acts.then(|| format!("{database} is promoted while {} may still act by its role", from.region))
    }

    /// A database is promoted: whoever has it promoted would see its old primary answer, and take writes. That is for a person
    /// alone to want.
    pub(in crate::simulation) fn promoted_beside(
        &self,
        world: &World,
        now: Duration,
        vantage: &Vantage,
        key: &str,
        action: &Action,
    ) -> Option<String> {
        let Action::DatabasePromoted { database, from, .. } = action else { return None };
        let (plan, step) = key.split_once('/')?;
        let known = self.steps.get(&(plan.into(), step.into()))?;
        let is_wanted = self.is_ordered(&plan.into()) || known.is_unfenced_accepted;
        let lately = now.saturating_sub(SEEN_TO_ANSWER);
        let is_seen = world.network.has_been_whole(now, SEEN_TO_ANSWER) && !vantage.is_cut_off;
        let answers = world.failing_between(from, lately, now).is_zero() && world.writable(now).contains(from);
        (is_seen && answers && !is_wanted).then(|| format!("{database} is promoted beside {from}, which answers"))
    }
}
