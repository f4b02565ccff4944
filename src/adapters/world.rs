//! Everything that the configuration names, behind the ports: who is probed, who is asked, who acts.
//!
//! Deliberately without the network: putting the parts together contacts nobody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustls::ClientConfig;
use serde_json::Value;

use super::aws::{Aws, AwsActuator, CloudProbe, HoldingsProbe, Proofs, S3Probe, TrafficProbe};
use super::connect::{TrustError, trust};
use super::http::{HttpChecks, HttpProbe, HttpReference};
use super::kubernetes::{ClusterProbe, Clusters, KubernetesActuator};
use super::names::Names;
use super::postgres::Postgres;
use super::redis::Redis;
use super::{Endpoints, WriteProof as _, command, dns};
use crate::config::Config;
use crate::config::schema::Check;
use crate::domain::{InstanceId, Kind, Policy, Probing, ReferenceId, RegionId, Role};
use crate::plan::Action;
use crate::ports::{Actuator, Claim, Claims, Clock, Look, Losses, Permit, Probe, ReferenceProbe, Setback};

/// All adapters of one configuration.
pub struct Adapters {
    /// One probe per instance, with its rhythm.
    pub probes: Vec<(InstanceId, Probing, Box<dyn Probe>)>,
    /// One per reference point.
    pub references: Vec<(ReferenceId, Probing, Box<dyn ReferenceProbe>)>,
    /// Brings every action about.
    pub actuator: Arc<dyn Actuator>,
    /// Who is in charge.
    pub claims: Arc<dyn Claims>,
    /// What promotions lost.
    pub losses: Arc<dyn Losses>,
}

impl std::fmt::Debug for Adapters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adapters").field("probes", &self.probes.len()).finish_non_exhaustive()
    }
}

/// Something in the configuration that only shows when it is used: a CA file that cannot be read, an impossible URL.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// A certificate bundle.
    #[error("a certificate bundle of the configuration cannot be used")]
    Trust(#[from] TrustError),
    /// An address.
    #[error("{what}: {why}")]
    Address {
        /// Whose.
        what: String,
        /// What to write instead.
        why: String,
    },
}

/// Builds all adapters. Contacts nobody; reads the CA files.
pub fn build(config: &Arc<Config>, policy: &Policy, clock: &Arc<dyn Clock>) -> Result<Adapters, Unusable> {
    let names = Names::new(config);
    let default_trust = Arc::new(trust(None)?);
    let mut trusted = BTreeMap::new();
    for (region, settings) in &config.regions {
        if let Some(ca_file) = &settings.ca_file {
            trusted.insert(region.clone(), Arc::new(trust(Some(ca_file))?));
        }
    }
    let aws = Arc::new(Aws::new(config.clone()));
    let parts = Parts {
        clock: clock.clone(),
        postgres: Postgres::new(config, aws.clone(), &names, clock.clone())?,
        redis: Redis::new(config, aws.clone(), &names, clock.clone())?,
        clusters: Clusters::new(config, &names),
        config: config.clone(),
        aws,
        names,
        trusted,
        default_trust,
    };
    let mut probes = Vec::new();
    for (component, of) in &policy.components {
        for region in &of.regions {
            let instance = InstanceId { component: component.clone(), region: region.clone() };
            if let Some(probe) = parts.probe(of.kind, &instance, of.probing, policy)? {
                probes.push((instance, of.probing, probe));
            }
        }
    }
    let mut references: Vec<(ReferenceId, Probing, Box<dyn ReferenceProbe>)> = Vec::new();
    for (id, reference) in &config.references {
        let Some(of) = policy.references.get(id) else { continue };
        let probe = HttpReference::new(&reference.address, of.probing.timeout, &parts.default_trust, &parts.names)
            .map_err(|why| Unusable::Address { what: format!("reference {id}"), why })?;
        references.push((id.clone(), of.probing, Box::new(probe)));
    }
    let losses = Arc::new(parts.postgres.clone());
    let (actuator, claims) = parts.actors();
    Ok(Adapters { probes, references, actuator, claims, losses })
}

