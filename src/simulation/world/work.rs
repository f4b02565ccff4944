//! What a daemon can do to the world: look, act, verify, undo. Work that was accepted goes on by itself.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::replication::Lost;
use super::{Instance, Operation, Promotion, Vantage, World, weights_text};
use crate::domain::{InstanceId, Kind};
use crate::plan::{Action, Value};
use crate::ports::{Look, Setback};
use crate::simulation::story::{Behaviour, Work};

impl World {
    /// When the next piece of work ends by itself.
    pub(in crate::simulation) fn next(&self) -> Option<Duration> {
        self.under_way.iter().filter_map(|operation| operation.done).min()
    }

    /// Ends the work whose time has come.
    pub(in crate::simulation) fn go_on(&mut self, now: Duration) {
        while let Some(place) =
            self.under_way.iter().position(|operation| operation.done.is_some_and(|done| done <= now))
        {
            let operation = self.under_way.remove(place);
            self.finish(now, &operation);
        }
    }

    /// Pods that could not start do so by themselves once the cause is gone: the cluster has not forgotten that they were
    /// to be restarted.
    pub(super) fn go_on_with_what_hung(&mut self, now: Duration) {
        for place in 0..self.under_way.len() {
            let Operation { done, key, action } = self.under_way[place].clone();
            let is_rollout = matches!(action, Action::RolledOut { .. });
            if done.is_none() && is_rollout && self.behaviour(&key, &action) == Behaviour::Works {
                self.under_way[place].done = Some(now + self.usual_time(&action));
            }
        }
    }

    pub(in crate::simulation) fn look(
        &self,
        now: Duration,
        from: &Vantage,
        key: &str,
        action: &Action,
    ) -> Result<Look, Setback> {
        self.answers(now, from, key, action)?;
        if let Action::DatabasePromoted { .. } = action
            && self.under_way.iter().any(|operation| is_the_same(&operation.action, action) && operation.done.is_some())
        {
            return Err(Setback::Transient("InvalidState: it is being promoted".to_owned()));
        }
        let satisfied = self.holds(now, from, key, action);
        let (summary, previous) = match action {
            Action::Replicas { cluster, workload, .. } => {
                let count = self.replicas.get(&(cluster.clone(), workload.clone())).copied().unwrap_or(0);
                (format!("{count} replicas"), json!({ "replicas": count }))
            }
            Action::Traffic { traffic, .. } => {
                let weights = self.weights.get(traffic).cloned().unwrap_or_default();
                (weights_text(&weights), json!(weights))
            }
            Action::Published { cluster, object: _, name, key, .. } => {
                let old = self.texts.get(&(cluster.clone(), format!("{name}/{key}")));
                (old.cloned().unwrap_or_else(|| "not set".to_owned()), json!({ "value": old }))
            }
            Action::IncidentDeclared { .. }
            | Action::Fenced { .. }
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
            | Action::Verified { .. } => {
                ((if satisfied { "it is so already" } else { "it is not so" }).to_owned(), json!({ "was": satisfied }))
            }
        };
        Ok(Look { satisfied, summary, previous })
    }

