//! Moving traffic: Route 53 batches that fail whole, and objects that health checks watch.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;

use failoverd::plan::Action;
use failoverd::ports::{Actuator, Setback};
use serde_json::{Value, json};

use crate::aws::{EAST, Hands, KEY, WEST, configuration, permit};
use crate::lab::Lab;

fn traffic(lab: &Lab, record: &str) -> String {
    format!(
        "[traffic.traffic]\nzone_id = \"Z1234567890\"\nrecord = \"{record}\"\nttl = \"30s\"\n\
         provider = \"route53-records\"\ncontrol_region = \"us-west-2\"\n\
         [traffic.traffic.regions.us-east-1]\nset_identifier = \"primary\"\nvalue = \"{}\"\n\
         [traffic.traffic.regions.us-west-2]\nset_identifier = \"secondary\"\nvalue = \"{}\"\n",
        lab.text("/regions/us-east-1/public_address"),
        lab.text("/regions/us-west-2/public_address"),
    )
}

fn weights(east: u8, west: u8) -> Action {
    Action::Traffic { traffic: "traffic".into(), weights: BTreeMap::from([(EAST.into(), east), (WEST.into(), west)]) }
}

fn hands_of(lab: &Lab, ask_dns: bool) -> Hands {
    let mut config = (*configuration(lab, &traffic(lab, "api.omnimesh.com"))).clone();
    if ask_dns {
        config.probes.nameservers = vec![lab.text("/dns/server").parse().unwrap()];
    }
    Hands::new(lab, &config.into())
}

/// The zone's records as the double has them: (name, identifier, weight, TTL, value), without NS and SOA.
fn records(lab: &Lab) -> Vec<(String, String, i64, i64, String)> {
    let state = lab.aws("state");
    let records = state["route53"]["Z1234567890"]["records"].as_array().unwrap().clone();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    records
        .iter()
        .filter(|record| ["A", "TXT"].contains(&record["Type"].as_str().unwrap()))
        .map(|record| {
            (
                text(&record["Name"]),
                text(&record["SetIdentifier"]),
                record["Weight"].as_i64().unwrap_or(-1),
                record["TTL"].as_i64().unwrap_or(-1),
                text(&record["ResourceRecords"][0]["Value"]),
            )
        })
        .collect()
}

fn changes(lab: &Lab) -> usize {
    lab.actions().iter().filter(|action| *action == "ChangeResourceRecordSets").count()
}

#[tokio::test]
async fn traffic_moves_in_one_batch_and_only_once_and_comes_back_exactly() {
    let lab = Lab::up("aws,dns", &[]);
    let hands = hands_of(&lab, true);
    let before = records(&lab);
    let first = hands.look(&weights(0, 100)).await;
    assert!(!first.satisfied && first.summary.contains("us-east-1 100, us-west-2 0"), "{}", first.summary);

    let seen = hands.perform(&weights(0, 100)).await.unwrap();
    assert!(seen.contains("in sync") && seen.contains("1 of 1 name servers answer 52.123.45.67"), "{seen}");
    let after = records(&lab);
    let weight =
        |identifier: &str| after.iter().find(|record| record.1 == identifier).map(|record| (record.2, record.3));
    assert_eq!((weight("primary"), weight("secondary")), (Some((0, 30)), Some((100, 30))));
    let marker = after.iter().find(|record| record.0 == "_failoverd.api.omnimesh.com.").unwrap();
    assert!(marker.4.contains(KEY), "{marker:?}");

    // Once more, as after a restart: nothing is sent.
    assert_eq!(changes(&lab), 1);
    let again = hands_of(&lab, true);
    let seen = again.perform(&weights(0, 100)).await.unwrap();
    assert!(seen.contains("no change is known to be under way"), "{seen}");
    assert_eq!(changes(&lab), 1);

    let text = hands.undo(&weights(0, 100), &first.previous).await.unwrap();
    assert!(text.contains("us-east-1 100"), "{text}");
    assert_eq!(records(&lab), before, "exactly the former records, and no marker");
    hands.undo(&weights(0, 100), &first.previous).await.unwrap();
    assert_eq!(changes(&lab), 2, "undoing twice is undoing once");
}

