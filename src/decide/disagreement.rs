//! Where several observers see a region differently, in one sentence: a partition is told from an outage at a glance.

use std::collections::{BTreeMap, BTreeSet};

use super::{Status, VerdictKind};
use crate::domain::{ObserverId, RegionId};

/// One line for each region that some see failing: who, and what the others say. Nothing, where one observer is alone.
pub fn disagreements(status: &Status) -> Vec<String> {
    let stands_in: BTreeMap<&ObserverId, &RegionId> =
        status.observers.iter().map(|observer| (&observer.observer, &observer.region)).collect();
    let regions: BTreeSet<&RegionId> = status.instances.iter().map(|instance| &instance.instance.region).collect();
    regions.into_iter().filter_map(|region| of_region(status, region, &stands_in)).collect()
}

fn of_region(status: &Status, region: &RegionId, stands_in: &BTreeMap<&ObserverId, &RegionId>) -> Option<String> {
    let instances: Vec<_> = status.instances.iter().filter(|instance| instance.instance.region == *region).collect();
    let mut lost: BTreeSet<&RegionId> = BTreeSet::new();
    let mut partly: BTreeMap<&RegionId, BTreeSet<String>> = BTreeMap::new();
    let mut fine: BTreeSet<&RegionId> = BTreeSet::new();
    for (observer, from) in stands_in {
        let seen = instances.iter().filter_map(|instance| Some((instance, instance.seen_by.get(*observer)?)));
        let seen: Vec<_> = seen.collect();
        let fails = |verdict: VerdictKind| matches!(verdict, VerdictKind::Failing | VerdictKind::Suspect);
        let failing: BTreeSet<String> = seen
            .iter()
            .filter(|(_, sighting)| fails(sighting.verdict))
            .map(|(instance, _)| instance.instance.component.to_string())
            .collect();
        if seen.is_empty() {
            continue;
        }
        // The record of the name servers is in no region, and answers when nothing else does.
        if failing.len() + 1 >= seen.len() && failing.len() > 1 {
            lost.insert(from);
        } else if !failing.is_empty() {
            partly.entry(from).or_default().extend(failing);
        } else if seen.iter().all(|(_, sighting)| sighting.verdict != VerdictKind::Unknown) {
            fine.insert(from);
        }
    }
    let mut parts = Vec::new();
    if !lost.is_empty() {
        parts.push(format!("{} cannot reach {region}", and(lost)));
    }
    for (from, components) in partly {
        let components: Vec<String> = components.into_iter().collect();
        parts.push(format!("{from} sees {} of {region} fail", components.join(", ")));
    }
    if parts.is_empty() {
        return None;
    }
    if !fine.is_empty() {
        let say = if fine.len() == 1 { "says" } else { "say" };
        parts.push(format!("{} {say} it is fine", and(fine)));
    }
    Some(parts.join("; "))
}

fn and(regions: BTreeSet<&RegionId>) -> String {
    let names: Vec<&str> = regions.into_iter().map(RegionId::as_str).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.join(""),
    }
}
