//! The zones of a cluster, as its nodes tell: evidence that takes a right of its own (`list nodes`, which only a
//! ClusterRole can give). Without it there is no evidence, and nothing fails.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::answer::No;
use super::session::{Session, answered};
use crate::domain::{Evidence, Layer, ZoneSeen};

/// Nodes are asked for this often: a list of them is large, and Kubernetes itself takes 40 s to give a node up.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// What was seen last is believed for this long while a new look fails.
const BELIEVED: Duration = Duration::from_secs(45);
/// A cluster with more nodes than this is not judged by zone: half a list would make a zone look dark.
const NODES_MAX: usize = 500;
/// The label, and what it was called up to Kubernetes 1.16.
const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"];

/// What was seen of the zones last.
#[derive(Debug, Default)]
pub(super) struct Zones(Mutex<Option<(Instant, Vec<ZoneSeen>)>>);

impl Zones {
    /// Adds the zones to the evidence, from a look of a moment ago where there is one.
    pub(super) async fn tell(&self, session: &Session, until: Instant, timeout: Duration, evidence: &mut Evidence) {
        let mut known = self.0.lock().await;
        if known.as_ref().is_none_or(|(at, _)| at.elapsed() >= LOOK_EVERY) {
            match look(session, until, timeout).await {
                Ok(zones) => *known = Some((Instant::now(), zones)),
                Err(why) => {
                    evidence.details.push(format!("zones=unknown: {why}"));
                    if known.as_ref().is_some_and(|(at, _)| at.elapsed() >= BELIEVED) {
                        *known = None;
                    }
                }
            }
        }
        if let Some((_, zones)) = &*known {
            for ZoneSeen { name, ready, nodes } in zones {
                evidence.details.push(format!("zone.{name}={ready}/{nodes}"));
            }
            evidence.zones.clone_from(zones);
        }
    }
}

async fn look(session: &Session, until: Instant, timeout: Duration) -> Result<Vec<ZoneSeen>, String> {
    let request = http::Request::get(format!("/api/v1/nodes?limit={NODES_MAX}"))
        .body(Vec::new())
        .map_err(|error| error.to_string())?;
    let answer = answered(until, Layer::Query, timeout, session.client.request::<Nodes>(request)).await;
    let nodes = match answer {
        Ok(Ok(nodes)) => nodes,
        Ok(Err(error)) => {
            return Err(match No::of(&error, Layer::Query) {
                No::Refused(_) => "listing nodes is not allowed".to_owned(),
                No::Absent(why)
                | No::Changed(why)
                | No::Throttled(why)
                | No::Invalid(why)
                | No::Ailing(why)
                | No::Unclear(why) => why,
                No::Broken(_) => "the list of nodes did not come".to_owned(),
            });
        }
        Err(_) => return Err("the list of nodes did not come".to_owned()),
    };
    if nodes.metadata.remaining.is_some_and(|more| more > 0) || !nodes.metadata.next.is_empty() {
        return Err(format!("there are more than {NODES_MAX} nodes"));
    }
    Ok(count(&nodes))
}

fn count(nodes: &Nodes) -> Vec<ZoneSeen> {
    let mut zones: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for node in &nodes.items {
        let Some(zone) = LABELS.iter().find_map(|label| node.metadata.labels.get(*label)) else { continue };
        let is_ready = node.status.conditions.iter().any(|is| is.kind == "Ready" && is.status == "True");
        let (ready, all) = zones.entry(zone).or_default();
        *ready += u32::from(is_ready);
        *all += 1;
    }
    zones.into_iter().map(|(name, (ready, nodes))| ZoneSeen { name: name.to_owned(), ready, nodes }).collect()
}

/// What is read of a list of nodes. An absent field is absent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Nodes {
    metadata: ListMetadata,
    items: Vec<Node>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ListMetadata {
    #[serde(rename = "continue")]
    next: String,
    #[serde(rename = "remainingItemCount")]
    remaining: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Node {
    metadata: Metadata,
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    conditions: Vec<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_are_counted_by_zone_and_not_knowing_is_not_ready() {
        let node = |zone: &str, ready: &str| {
            json!({ "metadata": { "labels": { LABELS[0]: zone } },
                    "status": { "conditions": [{ "type": "Ready", "status": ready }] } })
        };
        let nodes = json!({ "items": [
            node("a", "True"), node("a", "False"), node("b", "Unknown"), { "metadata": {} },
            { "metadata": { "labels": { LABELS[1]: "c" } } },
        ] });
        let nodes: Nodes = serde_json::from_value(nodes).unwrap();
        let seen = |name: &str, ready, nodes| ZoneSeen { name: name.to_owned(), ready, nodes };
        assert_eq!(count(&nodes), [seen("a", 1, 2), seen("b", 0, 1), seen("c", 0, 1)]);
    }
}
