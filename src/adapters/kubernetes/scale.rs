//! Replicas of a workload.
//!
//! The goal is *at least* this many: an autoscaler or a person that has gone higher during a disaster is not scaled
//! down by us. What was is brought back only by undoing, and only if nobody else has scaled in between.

use kube::client::Client;
use serde_json::{Value as Json, json};

use super::FIELD_MANAGER;
use super::actuator::Hand;
use super::answer::No;
use super::workload::{self, Workload, kind_name};
use crate::domain::WorkloadKind;
use crate::ports::{Look, Setback};

pub(super) async fn look(
    hand: &Hand<'_>,
    namespace: &str,
    kind: WorkloadKind,
    name: &str,
    replicas: u32,
) -> Result<Look, Setback> {
    let found = get(hand, namespace, kind, name).await?;
    let (wanted, ready) = (found.wanted(), found.ready());
    Ok(Look {
        satisfied: is_reached(&found, replicas),
        summary: format!("{name} has {ready} of {wanted} replicas ready, {replicas} are needed"),
        previous: json!({ "replicas": wanted }),
    })
}

pub(super) async fn act(
    hand: &Hand<'_>,
    namespace: &str,
    kind: WorkloadKind,
    name: &str,
    replicas: u32,
    seen: &Json,
) -> Result<(), Setback> {
    let found = get(hand, namespace, kind, name).await?;
    if found.wanted() >= replicas {
        return Ok(());
    }
    let seen = replicas_in(seen);
    if seen.is_some_and(|seen| seen != found.wanted()) {
        let now = found.wanted();
        return Err(Setback::Transient(format!("{name} was scaled to {now} meanwhile; it is looked at again")));
    }
    set(hand, namespace, kind, name, replicas, found).await
}

pub(super) async fn verify(
    hand: &Hand<'_>,
    namespace: &str,
    kind: WorkloadKind,
    name: &str,
    replicas: u32,
) -> Result<String, Setback> {
    let found = get(hand, namespace, kind, name).await?;
    let ready = found.ready();
    if is_reached(&found, replicas) {
        return Ok(format!("{name}: {ready} of {replicas} ready"));
    }
    let mut seen = format!("{name}: {ready} of {replicas} ready");
    if found.wanted() < replicas {
        seen = format!("{seen}, and it is scaled to {}", found.wanted());
    }
    if let Some(trouble) = found.trouble() {
        seen = format!("{seen}; {trouble}");
    }
    Err(Setback::NotYet(seen))
}

pub(super) async fn undo(
    hand: &Hand<'_>,
    namespace: &str,
    kind: WorkloadKind,
    name: &str,
    replicas: u32,
    previous: &Json,
) -> Result<String, Setback> {
    let Some(former) = replicas_in(previous) else {
        return Err(Setback::Refused(format!("it is not recorded how many replicas {name} had")));
    };
    let found = get(hand, namespace, kind, name).await?;
    let now = found.wanted();
    if now == former {
        return Ok(format!("{name} is at {former} replicas"));
    }
    if now != replicas {
        return Ok(format!("{name} was scaled to {now} by somebody else and was left alone"));
    }
    set(hand, namespace, kind, name, former, found).await?;
    Ok(format!("{name} is back at {former} replicas"))
}

fn is_reached(found: &Workload, replicas: u32) -> bool {
    found.is_observed() && found.wanted() >= replicas && found.ready() >= replicas
}

fn replicas_in(seen: &Json) -> Option<u32> {
    seen["replicas"].as_u64().and_then(|replicas| u32::try_from(replicas).ok())
}

/// Conditional on the version that `found` has. Every pod that gets ready changes that version without touching the
/// number, so a conflict is looked into: as long as the number is the one that was seen, it is tried once more.
async fn set(
    hand: &Hand<'_>,
    namespace: &str,
    kind: WorkloadKind,
    name: &str,
    replicas: u32,
    mut found: Workload,
) -> Result<(), Setback> {
    let seen = found.wanted();
    for _ in 0..CONFLICTS_MAX {
        let version = &found.metadata.resource_version;
        match hand.change(patch(&hand.client(), namespace, kind, name, replicas, version)).await {
            Ok(_scale) => return Ok(()),
            Err(No::Changed(said)) => {
                found = get(hand, namespace, kind, name).await?;
                if found.wanted() != seen {
                    return Err(No::Changed(said).setback());
                }
            }
            Err(
                no @ (No::Refused(_)
                | No::Absent(_)
                | No::Throttled(_)
                | No::Invalid(_)
                | No::Ailing(_)
                | No::Broken(_)
                | No::Unclear(_)),
            ) => return Err(no.setback()),
        }
    }
    Err(Setback::Transient(format!("{name} changes faster than it can be scaled")))
}

/// Attempts within one call; the executor tries again.
const CONFLICTS_MAX: usize = 5;

async fn patch(
    client: &Client,
    namespace: &str,
    kind: WorkloadKind,
    name: &str,
    replicas: u32,
    version: &str,
) -> Result<Json, kube::Error> {
    let change = json!({ "metadata": { "resourceVersion": version }, "spec": { "replicas": replicas } });
    let path = workload::path(kind, namespace, name);
    let request = http::Request::patch(format!("{path}/scale?fieldManager={FIELD_MANAGER}"))
        .header(http::header::CONTENT_TYPE, "application/merge-patch+json")
        .body(change.to_string().into_bytes())
        .map_err(kube::Error::HttpError)?;
    client.request(request).await
}

async fn get(hand: &Hand<'_>, namespace: &str, kind: WorkloadKind, name: &str) -> Result<Workload, Setback> {
    let request = http::Request::get(workload::path(kind, namespace, name))
        .body(Vec::new())
        .map_err(|error| Setback::Refused(format!("`{name}` cannot be asked for: {error}")))?;
    let found = hand.find(hand.client().request(request)).await?;
    found.ok_or_else(|| {
        let kind = kind_name(kind);
        Setback::Refused(format!("{kind} {name} does not exist in namespace {namespace} of {}", hand.whom()))
    })
}

/// The workload, for its neighbours in this folder.
pub(super) async fn workload(
    hand: &Hand<'_>,
    namespace: &str,
    kind: WorkloadKind,
    name: &str,
) -> Result<Workload, Setback> {
    get(hand, namespace, kind, name).await
}
