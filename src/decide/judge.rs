//! The matrix: which losses are there, and what speaks against acting on them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::controller::Draft;
use super::hard::Declared;
use super::incident::{PartState, Plan, Progress};
use super::{Fact, Guard, GuardKind};
use crate::domain::{Bug, ComponentId, IncidentId, InstanceId, Kind, Level, Mode, Now, PlanId, RegionId, time::human};
use crate::plan::{self, Part, Purpose, Situation};

/// What other observers say is looked at again with their ballots, and no more often than this.
const BALLOTS_PACE: Duration = Duration::from_millis(250);

/// A loss that a row of the matrix, or the rule for regions, sees.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Candidate {
    pub(super) source: RegionId,
    pub(super) part: Part,
    /// For how long already.
    pub(super) failing_for: Duration,
    /// The threshold.
    pub(super) after: Duration,
    /// Start of the first failing probe.
    pub(super) since: Duration,
    /// A kind of evidence is missing, or a critical component answers.
    pub(super) missing: Option<String>,
}

/// What a person wants, and who.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) by: String,
    /// Although the target is not known to be ready.
    pub(super) forced: bool,
    pub(super) purpose: Purpose,
}

impl Candidate {
    /// What a person ordered, now.
    pub(super) fn ordered(source: &RegionId, part: Part, now: Now) -> Self {
        Self {
            source: source.clone(),
            part,
            failing_for: Duration::ZERO,
            after: Duration::ZERO,
            since: now.monotonic,
            missing: None,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.failing_for >= self.after && self.missing.is_none()
    }

    pub(super) fn level(&self) -> Level {
        match self.part {
            Part::Component(_) | Part::Healing { .. } | Part::Rejoin { .. } => Level::ComponentFailure,
            Part::Region => Level::RegionalOutage,
            Part::Reroute => Level::ServiceDegradation,
            Part::Zone { .. } => Level::DataCentreFailure,
        }
    }
}

impl Draft<'_> {
    /// Declares what has to be declared, or records why it is not. Returns what it judged.
    pub(super) fn judge(&mut self) -> Vec<Candidate> {
        let candidates = self.candidates();
        self.hear_witnesses(&candidates);
        for candidate in &candidates {
            if !candidate.is_full() {
                if candidate.missing.is_none() {
                    // What others say grows with their ballots, and not by itself.
                    let at_most = if self.policy.council.is_alone() { Duration::ZERO } else { BALLOTS_PACE };
                    let full_at = (candidate.since + candidate.after).max(self.now.monotonic + at_most);
                    self.wake(full_at, "a trigger's window is full");
                }
                continue;
            }
            // What was moved by plan, and cannot be taken back any more, is a failover before anything joins it.
            let is_left_undone = self.hard.open_incidents().any(|incident| {
                incident.source == candidate.source && incident.purpose.is_planned() && self.cannot_unwind(incident)
            });
            if self.is_answered(candidate) || (candidate.part.moves() && is_left_undone) {
                self.overtake(candidate);
                continue;
            }
            if let Some(region) = candidates.iter().find(|region| self.is_about_to_be_part_of(candidate, region)) {
                self.wake(region.since + region.after, "a row waits a moment for its region");
                continue;
            }
            let guards = self.guards_of(candidate);
            if !guards.is_empty() {
                self.withhold(candidate, guards);
                continue;
            }
            self.declare(candidate, None);
        }
        candidates
    }

    /// The whole region's window is full within a moment, no longer than probes may be apart: one plan for all of it
    /// is better than one that has to grow at once.
    fn is_about_to_be_part_of(&self, candidate: &Candidate, region: &Candidate) -> bool {
        let Part::Component(component) = &candidate.part else { return false };
        let Some(policy) = self.policy.components.get(component) else { return false };
        region.part == Part::Region
            && region.source == candidate.source
            && region.missing.is_none()
            && !region.is_full()
            && region.after - region.failing_for <= policy.probing.gap()
    }

