//! What manifests brought into a cluster, and what of it is to go again.
//!
//! Only what is nobody else's is deleted. Where somebody else owns fields of an object, ours are given up, and the object
//! stays.

use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use serde_json::{Value as Json, json};

use super::FIELD_MANAGER;
use super::actuator::Hand;
use super::answer::No;
use super::manifests::{Known, Manifest};
use crate::ports::{Look, Setback};

/// What is ours of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Share {
    Nothing,
    Some,
    Everything,
}

pub(super) async fn look(hand: &Hand<'_>, namespace: &str, manifests: &[Manifest]) -> Result<Look, Setback> {
    let ours = ours(hand, namespace, manifests).await?.len();
    Ok(Look {
        satisfied: ours == 0,
        summary: format!("of {} objects {ours} are ours, at least in part", manifests.len()),
        previous: Json::Null,
    })
}

/// In reverse order: what was defined last may be of a kind that was defined first.
pub(super) async fn act(hand: &Hand<'_>, namespace: &str, manifests: &[Manifest]) -> Result<(), Setback> {
    for (manifest, api, live) in ours(hand, namespace, manifests).await?.into_iter().rev() {
        let gone = match share(&live) {
            Share::Nothing => continue,
            Share::Everything => {
                let parameters = DeleteParams::background();
                hand.change(api.delete(&manifest.name, &parameters)).await.map(|_| ())
            }
            Share::Some => {
                let given_up = json!({
                    "apiVersion": manifest.kind.api_version(),
                    "kind": manifest.kind.kind,
                    "metadata": { "name": manifest.name },
                });
                let parameters = PatchParams::apply(FIELD_MANAGER).force();
                hand.change(api.patch(&manifest.name, &parameters, &Patch::Apply(&given_up))).await.map(|_| ())
            }
        };
        match gone {
            Ok(()) | Err(No::Absent(_)) => {}
            Err(no) => return Err(super::manifests::named(manifest, no)),
        }
    }
    Ok(())
}

pub(super) async fn verify(hand: &Hand<'_>, namespace: &str, manifests: &[Manifest]) -> Result<String, Setback> {
    let left = ours(hand, namespace, manifests).await?;
    match left.first() {
        None => Ok(format!("none of {} objects is ours any more", manifests.len())),
        Some((manifest, ..)) => {
            Err(Setback::NotYet(format!("{} {} is still there", manifest.kind.kind, manifest.name)))
        }
    }
}

/// The objects that are there and of which something is ours.
async fn ours<'m>(
    hand: &Hand<'_>,
    namespace: &str,
    manifests: &'m [Manifest],
) -> Result<Vec<(&'m Manifest, Api<DynamicObject>, DynamicObject)>, Setback> {
    let mut known = Known::new();
    let mut ours = Vec::new();
    for manifest in manifests {
        let Some(api) = manifest.api(hand, namespace, &mut known, manifests).await? else { continue };
        if let Some(live) = hand.find(api.get(&manifest.name)).await?
            && share(&live) != Share::Nothing
        {
            ours.push((manifest, api, live));
        }
    }
    Ok(ours)
}

/// By the managed fields. What the cluster itself writes, it writes below `status`.
fn share(live: &DynamicObject) -> Share {
    let fields = live.metadata.managed_fields.iter().flatten();
    let (mut is_ours, mut is_theirs) = (false, false);
    for entry in fields.filter(|entry| entry.subresource.is_none()) {
        if entry.manager.as_deref() == Some(FIELD_MANAGER) {
            // What was given up leaves an entry without fields, or none.
            let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
            is_ours |= fields.and_then(Json::as_object).is_some_and(|fields| !fields.is_empty());
        } else {
            is_theirs = true;
        }
    }
    match (is_ours, is_theirs) {
        (false, _) => Share::Nothing,
        (true, true) => Share::Some,
        (true, false) => Share::Everything,
    }
}
