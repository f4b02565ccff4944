//! Zones of a real cluster, as its nodes tell, with the right to list them and without.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use failoverd::adapters::kubernetes::{ClusterProbe, Clusters};
use failoverd::adapters::names::Names;
use failoverd::domain::{Evidence, Finding, InstanceId, Role, ZoneSeen};
use failoverd::ports::Probe;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::kubernetes::{EAST, TIMEOUT, admin, configuration, reached_by_kubeconfig, until};
use crate::lab::Lab;

#[tokio::test(flavor = "multi_thread")]
async fn a_dark_zone_is_seen_by_its_nodes_and_a_missing_right_is_no_failure() {
    let lab = Lab::up("k8s", &[]);
    let config = configuration(&lab, &reached_by_kubeconfig(&lab));
    let instance = InstanceId::new("kubernetes", EAST);
    let observe = async || {
        let found = Clusters::new(&config, &Names::new(&config)).get(&instance).unwrap().clone();
        let of = &config.clusters[&"kubernetes".into()];
        let probe = ClusterProbe::new(found, of.namespace.clone(), of.workloads.clone(), Role::Primary, TIMEOUT);
        let seen = probe.with_zones().observe(Duration::from_secs(7)).await;
        assert_eq!(seen.finding, Finding::Alive, "whatever the nodes are: {seen:?}");
        seen.evidence
    };
    let nodes: Api<Node> = Api::all(admin(&lab, EAST).await);
    for (name, zone) in [("n1", "east-a"), ("n2", "east-a"), ("n3", "east-b"), ("n4", "")] {
        let labels = if zone.is_empty() { json!({}) } else { json!({ "topology.kubernetes.io/zone": zone }) };
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": labels } });
        nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
        ready(&nodes, name, "True").await;
    }
    let zones = |evidence: &Evidence| evidence.zones.clone();
    let of = |name: &str, ready, nodes| ZoneSeen { name: name.to_owned(), ready, nodes };
    assert_eq!(zones(&observe().await), [of("east-a", 2, 2), of("east-b", 1, 1)]);

    ready(&nodes, "n1", "Unknown").await;
    ready(&nodes, "n2", "False").await;
    let dark = observe().await;
    assert_eq!(zones(&dark), [of("east-a", 0, 2), of("east-b", 1, 1)]);
    assert!(dark.zones[0].is_dark() && !dark.zones[1].is_dark());
    assert!(dark.details.contains(&"zone.east-a=0/2".to_owned()), "{dark:?}");

    // Somebody takes the right away: no evidence of zones, said as such, and everything else goes on.
    let bindings: Api<ClusterRoleBinding> = Api::all(admin(&lab, EAST).await);
    bindings.delete("failoverd-zones", &DeleteParams::default()).await.unwrap();
    let without = until(async || Some(observe().await).filter(|seen| seen.zones.is_empty())).await;
    assert!(without.details.contains(&"zones=unknown: listing nodes is not allowed".to_owned()), "{without:?}");
    assert!(!without.credential_refused && without.workloads.len() == 3, "{without:?}");
}

async fn ready(nodes: &Api<Node>, name: &str, status: &str) {
    let change = json!({ "status": { "conditions": [{ "type": "Ready", "status": status }] } });
    nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(&change)).await.unwrap();
}
