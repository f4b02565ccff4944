//! Promoting and fencing RDS instances, with real PostgreSQL servers behind the double.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use failoverd::domain::InstanceId;
use failoverd::plan::Action;
use failoverd::ports::{Actuator, Permit, Setback};
use serde_json::{Value, json};

use crate::aws::{EAST, Hands, KEY, WEST, configuration};
use crate::lab::Lab;

pub(crate) const DATABASE: &str = "[databases.database]\nprovider = \"rds\"\nname = \"omnimesh_db\"\nuser = \"failoverd\"\n\
    password = \"lab-failoverd\"\n\
    [databases.database.regions.us-east-1]\nidentifier = \"omnimesh-prod-primary\"\n\
    [databases.database.regions.us-west-2]\nidentifier = \"omnimesh-prod-replica-us-west-2\"\n";

pub(crate) const REPLICA: &str = "omnimesh-prod-replica-us-west-2";

pub(crate) fn promotion(lossless: bool) -> Action {
    Action::DatabasePromoted {
        database: InstanceId::new("database", WEST),
        from: InstanceId::new("database", EAST),
        lossless,
    }
}

pub(crate) fn count(lab: &Lab, action: &str) -> usize {
    lab.actions().iter().filter(|called| *called == action).count()
}

#[tokio::test]
async fn a_replica_is_promoted_once_and_verified_by_a_write() {
    let lab = Lab::up("pg,aws", &[]);
    let hands = Hands::new(&lab, &configuration(&lab, DATABASE));
    let seen = hands.perform(&promotion(true)).await.unwrap();
    assert!(seen.contains("replicates from nothing") && seen.contains("a write reached"), "{seen}");

    // Again, by another daemon: it finds the goal reached.
    let again = Hands::new(&lab, &configuration(&lab, DATABASE));
    assert!(again.look(&promotion(true)).await.satisfied);
    again.perform(&promotion(true)).await.unwrap();
    assert_eq!(count(&lab, "PromoteReadReplica"), 1);
    let refusal = hands.undo(&promotion(true), &Value::Null).await.unwrap_err();
    assert!(matches!(refusal, Setback::Refused(_)), "{refusal}");
}

#[tokio::test]
async fn available_with_its_source_is_not_yet_promoted() {
    // RDS goes on saying `available` after it accepted the call: the SDK's waiter would be content here.
    let lab = Lab::up("pg,aws", &["--promote-lag-s", "3600"]);
    let hands = Hands::new(&lab, &configuration(&lab, DATABASE));
    let look = hands.look(&promotion(false)).await;
    hands.act(&promotion(false), &look).await.unwrap();
    let setback = hands.actuator.verify(KEY, &promotion(false)).await.unwrap_err();
    assert!(matches!(&setback, Setback::NotYet(why) if why.contains("status available, replicates from")), "{setback}");
    // Sent twice it is refused as a state, which means: look again.
    let setback = hands.act(&promotion(false), &look).await.unwrap_err();
    assert!(matches!(setback, Setback::Transient(_)), "{setback}");
}

#[tokio::test]
async fn a_lost_answer_and_server_errors_do_not_promote_twice() {
    let lab = Lab::up("pg,aws", &[]);
    let hands = Hands::new(&lab, &configuration(&lab, DATABASE));
    lab.tell_aws(
        "faults",
        &json!([
            {"action": "PromoteReadReplica", "status": 503, "code": "ServiceUnavailable", "times": 1},
            {"action": "PromoteReadReplica", "status": 400, "code": "Throttling", "times": 1},
            {"action": "PromoteReadReplica", "drop_response": true, "times": 1},
        ]),
    );
    hands.perform(&promotion(false)).await.unwrap();
    let calls = lab.aws("calls");
    let promotions: Vec<&Value> =
        calls.as_array().unwrap().iter().filter(|call| call["action"] == "PromoteReadReplica").collect();
    let accepted = promotions.iter().filter(|call| call["status"] == 200).count();
    assert_eq!(accepted, 1, "{promotions:?}");
}

#[tokio::test]
async fn a_replica_that_is_backing_up_is_waited_for_and_a_refusal_is_final() {
    let lab = Lab::up("pg,aws", &[]);
    let hands = Hands::new(&lab, &configuration(&lab, DATABASE));
    lab.tell_aws("state", &json!({"rds": {REPLICA: {"status": "backing-up"}}}));
    // It may be on its way already: nobody can say that nothing was sent.
    let setback = hands.actuator.look(KEY, &promotion(false)).await.unwrap_err();
    assert!(matches!(&setback, Setback::Transient(why) if why.contains("backing-up")), "{setback}");
    assert_eq!(count(&lab, "PromoteReadReplica"), 0, "a call that must fail is not sent");
    lab.tell_aws("state", &json!({"rds": {REPLICA: {"status": "available"}}}));

    lab.tell_aws("faults", &json!([{"action": "PromoteReadReplica", "status": 403, "code": "AccessDenied"}]));
    let look = hands.look(&promotion(false)).await;
    let setback = hands.act(&promotion(false), &look).await.unwrap_err();
    assert!(matches!(&setback, Setback::Refused(why) if why.contains("AccessDenied")), "{setback}");

    // Nothing is sent without the right to.
    lab.tell_aws("calls", &json!([]));
    let expired = Permit::for_tests(std::time::Duration::ZERO);
    let setback = hands.actuator.act(KEY, &promotion(false), &look, &expired).await.unwrap_err();
    assert!(setback.to_string().contains("ran out"), "{setback}");
    assert_eq!(count(&lab, "PromoteReadReplica"), 0);
}

