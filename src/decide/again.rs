//! What a former leader or run began: whether it is gone on with as it was, waited for, or judged anew.

use std::time::Duration;

use super::controller::Draft;
use super::incident::{Incident, PartState};
use super::{Guard, GuardKind, StepState};
use crate::domain::{IncidentId, InstanceId, Kind, PlanId, StepId, time::human};
use crate::plan::{Action, Part, Step};

/// How a step goes on that has passed its commit point, and of which nobody knows whether it was heard.
pub(super) enum Again {
    /// Under the same key, as it was.
    GoOn,
    /// As if it had never passed its commit point.
    Anew,
    /// Its world is looked at first, which is under way.
    Look,
    /// What was sent may still come about.
    Waits(Guard),
    /// Nothing came of it.
    NotBegun(String),
}

impl Draft<'_> {
    pub(super) fn again(&mut self, incident: &Incident, step: &Step) -> Again {
        let is_in_vain = self.waits_in_vain(incident, step);
        let still = self.still_serves(incident, step);
        if !is_in_vain && still.is_none() {
            return Again::GoOn;
        }
        let key = (incident.plan.id.clone(), step.id.clone());
        let is_fresh = self.fresh_look(&key.0, &key.1).is_some();
        if !is_fresh {
            self.look(&incident.id, &step.id);
        }
        // While it is looked at again, what was in the way is in the way.
        let seen = self.soft.looks.get(&key).and_then(|look| look.seen.as_ref()).map(|(_, seen)| seen);
        let seen = match seen {
            None => return Again::Look,
            // What is only checked was so before, too.
            Some(Ok(look)) if look.satisfied && !matches!(step.action, Action::StorageReachable { .. }) => {
                return if is_fresh { Again::GoOn } else { Again::Look };
            }
            Some(Ok(look)) => Ok(look.summary.clone()),
            Some(Err(setback)) => Err(setback.to_string()),
        };
        let Some(old) = still else { return if is_fresh { Again::Anew } else { Again::Look } };
        let lifted_by = |left: Duration| format!("{} more, after which it has come about or never does", human(left));
        // By then whatever was sent has come about, or is seen to be under way.
        let sure_after = self.policy.deadlines.promote;
        // The last call of a former leader came no later than this one began to lead; the last one of this one is known.
        let stopped = self.soft.stopped_sending.get(&key).copied().unwrap_or_default().max(self.soft.started_at);
        let since = self.now.monotonic.saturating_sub(stopped);
        let left = sure_after.saturating_sub(since);
        match seen {
            Ok(_) if !left.is_zero() => {
                self.wake(self.now.monotonic + left, "what a former leader sent has come about, or never does");
                let evidence = format!("{old} answers, and a former leader may have been heard");
                Again::Waits(Guard { kind: GuardKind::Takeover, evidence, lifted_by: lifted_by(left) })
            }
            Ok(_) if !is_fresh => Again::Look,
            Ok(summary) => Again::NotBegun(format!("{old} answers, and nothing came of it: {summary}")),
            Err(why) => Again::Waits(Guard {
                kind: GuardKind::Unfenced,
                evidence: format!("{old} answers, and it is not known whether a former leader was heard: {why}"),
                lifted_by: format!("an answer, or `failoverd approve {} --accept-unfenced`", incident.id),
            }),
        }
    }

    /// Why what is under way is not sent again without being judged anew.
    pub(super) fn outdated(&self, key: &str) -> Option<String> {
        let (plan, step) = key.split_once('/')?;
        let incident = self.hard.incident_of(&PlanId::from(plan))?;
        let step = incident.plan.step(&StepId::from(step))?;
        let old = self.still_serves(incident, step)?;
        Some(format!("{old} answers again, and is not fenced"))
    }

    /// What the step is to replace answers, without a fence; and, where that is no database, nothing irreversible is known to
    /// have come about.
    fn still_serves(&self, incident: &Incident, step: &Step) -> Option<InstanceId> {
        let plan = &incident.plan;
        let parts = plan.needed_by.get(&step.id)?;
        if !step.commit_point {
            return None;
        }
        if let Action::DatabasePromoted { database, from, .. } = &step.action {
            let approval = self.approval(incident);
            let is_accepted = approval.is_some_and(|approval| self.hard.accepts_unfenced(database, approval));
            let is_beside = self.is_seen_answering(from) && !self.is_fenced(&incident.id, from) && !is_accepted;
            return is_beside.then(|| from.clone());
        }
        let has_come_about = |other: &Step| {
            let is_for_one = plan.needed_by.get(&other.id).is_some_and(|others| !others.is_disjoint(parts));
            other.commit_point && is_for_one && matches!(plan.state(&other.id), StepState::Done | StepState::Skipped)
        };
        if plan.steps.iter().any(has_come_about)
            || plan.is_ordered(&step.id)
            || parts.iter().all(|part| *part == Part::Reroute)
        {
            return None;
        }
        let left = step
            .places
            .keys()
            .map(|component| InstanceId { component: component.clone(), region: incident.source.clone() });
        let kind = |id: &InstanceId| self.policy.components.get(&id.component).map(|policy| policy.kind);
        let left: Vec<InstanceId> = left.filter(|id| kind(id) != Some(Kind::Traffic)).collect();
        let all = left.iter().all(|id| self.is_seen_answering(id));
        left.into_iter().next().filter(|_| all)
    }

    /// A promotion is without loss only where the fence is really up: an old primary that died meanwhile cannot be waited for.
    pub(super) fn waits_for_all(&self, incident: &Incident, promotion: &Step) -> bool {
        let Action::DatabasePromoted { from, lossless: true, .. } = &promotion.action else { return false };
        self.is_fenced(&incident.id, from) && !self.is_silent(from) && !self.is_waiting_given_up(incident, promotion)
    }

    /// A person accepted what is lost without waiting, because too much would be, or because it was waited for in vain. Without
    /// a person, it was waited for in vain, and the RPO allows it.
    fn is_waiting_given_up(&self, incident: &Incident, promotion: &Step) -> bool {
        let Action::DatabasePromoted { database, .. } = &promotion.action else { return false };
        let is_accepted = self.hard.accepted_loss(database, self.approval(incident)).at_most.is_some();
        let is_retried = incident.plan.progress.get(&promotion.id).is_some_and(|progress| progress.is_retried);
        let is_within_rpo = self.is_within_rpo(incident, promotion);
        let is_automatic = !incident.plan.is_ordered(&promotion.id);
        let is_given_up = if is_within_rpo { is_retried && (is_accepted || is_automatic) } else { is_accepted };
        is_given_up && !incident.purpose.is_planned()
    }

    /// The promotion waits for what the old primary wrote: its fence is up, or is still to be put up, after which the promotion
    /// is judged anew. No fence is put up for a standby that is too far behind.
    pub(super) fn is_waited_for(&self, incident: &Incident, promotion: &Step, from: &InstanceId) -> bool {
        let plan = &incident.plan;
        let fence = plan.steps.iter().find(|step| plan.fence_of(&step.id).as_ref() == Some(from));
        match fence.map(|step| plan.state(&step.id)) {
            Some(StepState::Waiting) => {
                // What is lost by then is nothing; so the RPO, which may be less than can be told, is not the only measure.
                let is_near = || self.lacks_at_most(promotion, self.policy.deadlines.catch_up);
                let is_worth_it = incident.purpose.is_planned() || self.is_within_rpo(incident, promotion) || is_near();
                self.is_answering(from) && is_worth_it
            }
            Some(StepState::Running | StepState::Held) => self.is_answering(from),
            Some(StepState::Done) => self.waits_for_all(incident, promotion),
            Some(
                StepState::Failed
                | StepState::Owed
                | StepState::Skipped
                | StepState::Undoing
                | StepState::Undone
                | StepState::Cancelled,
            )
            | None => false,
        }
    }

    /// A promotion that was to be without loss, and whose old primary went silent before it was.
    pub(super) fn waits_in_vain(&self, incident: &Incident, promotion: &Step) -> bool {
        let Action::DatabasePromoted { from, .. } = &promotion.action else { return false };
        let is_lossless = incident.plan.progress.get(&promotion.id).is_some_and(|progress| progress.is_lossless);
        is_lossless && !Self::is_caught_up(incident, promotion) && self.is_silent(from)
    }

    /// It was waited for, and did not come; the failover is automatic, and the RPO allows it to be left behind.
    pub(super) fn has_waited_enough(&self, incident: &Incident, promotion: &Step) -> bool {
        let progress = incident.plan.progress.get(&promotion.id);
        progress.is_some_and(|progress| progress.state == StepState::Failed && progress.is_lossless)
            && !incident.purpose.is_planned()
            && !incident.plan.is_ordered(&promotion.id)
            && self.is_within_rpo(incident, promotion)
    }

    /// Nobody can wait for what it wrote: it is silent by the record, and by the word of enough regions. What only this
    /// observer cannot reach is left to another one.
    fn is_silent(&self, database: &InstanceId) -> bool {
        self.hard.suspicions.contains_key(database)
            && (self.policy.council.is_alone() || self.failing_for(database).is_some())
    }

    /// What cannot be undone in a region that is lost for good, as whoever aborted the incident after its commit point said.
    pub(super) fn is_lost_with_the_standby(&self, incident: &Incident, step: &StepId) -> bool {
        let plan = &incident.plan;
        let is_said = plan
            .parts
            .iter()
            .any(|(part, state)| matches!(state, PartState::Unwinding { aborted: true }) && plan.is_committed(part));
        let place = plan.step(step).and_then(|step| step.action.acts_at());
        is_said && place.is_some_and(|at| at.region == incident.target && !self.is_seen_answering(at))
    }

    /// Promotions that failed, and of which nobody knows whether they come about all the same: they are looked at all the
    /// time, so that whoever aborts has an answer at once.
    pub(super) fn look_at_failed_promotions(&mut self, id: &IncidentId) {
        let Some(incident) = self.incident(id) else { return };
        let plan = &incident.plan;
        let is_failed = |step: &&Step| {
            matches!(step.action, Action::DatabasePromoted { .. })
                && plan.is_wanted(&step.id)
                && plan.state(&step.id) == StepState::Failed
                && plan.progress.get(&step.id).is_some_and(|progress| progress.has_sent())
        };
        let failed = plan.steps.iter().filter(is_failed).map(|step| step.id.clone());
        let stale: Vec<StepId> = failed.filter(|step| self.fresh_look(&plan.id, step).is_none()).collect();
        for step in stale {
            self.look(id, &step);
        }
    }

    /// Nothing came of a promotion that failed, and nothing will: long after the last call it is still a replica that
    /// nobody promotes. An answer of a probe does not tell: one that is being promoted answers as a replica until it is.
    pub(super) fn why_not_in_vain(&self, incident: &Incident, step: &Step) -> Option<String> {
        let Action::DatabasePromoted { database, .. } = &step.action else {
            return Some(format!("{} cannot be taken back", step.id));
        };
        let progress = incident.plan.progress.get(&step.id)?;
        if progress.state != StepState::Failed {
            return Some(format!("{} has not failed", step.id));
        }
        let spent = progress.ended.map_or(Duration::MAX, |ended| self.hard.elapsed(ended, self.now));
        let left = self.policy.deadlines.promote.saturating_sub(spent);
        if !left.is_zero() {
            return Some(format!(
                "what was sent to {database} may still come about; in {} that will be known",
                human(left)
            ));
        }
        // While it is looked at again, what was seen a moment ago still holds.
        let look = self.soft.looks.get(&(incident.plan.id.clone(), step.id.clone()));
        let (seen_at, seen) =
            look.and_then(|look| look.seen.as_ref()).map_or((Duration::ZERO, None), |(at, seen)| (*at, Some(seen)));
        let is_old = self.now.monotonic.saturating_sub(seen_at) > 2 * self.policy.guards.look_fresh;
        match seen.filter(|_| !is_old) {
            Some(Ok(look)) if look.satisfied => Some(format!("{database} is promoted: {}", look.summary)),
            Some(Ok(_)) => None,
            Some(Err(why)) => Some(format!("it is not known whether {database} is being promoted: {why}")),
            None => Some(format!(
                "whether {database} is being promoted is just being looked at; order it again in a moment"
            )),
        }
    }
}
