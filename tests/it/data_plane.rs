//! What the tests of databases and caches share: a configuration for a lab, permits, and waiting.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use failoverd::adapters::{Endpoint, Endpoints};
use failoverd::config::{Config, load};
use failoverd::daemon::clock::SystemClock;
use failoverd::domain::{Finding, InstanceId, Layer, Observation};
use failoverd::ports::{Actuator, Clock as _, Look, Permit, Probe, Setback};

pub(crate) const EAST: &str = "us-east-1";
pub(crate) const WEST: &str = "us-west-2";

/// Where instances answer, from the configuration alone.
pub(crate) struct Written(Config);

impl Written {
    pub(crate) fn of(config: &Config) -> Arc<Self> {
        Arc::new(Self(config.clone()))
    }
}

#[async_trait]
impl Endpoints for Written {
    async fn current(&self, instance: &InstanceId) -> Result<Endpoint, Setback> {
        let database = self.0.databases.get(&instance.component).and_then(|it| it.regions.get(&instance.region));
        let cache = self.0.caches.get(&instance.component).and_then(|it| it.regions.get(&instance.region));
        let (host, port) = database.map(|it| (&it.host, it.port)).or(cache.map(|it| (&it.host, it.port))).unwrap();
        Ok(Endpoint { host: host.clone().unwrap(), port: port.unwrap() })
    }

    async fn recent(&self, instance: &InstanceId) -> Result<Endpoint, Setback> {
        self.current(instance).await
    }
}

/// Two regions and what `rest` adds, written to a file in `folder` and loaded as the daemon does.
pub(crate) fn configured(folder: &Path, ca_file: Option<&str>, rest: &str) -> Config {
    let ca_file = ca_file.map(|file| format!("ca_file = \"{file}\"\n")).unwrap_or_default();
    let text = format!(
        "[ledger]\npath = \"ledger\"\ncall_timeout = \"5s\"\n[regions.{EAST}]\nrole = \"primary\"\n{ca_file}\
         [regions.{WEST}]\nrole = \"secondary\"\n{ca_file}{rest}"
    );
    let file = folder.join(format!("failoverd-{}.toml", text.len()));
    std::fs::write(&file, text).unwrap();
    load(&[file], &BTreeMap::new()).unwrap_or_else(|mistakes| panic!("{mistakes}")).config
}

/// A permit that lasts.
pub(crate) fn permit() -> Permit {
    permit_for(Duration::from_secs(30))
}

/// A permit that ends.
pub(crate) fn permit_for(lasting: Duration) -> Permit {
    Permit::for_tests(SystemClock.now().monotonic + lasting)
}

pub(crate) fn nothing_seen() -> Look {
    Look { satisfied: false, summary: String::new(), previous: serde_json::Value::Null }
}

/// One observation.
pub(crate) async fn observed(probe: &dyn Probe) -> Observation {
    probe.observe(SystemClock.now().monotonic).await
}

/// The layer that an observation blames.
pub(crate) fn failing_layer(observation: &Observation) -> Option<Layer> {
    match &observation.finding {
        Finding::Failing { layer, .. } => Some(*layer),
        Finding::Alive | Finding::Unknown { .. } => None,
    }
}

/// Verifies again and again, as the executor does, until it holds; for 20 seconds.
pub(crate) async fn verified(actuator: &dyn Actuator, action: &failoverd::plan::Action) -> String {
    let began = Instant::now();
    loop {
        match actuator.verify("plan/step", action).await {
            Ok(seen) => return seen,
            Err(setback) if began.elapsed() > Duration::from_secs(20) => panic!("never verified: {setback}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Looks again and again until `holds` gives something; for 20 seconds.
pub(crate) async fn eventually<T>(what: &str, mut holds: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = holds().await {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "still not: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