#[tokio::test]
async fn a_stale_batch_fails_whole_and_asks_to_look_again() {
    let lab = Lab::up("aws,dns", &[]);
    let hands = hands_of(&lab, false);
    let stale = hands.look(&weights(0, 100)).await;
    hands.perform(&weights(50, 50)).await.unwrap();
    let now = records(&lab);

    let setback = hands.act(&weights(0, 100), &stale).await.unwrap_err();
    assert!(matches!(&setback, Setback::Transient(why) if why.contains("look again")), "{setback}");
    assert_eq!(records(&lab), now, "nothing of the stale batch was applied");

    // Even where the weights are back to what the stale look saw: the marker is another.
    hands.perform(&weights(100, 0)).await.unwrap();
    let setback = hands.act(&weights(0, 100), &stale).await.unwrap_err();
    assert!(matches!(&setback, Setback::Transient(_)), "{setback}");

    // Undoing what somebody else has changed since is refused.
    let look = hands.look(&weights(0, 100)).await;
    let permit = permit();
    hands.actuator.act("plan-2/step-9", &weights(0, 100), &look, &permit).await.unwrap();
    let refusal = hands.undo(&weights(0, 100), &stale.previous).await.unwrap_err();
    assert!(matches!(&refusal, Setback::Refused(why) if why.contains("plan-2/step-9")), "{refusal}");
}

#[tokio::test]
async fn a_lost_answer_is_found_by_looking() {
    let lab = Lab::up("aws,dns", &[]);
    let hands = hands_of(&lab, true);
    lab.tell_aws("faults", &json!([{"action": "ChangeResourceRecordSets", "drop_response": true, "times": 1}]));
    let look = hands.look(&weights(0, 100)).await;
    let setback = hands.act(&weights(0, 100), &look).await.unwrap_err();
    assert!(matches!(setback, Setback::Transient(_)), "{setback}");
    assert!(hands.look(&weights(0, 100)).await.satisfied);
    // The id of the change is lost with the answer; the name servers tell when it has spread.
    let seen = hands.verified(&weights(0, 100)).await.unwrap();
    assert!(seen.contains("1 of 1 name servers answer"), "{seen}");
    assert_eq!(changes(&lab), 1);
}

#[tokio::test]
async fn a_change_that_is_still_spreading_is_not_verified() {
    let lab = Lab::up("aws,dns", &["--insync-s", "3600"]);
    let hands = hands_of(&lab, false);
    let look = hands.look(&weights(0, 100)).await;
    hands.act(&weights(0, 100), &look).await.unwrap();
    let setback = hands.actuator.verify(KEY, &weights(0, 100)).await.unwrap_err();
    assert!(matches!(&setback, Setback::NotYet(why) if why.contains("spreading")), "{setback}");

    // The name servers alone tell as well, for a daemon that does not know the change.
    let other = hands_of(&lab, true);
    let setback = other.actuator.verify(KEY, &weights(0, 100)).await.unwrap_err();
    assert!(matches!(&setback, Setback::NotYet(why) if why.contains("52.91.123.45")), "{setback}");

    // Name servers that do not answer prove nothing.
    lab.tell_aws("state", &json!({"dns": {"mode": "servfail"}}));
    let setback = other.actuator.verify(KEY, &weights(0, 100)).await.unwrap_err();
    assert!(matches!(&setback, Setback::NotYet(why) if why.contains("no name server answers")), "{setback}");
}

#[tokio::test]
async fn a_share_comes_back_exactly_unless_all_of_the_traffic_has_moved_on_from_there() {
    let lab = Lab::up("aws,dns", &[]);
    let hands = hands_of(&lab, true);
    let (share, all) = ("plan-1/reroute-traffic", "plan-1/traffic-traffic");
    let original = records(&lab);
    let weights_now = || records(&lab).into_iter().map(|(_, id, weight, ..)| (id, weight)).collect::<Vec<_>>();
    let of =
        |east: i64, west: i64| vec![(String::new(), -1), ("primary".to_owned(), east), ("secondary".to_owned(), west)];
    let sorted = |mut records: Vec<(String, i64)>| {
        records.sort();
        records
    };
    let before = hands.look(&weights(90, 10)).await;
    hands.actuator.act(share, &weights(90, 10), &before, &permit()).await.unwrap();
    let seen = hands.verified_as(share, &weights(90, 10)).await.unwrap();
    assert!(seen.contains("us-east-1 90, us-west-2 10"), "{seen}");
    assert_eq!(sorted(weights_now()), of(90, 10));
    hands.actuator.undo(share, &weights(90, 10), &before.previous, &permit()).await.unwrap();
    let in_order = |mut records: Vec<(String, String, i64, i64, String)>| {
        records.sort();
        records
    };
    assert_eq!(in_order(records(&lab)), in_order(original));

    hands.actuator.act(share, &weights(90, 10), &before, &permit()).await.unwrap();
    let shared = hands.look(&weights(0, 100)).await;
    hands.actuator.act(all, &weights(0, 100), &shared, &permit()).await.unwrap();
    assert_eq!(sorted(weights_now()), of(0, 100));
    let refusal = hands.actuator.undo(share, &weights(90, 10), &before.previous, &permit()).await.unwrap_err();
    assert!(matches!(&refusal, Setback::Refused(why) if why.contains(all)), "{refusal}");
    assert_eq!(sorted(weights_now()), of(0, 100), "a share is never taken back from under a failover");
}

