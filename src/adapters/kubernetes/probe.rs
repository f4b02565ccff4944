//! Is the cluster there (`kubectl cluster-info`), and do its workloads run?

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::time::Instant;

use super::access::Cluster;
use super::answer::No;
use super::session::{Session, answered};
use super::workload::{self, Workload};
use super::zones::Zones;
use crate::adapters::connect::Broken;
use crate::adapters::http::certificate;
use crate::domain::{Evidence, Finding, Layer, Observation, Role, WorkloadPolicy, WorkloadSeen};
use crate::ports::Probe;

/// Probes one cluster: `/version`, which an API server answers from memory, then each workload, which it can only
/// answer while its own store works. All on one new connection.
#[derive(Debug)]
pub struct ClusterProbe {
    cluster: Arc<Cluster>,
    namespace: String,
    workloads: Vec<WorkloadPolicy>,
    role: Role,
    timeout: Duration,
    zones: Option<Zones>,
}

/// Warn when the API server's certificate ends within this time.
const CERTIFICATE_WARNING: Duration = Duration::from_secs(14 * 24 * 3600);

impl ClusterProbe {
    /// `role` is the region's: it decides how many replicas are expected while nothing is wrong.
    pub fn new(
        cluster: Arc<Cluster>,
        namespace: String,
        workloads: Vec<WorkloadPolicy>,
        role: Role,
        timeout: Duration,
    ) -> Self {
        Self { cluster, namespace, workloads, role, timeout, zones: None }
    }

    /// Looks at the nodes as well, zone by zone.
    pub fn with_zones(mut self) -> Self {
        self.zones = Some(Zones::default());
        self
    }

    async fn look(&self, started: Instant, evidence: &mut Evidence) -> Finding {
        let until = started + self.timeout;
        let session = match self.cluster.connect(until).await {
            Ok(session) => session,
            Err(broken) => return broken.finding(),
        };
        if let Some(ends) = session.certificate.as_deref().and_then(certificate::ends) {
            evidence.warnings.extend(certificate::warning(ends, CERTIFICATE_WARNING, Timestamp::now()));
        }
        let version = answered(until, Layer::Greeting, self.timeout, session.client.apiserver_version()).await;
        match version.map(|answer| answer.map_err(|error| No::of(&error, Layer::Greeting))) {
            Ok(Ok(version)) => evidence.details.push(format!("version={}", version.git_version)),
            Ok(Err(no)) => return self.no(no, Layer::Greeting, evidence).await,
            Err(broken) => return broken.finding(),
        }
        for policy in &self.workloads {
            match self.workload(&session, policy, until).await {
                Ok(found) => judge(policy, self.role, found.as_ref(), evidence),
                Err(no) => return self.no(no, Layer::Query, evidence).await,
            }
        }
        if let Some(zones) = &self.zones {
            zones.tell(&session, until, self.timeout, evidence).await;
        }
        Finding::Alive
    }

    /// None where the workload does not exist.
    async fn workload(
        &self,
        session: &Session,
        policy: &WorkloadPolicy,
        until: Instant,
    ) -> Result<Option<Workload>, No> {
        let path = workload::path(policy.kind, &self.namespace, &policy.name);
        let request = http::Request::get(path).body(Vec::new()).map_err(|error| No::Unclear(error.to_string()))?;
        let answer = answered(until, Layer::Query, self.timeout, session.client.request(request)).await;
        match answer.map_err(No::Broken)? {
            Ok(found) => Ok(Some(found)),
            Err(error) => match No::of(&error, Layer::Query) {
                No::Absent(_) => Ok(None),
                no @ (No::Refused(_)
                | No::Changed(_)
                | No::Throttled(_)
                | No::Invalid(_)
                | No::Ailing(_)
                | No::Broken(_)
                | No::Unclear(_)) => Err(no),
            },
        }
    }

