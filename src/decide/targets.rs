//! Whether what is to take over could.

use super::controller::Draft;
use super::incident::Incident;
use super::{Guard, GuardKind};
use crate::domain::{Bug, InstanceId, Kind, Serving};
use crate::plan::{Action, Part, Step};

impl Draft<'_> {
    /// The instance that the step acts on does not answer, or could not take over.
    pub(super) fn unready_target(&self, incident: &Incident, step: &Step) -> Option<Guard> {
        if step.best_effort || incident.is_forced || self.bugs.has(Bug::AnyTargetWillDo) {
            return None;
        }
        if matches!(step.action, Action::Traffic { .. }) {
            return self.unready_for_clients(step);
        }
        let (target, takes_over) = target(step)?;
        // What this plan promoted itself takes writes, as it should.
        let is_sent = incident.plan.progress.get(&step.id).is_some_and(|progress| progress.has_sent());
        let is_stranger = || self.why_no_standby(target).filter(|_| takes_over && !is_sent);
        let evidence = self.why_unready(target, takes_over).or_else(is_stranger)?;
        Some(Guard {
            kind: GuardKind::TargetNotReady,
            evidence: format!("{target}: {evidence}"),
            lifted_by: format!("{target} answering and ready, or `failoverd failover --force` by a person"),
        })
    }

    /// What serves clients there has to answer before all of them are sent. A share has guards of its own.
    fn unready_for_clients(&self, step: &Step) -> Option<Guard> {
        if step.is_share() {
            return None;
        }
        let (instance, why) = step.places.iter().find_map(|(component, region)| {
            let kind = self.policy.components.get(component)?.kind;
            let instance = InstanceId { component: component.clone(), region: region.clone() };
            let why = matches!(kind, Kind::Kubernetes | Kind::Http).then(|| self.why_unready(&instance, false))??;
            Some((instance, why))
        })?;
        Some(Guard {
            kind: GuardKind::TargetNotReady,
            evidence: format!("clients would be sent to {instance}: {why}"),
            lifted_by: format!("{instance} answering, or `failoverd failover --force` by a person"),
        })
    }

    /// Why a database would not go on with what is served now, whatever its log says. An old primary that was left has
    /// gone its own way.
    pub(super) fn why_no_standby(&self, target: &InstanceId) -> Option<String> {
        let watch = self.soft.watches.get(target)?;
        let is_its_own = watch.kind == Kind::Database && watch.evidence.serving == Some(Serving::Writable);
        is_its_own
            .then(|| "it is no replica: what was written since it was left is not there, and would be lost".to_owned())
    }

    /// Why the instance could not take over right now; none if it could.
    pub(super) fn why_unready(&self, target: &InstanceId, takes_over: bool) -> Option<String> {
        let Some(watch) = self.soft.watches.get(target) else { return Some("it is not watched".to_owned()) };
        if !watch.is_answering(self.now.monotonic) {
            return Some(watch.why(self.now.monotonic));
        }
        if watch.evidence.credential_refused {
            return Some("it refuses our credential, so we could not act there".to_owned());
        }
        if takes_over && !watch.evidence.not_ready.is_empty() {
            return Some(watch.evidence.not_ready.join("; "));
        }
        None
    }
}

/// The instance that a step acts on, and whether that has to be able to take over.
pub(super) fn target(step: &Step) -> Option<(&InstanceId, bool)> {
    match &step.action {
        Action::IncidentDeclared { cluster, .. }
        | Action::Published { cluster, .. }
        | Action::RolledOut { cluster, .. }
        | Action::Manifests { cluster, .. }
        | Action::Restored { cluster, .. }
        | Action::ManifestsRemoved { cluster, .. }
        | Action::IncidentEnded { cluster, .. } => Some((cluster, false)),
        // What is to be mended need not be able to take over.
        Action::Replicas { cluster, .. } => Some((cluster, !matches!(step.part, Part::Healing { .. }))),
        Action::DatabasePromoted { database, .. } => Some((database, true)),
        Action::CacheActive { cache, .. } => Some((cache, true)),
        Action::StorageReachable { storage, .. } => Some((storage, true)),
        Action::CaughtUp { database, .. } => Some((database, true)),
        // What is to become a standby need not answer: one whose copy was interrupted does not.
        Action::Rejoined { .. }
        | Action::Protected { .. }
        | Action::Fenced { .. }
        | Action::Traffic { .. }
        | Action::Verified { .. } => None,
    }
}
