//! Activating an ElastiCache group, with real Redis servers behind the double.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use failoverd::domain::InstanceId;
use failoverd::plan::Action;
use failoverd::ports::Setback;
use serde_json::{Value, json};

use crate::aws::{EAST, Hands, WEST, configuration};
use crate::lab::Lab;

pub(crate) const CACHE: &str = "[caches.cache]\nprovider = \"elasticache\"\ncache_clusters = 3\n\
    [caches.cache.regions.us-east-1]\nreplication_group = \"omnimesh-prod-us-east-1\"\n\
    [caches.cache.regions.us-west-2]\nreplication_group = \"omnimesh-prod-backup-us-west-2\"\n";

fn activation() -> Action {
    Action::CacheActive { cache: InstanceId::new("cache", WEST), from: InstanceId::new("cache", EAST) }
}

fn mutating(lab: &Lab) -> Vec<String> {
    lab.actions().into_iter().filter(|action| action != "DescribeReplicationGroups").collect()
}

#[tokio::test]
async fn a_member_of_a_global_datastore_becomes_primary_and_gets_its_nodes() {
    let lab = Lab::up("redis,aws", &[]);
    let config = configuration(&lab, CACHE);
    let hands = Hands::new(&lab, &config);
    let look = hands.look(&activation()).await;
    assert!(!look.satisfied && look.summary.contains("follows the primary of"), "{}", look.summary);
    let seen = hands.perform(&activation()).await.unwrap();
    assert!(seen.contains("3 nodes") && seen.contains("a write was accepted"), "{seen}");
    assert_eq!(mutating(&lab), ["FailoverGlobalReplicationGroup", "IncreaseReplicaCount"]);

    Hands::new(&lab, &config).perform(&activation()).await.unwrap();
    assert_eq!(mutating(&lab).len(), 2, "twice is once");
    let refusal = hands.undo(&activation(), &Value::Null).await.unwrap_err();
    assert!(matches!(refusal, Setback::Refused(_)), "{refusal}");
}

#[tokio::test]
async fn a_backup_group_of_its_own_only_gets_its_nodes_whatever_is_lost_on_the_way() {
    let lab = Lab::up("redis,aws", &["--redis", "single"]);
    let hands = Hands::new(&lab, &configuration(&lab, CACHE));
    lab.tell_aws(
        "faults",
        &json!([
            {"action": "IncreaseReplicaCount", "status": 400, "code": "Throttling", "times": 1},
            {"action": "IncreaseReplicaCount", "drop_response": true, "times": 1},
        ]),
    );
    hands.perform(&activation()).await.unwrap();
    assert_eq!(mutating(&lab), ["IncreaseReplicaCount", "IncreaseReplicaCount"], "one refused, one carried out");
    let state = lab.aws("state");
    assert_eq!(state["elasticache"]["omnimesh-prod-backup-us-west-2"]["members"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_busy_group_is_waited_for_and_a_missing_one_is_refused() {
    let lab = Lab::up("redis,aws", &["--redis", "single"]);
    let hands = Hands::new(&lab, &configuration(&lab, CACHE));
    lab.tell_aws("state", &json!({"elasticache": {"omnimesh-prod-backup-us-west-2": {"status": "snapshotting"}}}));
    let look = hands.look(&activation()).await;
    let setback = hands.act(&activation(), &look).await.unwrap_err();
    assert!(matches!(&setback, Setback::Transient(why) if why.contains("snapshotting")), "{setback}");
    assert_eq!(mutating(&lab), [""; 0]);

    let text = CACHE.replace("omnimesh-prod-backup-us-west-2", "no-such-group");
    let hands = Hands::new(&lab, &configuration(&lab, &text));
    let refusal = hands.perform(&activation()).await.unwrap_err();
    assert!(matches!(&refusal, Setback::Refused(why) if why.contains("ReplicationGroupNotFound")), "{refusal}");
}