    /// Everything that fails and has a row, the regions first: a region takes its components along. Then what is only partly
    /// there.
    pub(super) fn candidates(&self) -> Vec<Candidate> {
        let failing = self.failing();
        let is_hit = |region: &RegionId| failing.iter().any(|(id, policy, _)| policy.critical && id.region == *region);
        let regions = self.policy.regions.keys().filter(|region| is_hit(region));
        let mut candidates: Vec<Candidate> = regions.filter_map(|region| self.regional(region)).collect();
        for (id, policy, failing_for) in failing {
            let Some(row) = policy.row else { continue };
            if self.is_active(id) {
                candidates.push(Candidate {
                    source: id.region.clone(),
                    part: Part::Component(id.component.clone()),
                    failing_for,
                    after: row.after,
                    since: self.now.monotonic.saturating_sub(failing_for),
                    missing: None,
                });
            }
        }
        let shares: Vec<Candidate> =
            self.policy.regions.keys().filter_map(|region| self.rerouting(region, &candidates)).collect();
        candidates.extend(shares);
        candidates.extend(self.dark_zones());
        candidates.extend(self.ailing_workloads());
        candidates
    }

    /// Level 1: the region's critical components fail together, and a second kind of evidence says so too.
    fn regional(&self, region: &RegionId) -> Option<Candidate> {
        let critical = self.critical_in(region);
        let needed = self.critical_needed(critical.len());
        let mut failing: Vec<Duration> = critical.iter().filter_map(|id| self.failing_for(id)).collect();
        failing.sort();
        failing.reverse();
        if needed == 0 || failing.len() < needed {
            return None;
        }
        let together = failing[needed - 1];
        let independent: Vec<&InstanceId> = self.soft.independent.iter().filter(|id| id.region == *region).collect();
        let seconded = independent.iter().filter_map(|id| self.failing_for(id)).max();
        let after = self.policy.regional.after;
        let (failing_for, missing) = match seconded {
            Some(seconded) => (together.min(seconded), None),
            None if independent.is_empty() => {
                (together, Some("no second kind of evidence is configured for this region".to_owned()))
            }
            None => {
                let names: Vec<String> = independent.iter().map(ToString::to_string).collect();
                (together, Some(format!("the second kind of evidence ({}) does not fail", names.join(", "))))
            }
        };
        Some(Candidate {
            source: region.clone(),
            part: Part::Region,
            failing_for,
            after,
            since: self.now.monotonic.saturating_sub(failing_for),
            missing,
        })
    }

    /// Critical instances that the region serves.
    pub(super) fn critical_in(&self, region: &RegionId) -> Vec<InstanceId> {
        self.soft.critical.iter().filter(|id| id.region == *region && self.is_active(id)).cloned().collect()
    }

    pub(super) fn critical_needed(&self, critical: usize) -> usize {
        match self.policy.regional.critical_failing {
            Some(needed) => (needed as usize).min(critical),
            None => critical,
        }
    }

    /// Whether what the part is about is fine again, so that what was done for it is taken back. What was mended stays.
    pub(super) fn has_recovered(&self, source: &RegionId, part: &Part) -> bool {
        let recovered = |id: &InstanceId| self.has_been_well(id);
        match part {
            Part::Component(component) => {
                recovered(&InstanceId { component: component.clone(), region: source.clone() })
            }
            Part::Region => {
                let critical = self.critical_in(source);
                let needed = self.critical_needed(critical.len());
                let down = critical.iter().filter(|id| !recovered(id)).count();
                down < needed.max(1)
            }
            Part::Reroute => self
                .clients_well_since(source)
                .is_some_and(|since| self.now.monotonic.saturating_sub(since) >= self.policy.recover_for),
            Part::Healing { .. } | Part::Zone { .. } | Part::Rejoin { .. } => false,
        }
    }