    /// One mutating call. Accepted means that the work has begun.
    pub(in crate::simulation) fn act(
        &mut self,
        now: Duration,
        from: &Vantage,
        key: &str,
        action: &Action,
    ) -> Result<(), Setback> {
        self.answers(now, from, key, action)?;
        if self.under_way.iter().any(|operation| is_the_same(&operation.action, action) && operation.done.is_some()) {
            return Err(Setback::Transient("InvalidState: a change is under way already".to_owned()));
        }
        let takes = match self.behaviour(key, action) {
            Behaviour::Refuses(why) => return Err(Setback::Refused(why)),
            Behaviour::Unreachable => return Err(Setback::Transient("no answer".to_owned())),
            Behaviour::Takes(takes) => Some(takes),
            Behaviour::Hangs => None,
            Behaviour::Works => Some(self.usual_time(action)),
        };
        // Calls are conditional on what was seen: one that comes too late is refused as a whole.
        if matches!(action, Action::DatabasePromoted { .. } | Action::Traffic { .. })
            && self.holds(now, from, key, action)
        {
            return Err(Setback::Transient("InvalidState: it is not as it was when it was looked at".to_owned()));
        }
        if let Action::DatabasePromoted { database, from: source, lossless: true } = action
            && !(self.reaches(now, from, source) && self.has_all(now, database, source))
        {
            return Err(Setback::Transient("the standby does not have everything yet".to_owned()));
        }
        match action {
            Action::DatabasePromoted { database, .. } => {
                let Lost { writes: lost, knowable, .. } = self.lost_by_promoting(now, database);
                let hangs = takes.is_none();
                let is_beside_another = self.is_written_elsewhere(now, database);
                let (database, key) = (database.clone(), key.to_owned());
                self.promotions.push(Promotion { database, key, lost, knowable, is_beside_another, hangs });
            }
            // What hangs changes nothing.
            Action::Traffic { .. } if takes.is_none() => {}
            Action::Traffic { traffic, .. } => self.traffic_changes.push((traffic.clone(), key.to_owned())),
            Action::RolledOut { cluster, workload, .. } => {
                let restart = (cluster.clone(), workload.clone(), key.to_owned());
                // The key is what is written into the pods' template: the same one again changes nothing.
                if self.restarts.contains(&restart) {
                    return Ok(());
                }
                self.restarts.push(restart);
            }
            Action::IncidentDeclared { .. }
            | Action::Replicas { .. }
            | Action::Fenced { .. }
            | Action::CaughtUp { .. }
            | Action::Rejoined { .. }
            | Action::Protected { .. }
            | Action::Published { .. }
            | Action::CacheActive { .. }
            | Action::StorageReachable { .. }
            | Action::Manifests { .. }
            | Action::Restored { .. }
            | Action::ManifestsRemoved { .. }
            | Action::IncidentEnded { .. }
            | Action::Verified { .. } => {}
        }
        let done = takes.map(|takes| now + takes);
        self.under_way.push(Operation { done, key: key.to_owned(), action: action.clone() });
        Ok(())
    }

    pub(in crate::simulation) fn verify(
        &self,
        now: Duration,
        from: &Vantage,
        key: &str,
        action: &Action,
    ) -> Result<String, Setback> {
        self.answers(now, from, key, action)?;
        if self.holds(now, from, key, action) {
            Ok(seen(action))
        } else {
            Err(Setback::NotYet("it is not so yet".to_owned()))
        }
    }

    /// Takes it back, at once.
    pub(in crate::simulation) fn undo(
        &mut self,
        now: Duration,
        from: &Vantage,
        key: &str,
        action: &Action,
        previous: &Json,
    ) -> Result<String, Setback> {
        self.answers(now, from, key, action)?;
        self.under_way.retain(|operation| operation.action != *action);
        match action {
            Action::Replicas { cluster, workload, .. } => {
                if let Some(count) = previous.get("replicas").and_then(Json::as_u64).and_then(|n| u32::try_from(n).ok())
                {
                    self.replicas.insert((cluster.clone(), workload.clone()), count);
                }
            }
            Action::Fenced { database } => {
                if let Some(instance) = self.instances.get_mut(database) {
                    instance.fenced = false;
                    if !instance.demoted {
                        instance.log.is_written_again(now);
                    }
                }
            }
            Action::IncidentDeclared { cluster, .. } => {
                self.texts.insert((cluster.clone(), "dr-mode".to_owned()), "inactive".to_owned());
            }
            Action::Published { cluster, name, key, .. } => {
                let place = (cluster.clone(), format!("{name}/{key}"));
                match previous.get("value").and_then(Json::as_str) {
                    Some(old) => self.texts.insert(place, old.to_owned()),
                    None => self.texts.remove(&place),
                };
            }
            Action::Traffic { traffic, weights } => {
                let old = serde_json::from_value(previous.clone()).ok();
                let now = self.weights.get(traffic);
                let is_under_way = self
                    .under_way
                    .iter()
                    .any(|operation| matches!(&operation.action, Action::Traffic { traffic: of, .. } if of == traffic));
                if is_under_way || (now != Some(weights) && now != old.as_ref()) {
                    return Err(Setback::Refused("it was changed since by another: it is left as it is".to_owned()));
                }
                if let Ok(old) = serde_json::from_value(previous.clone()) {
                    self.weights.insert(traffic.clone(), old);
                }
            }
            Action::DatabasePromoted { .. }
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
            | Action::Verified { .. } => return Err(Setback::Refused("this cannot be taken back".to_owned())),
        }
        Ok("as it was".to_owned())
    }