struct Parts {
    config: Arc<Config>,
    clock: Arc<dyn Clock>,
    names: Arc<Names>,
    trusted: BTreeMap<RegionId, Arc<ClientConfig>>,
    default_trust: Arc<ClientConfig>,
    aws: Arc<Aws>,
    postgres: Postgres,
    redis: Redis,
    clusters: Clusters,
}

impl Parts {
    fn probe(
        &self,
        kind: Kind,
        instance: &InstanceId,
        probing: Probing,
        policy: &Policy,
    ) -> Result<Option<Box<dyn Probe>>, Unusable> {
        let (component, region) = (&instance.component, &instance.region);
        Ok(match kind {
            Kind::Kubernetes => {
                let Some(cluster) = self.clusters.get(instance) else { return Ok(None) };
                let Some(of) = self.config.clusters.get(component) else { return Ok(None) };
                let role = policy.regions.get(region).copied().unwrap_or(Role::Secondary);
                let (namespace, workloads) = (of.namespace.clone(), of.workloads.clone());
                let probe = ClusterProbe::new(cluster.clone(), namespace, workloads, role, probing.timeout);
                Some(Box::new(if self.config.zones.enabled { probe.with_zones() } else { probe }))
            }
            Kind::Database => {
                Some(Box::new(self.postgres.probe(instance.clone(), probing.timeout, Some(self.aws.clone()))))
            }
            Kind::Cache => Some(Box::new(self.redis.probe(instance.clone(), probing.timeout, Some(self.aws.clone())))),
            Kind::Storage => Some(Box::new(S3Probe::new(self.aws.clone(), self.clock.clone(), instance.clone()))),
            Kind::Http => {
                let Some(service) = self.config.http.get(component) else { return Ok(None) };
                let Some(settings) = service.regions.get(region) else { return Ok(None) };
                let probe = HttpProbe::new(
                    instance.clone(),
                    service,
                    settings,
                    probing.timeout,
                    self.trust_of(region),
                    &self.names,
                )
                .map_err(|why| Unusable::Address { what: instance.to_string(), why })?;
                Some(Box::new(probe))
            }
            Kind::Cloud => Some(Box::new(CloudProbe::new(self.aws.clone(), self.clock.clone(), instance.clone()))),
            Kind::Traffic => Some(Box::new(TrafficProbe::new(self.aws.clone(), self.clock.clone(), instance.clone()))),
            Kind::Holdings => {
                let (aws, clock) = (self.aws.clone(), self.clock.clone());
                Some(Box::new(HoldingsProbe::new(aws, clock, region.clone(), probing.timeout)))
            }
        })
    }

    fn trust_of(&self, region: &RegionId) -> &ClientConfig {
        self.trusted.get(region).unwrap_or(&self.default_trust)
    }

    fn actors(self) -> (Arc<dyn Actuator>, Arc<dyn Claims>) {
        let proofs = Proofs {
            database: Arc::new(self.postgres.clone()),
            cache: Arc::new(self.redis.clone()),
            catch_up: Arc::new(self.postgres.clone()),
        };
        let kubernetes =
            Arc::new(KubernetesActuator::new(self.config.clone(), self.clusters, self.aws.clone(), self.clock.clone()));
        let call_timeout = self.config.ledger.call_timeout;
        let http = HttpChecks::new(self.names, self.trusted, self.default_trust, call_timeout);
        let checks = Checks {
            config: self.config.clone(),
            http,
            postgres: self.postgres.clone(),
            redis: self.redis.clone(),
            endpoints: self.aws.clone(),
            kubernetes: kubernetes.clone(),
            command_limit: self.config.deadlines.verify,
        };
        let clusters = self.config.clusters.iter();
        let clusters = clusters
            .flat_map(|(component, cluster)| {
                cluster.regions.keys().map(|region| InstanceId { component: component.clone(), region: region.clone() })
            })
            .collect();
        let claims = ClusterClaims { clusters, kubernetes: kubernetes.clone() };
        let aws = AwsActuator::new(self.aws, self.clock, proofs);
        let everything = Everything { aws, postgres: self.postgres, redis: self.redis, kubernetes, checks };
        (Arc::new(everything), Arc::new(claims))
    }
}