    /// A plan for it exists.
    pub(super) fn is_answered(&self, candidate: &Candidate) -> bool {
        self.hard.open_incidents().filter(|incident| incident.source == candidate.source).any(|incident| {
            let is_open = |part: &Part| incident.plan.parts.get(part) == Some(&PartState::Open);
            // Something that leaves for good is not eased any more, and nothing is eased twice in one incident.
            let is_beyond_easing = !candidate.part.moves()
                && incident.plan.parts.iter().any(|(part, state)| {
                    // Pods that a lost zone took along come back elsewhere; a restart would only delay them.
                    let explains = matches!(
                        (part, &candidate.part),
                        (Part::Zone { cluster: dark, .. }, Part::Healing { cluster, .. }) if dark == cluster
                    );
                    *part == candidate.part || ((part.moves() || explains) && *state == PartState::Open)
                });
            // The unwinding ends first; only then may a new part join.
            let is_in_vain = candidate.part.moves() && self.cannot_unwind(incident);
            let is_unwinding =
                incident.plan.is_unwinding() && !is_in_vain && !self.bugs.has(Bug::EscalationJoinsUnwinding);
            is_unwinding || is_open(&candidate.part) || is_open(&Part::Region) || is_beyond_easing
        })
    }

    /// What speaks against declaring it.
    pub(super) fn guards_of(&self, candidate: &Candidate) -> Vec<Guard> {
        let mut guards = self.standing_guards();
        if self.hard.break_glass.is_some() {
            guards.push(Guard {
                kind: GuardKind::Mode,
                evidence: "break-glass does what it was ordered to do, and nothing else".to_owned(),
                lifted_by: "`failoverd ledger merge`, once the ledger is back and daemons lead again".to_owned(),
            });
        }
        guards.extend(self.doubt(&candidate.source, candidate.since));
        guards.extend(self.witness_veto(candidate));
        guards.extend(self.cooldown(candidate));
        guards.extend(self.blast_radius(candidate));
        guards.extend(self.would_meet(&candidate.source).filter(|_| candidate.part.moves()));
        if candidate.part == Part::Reroute {
            guards.extend(self.useless_rerouting(&candidate.source));
        }
        let incident = IncidentId::from("inc-0");
        if let Err(no_plan) = self.draw(&incident, &candidate.source, &candidate.part, Purpose::Failover, None) {
            guards.push(Guard {
                kind: GuardKind::TargetNotReady,
                evidence: no_plan.to_string(),
                lifted_by: "a standby in the configuration".to_owned(),
            });
        }
        guards
    }

    /// Guards that hold back everything, whatever it is.
    pub(super) fn standing_guards(&self) -> Vec<Guard> {
        let mut guards = Vec::new();
        if let Some(why) = self.soft.halted.as_ref().or(self.hard.halted.as_ref()) {
            guards.push(Guard {
                kind: GuardKind::Halted,
                evidence: why.clone(),
                lifted_by: "repairing the cause, then `failoverd adopt` or a restart".to_owned(),
            });
        }
        guards.extend(self.drift());
        if let Some(stopped) = &self.soft.stopped {
            guards.push(Guard {
                kind: GuardKind::Paused,
                evidence: stopped.clone(),
                lifted_by: "removing the stop file".to_owned(),
            });
        }
        if let Some(pause) = self.hard.paused.as_ref().filter(|_| !self.bugs.has(Bug::PauseIgnored)) {
            let left = self.hard.time_left(pause.stamp, pause.until, self.now);
            if !left.is_zero() {
                let reason = if pause.reason.is_empty() { String::new() } else { format!(" ({})", pause.reason) };
                guards.push(Guard {
                    kind: GuardKind::Paused,
                    evidence: format!("paused by {}{reason}, {} left", pause.by, human(left)),
                    lifted_by: format!("`failoverd resume`, or {}", pause.until),
                });
            }
        }
        if self.policy.mode == Mode::Observe && !self.bugs.has(Bug::ObserveActs) {
            guards.push(Guard {
                kind: GuardKind::Mode,
                evidence: "the mode is observe: failoverd records what it would do and does nothing".to_owned(),
                lifted_by: "deployment.mode = \"approve\" or \"automatic\"".to_owned(),
            });
        }
        guards
    }

