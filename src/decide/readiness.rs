//! Before a step: may it start? At a commit point everything is judged once more.

use std::time::Duration;

use super::advance::Readiness;
use super::again::Again;
use super::controller::Draft;
use super::incident::{Approval, Incident, PartState};
use super::judge::Candidate;
use super::roles::takes_roles;
use super::watches::Watched;
use super::{Guard, GuardKind, StepState};
use crate::domain::{Bug, IncidentId, InstanceId, Kind, Layer, Mode, Serving, StepId, UnfencedPromotion, time::human};
use crate::plan::{Action, Part, Step};
use crate::ports::Setback;

/// From one ballot of an observer to the next, about.
const BALLOT_SOON: Duration = Duration::from_millis(500);
/// Claims that were not read by then are asked for again: the shell gives up earlier.
const SURVEY_MAX: Duration = Duration::from_secs(90);

impl Draft<'_> {
    pub(super) fn readiness(&mut self, id: &IncidentId, step: &Step) -> Readiness {
        let Some(incident) = self.hard.incidents.get(id).filter(|incident| incident.closed.is_none()).cloned() else {
            return Readiness::Held(Vec::new());
        };
        let mut guards = self.interdicts(id);
        guards.extend(self.missing_approval(&incident, step));
        guards.extend(self.contradiction(&incident, step));
        guards.extend(self.waits_for_stage(&incident, step));
        if !guards.is_empty() {
            return Readiness::Held(guards);
        }
        // What is there is not judged as if it were still to come, however late it came.
        let is_there = matches!(&step.action, Action::DatabasePromoted { database, .. } if self.takes_writes(database));
        let has_passed = incident
            .plan
            .progress
            .get(&step.id)
            .is_some_and(|p| p.has_passed_commit_point && (!p.is_retried || (is_there && p.has_sent())));
        let is_anew = match (has_passed && !is_there).then(|| self.again(&incident, step)) {
            None | Some(Again::GoOn) => false,
            Some(Again::Anew) => true,
            Some(Again::Look) => return Readiness::Looking,
            Some(Again::Waits(guard)) => return Readiness::Held(vec![guard]),
            Some(Again::NotBegun(why)) => return Readiness::NotBegun(why),
        };
        let is_restart = (has_passed && !is_anew) || self.bugs.has(Bug::CommitPointNotJudged);
        let mut loss = None;
        let mut exceptions = Vec::new();
        // A share of the traffic is taken back when its region is well, so it has no commit point. It is judged as if.
        let moves_share = step.is_share();
        // A fence ends the writes of what it is put up against.
        let is_fence = matches!(step.action, Action::Fenced { .. });
        let is_judged = step.commit_point || moves_share || is_fence;
        guards.extend(self.fenced_in_vain(&incident, step));
        guards.extend(self.skipped_in_vain(&incident, step));
        guards.extend(self.overwrites_too_much(&incident, step));
        let mut waits_for_others = false;
        if !is_restart {
            guards.extend(self.unready_target(&incident, step));
            if let Some(promotion) = self.promotion_behind(&incident, step) {
                if promotion.id != step.id {
                    guards.extend(self.unready_target(&incident, &promotion));
                }
                match self.judge_loss(&incident, &promotion) {
                    Ok((expected, accepted)) => {
                        loss = expected;
                        exceptions.extend(accepted);
                    }
                    Err(guard) => guards.push(guard),
                }
            }
            if moves_share && step.part == Part::Reroute {
                guards.extend(self.useless_rerouting(&incident.source));
            }
            for other in self.goes_with(&incident, step) {
                waits_for_others |= step.commit_point && !incident.plan.is_due(&other);
                guards.extend(self.unready_along(&incident, step, &other));
            }
            if is_judged {
                guards.extend(self.lost_verdict(&incident, step));
                if matches!(step.action, Action::DatabasePromoted { .. }) {
                    match self.judge_fence(&incident, &step.action) {
                        Ok(exception) => exceptions.extend(exception),
                        Err(guard) => guards.push(guard),
                    }
                }
            }
        }
        let around = self.look_around(&incident, step, is_restart);
        if let Some(why) = around.lost {
            return Readiness::Owed(why);
        }
        let is_looking = around.is_looking || !around.stale.is_empty();
        // Looks cost nothing: ask even while guards hold, so that all reasons are known at once.
        for step in around.stale {
            self.look(id, &step);
        }
        guards.extend(around.blocked);
        if guards.is_empty() && is_looking {
            return Readiness::Looking;
        }
        if !guards.is_empty() {
            let recheck = self.now.monotonic + self.policy.guards.recheck;
            self.wake(recheck, "a guard that holds a step is judged again");
            return Readiness::Held(guards);
        }
        if waits_for_others {
            return Readiness::Looking;
        }
        // After a restart nothing is sent before the claims were read once: this may be a copy of a ledger that went on.
        let is_surveyed = if is_judged && !is_restart { self.is_surveyed() } else { self.has_surveyed() };
        if !is_surveyed {
            return Readiness::Looking;
        }
        if takes_roles(step) && !is_restart && !has_passed {
            // Last of all, so that nobody loses a role for a plan that does not go on.
            if let Some(guard) = self.roles_left(&incident, step) {
                return Readiness::Held(vec![guard]);
            }
        }
        let look = match self.fresh_look(&incident.plan.id, &step.id) {
            Some(Ok(look)) => Some(look.clone()),
            Some(Err(_)) | None => None,
        };
        Readiness::Go { look, loss, exceptions, is_judged: !is_restart }
    }

    /// What forbids everything that an incident would do, forwards and backwards.
    pub(super) fn interdicts(&mut self, id: &IncidentId) -> Vec<Guard> {
        let mut guards = self.standing_guards();
        guards.extend(self.takeover());
        if self.incident(id).is_some_and(|incident| incident.is_held) {
            guards.push(Guard {
                kind: GuardKind::Held,
                evidence: "a person holds this incident".to_owned(),
                lifted_by: "`failoverd resume`".to_owned(),
            });
        }
        guards
    }

    /// A promotion that a person left out, and that is not there: nothing is pointed at a database that takes no writes.
    fn skipped_in_vain(&self, incident: &Incident, step: &Step) -> Option<Guard> {
        let is_pointing = match &step.action {
            Action::Traffic { .. } => !step.is_share(),
            Action::Published { .. } => true,
            Action::IncidentDeclared { .. }
            | Action::Fenced { .. }
            | Action::Replicas { .. }
            | Action::DatabasePromoted { .. }
            | Action::CaughtUp { .. }
            | Action::Rejoined { .. }
            | Action::Protected { .. }
            | Action::RolledOut { .. }
            | Action::CacheActive { .. }
            | Action::StorageReachable { .. }
            | Action::Manifests { .. }
            | Action::Restored { .. }
            | Action::ManifestsRemoved { .. }
            | Action::IncidentEnded { .. }
            | Action::Verified { .. } => false,
        };
        let skipped = step.after.iter().filter(|id| incident.plan.state(id) == StepState::Skipped);
        let database = skipped.filter_map(|id| incident.plan.step(id)).find_map(|promotion| {
            if let Action::DatabasePromoted { database, .. } = &promotion.action { Some(database) } else { None }
        })?;
        let writable = |watch: &Watched| watch.evidence.serving == Some(Serving::Writable);
        if !is_pointing || incident.is_forced || self.soft.watches.get(database).is_some_and(writable) {
            return None;
        }
        Some(Guard {
            kind: GuardKind::TargetNotReady,
            evidence: format!("{database} takes no writes, although its promotion was left out as done by hand"),
            lifted_by: format!("promoting {database} by hand; or `failoverd retry` of its promotion"),
        })
    }

    fn missing_approval(&self, incident: &Incident, step: &Step) -> Option<Guard> {
        let is_ordered = incident.plan.is_ordered(&step.id);
        if self.policy.mode != Mode::Approve || is_ordered || self.approval(incident).is_some() {
            return None;
        }
        let hash = incident.plan.hash();
        Some(Guard {
            kind: GuardKind::Mode,
            evidence: format!("the mode is approve, and plan {hash} has no approval that is still good"),
            lifted_by: format!("`failoverd approve {} --plan-hash {hash}`", incident.id),
        })
    }

    /// An observer inside the region sees alive what is left behind: a person decides.
    fn contradiction(&self, incident: &Incident, step: &Step) -> Option<Guard> {
        let has_passed = incident.plan.progress.get(&step.id).is_some_and(|progress| progress.has_passed_commit_point);
        let is_approved = self.approval(incident).is_some_and(|approval| approval.against_witness);
        if has_passed || incident.plan.is_ordered(&step.id) || is_approved {
            return None;
        }
        let parts = incident.plan.needed_by.get(&step.id)?.iter();
        // What has left already does not come back because it is seen alive: from there on it only goes forward.
        let has_left = |part: &Part| {
            incident.plan.is_committed(part)
                || incident.plan.is_committed(&Part::Region)
                || matches!(part, Part::Component(component) if self.hard.placement.get(component) != Some(&incident.source))
        };
        let is_open = |part: &Part| incident.plan.parts.get(part) == Some(&PartState::Open);
        let mut open = parts.filter(|part| is_open(part) && !has_left(part));
        let seen = open.find_map(|part| self.witness(&incident.source, part))?;
        Some(Guard {
            kind: GuardKind::Witness,
            evidence: format!("{seen}: a partition between regions, and no outage"),
            lifted_by: format!("it failing there too, or `failoverd approve {}`", incident.id),
        })
    }

    /// The approval, if it is for the plan as it stands and has not expired.
    pub(super) fn approval<'a>(&self, incident: &'a Incident) -> Option<&'a Approval> {
        incident.plan.approval.as_ref().filter(|approval| {
            (approval.hash == incident.plan.hash() || self.bugs.has(Bug::ApprovalOfAnotherPlan))
                && !self.hard.time_left_for_sure(approval.stamp, approval.until, self.now).is_zero()
        })
    }

    /// The promotion that the step is or leads to: a fence takes an old primary away, so it is judged like one.
    fn promotion_behind(&self, incident: &Incident, step: &Step) -> Option<Step> {
        match &step.action {
            Action::DatabasePromoted { .. } => Some(step.clone()),
            Action::Fenced { .. } => incident
                .plan
                .steps
                .iter()
                .find(|other| other.after.contains(&step.id) && matches!(other.action, Action::DatabasePromoted { .. }))
                .cloned(),
            Action::IncidentDeclared { .. }
            | Action::Replicas { .. }
            | Action::CaughtUp { .. }
            | Action::Rejoined { .. }
            | Action::Protected { .. }
            | Action::Published { .. }
            | Action::RolledOut { .. }
            | Action::CacheActive { .. }
            | Action::StorageReachable { .. }
            | Action::Traffic { .. }
            | Action::Manifests { .. }
            | Action::Restored { .. }
            | Action::ManifestsRemoved { .. }
            | Action::IncidentEnded { .. }
            | Action::Verified { .. } => None,
        }
    }

    /// The other steps that the first commit point is for: a region is not left by half. Where the database cannot
    /// follow, neither a cache nor a bucket goes ahead, and no database is fenced for a plan that cannot go on.
    fn goes_with(&self, incident: &Incident, step: &Step) -> Vec<Step> {
        if !is_first_commit(incident, step) {
            return Vec::new();
        }
        let plan = &incident.plan;
        plan.steps
            .iter()
            .filter(|other| other.id != step.id && other.commit_point && !other.best_effort)
            .filter(|other| plan.is_wanted(&other.id) && plan.state(&other.id) == super::StepState::Waiting)
            .filter(|other| are_for_one_part(incident, step, other) && !follows_commit_point(incident, other))
            .cloned()
            .collect()
    }

    /// Why `other`, which is decided together with `step`, could not go.
    fn unready_along(&self, incident: &Incident, step: &Step, other: &Step) -> Vec<Guard> {
        let mut guards: Vec<Guard> = self.unready_target(incident, other).into_iter().collect();
        guards.extend(self.judge_loss(incident, other).err());
        if !step.commit_point {
            return guards;
        }
        if incident.plan.is_due(other) {
            guards.extend(self.judge_fence(incident, &other.action).err());
        }
        guards
    }

    fn judge_fence(&self, incident: &Incident, action: &Action) -> Result<Option<String>, Guard> {
        let Action::DatabasePromoted { database, from, .. } = action else { return Ok(None) };
        if self.is_fenced(&incident.id, from) || self.bugs.has(Bug::PromotionBeforeFence) {
            return Ok(None);
        }
        if self.fences_itself(from) {
            return Ok(Some(format!("{from} cannot be reached; its guardian makes it refuse writes by itself")));
        }
        let policy = self.policy.components.get(&database.component);
        let allows = !incident.purpose.is_planned()
            && policy.is_some_and(|policy| policy.unfenced_promotion == UnfencedPromotion::Allow);
        // A primary that answers is one that clients can write to, and one of which nothing is known may be one: only a
        // person may promote beside it.
        if allows && self.is_down(from) {
            return Ok(Some(format!("{from} could not be fenced; unfenced_promotion = \"allow\"")));
        }
        // Whoever broke the glass was promised that an old primary that answers is fenced first.
        let must_be_fenced = self.hard.break_glass.is_some() && self.is_answering(from);
        let approval = self.approval(incident).filter(|approval| self.hard.accepts_unfenced(database, approval));
        if let Some(approval) = approval.filter(|_| !must_be_fenced) {
            return Ok(Some(format!("{from} is not fenced; accepted by {}", approval.by)));
        }
        let lifted_by = match must_be_fenced {
            true => format!("the fence, or {from} being stopped by hand"),
            false => format!("the fence, or `failoverd approve {} --accept-unfenced`", incident.id),
        };
        let evidence = if self.is_answering(from) {
            format!("{from} answers and is not fenced: two databases would accept writes")
        } else if allows && let Some(watch) = self.soft.watches.get(from) {
            format!("{from} is not fenced, and is not known to be down: {}", watch.why(self.now.monotonic))
        } else {
            format!("{from} could not be reached to be fenced, and may still accept writes")
        };
        Err(Guard { kind: GuardKind::Unfenced, evidence, lifted_by })
    }

    /// It fails, and no session comes about. One that lets us in and fails further on (a query, a write of our own) may be
    /// serving everybody else.
    fn is_down(&self, database: &InstanceId) -> bool {
        let layer = self.soft.watches.get(database).and_then(|watch| watch.failing_layer());
        let is_seen = !self.policy.council.is_alone() && self.is_seen_answering(database);
        self.failing_for(database).is_some()
            && !is_seen
            && matches!(layer, Some(Layer::Dns | Layer::Tcp | Layer::Tls | Layer::Greeting))
    }

    /// Until the part's first commit point, the loss has to be as clear as it was when it was declared.
    fn lost_verdict(&mut self, incident: &Incident, step: &Step) -> Option<Guard> {
        if incident.plan.is_ordered(&step.id) {
            return None;
        }
        let source = &incident.source;
        let parts: Vec<&Part> = incident
            .plan
            .needed_by
            .get(&step.id)
            .into_iter()
            .flatten()
            .filter(|part| incident.plan.parts.get(*part) == Some(&PartState::Open))
            .collect();
        // What was sent cannot be judged away, and does not come back with what it was sent for.
        if incident.plan.progress.get(&step.id).is_some_and(|progress| progress.has_passed_commit_point) {
            return None;
        }
        // A whole region does not wait for one component's confirmation.
        let confirm = step.confirm.as_ref().filter(|_| !parts.contains(&&Part::Region));
        if parts.iter().any(|part| incident.plan.is_committed(part)) && confirm.is_none() {
            return None;
        }
        let candidates = self.candidates();
        let full = |part: &Part| candidates.iter().find(|c| c.source == *source && c.part == *part && c.is_full());
        let Some(candidate) = parts.iter().find_map(|part| full(part)) else {
            return Some(Guard {
                kind: GuardKind::Verdict,
                evidence: format!("{source} is not failing as it was when {} was declared", incident.id),
                lifted_by: "the failure lasting for its whole window again; a recovery unwinds the plan".to_owned(),
            });
        };
        if let Some(doubt) = self.doubt(source, candidate.since) {
            return Some(doubt);
        }
        if let Some(doubt) = self.reached_again(incident, step, candidate.since + candidate.after) {
            return Some(doubt);
        }
        let confirm = confirm?;
        let region = candidates.iter().find(|c| c.source == *source && c.part == Part::Region && c.missing.is_none());
        // A witness that fails as well, only not for long enough yet (it was started anew in the middle of the outage), holds
        // the region back for a moment, and does not hold back what a row needs.
        let is_coming = |region: &Candidate| {
            let guards = if region.is_full() { self.guards_of(region) } else { Vec::new() };
            let is_a_matter_of_time = !self.is_seen_inside(source);
            guards.iter().all(|guard| guard.kind == GuardKind::Witness && is_a_matter_of_time)
        };
        if let Some(region) = region.filter(|region| is_coming(region)).cloned() {
            // Clients that are sent to a standby whose database is still a replica gain nothing, and GitHub lost a day
            // that way: when everything fails together, traffic waits for the plan that moves everything.
            // What others see lasts for longer with each of their ballots, and is heard anyway.
            let certain_at = region.since + region.after;
            if certain_at > self.now.monotonic {
                self.wake(certain_at.max(self.now.monotonic + BALLOT_SOON), "a regional outage is certain");
            }
            return Some(Guard {
                kind: GuardKind::Verdict,
                evidence: format!("all of {source} has been failing for {}", human(region.failing_for)),
                lifted_by: format!(
                    "its recovery, or {}: then the traffic moves with the rest of the region",
                    human(region.after)
                ),
            });
        }
        if self.bugs.has(Bug::TrafficUnconfirmed) {
            return None;
        }
        let failing_for = self.failing_for(&confirm.instance).unwrap_or_default();
        if failing_for < confirm.lasting {
            let left = confirm.lasting - failing_for;
            self.wake(self.now.monotonic + left, "a failure has lasted long enough to move traffic");
        }
        (failing_for < confirm.lasting).then(|| Guard {
            kind: GuardKind::Verdict,
            evidence: format!("{} has failed for {}", confirm.instance, human(failing_for)),
            lifted_by: format!("failing for {}", human(confirm.lasting)),
        })
    }

    /// A database that was to be fenced because it fails, and that was reached: a probe of its own, after the window was
    /// full, tells one that came back from one that fails further in.
    fn reached_again(&self, incident: &Incident, step: &Step, full_at: Duration) -> Option<Guard> {
        let Action::Fenced { database } = &step.action else { return None };
        let is_reached = matches!(self.fresh_look(&incident.plan.id, &step.id), Some(Ok(_)));
        let was_probed_since = self.soft.watches.get(database)?.last_began().is_some_and(|began| began >= full_at);
        (is_reached && !was_probed_since).then(|| Guard {
            kind: GuardKind::Verdict,
            evidence: format!("{database} was reached a moment ago, and may be back"),
            lifted_by: "its next probe".to_owned(),
        })
    }

    fn look_around(&self, incident: &Incident, step: &Step, is_restart: bool) -> Around {
        if is_restart {
            return Around::default();
        }
        let plan = &incident.plan;
        let is_first_commit = is_first_commit(incident, step);
        let mut seen = Around::default();
        let around: Vec<&Step> = if is_first_commit {
            plan.steps
                .iter()
                .filter(|other| plan.is_wanted(&other.id) && (!other.best_effort || other.id == step.id))
                .filter(|other| plan.state(&other.id) == super::StepState::Waiting)
                .filter(|other| are_for_one_part(incident, step, other))
                .collect()
        } else {
            vec![step]
        };
        for other in around {
            let fresh = self.fresh_look(&plan.id, &other.id);
            let known = self.soft.looks.get(&(plan.id.clone(), other.id.clone()));
            if fresh.is_none() {
                match known.and_then(|look| look.asked) {
                    Some(_) => seen.is_looking = true,
                    None => seen.stale.push(other.id.clone()),
                }
            }
            // While it is looked at again, what was in the way is in the way: a reason must not come and go.
            let result = fresh.or_else(|| known.and_then(|look| look.seen.as_ref()).map(|(_, result)| result));
            let Some(Err(Setback::Transient(why) | Setback::Refused(why) | Setback::NotYet(why))) = result else {
                continue;
            };
            let is_lost = other.best_effort
                || matches!(&other.action, Action::Fenced { database } if !self.is_seen_answering(database));
            if is_lost && other.id != step.id {
                // It will be owed, and holds nothing else back.
                continue;
            }
            if is_lost && fresh.is_some() {
                return Around { lost: Some(why.clone()), ..Around::default() };
            }
            seen.blocked.get_or_insert_with(|| Guard {
                kind: GuardKind::PathNotReady,
                evidence: format!("step {} ({}) cannot even be looked at: {why}", other.id, other.action),
                lifted_by: "the service that it needs answering".to_owned(),
            });
        }
        seen
    }

    /// The claims were read a moment ago; asks for them if not.
    pub(super) fn is_surveyed(&mut self) -> bool {
        let has_clusters = self.policy.of_kind(Kind::Kubernetes).next().is_some();
        let fresh = self
            .soft
            .survey
            .as_ref()
            .is_some_and(|(at, _)| self.now.monotonic.saturating_sub(*at) < self.policy.guards.look_fresh);
        if fresh || !has_clusters {
            return true;
        }
        let asked = self.soft.survey_asked;
        if asked.is_none_or(|asked| self.now.monotonic.saturating_sub(asked) > SURVEY_MAX) {
            self.soft.survey_asked = Some(self.now.monotonic);
            self.perform(super::Effect::Survey);
        }
        self.wake(self.now.monotonic + SURVEY_MAX, "the claims were to be read");
        false
    }

    /// The claims were read since this daemon began to lead.
    pub(super) fn has_surveyed(&mut self) -> bool {
        self.soft.survey.is_some() || self.is_surveyed()
    }
}

/// Nothing that cannot be taken back was done for the parts that need the step. A fence counts: it ends the writes.
fn is_first_commit(incident: &Incident, step: &Step) -> bool {
    let plan = &incident.plan;
    (step.commit_point || matches!(step.action, Action::Fenced { .. }))
        && plan.needed_by.get(&step.id).is_some_and(|parts| parts.iter().all(|part| !plan.is_committed(part)))
}

fn are_for_one_part(incident: &Incident, step: &Step, other: &Step) -> bool {
    let parts = |step: &Step| incident.plan.needed_by.get(&step.id);
    parts(step).zip(parts(other)).is_some_and(|(ours, theirs)| !ours.is_disjoint(theirs))
}

fn follows_commit_point(incident: &Incident, step: &Step) -> bool {
    step.after
        .iter()
        .filter_map(|before| incident.plan.step(before))
        .any(|before| before.commit_point || follows_commit_point(incident, before))
}

/// What the looks at the steps ahead say.
#[derive(Default)]
struct Around {
    /// What the step needs is in the lost region.
    lost: Option<String>,
    /// To be looked at again.
    stale: Vec<StepId>,
    /// Some looks have not come back.
    is_looking: bool,
    /// What one of them saw in the way.
    blocked: Option<Guard>,
}
