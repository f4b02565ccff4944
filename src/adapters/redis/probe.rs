//! The probe: name, connection, TLS, `PING`, role and replication, and in cluster mode the state and the slots.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, timeout_at};

use super::Redis;
use super::errors::Trouble;
use super::info::{Info, SLOTS};
use crate::adapters::Readiness;
use crate::adapters::connect::Broken;
use crate::config::schema::CacheTopology;
use crate::domain::{Evidence, Finding, InstanceId, Layer, Observation, Serving};
use crate::ports::Probe;

/// The health check of one cache instance.
pub struct RedisProbe {
    redis: Redis,
    instance: InstanceId,
    timeout: Duration,
    readiness: Option<Arc<dyn Readiness>>,
}

impl RedisProbe {
    pub(super) fn new(
        redis: Redis,
        instance: InstanceId,
        timeout: Duration,
        readiness: Option<Arc<dyn Readiness>>,
    ) -> Self {
        Self { redis, instance, timeout, readiness }
    }

    async fn look(&self, until: Instant) -> (Finding, Evidence) {
        let began = Instant::now();
        let mut evidence = Evidence::default();
        let finding = match self.ask(until, &mut evidence).await {
            Ok(()) => Finding::Alive,
            Err(trouble) => trouble.conclude(&mut evidence),
        };
        evidence.latency = Some(began.elapsed());
        (finding, evidence)
    }

    async fn ask(&self, until: Instant, evidence: &mut Evidence) -> Result<(), Trouble> {
        let at = self.redis.0.endpoints.recent(&self.instance).await.map_err(|unknown| Broken::Here {
            why: format!("where {} answers is not known: {unknown}", self.instance),
        })?;
        let mut session = self.redis.open_at(&self.instance, &at, until).await?;
        let mut questions = redis::pipe();
        questions.cmd("INFO");
        let is_cluster = self.redis.topology(&self.instance) == CacheTopology::Cluster;
        if is_cluster {
            questions.cmd("CLUSTER").arg("INFO");
        }
        let mut answers = session.texts(&questions).await?.into_iter();
        let info = match answers.next() {
            Some(Ok(info)) => info,
            // It answered PING; that INFO is not for us is about rights.
            Some(Err(trouble)) if trouble.code() == Some("NOPERM") => {
                evidence.warnings.push(format!("its role is not known: {trouble}"));
                String::new()
            }
            Some(Err(trouble)) => return Err(trouble),
            None => return Err(Trouble::Garbled("no answer to INFO".to_owned())),
        };
        let info = Info::parse(&info);
        tell(&info, evidence);
        if !is_cluster {
            return Ok(());
        }
        match answers.next() {
            Some(Ok(cluster)) => judge_cluster(&info, &Info::parse(&cluster), evidence),
            Some(Err(trouble)) if trouble.code() == Some("ERR") => Err(Broken::Here {
                why: format!("the configuration says cluster mode, and the server is not in it: {trouble}"),
            }
            .into()),
            Some(Err(trouble)) => Err(trouble),
            None => Err(Trouble::Garbled("no answer to CLUSTER INFO".to_owned())),
        }
    }
}

#[async_trait]
impl Probe for RedisProbe {
    async fn observe(&self, began: Duration) -> Observation {
        let until = Instant::now() + self.timeout;
        let managed = async {
            match &self.readiness {
                None => Evidence::default(),
                Some(readiness) => {
                    timeout_at(until, readiness.readiness(&self.instance)).await.unwrap_or_else(|_| Evidence {
                        warnings: vec!["the cloud did not say in time whether it could take over".to_owned()],
                        ..Evidence::default()
                    })
                }
            }
        };
        let ((finding, mut evidence), managed) = futures::join!(self.look(until), managed);
        evidence.credential_refused |= managed.credential_refused;
        evidence.not_ready.extend(managed.not_ready);
        evidence.warnings.extend(managed.warnings);
        evidence.details.extend(managed.details);
        let ended = self.redis.0.clock.now().monotonic;
        Observation { instance: self.instance.clone(), began, ended, finding, evidence }
    }
}

