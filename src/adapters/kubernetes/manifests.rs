//! Manifests, applied server-side: any kind that the cluster knows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiCapabilities, Scope, pinned_kind};
use kube::error::DiscoveryError;
use kube::{Api, Error};
use serde_json::{Value as Json, json};

use super::FIELD_MANAGER;
use super::actuator::Hand;
use super::answer::No;
use crate::ports::{Look, Setback};

/// All manifests together; more than this is not what belongs into a failover.
const BYTES_MAX: u64 = 4 * 1024 * 1024;
const OBJECTS_MAX: usize = 500;

/// One object of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Manifest {
    pub(super) kind: GroupVersionKind,
    namespace: Option<String>,
    pub(super) name: String,
    object: Json,
}

/// Kinds as discovered, each asked for once per call.
pub(super) type Known = BTreeMap<String, (ApiResource, ApiCapabilities)>;

/// The objects in a file, or in the files of a folder in the order of their names. Namespaces and kinds come first.
pub(super) async fn read(path: &str) -> Result<Vec<Manifest>, Setback> {
    let shown = path.to_owned();
    let path = PathBuf::from(path);
    tokio::task::spawn_blocking(move || files(&path).and_then(|files| parse(&files)))
        .await
        .unwrap_or_else(|error| Err(error.to_string()))
        .map_err(|why| Setback::Refused(format!("{shown}: {why}")))
}

pub(super) async fn look(hand: &Hand<'_>, namespace: &str, manifests: &[Manifest]) -> Result<Look, Setback> {
    let mut known = Known::new();
    let (mut missing, mut different) = (0_usize, 0_usize);
    for manifest in manifests {
        match manifest.live(hand, namespace, &mut known, manifests).await? {
            None => missing += 1,
            Some(live) if !covers(&live, &manifest.object) => different += 1,
            Some(_) => {}
        }
    }
    let all = manifests.len();
    Ok(Look {
        satisfied: missing + different == 0,
        summary: format!("of {all} objects {missing} are missing and {different} are different"),
        previous: Json::Null,
    })
}

/// Takes over fields that others own, as `kubectl apply` in the runbook does: in a disaster the manifest is right.
pub(super) async fn act(hand: &Hand<'_>, namespace: &str, manifests: &[Manifest]) -> Result<(), Setback> {
    let mut known = Known::new();
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    for manifest in manifests {
        let Some(api) = manifest.api(hand, namespace, &mut known, manifests).await? else {
            let kind = &manifest.kind.kind;
            return Err(Setback::Transient(format!("{kind} was just defined and is not served yet")));
        };
        hand.change(api.patch(&manifest.name, &parameters, &Patch::Apply(&manifest.object)))
            .await
            .map_err(|no| named(manifest, no))?;
    }
    Ok(())
}

pub(super) async fn verify(hand: &Hand<'_>, namespace: &str, manifests: &[Manifest]) -> Result<String, Setback> {
    let mut known = Known::new();
    for manifest in manifests {
        if manifest.live(hand, namespace, &mut known, manifests).await?.is_none() {
            return Err(Setback::NotYet(format!("{} {} does not exist", manifest.kind.kind, manifest.name)));
        }
    }
    Ok(format!("{} objects are present", manifests.len()))
}

pub(super) fn named(manifest: &Manifest, no: No) -> Setback {
    let what = format!("{} {}", manifest.kind.kind, manifest.name);
    match no.setback() {
        Setback::Transient(why) => Setback::Transient(format!("{what}: {why}")),
        Setback::Refused(why) => Setback::Refused(format!("{what}: {why}")),
        Setback::NotYet(why) => Setback::NotYet(format!("{what}: {why}")),
    }
}

impl Manifest {
    fn new(object: Json) -> Result<Self, String> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Json::as_str).map(str::to_owned);
        let kind = text("/kind").ok_or("an object has no kind")?;
        let version = text("/apiVersion").ok_or_else(|| format!("a {kind} has no apiVersion"))?;
        let name = text("/metadata/name").ok_or_else(|| format!("a {kind} has no metadata.name"))?;
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        let kind = GroupVersionKind::gvk(group, version, &kind);
        Ok(Self { kind, namespace: text("/metadata/namespace"), name, object })
    }

    /// None where the kind is defined by a manifest of the same set and not served yet.
    pub(super) async fn api(
        &self,
        hand: &Hand<'_>,
        namespace: &str,
        known: &mut Known,
        all: &[Self],
    ) -> Result<Option<Api<DynamicObject>>, Setback> {
        let id = format!("{}/{}", self.kind.api_version(), self.kind.kind);
        if !known.contains_key(&id) {
            let (client, kind) = (hand.client(), self.kind.clone());
            // A kind that is not there is an answer, and only some of its forms are an answer of the API.
            let lookup = async move {
                match pinned_kind(&client, &kind).await {
                    Ok(found) => Ok(Some(found)),
                    Err(Error::Discovery(
                        DiscoveryError::MissingKind(_)
                        | DiscoveryError::MissingApiGroup(_)
                        | DiscoveryError::MissingResource(_)
                        | DiscoveryError::EmptyApiGroup(_),
                    )) => Ok(None),
                    Err(other) => Err(other),
                }
            };
            match hand.find(lookup).await?.flatten() {
                Some(found) => {
                    known.insert(id.clone(), found);
                }
                None if all.iter().any(|other| other.defines(&self.kind)) => return Ok(None),
                None => {
                    return Err(Setback::Refused(format!(
                        "{} does not know {} of {}; install its definition there or take it out of the manifests",
                        hand.whom(),
                        self.kind.kind,
                        self.kind.api_version()
                    )));
                }
            }
        }
        let Some((resource, capabilities)) = known.get(&id) else { return Ok(None) };
        Ok(Some(match capabilities.scope {
            Scope::Cluster => Api::all_with(hand.client(), resource),
            Scope::Namespaced => {
                Api::namespaced_with(hand.client(), self.namespace.as_deref().unwrap_or(namespace), resource)
            }
        }))
    }

    async fn live(
        &self,
        hand: &Hand<'_>,
        namespace: &str,
        known: &mut Known,
        all: &[Self],
    ) -> Result<Option<Json>, Setback> {
        let Some(api) = self.api(hand, namespace, known, all).await? else { return Ok(None) };
        let live = hand.find(api.get(&self.name)).await?;
        Ok(live.map(|live| json!(live)))
    }

    /// It is the definition of `kind`.
    fn defines(&self, kind: &GroupVersionKind) -> bool {
        let text = |pointer: &str| self.object.pointer(pointer).and_then(Json::as_str);
        self.kind.kind == "CustomResourceDefinition"
            && text("/spec/group") == Some(&kind.group)
            && text("/spec/names/kind") == Some(&kind.kind)
    }
}

