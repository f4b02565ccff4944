//! One configuration -> everything that touches the world: a probe per instance, the reference points, and one
//! actuator in front of all. The only place that knows which adapter serves what.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustls::ClientConfig;
use serde_json::Value as Json;

use super::aws::{Aws, AwsActuator, CloudProbe, HoldingsProbe, Proofs, S3Probe, TrafficProbe};
use super::connect::{TrustError, trust};
use super::http::{HttpChecks, HttpProbe, HttpReference};
use super::kubernetes::{ClusterProbe, Clusters, KubernetesActuator};
use super::names::Names;
use super::postgres::Postgres;
use super::redis::Redis;
use super::{Endpoints, Readiness, command};
use crate::config::Config;
use crate::config::schema::{CacheProvider, Check, DatabaseProvider, ProbeOverride};
use crate::daemon::prober::{Probes, References};
use crate::domain::{Evidence, Finding, InstanceId, Observation, Probing, RegionId, Role};
use crate::ledger::Permit;
use crate::plan::Action;
use crate::ports::{Actuator, Clock, Look, Probe, ReferenceProbe, Setback};

/// The adapters of one configuration. Making it reads CA files and contacts nobody.
pub struct Adapters {
    config: Arc<Config>,
    clock: Arc<dyn Clock>,
    names: Arc<Names>,
    /// Regions with certificates of their own.
    trust: BTreeMap<RegionId, Arc<ClientConfig>>,
    default_trust: Arc<ClientConfig>,
    aws: Arc<Aws>,
    postgres: Postgres,
    redis: Redis,
    clusters: Clusters,
    kubernetes: Arc<KubernetesActuator>,
    actuator: Arc<Dispatcher>,
}

/// What the tertiary region holds is listed this seldom: whole prefixes are read for it.
const HOLDINGS_INTERVAL: Duration = Duration::from_secs(10 * 60);

impl Adapters {
    /// # Errors
    ///
    /// A CA file of a region that cannot be read, by its name.
    pub fn new(config: &Arc<Config>, clock: &Arc<dyn Clock>) -> Result<Self, TrustError> {
        let names = Names::new(config);
        let default_trust = Arc::new(trust(None)?);
        let mut own_trust = BTreeMap::new();
        for (region, settings) in &config.regions {
            if let Some(path) = &settings.ca_file {
                own_trust.insert(region.clone(), Arc::new(trust(Some(path))?));
            }
        }
        let aws = Arc::new(Aws::new(config.clone()));
        let postgres = Postgres::new(config, aws.clone(), clock.clone())?;
        let redis = Redis::new(config, aws.clone(), clock.clone())?;
        let clusters = Clusters::new(config, &names);
        let kubernetes =
            Arc::new(KubernetesActuator::new(config.clone(), clusters.clone(), aws.clone(), clock.clone()));
        let proofs = Proofs {
            database: Arc::new(postgres.clone()),
            cache: Arc::new(redis.clone()),
            catch_up: Arc::new(postgres.clone()),
        };
        let actuator = Arc::new(Dispatcher {
            config: config.clone(),
            aws: AwsActuator::new(aws.clone(), clock.clone(), proofs),
            postgres: postgres.clone(),
            redis: redis.clone(),
            kubernetes: kubernetes.clone(),
            http: HttpChecks::new(names.clone(), own_trust.clone(), default_trust.clone(), config.ledger.call_timeout),
        });
        Ok(Self {
            config: config.clone(),
            clock: clock.clone(),
            names,
            trust: own_trust,
            default_trust,
            aws,
            postgres,
            redis,
            clusters,
            kubernetes,
            actuator,
        })
    }

    /// The health check of every instance. An instance that cannot be probed as configured is `Unknown` and says why:
    /// one mistake must not blind the daemon for the rest.
    pub fn probes(&self) -> Probes {
        let mut probes = self.cluster_probes();
        probes.extend(self.data_probes());
        probes.extend(self.http_probes());
        probes.extend(self.aws_probes());
        probes
    }

    /// What the tertiary region is supposed to hold, per region as `holdings@region`. No component of the
    /// policy: alarms only.
    pub fn holdings(&self) -> Probes {
        let probing = Probing { interval: HOLDINGS_INTERVAL, timeout: self.config.probes.timeout };
        self.config
            .regions
            .iter()
            .filter(|(_, settings)| !settings.holdings.is_empty())
            .map(|(region, _)| {
                let probe = HoldingsProbe::new(self.aws.clone(), self.clock.clone(), region.clone());
                (InstanceId::new("holdings", region.clone()), probing, Box::new(probe) as Box<dyn Probe>)
            })
            .collect()
    }

    /// The reference points. One that is written wrongly never answers, and says why.
    pub fn references(&self) -> References {
        let probing = self.probing(ProbeOverride::default());
        self.config
            .references
            .iter()
            .map(|(id, reference)| {
                let trust = reference.region.as_ref().map_or(&*self.default_trust, |region| self.trust_of(region));
                let probe: Box<dyn ReferenceProbe> =
                    match HttpReference::new(&reference.address, probing.timeout, trust, &self.names) {
                        Ok(probe) => Box::new(probe),
                        Err(why) => Box::new(NeverAnswers(why)),
                    };
                (id.clone(), probing, probe)
            })
            .collect()
    }

