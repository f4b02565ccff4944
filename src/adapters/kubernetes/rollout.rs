//! Restarting a workload's pods, once per step: warm pods keep the host that they connected to.

use serde_json::{Value as Json, json};

use super::FIELD_MANAGER;
use super::actuator::Hand;
use super::answer::No;
use super::scale::workload;
use super::workload::path;
use crate::domain::WorkloadKind;
use crate::ports::{Look, Setback};

/// Which step the pods were restarted for: one annotation a step, because two steps of a plan may restart the same
/// workload, and the second must not make the first look undone.
fn mark(key: &str) -> String {
    let hash = blake3::hash(key.as_bytes()).to_hex();
    format!("{MARK}{}", &hash.as_str()[..16])
}

/// What the marks begin with; the rest is a hash, because a name may not hold what a step's key may.
const MARK: &str = "failoverd/restarted-for-";
/// What `kubectl rollout restart` sets, so that `kubectl rollout history` tells the same story.
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";

pub(super) async fn look(
    hand: &Hand<'_>,
    namespace: &str,
    kind: WorkloadKind,
    name: &str,
    key: &str,
) -> Result<Look, Setback> {
    let found = workload(hand, namespace, kind, name).await?;
    let satisfied = found.template_annotation(&mark(key)) == Some(key);
    if !satisfied && let Some(why) = found.will_not_roll() {
        return Err(Setback::Refused(format!("a restart of {name} would not replace its pods: {why}")));
    }
    Ok(Look {
        satisfied,
        summary: if satisfied {
            format!("{name} was restarted for this step")
        } else {
            format!("{name} was not restarted for this step")
        },
        previous: Json::Null,
    })
}

/// Marked with the step, so that doing it twice restarts once.
pub(super) async fn act(
    hand: &Hand<'_>,
    namespace: &str,
    kind: WorkloadKind,
    name: &str,
    key: &str,
    _seen: &Json,
) -> Result<(), Setback> {
    let found = workload(hand, namespace, kind, name).await?;
    if found.template_annotation(&mark(key)) == Some(key) {
        return Ok(());
    }
    // Not conditional on the version: every pod that gets ready changes it, the patch touches two annotations only,
    // and doing it again for the same step changes at most a timestamp. The check above keeps that from happening.
    let mut annotations = serde_json::Map::new();
    // Marks of former plans have had their use.
    let plan = key.split('/').next().unwrap_or(key);
    for (name, of) in found.template_annotations() {
        if name.starts_with(MARK) && of.split('/').next() != Some(plan) {
            annotations.insert(name.clone(), Json::Null);
        }
    }
    annotations.insert(mark(key), json!(key));
    let now = hand.wall().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    annotations.insert(RESTARTED_AT.to_owned(), json!(now));
    let change = json!({ "spec": { "template": { "metadata": { "annotations": annotations } } } });
    let request = http::Request::patch(format!("{}?fieldManager={FIELD_MANAGER}", path(kind, namespace, name)))
        .header(http::header::CONTENT_TYPE, "application/merge-patch+json")
        .body(change.to_string().into_bytes())
        .map_err(|error| Setback::Refused(error.to_string()))?;
    hand.change(hand.client().request::<Json>(request)).await.map_err(No::setback)?;
    Ok(())
}

pub(super) async fn verify(
    hand: &Hand<'_>,
    namespace: &str,
    kind: WorkloadKind,
    name: &str,
    key: &str,
) -> Result<String, Setback> {
    let found = workload(hand, namespace, kind, name).await?;
    if found.template_annotation(&mark(key)) != Some(key) {
        return Err(Setback::NotYet(format!("{name} was not restarted for this step")));
    }
    let (wanted, status) = (found.wanted(), &found.status);
    if found.is_rolled_out(kind) {
        return Ok(format!("{name}: all {wanted} pods are new and ready"));
    }
    let mut seen = format!(
        "{name}: {} of {wanted} pods are new, {} are ready, {} exist",
        status.updated_replicas, status.ready_replicas, status.replicas
    );
    if let Some(trouble) = found.trouble() {
        seen = format!("{seen}; {trouble}");
    }
    Err(Setback::NotYet(seen))
}
