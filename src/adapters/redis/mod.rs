//! Redis, self-managed or managed: the probe, the proof of writing, and for self-managed servers the promotion.
//!
//! What the role that failoverd logs in as needs: `PING`, `INFO`, in cluster mode `CLUSTER INFO|NODES|FAILOVER`, for
//! the promotion `REPLICAOF` and `CONFIG REWRITE`, and for the proof `SET`, `GET` and `DEL` on keys that begin with
//! `failoverd:proof:`.

mod actuator;
mod cluster;
mod errors;
mod info;
mod probe;
mod proof;
mod session;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::time::Instant;

pub use probe::RedisProbe;

use self::errors::Trouble;
use self::session::Session;
use super::connect::{Broken, TrustError, trust};
use super::names::Names;
use super::{Endpoint, Endpoints, Readiness};
use crate::config::SecretSource;
use crate::config::schema::{Cache, CacheTopology, Config};
use crate::domain::{ComponentId, InstanceId, RegionId};
use crate::ports::{Clock, Permit, Setback};

/// Everything failoverd does with Redis. Cheap to clone.
///
/// As an [`crate::ports::Actuator`] it answers to `CacheActive` of self-managed caches; the proof
/// ([`super::WriteProof`]) and the probe serve managed ones as well.
#[derive(Clone)]
pub struct Redis(Arc<Inner>);

struct Inner {
    caches: BTreeMap<ComponentId, Cache>,
    trust: BTreeMap<RegionId, Arc<ClientConfig>>,
    endpoints: Arc<dyn Endpoints>,
    names: Arc<Names>,
    clock: Arc<dyn Clock>,
    /// A step's look, attempt or verification is over by then.
    call_timeout: Duration,
}

impl Redis {
    /// Reads the CA files of the regions; connects to nothing.
    pub fn new(
        config: &Config,
        endpoints: Arc<dyn Endpoints>,
        names: &Arc<Names>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TrustError> {
        let mut trusted = BTreeMap::new();
        for region in config.caches.values().filter(|cache| cache.tls).flat_map(|cache| cache.regions.keys()) {
            if !trusted.contains_key(region) {
                let ca_file = config.regions.get(region).and_then(|region| region.ca_file.as_deref());
                trusted.insert(region.clone(), Arc::new(trust(ca_file)?));
            }
        }
        Ok(Self(Arc::new(Inner {
            caches: config.caches.clone(),
            trust: trusted,
            endpoints,
            names: Arc::clone(names),
            clock,
            call_timeout: config.ledger.call_timeout,
        })))
    }

    /// The health check of one instance. `readiness` is the cloud's view of a managed cache.
    pub fn probe(&self, instance: InstanceId, timeout: Duration, readiness: Option<Arc<dyn Readiness>>) -> RedisProbe {
        RedisProbe::new(self.clone(), instance, timeout, readiness)
    }

    fn cache(&self, instance: &InstanceId) -> Result<&Cache, Setback> {
        self.0
            .caches
            .get(&instance.component)
            .filter(|cache| cache.regions.contains_key(&instance.region))
            .ok_or_else(|| Setback::Refused(format!("{instance} is not a cache of this configuration")))
    }

    fn topology(&self, instance: &InstanceId) -> CacheTopology {
        let cache = self.0.caches.get(&instance.component);
        cache.and_then(|cache| cache.regions.get(&instance.region)).map(|region| region.topology).unwrap_or_default()
    }

    /// When a call that starts at once has to be over: after our own limit, or when the permit ends.
    fn until(&self, permit: Option<&Permit>) -> Result<Instant, Setback> {
        let limit = self.0.call_timeout;
        let limit = match permit {
            Some(permit) => limit.min(self.time_left(permit)?),
            None => limit,
        };
        Ok(Instant::now() + limit)
    }

    /// To be asked before every single mutating command.
    fn time_left(&self, permit: &Permit) -> Result<Duration, Setback> {
        permit.time_left(self.0.clock.now()).map_err(|expired| Setback::Transient(expired.to_string()))
    }

    /// Connects to `at`, authenticates where a password is configured, and has a `PING` answered.
    async fn open_at(&self, instance: &InstanceId, at: &Endpoint, until: Instant) -> Result<Session, Trouble> {
        let Ok(cache) = self.cache(instance) else {
            return Err(Broken::Here { why: format!("{instance} is not configured") }.into());
        };
        let password = cache.password.as_ref().map(SecretSource::read).transpose();
        let password = password.map_err(|missing| Broken::Here { why: super::failure::describe(&missing) })?;
        let trust = cache.tls.then(|| self.0.trust.get(&instance.region)).flatten();
        Session::open(at, cache.username.as_deref(), password.as_ref(), trust, &self.0.names, until).await
    }

    /// Connects where the instance answers now.
    async fn open(&self, instance: &InstanceId, until: Instant) -> Result<Session, Setback> {
        let at = self.0.endpoints.current(instance).await?;
        self.open_at(instance, &at, until).await.map_err(|trouble| trouble.setback(instance))
    }
}