    /// Carries out any action.
    pub fn actuator(&self) -> Arc<dyn Actuator> {
        self.actuator.clone()
    }

    /// For claims, which are no actions.
    pub fn kubernetes(&self) -> &Arc<KubernetesActuator> {
        &self.kubernetes
    }

    /// Where instances answer.
    pub fn endpoints(&self) -> Arc<dyn Endpoints> {
        self.aws.clone()
    }

    fn cluster_probes(&self) -> Probes {
        let mut probes = Probes::new();
        for (component, cluster) in &self.config.clusters {
            let probing = self.probing(cluster.probe);
            for region in cluster.regions.keys() {
                let instance = InstanceId { component: component.clone(), region: region.clone() };
                // A region that is not configured is refused before; a standby's expectations are the lower ones.
                let role = self.config.regions.get(region).map_or(Role::Secondary, |settings| settings.role);
                if let Some(found) = self.clusters.get(&instance) {
                    let probe = ClusterProbe::new(
                        found.clone(),
                        cluster.namespace.clone(),
                        cluster.workloads.clone(),
                        role,
                        probing.timeout,
                    );
                    probes.push((instance, probing, Box::new(probe)));
                }
            }
        }
        probes
    }

    fn data_probes(&self) -> Probes {
        let mut probes = Probes::new();
        for (component, database) in &self.config.databases {
            let probing = self.probing(database.probe);
            let readiness = match database.provider {
                DatabaseProvider::Rds => Some(self.aws.clone() as Arc<dyn Readiness>),
                DatabaseProvider::Postgres => None,
            };
            for region in database.regions.keys() {
                let instance = InstanceId { component: component.clone(), region: region.clone() };
                let probe = self.postgres.probe(instance.clone(), probing.timeout, readiness.clone());
                probes.push((instance, probing, Box::new(probe)));
            }
        }
        for (component, cache) in &self.config.caches {
            let probing = self.probing(cache.probe);
            let readiness = match cache.provider {
                CacheProvider::Elasticache => Some(self.aws.clone() as Arc<dyn Readiness>),
                CacheProvider::Redis => None,
            };
            for region in cache.regions.keys() {
                let instance = InstanceId { component: component.clone(), region: region.clone() };
                let probe = self.redis.probe(instance.clone(), probing.timeout, readiness.clone());
                probes.push((instance, probing, Box::new(probe)));
            }
        }
        probes
    }

    fn http_probes(&self) -> Probes {
        let mut probes = Probes::new();
        for (component, service) in &self.config.http {
            let probing = self.probing(service.probe);
            for (region, settings) in &service.regions {
                let instance = InstanceId { component: component.clone(), region: region.clone() };
                let trust = self.trust_of(region);
                let probe = HttpProbe::new(instance.clone(), service, settings, probing.timeout, trust, &self.names);
                let probe: Box<dyn Probe> = match probe {
                    Ok(probe) => Box::new(probe),
                    Err(why) => Box::new(CannotProbe { instance: instance.clone(), why }),
                };
                probes.push((instance, probing, probe));
            }
        }
        probes
    }

    fn aws_probes(&self) -> Probes {
        let mut probes = Probes::new();
        let (aws, clock) = (&self.aws, &self.clock);
        for (component, bucket) in &self.config.buckets {
            for region in bucket.regions.keys() {
                let instance = InstanceId { component: component.clone(), region: region.clone() };
                let probe = S3Probe::new(aws.clone(), clock.clone(), instance.clone());
                probes.push((instance, self.probing(bucket.probe), Box::new(probe)));
            }
        }
        for (component, cloud) in &self.config.clouds {
            for region in cloud.regions.keys() {
                let instance = InstanceId { component: component.clone(), region: region.clone() };
                let probe = CloudProbe::new(aws.clone(), clock.clone(), instance.clone());
                probes.push((instance, self.probing(cloud.probe), Box::new(probe)));
            }
        }
        for (component, traffic) in &self.config.traffic {
            for region in traffic.regions.keys() {
                let instance = InstanceId { component: component.clone(), region: region.clone() };
                let probe = TrafficProbe::new(aws.clone(), clock.clone(), instance.clone());
                probes.push((instance, self.probing(traffic.probe), Box::new(probe)));
            }
        }
        probes
    }

    fn probing(&self, own: ProbeOverride) -> Probing {
        let probes = &self.config.probes;
        Probing { interval: own.interval.unwrap_or(probes.interval), timeout: own.timeout.unwrap_or(probes.timeout) }
    }

    fn trust_of(&self, region: &RegionId) -> &ClientConfig {
        self.trust.get(region).unwrap_or(&self.default_trust)
    }
}

/// An instance that cannot be probed as it is configured.
struct CannotProbe {
    instance: InstanceId,
    why: String,
}

#[async_trait]
impl Probe for CannotProbe {
    async fn observe(&self, began: Duration) -> Observation {
        let finding = Finding::Unknown { why: self.why.clone() };
        Observation { instance: self.instance.clone(), began, ended: began, finding, evidence: Evidence::default() }
    }
}

