//! Soft state: what a daemon knows and may lose. Everything that must survive is a fact.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::leadership::Takeover;
use super::losses::{Asked, Measure};
use super::roles::Revoked;
use super::verification::Verification;
use super::watches::Watches;
use super::{Alarm, Guard, Input};
use crate::domain::{
    Bug, Bugs, ComponentId, ComponentPolicy, InstanceId, Kind, ObserverId, PlanId, Policy, RegionId, StepId,
};
use crate::health::{Council, Limits, References};
use crate::plan::Part;
use crate::ports::{Claim, Look, Setback};

/// What may be lost: windows, looks, alarms.
#[derive(Debug, Clone)]
pub(super) struct Soft {
    pub(super) watches: Watches,
    /// Components that two regions could both be serving: drift is looked for in them.
    pub(super) driftable: Vec<ComponentId>,
    /// What moves clients.
    pub(super) records: Vec<ComponentId>,
    /// What can tell of zones and workloads.
    pub(super) clusters: Vec<InstanceId>,
    /// Instances whose failing together is a regional outage.
    pub(super) critical: Vec<InstanceId>,
    /// The second kind of evidence for one.
    pub(super) independent: Vec<InstanceId>,
    pub(super) references: References,
    /// What the other observers say.
    pub(super) council: Council,
    /// Since when an observer inside a region has contradicted those outside.
    pub(super) witnessed: BTreeMap<(RegionId, Part), Duration>,
    /// When an observer inside a region last saw something alive that was lost by the votes of the others.
    pub(super) knew_better: BTreeMap<(ObserverId, RegionId), Duration>,
    pub(super) newly_seen: BTreeSet<InstanceId>,
    pub(super) looks: BTreeMap<(PlanId, StepId), LookState>,
    pub(super) notes: BTreeMap<(PlanId, StepId), String>,
    /// Why steps whose turn has come do not start.
    pub(super) held: BTreeMap<(PlanId, StepId), Vec<Guard>>,
    pub(super) cancelled: BTreeSet<(PlanId, StepId)>,
    /// Tasks that this run of the daemon handed out and that have not come back.
    pub(super) under_way: BTreeSet<(PlanId, StepId)>,
    /// When tasks came back that had sent something and sent it no more, because the world was another one by then.
    pub(super) stopped_sending: BTreeMap<(PlanId, StepId), Duration>,
    pub(super) survey: Option<(Duration, BTreeMap<RegionId, Option<Claim>>)>,
    pub(super) survey_asked: Option<Duration>,
    /// The claims that were not ours when their clusters were read last.
    pub(super) strangers: BTreeMap<RegionId, Claim>,
    /// Since when this leader has known that a role is taken away: whoever acts by it has so long to stop.
    pub(super) revoked_since: BTreeMap<(PlanId, ComponentId), Revoked>,
    /// Since when something else holds the steps for which roles were taken away.
    pub(super) roles_idle_since: BTreeMap<(PlanId, StepId), Duration>,
    /// Databases that have a guardian beside this observer.
    pub(super) guarded: BTreeSet<InstanceId>,
    /// Databases that serve without the guardian that they ought to have.
    pub(super) unguarded_since: BTreeMap<InstanceId, Duration>,
    /// Calls of the leader before may be under way.
    pub(super) takeover: Option<Takeover>,
    /// The claim of this term is still to be put up.
    pub(super) is_to_claim: bool,
    /// Since when too few reference points have answered.
    pub(super) unvouched_since: Option<Duration>,
    /// What is to be told of the stop file, while it is there.
    pub(super) stopped: Option<String>,
    /// Where the claim of this very term was seen: what stands there instead was put there by somebody else.
    pub(super) claimed: BTreeSet<RegionId>,
    pub(super) owed_under_way: BTreeMap<InstanceId, OwedAttempt>,
    /// What came of the checks of what is away from home.
    pub(super) verifications: BTreeMap<(String, RegionId), Verification>,
    /// What databases were asked of what was lost.
    pub(super) measures: BTreeMap<Measure, Asked>,
    /// Since when a step is held because what it needs does not answer.
    pub(super) out_of_reach: BTreeMap<(PlanId, StepId), Duration>,
    pub(super) alarms: BTreeMap<String, Alarm>,
    pub(super) inbox: VecDeque<Input>,
    pub(super) halted: Option<String>,
    pub(super) limits: Limits,
    pub(super) is_started: bool,
    pub(super) started_at: Duration,
}

