//! What RDS is asked for after a promotion: protection from the next loss, and a replica in place of the old primary. Real
//! PostgreSQL servers are behind the double: a new replica is a new copy that streams.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use failoverd::domain::InstanceId;
use failoverd::plan::Action;
use failoverd::ports::{Actuator, Setback};
use serde_json::{Value, json};

use crate::aws::{EAST, Hands, KEY, WEST, configuration};
use crate::aws_rds::{DATABASE, REPLICA, count, promotion, sql};
use crate::lab::Lab;

const OLD: &str = "omnimesh-prod-primary";
pub(crate) const KEPT: &str = "omnimesh-prod-primary-set-aside";
const REJOIN: &str = "[databases.database.rejoin]\ndeadline = \"1h\"\n";
const FENCE: &str = "[databases.database.fence]\napplication_roles = [\"app\"]\nsecurity_group = \"sg-0fence\"\n";

fn east() -> InstanceId {
    InstanceId::new("database", EAST)
}

fn west() -> InstanceId {
    InstanceId::new("database", WEST)
}

fn protection() -> Action {
    Action::Protected { database: west(), lost: east(), multi_az: true, backup_days: Some(7) }
}

fn rejoin() -> Action {
    Action::Rejoined { database: east(), from: west() }
}

fn hands(lab: &Lab) -> Hands {
    Hands::new(lab, &configuration(lab, &format!("{DATABASE}{REJOIN}{FENCE}")))
}

/// The west serves; the east is what a lost region comes back with.
async fn failed_over() -> Lab {
    let lab = Lab::up("pg,aws", &[]);
    hands(&lab).perform(&promotion(false)).await.unwrap();
    sql(&lab, EAST, "INSERT INTO compute_nodes (payload) VALUES ('only here')").await;
    lab.tell_aws("calls", &json!([]));
    lab
}

fn is_standby(lab: &Lab) -> bool {
    let dsn = lab.text(&format!("/regions/{EAST}/postgres/dsn/postgres")).to_owned();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&dsn, tokio_postgres::NoTls).await.unwrap();
            let connection = tokio::spawn(connection);
            let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await.unwrap();
            connection.abort();
            row.get(0)
        })
    })
    .join()
    .unwrap()
}

#[tokio::test]
async fn a_promoted_instance_is_asked_once_for_backups_and_another_zone_and_compared_with_the_lost_one() {
    let lab = failed_over().await;
    let seen = hands(&lab).perform(&protection()).await.unwrap();
    assert!(seen.contains("Multi-AZ is being set up, backups kept for 7 days"), "{seen}");
    assert!(seen.contains("of database@us-east-1") || seen.contains("from database@us-east-1"), "{seen}");
    hands(&lab).perform(&protection()).await.unwrap();
    assert_eq!(count(&lab, "ModifyDBInstance"), 1, "what is on its way is not asked for again");
    assert_eq!(lab.aws("state")["rds"][REPLICA]["backup_days"], 7);

    // A lost region says nothing, and that holds nothing up.
    lab.tell_aws(
        "faults",
        &json!([{"action": "DescribeDBInstances", "region": EAST, "status": 503, "code": "Unavailable"}]),
    );
    let seen = hands(&lab).perform(&protection()).await.unwrap();
    assert!(seen.contains("were not compared"), "{seen}");
}

#[tokio::test]
async fn what_rds_refuses_is_told_and_a_lost_answer_asks_for_nothing_twice() {
    let lab = failed_over().await;
    lab.tell_aws("faults", &json!([{"action": "ModifyDBInstance", "drop_response": true, "times": 1}]));
    hands(&lab).perform(&protection()).await.unwrap();
    let accepted = accepted(&lab, "ModifyDBInstance");
    assert_eq!(accepted, 1);

    let lab = failed_over().await;
    lab.tell_aws(
        "faults",
        &json!([{"action": "ModifyDBInstance", "status": 400, "code": "InvalidParameterCombination"}]),
    );
    let refusal = hands(&lab).perform(&protection()).await.unwrap_err();
    assert!(matches!(&refusal, Setback::Refused(why) if why.contains("InvalidParameterCombination")), "{refusal}");
}