/// A reference point that cannot be asked as it is configured.
struct NeverAnswers(String);

#[async_trait]
impl ReferenceProbe for NeverAnswers {
    async fn ask(&self) -> Result<(), String> {
        Err(self.0.clone())
    }
}

/// Hands each action to whoever can do it.
struct Dispatcher {
    config: Arc<Config>,
    aws: AwsActuator,
    postgres: Postgres,
    redis: Redis,
    kubernetes: Arc<KubernetesActuator>,
    http: HttpChecks,
}

/// Who does it.
enum Doer<'a> {
    Adapter(&'a dyn Actuator),
    Check(&'a Check, &'a RegionId),
}

impl Dispatcher {
    fn doer<'a>(&'a self, action: &'a Action) -> Result<Doer<'a>, Setback> {
        let unknown = |what: &dyn std::fmt::Display| {
            Setback::Refused(format!("the configuration has no {what}; add it or abort the plan"))
        };
        Ok(match action {
            Action::IncidentDeclared { .. }
            | Action::Replicas { .. }
            | Action::Published { .. }
            | Action::RolledOut { .. }
            | Action::Manifests { .. } => Doer::Adapter(&*self.kubernetes),
            Action::Fenced { database } | Action::DatabasePromoted { database, .. } => {
                match self.config.databases.get(&database.component).map(|database| database.provider) {
                    Some(DatabaseProvider::Postgres) => Doer::Adapter(&self.postgres),
                    Some(DatabaseProvider::Rds) => Doer::Adapter(&self.aws),
                    None => return Err(unknown(database)),
                }
            }
            Action::CacheActive { cache, .. } => {
                match self.config.caches.get(&cache.component).map(|cache| cache.provider) {
                    Some(CacheProvider::Redis) => Doer::Adapter(&self.redis),
                    Some(CacheProvider::Elasticache) => Doer::Adapter(&self.aws),
                    None => return Err(unknown(cache)),
                }
            }
            Action::StorageReachable { .. } | Action::Traffic { .. } => Doer::Adapter(&self.aws),
            Action::Verified { check, region, .. } => {
                let found = self.config.checks.get(check);
                Doer::Check(found.ok_or_else(|| unknown(&format_args!("check {check}")))?, region)
            }
        })
    }

    /// A check that can be made; whether it holds is for later.
    fn look_at_check(&self, check: &Check, region: &RegionId) -> Result<Look, Setback> {
        let summary = match check {
            Check { http: Some(check), .. } => self.http.prepare(check, region)?,
            Check { sql: Some(check), .. } => format!("{}@{region} will be asked", check.database),
            Check { pods: Some(check), .. } => format!("the pods of {}@{region} will be counted", check.cluster),
            Check { command: Some(check), .. } => {
                format!("`{}` will be run", check.argv.first().map_or("nothing", String::as_str))
            }
            Check { .. } => return Err(empty_check()),
        };
        Ok(Look { satisfied: false, summary, previous: Json::Null })
    }

    async fn make_check(&self, check: &Check, region: &RegionId) -> Result<String, Setback> {
        match check {
            Check { http: Some(check), .. } => self.http.run(check, region).await,
            Check { sql: Some(check), .. } => self.postgres.check(check, region).await,
            Check { pods: Some(check), .. } => {
                let cluster = InstanceId { component: check.cluster.clone(), region: region.clone() };
                self.kubernetes.pods_running(&cluster, check.running_min).await
            }
            Check { command: Some(check), .. } => command::run(check, region, self.config.deadlines.verify).await,
            Check { .. } => Err(empty_check()),
        }
    }
}

fn empty_check() -> Setback {
    Setback::Refused("the check says nothing to check; write http, sql, pods or command".to_owned())
}

#[async_trait]
impl Actuator for Dispatcher {
    async fn look(&self, key: &str, action: &Action) -> Result<Look, Setback> {
        match self.doer(action)? {
            Doer::Adapter(adapter) => adapter.look(key, action).await,
            Doer::Check(check, region) => self.look_at_check(check, region),
        }
    }

    async fn act(&self, key: &str, action: &Action, look: &Look, permit: &Permit) -> Result<(), Setback> {
        match self.doer(action)? {
            Doer::Adapter(adapter) => adapter.act(key, action, look, permit).await,
            // The check itself is the verification.
            Doer::Check(_, _) => Ok(()),
        }
    }

    async fn verify(&self, key: &str, action: &Action) -> Result<String, Setback> {
        match self.doer(action)? {
            Doer::Adapter(adapter) => adapter.verify(key, action).await,
            Doer::Check(check, region) => self.make_check(check, region).await,
        }
    }

    async fn undo(&self, key: &str, action: &Action, previous: &Json, permit: &Permit) -> Result<String, Setback> {
        match self.doer(action)? {
            Doer::Adapter(adapter) => adapter.undo(key, action, previous, permit).await,
            Doer::Check(_, _) => Ok("a check changes nothing".to_owned()),
        }
    }
}