    /// The ledger and the world disagree.
    pub(super) fn drift(&self) -> Option<Guard> {
        if self.bugs.has(Bug::DriftIgnored) {
            return None;
        }
        let guard = |evidence: String, lifted_by: &str| {
            Some(Guard { kind: GuardKind::Drift, evidence, lifted_by: lifted_by.to_owned() })
        };
        if !self.hard.is_adopted {
            return guard(
                "this ledger has never been told where the deployment is served: it is new, or it is the wrong one"
                    .to_owned(),
                "`failoverd adopt`, once you have checked that no other failoverd is in charge",
            );
        }
        if let Some(foreign) = self.foreign_claim() {
            return Some(foreign);
        }
        for component in &self.soft.driftable {
            let Some(placed) = self.hard.placement.get(component) else { continue };
            let Some(policy) = self.policy.components.get(component) else { continue };
            if self.is_being_moved(component) {
                continue;
            }
            for region in policy.regions.iter().filter(|region| *region != placed) {
                let id = InstanceId { component: component.clone(), region: region.clone() };
                let writes = self.soft.watches.get(&id).is_some_and(|watch| {
                    watch.is_answering(self.now.monotonic)
                        && watch.evidence.serving == Some(crate::domain::Serving::Writable)
                });
                let is_our_share = self.hard.shares().any(|(record, to)| record == component && to == region);
                if !writes || is_our_share || self.hard.owed.contains_key(&id) || self.hard.fenced.contains(&id) {
                    continue;
                }
                let what = if policy.kind == Kind::Traffic { "receives traffic" } else { "accepts writes" };
                return guard(
                    format!("{id} {what}, and the ledger says that {component} is served in {placed}"),
                    "making the world agree, or `failoverd adopt` to take the world as it is",
                );
            }
        }
        None
    }

    /// An open plan is moving it, so the world may already be ahead of the ledger.
    fn is_being_moved(&self, component: &ComponentId) -> bool {
        self.hard.open_incidents().any(|incident| {
            incident.plan.steps.iter().any(|step| {
                step.places.contains_key(component)
                    && incident.plan.progress.get(&step.id).is_some_and(Progress::has_sent)
            })
        })
    }

    pub(super) fn doubt(&self, source: &RegionId, since: Duration) -> Option<Guard> {
        if self.bugs.has(Bug::NoSelfDoubt) {
            return None;
        }
        let doubt = self.soft.references.doubt(self.policy, source, since, self.now.monotonic).err()?;
        Some(Guard {
            kind: GuardKind::Quorum,
            evidence: doubt,
            lifted_by: "answers from a majority of the reference points".to_owned(),
        })
    }

    fn cooldown(&self, candidate: &Candidate) -> Option<Guard> {
        if self.bugs.has(Bug::CooldownIgnored) {
            return None;
        }
        let eased = (candidate.source.clone(), candidate.part.clone());
        let moves = match &candidate.part {
            Part::Component(component) => vec![(component.to_string(), "moved", self.hard.moved.get(component)?)],
            Part::Region | Part::Rejoin { .. } => Vec::new(),
            // Clients are not sent to and fro, neither all of them nor a share.
            Part::Reroute => {
                let records = self.policy.of_kind(Kind::Traffic);
                let moved = records.filter_map(|(id, _)| Some((id.to_string(), "moved", self.hard.moved.get(id)?)));
                let shared = self.hard.eased.get(&eased).map(|eased| (candidate.part.to_string(), "taken back", eased));
                moved.chain(shared).collect()
            }
            Part::Healing { .. } | Part::Zone { .. } => {
                let is_zone = matches!(candidate.part, Part::Zone { .. });
                let healed = self.hard.eased.get(&eased);
                healed
                    .map(|healed| (candidate.part.to_string(), if is_zone { "dealt with" } else { "healed" }, healed))
                    .into_iter()
                    .collect()
            }
        };
        let (what, done, moved, elapsed) = moves
            .into_iter()
            .map(|(what, done, moved)| (what, done, moved, self.hard.elapsed(moved.stamp, self.now)))
            .find(|(_, _, moved, elapsed)| !moved.acknowledged && *elapsed < self.policy.guards.cooldown)?;
        let acknowledge = match &moved.incident {
            Some(incident) => format!("`failoverd ack {incident}`"),
            None => "an acknowledgement".to_owned(),
        };
        Some(Guard {
            kind: GuardKind::Cooldown,
            evidence: format!("{what} was {done} {} ago", human(elapsed)),
            lifted_by: format!("{acknowledge}, or {} more", human(self.policy.guards.cooldown - elapsed)),
        })
    }

