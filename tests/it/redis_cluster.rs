//! A Redis cluster that loses the majority of its primaries, and replicas that take over.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use failoverd::domain::{Finding, Layer, Serving};
use failoverd::plan::Action;
use failoverd::ports::Actuator as _;

use crate::data_plane::{EAST, WEST, eventually, failing_layer, nothing_seen, observed, permit, verified};
use crate::lab::Lab;
use crate::redis::{at, ports, redis, told};

const KEY: &str = "plan/cache";

/// Three primaries, and two replicas for each, in the order in which the lab made them.
fn nodes(lab: &Lab) -> Vec<u16> {
    let nodes = lab.json.pointer("/regions/us-east-1/redis/nodes").unwrap().as_array().unwrap();
    nodes.iter().map(|node| node.as_str().unwrap().rsplit_once(':').unwrap().1.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_cluster_that_lost_most_of_its_primaries_is_failing_and_is_taken_over() {
    let lab = Lab::up("redis", &["--redis", "cluster"]);
    let nodes = nodes(&lab);
    // East is a primary that stays, west one of the replicas.
    let redis = redis(&lab, [nodes[2], nodes[8]], "", "cluster");
    let probe = |region| redis.probe(at(region), Duration::from_secs(1), None);
    let healthy = observed(&probe(EAST)).await;
    assert_eq!((&healthy.finding, healthy.evidence.serving), (&Finding::Alive, Some(Serving::Writable)), "{healthy:?}");
    let inside = observed(&probe(WEST)).await;
    assert_eq!((&inside.finding, inside.evidence.serving), (&Finding::Alive, None), "a replica of a healthy cluster");
    let take_over = Action::CacheActive { cache: at(WEST), from: at(EAST) };
    assert!(redis.look(KEY, &take_over).await.unwrap().satisfied);
    verified(&redis, &take_over).await;

    told(nodes[0], &["CONFIG", "SET", "cluster-require-full-coverage", "yes"]).await.unwrap();
    // At once: two that are left would elect a replica of the first.
    lab.tell("kill", &["redis@us-east-1", "redis-1@us-east-1"]);
    let down = eventually("the cluster knows that it is down", async || {
        let seen = observed(&probe(EAST)).await;
        (failing_layer(&seen) == Some(Layer::Query)).then_some(seen)
    })
    .await;
    assert!(format!("{down:?}").contains("CLUSTERDOWN"), "{down:?}");
    eventually("a replica can take over", async || {
        let seen = observed(&probe(WEST)).await;
        assert_eq!(seen.finding, Finding::Alive, "{seen:?}");
        (seen.evidence.serving == Some(Serving::Replica)).then_some(())
    })
    .await;
    let look = redis.look(KEY, &take_over).await.unwrap();
    assert!(!look.satisfied && look.summary.contains("of 16384 slots"), "{look:?}");

    eventually("every shard is taken over", async || {
        redis.act(KEY, &take_over, &nothing_seen(), &permit()).await.unwrap();
        redis.verify(KEY, &take_over).await.ok()
    })
    .await;
    assert_eq!(observed(&probe(EAST)).await.finding, Finding::Alive);
    let known = told(nodes[2], &["CLUSTER", "NODES"]).await.unwrap();
    let known: String = redis::from_redis_value(known).unwrap();
    // A line that ends in a range of slots.
    let serving = known.lines().filter(|line| line.rsplit(' ').next().unwrap().contains('-')).count();
    assert_eq!(serving, 3, "one replica of each lost shard, and no more:\n{known}");
    redis.act(KEY, &take_over, &nothing_seen(), &permit()).await.unwrap();
    assert!(redis.look(KEY, &take_over).await.unwrap().satisfied, "and again changes nothing");
}

#[tokio::test]
async fn a_single_server_configured_as_a_cluster_is_our_own_mistake() {
    let lab = Lab::up("redis", &[]);
    let redis = redis(&lab, ports(&lab), "", "cluster");
    let seen = observed(&redis.probe(at(EAST), Duration::from_secs(1), None)).await;
    assert!(matches!(&seen.finding, Finding::Unknown { why } if why.contains("cluster mode")), "{seen:?}");
}