    /// Whether the place that the action is about answers at all.
    fn answers(&self, now: Duration, from: &Vantage, key: &str, action: &Action) -> Result<(), Setback> {
        let silent = |id: &InstanceId| Err(Setback::Transient(format!("{id} does not answer")));
        if from.is_cut_off {
            return Err(Setback::Transient("no answer".to_owned()));
        }
        if self.behaviour(key, action) == Behaviour::Unreachable {
            return Err(Setback::Transient("no answer".to_owned()));
        }
        if let Action::CaughtUp { from: source, .. } = action
            && !self.reaches(now, from, source)
        {
            return silent(source);
        }
        let Some(place) = action.acts_at() else { return Ok(()) };
        // A managed database is promoted by the cloud's API, which answers for it.
        match self.instances.get(place) {
            Some(_) if !self.reaches(now, from, place) => silent(place),
            Some(instance) if instance.credential_refused => {
                Err(Setback::Refused(format!("{place} refuses our credential")))
            }
            Some(instance) if matches!(action, Action::DatabasePromoted { .. }) && instance.not_ready.is_some() => {
                Err(Setback::Transient("InvalidDBInstanceState: not in a state to be promoted".to_owned()))
            }
            Some(_) => Ok(()),
            None => Err(Setback::Refused(format!("{place} does not exist"))),
        }
    }

    fn behaviour(&self, key: &str, action: &Action) -> Behaviour {
        let step = key.rsplit_once('/').map_or(key, |(_, step)| step);
        self.behaviours
            .get(&Work::Step(step.into()))
            .or_else(|| self.behaviours.get(&work_of(action)))
            .cloned()
            .unwrap_or(Behaviour::Works)
    }

    fn usual_time(&self, action: &Action) -> Duration {
        let managed = |id: &InstanceId| self.policy.components.get(&id.component).is_some_and(|c| c.managed);
        Duration::from_secs(match action {
            Action::DatabasePromoted { database, .. } if managed(database) => 180,
            Action::DatabasePromoted { .. } => 10,
            Action::Fenced { database } if managed(database) => 30,
            Action::CacheActive { cache, .. } if managed(cache) => 120,
            Action::Rejoined { .. } => 90,
            Action::Replicas { .. } | Action::Traffic { .. } => 30,
            Action::RolledOut { .. } => 40,
            Action::IncidentDeclared { .. }
            | Action::Fenced { .. }
            | Action::CaughtUp { .. }
            | Action::Protected { .. }
            | Action::Published { .. }
            | Action::CacheActive { .. }
            | Action::StorageReachable { .. }
            | Action::Manifests { .. }
            | Action::Restored { .. }
            | Action::ManifestsRemoved { .. }
            | Action::IncidentEnded { .. }
            | Action::Verified { .. } => 1,
        })
    }

