//! The `dr-mode` ConfigMap: tells everybody in the cluster that disaster-recovery mode is on, and for which incident.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value as Json, json};

use super::FIELD_MANAGER;
use super::actuator::Hand;
use super::answer::No;
use crate::ports::{Look, Setback};

const NAME: &str = "dr-mode";

pub(super) async fn look(hand: &Hand<'_>, namespace: &str, incident: &str) -> Result<Look, Setback> {
    let found = read(hand, namespace).await?;
    let summary = match &found {
        None => format!("{NAME} does not exist in {}", hand.whom()),
        Some(map) => format!("{NAME} is {} for {}", entry(map, "status"), entry(map, "incident")),
    };
    Ok(Look {
        satisfied: found.as_ref().is_some_and(|map| declares(map, incident)),
        summary,
        previous: json!({ "resource_version": found.and_then(|map| map.metadata.resource_version) }),
    })
}

pub(super) async fn act(
    hand: &Hand<'_>,
    namespace: &str,
    incident: &str,
    key: &str,
    seen: &Json,
) -> Result<(), Setback> {
    let data = json!({ "status": "active", "timestamp": stamp(hand), "incident": incident, "step": key });
    apply(hand, namespace, data, seen["resource_version"].as_str()).await
}

pub(super) async fn verify(hand: &Hand<'_>, namespace: &str, incident: &str) -> Result<String, Setback> {
    match read(hand, namespace).await? {
        Some(map) if declares(&map, incident) => Ok(format!("{NAME} is active since {}", entry(&map, "timestamp"))),
        Some(map) => {
            let (status, other) = (entry(&map, "status"), entry(&map, "incident"));
            Err(Setback::NotYet(format!("{NAME} is {status} for {other}")))
        }
        None => Err(Setback::NotYet(format!("{NAME} does not exist"))),
    }
}

pub(super) async fn undo(hand: &Hand<'_>, namespace: &str, incident: &str) -> Result<String, Setback> {
    let Some(map) = read(hand, namespace).await? else {
        return Ok(format!("{NAME} does not exist, so nothing is declared"));
    };
    if !declares(&map, incident) {
        let (status, other) = (entry(&map, "status"), entry(&map, "incident"));
        return Ok(format!("{NAME} is {status} for {other} and was left alone"));
    }
    let data = json!({
        "status": "inactive",
        "timestamp": entry(&map, "timestamp"),
        "ended": stamp(hand),
        "incident": incident,
    });
    apply(hand, namespace, data, map.metadata.resource_version.as_deref()).await?;
    Ok(format!("{NAME} is inactive"))
}

/// Whether anything is declared, for whichever incident.
pub(super) async fn look_for_end(hand: &Hand<'_>, namespace: &str) -> Result<Look, Setback> {
    let found = read(hand, namespace).await?;
    let summary = match &found {
        None => format!("{NAME} does not exist in {}", hand.whom()),
        Some(map) => format!("{NAME} is {} for {}", entry(map, "status"), entry(map, "incident")),
    };
    Ok(Look {
        satisfied: found.as_ref().is_none_or(|map| entry(map, "status") != "active"),
        summary,
        previous: json!({ "resource_version": found.and_then(|map| map.metadata.resource_version) }),
    })
}

/// Everything is where it belongs.
pub(super) async fn end(hand: &Hand<'_>, namespace: &str, incident: &str, seen: &Json) -> Result<(), Setback> {
    let Some(map) = read(hand, namespace).await? else { return Ok(()) };
    let (began, now) = (entry(&map, "timestamp"), stamp(hand));
    let data = json!({ "status": "inactive", "timestamp": began, "ended": now, "incident": incident });
    apply(hand, namespace, data, seen["resource_version"].as_str()).await
}

pub(super) async fn verify_end(hand: &Hand<'_>, namespace: &str) -> Result<String, Setback> {
    let look = look_for_end(hand, namespace).await?;
    if look.satisfied { Ok(look.summary) } else { Err(Setback::NotYet(look.summary)) }
}

/// Conditional on the version that was seen. Conflicts with other owners of the fields are overridden: the runbook's
/// `kubectl create configmap` owns them as well, and says the same.
async fn apply(hand: &Hand<'_>, namespace: &str, data: Json, version: Option<&str>) -> Result<(), Setback> {
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": NAME },
        "data": data,
    });
    if let Some(version) = version {
        object["metadata"]["resourceVersion"] = json!(version);
    }
    let api: Api<ConfigMap> = Api::namespaced(hand.client(), namespace);
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    hand.change(api.patch(NAME, &parameters, &Patch::Apply(&object))).await.map_err(No::setback)?;
    Ok(())
}

async fn read(hand: &Hand<'_>, namespace: &str) -> Result<Option<ConfigMap>, Setback> {
    let api: Api<ConfigMap> = Api::namespaced(hand.client(), namespace);
    hand.find(api.get(NAME)).await
}

fn declares(map: &ConfigMap, incident: &str) -> bool {
    entry(map, "status") == "active" && entry(map, "incident") == incident
}

fn entry<'a>(map: &'a ConfigMap, key: &str) -> &'a str {
    map.data.as_ref().and_then(|data| data.get(key)).map_or("unknown", String::as_str)
}

/// The document's format: seconds, in UTC.
fn stamp(hand: &Hand<'_>) -> String {
    hand.wall().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
