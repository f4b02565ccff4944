//! What a failover changes in clusters. Each goal has a file of its own; here is what they share: one connection per
//! call, the permit before every change, and a limit on everything.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kube::Client;
use serde_json::Value as Json;
use tokio::time::Instant;

use super::access::{Cluster, Clusters};
use super::answer::No;
use super::session::{Session, answered};
use super::{claim, manifests, mode, pods, published, removed, rollout, scale};
use crate::adapters::Endpoints;
use crate::config::Config;
use crate::domain::{InstanceId, Layer, PublishedValue};
use crate::ledger::Permit;
use crate::plan::{Action, Value};
use crate::ports::{Actuator, Claim, Clock, Look, Setback};

/// Carries out every action that concerns a cluster.
pub struct KubernetesActuator {
    clusters: Clusters,
    config: Arc<Config>,
    endpoints: Arc<dyn Endpoints>,
    clock: Arc<dyn Clock>,
}

/// One conversation with one cluster on behalf of one step.
pub(super) struct Hand<'a> {
    session: Session,
    cluster: &'a Cluster,
    limit: Duration,
    clock: &'a dyn Clock,
    permit: Option<&'a Permit>,
}

impl KubernetesActuator {
    /// `endpoints` tells the addresses that are published.
    pub fn new(config: Arc<Config>, clusters: Clusters, endpoints: Arc<dyn Endpoints>, clock: Arc<dyn Clock>) -> Self {
        Self { clusters, config, endpoints, clock }
    }

    /// Who claims the cluster; none where nobody does.
    pub async fn claim(&self, cluster: &InstanceId) -> Result<Option<Claim>, Setback> {
        let hand = self.hand(cluster, None).await?;
        claim::read(&hand, self.namespace(cluster)?).await
    }

    /// Puts our claim into the cluster unless it is there. A foreign or a later one is refused, unless a person adopted
    /// (`replace`).
    ///
    /// Safe against another daemon that does the same at the same moment: one of the two gets the refusal.
    pub async fn ensure_claim(
        &self,
        cluster: &InstanceId,
        claim: &Claim,
        replace: bool,
        permit: &Permit,
    ) -> Result<(), Setback> {
        let hand = self.hand(cluster, Some(permit)).await?;
        claim::ensure(&hand, self.namespace(cluster)?, claim, replace).await
    }

    /// How many pods of the namespace run, for a check of the end state.
    pub async fn pods_running(&self, cluster: &InstanceId, running_min: u32) -> Result<String, Setback> {
        let hand = self.hand(cluster, None).await?;
        pods::running(&hand, self.namespace(cluster)?, running_min).await
    }

    /// Whether every configured workload has the ready replicas that it needs while its cluster serves; for a check of the
    /// end state.
    pub async fn workloads_ready(&self, cluster: &InstanceId) -> Result<String, Setback> {
        let hand = self.hand(cluster, None).await?;
        let namespace = self.namespace(cluster)?;
        let workloads =
            self.config.clusters.get(&cluster.component).map(|of| of.workloads.as_slice()).unwrap_or_default();
        let asked = workloads.iter().map(|of| scale::workload(&hand, namespace, of.kind, &of.name));
        let (mut well, mut short) = (Vec::new(), Vec::new());
        for (of, found) in workloads.iter().zip(futures::future::try_join_all(asked).await?) {
            let ready = if found.is_observed() { found.ready() } else { 0 };
            let seen = format!("{} {} of {}", of.name, ready, of.active);
            if ready < of.active { &mut short } else { &mut well }.push(seen);
        }
        if short.is_empty() {
            return Ok(format!("ready: {}", well.join(", ")));
        }
        Err(Setback::NotYet(format!("too few replicas are ready: {}", short.join(", "))))
    }

