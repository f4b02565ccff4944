//! The claim: which ledger this cluster obeys. A cloned machine or a second set of daemons finds a foreign claim and
//! stops.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;

use super::FIELD_MANAGER;
use super::actuator::Hand;
use super::answer::No;
use crate::domain::LedgerId;
use crate::ports::{Claim, Setback, Term};

const NAME: &str = "failoverd-claim";

pub(super) async fn read(hand: &Hand<'_>, namespace: &str) -> Result<Option<Claim>, Setback> {
    match get(hand, namespace).await? {
        None => Ok(None),
        Some(map) => written(hand, &map).map(Some),
    }
}

/// `replace`: a person adopted the deployment, so a foreign claim gives way.
pub(super) async fn ensure(hand: &Hand<'_>, namespace: &str, ours: &Claim, replace: bool) -> Result<(), Setback> {
    if get(hand, namespace).await?.is_none() {
        match create(hand, namespace, ours).await {
            // Somebody was faster; whose claim it is, is seen below.
            Err(No::Changed(_)) => {}
            Ok(()) => return Ok(()),
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
    let Some(map) = get(hand, namespace).await? else {
        return Err(Setback::Transient(format!("{NAME} was deleted while it was claimed")));
    };
    let claim = written(hand, &map)?;
    if claim == *ours {
        return Ok(());
    }
    let (other, whose, whom) = (&claim.ledger, &claim.holder, hand.whom());
    if claim.ledger != ours.ledger && !replace {
        return Err(Setback::Refused(format!(
            "{whom} is claimed by ledger {other} ({whose}); run `failoverd adopt` here if that daemon is gone for good"
        )));
    }
    if let Some(term) = claim.term.filter(|term| Some(*term) > ours.term && !replace) {
        return Err(Setback::Refused(format!(
            "{whom} is claimed by a copy of this ledger ({whose}, {term}), which took over later; run `failoverd adopt` \
             here if that daemon is gone for good"
        )));
    }
    let change = json!({
        "metadata": { "resourceVersion": map.metadata.resource_version },
        "data": data(ours),
    });
    let api: Api<ConfigMap> = Api::namespaced(hand.client(), namespace);
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    hand.change(api.patch(NAME, &parameters, &Patch::Merge(&change))).await.map_err(No::setback)?;
    Ok(())
}

/// Only if nobody else has: the API server lets exactly one of several through.
async fn create(hand: &Hand<'_>, namespace: &str, ours: &Claim) -> Result<(), No> {
    let map = ConfigMap {
        metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
        data: Some(data(ours)),
        ..ConfigMap::default()
    };
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let api: Api<ConfigMap> = Api::namespaced(hand.client(), namespace);
    hand.change(api.create(&parameters, &map)).await?;
    Ok(())
}

fn data(claim: &Claim) -> BTreeMap<String, String> {
    let mut data = BTreeMap::from([
        ("ledger".to_owned(), claim.ledger.as_str().to_owned()),
        ("holder".to_owned(), claim.holder.clone()),
    ]);
    if let Some(term) = claim.term {
        data.insert("epoch".to_owned(), term.epoch.to_string());
        data.insert("since".to_owned(), term.since.to_string());
    }
    data
}

async fn get(hand: &Hand<'_>, namespace: &str) -> Result<Option<ConfigMap>, Setback> {
    let api: Api<ConfigMap> = Api::namespaced(hand.client(), namespace);
    hand.find(api.get(NAME)).await
}

/// A claim that names no ledger is somebody's, we do not know whose: it is not taken for absent.
fn written(hand: &Hand<'_>, map: &ConfigMap) -> Result<Claim, Setback> {
    let entry = |key: &str| map.data.as_ref().and_then(|data| data.get(key)).cloned();
    let ledger = entry("ledger").ok_or_else(|| {
        Setback::Refused(format!("config map {NAME} in {} names no ledger; delete it if it is nobody's", hand.whom()))
    })?;
    let holder = entry("holder").unwrap_or_else(|| "unknown".to_owned());
    let epoch = entry("epoch").and_then(|epoch| epoch.parse().ok());
    let since = entry("since").and_then(|since| since.parse().ok());
    let term = epoch.zip(since).map(|(epoch, since)| Term { epoch, since });
    Ok(Claim { ledger: LedgerId::from(ledger), term, holder })
}
