//! The Kubernetes probe and actuator against real API servers, with the rights that failoverd has and no more.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use failoverd::adapters::kubernetes::{ClusterProbe, Clusters, KubernetesActuator};
use failoverd::adapters::names::Names;
use failoverd::adapters::{Endpoint, Endpoints};
use failoverd::config::Config;
use failoverd::daemon::clock::SystemClock;
use failoverd::domain::{
    Finding, InstanceId, Layer, LedgerId, ObjectKind, Observation, PublishedValue, Role, WorkloadKind,
};
use failoverd::plan::{Action, Value};
use failoverd::ports::{Actuator, Claim, Clock, Look, Permit, Probe, Setback, Term};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;

use crate::lab::Lab;

pub(crate) const EAST: &str = "us-east-1";
const WEST: &str = "us-west-2";
const NAMESPACE: &str = "omnimesh-core";
const KEY: &str = "plan-1/step-1";
pub(crate) const TIMEOUT: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_tells_what_of_a_cluster_is_missing() {
    let lab = Lab::up("k8s", &[]);
    let config = configuration(&lab, &reached_by_kubeconfig(&lab));

    let primary = observe(&config, EAST).await;
    assert_eq!(primary.finding, Finding::Alive, "{primary:?}");
    assert_eq!(primary.evidence.degraded, None, "{primary:?}");
    assert!(primary.evidence.details.contains(&"version=v1.20.2".to_owned()), "{primary:?}");
    assert!(primary.evidence.details.contains(&"nexus-prime-core=5/5".to_owned()), "{primary:?}");
    let standby = observe(&config, WEST).await;
    assert_eq!((standby.finding.clone(), standby.evidence.not_ready.len()), (Finding::Alive, 0), "{standby:?}");

    // A standby below its counts could not take over; a primary below its counts is degraded.
    scale(&lab, WEST, "ai-agents", 4).await;
    scale(&lab, EAST, "ai-agents", 19).await;
    let standby =
        until(async || Some(observe(&config, WEST).await).filter(|seen| !seen.evidence.not_ready.is_empty())).await;
    assert_eq!(standby.evidence.not_ready, ["deployment ai-agents: 4 of 5 standby replicas ready"]);
    let primary =
        until(async || Some(observe(&config, EAST).await).filter(|seen| seen.evidence.degraded.is_some())).await;
    assert_eq!(primary.evidence.degraded.as_deref(), Some("deployment ai-agents: 19 of 20 ready"));
    assert_eq!(primary.finding, Finding::Alive);

    // A credential that is refused proves life, with a token and with a kubeconfig's.
    let wrong = configuration(&lab, &reached_by_token(&lab, "not-the-token"));
    let refused = observe(&wrong, EAST).await;
    assert_eq!((refused.finding.clone(), refused.evidence.credential_refused), (Finding::Alive, true), "{refused:?}");
    // A certificate that we do not trust says nothing.
    let untrusting = configuration(&lab, &reached_without_ca(&lab));
    let unknown = observe(&untrusting, EAST).await;
    assert!(matches!(unknown.finding, Finding::Unknown { .. }), "{unknown:?}");
    // Neither does a kubeconfig that is not there.
    let nowhere =
        configuration(&lab, &reached_by("kubeconfig = \"/nonexistent\"", "kubeconfig = \"/nonexistent-west\""));
    let unknown = observe(&nowhere, EAST).await;
    assert!(matches!(&unknown.finding, Finding::Unknown { why } if why.contains("/nonexistent")), "{unknown:?}");

    // Its store is gone: it still tells its version, and nothing else.
    lab.tell("kill", &[&format!("etcd@{EAST}")]);
    let storeless = observe(&config, EAST).await;
    assert!(matches!(&storeless.finding, Finding::Failing { layer: Layer::Query, .. }), "{storeless:?}");
    // It accepts and says nothing.
    lab.tell("stop", &[&format!("k8s@{WEST}")]);
    let frozen = observe(&config, WEST).await;
    assert!(matches!(&frozen.finding, Finding::Failing { layer: Layer::Tls, .. }), "{frozen:?}");
    // It is gone.
    lab.tell("kill", &[&format!("k8s@{EAST}")]);
    let is_refused = |seen: &Observation| matches!(&seen.finding, Finding::Failing { layer: Layer::Tcp, .. });
    // A killed process leaves its listener to the kernel for a moment, which resets what it had accepted.
    until(async || Some(observe(&config, EAST).await).filter(is_refused)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_made_ready_to_serve_and_brought_back() {
    let lab = Lab::up("k8s", &[]);
    let config = configuration(&lab, &reached_by_kubeconfig(&lab));
    let hands = Hands::new(&config, "new-primary.example");

    incident(&lab, &hands).await;
    replicas(&lab, &hands).await;
    secret(&lab, &hands).await;
    config_map(&lab, &hands).await;
    rollout(&lab, &hands).await;
    manifests(&lab, &hands).await;
    pods(&lab, &hands).await;
    claims(&lab, &hands).await;
    expired_permit(&lab, &hands).await;
}

async fn incident(lab: &Lab, hands: &Hands) {
    let action = Action::IncidentDeclared { cluster: west(), namespace: NAMESPACE.into(), incident: "inc-1".into() };
    let look = hands.look(&action).await;
    assert!(!look.satisfied, "{look:?}");
    hands.act(&action, &look).await.unwrap();
    hands.act(&action, &hands.look(&action).await).await.unwrap();
    hands.verify(&action).await.unwrap();
    let data = map(lab, "dr-mode").await;
    assert_eq!((data["status"].as_str(), data["incident"].as_str()), ("active", "inc-1"));
    assert!(data["timestamp"].ends_with('Z'), "{data:?}");
    assert!(hands.look(&action).await.satisfied);
    // Somebody else's incident is not ended by undoing ours.
    let other = Action::IncidentDeclared { cluster: west(), namespace: NAMESPACE.into(), incident: "inc-2".into() };
    let said = hands.undo(&other, &json!(null)).await.unwrap();
    assert!(said.contains("left alone"), "{said}");
    hands.undo(&action, &look.previous).await.unwrap();
    hands.undo(&action, &look.previous).await.unwrap();
    assert_eq!(map(lab, "dr-mode").await["status"], "inactive");
    // The way back ends whatever was declared, by whichever incident.
    hands.act(&action, &hands.look(&action).await).await.unwrap();
    let ended = Action::IncidentEnded { cluster: west(), namespace: NAMESPACE.into(), incident: "inc-3".into() };
    let look = hands.look(&ended).await;
    assert!(!look.satisfied, "{look:?}");
    hands.act(&ended, &look).await.unwrap();
    hands.verify(&ended).await.unwrap();
    assert!(hands.look(&ended).await.satisfied);
    let data = map(lab, "dr-mode").await;
    assert_eq!((data["status"].as_str(), data["incident"].as_str()), ("inactive", "inc-3"));
    let nowhere = Action::IncidentDeclared { cluster: west(), namespace: "nowhere".into(), incident: "inc-1".into() };
    let refused = hands.actuator.look(KEY, &nowhere).await;
    assert!(matches!(refused, Err(Setback::Refused(_))), "{refused:?}");
}

async fn replicas(lab: &Lab, hands: &Hands) {
    let action = scaled("nexus-prime-core", 5);
    let look = hands.look(&action).await;
    assert_eq!((look.satisfied, &look.previous), (false, &json!({ "replicas": 2 })), "{look:?}");
    let early = hands.verify(&action).await;
    assert!(matches!(&early, Err(Setback::NotYet(why)) if why.contains("2 of 5 ready")), "{early:?}");
    hands.act(&action, &look).await.unwrap();
    hands.act(&action, &look).await.unwrap();
    let said = until(async || hands.verify(&action).await.ok()).await;
    assert_eq!(said, "nexus-prime-core: 5 of 5 ready");
    assert!(hands.look(&action).await.satisfied);
    // Somebody scales higher: that is fine, and undoing leaves it alone.
    scale(lab, WEST, "nexus-prime-core", 6).await;
    until(async || hands.verify(&action).await.ok()).await;
    let said = hands.undo(&action, &look.previous).await.unwrap();
    assert!(said.contains("scaled to 6 by somebody else"), "{said}");
    scale(lab, WEST, "nexus-prime-core", 5).await;
    hands.undo(&action, &look.previous).await.unwrap();
    hands.undo(&action, &look.previous).await.unwrap();
    assert_eq!(deployment(lab, "nexus-prime-core").await.spec.unwrap().replicas, Some(2));

    // What stood in for a region waits again: no more than so many.
    let down = |replicas| {
        let mut action = scaled("nexus-prime-core", replicas);
        if let Action::Replicas { at_most, .. } = &mut action {
            *at_most = true;
        }
        action
    };
    assert!(hands.look(&down(2)).await.satisfied);
    let look = hands.look(&down(1)).await;
    assert!(!look.satisfied, "{look:?}");
    hands.act(&down(1), &look).await.unwrap();
    until(async || hands.verify(&down(1)).await.ok()).await;
    scale(lab, WEST, "nexus-prime-core", 2).await;

    // What was seen is no more: look again rather than act on it.
    let look = hands.look(&action).await;
    scale(lab, WEST, "nexus-prime-core", 3).await;
    let stale = hands.act(&action, &look).await;
    assert!(matches!(&stale, Err(Setback::Transient(why)) if why.contains("scaled to 3 meanwhile")), "{stale:?}");
    scale(lab, WEST, "nexus-prime-core", 2).await;

    let absent = hands.actuator.look(KEY, &scaled("no-such-workload", 10)).await;
    assert!(matches!(&absent, Err(Setback::Refused(why)) if why.contains("does not exist")), "{absent:?}");
}

async fn secret(lab: &Lab, hands: &Hands) {
    let host = Value::Of { instance: InstanceId::new("database", WEST), property: PublishedValue::Host };
    let action = published(ObjectKind::Secret, "database-credentials", "host", host);
    let before = secret_data(lab).await;
    let look = hands.look(&action).await;
    assert!(!look.satisfied);
    let shown = format!("{look:?}");
    assert!(!shown.contains(&before["host"]), "the former value is nowhere but in the cluster: {shown}");
    hands.act(&action, &look).await.unwrap();
    hands.act(&action, &hands.look(&action).await).await.unwrap();
    hands.verify(&action).await.unwrap();
    let after = secret_data(lab).await;
    assert_eq!(after["host"], "new-primary.example");
    for (key, value) in before.iter().filter(|(key, _)| *key != "host") {
        assert_eq!(&after[key], value, "{key} is nobody's business");
    }

    // The same step again with another answer of the Describe call: the former value is still the first one.
    let moved = Hands::new(&hands.config, "moved-again.example");
    let again = moved.look(&action).await;
    assert!(!again.satisfied);
    moved.act(&action, &again).await.unwrap();
    moved.undo(&action, &look.previous).await.unwrap();
    moved.undo(&action, &look.previous).await.unwrap();
    assert_eq!(secret_data(lab).await, before, "as if nothing had been");

    // Changed between look and act.
    let look = hands.look(&action).await;
    let secrets: Api<Secret> = Api::namespaced(admin(lab, WEST).await, NAMESPACE);
    let change = json!({ "stringData": { "user": "rotated" } });
    secrets.patch("database-credentials", &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
    let stale = hands.act(&action, &look).await;
    assert!(matches!(&stale, Err(Setback::Transient(why)) if why.contains("meanwhile")), "{stale:?}");
    assert_eq!(secret_data(lab).await["host"], before["host"]);
}

async fn config_map(lab: &Lab, hands: &Hands) {
    let bucket = Value::Of { instance: InstanceId::new("storage", WEST), property: PublishedValue::Bucket };
    let action = published(ObjectKind::ConfigMap, "s3-config", "bucket", bucket);
    let before = map(lab, "s3-config").await;
    let look = hands.look(&action).await;
    hands.act(&action, &look).await.unwrap();
    hands.verify(&action).await.unwrap();
    assert_eq!(map(lab, "s3-config").await["bucket"], "omnimesh-prod-us-west-2");
    assert!(hands.undo(&action, &look.previous).await.is_ok());
    assert_eq!(map(lab, "s3-config").await, before);
    // A key that was not there is not there afterwards.
    let action = published(ObjectKind::ConfigMap, "app-config", "new_key", Value::Literal("x".into()));
    hands.act(&action, &hands.look(&action).await).await.unwrap();
    assert_eq!(map(lab, "app-config").await["new_key"], "x");
    hands.undo(&action, &json!(null)).await.unwrap();
    assert!(!map(lab, "app-config").await.contains_key("new_key"));
    // What an earlier plan set gets its former value back, unless somebody has set it otherwise since.
    let former = map(lab, "app-config").await;
    let set = published(ObjectKind::ConfigMap, "app-config", "log_level", Value::Literal("trace".into()));
    let restored = Action::Restored {
        cluster: west(),
        namespace: NAMESPACE.into(),
        object: ObjectKind::ConfigMap,
        name: "app-config".into(),
        key: "log_level".into(),
        replaces: "trace".into(),
    };
    assert!(hands.look(&restored).await.satisfied, "no plan has set anything");
    hands.act(&set, &hands.look(&set).await).await.unwrap();
    let look = hands.look(&restored).await;
    assert!(!look.satisfied && matches!(hands.verify(&restored).await, Err(Setback::NotYet(_))), "{look:?}");
    hands.act(&restored, &look).await.unwrap();
    hands.act(&restored, &look).await.unwrap();
    hands.verify(&restored).await.unwrap();
    assert_eq!(map(lab, "app-config").await, former);
    hands.act(&set, &hands.look(&set).await).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(admin(lab, WEST).await, NAMESPACE);
    let change = json!({ "data": { "log_level": "warn" } });
    maps.patch("app-config", &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
    assert!(hands.look(&restored).await.satisfied);
    let absent = published(ObjectKind::ConfigMap, "no-such-map", "a", Value::Literal("x".into()));
    let refused = hands.actuator.look(KEY, &absent).await;
    assert!(matches!(&refused, Err(Setback::Refused(why)) if why.contains("create it")), "{refused:?}");
}

async fn rollout(lab: &Lab, hands: &Hands) {
    let action = Action::RolledOut {
        cluster: west(),
        namespace: NAMESPACE.into(),
        kind: WorkloadKind::Deployment,
        workload: "go-node-proxies".into(),
    };
    let look = hands.look(&action).await;
    assert!(!look.satisfied);
    assert!(matches!(hands.verify(&action).await, Err(Setback::NotYet(_))));
    hands.act(&action, &look).await.unwrap();
    until(async || hands.verify(&action).await.ok()).await;
    let generation = deployment(lab, "go-node-proxies").await.metadata.generation;
    hands.act(&action, &look).await.unwrap();
    assert_eq!(deployment(lab, "go-node-proxies").await.metadata.generation, generation, "restarted once per step");
    assert!(hands.look(&action).await.satisfied);

    // Another step restarts again, unless that would not replace any pod.
    let deployments: Api<Deployment> = Api::namespaced(admin(lab, WEST).await, NAMESPACE);
    let pause = |paused: bool| json!({ "spec": { "paused": paused } });
    deployments.patch("go-node-proxies", &PatchParams::default(), &Patch::Merge(&pause(true))).await.unwrap();
    let refused = hands.actuator.look("plan-1/step-2", &action).await;
    assert!(matches!(&refused, Err(Setback::Refused(why)) if why.contains("paused")), "{refused:?}");
    deployments.patch("go-node-proxies", &PatchParams::default(), &Patch::Merge(&pause(false))).await.unwrap();
    assert!(!hands.actuator.look("plan-1/step-2", &action).await.unwrap().satisfied);
}

async fn manifests(lab: &Lab, hands: &Hands) {
    let folder = lab.folder().join("manifests");
    std::fs::create_dir(&folder).unwrap();
    let two = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: dr-alerts}\ndata: {a: '1'}\n---\n\
               apiVersion: v1\nkind: ConfigMap\nmetadata: {name: dr-rules}\ndata: {b: '2'}\n";
    std::fs::write(folder.join("a.yaml"), two).unwrap();
    let action = Action::Manifests { cluster: west(), path: folder.display().to_string() };
    let look = hands.look(&action).await;
    assert!(look.summary.contains("2 are missing"), "{look:?}");
    assert!(matches!(hands.verify(&action).await, Err(Setback::NotYet(_))));
    hands.act(&action, &look).await.unwrap();
    hands.act(&action, &look).await.unwrap();
    assert_eq!(hands.verify(&action).await.unwrap(), "2 objects are present");
    assert!(hands.look(&action).await.satisfied);
    assert_eq!(map(lab, "dr-alerts").await["a"], "1");
    // Somebody else's field is taken over.
    let maps: Api<ConfigMap> = Api::namespaced(admin(lab, WEST).await, NAMESPACE);
    let change = json!({ "data": { "a": "3" } });
    maps.patch("dr-alerts", &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
    let look = hands.look(&action).await;
    assert!(look.summary.contains("1 are different"), "{look:?}");
    hands.act(&action, &look).await.unwrap();
    assert_eq!(map(lab, "dr-alerts").await["a"], "1");
    // Afterwards all of it goes, but for what is somebody else's as well.
    let theirs = json!({ "data": { "c": "4" } });
    maps.patch("dr-rules", &PatchParams::default(), &Patch::Merge(&theirs)).await.unwrap();
    let removed = Action::ManifestsRemoved { cluster: west(), path: folder.display().to_string() };
    let look = hands.look(&removed).await;
    assert!(!look.satisfied && look.summary.contains("2 are ours"), "{look:?}");
    assert!(matches!(hands.verify(&removed).await, Err(Setback::NotYet(_))));
    hands.act(&removed, &look).await.unwrap();
    hands.act(&removed, &look).await.unwrap();
    hands.verify(&removed).await.unwrap();
    assert!(hands.look(&removed).await.satisfied);
    assert!(maps.get_opt("dr-alerts").await.unwrap().is_none());
    assert_eq!(map(lab, "dr-rules").await, BTreeMap::from([("c".to_owned(), "4".to_owned())]));
    // A kind that this cluster does not know.
    let rule = "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata: {name: r}\n";
    std::fs::write(folder.join("b.yaml"), rule).unwrap();
    let refused = hands.actuator.look(KEY, &action).await;
    let said = matches!(&refused, Err(Setback::Refused(why)) if why.contains("does not know PrometheusRule"));
    assert!(said, "{refused:?}");
}

async fn pods(lab: &Lab, hands: &Hands) {
    until(async || hands.actuator.pods_running(&west(), 10).await.ok()).await;
    let few = hands.actuator.pods_running(&west(), 11).await;
    assert!(matches!(&few, Err(Setback::NotYet(why)) if why.contains("at least 11")), "{few:?}");
    // A pod that does not come up is named.
    let deployments: Api<Deployment> = Api::namespaced(admin(lab, WEST).await, NAMESPACE);
    let never = json!({ "spec": { "template": { "metadata": { "annotations": { "lab/never-ready": "true" } } } } });
    deployments.patch("ai-agents", &PatchParams::default(), &Patch::Merge(&never)).await.unwrap();
    let why = until(async || match hands.actuator.pods_running(&west(), 1).await {
        Err(Setback::NotYet(why)) => Some(why),
        _ => None,
    })
    .await;
    assert!(why.contains("ai-agents-") && why.contains("is pending"), "{why}");
    // Nor does a rollout that is stuck count as done, although enough old pods are ready.
    let action = Action::RolledOut {
        cluster: west(),
        namespace: NAMESPACE.into(),
        kind: WorkloadKind::Deployment,
        workload: "ai-agents".into(),
    };
    hands.act(&action, &hands.look(&action).await).await.unwrap();
    let stuck = hands.verify(&action).await;
    assert!(matches!(&stuck, Err(Setback::NotYet(_))), "{stuck:?}");
}

async fn claims(lab: &Lab, hands: &Hands) {
    let since = |text: &str| text.parse().unwrap();
    let claim = |ledger: &str, epoch: u64, at: &str, holder: &str| Claim {
        ledger: LedgerId::from(ledger),
        term: Some(Term { epoch, since: since(at) }),
        holder: holder.to_owned(),
    };
    let actuator = &hands.actuator;
    assert_eq!(actuator.claim(&west()).await, Ok(None));
    let first = claim("ledger-1", 1, "2026-03-01T12:00:00.5Z", "east-1");
    let next = claim("ledger-1", 2, "2026-03-01T13:00:00Z", "east-2");
    for ours in [&first, &next] {
        actuator.ensure_claim(&west(), ours, false, &permit()).await.unwrap();
        assert_eq!(actuator.claim(&west()).await.unwrap().as_ref(), Some(ours));
    }
    let theirs = claim("ledger-2", 9, "2026-03-01T14:00:00Z", "clone");
    let foreign = actuator.ensure_claim(&west(), &theirs, false, &permit()).await;
    assert!(matches!(&foreign, Err(Setback::Refused(why)) if why.contains("ledger-1")), "{foreign:?}");
    // A copy of the ledger that began earlier, and one that came to the same epoch.
    for copy in [first, claim("ledger-1", 2, "2026-03-01T12:59:59Z", "copy")] {
        let late = actuator.ensure_claim(&west(), &copy, false, &permit()).await;
        assert!(matches!(&late, Err(Setback::Refused(why)) if why.contains("copy of this ledger")), "{late:?}");
    }
    assert_eq!(map(lab, "failoverd-claim").await["holder"], "east-2");
    actuator.ensure_claim(&west(), &theirs, true, &permit()).await.unwrap();
    assert_eq!(map(lab, "failoverd-claim").await["ledger"], "ledger-2");
    // Of two that claim at once exactly one succeeds.
    let maps: Api<ConfigMap> = Api::namespaced(admin(lab, WEST).await, NAMESPACE);
    maps.delete("failoverd-claim", &Default::default()).await.unwrap();
    let (west, permit) = (west(), permit());
    let (one, two) = tokio::join!(
        actuator.ensure_claim(&west, &next, false, &permit),
        actuator.ensure_claim(&west, &theirs, false, &permit),
    );
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
}

async fn expired_permit(lab: &Lab, hands: &Hands) {
    let action = scaled("nexus-prime-core", 5);
    let look = hands.look(&action).await;
    let expired = Permit::for_tests(Duration::ZERO);
    let refused = hands.actuator.act(KEY, &action, &look, &expired).await;
    assert!(matches!(&refused, Err(Setback::Transient(why)) if why.contains("permit")), "{refused:?}");
    assert_eq!(deployment(lab, "nexus-prime-core").await.spec.unwrap().replicas, Some(2));
}

/// The actuator, with a fixed answer for every address.
struct Hands {
    config: Arc<Config>,
    actuator: KubernetesActuator,
}

struct Fixed(&'static str);

#[async_trait]
impl Endpoints for Fixed {
    async fn current(&self, _instance: &InstanceId) -> Result<Endpoint, Setback> {
        Ok(Endpoint { host: self.0.to_owned(), port: 5432 })
    }

    async fn recent(&self, instance: &InstanceId) -> Result<Endpoint, Setback> {
        self.current(instance).await
    }
}

impl Hands {
    fn new(config: &Arc<Config>, host: &'static str) -> Self {
        let clusters = Clusters::new(config, &Names::new(config));
        let actuator = KubernetesActuator::new(config.clone(), clusters, Arc::new(Fixed(host)), Arc::new(SystemClock));
        Self { config: config.clone(), actuator }
    }

    async fn look(&self, action: &Action) -> Look {
        self.actuator.look(KEY, action).await.unwrap_or_else(|setback| panic!("{action}: {setback}"))
    }

    async fn act(&self, action: &Action, look: &Look) -> Result<(), Setback> {
        self.actuator.act(KEY, action, look, &permit()).await
    }

    async fn verify(&self, action: &Action) -> Result<String, Setback> {
        self.actuator.verify(KEY, action).await
    }

    async fn undo(&self, action: &Action, previous: &serde_json::Value) -> Result<String, Setback> {
        self.actuator.undo(KEY, action, previous, &permit()).await
    }
}

fn permit() -> Permit {
    Permit::for_tests(SystemClock.now().monotonic + Duration::from_secs(60))
}

fn west() -> InstanceId {
    InstanceId::new("kubernetes", WEST)
}

fn scaled(workload: &str, replicas: u32) -> Action {
    Action::Replicas {
        cluster: west(),
        namespace: NAMESPACE.into(),
        kind: WorkloadKind::Deployment,
        workload: workload.into(),
        replicas,
        at_most: false,
    }
}

fn published(object: ObjectKind, name: &str, key: &str, value: Value) -> Action {
    Action::Published {
        cluster: west(),
        namespace: NAMESPACE.into(),
        object,
        name: name.into(),
        key: key.into(),
        value,
    }
}

async fn observe(config: &Arc<Config>, region: &str) -> Observation {
    let cluster = &config.clusters[&"kubernetes".into()];
    let clusters = Clusters::new(config, &Names::new(config));
    let role = if region == EAST { Role::Primary } else { Role::Secondary };
    let found = clusters.get(&InstanceId::new("kubernetes", region)).unwrap().clone();
    let probe = ClusterProbe::new(found, cluster.namespace.clone(), cluster.workloads.clone(), role, TIMEOUT);
    let started = Instant::now();
    let seen = probe.observe(Duration::from_secs(7)).await;
    assert!(started.elapsed() < TIMEOUT + Duration::from_secs(1), "it keeps its own timeout: {seen:?}");
    seen
}

/// Waits for a condition of the cluster, with a bound.
pub(crate) async fn until<T>(condition: impl AsyncFn() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(Instant::now() < end, "it did not happen within a minute");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The judge's own way into a cluster.
pub(crate) async fn admin(lab: &Lab, region: &str) -> kube::Client {
    let file = lab.text(&format!("/regions/{region}/kubernetes/admin_kubeconfig"));
    let kubeconfig = Kubeconfig::read_from(file).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    kube::Client::try_from(config).unwrap()
}

pub(crate) async fn scale(lab: &Lab, region: &str, name: &str, replicas: u32) {
    let deployments: Api<Deployment> = Api::namespaced(admin(lab, region).await, NAMESPACE);
    let change = json!({ "spec": { "replicas": replicas } });
    deployments.patch(name, &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
}

async fn deployment(lab: &Lab, name: &str) -> Deployment {
    Api::namespaced(admin(lab, WEST).await, NAMESPACE).get(name).await.unwrap()
}

async fn map(lab: &Lab, name: &str) -> BTreeMap<String, String> {
    let maps: Api<ConfigMap> = Api::namespaced(admin(lab, WEST).await, NAMESPACE);
    maps.get(name).await.unwrap().data.unwrap_or_default()
}

async fn secret_data(lab: &Lab) -> BTreeMap<String, String> {
    let secrets: Api<Secret> = Api::namespaced(admin(lab, WEST).await, NAMESPACE);
    let data = secrets.get("database-credentials").await.unwrap().data.unwrap_or_default();
    data.into_iter().map(|(key, value)| (key, String::from_utf8(value.0).unwrap())).collect()
}

pub(crate) fn reached_by_kubeconfig(lab: &Lab) -> String {
    let file = |region| lab.text(&format!("/regions/{region}/kubernetes/kubeconfig")).to_owned();
    reached_by(&format!("kubeconfig = \"{}\"", file(EAST)), &format!("kubeconfig = \"{}\"", file(WEST)))
}

fn reached_by_token(lab: &Lab, token: &str) -> String {
    let path = lab.folder().join("token");
    std::fs::write(&path, format!("{token}\n")).unwrap();
    let of = |region: &str| {
        let server = lab.text(&format!("/regions/{region}/kubernetes/server"));
        let ca_file = lab.text("/ca_file");
        format!("server = \"{server}\"\nca_file = \"{ca_file}\"\ntoken = {{ file = \"{}\" }}", path.display())
    };
    reached_by(&of(EAST), &of(WEST))
}

fn reached_without_ca(lab: &Lab) -> String {
    let of = |region: &str| format!("server = \"{}\"", lab.text(&format!("/regions/{region}/kubernetes/server")));
    reached_by(&of(EAST), &of(WEST))
}

fn reached_by(east: &str, west: &str) -> String {
    format!("[clusters.kubernetes.regions.{EAST}]\n{east}\n[clusters.kubernetes.regions.{WEST}]\n{west}\n")
}

pub(crate) fn configuration(lab: &Lab, clusters: &str) -> Arc<Config> {
    let text = format!(
        "[observer]\nregion = \"eu-west-1\"\n\
         [ledger]\npath = \"{0}/ledger\"\nstop_file = \"{0}/STOP\"\npermit = \"8s\"\ncall_timeout = \"5s\"\n\
         [references.a]\naddress = \"127.0.0.1:1\"\n[references.b]\naddress = \"127.0.0.1:2\"\n\
         [regions.{EAST}]\nrole = \"primary\"\n[regions.{WEST}]\nrole = \"secondary\"\n\
         [clusters.kubernetes]\nnamespace = \"{NAMESPACE}\"\nworkloads = [\
         {{ kind = \"deployment\", name = \"nexus-prime-core\", active = 5, standby = 2 }},\
         {{ kind = \"deployment\", name = \"go-node-proxies\", active = 10, standby = 3 }},\
         {{ kind = \"deployment\", name = \"ai-agents\", active = 20, standby = 5 }}]\n{clusters}\
         [buckets.storage.regions.{EAST}]\nbucket = \"omnimesh-prod-us-east-1\"\n\
         [buckets.storage.regions.{WEST}]\nbucket = \"omnimesh-prod-us-west-2\"\n",
        lab.folder().display()
    );
    let path = lab.folder().join("failoverd.toml");
    std::fs::write(&path, &text).unwrap();
    let loaded = failoverd::config::load(&[path], &BTreeMap::new()).unwrap_or_else(|error| panic!("{error}\n{text}"));
    Arc::new(loaded.config)
}