#[tokio::test]
async fn a_lossless_promotion_waits_until_the_standby_has_everything() {
    let lab = Lab::up("pg,aws", &[]);
    let hands = Hands::new(&lab, &configuration(&lab, DATABASE));
    sql(&lab, WEST, "SELECT pg_wal_replay_pause()").await;
    sql(&lab, EAST, "SELECT pg_logical_emit_message(true, 'test', 'a row more')").await;
    let look = hands.look(&promotion(true)).await;
    let setback = hands.act(&promotion(true), &look).await.unwrap_err();
    assert!(matches!(&setback, Setback::Transient(why) if why.contains("not everything")), "{setback}");
    assert_eq!(count(&lab, "PromoteReadReplica"), 0);
    sql(&lab, WEST, "SELECT pg_wal_replay_resume()").await;
    hands.perform(&promotion(true)).await.unwrap();
}

#[tokio::test]
async fn a_replica_of_something_else_is_not_promoted() {
    let lab = Lab::up("aws", &[]);
    let text = DATABASE.replace("omnimesh-prod-primary", "another-database");
    let hands = Hands::new(&lab, &configuration(&lab, &text));
    let refusal = hands.actuator.look(KEY, &promotion(false)).await.unwrap_err();
    assert!(matches!(&refusal, Setback::Refused(why) if why.contains("not from another-database")), "{refusal}");
    let text = DATABASE.replace(REPLICA, "no-such-replica");
    let hands = Hands::new(&lab, &configuration(&lab, &text));
    let refusal = hands.actuator.look(KEY, &promotion(false)).await.unwrap_err();
    assert!(matches!(&refusal, Setback::Refused(why) if why.contains("DBInstanceNotFound")), "{refusal}");
}

#[tokio::test]
async fn a_fence_replaces_the_security_groups_ends_the_sessions_and_can_be_lifted() {
    let lab = Lab::up("aws", &[]);
    let fence = "[databases.database.fence]\napplication_roles = [\"app\"]\nsecurity_group = \"sg-0fence\"\n";
    let config = configuration(&lab, &format!("{DATABASE}{fence}"));
    let hands = Hands::new(&lab, &config);
    let action = Action::Fenced { database: InstanceId::new("database", EAST) };
    let first = hands.look(&action).await;
    assert!(!first.satisfied);
    let seen = hands.perform(&action).await.unwrap();
    assert!(seen.contains("sg-0fence"), "{seen}");
    let mutating = |lab: &Lab| -> Vec<String> {
        let reading = ["DescribeDBInstances"];
        lab.actions().into_iter().filter(|action| !reading.contains(&action.as_str())).collect()
    };
    let calls = ["AddTagsToResource", "ModifyDBInstance", "RebootDBInstance", "AddTagsToResource"];
    assert_eq!(mutating(&lab), calls, "its own groups are remembered first");
    // Twice is once, also for another daemon.
    Hands::new(&lab, &config).perform(&action).await.unwrap();
    assert_eq!(mutating(&lab).len(), 4);

    hands.undo(&action, &first.previous).await.unwrap();
    hands.undo(&action, &first.previous).await.unwrap();
    assert_eq!(mutating(&lab)[4..], ["ModifyDBInstance", "RemoveTagsFromResource"]);
    let after = hands.look(&action).await;
    assert_eq!((after.satisfied, &after.previous["groups"]), (false, &first.previous["groups"]));
}

#[tokio::test]
async fn without_a_configured_fence_the_step_says_what_to_configure() {
    let lab = Lab::up("aws", &[]);
    let hands = Hands::new(&lab, &configuration(&lab, DATABASE));
    let action = Action::Fenced { database: InstanceId::new("database", EAST) };
    let refusal = hands.actuator.look(KEY, &action).await.unwrap_err();
    assert!(matches!(&refusal, Setback::Refused(why) if why.contains("fence.security_group")), "{refusal}");
}

pub(crate) async fn sql(lab: &Lab, region: &str, query: &str) {
    let dsn = lab.text(&format!("/regions/{region}/postgres/dsn/postgres"));
    let (client, connection) = tokio_postgres::connect(dsn, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute(query).await.unwrap();
    connection.abort();
}
