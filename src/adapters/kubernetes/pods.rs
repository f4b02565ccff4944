//! Do the pods of a namespace run? (`kubectl get pods`)

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;

use super::actuator::Hand;
use super::answer::No;
use crate::ports::Setback;

/// Pods per page, and pages at most: a namespace with more pods than this is judged by its first ones.
const PAGE: u32 = 250;
const PAGES_MAX: usize = 40;

pub(super) async fn running(hand: &Hand<'_>, namespace: &str, running_min: u32) -> Result<String, Setback> {
    let api: Api<Pod> = Api::namespaced(hand.client(), namespace);
    let mut page = ListParams::default().limit(PAGE);
    let (mut running, mut others) = (0_u32, Vec::new());
    for _ in 0..PAGES_MAX {
        let pods = hand.ask(api.list(&page)).await.map_err(No::setback)?;
        for pod in &pods.items {
            match state(pod) {
                State::Running => running += 1,
                State::Over => {}
                State::Waiting(why) => {
                    others.push(format!("{} {why}", pod.metadata.name.as_deref().unwrap_or("a pod")));
                }
            }
        }
        match pods.metadata.continue_ {
            Some(token) if !token.is_empty() => page.continue_token = Some(token),
            Some(_) | None => break,
        }
    }
    let seen = format!("{running} pods run and are ready, at least {running_min} are needed");
    if others.is_empty() && running >= running_min {
        return Ok(seen);
    }
    let shown: Vec<_> = others.iter().take(3).map(String::as_str).collect();
    Err(Setback::NotYet(match others.len() {
        0 => seen,
        1..=3 => format!("{seen}; {}", shown.join(", ")),
        more => format!("{seen}; {}, and {} more", shown.join(", "), more - shown.len()),
    }))
}

enum State {
    Running,
    /// Ended as it should, or on its way out: not expected to run.
    Over,
    Waiting(String),
}

fn state(pod: &Pod) -> State {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("Unknown");
    if phase == "Succeeded" || pod.metadata.deletion_timestamp.is_some() {
        return State::Over;
    }
    let is_ready = status
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|all| all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"));
    match (phase, is_ready) {
        ("Running", true) => State::Running,
        ("Running", false) => State::Waiting("is not ready".to_owned()),
        (phase, _) => State::Waiting(format!("is {}", phase.to_lowercase())),
    }
}
