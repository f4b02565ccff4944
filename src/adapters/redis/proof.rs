//! The proof that a cache takes writes: a key that is written, read back and deleted, on every shard.

use async_trait::async_trait;
use futures::future::try_join_all;
use tokio::time::Instant;

use super::Redis;
use super::errors::Trouble;
use super::info::tag_for;
use super::session::Session;
use crate::adapters::{Endpoint, WriteProof};
use crate::config::schema::CacheTopology;
use crate::domain::InstanceId;
use crate::ports::Setback;

#[async_trait]
impl WriteProof for Redis {
    async fn prove_writable(&self, instance: &InstanceId, at: &Endpoint) -> Result<String, Setback> {
        let until = self.until(None)?;
        match self.topology(instance) {
            CacheTopology::Single => {
                self.write_at(instance, at, None, until).await?;
                Ok(format!("{instance}: a key was written, read back and deleted"))
            }
            CacheTopology::Cluster => {
                let cluster = self.survey(instance, at, until).await?;
                let shards = cluster.shards_at(at);
                let writes = shards.iter().map(|(place, slot)| self.write_at(instance, place, Some(*slot), until));
                try_join_all(writes).await?;
                Ok(format!("{instance}: a key was written, read back and deleted on each of {} shards", shards.len()))
            }
        }
    }
}

impl Redis {
    async fn write_at(
        &self,
        instance: &InstanceId,
        at: &Endpoint,
        slot: Option<u16>,
        until: Instant,
    ) -> Result<(), Setback> {
        let mut session = self.open_at(instance, at, until).await.map_err(|trouble| trouble.setback(instance))?;
        write(&mut session, slot).await.map_err(|trouble| match trouble.code() {
            Some("READONLY") => Setback::NotYet(format!("{instance} is still a replica ({}:{})", at.host, at.port)),
            Some("LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "MOVED") => {
                Setback::NotYet(format!("{instance} ({}:{}): {trouble}", at.host, at.port))
            }
            Some(_) | None => trouble.setback(instance),
        })
    }
}

/// Seconds after which Redis forgets the key by itself, should we not come to delete it.
const KEY_LASTS_S: u32 = 60;

async fn write(session: &mut Session, slot: Option<u16>) -> Result<(), Trouble> {
    let nonce = uuid::Uuid::now_v7().to_string();
    let key = match slot.and_then(tag_for) {
        Some(tag) => format!("failoverd:proof:{{{tag}}}:{nonce}"),
        None => format!("failoverd:proof:{nonce}"),
    };
    session.ask(redis::cmd("SET").arg(&key).arg(&nonce).arg("EX").arg(KEY_LASTS_S)).await?;
    let read = session.text(redis::cmd("GET").arg(&key)).await?;
    if read != nonce {
        return Err(Trouble::Garbled("what was written was not read back".to_owned()));
    }
    session.ask(redis::cmd("DEL").arg(&key)).await?;
    Ok(())
}