/// The dispatcher in front of all actuators.
struct Everything {
    aws: AwsActuator,
    postgres: Postgres,
    redis: Redis,
    kubernetes: Arc<KubernetesActuator>,
    checks: Checks,
}

impl Everything {
    fn for_action(&self, action: &Action) -> &dyn Actuator {
        match action {
            Action::Fenced { .. } | Action::DatabasePromoted { .. } | Action::Rejoined { .. } => {
                if self.aws.concerns(action) { &self.aws } else { &self.postgres }
            }
            Action::CacheActive { .. } => {
                if self.aws.concerns(action) {
                    &self.aws
                } else {
                    &self.redis
                }
            }
            Action::CaughtUp { .. } => &self.postgres,
            Action::Protected { .. } | Action::StorageReachable { .. } | Action::Traffic { .. } => &self.aws,
            Action::IncidentDeclared { .. }
            | Action::Replicas { .. }
            | Action::Published { .. }
            | Action::RolledOut { .. }
            | Action::Manifests { .. }
            | Action::Restored { .. }
            | Action::ManifestsRemoved { .. }
            | Action::IncidentEnded { .. } => &*self.kubernetes,
            Action::Verified { .. } => &self.checks,
        }
    }
}

#[async_trait]
impl Actuator for Everything {
    async fn look(&self, key: &str, action: &Action) -> Result<Look, Setback> {
        self.for_action(action).look(key, action).await
    }

    async fn act(&self, key: &str, action: &Action, look: &Look, permit: &Permit) -> Result<(), Setback> {
        self.for_action(action).act(key, action, look, permit).await
    }

    async fn verify(&self, key: &str, action: &Action) -> Result<String, Setback> {
        self.for_action(action).verify(key, action).await
    }

    async fn undo(&self, key: &str, action: &Action, previous: &Value, permit: &Permit) -> Result<String, Setback> {
        self.for_action(action).undo(key, action, previous, permit).await
    }
}

/// Checks of the end state: there is nothing to do, only something to see.
struct Checks {
    config: Arc<Config>,
    http: HttpChecks,
    postgres: Postgres,
    redis: Redis,
    endpoints: Arc<dyn Endpoints>,
    kubernetes: Arc<KubernetesActuator>,
    command_limit: Duration,
}

impl Checks {
    fn find<'a>(&'a self, action: &'a Action) -> Result<(&'a Check, &'a RegionId), Setback> {
        match action {
            Action::Verified { check, region, .. } => match self.config.checks.get(check) {
                Some(found) => Ok((found, region)),
                None => {
                    Err(Setback::Refused(format!("the configuration has no check {check}; add it, or skip the step")))
                }
            },
            Action::IncidentDeclared { .. }
            | Action::Replicas { .. }
            | Action::Fenced { .. }
            | Action::DatabasePromoted { .. }
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
            | Action::IncidentEnded { .. } => Err(Setback::Refused(format!("not a check: {action}"))),
        }
    }
}

impl Checks {
    /// Something is written to a database or a cache, read back and taken away again.
    async fn write(&self, instance: &InstanceId) -> Result<String, Setback> {
        let at = self.endpoints.current(instance).await?;
        if self.config.caches.contains_key(&instance.component) {
            self.redis.prove_writable(instance, &at).await
        } else {
            self.postgres.prove_writable(instance, &at).await
        }
    }
}

#[async_trait]
impl Actuator for Checks {
    async fn look(&self, _key: &str, action: &Action) -> Result<Look, Setback> {
        let (check, region) = self.find(action)?;
        let summary = match &check.http {
            Some(http) => self.http.prepare(http, region)?,
            None => "the check can be run".to_owned(),
        };
        Ok(Look { satisfied: true, summary, previous: Value::Null })
    }

    async fn act(&self, _key: &str, _action: &Action, _look: &Look, _permit: &Permit) -> Result<(), Setback> {
        Ok(())
    }