    fn blast_radius(&self, candidate: &Candidate) -> Option<Guard> {
        let day = Duration::from_secs(24 * 3600);
        // What only eases a trouble must not use up what a real loss needs.
        let counted = self.hard.declared.iter().filter(|declared| declared.moves == candidate.part.moves());
        // Nor must what a region lost piece by piece, when all of it is lost in the end: that is one move in one direction.
        let is_same_loss = |declared: &Declared| candidate.part == Part::Region && declared.source == candidate.source;
        let counted = counted.filter(|declared| !is_same_loss(declared));
        let today = counted.filter(|declared| self.hard.elapsed(declared.stamp, self.now) < day).count();
        let joins = self.hard.open_incidents().any(|incident| incident.source == candidate.source);
        if !joins && today >= self.policy.guards.incidents_per_day as usize {
            return Some(Guard {
                kind: GuardKind::BlastRadius,
                evidence: format!("{today} incidents were declared within 24 hours, as many as are allowed"),
                lifted_by: "`failoverd failover` by a person, or guards.incidents_per_day".to_owned(),
            });
        }
        if candidate.part != Part::Region {
            return None;
        }
        let elsewhere: Vec<InstanceId> = self.policy.instances().filter(|id| id.region != candidate.source).collect();
        let answers = elsewhere
            .iter()
            .any(|id| self.is_answering(id) && self.policy.components.get(&id.component).is_some_and(|c| c.critical));
        if answers {
            return None;
        }
        Some(Guard {
            kind: GuardKind::BlastRadius,
            evidence: format!(
                "nothing critical answers outside {}: there is no healthy region to go to",
                candidate.source
            ),
            lifted_by: "a standby region that answers".to_owned(),
        })
    }

    fn withhold(&mut self, candidate: &Candidate, guards: Vec<Guard>) {
        let key = (candidate.source.clone(), candidate.part.clone());
        let kinds: BTreeSet<GuardKind> = guards.iter().map(|guard| guard.kind).collect();
        if self.hard.withheld.get(&key) != Some(&kinds) {
            self.record(Fact::Withheld { source: key.0, part: key.1, guards });
        }
        self.wake(self.now.monotonic + self.policy.guards.recheck, "a guard is judged again");
    }

    /// Asks the planner.
    pub(super) fn draw(
        &self,
        incident: &IncidentId,
        source: &RegionId,
        part: &Part,
        purpose: Purpose,
        so_far: Option<&Plan>,
    ) -> Result<plan::Planned, plan::NoPlan> {
        let existing = so_far.map(|plan| plan.steps.iter().map(|step| step.id.clone()).collect()).unwrap_or_default();
        let begun = so_far.map(Plan::begun).unwrap_or_default();
        // The planner asks this of clusters and of databases; services can be many, and are only looked at.
        let alive = self
            .soft
            .watches
            .iter()
            .filter(|(_, watch)| !matches!(watch.kind, Kind::Http | Kind::Cloud | Kind::Traffic | Kind::Holdings))
            .filter(|(_, watch)| watch.is_answering(self.now.monotonic))
            .map(|(id, _)| id.clone())
            .collect();
        let initial;
        let placement = if self.hard.placement.is_empty() {
            initial = initial_placement(self.policy);
            &initial
        } else {
            &self.hard.placement
        };
        let (policy, existing, begun) = (self.policy, &existing, &begun);
        let situation = Situation { policy, placement, source, purpose, incident, alive: &alive, existing, begun };
        plan::plan(situation, part)
    }

