//! Clients: nobody is where no plan sent them, what was taken back is back, and more of them follow when it is their turn.

use super::*;

type Weights = BTreeMap<ComponentId, BTreeMap<RegionId, u8>>;

/// Between what a daemon sees and what is recorded.
const SLACK: Duration = Duration::from_secs(5);

/// Shares of the clients that plans move.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// Who got the clients when the world was last looked at.
    weights: Weights,
    /// Who got them before a share was moved.
    before: BTreeMap<(PlanId, StepId), Weights>,
    /// Shares that were taken back just now.
    taken_back: Vec<(PlanId, StepId)>,
    /// Since when a share has been where it was sent.
    there: BTreeMap<(PlanId, StepId), Duration>,
    /// A person does not want to wait for the end of its stage.
    waived: BTreeSet<(PlanId, StepId)>,
}

impl Checks {
    /// What the ledger says of shares.
    pub(super) fn follow_shares(&mut self, fact: &Fact, world: &World, now: Duration, found: &mut Vec<String>) {
        if let Fact::StepStarted { plan, step, attempt, .. } = fact {
            self.is_next_in_turn(plan, step, *attempt, world, now, found);
            let key = (plan.clone(), step.clone());
            if self.steps.get(&key).is_some_and(Known::is_share) {
                self.shares.before.entry(key).or_insert_with(|| self.shares.weights.clone());
            }
        } else if let Fact::StepDone { plan, step, .. } = fact {
            self.shares.there.insert((plan.clone(), step.clone()), now);
        } else if let Fact::StepUndone { plan, step, .. } = fact {
            let key = (plan.clone(), step.clone());
            if self.steps.get(&key).is_some_and(Known::is_share) {
                self.shares.there.remove(&key);
                self.shares.taken_back.push(key);
            }
        } else if let Fact::StageContinued { plan, step, .. } = fact {
            self.shares.waived.insert((plan.clone(), step.clone()));
        }
    }

    /// More clients follow, or everything does: after those before them have been served well for long enough.
    fn is_next_in_turn(
        &self,
        plan: &PlanId,
        step: &StepId,
        attempt: u32,
        world: &World,
        now: Duration,
        found: &mut Vec<String>,
    ) {
        let is_failback = self.incident_of(plan).is_some_and(|incident| incident.is_planned);
        let Some(known) = self.steps.get(&(plan.clone(), step.clone())).filter(|_| is_failback && attempt == 1) else {
            return;
        };
        let before = known.after.iter().map(|id| (plan.clone(), id.clone()));
        for key in before {
            let Some(share) = self.steps.get(&key).filter(|known| known.is_share()) else { continue };
            let Some(since) = self.shares.there.get(&key) else {
                found.push(format!("{plan}/{step} follows {}, which was taken back", key.1));
                continue;
            };
            let (stage, lasted) = (share.step.stage.unwrap_or_default(), now.saturating_sub(*since));
            let is_waived = self.shares.waived.contains(&key) || self.were_clocks_set();
            if lasted + SLACK < stage && !is_waived {
                found.push(format!("{plan}/{step} follows {} after {}", key.1, human(lasted)));
            }
            found.extend(self.ailing_clients(plan, step, share, world, now));
        }
    }

    /// Clients are not served where some of them are, as everybody sees, and more of them are to follow.
    fn ailing_clients(
        &self,
        plan: &PlanId,
        step: &StepId,
        share: &Known,
        world: &World,
        now: Duration,
    ) -> Option<String> {
        let Action::Traffic { weights, .. } = &share.step.action else { return None };
        let source = &self.incident_of(plan)?.source;
        let target = weights.iter().find(|(region, weight)| *region != source && **weight > 0)?.0;
        let lasting = self.policy.failback.interval + SLACK;
        if !world.network.has_been_whole(now, lasting) {
            return None;
        }
        let answering = self.policy.components.iter().filter(|(_, policy)| policy.answers_clients());
        let mut there = answering
            .filter(|(_, policy)| policy.regions.contains(target))
            .map(|(component, _)| InstanceId { component: component.clone(), region: target.clone() });
        let dead = there.find(|id| world.failing_between(id, now.saturating_sub(lasting), now) >= lasting.min(now))?;
        Some(format!("{plan}/{step} sends more clients to {dead}, which fails"))
    }

    pub(super) fn look_at_clients(&mut self, world: &World) -> Vec<String> {
        let mut found = Vec::new();
        if self.shares.weights != *world.weights() {
            self.shares.weights.clone_from(world.weights());
            found.extend(self.strayed_clients());
        }
        found.extend(self.share_left_behind());
        found
    }

    /// Clients are where no plan sent them, or more of them than a degradation may move.
    fn strayed_clients(&self) -> Vec<String> {
        let share_max = self.policy.degradation.reroute_percent;
        let mut found = Vec::new();
        for (traffic, weights) in &self.shares.weights {
            for (region, weight) in weights.iter().filter(|(region, _)| self.home.get(traffic) != Some(*region)) {
                let sent = |eases: bool| {
                    let is_easing = |known: &Known| known.step.part == Part::Reroute;
                    let steps = self.steps.values().filter(|known| known.attempts > 0 && is_easing(known) == eases);
                    let weights = steps.filter_map(|known| {
                        let Action::Traffic { traffic: of, weights } = &known.step.action else { return None };
                        weights.get(region).copied().filter(|_| of == traffic)
                    });
                    weights.max().unwrap_or(0)
                };
                let allowed = sent(false).max(sent(true).min(share_max));
                if *weight > allowed {
                    found.push(format!("{traffic}: {region} has a weight of {weight}, and {allowed} was planned"));
                }
            }
        }
        found
    }

    /// A share that was taken back is back, unless all of the traffic has moved on from there.
    fn share_left_behind(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        for key in std::mem::take(&mut self.shares.taken_back) {
            let plan = &key.0;
            let has_moved_on = self.steps.iter().any(|((of, _), known)| {
                of == plan
                    && known.attempts > 0
                    && !known.is_share()
                    && matches!(known.step.action, Action::Traffic { .. })
            });
            match self.shares.before.remove(&key) {
                Some(before) if before != self.shares.weights && !has_moved_on => {
                    found.push(format!("{plan}: the share is taken back, and the weights are not what they were"));
                }
                Some(_) | None => {}
            }
        }
        found
    }
}