    fn holds(&self, now: Duration, from: &Vantage, key: &str, action: &Action) -> bool {
        let text = |cluster: &InstanceId, name: String, value: &str| {
            self.texts.get(&(cluster.clone(), name)).is_some_and(|found| found == value)
        };
        match action {
            Action::Replicas { cluster, workload, replicas, .. } => {
                let place = (cluster.clone(), workload.clone());
                self.replicas.get(&place) == Some(replicas) && self.ready(&place, *replicas) >= *replicas
            }
            Action::Fenced { database } => self.instances.get(database).is_some_and(|instance| instance.fenced),
            Action::DatabasePromoted { database, .. } => {
                self.instances.get(database).is_some_and(|instance| instance.writable)
            }
            Action::CacheActive { cache, .. } => {
                self.instances.get(cache).is_some_and(|c| c.writable) && text(cache, "active".to_owned(), "yes")
            }
            Action::CaughtUp { database, from: source } => {
                let is_slow = matches!(self.behaviour(key, action), Behaviour::Hangs | Behaviour::Refuses(_));
                !is_slow && self.has_all(now, database, source)
            }
            Action::Rejoined { database, from: serving } => {
                let writable = |id: &InstanceId| self.instances.get(id).is_some_and(|instance| instance.writable);
                !writable(database) && writable(serving)
            }
            Action::Protected { database, .. } => text(database, PROTECTED.to_owned(), "yes"),
            Action::Traffic { traffic, weights } => self.weights.get(traffic) == Some(weights),
            Action::IncidentDeclared { cluster, incident, .. } => text(cluster, "dr-mode".to_owned(), incident),
            Action::Published { cluster, name, key, value, .. } => {
                text(cluster, format!("{name}/{key}"), &value_text(value))
            }
            Action::RolledOut { cluster, workload, .. } => {
                let place = (cluster.clone(), workload.clone());
                text(cluster, restarted(workload, key), key) && !self.lacking.contains_key(&place)
            }
            Action::Manifests { cluster, path } => text(cluster, format!("manifest {path}"), "applied"),
            Action::Restored { cluster, name, key, .. } => {
                !self.texts.contains_key(&(cluster.clone(), format!("{name}/{key}")))
            }
            Action::ManifestsRemoved { cluster, path } => {
                !self.texts.contains_key(&(cluster.clone(), format!("manifest {path}")))
            }
            Action::IncidentEnded { cluster, .. } => text(cluster, "dr-mode".to_owned(), INACTIVE),
            Action::StorageReachable { storage, holds_all_of } => {
                let has_all = |source| {
                    let is_behind = matches!(self.behaviour(key, action), Behaviour::Hangs | Behaviour::Refuses(_));
                    self.reaches(now, from, source) && !is_behind
                };
                self.reaches(now, from, storage) && holds_all_of.as_ref().is_none_or(has_all)
            }
            Action::Verified { region, .. } => {
                let is_broken = matches!(self.behaviour(key, action), Behaviour::Hangs | Behaviour::Refuses(_));
                let serves = |id: &InstanceId, of: &Instance| {
                    id.region == *region && matches!(of.kind, Kind::Kubernetes | Kind::Http)
                };
                let mut serving = self.instances.iter().filter(|(id, of)| serves(id, of));
                !is_broken && serving.all(|(id, _)| self.reaches(now, from, id))
            }
        }
    }

    fn finish(&mut self, now: Duration, operation: &Operation) {
        match &operation.action {
            Action::Replicas { cluster, workload, replicas, .. } => {
                self.replicas.insert((cluster.clone(), workload.clone()), *replicas);
            }
            Action::Fenced { database } => {
                if let Some(instance) = self.instances.get_mut(database) {
                    instance.fenced = true;
                    instance.log.falls_silent(now);
                }
            }
            Action::DatabasePromoted { database, .. } => {
                let forked_at = Some(self.position(now, database));
                if let Some(instance) = self.instances.get_mut(database) {
                    instance.forked_at = forked_at.filter(|_| !instance.writable).or(instance.forked_at);
                    instance.writable = true;
                    instance.demoted = false;
                    instance.log.begins_anew();
                }
            }
            Action::Rejoined { database, .. } => {
                // What it is made of now had none of it.
                self.texts.remove(&(database.clone(), PROTECTED.to_owned()));
                self.rejoin(database);
            }
            Action::Protected { database, .. } => {
                self.texts.insert((database.clone(), PROTECTED.to_owned()), "yes".to_owned());
            }
            Action::CacheActive { cache, .. } => {
                if let Some(instance) = self.instances.get_mut(cache) {
                    instance.writable = true;
                }
                self.texts.insert((cache.clone(), "active".to_owned()), "yes".to_owned());
            }
            Action::Traffic { traffic, weights } => {
                self.weights.insert(traffic.clone(), weights.clone());
            }
            Action::IncidentDeclared { cluster, incident, .. } => {
                self.texts.insert((cluster.clone(), "dr-mode".to_owned()), incident.clone());
            }
            Action::Published { cluster, name, key, value, .. } => {
                self.texts.insert((cluster.clone(), format!("{name}/{key}")), value_text(value));
            }
            Action::RolledOut { cluster, workload, .. } => {
                let mark = restarted(workload, &operation.key);
                self.texts.insert((cluster.clone(), mark), operation.key.clone());
                let place = (cluster.clone(), workload.clone());
                if self.lacking.get(&place).is_some_and(|lack| lack.until_restarted) {
                    self.lacking.remove(&place);
                }
            }
            Action::Manifests { cluster, path } => {
                self.texts.insert((cluster.clone(), format!("manifest {path}")), "applied".to_owned());
            }
            Action::Restored { cluster, name, key, .. } => {
                self.texts.remove(&(cluster.clone(), format!("{name}/{key}")));
            }
            Action::ManifestsRemoved { cluster, path } => {
                self.texts.remove(&(cluster.clone(), format!("manifest {path}")));
            }
            Action::IncidentEnded { cluster, .. } => {
                self.texts.insert((cluster.clone(), "dr-mode".to_owned()), INACTIVE.to_owned());
            }
            Action::CaughtUp { .. } | Action::StorageReachable { .. } | Action::Verified { .. } => {}
        }
    }
}