    async fn hand<'a>(&'a self, cluster: &InstanceId, permit: Option<&'a Permit>) -> Result<Hand<'a>, Setback> {
        let cluster = self.clusters.get(cluster).ok_or_else(|| {
            Setback::Refused(format!("the configuration has no cluster {cluster}; add it or abort the plan"))
        })?;
        let limit = self.config.ledger.call_timeout;
        let session = cluster
            .connect(Instant::now() + limit)
            .await
            .map_err(|broken| Setback::Transient(format!("cannot reach {}: {broken}", cluster.instance)))?;
        Ok(Hand { session, cluster, limit, clock: &*self.clock, permit })
    }

    fn namespace(&self, cluster: &InstanceId) -> Result<&str, Setback> {
        let found = self.config.clusters.get(&cluster.component);
        found.map(|cluster| cluster.namespace.as_str()).ok_or_else(|| {
            Setback::Refused(format!(
                "the configuration has no cluster {}; add it or abort the plan",
                cluster.component
            ))
        })
    }

    /// The value as of now: from whoever knows, never built from strings.
    async fn resolve(&self, value: &Value) -> Result<String, Setback> {
        match value {
            Value::Literal(text) => Ok(text.clone()),
            Value::Of { instance, property: PublishedValue::Host } => Ok(self.endpoints.current(instance).await?.host),
            Value::Of { instance, property: PublishedValue::Port } => {
                Ok(self.endpoints.current(instance).await?.port.to_string())
            }
            Value::Of { instance, property: PublishedValue::Region } => Ok(instance.region.as_str().to_owned()),
            Value::Of { instance, property: PublishedValue::Bucket } => self
                .config
                .buckets
                .get(&instance.component)
                .and_then(|bucket| bucket.regions.get(&instance.region))
                .map(|region| region.bucket.clone())
                .ok_or_else(|| Setback::Refused(format!("the configuration names no bucket for {instance}"))),
        }
    }
}

