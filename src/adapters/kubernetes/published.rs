//! One key of a Secret or a ConfigMap.
//!
//! The former value stays inside the object, under `failoverd.previous.<key>`, written by the same patch that replaces
//! it. It never enters the ledger: what undoing needs of a Secret is as secret as the Secret, and there it is under
//! the same access control and the same encryption at rest, readable only by who could read the value before. An
//! annotation would be shown by `kubectl describe`; a second object would need rights of its own and a second call
//! that a crash can come between.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams};
use serde_json::{Value as Json, json};

use super::FIELD_MANAGER;
use super::actuator::Hand;
use super::answer::No;
use crate::domain::ObjectKind;
use crate::ports::{Look, Setback};

/// Which key of which object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Goal<'a> {
    pub(super) namespace: &'a str,
    pub(super) object: ObjectKind,
    pub(super) name: &'a str,
    pub(super) entry: &'a str,
}

/// An object of either kind, read.
struct Held {
    metadata: ObjectMeta,
    data: BTreeMap<String, Vec<u8>>,
}

pub(super) async fn look(hand: &Hand<'_>, goal: Goal<'_>, value: &str) -> Result<Look, Setback> {
    let held = goal.read(hand).await?;
    let satisfied = held.holds(goal.entry, value);
    let there = match (goal.object, held.data.get(goal.entry)) {
        (_, None) => "is not set".to_owned(),
        (_, Some(_)) if satisfied => "holds the value".to_owned(),
        (ObjectKind::Secret, Some(_)) => "holds another value".to_owned(),
        (ObjectKind::ConfigMap, Some(other)) => {
            format!("is `{}`", crate::adapters::connect::one_line(&String::from_utf8_lossy(other), 100))
        }
    };
    Ok(Look {
        satisfied,
        summary: format!("{goal} {there}"),
        previous: json!({ "resource_version": held.metadata.resource_version, "kept_in": goal.kept() }),
    })
}

pub(super) async fn act(hand: &Hand<'_>, goal: Goal<'_>, value: &str, key: &str, seen: &Json) -> Result<(), Setback> {
    let held = goal.read(hand).await?;
    if held.holds(goal.entry, value) {
        return Ok(());
    }
    if let Some(seen) = seen["resource_version"].as_str()
        && Some(seen) != held.metadata.resource_version.as_deref()
    {
        return Err(Setback::Transient(format!("{goal} was changed meanwhile; it is looked at again")));
    }
    let mut changes = BTreeMap::from([(goal.entry.to_owned(), Some(value.as_bytes().to_vec()))]);
    // A second attempt of the same step must not take its own first value for the former one.
    if held.mark(goal) != Some(key) {
        changes.insert(goal.kept(), held.data.get(goal.entry).cloned());
    }
    goal.patch(hand, &changes, Some(key), &held).await
}

pub(super) async fn verify(hand: &Hand<'_>, goal: Goal<'_>, value: &str) -> Result<String, Setback> {
    match goal.read(hand).await?.holds(goal.entry, value) {
        true => Ok(format!("{goal} holds the value")),
        false => Err(Setback::NotYet(format!("{goal} does not hold the value"))),
    }
}

pub(super) async fn undo(hand: &Hand<'_>, goal: Goal<'_>, key: &str) -> Result<String, Setback> {
    let held = goal.read(hand).await?;
    if held.mark(goal) != Some(key) {
        return Ok(format!("{goal} was not changed by this step and was left alone"));
    }
    let former = held.data.get(&goal.kept()).cloned();
    let changes = BTreeMap::from([(goal.entry.to_owned(), former), (goal.kept(), None)]);
    goal.patch(hand, &changes, None, &held).await?;
    Ok(format!("{goal} holds its former value"))
}

/// Whether what a plan replaced has still to be given back.
pub(super) async fn look_for_former(hand: &Hand<'_>, goal: Goal<'_>, set: &str) -> Result<Look, Setback> {
    let held = goal.read(hand).await?;
    let is_kept = held.is_replaced(goal, set);
    Ok(Look {
        satisfied: !is_kept,
        summary: format!("{goal} {}", if is_kept { "was replaced by a plan" } else { "is nobody's to give back" }),
        previous: json!({ "resource_version": held.metadata.resource_version }),
    })
}