    async fn verify(&self, _key: &str, action: &Action) -> Result<String, Setback> {
        let (check, region) = self.find(action)?;
        if let Some(http) = &check.http {
            return self.http.run(http, region).await;
        }
        if let Some(prometheus) = &check.prometheus {
            return self.http.query(prometheus, region).await;
        }
        if let Some(sql) = &check.sql {
            return self.postgres.check(sql, region).await;
        }
        if let Some(pods) = &check.pods {
            let cluster = InstanceId { component: pods.cluster.clone(), region: region.clone() };
            return self.kubernetes.pods_running(&cluster, pods.running_min).await;
        }
        if let Some(workloads) = &check.workloads {
            let cluster = InstanceId { component: workloads.cluster.clone(), region: region.clone() };
            return self.kubernetes.workloads_ready(&cluster).await;
        }
        if let Some(canary) = &check.canary {
            let instance = InstanceId { component: canary.component.clone(), region: region.clone() };
            return self.write(&instance).await;
        }
        if let Some(dns) = &check.dns {
            return dns::check(&self.config, dns, region).await;
        }
        match &check.command {
            Some(check) => command::run(check, region, self.command_limit).await,
            None => Err(Setback::Refused("the check says nothing to check".to_owned())),
        }
    }

    async fn undo(&self, _key: &str, _action: &Action, _previous: &Value, _permit: &Permit) -> Result<String, Setback> {
        Ok("a check changes nothing".to_owned())
    }
}

/// Claims in clusters.
struct ClusterClaims {
    clusters: Vec<InstanceId>,
    kubernetes: Arc<KubernetesActuator>,
}

/// A cluster whose claim is not there by then is left out: nothing is sent before the claims were read, and after a takeover
/// that is done twice.
const CLAIM_WITHIN: Duration = Duration::from_secs(2);

impl ClusterClaims {
    async fn claim(&self, cluster: &InstanceId) -> Result<Option<Claim>, Setback> {
        let read = tokio::time::timeout(CLAIM_WITHIN, self.kubernetes.claim(cluster)).await;
        read.unwrap_or_else(|_elapsed| Err(Setback::Transient(format!("no answer within {CLAIM_WITHIN:?}"))))
    }
}

#[async_trait]
impl Claims for ClusterClaims {
    async fn claims(&self) -> BTreeMap<RegionId, Option<Claim>> {
        let asked = self.clusters.iter().map(|cluster| async move { (cluster, self.claim(cluster).await) });
        let mut found: BTreeMap<RegionId, Option<Claim>> = BTreeMap::new();
        for (cluster, answer) in futures::future::join_all(asked).await {
            match answer {
                // Of several clusters in a region, one with a claim speaks for it.
                Ok(claim) => {
                    let entry = found.entry(cluster.region.clone()).or_default();
                    if claim.is_some() {
                        *entry = claim;
                    }
                }
                Err(why) => tracing::debug!(%cluster, "the claim cannot be read: {why}"),
            }
        }
        found
    }

    async fn ensure(&self, claim: &Claim, replace: bool, permit: &Permit) -> Result<String, Setback> {
        let asked = self.clusters.iter().map(|cluster| async move {
            // A cluster that says nothing must not hold up everything else: that is what a lost one does.
            if let Err(silent) = self.claim(cluster).await {
                return (cluster, Err(silent));
            }
            (cluster, self.kubernetes.ensure_claim(cluster, claim, replace, permit).await)
        });
        let (mut claimed, mut failed) = (Vec::new(), Vec::new());
        for (cluster, answer) in futures::future::join_all(asked).await {
            match answer {
                Ok(()) => claimed.push(cluster.to_string()),
                Err(why) => failed.push(format!("{cluster}: {why}")),
            }
        }
        let claimed = if claimed.is_empty() { "nowhere".to_owned() } else { claimed.join(", ") };
        Ok(if failed.is_empty() { claimed } else { format!("{claimed}; not in {}", failed.join("; ")) })
    }
}