/// Everything that the manifest says is there; what the cluster added does not matter. A value that the cluster
/// writes differently (`1` for `1000m`) counts as different, which only means that it is applied again.
fn covers(live: &Json, manifest: &Json) -> bool {
    match (live, manifest) {
        (Json::Object(live), Json::Object(manifest)) => {
            manifest.iter().all(|(key, value)| live.get(key).is_some_and(|live| covers(live, value)))
        }
        (Json::Array(live), Json::Array(manifest)) => {
            live.len() == manifest.len() && live.iter().zip(manifest).all(|(live, value)| covers(live, value))
        }
        (live, manifest) => live == manifest,
    }
}

fn files(path: &Path) -> Result<Vec<(PathBuf, String)>, String> {
    let problem = |path: &Path, error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mut paths = Vec::new();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).map_err(|error| problem(path, error))? {
            let entry = entry.map_err(|error| problem(path, error))?.path();
            let extension = entry.extension().and_then(|extension| extension.to_str());
            if entry.is_file() && matches!(extension, Some("yaml" | "yml" | "json")) {
                paths.push(entry);
            }
        }
        paths.sort();
    } else {
        paths.push(path.to_owned());
    }
    let mut size = 0;
    let mut found = Vec::new();
    for path in paths {
        size += std::fs::metadata(&path).map_err(|error| problem(&path, error))?.len();
        if size > BYTES_MAX {
            return Err(format!("more than {} MiB of manifests", BYTES_MAX / 1024 / 1024));
        }
        let text = std::fs::read_to_string(&path).map_err(|error| problem(&path, error))?;
        found.push((path, text));
    }
    Ok(found)
}

#[allow(clippy::wildcard_enum_match_arm)] // JSON has no further kinds of values
fn parse(files: &[(PathBuf, String)]) -> Result<Vec<Manifest>, String> {
    let mut found = Vec::new();
    for (path, text) in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let documents: Vec<Json> =
            serde_saphyr::from_multiple(text).map_err(|error| format!("{name} is not YAML: {error}"))?;
        for document in documents {
            let objects = match document {
                Json::Null => Vec::new(),
                Json::Object(mut list) if list.get("kind").and_then(Json::as_str) == Some("List") => {
                    match list.remove("items") {
                        Some(Json::Array(items)) => items,
                        Some(_) | None => Vec::new(),
                    }
                }
                object => vec![object],
            };
            for object in objects {
                found.push(Manifest::new(object).map_err(|why| format!("{name}: {why}"))?);
            }
        }
    }
    match found.len() {
        0 => return Err("no object in it".to_owned()),
        OBJECTS_MAX.. => return Err(format!("more than {OBJECTS_MAX} objects")),
        1..OBJECTS_MAX => {}
    }
    // What others need first; the sort keeps the order of the rest.
    found.sort_by_key(|manifest| match manifest.kind.kind.as_str() {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        _ => 2,
    });
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<String>, String> {
        let manifests = parse(&[(PathBuf::from("m.yaml"), text.to_owned())])?;
        Ok(manifests.iter().map(|m| format!("{} {} {}", m.kind.api_version(), m.kind.kind, m.name)).collect())
    }

    #[test]
    fn several_documents_and_lists_are_objects_in_order_with_namespaces_first() {
        let text = "
apiVersion: apps/v1
kind: Deployment
metadata: { name: core, namespace: a }
---
# only a comment
---
apiVersion: v1
kind: List
items:
- { apiVersion: v1, kind: ConfigMap, metadata: { name: one } }
- { apiVersion: v1, kind: Namespace, metadata: { name: a } }
";
        let expected = ["v1 Namespace a", "apps/v1 Deployment core", "v1 ConfigMap one"];
        assert_eq!(parsed(text), Ok(expected.map(str::to_owned).to_vec()));
    }

    #[test]
    fn what_is_no_manifest_says_what_is_missing() {
        assert!(parsed("a: [").is_err_and(|why| why.contains("m.yaml is not YAML")));
        assert!(parsed("kind: Pod").is_err_and(|why| why.contains("a Pod has no apiVersion")));
        assert!(parsed("").is_err_and(|why| why.contains("no object")));
    }

    #[test]
    fn what_the_cluster_added_is_no_difference_and_what_it_lacks_is() {
        let live = json!({ "spec": { "a": 1, "b": [{ "c": 2, "added": true }] }, "status": {} });
        assert!(covers(&live, &json!({ "spec": { "b": [{ "c": 2 }] } })));
        assert!(!covers(&live, &json!({ "spec": { "b": [{ "c": 3 }] } })));
        assert!(!covers(&live, &json!({ "spec": { "d": 1 } })));
    }
}
