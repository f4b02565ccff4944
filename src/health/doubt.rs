//! Self-doubt: an observer that cannot reach the rest of the world says nothing about a region.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::decide::ReferenceObservation;
use crate::domain::{Policy, ReferenceId, ReferencePolicy, RegionId};

/// What the reference points answered lately.
#[derive(Debug, Clone, Default)]
pub struct References {
    points: BTreeMap<ReferenceId, Point>,
}

#[derive(Debug, Clone, Default)]
struct Point {
    /// Start of the last probe that was answered.
    answered: Option<Duration>,
    /// Since when it has answered without a gap.
    answering_since: Option<Duration>,
    /// Start of the last probe.
    asked: Option<Duration>,
}

impl References {
    /// Takes an observation in.
    pub fn observe(&mut self, policy: &Policy, observation: &ReferenceObservation) {
        let point = self.points.entry(observation.reference.clone()).or_default();
        point.asked = Some(observation.began);
        if observation.answer.is_ok() {
            let gap = policy.references.get(&observation.reference).map_or(Duration::ZERO, |r| r.probing.gap());
            let is_unbroken = point.answered.is_some_and(|last| observation.began.saturating_sub(last) <= gap);
            if !is_unbroken {
                point.answering_since = Some(observation.began);
            }
            point.answered = Some(observation.began);
        }
    }

    /// Since when a majority of the points that may vouch for this observer's view of `suspected` has answered without
    /// a gap. What seemed to fail before that, may have been our own network. None where nobody vouches now, or where
    /// there is nobody to.
    pub fn trusted_since(&self, policy: &Policy, suspected: &RegionId, now: Duration) -> Option<Duration> {
        let mut since: Vec<Duration> = outside(policy, suspected)
            .filter_map(|(id, reference)| {
                let point = self.points.get(id)?;
                let is_fresh = now.saturating_sub(point.answered?) <= reference.probing.gap();
                point.answering_since.filter(|_| is_fresh)
            })
            .collect();
        since.sort();
        since.get(outside(policy, suspected).count() / 2).copied()
    }

    /// The point answered the last time it was asked.
    pub fn answers(&self, reference: &ReferenceId) -> bool {
        self.points.get(reference).is_some_and(|point| point.answered.is_some() && point.answered == point.asked)
    }

    /// Whether this observer may speak about `suspected`, failing since `since`: a majority of the points outside both
    /// its own and the suspected region answered since then, and did so the last time they were asked.
    pub fn doubt(&self, policy: &Policy, suspected: &RegionId, since: Duration, now: Duration) -> Result<(), String> {
        let has_answered = |(id, reference): &(&ReferenceId, &ReferencePolicy)| {
            self.points.get(*id).is_some_and(|point| {
                point.answered.is_some_and(|answered| {
                    answered >= since
                        && point.asked == point.answered
                        && now.saturating_sub(answered) <= reference.probing.gap()
                })
            })
        };
        let outside = || outside(policy, suspected);
        let (all, answering) = (outside().count(), outside().filter(has_answered).count());
        if all == 0 {
            return match policy.mode {
                crate::domain::Mode::Automatic => {
                    Err("no reference point outside this observer's and the suspected region is configured".to_owned())
                }
                crate::domain::Mode::Observe | crate::domain::Mode::Approve => Ok(()),
            };
        }
        if 2 * answering > all {
            return Ok(());
        }
        let silent: Vec<&str> = outside().filter(|point| !has_answered(point)).map(|(id, _)| id.as_str()).collect();
        Err(format!(
            "only {answering} of {all} reference points outside {} and {suspected} have answered since the failure began \
             (silent: {}): the trouble may be this observer's own network",
            policy.observer_region,
            silent.join(", ")
        ))
    }
}

/// The points outside both this observer's and the suspected region.
fn outside<'a>(
    policy: &'a Policy,
    suspected: &RegionId,
) -> impl Iterator<Item = (&'a ReferenceId, &'a ReferencePolicy)> {
    let is_outside = move |region: &RegionId| region != suspected && *region != policy.observer_region;
    policy.references.iter().filter(move |(_, reference)| reference.region.as_ref().is_none_or(is_outside))
}
