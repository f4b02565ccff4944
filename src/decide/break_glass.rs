//! Break-glass: what a person does from one machine while nobody can act, on a ledger of its own; and how that comes
//! into the ledger that everybody shares, once it is back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::controller::{Controller, CorruptLedger, Draft};
use super::expected::ANY_LOSS_FROM;
use super::hard::Hard;
use super::incident::{Approval, Incident};
use super::{Effect, Fact, Frame, Outcome, StepState};
use crate::domain::time::friendly;
use crate::domain::{ComponentId, IncidentId, InstanceId, Kind, LedgerId, Mode, RegionId, StepId};
use crate::plan::Part;
use crate::ports::{Claim, Term};

/// Words of other people in a record, each; more is no record of ours.
const WORDS_MAX: usize = 2000;
/// Incidents in one record, and exceptions of each. Break-glass carries out one plan.
const LISTED_MAX: usize = 64;

/// What a person orders who breaks the glass. Only the process that they started takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct BreakGlass {
    /// Who: a user of the operating system, and the machine.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Where everything is served, as far as is known.
    pub placement: BTreeMap<ComponentId, RegionId>,
    /// Region that is left.
    pub from: RegionId,
    /// Only this component; none means the whole region.
    pub component: Option<ComponentId>,
    /// Go on although the target is not known to be ready.
    pub force: bool,
    /// What was shown for each database that is promoted, and accepted for that one.
    pub accepted: BTreeMap<InstanceId, Accepted>,
    /// The steps that were shown.
    pub steps: BTreeSet<StepId>,
    /// The ledger that is not available, where its name is known.
    pub departs_from: Option<LedgerId>,
    /// Who was asked and did not answer, and what else could not be proven.
    pub unproven: Vec<String>,
}

/// What was shown for a database that is promoted, and accepted. It says nothing of any other one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The old primary did not answer, so nobody can fence it.
    pub unfenced: bool,
    /// What is lost at most; none where that is not known: then whatever it is.
    #[serde(with = "friendly::option")]
    pub loss: Option<Duration>,
}

/// The loss that a person accepts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct AcceptedLoss {
    pub(super) at_most: Option<Duration>,
    /// Also one that is not known.
    pub(super) unknown: bool,
}

/// What break-glass did, as it is merged: the end of its ledger, and not the way to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakGlassRecord {
    /// Its own ledger.
    pub ledger: LedgerId,
    /// Its turn with that ledger: a claim of a later one is of somebody who went on afterwards.
    pub term: Term,
    /// Frames of it, and the hash over all of them: what is merged, for an auditor who compares it with the file.
    pub frames: u64,
    /// In hexadecimal digits.
    pub head: String,
    /// The ledger that was not available, where its name was known.
    #[serde(default)]
    pub departs_from: Option<LedgerId>,
    /// Who broke the glass.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub began: Timestamp,
    /// Where everything is served since then. In the ledger that it is merged into: what came of it.
    pub placement: BTreeMap<ComponentId, RegionId>,
    /// What it moved itself, and when; of everything else it had only heard. None in a record that does not tell them apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<BTreeMap<ComponentId, Timestamp>>,
    /// Old primaries that have to be fenced when they come back.
    pub owed: BTreeSet<InstanceId>,
    /// Old primaries that are fenced.
    pub fenced: BTreeSet<InstanceId>,
    /// What was declared.
    pub incidents: Vec<BreakGlassIncident>,
}

/// One incident of a [`BreakGlassRecord`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakGlassIncident {
    /// Its name there.
    pub incident: IncidentId,
    /// The region that was left.
    pub source: RegionId,
    /// The region that took over.
    pub target: RegionId,
    /// How it ended; none where it has not.
    pub outcome: Option<Outcome>,
    /// What was allowed although a guard spoke against it.
    pub exceptions: Vec<String>,
}

/// What a daemon leaves on the disk for the day on which its ledger is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastKnown {
    /// Which ledger.
    pub ledger: LedgerId,
    /// Where each component is served.
    pub placement: BTreeMap<ComponentId, RegionId>,
    /// Old primaries that have to be fenced when they come back.
    pub owed: BTreeSet<InstanceId>,
}

impl Controller {
    /// What somebody has to know who goes on without the ledger; none before anything was adopted.
    pub fn last_known(&self) -> Option<LastKnown> {
        let ledger = self.hard.ledger.clone().filter(|_| self.hard.is_adopted)?;
        let owed = self.hard.owed.keys().cloned().collect();
        Some(LastKnown { ledger, placement: self.hard.placement.clone(), owed })
    }