    async fn no(&self, no: No, layer: Layer, evidence: &mut Evidence) -> Finding {
        match no {
            No::Refused(said) => {
                // A rotated token is in the file by now; the next probe reads it.
                self.cluster.forget().await;
                evidence.credential_refused = true;
                evidence.warnings.push(said);
                Finding::Alive
            }
            No::Throttled(said) => {
                evidence.degraded = Some(format!("the API server is too busy: {said}"));
                Finding::Alive
            }
            No::Absent(why) | No::Changed(why) | No::Invalid(why) | No::Ailing(why) => Finding::Failing { layer, why },
            No::Broken(broken) => broken.finding(),
            No::Unclear(why) => Finding::Unknown { why },
        }
    }
}

/// What the workload's numbers say about the cluster as the one that serves, and as the one that could.
fn judge(policy: &WorkloadPolicy, role: Role, found: Option<&Workload>, evidence: &mut Evidence) {
    let name = format!("{} {}", workload::kind_name(policy.kind), policy.name);
    let Some(found) = found else {
        evidence.workloads.push(WorkloadSeen { name: policy.name.clone(), ready: 0, wanted: 0 });
        evidence.not_ready.push(format!("{name} does not exist"));
        if role == Role::Primary {
            degrade(evidence, format!("{name} does not exist"));
        }
        return;
    };
    let ready = found.ready();
    evidence.workloads.push(WorkloadSeen { name: policy.name.clone(), ready, wanted: found.wanted() });
    evidence.details.push(format!("{}={ready}/{}", policy.name, found.wanted()));
    // Where it serves: in the primary region, and wherever a failover has scaled it up to serve.
    let serves = role == Role::Primary || (found.wanted() >= policy.active && policy.active > policy.standby);
    if serves && ready < policy.active {
        degrade(evidence, format!("{name}: {ready} of {} ready", policy.active));
    }
    if ready < policy.standby {
        evidence.not_ready.push(format!("{name}: {ready} of {} standby replicas ready", policy.standby));
    }
}

fn degrade(evidence: &mut Evidence, why: String) {
    match &mut evidence.degraded {
        Some(text) => {
            text.push_str("; ");
            text.push_str(&why);
        }
        None => evidence.degraded = Some(why),
    }
}

#[async_trait]
impl Probe for ClusterProbe {
    async fn observe(&self, began: Duration) -> Observation {
        let started = Instant::now();
        let mut evidence = Evidence::default();
        let finding = self.look(started, &mut evidence).await;
        let took = started.elapsed();
        if finding == Finding::Alive {
            evidence.latency = Some(took);
        }
        Observation { instance: self.cluster.instance.clone(), began, ended: began + took, finding, evidence }
    }
}

impl From<Broken> for No {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::WorkloadKind;

    fn judged(role: Role, wanted: u32, ready: u32) -> Evidence {
        let policy = WorkloadPolicy { kind: WorkloadKind::Deployment, name: "core".into(), active: 5, standby: 2 };
        let found = serde_json::json!({ "spec": { "replicas": wanted }, "status": { "readyReplicas": ready } });
        let found: Workload = serde_json::from_value(found).unwrap();
        let mut evidence = Evidence::default();
        judge(&policy, role, Some(&found), &mut evidence);
        evidence
    }

    #[test]
    fn the_primary_needs_its_active_replicas_and_a_standby_its_standby_ones() {
        assert_eq!(judged(Role::Primary, 5, 5).degraded, None);
        assert_eq!(judged(Role::Primary, 5, 4).degraded.as_deref(), Some("deployment core: 4 of 5 ready"));
        let seen = WorkloadSeen { name: "core".into(), ready: 2, wanted: 2 };
        let well = Evidence { details: vec!["core=2/2".into()], workloads: vec![seen], ..Evidence::default() };
        assert_eq!(judged(Role::Secondary, 2, 2), well);
        assert_eq!(judged(Role::Secondary, 2, 1).not_ready, ["deployment core: 1 of 2 standby replicas ready"]);
        assert_eq!(judged(Role::Secondary, 2, 1).degraded, None);
    }

    #[test]
    fn a_standby_that_was_scaled_up_to_serve_is_judged_as_one_that_serves() {
        let scaled = judged(Role::Secondary, 5, 3);
        assert_eq!(scaled.degraded.as_deref(), Some("deployment core: 3 of 5 ready"));
        assert!(scaled.not_ready.is_empty());
    }
}
