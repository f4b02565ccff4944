//! The action that self-managed Redis answers to: the standby cache takes writes.

use async_trait::async_trait;
use serde_json::Value;

use super::Redis;
use super::info::Info;
use crate::adapters::WriteProof as _;
use crate::config::schema::{CacheProvider, CacheTopology};
use crate::domain::InstanceId;
use crate::plan::Action;
use crate::ports::{Actuator, Look, Permit, Setback};

#[async_trait]
impl Actuator for Redis {
    async fn look(&self, _key: &str, action: &Action) -> Result<Look, Setback> {
        let cache = self.task(action)?;
        let until = self.until(None)?;
        let (satisfied, summary) = match self.topology(cache) {
            CacheTopology::Single => match self.is_master(cache, until).await? {
                true => (true, format!("{cache} is a primary")),
                false => (false, format!("{cache} is a replica")),
            },
            CacheTopology::Cluster => {
                let at = self.0.endpoints.current(cache).await?;
                match self.survey(cache, &at, until).await?.gap() {
                    None => (true, format!("{cache}: every slot of the cluster is served")),
                    Some(gap) => (false, format!("{cache}: {gap}")),
                }
            }
        };
        Ok(Look { satisfied, summary, previous: Value::Null })
    }

    async fn act(&self, _key: &str, action: &Action, _look: &Look, permit: &Permit) -> Result<(), Setback> {
        let cache = self.task(action)?;
        let until = self.until(Some(permit))?;
        if self.topology(cache) == CacheTopology::Cluster {
            let at = self.0.endpoints.current(cache).await?;
            return self.take_over(cache, &at, permit, until).await;
        }
        let mut session = self.open(cache, until).await?;
        self.time_left(permit)?;
        // Does nothing on a server that is a primary already.
        let promoted = session.ask(redis::cmd("REPLICAOF").arg("NO").arg("ONE")).await;
        promoted.map_err(|trouble| trouble.setback(cache))?;
        self.time_left(permit)?;
        // A restart would make it follow its old primary again, and throw away what was written since. Where there is
        // no configuration file to rewrite, or no right to, nothing more can be done from here.
        let _ = session.ask(redis::cmd("CONFIG").arg("REWRITE")).await;
        Ok(())
    }

    async fn verify(&self, _key: &str, action: &Action) -> Result<String, Setback> {
        let cache = self.task(action)?;
        let until = self.until(None)?;
        let at = self.0.endpoints.current(cache).await?;
        match self.topology(cache) {
            CacheTopology::Single => {
                if !self.is_master(cache, until).await? {
                    return Err(Setback::NotYet(format!("{cache} is still a replica")));
                }
            }
            CacheTopology::Cluster => {
                if let Some(gap) = self.survey(cache, &at, until).await?.gap() {
                    return Err(Setback::NotYet(format!("{cache}: {gap}")));
                }
            }
        }
        self.prove_writable(cache, &at).await
    }

    async fn undo(&self, _key: &str, action: &Action, _previous: &Value, _permit: &Permit) -> Result<String, Setback> {
        Err(Setback::Refused(format!("the activation of {} has no undo", self.task(action)?)))
    }
}

impl Redis {
    fn task<'a>(&self, action: &'a Action) -> Result<&'a InstanceId, Setback> {
        let cache = match action {
            Action::CacheActive { cache, .. } => cache,
            Action::Fenced { .. }
            | Action::DatabasePromoted { .. }
            | Action::CaughtUp { .. }
            | Action::Rejoined { .. }
            | Action::Protected { .. }
            | Action::IncidentDeclared { .. }
            | Action::Replicas { .. }
            | Action::Published { .. }
            | Action::RolledOut { .. }
            | Action::StorageReachable { .. }
            | Action::Traffic { .. }
            | Action::Manifests { .. }
            | Action::Restored { .. }
            | Action::ManifestsRemoved { .. }
            | Action::IncidentEnded { .. }
            | Action::Verified { .. } => return Err(Setback::Refused(format!("Redis cannot {action}"))),
        };
        match self.cache(cache)?.provider {
            CacheProvider::Redis => Ok(cache),
            CacheProvider::Elasticache => Err(Setback::Refused(format!("{cache} is managed by ElastiCache"))),
        }
    }

    async fn is_master(&self, cache: &InstanceId, until: tokio::time::Instant) -> Result<bool, Setback> {
        let mut session = self.open(cache, until).await?;
        let info = session.text(redis::cmd("INFO").arg("replication")).await;
        let info = info.map_err(|trouble| trouble.setback(cache))?;
        let unknown = || Setback::Transient(format!("{cache} did not say what its role is"));
        Info::parse(&info).is_master().ok_or_else(unknown)
    }
}
