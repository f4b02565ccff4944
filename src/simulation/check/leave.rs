//! Who gave leave for what is done: a person, once and for the plan that was shown; nobody, for what was moved a moment ago.

use super::*;

/// Beside a cooldown or an unreadiness, for what is seen and recorded a moment later.
const SLACK: Duration = Duration::from_secs(60);
/// Every observer has seen everything for so long: what one of them knows of a loss is right.
const SEEN_FOR: Duration = Duration::from_secs(15 * 60);

/// What the ledger says about leave.
#[derive(Debug, Default)]
pub(super) struct Leave {
    /// Somebody has said where everything is served.
    is_adopted: bool,
    /// Plans that stand as they were approved.
    approved: BTreeSet<PlanId>,
    /// When each component was moved last, unless a person has acknowledged that.
    moved: BTreeMap<ComponentId, Duration>,
    /// Somebody set a clock: how long ago something was is not known across a takeover.
    are_clocks_set: bool,
}

impl Checks {
    /// Somebody sets a daemon's clock.
    pub(in crate::simulation) fn clock_was_set(&mut self) {
        self.leave.are_clocks_set = true;
    }

    pub(super) fn were_clocks_set(&self) -> bool {
        self.leave.are_clocks_set
    }

    pub(super) fn weigh_leave(&mut self, fact: &Fact, world: &World, now: Duration, found: &mut Vec<String>) {
        // Whoever planned a move has seen it.
        let is_planned = self.incidents.values().any(|incident| incident.outcome.is_none() && incident.is_planned);
        let leave = &mut self.leave;
        if let Fact::PlacementAdopted { .. } = fact {
            leave.is_adopted = true;
        } else if let Fact::Approved { plan, .. } = fact {
            leave.approved.insert(plan.clone());
        } else if let Fact::Acknowledged { .. } = fact {
            leave.moved.clear();
        } else if let Fact::PlacementChanged { component, .. } = fact {
            leave.moved.remove(component);
            if !is_planned {
                leave.moved.insert(component.clone(), now);
            }
        } else if let Fact::PlanMade { plan, part, .. } = fact {
            if !leave.is_adopted {
                found.push(format!("{plan} was made, and nobody has said where the deployment is served"));
            }
            self.weigh_cooldown(plan, part, now, found);
        } else if let Fact::PlanGrown { plan, part, ordered_by, .. } = fact {
            leave.approved.remove(plan);
            if ordered_by.is_none() {
                self.weigh_cooldown(plan, part, now, found);
            }
        } else if let Fact::StepStarted { plan, step, attempt: 1, .. } = fact {
            let is_asked = self.policy.mode == Mode::Approve && !self.is_ordered(plan);
            if is_asked && !self.leave.approved.contains(plan) {
                found.push(format!("{plan}/{step} started, and the plan as it stands was not approved"));
            }
        } else if let Fact::CommitPointPassed { plan, step, .. } = fact {
            self.weigh_target(plan, step, world, now, found);
        } else if let Fact::ApprovalRequested { guards, .. } = fact {
            self.weigh_loss(guards, world, now, found);
        }
    }

    fn weigh_cooldown(&self, plan: &PlanId, part: &Part, now: Duration, found: &mut Vec<String>) {
        let Part::Component(component) = part else { return };
        let Some(moved) = self.leave.moved.get(component) else { return };
        let ago = now.saturating_sub(*moved);
        if !self.is_ordered(plan) && !self.leave.are_clocks_set && ago + SLACK < self.policy.guards.cooldown {
            found.push(format!("{plan}: {component} is moved again {} after it was moved", human(ago)));
        }
    }

    /// What is promoted or activated without an order is ready for that.
    fn weigh_target(&self, plan: &PlanId, step: &StepId, world: &World, now: Duration, found: &mut Vec<String>) {
        let Some(known) = self.steps.get(&(plan.clone(), step.clone())).filter(|_| !self.is_ordered(plan)) else {
            return;
        };
        let (Action::DatabasePromoted { database: target, .. } | Action::CacheActive { cache: target, .. }) =
            &known.step.action
        else {
            return;
        };
        if world.is_unready_since(target).is_some_and(|since| now.saturating_sub(since) > SLACK) {
            found.push(format!("{plan}/{step} goes ahead, and {target} is not ready"));
        }
    }

    /// Nobody is asked to accept a loss that there is not.
    fn weigh_loss(&self, guards: &[crate::decide::Guard], world: &World, now: Duration, found: &mut Vec<String>) {
        let has_seen_all = |voice: &truth::Voice| voice.is_sound_for(now, SEEN_FOR);
        // A planned move loses nothing at all, and asks for whatever it would.
        let is_planned = self.incidents.values().any(|incident| incident.is_planned && incident.outcome.is_none());
        let is_certain = !self.leave.are_clocks_set
            && !is_planned
            && self.voices.len() == self.policy.council.regions().len()
            && self.voices.values().all(has_seen_all)
            && world.network.has_been_whole(now, SEEN_FOR);
        for guard in guards.iter().filter(|guard| guard.kind == GuardKind::DataLoss && is_certain) {
            let databases = self.policy.instances().filter(|id| self.databases.contains(&id.component));
            for database in databases {
                let lost = world.lost_by_promoting(now, &database).span;
                let rpo = self.policy.objectives(Level::ComponentFailure).rpo;
                let is_asked = guard.evidence.contains(&format!("promoting {database} would lose up to"));
                // The standby of a primary that writes again, for as long as nobody has seen that it follows.
                let is_just_back = self.placement.get(&database.component).is_some_and(|region| {
                    let source = InstanceId { component: database.component.clone(), region: region.clone() };
                    let lately = now.saturating_sub(SLACK);
                    let failed = world.failing_between(&source, lately, now);
                    !failed.is_zero() && failed < SLACK.min(now)
                });
                if is_asked && !is_just_back && lost + SLACK < rpo {
                    let lost = human(lost);
                    found.push(format!("a person is asked to accept what promoting {database} loses, which is {lost}"));
                }
            }
        }
    }
}