#[tokio::test]
async fn throttling_is_tried_again_and_refusals_are_given_up_at_once() {
    let lab = Lab::up("aws,dns", &[]);
    let hands = hands_of(&lab, false);
    for code in ["Throttling", "PriorRequestNotComplete", "ServiceUnavailable"] {
        lab.tell_aws("faults", &json!([{"action": "ChangeResourceRecordSets", "status": 400, "code": code}]));
        let look = hands.look(&weights(0, 100)).await;
        let setback = hands.act(&weights(0, 100), &look).await.unwrap_err();
        assert!(matches!(setback, Setback::Transient(_)), "{code}: {setback}");
    }
    for code in ["AccessDenied", "NoSuchHostedZone", "InvalidInput", "InvalidClientTokenId"] {
        lab.tell_aws("faults", &json!([{"action": "ChangeResourceRecordSets", "status": 400, "code": code}]));
        let look = hands.look(&weights(0, 100)).await;
        let setback = hands.act(&weights(0, 100), &look).await.unwrap_err();
        assert!(matches!(&setback, Setback::Refused(why) if why.contains(code)), "{code}: {setback}");
    }
    // The SDK itself tried each only once.
    assert_eq!(changes(&lab), 7);
    lab.tell_aws(
        "faults",
        &json!([{"action": "ChangeResourceRecordSets", "status": 400, "code": "Throttling", "times": 3}]),
    );
    hands.perform(&weights(0, 100)).await.unwrap();
}

#[tokio::test]
async fn a_wrong_record_a_wrong_zone_and_weights_that_mean_everything_are_refused_before_anything_is_sent() {
    let lab = Lab::up("aws,dns", &[]);
    let refused = |hands: Hands, action: Action| async move {
        match hands.actuator.look(KEY, &action).await {
            Err(Setback::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    let no_record = Hands::new(&lab, &configuration(&lab, &traffic(&lab, "nothing.omnimesh.com")));
    assert!(refused(no_record, weights(0, 100)).await.contains("create the weighted records first"));
    let zone = traffic(&lab, "api.omnimesh.com").replace("Z1234567890", "Z0000000000");
    assert!(refused(Hands::new(&lab, &configuration(&lab, &zone)), weights(0, 100)).await.contains("NoSuchHostedZone"));
    assert!(refused(hands_of(&lab, false), weights(0, 0)).await.contains("all weights"));
    assert_eq!(changes(&lab), 0);
}

#[tokio::test]
async fn traffic_is_switched_by_objects_in_the_standby_region_without_route_53() {
    let lab = Lab::up("aws,s3,dns", &[]);
    let flip = |region: &str| {
        format!(
            "flip = {{ region = \"us-west-2\", bucket = \"omnimesh-prod-us-west-2\", key = \"health/{region}\" }}\n"
        )
    };
    let text = traffic(&lab, "api.omnimesh.com")
        .replace("route53-records", "data-plane-flip")
        .replace("[traffic.traffic.regions.us-west-2]", &format!("{}[traffic.traffic.regions.us-west-2]", flip(EAST)))
        + &flip(WEST);
    let hands = Hands::new(&lab, &configuration(&lab, &text));
    lab.tell_aws("faults", &json!([{"service": "route53", "drop": true}]));

    hands.perform(&weights(100, 0)).await.unwrap();
    let half = hands.actuator.look(KEY, &weights(90, 10)).await.unwrap_err();
    assert!(matches!(&half, Setback::Refused(why) if why.contains("cannot move a share")), "{half}");
    let look = hands.look(&weights(0, 100)).await;
    assert!(!look.satisfied && look.summary.contains("us-east-1 switched on"), "{}", look.summary);
    let seen = hands.perform(&weights(0, 100)).await.unwrap();
    assert!(seen.contains("us-east-1 switched off, us-west-2 switched on"), "{seen}");
    assert!(hands.look(&weights(0, 100)).await.satisfied);

    // A stale look changes nothing: the object that it would create is there.
    let setback = hands.act(&weights(0, 100), &look).await.unwrap_err();
    assert!(matches!(setback, Setback::Transient(_)), "{setback}");
    hands.undo(&weights(0, 100), &look.previous).await.unwrap();
    hands.undo(&weights(0, 100), &look.previous).await.unwrap();
    assert!(hands.look(&weights(100, 0)).await.satisfied);
    assert_eq!(changes(&lab), 0);
}