/// Gives the former value back, or removes the key where there was none.
pub(super) async fn restore(hand: &Hand<'_>, goal: Goal<'_>, set: &str) -> Result<(), Setback> {
    let held = goal.read(hand).await?;
    if !held.is_replaced(goal, set) {
        return Ok(());
    }
    let former = held.data.get(&goal.kept()).cloned();
    let changes = BTreeMap::from([(goal.entry.to_owned(), former), (goal.kept(), None)]);
    goal.patch(hand, &changes, None, &held).await
}

pub(super) async fn verify_restored(hand: &Hand<'_>, goal: Goal<'_>, set: &str) -> Result<String, Setback> {
    match goal.read(hand).await?.is_replaced(goal, set) {
        true => Err(Setback::NotYet(format!("{goal} does not hold its former value"))),
        false => Ok(format!("{goal} holds what it held before the failover")),
    }
}

impl Held {
    /// A plan set it so, no undo has given the former value back, and nobody has set it otherwise since.
    fn is_replaced(&self, goal: Goal<'_>, set: &str) -> bool {
        self.mark(goal).is_some() && self.holds(goal.entry, set)
    }

    fn holds(&self, entry: &str, value: &str) -> bool {
        self.data.get(entry).is_some_and(|held| held == value.as_bytes())
    }

    /// The step that changed the key last.
    fn mark(&self, goal: Goal<'_>) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(&goal.mark()).map(String::as_str)
    }
}

impl Goal<'_> {
    /// Where the former value is kept.
    fn kept(&self) -> String {
        format!("failoverd.previous.{}", self.entry)
    }

    /// The annotation that names the step. What follows the slash has at most 63 characters.
    fn mark(&self) -> String {
        let hash = blake3::hash(self.entry.as_bytes()).to_hex();
        format!("failoverd/step-{}", &hash[..16])
    }

    async fn read(&self, hand: &Hand<'_>) -> Result<Held, Setback> {
        let held = match self.object {
            ObjectKind::Secret => {
                let api: Api<Secret> = Api::namespaced(hand.client(), self.namespace);
                hand.find(api.get(self.name)).await?.map(|secret| Held {
                    metadata: secret.metadata,
                    data: secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect(),
                })
            }
            ObjectKind::ConfigMap => {
                let api: Api<ConfigMap> = Api::namespaced(hand.client(), self.namespace);
                hand.find(api.get(self.name)).await?.map(|map| Held {
                    metadata: map.metadata,
                    data: map.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into())).collect(),
                })
            }
        };
        held.ok_or_else(|| {
            let kind = self.object.words();
            let (name, namespace, whom) = (self.name, self.namespace, hand.whom());
            Setback::Refused(format!("{kind} {name} does not exist in namespace {namespace} of {whom}; create it"))
        })
    }

    /// Only these keys, on the version that was read. None removes a key.
    async fn patch(
        &self,
        hand: &Hand<'_>,
        changes: &BTreeMap<String, Option<Vec<u8>>>,
        mark: Option<&str>,
        held: &Held,
    ) -> Result<(), Setback> {
        let mut object = json!({
            "metadata": { "resourceVersion": held.metadata.resource_version, "annotations": { self.mark(): mark } },
        });
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        match self.object {
            ObjectKind::Secret => {
                let data: BTreeMap<_, _> =
                    changes.iter().map(|(key, value)| (key, value.clone().map(ByteString))).collect();
                object["data"] = json!(data);
                let api: Api<Secret> = Api::namespaced(hand.client(), self.namespace);
                let patch = Patch::Merge(&object);
                hand.change(api.patch(self.name, &parameters, &patch)).await.map_err(No::setback)?;
            }
            ObjectKind::ConfigMap => {
                let text = |value: &Vec<u8>| String::from_utf8_lossy(value).into_owned();
                let data: BTreeMap<_, _> = changes.iter().map(|(key, value)| (key, value.as_ref().map(text))).collect();
                object["data"] = json!(data);
                let api: Api<ConfigMap> = Api::namespaced(hand.client(), self.namespace);
                let patch = Patch::Merge(&object);
                hand.change(api.patch(self.name, &parameters, &patch)).await.map_err(No::setback)?;
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Goal<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.object.words(), self.name, self.entry)
    }
}
