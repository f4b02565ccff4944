//! Storage on a real S3 server: probing, the storage step, and what the tertiary region holds.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::time::Duration;

use failoverd::adapters::aws::{Aws, HoldingsProbe, S3Probe};
use failoverd::daemon::clock::SystemClock;
use failoverd::domain::{Finding, InstanceId, Layer, Observation};
use failoverd::plan::Action;
use failoverd::ports::{Actuator, Clock, Probe, Setback};

use crate::aws::{EAST, Hands, WEST, configuration_at};
use crate::lab::Lab;

const STORAGE: &str = "[buckets.storage]\n\
    [buckets.storage.regions.us-east-1]\nbucket = \"omnimesh-prod-us-east-1\"\n\
    [buckets.storage.regions.us-west-2]\nbucket = \"omnimesh-prod-us-west-2\"\n";

fn config(lab: &Lab, key: &str, more: &str) -> Arc<failoverd::config::Config> {
    configuration_at(lab, "http://127.0.0.1:1", key, more)
}

async fn probe(config: Arc<failoverd::config::Config>, region: &str) -> Observation {
    let aws = Arc::new(Aws::new(config));
    let probe = S3Probe::new(aws, Arc::new(SystemClock), InstanceId::new("storage", region));
    probe.observe(SystemClock.now().monotonic).await
}

#[tokio::test]
async fn a_bucket_lists_and_a_lost_store_a_lost_bucket_and_a_refused_key_are_told_apart() {
    let lab = Lab::up("s3", &[]);
    let seen = probe(config(&lab, "labkey", STORAGE), EAST).await;
    assert_eq!(seen.finding, Finding::Alive);
    assert!(!seen.evidence.credential_refused);
    // This store has no replication, and the primary region's bucket ought to have one.
    assert_eq!(seen.evidence.warnings.len(), 1, "{:?}", seen.evidence);
    let quiet = STORAGE.replace("[buckets.storage]\n", "[buckets.storage]\ncheck_replication = false\n");
    assert_eq!(probe(config(&lab, "labkey", &quiet), EAST).await.evidence.warnings, [""; 0]);

    let seen = probe(config(&lab, "wrongkey", STORAGE), EAST).await;
    assert!(seen.finding == Finding::Alive && seen.evidence.credential_refused, "{seen:?}");

    let missing = STORAGE.replace("omnimesh-prod-us-east-1", "omnimesh-gone");
    let seen = probe(config(&lab, "labkey", &missing), EAST).await;
    assert!(
        matches!(&seen.finding, Finding::Failing { layer: Layer::Query, why } if why.contains("no bucket omnimesh-gone")),
        "{:?}",
        seen.finding
    );

    lab.tell("kill", &["s3@us-east-1"]);
    let seen = probe(config(&lab, "labkey", STORAGE), EAST).await;
    assert!(matches!(seen.finding, Finding::Failing { layer: Layer::Tcp, .. }), "{:?}", seen.finding);
    lab.tell("stop", &["s3@us-west-2"]);
    let seen = probe(config(&lab, "labkey", STORAGE), WEST).await;
    assert!(matches!(seen.finding, Finding::Failing { layer: Layer::Query, .. }), "{:?}", seen.finding);
}

#[tokio::test]
async fn the_storage_step_lists_the_replica_and_changes_nothing() {
    let lab = Lab::up("s3", &[]);
    let hands = Hands::new(&lab, &config(&lab, "labkey", STORAGE));
    let action = Action::StorageReachable { storage: InstanceId::new("storage", WEST), holds_all_of: None };
    let seen = hands.perform(&action).await.unwrap();
    assert!(seen.contains("omnimesh-prod-us-west-2 lists, and holds objects"), "{seen}");
    lab.tell("kill", &["s3@us-west-2"]);
    let look = hands.actuator.look(crate::aws::KEY, &action).await;
    assert!(matches!(look, Err(Setback::Transient(_))), "{look:?}");
}

