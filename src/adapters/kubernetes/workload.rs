//! Deployments and StatefulSets, as far as both are alike. Read leniently: an absent field is absent, not zero.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::domain::WorkloadKind;

/// What failoverd reads of a workload.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Workload {
    pub(super) metadata: Metadata,
    pub(super) spec: Spec,
    pub(super) status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) generation: i64,
    pub(super) resource_version: String,
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Spec {
    replicas: Option<u32>,
    pub(super) paused: bool,
    template: Template,
    update_strategy: Strategy,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Template {
    metadata: Metadata,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Strategy {
    r#type: String,
    rolling_update: Option<RollingUpdate>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RollingUpdate {
    partition: u32,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Status {
    pub(super) observed_generation: i64,
    pub(super) replicas: u32,
    pub(super) ready_replicas: u32,
    pub(super) updated_replicas: u32,
    current_revision: String,
    update_revision: String,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
    reason: String,
    message: String,
}

impl Workload {
    /// How many pods it is supposed to have; one where nobody said.
    pub(super) fn wanted(&self) -> u32 {
        self.spec.replicas.unwrap_or(1)
    }

    /// Ready pods; none are known as long as the controller has not seen the latest change of the specification.
    pub(super) fn ready(&self) -> u32 {
        self.status.ready_replicas
    }

    /// The controller's numbers are about the specification as it stands.
    pub(super) fn is_observed(&self) -> bool {
        self.status.observed_generation >= self.metadata.generation
    }

    /// An annotation of the pod template.
    pub(super) fn template_annotation(&self, name: &str) -> Option<&str> {
        self.spec.template.metadata.annotations.get(name).map(String::as_str)
    }

    /// All annotations of the pod template.
    pub(super) fn template_annotations(&self) -> impl Iterator<Item = (&String, &String)> {
        self.spec.template.metadata.annotations.iter()
    }

    /// Why pods will not be replaced although the template changes.
    pub(super) fn will_not_roll(&self) -> Option<String> {
        if self.spec.paused {
            return Some("its rollouts are paused; resume it with kubectl rollout resume".to_owned());
        }
        if self.spec.update_strategy.r#type == "OnDelete" {
            return Some("its update strategy is OnDelete; pods have to be deleted by hand".to_owned());
        }
        match &self.spec.update_strategy.rolling_update {
            Some(update) if update.partition > 0 => {
                Some(format!("its update strategy leaves pods below {} alone", update.partition))
            }
            Some(_) | None => None,
        }
    }

    /// Everything runs the latest template, and nothing older is left.
    pub(super) fn is_rolled_out(&self, kind: WorkloadKind) -> bool {
        let wanted = self.wanted();
        let all_new = match kind {
            WorkloadKind::Deployment => self.status.updated_replicas >= wanted,
            // A StatefulSet resets its count of updated pods once all of them are.
            WorkloadKind::StatefulSet => {
                self.status.updated_replicas >= wanted || self.status.current_revision == self.status.update_revision
            }
        };
        self.is_observed() && all_new && self.status.replicas == wanted && self.ready() >= wanted
    }

    /// What the controller says is in the way.
    pub(super) fn trouble(&self) -> Option<String> {
        self.status
            .conditions
            .iter()
            .find(|condition| match condition.r#type.as_str() {
                "ReplicaFailure" => condition.status == "True",
                "Progressing" => condition.reason == "ProgressDeadlineExceeded",
                _ => false,
            })
            .map(|condition| crate::adapters::connect::one_line(&condition.message, 200))
    }
}

/// Path of a workload in the API.
pub(super) fn path(kind: WorkloadKind, namespace: &str, name: &str) -> String {
    let plural = match kind {
        WorkloadKind::Deployment => "deployments",
        WorkloadKind::StatefulSet => "statefulsets",
    };
    format!("/apis/apps/v1/namespaces/{namespace}/{plural}/{name}")
}

/// For people.
pub(super) fn kind_name(kind: WorkloadKind) -> &'static str {
    match kind {
        WorkloadKind::Deployment => "deployment",
        WorkloadKind::StatefulSet => "stateful set",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(spec: serde_json::Value, status: serde_json::Value) -> Workload {
        let object = serde_json::json!({ "metadata": { "generation": 2 }, "spec": spec, "status": status });
        serde_json::from_value(object).expect("lenient")
    }

    #[test]
    fn numbers_about_an_older_specification_do_not_count_as_rolled_out() {
        let numbers = |generation: i64| serde_json::json!({ "observedGeneration": generation, "replicas": 2, "readyReplicas": 2, "updatedReplicas": 2 });
        let spec = serde_json::json!({ "replicas": 2 });
        assert!(!workload(spec.clone(), numbers(1)).is_rolled_out(WorkloadKind::Deployment));
        assert!(workload(spec, numbers(2)).is_rolled_out(WorkloadKind::Deployment));
    }

    #[test]
    fn old_pods_that_are_left_keep_a_rollout_going() {
        let status =
            serde_json::json!({ "observedGeneration": 2, "replicas": 3, "readyReplicas": 3, "updatedReplicas": 2 });
        assert!(!workload(serde_json::json!({ "replicas": 2 }), status).is_rolled_out(WorkloadKind::Deployment));
    }

    #[test]
    fn a_workload_that_does_not_replace_its_pods_says_why() {
        let paused = workload(serde_json::json!({ "paused": true }), serde_json::json!({}));
        assert!(paused.will_not_roll().is_some_and(|why| why.contains("paused")));
        let partition = serde_json::json!({ "updateStrategy": { "rollingUpdate": { "partition": 3 } } });
        assert!(workload(partition, serde_json::json!({})).will_not_roll().is_some());
    }

    #[test]
    fn an_empty_object_is_not_a_ready_one() {
        let empty: Workload = serde_json::from_str("{}").expect("lenient");
        assert_eq!((empty.wanted(), empty.ready()), (1, 0));
        assert!(!empty.is_rolled_out(WorkloadKind::Deployment));
    }
}