impl Hand<'_> {
    pub(super) fn client(&self) -> Client {
        self.session.client.clone()
    }

    /// Which cluster, for people.
    pub(super) fn whom(&self) -> &InstanceId {
        &self.cluster.instance
    }

    /// Time of day, for records in the cluster.
    pub(super) fn wall(&self) -> jiff::Timestamp {
        self.clock.now().wall
    }

    /// Asks something.
    pub(super) async fn ask<T>(&self, call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, No> {
        self.bounded(call, self.limit).await
    }

    /// Asks for an object that need not be there.
    pub(super) async fn find<T>(
        &self,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<Option<T>, Setback> {
        match self.ask(call).await {
            Ok(found) => Ok(Some(found)),
            Err(No::Absent(_)) => Ok(None),
            Err(
                no @ (No::Refused(_)
                | No::Changed(_)
                | No::Throttled(_)
                | No::Invalid(_)
                | No::Ailing(_)
                | No::Broken(_)
                | No::Unclear(_)),
            ) => Err(no.setback()),
        }
    }

    /// Changes something: only while the permit lasts, and done with before it ends.
    pub(super) async fn change<T>(&self, call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, No> {
        let limit = match self.permit {
            Some(permit) => match permit.time_left(self.clock.now()) {
                Ok(left) => left.min(self.limit),
                Err(expired) => return Err(No::Unclear(expired.to_string())),
            },
            None => return Err(No::Unclear("a change without a permit, which is a bug; nothing was sent".to_owned())),
        };
        self.bounded(call, limit).await
    }

    async fn bounded<T>(&self, call: impl Future<Output = Result<T, kube::Error>>, limit: Duration) -> Result<T, No> {
        match answered(Instant::now() + limit, Layer::Query, limit, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let no = No::of(&error, Layer::Query);
                if matches!(no, No::Refused(_)) {
                    // A rotated token is in the file by now; the next attempt reads it.
                    self.cluster.forget().await;
                }
                Err(no)
            }
            Err(broken) => Err(No::Broken(broken)),
        }
    }
}

/// Any other action has come to the wrong place.
fn misdirected(action: &Action) -> Setback {
    Setback::Refused(format!("not an action on a cluster: {action}"))
}

#[async_trait]
impl Actuator for KubernetesActuator {
    async fn look(&self, key: &str, action: &Action) -> Result<Look, Setback> {
        match action {
            Action::IncidentDeclared { cluster, namespace, incident } => {
                mode::look(&self.hand(cluster, None).await?, namespace, incident).await
            }
            Action::Replicas { cluster, namespace, kind, workload, replicas, at_most } => {
                let goal = scale::Goal::of(namespace, *kind, workload, *replicas, *at_most);
                scale::look(&self.hand(cluster, None).await?, goal).await
            }
            Action::Published { cluster, namespace, object, name, key: entry, value } => {
                let goal = published::Goal { namespace, object: *object, name, entry };
                let value = self.resolve(value).await?;
                published::look(&self.hand(cluster, None).await?, goal, &value).await
            }
            Action::RolledOut { cluster, namespace, kind, workload } => {
                rollout::look(&self.hand(cluster, None).await?, namespace, *kind, workload, key).await
            }
            Action::Manifests { cluster, path } => {
                let manifests = manifests::read(path).await?;
                manifests::look(&self.hand(cluster, None).await?, self.namespace(cluster)?, &manifests).await
            }
            Action::Restored { cluster, namespace, object, name, key: entry, replaces } => {
                let goal = published::Goal { namespace, object: *object, name, entry };
                published::look_for_former(&self.hand(cluster, None).await?, goal, replaces).await
            }
            Action::ManifestsRemoved { cluster, path } => {
                let manifests = manifests::read(path).await?;
                removed::look(&self.hand(cluster, None).await?, self.namespace(cluster)?, &manifests).await
            }
            Action::IncidentEnded { cluster, namespace, .. } => {
                mode::look_for_end(&self.hand(cluster, None).await?, namespace).await
            }
            Action::Fenced { .. }
            | Action::DatabasePromoted { .. }
            | Action::CaughtUp { .. }
            | Action::Rejoined { .. }
            | Action::Protected { .. }
            | Action::CacheActive { .. }
            | Action::StorageReachable { .. }
            | Action::Traffic { .. }
            | Action::Verified { .. } => Err(misdirected(action)),
        }
    }

    async fn act(&self, key: &str, action: &Action, look: &Look, permit: &Permit) -> Result<(), Setback> {
        let permit = Some(permit);
        let seen = &look.previous;
        match action {
            Action::IncidentDeclared { cluster, namespace, incident } => {
                mode::act(&self.hand(cluster, permit).await?, namespace, incident, key, seen).await
            }
            Action::Replicas { cluster, namespace, kind, workload, replicas, at_most } => {
                let goal = scale::Goal::of(namespace, *kind, workload, *replicas, *at_most);
                scale::act(&self.hand(cluster, permit).await?, goal, seen).await
            }
            Action::Published { cluster, namespace, object, name, key: entry, value } => {
                let goal = published::Goal { namespace, object: *object, name, entry };
                let value = self.resolve(value).await?;
                published::act(&self.hand(cluster, permit).await?, goal, &value, key, seen).await
            }
            Action::RolledOut { cluster, namespace, kind, workload } => {
                rollout::act(&self.hand(cluster, permit).await?, namespace, *kind, workload, key, seen).await
            }
            Action::Manifests { cluster, path } => {
                let manifests = manifests::read(path).await?;
                manifests::act(&self.hand(cluster, permit).await?, self.namespace(cluster)?, &manifests).await
            }
            Action::Restored { cluster, namespace, object, name, key: entry, replaces } => {
                let goal = published::Goal { namespace, object: *object, name, entry };
                published::restore(&self.hand(cluster, permit).await?, goal, replaces).await
            }
            Action::ManifestsRemoved { cluster, path } => {
                let manifests = manifests::read(path).await?;
                removed::act(&self.hand(cluster, permit).await?, self.namespace(cluster)?, &manifests).await
            }
            Action::IncidentEnded { cluster, namespace, incident } => {
                mode::end(&self.hand(cluster, permit).await?, namespace, incident, seen).await
            }
            Action::Fenced { .. }
            | Action::DatabasePromoted { .. }
            | Action::CaughtUp { .. }
            | Action::Rejoined { .. }
            | Action::Protected { .. }
            | Action::CacheActive { .. }
            | Action::StorageReachable { .. }
            | Action::Traffic { .. }
            | Action::Verified { .. } => Err(misdirected(action)),
        }
    }

    async fn verify(&self, key: &str, action: &Action) -> Result<String, Setback> {
        match action {
            Action::IncidentDeclared { cluster, namespace, incident } => {
                mode::verify(&self.hand(cluster, None).await?, namespace, incident).await
            }
            Action::Replicas { cluster, namespace, kind, workload, replicas, at_most } => {
                let goal = scale::Goal::of(namespace, *kind, workload, *replicas, *at_most);
                scale::verify(&self.hand(cluster, None).await?, goal).await
            }
            Action::Published { cluster, namespace, object, name, key: entry, value } => {
                let goal = published::Goal { namespace, object: *object, name, entry };
                let value = self.resolve(value).await?;
                published::verify(&self.hand(cluster, None).await?, goal, &value).await
            }
            Action::RolledOut { cluster, namespace, kind, workload } => {
                rollout::verify(&self.hand(cluster, None).await?, namespace, *kind, workload, key).await
            }
            Action::Manifests { cluster, path } => {
                let manifests = manifests::read(path).await?;
                manifests::verify(&self.hand(cluster, None).await?, self.namespace(cluster)?, &manifests).await
            }
            Action::Restored { cluster, namespace, object, name, key: entry, replaces } => {
                let goal = published::Goal { namespace, object: *object, name, entry };
                published::verify_restored(&self.hand(cluster, None).await?, goal, replaces).await
            }
            Action::ManifestsRemoved { cluster, path } => {
                let manifests = manifests::read(path).await?;
                removed::verify(&self.hand(cluster, None).await?, self.namespace(cluster)?, &manifests).await
            }
            Action::IncidentEnded { cluster, namespace, .. } => {
                mode::verify_end(&self.hand(cluster, None).await?, namespace).await
            }
            Action::Fenced { .. }
            | Action::DatabasePromoted { .. }
            | Action::CaughtUp { .. }
            | Action::Rejoined { .. }
            | Action::Protected { .. }
            | Action::CacheActive { .. }
            | Action::StorageReachable { .. }
            | Action::Traffic { .. }
            | Action::Verified { .. } => Err(misdirected(action)),
        }
    }

    async fn undo(&self, key: &str, action: &Action, previous: &Json, permit: &Permit) -> Result<String, Setback> {
        let permit = Some(permit);
        match action {
            Action::IncidentDeclared { cluster, namespace, incident } => {
                mode::undo(&self.hand(cluster, permit).await?, namespace, incident).await
            }
            Action::Replicas { cluster, namespace, kind, workload, replicas, at_most } => {
                let goal = scale::Goal::of(namespace, *kind, workload, *replicas, *at_most);
                scale::undo(&self.hand(cluster, permit).await?, goal, previous).await
            }
            Action::Published { cluster, namespace, object, name, key: entry, .. } => {
                let goal = published::Goal { namespace, object: *object, name, entry };
                published::undo(&self.hand(cluster, permit).await?, goal, key).await
            }
            Action::RolledOut { workload, .. } => Ok(format!("{workload} stays restarted; there is nothing to undo")),
            Action::Manifests { path, .. } => Ok(format!("{path} stays applied; it changes no placement")),
            Action::Restored { .. } | Action::ManifestsRemoved { .. } | Action::IncidentEnded { .. } => {
                Ok("it stays as it is: the work is back where it belongs".to_owned())
            }
            Action::Fenced { .. }
            | Action::DatabasePromoted { .. }
            | Action::CaughtUp { .. }
            | Action::Rejoined { .. }
            | Action::Protected { .. }
            | Action::CacheActive { .. }
            | Action::StorageReachable { .. }
            | Action::Traffic { .. }
            | Action::Verified { .. } => Err(misdirected(action)),
        }
    }
}