    /// What there is to merge in a ledger; none where it is not one of break-glass. `count` and `head` are those of its file.
    ///
    /// # Errors
    /// Where its frames do not follow each other.
    pub fn recorded_by_break_glass(
        frames: Vec<Frame>,
        count: u64,
        head: String,
    ) -> Result<Option<BreakGlassRecord>, CorruptLedger> {
        Ok(Hard::folded(frames)?.break_glass_record(count, head))
    }
}

impl Hard {
    fn break_glass_record(&self, frames: u64, head: String) -> Option<BreakGlassRecord> {
        let began = self.break_glass.as_ref()?;
        Some(BreakGlassRecord {
            ledger: self.ledger.clone()?,
            term: self.term(),
            frames,
            head,
            departs_from: began.departs_from.clone(),
            by: began.by.clone(),
            reason: began.reason.clone(),
            began: began.at,
            placement: self.placement.clone(),
            moved: Some(self.moved.iter().map(|(component, moved)| (component.clone(), moved.stamp.at.wall)).collect()),
            owed: self.owed.keys().cloned().collect(),
            fenced: self.fenced.clone(),
            incidents: self.incidents.values().map(|incident| summary(incident)).collect(),
        })
    }
}

impl Hard {
    /// What a person accepts to lose with the promotion of `database`, while their approval holds.
    pub(super) fn accepted_loss(&self, database: &InstanceId, approval: Option<&Approval>) -> AcceptedLoss {
        let Some(approval) = approval else { return AcceptedLoss::default() };
        let ordered = AcceptedLoss {
            at_most: approval.accept_loss,
            unknown: approval.accept_loss.is_some_and(|accepted| accepted >= ANY_LOSS_FROM),
        };
        match self.shown_before(database).map(|shown| shown.loss) {
            None => ordered,
            Some(None) => AcceptedLoss { at_most: Some(Duration::MAX), unknown: true },
            Some(loss) => AcceptedLoss { at_most: ordered.at_most.max(loss), ..ordered },
        }
    }

    /// Whether a person accepts that `database` is promoted although its old primary is not fenced.
    pub(super) fn accepts_unfenced(&self, database: &InstanceId, approval: &Approval) -> bool {
        approval.accept_unfenced || self.shown_before(database).is_some_and(|shown| shown.unfenced)
    }

    fn shown_before(&self, database: &InstanceId) -> Option<&Accepted> {
        self.break_glass.as_ref()?.accepted.get(database)
    }
}

fn summary(incident: &Incident) -> BreakGlassIncident {
    BreakGlassIncident {
        incident: incident.id.clone(),
        source: incident.source.clone(),
        target: incident.target.clone(),
        outcome: incident.closed.map(|(_, outcome)| outcome),
        exceptions: incident.plan.exceptions.clone(),
    }
}

impl BreakGlassRecord {
    /// The components that it had a hand in.
    fn touched(&self) -> BTreeSet<&ComponentId> {
        let Some(moved) = &self.moved else { return self.placement.keys().collect() };
        let fences = self.owed.iter().chain(&self.fenced).map(|database| &database.component);
        moved.keys().chain(fences).collect()
    }

    /// When it came to know where the component is served.
    pub(super) fn knew(&self, component: &ComponentId) -> Timestamp {
        self.moved.as_ref().and_then(|moved| moved.get(component)).map_or(self.began, |moved| *moved)
    }

    /// What people wrote, and what could be anything: this comes from a file.
    pub(super) fn words(&self) -> Result<(), String> {
        let of_incidents = self.incidents.iter().flat_map(|incident| incident.exceptions.iter());
        let words = [&self.by, &self.reason, &self.head].into_iter().chain(of_incidents);
        let is_wild = |words: &&String| words.chars().count() > WORDS_MAX || words.chars().any(char::is_control);
        let is_long = self.incidents.len() > LISTED_MAX
            || self.incidents.iter().any(|incident| incident.exceptions.len() > LISTED_MAX);
        if is_long || words.into_iter().any(|words| is_wild(&words)) {
            return Err("this is no record of break-glass: its words are too long, or are none".to_owned());
        }
        Ok(())
    }
}

