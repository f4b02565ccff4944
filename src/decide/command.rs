//! What people order. A command is refused with the reason, or recorded; there is nothing in between.

use std::collections::BTreeMap;
use std::time::Duration;

use super::controller::Draft;
use super::incident::{Incident, PartState};
use super::judge::{Candidate, Order, initial_placement};
use super::losses::promotion;
use super::targets::target;
use super::{Command, Fact, StepState};
use crate::domain::{ComponentId, IncidentId, InstanceId, Kind, Mode, RegionId, Serving, StepId, time::human};
use crate::plan::{Action, Part, Purpose, Step};

impl Draft<'_> {
    /// An order that a former leader took, and that is in the ledger for as long as its answer is not, is not taken twice.
    pub(super) fn take_order(&mut self, request: Option<String>, command: Command) -> Result<String, String> {
        if let Some(answer) = request.as_ref().and_then(|request| self.hard.orders.get(request)) {
            return Ok(answer.clone());
        }
        let answer = self.command(command);
        if let (Some(request), Ok(answer)) = (request, &answer) {
            self.record(Fact::OrderTaken { request, answer: answer.clone() });
        }
        answer
    }

    fn command(&mut self, command: Command) -> Result<String, String> {
        for (name, words, max) in command.words() {
            if words.chars().count() > max || words.chars().any(char::is_control) {
                return Err(format!(
                    "`{name}` is for the record: one line of at most {max} characters, without control characters"
                ));
            }
        }
        match command {
            Command::Failover { by, reason, from, component, force } => {
                self.failover(format!("{by}: {reason}"), from, component, force)
            }
            Command::Switchover { by, reason, from, component } => {
                self.switchover(format!("{by}: {reason}"), &from, component)
            }
            Command::Failback { by, reason } => self.failback(format!("{by}: {reason}")),
            Command::Continue { by, incident } => self.go_on(by, &incident),
            Command::Rejoin { by, reason, database, discard } => {
                self.rejoin(format!("{by}: {reason}"), &database, discard)
            }
            Command::Approve { by, incident, hash, accept_unfenced, accept_loss } => {
                self.approve(by, &incident, hash, accept_unfenced, accept_loss)
            }
            Command::Hold { by, incident } => {
                self.open(&incident)?;
                self.record(Fact::Held { incident: incident.clone(), by });
                Ok(format!("{incident} is held: nothing more of it is sent; `failoverd resume` releases it"))
            }
            Command::Pause { by, until, reason } => self.pause(by, until, reason),
            Command::Resume { by } => self.resume(by),
            Command::Ack { by, incident, false_positive, note } => {
                if !self.hard.incidents.contains_key(&incident) {
                    return Err(self.no_incident(&incident));
                }
                self.record(Fact::Acknowledged { incident: incident.clone(), by, false_positive, note });
                Ok(format!("{incident} is acknowledged{}", if false_positive { " as a false positive" } else { "" }))
            }
            Command::Retry { by, incident, step } => self.retry(by, &incident, &step),
            Command::Skip { by, incident, step } => self.skip(by, &incident, &step),
            Command::Abort { by, incident, standby_lost } => self.abort(&by, &incident, standby_lost),
            Command::Adopt { by, placement } => self.adopt(by, placement),
            Command::Merge { by, record, unfinished } => self.merge(by, *record, unfinished),
            Command::BreakGlass(order) => self.break_glass(*order),
        }
    }

    pub(super) fn open(&self, id: &IncidentId) -> Result<&Incident, String> {
        self.incident(id).ok_or_else(|| self.no_incident(id))
    }

    fn no_incident(&self, id: &IncidentId) -> String {
        let open: Vec<&str> = self.hard.open_incidents().map(|incident| incident.id.as_str()).collect();
        match (self.hard.incidents.get(id), open.is_empty()) {
            (Some(_), _) => format!("{id} is closed"),
            (None, true) => format!("there is no incident {id}, and none is open"),
            (None, false) => format!("there is no incident {id}; open: {}", open.join(", ")),
        }
    }

    pub(super) fn failover(
        &mut self,
        ordered_by: String,
        source: RegionId,
        component: Option<ComponentId>,
        force: bool,
    ) -> Result<String, String> {
        let part = self.part_to_move(&source, component)?;
        let id = IncidentId::from("inc-0");
        let planned = self.draw(&id, &source, &part, Purpose::Failover, None).map_err(|no_plan| no_plan.to_string())?;
        // Forced or not: it would be called promoted, and take no writes.
        let mut promoted = planned.steps.iter().filter_map(|step| Some(promotion(&step.action)?.0));
        if let Some(database) = promoted.find(|database| self.hard.fenced.contains(*database)) {
            return Err(format!(
                "{database} was fenced, and lacks what was written since. If it shall serve all the same: take its fence down by \
                 hand, then `failoverd adopt --placement {}={}`. Otherwise `failoverd rejoin {database}` first",
                database.component, database.region
            ));
        }
        let candidate = Candidate::ordered(&source, part, self.now);
        let is_unwinding = |i: &&Incident| i.source == source && i.plan.is_unwinding() && !self.cannot_unwind(i);
        if let Some(incident) = self.hard.open_incidents().find(is_unwinding) {
            return Err(format!("{} is being undone; order it again when that has ended", incident.id));
        }
        if self.is_answered(&candidate) {
            return Err(format!("an incident for {source} is open and covers it; see `failoverd status`"));
        }
        // Forced or not.
        if let Some(guard) = self.would_meet(&source) {
            return Err(guard.to_string());
        }
        self.order(&candidate, Order { by: ordered_by, forced: force, purpose: Purpose::Failover })
    }

    /// Whether anything may be ordered at all, for a region that there is.
    pub(super) fn may_be_ordered(&self, source: &RegionId) -> Result<(), String> {
        if !self.policy.regions.contains_key(source) {
            let known: Vec<&str> = self.policy.regions.keys().map(RegionId::as_str).collect();
            return Err(format!("there is no region {source}; there are {}", known.join(", ")));
        }
        if self.policy.mode == Mode::Observe {
            return Err("the mode is observe, in which nothing is performed; set deployment.mode to \"approve\" or \
                        \"automatic\" and reload"
                .to_owned());
        }
        let guards = self.standing_guards();
        if !guards.is_empty() {
            return Err(guards.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
        }
        Ok(())
    }

    /// What a person wants to be moved out of a region, where anything may be moved at all.
    pub(super) fn part_to_move(&self, source: &RegionId, component: Option<ComponentId>) -> Result<Part, String> {
        self.may_be_ordered(source)?;
        let Some(component) = component else { return Ok(Part::Region) };
        let policy =
            self.policy.components.get(&component).ok_or_else(|| format!("there is no component {component}"))?;
        if matches!(policy.kind, Kind::Cloud | Kind::Traffic | Kind::Holdings) {
            return Err(format!("{component} is not moved by itself"));
        }
        if self.hard.placement.get(&component) != Some(source) {
            return Err(format!("{component} is not served in {source}"));
        }
        Ok(Part::Component(component))
    }

    /// Declares what a person ordered.
    pub(super) fn order(&mut self, candidate: &Candidate, order: Order) -> Result<String, String> {
        let joins = self.hard.open_incidents().find(|i| i.source == candidate.source).map(|i| i.id.clone());
        self.declare(candidate, Some(order));
        let incident = joins.or_else(|| self.hard.open_incidents().max_by_key(|i| i.number).map(|i| i.id.clone()));
        match incident {
            Some(incident) => Ok(format!(
                "{incident} is declared and its plan has started; follow it with `failoverd status --watch`"
            )),
            None => Err("no plan could be made".to_owned()),
        }
    }

    fn approve(
        &mut self,
        by: String,
        id: &IncidentId,
        hash: Option<String>,
        accept_unfenced: bool,
        accept_loss: Option<Duration>,
    ) -> Result<String, String> {
        let incident = self.open(id)?;
        let current = incident.plan.hash().to_owned();
        let plan = incident.plan.id.clone();
        if let Some(hash) = hash
            && hash != current
        {
            return Err(format!("the plan has changed: it is {current} now, not {hash}; look at it again"));
        }
        let expires = self.policy.guards.approval_expires;
        let until = self.now.wall.checked_add(expires).unwrap_or(self.now.wall);
        self.record(Fact::Approved { plan, hash: current.clone(), by, until, accept_unfenced, accept_loss });
        Ok(format!("plan {current} of {id} is approved for {}", human(expires)))
    }

    fn pause(&mut self, by: String, until: jiff::Timestamp, reason: String) -> Result<String, String> {
        let left =
            Duration::try_from(until.duration_since(self.now.wall)).map_err(|_| format!("{until} is in the past"))?;
        let most = self.policy.guards.pause_max;
        if left > most {
            return Err(format!("a pause lasts at most {}; a failover that nobody does is an outage too", human(most)));
        }
        self.record(Fact::Paused { until, by, reason });
        Ok(format!("paused for {}, until {until}; owed fences are still put up", human(left)))
    }

    fn resume(&mut self, by: String) -> Result<String, String> {
        let held: Vec<IncidentId> =
            self.hard.open_incidents().filter(|incident| incident.is_held).map(|i| i.id.clone()).collect();
        if self.hard.paused.is_none() && held.is_empty() {
            return Err("nothing is paused or held".to_owned());
        }
        if self.hard.paused.is_some() {
            self.record(Fact::Resumed { by: by.clone() });
        }
        for incident in held {
            self.record(Fact::Released { incident, by: by.clone() });
        }
        Ok("failoverd acts again".to_owned())
    }

    fn retry(&mut self, by: String, id: &IncidentId, step: &StepId) -> Result<String, String> {
        let incident = self.open(id)?;
        let plan = incident.plan.id.clone();
        let progress = incident.plan.progress.get(step).ok_or_else(|| no_step(incident, step))?;
        let is_owed_fence = progress.state == StepState::Owed && incident.plan.fence_of(step).is_some();
        if progress.state != StepState::Failed && !progress.undo_failed && !is_owed_fence {
            return Err(format!("step {step} has not failed"));
        }
        if !progress.undo_failed && !incident.plan.is_wanted(step) {
            return Err(format!("step {step} is not needed any more: what it was for has been taken back"));
        }
        self.record(Fact::RetryOrdered { plan, step: step.clone(), by });
        Ok(format!("step {step} is tried again"))
    }

    fn skip(&mut self, by: String, id: &IncidentId, step: &StepId) -> Result<String, String> {
        let incident = self.open(id)?;
        let plan = incident.plan.id.clone();
        let progress = incident.plan.progress.get(step).ok_or_else(|| no_step(incident, step))?;
        let definition = incident.plan.step(step).ok_or_else(|| no_step(incident, step))?;
        match progress.state {
            StepState::Failed | StepState::Waiting => {}
            StepState::Undoing if progress.undo_failed => {}
            StepState::Undoing | StepState::Running => return Err(format!("step {step} is under way")),
            StepState::Held
            | StepState::Done
            | StepState::Owed
            | StepState::Skipped
            | StepState::Undone
            | StepState::Cancelled => return Err(format!("step {step} is settled")),
        }
        if let Action::DatabasePromoted { database, .. } = &definition.action {
            if self.hard.fenced.contains(database) {
                return Err(format!(
                    "{database} was fenced and takes no writes. If it shall serve although it lacks what was written since: take \
                     its fence down by hand, `failoverd abort {id}`, then `failoverd adopt --placement {}={}`",
                    database.component, database.region
                ));
            }
            let watch = self.soft.watches.get(database).filter(|watch| watch.is_answering(self.now.monotonic));
            if watch.is_some_and(|watch| watch.evidence.serving == Some(Serving::Replica)) {
                return Err(format!(
                    "{database} is a replica and takes no writes; promote it by hand first, then skip the step. Where its \
                     promotion was refused and the old primary is well again: `failoverd abort {id}`"
                ));
            }
        }
        if let Action::Traffic { traffic, .. } = &definition.action {
            let receives = |region: &RegionId| {
                let id = InstanceId { component: traffic.clone(), region: region.clone() };
                self.soft.watches.get(&id).is_some_and(|watch| watch.evidence.serving == Some(Serving::Writable))
            };
            if receives(&incident.source) && definition.places.values().any(|region| !receives(region)) {
                return Err(format!(
                    "{traffic} still sends clients to {}; change the record by hand first, then skip the step",
                    incident.source
                ));
            }
        }
        let places = definition.places.clone();
        self.record(Fact::StepSkipped { plan, step: step.clone(), by });
        // The person says that it is as it should be: the work goes on as if the step had done it.
        for (component, region) in places {
            if self.hard.placement.get(&component) != Some(&region) {
                self.record(Fact::PlacementChanged { component, region });
            }
        }
        Ok(format!("step {step} is skipped; what waited for it goes on as if it were done"))
    }

    fn abort(&mut self, by: &str, id: &IncidentId, standby_lost: bool) -> Result<String, String> {
        let incident = self.open(id)?;
        let plan = incident.plan.id.clone();
        let parts: Vec<Part> = incident
            .plan
            .parts
            .iter()
            .filter(|(_, state)| **state == PartState::Open)
            .map(|(part, _)| part.clone())
            .collect();
        if parts.is_empty() {
            return Err(format!("{id} is unwinding already"));
        }
        let left = if standby_lost { self.left_with_the_standby(incident)? } else { BTreeMap::new() };
        let why = if standby_lost { None } else { self.why_committed(incident) };
        let (committed, undone): (Vec<Part>, Vec<Part>) =
            parts.into_iter().partition(|part| incident.plan.is_committed(part) && why.is_some());
        if undone.is_empty() {
            return Err(format!(
                "{id} has passed a commit point, and {}: it can only go forward (`failoverd retry`, `failoverd skip`, \
                 `failoverd hold`). Where {} is lost for good, and {} is well: `failoverd abort {id} --standby-lost`",
                why.unwrap_or_default(),
                incident.target,
                incident.source
            ));
        }
        for part in undone.iter().cloned() {
            let why = format!("aborted by {by}");
            self.record(Fact::UnwindingStarted { plan: plan.clone(), part, why, aborted: true });
        }
        for (component, region) in left {
            self.record(Fact::PlacementChanged { component, region });
        }
        if committed.is_empty() {
            return Ok(format!("{id} is being undone"));
        }
        let words = |parts: &[Part]| parts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let (undone, committed) = (words(&undone), words(&committed));
        Ok(format!("{undone} of {id} is being undone; {committed} has passed a commit point and goes on"))
    }

    /// What had moved to a region that is lost for good, and where it is served again: where the incident found it.
    fn left_with_the_standby(&self, incident: &Incident) -> Result<BTreeMap<ComponentId, RegionId>, String> {
        let plan = &incident.plan;
        let sent = plan.steps.iter().filter(|step| {
            plan.progress.get(&step.id).is_some_and(|progress| progress.has_passed_commit_point && progress.has_sent())
        });
        for step in sent {
            let Some((standby, _)) = target(step) else { continue };
            if self.is_seen_answering(standby) || self.failing_for(standby).is_none() {
                return Err(format!(
                    "{standby} is not known to be lost: it answers, or its failing is not certain yet"
                ));
            }
            if let Action::DatabasePromoted { from, .. } = &step.action
                && !self.is_seen_answering(from)
            {
                return Err(format!("{from} does not answer: with {standby} lost, nothing would serve"));
            }
        }
        let moved = plan.steps.iter().flat_map(|step| step.places.iter());
        let moved = moved.filter(|(component, region)| self.hard.placement.get(*component) == Some(region));
        Ok(moved.map(|(component, _)| (component.clone(), incident.source.clone())).collect())
    }

    /// What was sent beyond a commit point and may have come about, or still may.
    fn why_committed(&self, incident: &Incident) -> Option<String> {
        let plan = &incident.plan;
        let is_sent = |step: &&Step| {
            let progress = plan.progress.get(&step.id);
            progress.is_some_and(|progress| progress.has_passed_commit_point && progress.has_sent())
        };
        let mut sent: Vec<&Step> = plan.steps.iter().filter(is_sent).collect();
        // What cannot come to nothing says it best.
        sent.sort_by_key(|step| matches!(step.action, Action::DatabasePromoted { .. }));
        sent.into_iter().find_map(|step| self.why_not_in_vain(incident, step))
    }

    fn adopt(&mut self, by: String, stated: BTreeMap<ComponentId, RegionId>) -> Result<String, String> {
        let open = self.hard.open_incidents().next().map(|incident| incident.id.clone());
        if let Some(incident) = open.filter(|_| !self.is_halted()) {
            // Who is in charge has to be said even then; what is being moved stays as it is.
            if self.claimed_by_another().is_none() || !stated.is_empty() {
                return Err(format!("{incident} is open; a placement is adopted when nothing is being moved"));
            }
            return self.take_charge(by);
        }
        self.are_places(&stated)?;
        // A mistyped region would have the only database that takes writes demoted by its guardian.
        let is_replica = |(component, region): (&ComponentId, &RegionId)| {
            let id = InstanceId { component: component.clone(), region: region.clone() };
            let watch = self.soft.watches.get(&id).filter(|watch| watch.is_answering(self.now.monotonic))?;
            (watch.kind == Kind::Database && watch.evidence.serving == Some(Serving::Replica)).then_some(id)
        };
        if let Some(replica) = stated.iter().find_map(is_replica) {
            return Err(format!(
                "{replica} is a replica and takes no writes: it does not serve; promote it first, by hand"
            ));
        }
        let mut placement =
            if self.hard.is_adopted { self.hard.placement.clone() } else { initial_placement(self.policy) };
        for (component, policy) in &self.policy.components {
            if !matches!(policy.kind, Kind::Database | Kind::Traffic) || stated.contains_key(component) {
                continue;
            }
            let at = |region: &RegionId| InstanceId { component: component.clone(), region: region.clone() };
            // An old primary that came back takes writes too, until it is fenced.
            let is_left = |id: &InstanceId| self.hard.fenced.contains(id) || self.hard.owed.contains_key(id);
            let writable =
                policy.regions.iter().filter(|region| !is_left(&at(region)) && self.takes_writes(&at(region)));
            let writable: Vec<RegionId> = writable.cloned().collect();
            let recorded = self.hard.placement.get(component).map(at);
            let silent = recorded.filter(|id| self.hard.is_adopted && !self.is_answering(id));
            match writable.as_slice() {
                [] => {}
                [region] if silent.as_ref().is_some_and(|id| id.region != *region) => {
                    return Err(format!(
                        "{component} is recorded in {}, which does not answer, and accepts writes in {region}: say which is \
                         right with --placement {component}=REGION",
                        silent.map(|id| id.region.to_string()).unwrap_or_default()
                    ));
                }
                [region] => {
                    placement.insert(component.clone(), region.clone());
                }
                several => {
                    let regions: Vec<&str> = several.iter().map(RegionId::as_str).collect();
                    return Err(format!(
                        "{component} accepts writes in {}: say which is right with --placement {component}=REGION",
                        regions.join(" and ")
                    ));
                }
            }
        }
        placement.extend(stated);
        let shown: Vec<String> = placement.iter().map(|(component, region)| format!("{component}={region}")).collect();
        self.put_in_charge(placement, by)?;
        Ok(format!("adopted: {}", shown.join(", ")))
    }

    /// A person says that this ledger is the one in charge, in the middle of an incident.
    fn take_charge(&mut self, by: String) -> Result<String, String> {
        self.put_in_charge(self.hard.placement.clone(), by)?;
        Ok("this failoverd is in charge; nothing else was changed, and what is open goes on".to_owned())
    }

    pub(super) fn put_in_charge(
        &mut self,
        placement: BTreeMap<ComponentId, RegionId>,
        by: String,
    ) -> Result<(), String> {
        if self.hard.ledger.is_none() {
            return Err("the ledger has no identity".to_owned());
        }
        self.record(Fact::PlacementAdopted { placement, by });
        self.take_clusters_over();
        Ok(())
    }
}

fn no_step(incident: &Incident, step: &StepId) -> String {
    let steps: Vec<&str> = incident.plan.steps.iter().map(|step| step.id.as_str()).collect();
    format!("{} has no step {step}; it has {}", incident.id, steps.join(", "))
}
