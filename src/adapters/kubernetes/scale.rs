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

/// How many replicas which workload is to have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Goal<'a> {
    pub(super) namespace: &'a str,
    pub(super) kind: WorkloadKind,
    pub(super) name: &'a str,
    pub(super) replicas: u32,
    /// No more than that; otherwise no fewer, and ready.
    pub(super) at_most: bool,
}

impl<'a> Goal<'a> {
    pub(super) fn of(namespace: &'a str, kind: WorkloadKind, name: &'a str, replicas: u32, at_most: bool) -> Self {
        Self { namespace, kind, name, replicas, at_most }
    }

    /// The number is right, whatever is ready.
    fn is_asked(&self, found: &Workload) -> bool {
        if self.at_most { found.wanted() <= self.replicas } else { found.wanted() >= self.replicas }
    }

    fn is_reached(&self, found: &Workload) -> bool {
        found.is_observed() && self.is_asked(found) && (self.at_most || found.ready() >= self.replicas)
    }

    async fn find(&self, hand: &Hand<'_>) -> Result<Workload, Setback> {
        get(hand, self.namespace, self.kind, self.name).await
    }
}

pub(super) async fn look(hand: &Hand<'_>, goal: Goal<'_>) -> Result<Look, Setback> {
    let found = goal.find(hand).await?;
    let (name, wanted, ready) = (goal.name, found.wanted(), found.ready());
    let needed = if goal.at_most { "at most" } else { "at least" };
    Ok(Look {
        satisfied: goal.is_reached(&found),
        summary: format!("{name} has {ready} of {wanted} replicas ready, {needed} {} are to be there", goal.replicas),
        previous: json!({ "replicas": wanted }),
    })
}

pub(super) async fn act(hand: &Hand<'_>, goal: Goal<'_>, seen: &Json) -> Result<(), Setback> {
    let found = goal.find(hand).await?;
    if goal.is_asked(&found) {
        return Ok(());
    }
    let seen = replicas_in(seen);
    if seen.is_some_and(|seen| seen != found.wanted()) {
        let (name, now) = (goal.name, found.wanted());
        return Err(Setback::Transient(format!("{name} was scaled to {now} meanwhile; it is looked at again")));
    }
    set(hand, goal, goal.replicas, found).await
}

pub(super) async fn verify(hand: &Hand<'_>, goal: Goal<'_>) -> Result<String, Setback> {
    let found = goal.find(hand).await?;
    let (name, replicas, ready) = (goal.name, goal.replicas, found.ready());
    if goal.is_reached(&found) && goal.at_most {
        return Ok(format!("{name} is scaled to {}", found.wanted()));
    }
    if goal.is_reached(&found) {
        return Ok(format!("{name}: {ready} of {replicas} ready"));
    }
    let mut seen = format!("{name}: {ready} of {replicas} ready");
    if !goal.is_asked(&found) {
        seen = format!("{seen}, and it is scaled to {}", found.wanted());
    }
    if let Some(trouble) = found.trouble() {
        seen = format!("{seen}; {trouble}");
    }
    Err(Setback::NotYet(seen))
}

pub(super) async fn undo(hand: &Hand<'_>, goal: Goal<'_>, previous: &Json) -> Result<String, Setback> {
    let name = goal.name;
    let Some(former) = replicas_in(previous) else {
        return Err(Setback::Refused(format!("it is not recorded how many replicas {name} had")));
    };
    let found = goal.find(hand).await?;
    let now = found.wanted();
    if now == former {
        return Ok(format!("{name} is at {former} replicas"));
    }
    if now != goal.replicas {
        return Ok(format!("{name} was scaled to {now} by somebody else and was left alone"));
    }
    set(hand, goal, former, found).await?;
    Ok(format!("{name} is back at {former} replicas"))
}

fn replicas_in(seen: &Json) -> Option<u32> {
    seen["replicas"].as_u64().and_then(|replicas| u32::try_from(replicas).ok())
}

/// Conditional on the version that `found` has. Every pod that gets ready changes that version without touching the
/// number, so a conflict is looked into: as long as the number is the one that was seen, it is tried once more.
async fn set(hand: &Hand<'_>, goal: Goal<'_>, replicas: u32, mut found: Workload) -> Result<(), Setback> {
    let Goal { namespace, kind, name, .. } = goal;
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