#[tokio::test]
async fn a_planned_move_waits_for_what_has_not_arrived_and_for_nothing_that_came_later_or_is_gone() {
    let lab = Lab::up("s3", &[]);
    let hands = Hands::new(&lab, &config(&lab, "labkey", STORAGE));
    let [storage, source] = [WEST, EAST].map(|region| InstanceId::new("storage", region));
    let action = Action::StorageReachable { storage, holds_all_of: Some(source) };
    let verify = || async { hands.actuator.verify(crate::aws::KEY, &action).await };
    for key in ["a/first", "a-second", "b/last"] {
        lab.tell("put", &[EAST, key, "written in the east"]);
    }
    lab.tell("put", &[EAST, "b/old", "longer than what the west has of it"]);
    for key in ["b/old", "a-second", "models/seed.json"] {
        lab.tell("put", &[WEST, key, if key == "a-second" { "written in the east" } else { "{\"seed\": true}" }]);
    }
    lab.tell("put", &[EAST, "b/old", "longer than what the west has of it"]);

    assert!(!hands.look(&action).await.satisfied);
    let Err(Setback::NotYet(told)) = verify().await else { panic!("three have not arrived") };
    assert_eq!(
        told,
        "3 of 5 objects of omnimesh-prod-us-east-1 have not arrived in omnimesh-prod-us-west-2, the first is a/first"
    );

    lab.tell("put", &[EAST, "written-later", "is replicated after the move"]);
    lab.tell("put", &[WEST, "a/first", "written in the east"]);
    lab.tell("put", &[EAST, "b/last"]);
    let Err(Setback::NotYet(told)) = verify().await else { panic!("one is older than its source") };
    assert!(told.starts_with("1 of 5 objects") && told.ends_with("the first is b/old"), "{told}");

    lab.tell("put", &[WEST, "b/old", "longer than what the west has of it"]);
    assert_eq!(verify().await.unwrap(), "omnimesh-prod-us-west-2 holds what omnimesh-prod-us-east-1 held, 5 objects");
    // The next plan compares them anew.
    let Err(Setback::NotYet(told)) = hands.actuator.verify("plan-2/step-1", &action).await else { panic!("a new one") };
    assert!(told.contains("the first is written-later"), "{told}");
}

#[tokio::test]
async fn holdings_that_are_missing_or_old_make_the_tertiary_region_not_ready() {
    let lab = Lab::up("s3", &[]);
    let endpoint = lab.text("/regions/us-west-2/s3/endpoint");
    let tertiary = format!(
        "[regions.eu-west-1]\nrole = \"tertiary\"\nendpoints = {{ s3 = \"{endpoint}\" }}\n\
         credentials = {{ access_key = \"labkey\", secret_key = \"labsecret\" }}\n\
         [regions.eu-west-1.holdings.models]\nbucket = \"omnimesh-prod-us-west-2\"\nprefix = \"models/\"\nnewest_within = \"1h\"\n\
         [regions.eu-west-1.holdings.templates]\nbucket = \"omnimesh-prod-us-west-2\"\nprefix = \"terraform/\"\n\
         [regions.eu-west-1.holdings.images]\nbucket = \"no-such-bucket\"\n\
         [regions.eu-west-1.holdings.backups]\nbucket = \"omnimesh-prod-us-west-2\"\nprefix = \"models/\"\nnewest_within = \"1ms\"\n"
    );
    let aws = Arc::new(Aws::new(config(&lab, "labkey", &format!("{STORAGE}{tertiary}"))));
    let probe = HoldingsProbe::new(aws, Arc::new(SystemClock), "eu-west-1".into(), Duration::from_secs(30));
    let seen = probe.observe(SystemClock.now().monotonic).await;
    assert_eq!(seen.finding, Finding::Alive);
    let unready = seen.evidence.not_ready.join("\n");
    assert_eq!(seen.evidence.not_ready.len(), 3, "{unready}");
    for words in ["templates: nothing in", "images: there is no bucket", "backups: the newest object"] {
        assert!(unready.contains(words), "{words} in {unready}");
    }
    assert!(seen.evidence.details.iter().any(|text| text.starts_with("models=")), "{:?}", seen.evidence.details);
}
