//! What reaches the world: in the right order, by whoever leads, and once.

use super::*;

/// The primary may write on between what was judged and the call.
const TOLD_WITHIN: Duration = Duration::from_secs(30);

impl Checks {
    /// A mutating call is about to be sent.
    pub(in crate::simulation) fn call(&self, running: &Running, world: &World, is_halted: bool) -> Vec<String> {
        let mut found = Vec::new();
        if is_halted {
            found.push(format!("{}: a call was sent while halted", running.key()));
        }
        let Work::Perform(task) = &running.work else { return found };
        // A share of the clients finds the database wherever it is.
        let is_share = self.known(task).is_some_and(Known::is_share);
        if let (Action::Traffic { weights, .. }, false) = (&task.action, is_share) {
            // Who gets the clients has to have the databases that this plan moves there, and did when it began to move them.
            let began = self.known(task).and_then(|known| known.started).unwrap_or(usize::MAX);
            for ((plan, step), known) in &self.steps {
                if *plan == task.plan
                    && let Action::DatabasePromoted { database, .. } = &known.step.action
                    && weights.get(&database.region).copied().unwrap_or(0) > 0
                    && known.planned < began
                    && known.undo_attempts == 0
                    && !known.parts.iter().all(|part| self.unwinding.contains(&(plan.clone(), part.clone())))
                    && world.takes_no_writes(database)
                {
                    found.push(format!("{}: traffic moved before {step} made {database} writable", task.key()));
                }
            }
        }
        found
    }

    /// A mutating call reaches the world: those of a former leader have all ended when a later one makes its first.
    pub(in crate::simulation) fn arrives(&mut self, epoch: u64, key: &str) -> Vec<String> {
        if epoch < self.acting_epoch {
            let acting = self.acting_epoch;
            return vec![format!("{key}: a call of epoch {epoch} arrived after one of epoch {acting}")];
        }
        self.acting_epoch = epoch;
        Vec::new()
    }

    /// A call was accepted: nothing irreversible happens twice, and nothing is lost that nobody accepted.
    pub(in crate::simulation) fn accepted(&self, world: &World) -> Vec<String> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        for Promotion { database, key, .. } in world.promotions.iter().filter(|promotion| !promotion.hangs) {
            if !seen.insert((database, plan_of(key))) {
                found.push(format!("{database} was promoted twice in {}", plan_of(key)));
            }
        }
        let mut seen: BTreeMap<_, u32> = BTreeMap::new();
        for (traffic, key) in &world.traffic_changes {
            let times = seen.entry((traffic, unsalted(key))).or_default();
            *times += 1;
            // A share that was taken back may be sent again.
            let known =
                unsalted(key).split_once('/').and_then(|(plan, step)| self.steps.get(&(plan.into(), step.into())));
            let times_back = known.filter(|known| known.is_share()).map_or(0, |known| known.undo_attempts);
            if *times > 1 + times_back {
                found.push(format!("{traffic} was changed twice by {}", unsalted(key)));
            }
        }
        let mut seen = BTreeSet::new();
        for (cluster, workload, key) in &world.restarts {
            if !seen.insert((cluster, workload, unsalted(key))) {
                found.push(format!("{workload} in {cluster} was restarted twice by {}", unsalted(key)));
            }
        }
        if let Some(Promotion { database, key, lost, knowable, is_beside_another, .. }) = world.promotions.last()
            && let Some((plan, step)) = key.split_once('/')
            && let Some(incident) = self.incident_of(&plan.into())
            && let Some(known) = self.steps.get(&(plan.into(), step.into()))
        {
            if incident.is_planned && !lost.is_zero() && !known.is_loss_accepted {
                let lost = human(*lost);
                found.push(format!("promoting {database} by plan lost {lost} of writes"));
            }
            if known.is_lossless && !lost.is_zero() {
                let lost = human(*lost);
                found.push(format!("promoting {database} was to wait for everything, and lost {lost}"));
            }
            if let Some(told) = known.told.filter(|told| !is_beside_another && *knowable > *told + TOLD_WITHIN) {
                let (lost, told) = (human(*knowable), human(told));
                found.push(format!("promoting {database} lost {lost} of writes, and {told} was told"));
            }
            let rpo = self.policy.objectives(incident.level).rpo;
            if *lost > rpo + Duration::from_secs(30) && !known.is_loss_accepted {
                let (lost, rpo) = (human(*lost), human(rpo));
                found.push(format!(
                    "promoting {database} lost {lost} of writes, the RPO is {rpo}, and nobody accepted it"
                ));
            }
        }
        found
    }
}

/// The same goal as in the journal; only whether a promotion can be lossless is found out when it starts.
pub(super) fn is_same_goal(planned: &Action, performed: &Action) -> bool {
    match (planned, performed) {
        (
            Action::DatabasePromoted { database, from, .. },
            Action::DatabasePromoted { database: other, from: other_from, .. },
        ) => database == other && from == other_from,
        _ => planned == performed,
    }
}