impl Draft<'_> {
    /// A person breaks the glass: all of it is in one frame, or nothing.
    pub(super) fn break_glass(&mut self, order: BreakGlass) -> Result<String, String> {
        if self.hard.is_adopted || self.hard.break_glass.is_some() || !self.hard.incidents.is_empty() {
            return Err("break-glass begins with a ledger of its own, and this one is in use".to_owned());
        }
        let (hard, facts, effects) = (self.hard.clone().into_owned(), self.facts.len(), self.effects.len());
        let done = self.break_glass_in_draft(order);
        if done.is_err() {
            *self.hard.to_mut() = hard;
            self.facts.truncate(facts);
            self.effects.truncate(effects);
        }
        done
    }

    fn break_glass_in_draft(&mut self, order: BreakGlass) -> Result<String, String> {
        let BreakGlass { by, reason, placement, from, component, force, .. } = order;
        self.are_places(&placement)?;
        self.record(Fact::BreakGlassBegan {
            by: by.clone(),
            reason: reason.clone(),
            departs_from: order.departs_from,
            accepted: order.accepted,
            unproven: order.unproven,
        });
        self.put_in_charge(placement, by.clone())?;
        let answer = self.failover(format!("{by}: {reason}"), from, component, force)?;
        let incident = self.hard.open_incidents().max_by_key(|incident| incident.number);
        let incident = incident.ok_or_else(|| "no plan could be made".to_owned())?;
        let planned: BTreeSet<StepId> = incident.plan.steps.iter().map(|step| step.id.clone()).collect();
        if planned != order.steps {
            let other: Vec<&str> = planned.symmetric_difference(&order.steps).map(StepId::as_str).collect();
            return Err(format!(
                "the plan is another one than was shown, because what answers has changed ({}); look at it again",
                other.join(", ")
            ));
        }
        let (plan, hash) = (incident.plan.id.clone(), incident.plan.hash().to_owned());
        let until = self.now.wall.checked_add(self.policy.guards.approval_expires).unwrap_or(self.now.wall);
        // What was accepted is accepted for one database each.
        self.record(Fact::Approved { plan, hash, by, until, accept_unfenced: false, accept_loss: None });
        self.advance();
        Ok(answer)
    }

    /// What break-glass did comes into this ledger, which is in charge again.
    pub(super) fn merge(
        &mut self,
        by: String,
        mut record: BreakGlassRecord,
        unfinished: bool,
    ) -> Result<String, String> {
        record.words()?;
        let ours = self.hard.ledger.clone().ok_or_else(|| "the ledger has no identity".to_owned())?;
        if record.ledger == ours {
            return Err("this is the ledger that is in charge itself; there is nothing to merge".to_owned());
        }
        if let Some(of) = record.departs_from.as_ref().filter(|of| **of != ours) {
            return Err(format!(
                "that break-glass went on from ledger {of}, and this one is {ours}; where it took that one's place, \
                 state the placement with `failoverd adopt`"
            ));
        }
        if let Some(merged) = self.hard.merged.get(&record.ledger).filter(|merged| merged.frames >= record.frames) {
            if merged.frames == record.frames && merged.head != record.head {
                return Err(format!(
                    "another record of ledger {} with as many frames was merged: one of the two was changed",
                    record.ledger
                ));
            }
            return Ok(format!("it was merged already, by {}; nothing was changed", merged.by));
        }
        let open = record.incidents.iter().find(|incident| incident.outcome.is_none());
        if let Some(open) = open.filter(|_| !unfinished) {
            return Err(format!(
                "{} of that break-glass has not ended: let it end first (`failoverd failover --break-glass --continue FILE`), \
                 or merge it as it is with --unfinished, and do the rest by hand",
                open.incident
            ));
        }
        self.is_nobody_in_the_way(&record)?;
        self.is_latest(&record)?;
        if let Some(moved) = &record.moved {
            // Of what it did not move it knows only what it was told.
            let placement = &self.hard.placement;
            record.placement.retain(|component, _| moved.contains_key(component) || !placement.contains_key(component));
        }
        self.are_places(&record.placement)?;
        self.record_merged(by, record);
        self.take_clusters_over();
        Ok("merged: this ledger is in charge again, and knows where everything is served".to_owned())
    }

    /// The claim that replaces whatever stands in the clusters may replace what the record explains, and nothing else.
    fn is_nobody_in_the_way(&mut self, record: &BreakGlassRecord) -> Result<(), String> {
        let has_clusters = self.policy.of_kind(Kind::Kubernetes).next().is_some();
        let Some((read, mut claims)) = self.soft.survey.clone().filter(|_| has_clusters) else {
            if self.has_surveyed() {
                return Ok(());
            }
            return Err("the clusters' claims have not been read yet; try again in a few seconds".to_owned());
        };
        let is_of_record = |claim: &Claim| claim.ledger == record.ledger;
        let is_later = |claim: &&Claim| is_of_record(claim) && claim.term > Some(record.term);
        if let Some(claim) = claims.values().flatten().find(is_later) {
            return Err(format!(
                "that break-glass went on after this record ({}); merge the record as it is now",
                claim.holder
            ));
        }
        for claim in claims.values_mut().filter(|claim| claim.as_ref().is_some_and(is_of_record)) {
            *claim = None;
        }
        let everything = self.soft.survey.replace((read, claims));
        let stranger = self.soft.foreign_claim(&self.hard);
        let stranger = stranger.map(|(region, claim)| {
            format!(
                "{region} is claimed by yet another failoverd ({}, ledger {}); find out who that is first",
                claim.holder, claim.ledger
            )
        });
        self.soft.survey = everything;
        stranger.map_or(Ok(()), Err)
    }

    /// Nothing that it had a hand in was placed by somebody else after it began: nobody can tell from here which came last in
    /// the world.
    fn is_latest(&self, record: &BreakGlassRecord) -> Result<(), String> {
        let later = record.touched().into_iter().find_map(|component| {
            let placed = self.hard.placed.get(component)?;
            (placed.at > record.began && placed.merged.as_ref() != Some(&record.ledger)).then_some((component, placed))
        });
        let Some((component, placed)) = later else { return Ok(()) };
        let region = self.hard.placement.get(component).map_or("nowhere", RegionId::as_str);
        let whose = match &placed.merged {
            Some(ledger) => format!("the break-glass of ledger {ledger}, which was merged,"),
            None => "this ledger".to_owned(),
        };
        let mut why = format!(
            "{whose} knows since {} that {component} is served in {region}, and this break-glass began before that, at {}: \
             see where everything is served, and state it with `failoverd adopt --placement COMPONENT=REGION`",
            placed.at, record.began
        );
        let owed = record.owed.iter().filter(|database| !self.serves(database)).map(ToString::to_string);
        let owed: Vec<String> = owed.collect();
        if !owed.is_empty() {
            why.push_str(&format!("; it left {} without a fence: fence that by hand", owed.join(", ")));
        }
        Err(why)
    }

    fn serves(&self, database: &InstanceId) -> bool {
        self.hard.placement.get(&database.component) == Some(&database.region)
    }

    fn record_merged(&mut self, by: String, mut record: BreakGlassRecord) {
        // An old primary owes a fence whether or not the record says so.
        for (component, region) in &record.placement {
            let Some(former) = self.hard.placement.get(component).filter(|former| *former != region) else { continue };
            let is_database =
                self.policy.components.get(component).is_some_and(|of| of.kind == Kind::Database && of.fence);
            let old = InstanceId { component: component.clone(), region: former.clone() };
            if is_database && !record.fenced.contains(&old) {
                record.owed.insert(old);
            }
        }
        // What serves is never fenced, whatever the record says.
        let (merged, known) = (&record.placement, &self.hard.placement);
        let serving = |component: &ComponentId| merged.get(component).or_else(|| known.get(component));
        record.owed.retain(|database| serving(&database.component) != Some(&database.region));
        self.record(Fact::BreakGlassMerged { by, record: Box::new(record) });
        // What wanted to leave a region that has been left is over. What is under way of it stops between two calls.
        let is_obsolete = |incident: &&Incident| {
            let mut places = incident.plan.steps.iter().flat_map(|step| step.places.keys()).peekable();
            let moves = incident.plan.parts.keys().any(Part::moves) && places.peek().is_some();
            moves && places.all(|component| self.hard.placement.get(component) != Some(&incident.source))
        };
        let obsolete: Vec<Incident> = self.hard.open_incidents().filter(is_obsolete).cloned().collect();
        for incident in obsolete {
            let plan = &incident.plan;
            let at_work = plan.steps.iter().map(|step| &step.id);
            let at_work: Vec<StepId> = at_work
                .filter(|step| matches!(plan.state(step), StepState::Running | StepState::Undoing))
                .cloned()
                .collect();
            for step in at_work {
                self.perform(Effect::Cancel { plan: plan.id.clone(), step });
            }
            self.record(Fact::IncidentClosed { incident: incident.id.clone(), outcome: Outcome::Superseded });
        }
    }

    /// Whatever stands in the clusters gives way to the claim of this term.
    pub(super) fn take_clusters_over(&mut self) {
        let Some(ledger) = self.hard.ledger.clone() else { return };
        self.soft.survey = None;
        self.soft.strangers.clear();
        self.soft.claimed.clear();
        self.soft.survey_asked = None;
        if self.policy.mode != Mode::Observe {
            self.soft.survey_asked = Some(self.now.monotonic);
            let term = self.hard.term();
            self.perform(Effect::Claim { ledger, term, replace: true });
        }
    }

    /// Every component is there, and could be where it is said to be.
    pub(super) fn are_places(&self, stated: &BTreeMap<ComponentId, RegionId>) -> Result<(), String> {
        for (component, region) in stated {
            match self.policy.components.get(component) {
                None => return Err(format!("there is no component {component}")),
                Some(policy) if !policy.regions.contains(region) => {
                    return Err(format!("{component} has no instance in {region}"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}