    /// Declares an incident, or lets the part join the one that is open for the region.
    pub(super) fn declare(&mut self, candidate: &Candidate, order: Option<Order>) {
        let evidence = self.evidence(&candidate.source);
        let open = self
            .hard
            .open_incidents()
            .find(|incident| incident.source == candidate.source)
            .map(|incident| (incident.id.clone(), incident.level, incident.plan.id.clone()));
        if order.as_ref().is_none_or(|order| order.purpose == Purpose::Failover) {
            self.overtake_for(candidate, &evidence);
        }
        if let Some((incident, level, plan)) = open {
            let Some(joined) = self.incident(&incident).cloned() else { return };
            let part = candidate.part.clone();
            let Ok(planned) = self.draw(&incident, &candidate.source, &part, joined.purpose, Some(&joined.plan)) else {
                return;
            };
            if candidate.level() < level {
                self.record(Fact::IncidentEscalated { incident, level: candidate.level(), evidence });
            }
            self.give_up_share(&joined, &planned);
            self.give_up_healing(&joined, &part, &planned);
            let (ordered_by, forced) = order.map_or((None, false), |order| (Some(order.by), order.forced));
            let (steps, shares) = (planned.steps, planned.shares);
            self.record(Fact::PlanGrown { plan, part, steps, shares, ordered_by, forced });
        } else {
            let number = self.hard.incidents_ever + 1;
            let incident = IncidentId::from(format!("inc-{number}"));
            let ledger: String =
                self.hard.ledger.as_ref().map_or("none", |ledger| ledger.as_str()).chars().rev().take(8).collect();
            let ledger: String = ledger.chars().rev().collect();
            let plan_id = PlanId::from(format!("plan-{ledger}-{number}"));
            let purpose = order.as_ref().map(|order| order.purpose).unwrap_or_default();
            let Ok(planned) = self.draw(&incident, &candidate.source, &candidate.part, purpose, None) else {
                return;
            };
            if let Err(bad) = plan::check(&planned.steps) {
                self.record(Fact::Halted { why: format!("the planner made a plan that cannot be: {bad}") });
                return;
            }
            let Some(target) = self.target_of(&candidate.source, &candidate.part) else { return };
            let (ordered_by, forced) = order.map_or((None, false), |order| (Some(order.by), order.forced));
            self.record(Fact::IncidentDeclared {
                incident: incident.clone(),
                level: candidate.level(),
                source: candidate.source.clone(),
                target,
                first_failing: self.wall_at(candidate.since),
                detected_after: in_milliseconds(candidate.failing_for),
                evidence,
                ordered_by,
                forced,
                purpose,
            });
            let part = candidate.part.clone();
            self.record(Fact::PlanMade { incident, plan: plan_id, part, steps: planned.steps });
        }
        // The looks go out with the plan, and steps that need none start at once.
        self.advance();
    }

    pub(super) fn target_of(&self, source: &RegionId, part: &Part) -> Option<RegionId> {
        match part {
            Part::Component(component) => self.policy.target_of(component, source).cloned(),
            Part::Region => {
                self.policy.components.keys().find_map(|component| self.policy.target_of(component, source)).cloned()
            }
            Part::Healing { .. } | Part::Zone { .. } | Part::Rejoin { .. } => Some(source.clone()),
            Part::Reroute => self
                .policy
                .of_kind(Kind::Traffic)
                .find_map(|(record, _)| self.policy.target_of(record, source))
                .cloned(),
        }
    }

    /// What is seen of a region, one line per instance.
    pub(super) fn evidence(&self, region: &RegionId) -> Vec<String> {
        let now = self.now.monotonic;
        self.soft
            .watches
            .iter()
            .filter(|(id, _)| id.region == *region)
            .map(|(id, watch)| match watch.failing_for(&self.soft.limits, now) {
                Some(lasting) => format!("{id}: {} ({})", watch.why(now), human(lasting)),
                None => format!("{id}: {}", watch.why(now)),
            })
            .collect()
    }
}

/// What a person reads needs no more.
pub(super) fn in_milliseconds(duration: Duration) -> Duration {
    Duration::from_millis(duration.as_millis().try_into().unwrap_or(u64::MAX))
}

/// Everything in the primary region: what an empty ledger would adopt.
pub fn initial_placement(policy: &crate::domain::Policy) -> std::collections::BTreeMap<ComponentId, RegionId> {
    let Some(primary) = policy.primary() else { return Default::default() };
    policy
        .components
        .iter()
        .filter(|(_, component)| component.kind.has_a_place() && component.regions.contains(primary))
        .map(|(component, _)| (component.clone(), primary.clone()))
        .collect()
}