#[tokio::test]
async fn an_old_primary_is_kept_under_another_name_and_a_streaming_replica_takes_its_place() {
    let lab = failed_over().await;
    let fence = Action::Fenced { database: east() };
    let own = lab.aws("state")["rds"][OLD]["groups"].clone();
    hands(&lab).perform(&fence).await.unwrap();
    lab.tell_aws(
        "faults",
        &json!([
            {"action": "ModifyDBInstance", "drop_response": true, "times": 1},
            {"action": "CreateDBInstanceReadReplica", "status": 400, "code": "Throttling", "times": 1},
            {"action": "CreateDBInstanceReadReplica", "drop_response": true, "times": 1},
        ]),
    );
    lab.tell_aws("calls", &json!([]));
    let seen = hands(&lab).perform(&rejoin()).await.unwrap();
    assert!(seen.contains("streams") && seen.contains(KEPT), "{seen}");
    assert!(is_standby(&lab));
    let state = lab.aws("state");
    let rds = &state["rds"];
    assert_eq!(rds[KEPT]["source"], Value::Null, "what it was is there");
    assert!(rds[OLD]["source"].as_str().unwrap().contains(REPLICA), "{rds}");
    assert_eq!(rds[OLD]["groups"], own, "its own groups, not the fence's");
    assert_eq!((accepted(&lab, "ModifyDBInstance"), accepted(&lab, "CreateDBInstanceReadReplica")), (1, 1));

    // Twice is once, also for another daemon.
    assert!(hands(&lab).look(&rejoin()).await.satisfied);
}

#[tokio::test]
async fn another_daemon_goes_on_after_each_call_of_a_rejoin() {
    let lab = failed_over().await;
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        // Each attempt is somebody else's.
        let hands = hands(&lab);
        let attempt = async {
            let look = hands.actuator.look(KEY, &rejoin()).await?;
            if !look.satisfied {
                hands.act(&rejoin(), &look).await?;
            }
            hands.actuator.verify(KEY, &rejoin()).await
        };
        match attempt.await {
            Ok(_) => break,
            Err(Setback::Refused(why)) => panic!("{why}"),
            Err(setback) if std::time::Instant::now() > until => panic!("{setback}"),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
        }
    }
    assert_eq!((accepted(&lab, "ModifyDBInstance"), accepted(&lab, "CreateDBInstanceReadReplica")), (1, 1));
    assert!(is_standby(&lab));
}

#[tokio::test]
async fn nothing_is_renamed_where_no_replica_could_be_made_or_something_has_the_name() {
    let lab = Lab::up("pg,aws", &[]);
    lab.tell_aws("calls", &json!([]));
    let hands = hands(&lab);
    let look = hands.look(&rejoin()).await;
    let refusal = hands.act(&rejoin(), &look).await.unwrap_err();
    assert!(matches!(&refusal, Setback::Refused(why) if why.contains("is itself a replica")), "{refusal}");
    assert_eq!(count(&lab, "ModifyDBInstance"), 0);

    hands.perform(&promotion(false)).await.unwrap();
    let no_backups = json!({"rds": {REPLICA: {"backup_days": 0}}});
    lab.tell_aws("state", &no_backups);
    let look = hands.look(&rejoin()).await;
    let refusal = hands.act(&rejoin(), &look).await.unwrap_err();
    assert!(matches!(&refusal, Setback::Refused(why) if why.contains("protect.backup_days")), "{refusal}");
    assert_eq!(count(&lab, "ModifyDBInstance"), 0);

    // What is kept from an earlier time is not overwritten.
    lab.tell_aws("state", &json!({"rds": {REPLICA: {"backup_days": 1}}}));
    lab.tell_aws("faults", &json!([{"action": "ModifyDBInstance", "status": 400, "code": "DBInstanceAlreadyExists"}]));
    let look = hands.look(&rejoin()).await;
    let refusal = hands.act(&rejoin(), &look).await.unwrap_err();
    assert!(matches!(&refusal, Setback::Refused(why) if why.contains("from an earlier time")), "{refusal}");
}

#[test]
fn protection_that_rds_cannot_give_is_refused_by_its_key() {
    for (protect, told) in [
        ("protect = { deadline = \"10m\" }", "databases.database.protect: asks for nothing"),
        ("protect = { backup_days = 36 }", "databases.database.protect.backup_days: out of range"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("failoverd.toml");
        let more = DATABASE.replace("provider = \"rds\"", &format!("provider = \"rds\"\n{protect}"));
        let regions = "[regions.us-east-1]\nrole = \"primary\"\n[regions.us-west-2]\nrole = \"secondary\"\n";
        std::fs::write(&path, format!("[observer]\nregion = \"eu-west-1\"\n{regions}{more}")).unwrap();
        let mistakes = failoverd::config::load(&[path], &std::collections::BTreeMap::new()).unwrap_err().to_string();
        assert!(mistakes.contains(told), "{mistakes}");
    }
}

fn accepted(lab: &Lab, action: &str) -> usize {
    let calls = lab.aws("calls");
    calls.as_array().unwrap().iter().filter(|call| call["action"] == action && call["status"] == 200).count()
}