/// What the `dr-mode` says while everything is where it belongs.
const INACTIVE: &str = "inactive";

/// Set where a promoted database has its backups and its other zone.
const PROTECTED: &str = "protected";

/// Two plans may restart one workload, so each restart has a mark of its own.
fn restarted(workload: &str, key: &str) -> String {
    format!("restarted {workload} for {key}")
}

fn work_of(action: &Action) -> Work {
    match action {
        Action::IncidentDeclared { .. } => Work::Declare,
        Action::Replicas { .. } => Work::Scale,
        Action::Fenced { .. } => Work::Fence,
        Action::DatabasePromoted { .. } => Work::Promote,
        Action::CaughtUp { .. } => Work::CatchUp,
        Action::Rejoined { .. } => Work::Rejoin,
        Action::Protected { .. } => Work::Protect,
        Action::Published { .. } => Work::Publish,
        Action::RolledOut { .. } => Work::Rollout,
        Action::CacheActive { .. } => Work::Cache,
        Action::StorageReachable { .. } => Work::Storage,
        Action::Traffic { .. } => Work::Traffic,
        Action::Manifests { .. } | Action::ManifestsRemoved { .. } => Work::Manifests,
        Action::Restored { .. } => Work::Publish,
        Action::IncidentEnded { .. } => Work::Declare,
        Action::Verified { .. } => Work::Verify,
    }
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Literal(text) => text.clone(),
        Value::Of { instance, property } => format!("{property:?} of {instance}").to_lowercase(),
    }
}

/// What a verification sees, for the record.
fn seen(action: &Action) -> String {
    match action {
        Action::IncidentDeclared { .. } => "read back".to_owned(),
        Action::Replicas { replicas, .. } => format!("{replicas} ready"),
        Action::Fenced { .. } => "a write is refused on a new connection".to_owned(),
        Action::DatabasePromoted { .. } => "no source any more, and a write was read back".to_owned(),
        Action::CaughtUp { .. } => "everything is replayed".to_owned(),
        Action::Rejoined { .. } => "it streams".to_owned(),
        Action::Protected { .. } => "backups and another zone are on their way".to_owned(),
        Action::Published { .. } => "read back".to_owned(),
        Action::RolledOut { .. } => "the new pods are ready".to_owned(),
        Action::CacheActive { .. } => "a write was read back".to_owned(),
        Action::StorageReachable { holds_all_of: None, .. } => "it lists".to_owned(),
        Action::StorageReachable { .. } => "every object has arrived".to_owned(),
        Action::Traffic { .. } => "INSYNC, and the answer is right".to_owned(),
        Action::Manifests { .. } => "they are there".to_owned(),
        Action::Restored { .. } | Action::IncidentEnded { .. } => "read back".to_owned(),
        Action::ManifestsRemoved { .. } => "they are gone".to_owned(),
        Action::Verified { .. } => "it does".to_owned(),
    }
}

fn is_the_same(one: &Action, other: &Action) -> bool {
    match (one, other) {
        // With or without a wait before it, a database is promoted once.
        (Action::DatabasePromoted { database: one, .. }, Action::DatabasePromoted { database: other, .. }) => {
            one == other
        }
        (one, other) => one == other,
    }
}