fn tell(info: &Info<'_>, evidence: &mut Evidence) {
    evidence.serving = info.is_master().map(|master| if master { Serving::Writable } else { Serving::Replica });
    evidence.position = info.position();
    for name in ["role", "connected_slaves", "master_link_status", "redis_version"] {
        evidence.details.extend(info.text(name).map(|value| format!("{name}={value}")));
    }
    if info.text("master_link_status") == Some("down") {
        if info.text("master_sync_in_progress") == Some("1") {
            evidence.not_ready.push("it is receiving its first copy of the data".to_owned());
        } else {
            evidence.warnings.push("it has no link to its primary".to_owned());
        }
    }
    if info.is_full() {
        evidence.degraded = Some("its memory is full and it may not evict: writes are refused (OOM)".to_owned());
    }
}

/// A cluster is alive when it says so and every slot is served.
///
/// The node that was asked may be a replica inside a healthy cluster: that says nothing about whether the region
/// serves, so nothing is said. In a cluster that is down a replica is what a takeover needs: it is alive, as a replica.
fn judge_cluster(info: &Info<'_>, cluster: &Info<'_>, evidence: &mut Evidence) -> Result<(), Trouble> {
    let state = cluster.text("cluster_state").unwrap_or("unknown");
    let served = cluster.number("cluster_slots_ok");
    for name in ["cluster_state", "cluster_slots_ok", "cluster_known_nodes", "cluster_size"] {
        evidence.details.extend(cluster.text(name).map(|value| format!("{name}={value}")));
    }
    let is_whole = state == "ok" && served == Some(u64::from(SLOTS));
    match (is_whole, info.is_master()) {
        (true, Some(true) | None) => Ok(()),
        (true, Some(false)) => {
            evidence.serving = None;
            Ok(())
        }
        (false, Some(false)) => {
            evidence.warnings.push(format!("its cluster is {state}, {} of {SLOTS} slots are served", shown(served)));
            Ok(())
        }
        (false, Some(true) | None) => Err(Broken::There {
            layer: Layer::Query,
            why: format!("CLUSTERDOWN: the cluster's state is {state}, {} of {SLOTS} slots are served", shown(served)),
        }
        .into()),
    }
}

fn shown(number: Option<u64>) -> String {
    number.map_or("unknown".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str = "cluster_state:ok\r\ncluster_slots_ok:16384\r\n";
    const DOWN: &str = "cluster_state:fail\r\ncluster_slots_ok:10923\r\n";

    fn judged(role: &str, cluster: &str) -> (bool, Evidence) {
        let (info, mut evidence) = (format!("role:{role}\r\n"), Evidence::default());
        let info = Info::parse(&info);
        tell(&info, &mut evidence);
        (judge_cluster(&info, &Info::parse(cluster), &mut evidence).is_ok(), evidence)
    }

    #[test]
    fn a_replica_inside_a_healthy_cluster_does_not_make_the_region_a_replica() {
        let (alive, evidence) = judged("slave", OK);
        assert_eq!((alive, evidence.serving), (true, None));
    }

    #[test]
    fn a_replica_of_a_cluster_that_is_down_can_take_over() {
        let (alive, evidence) = judged("slave", DOWN);
        assert_eq!((alive, evidence.serving), (true, Some(Serving::Replica)));
    }

    #[test]
    fn a_primary_of_a_cluster_with_holes_is_failing() {
        assert!(!judged("master", DOWN).0);
        assert!(!judged("master", "cluster_state:ok\r\ncluster_slots_ok:16383\r\n").0);
        assert!(judged("master", OK).0);
    }

    #[test]
    fn a_replica_without_its_first_copy_is_not_ready_and_one_that_lost_its_primary_is() {
        let mut evidence = Evidence::default();
        tell(&Info::parse("role:slave\r\nmaster_link_status:down\r\nmaster_sync_in_progress:1\r\n"), &mut evidence);
        assert_eq!(evidence.not_ready.len(), 1);
        let mut evidence = Evidence::default();
        tell(&Info::parse("role:slave\r\nmaster_link_status:down\r\nmaster_sync_in_progress:0\r\n"), &mut evidence);
        assert_eq!((evidence.not_ready.len(), evidence.warnings.len()), (0, 1));
    }
}