/// What this run of the daemon tried of an owed fence.
#[derive(Debug, Clone, Default)]
pub(super) struct OwedAttempt {
    /// When it is tried again; none while it is under way.
    pub(super) again: Option<Duration>,
    pub(super) failures: u32,
    /// Why the last attempt failed.
    pub(super) why: Option<String>,
}

/// A look that was asked for, and what came of it.
#[derive(Debug, Clone, Default)]
pub(super) struct LookState {
    pub(super) asked: Option<Duration>,
    pub(super) seen: Option<(Duration, Result<Look, Setback>)>,
}

impl Soft {
    /// A copy to read from: nothing that is decided on it has an effect.
    pub(super) fn for_reading(&self) -> Self {
        self.clone()
    }

    pub(super) fn new(policy: &Policy, bugs: Bugs) -> Self {
        let longest = policy
            .components
            .values()
            .filter_map(|component| component.row)
            .map(|row| row.after.max(row.confirm_for))
            .chain([policy.regional.after, policy.degradation.after, policy.recover_for])
            .max()
            .unwrap_or_default();
        let keep = longest * 2 + Duration::from_secs(60);
        let components_of = |kinds: &[Kind]| {
            let components = policy.components.iter().filter(|(_, component)| kinds.contains(&component.kind));
            components.map(|(id, _)| id.clone()).collect()
        };
        let instances_of = |wanted: fn(&ComponentPolicy) -> bool| {
            let components = policy.components.iter().filter(|(_, component)| wanted(component));
            let in_regions = components.flat_map(|(id, component)| component.regions.iter().map(move |r| (id, r)));
            in_regions.map(|(id, r)| InstanceId { component: id.clone(), region: r.clone() }).collect()
        };
        Self {
            watches: Watches::new(policy, keep),
            driftable: components_of(&[Kind::Database, Kind::Traffic]),
            records: components_of(&[Kind::Traffic]),
            clusters: instances_of(|component| component.kind == Kind::Kubernetes),
            critical: instances_of(|component| component.critical),
            independent: instances_of(|component| component.independent_evidence),
            references: References::default(),
            council: Council::default(),
            witnessed: BTreeMap::new(),
            knew_better: BTreeMap::new(),
            newly_seen: BTreeSet::new(),
            looks: BTreeMap::new(),
            notes: BTreeMap::new(),
            held: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            under_way: BTreeSet::new(),
            stopped_sending: BTreeMap::new(),
            survey: None,
            survey_asked: None,
            strangers: BTreeMap::new(),
            revoked_since: BTreeMap::new(),
            roles_idle_since: BTreeMap::new(),
            guarded: BTreeSet::new(),
            unguarded_since: BTreeMap::new(),
            takeover: None,
            is_to_claim: false,
            stopped: None,
            unvouched_since: None,
            claimed: BTreeSet::new(),
            owed_under_way: BTreeMap::new(),
            verifications: BTreeMap::new(),
            measures: BTreeMap::new(),
            out_of_reach: BTreeMap::new(),
            alarms: BTreeMap::new(),
            inbox: VecDeque::new(),
            halted: None,
            limits: Limits {
                failing_ratio: if bugs.has(Bug::AnswerResetsTheWindow) { 1.0 } else { policy.failing_ratio },
                recover_for: policy.recover_for,
                degraded_ratio: policy.degradation.ratio,
                degraded_over: policy.degradation.after,
                bugs,
            },
            is_started: false,
            started_at: Duration::ZERO,
        }
    }
}
