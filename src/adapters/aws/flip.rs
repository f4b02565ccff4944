//! Moving traffic without the Route 53 control plane: a pre-created health check watches an object in a region that
//! survives; where the object is, that region's record is healthy and answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::actuator::{AwsActuator, recall, remember};
use super::classify::Trouble;
use super::traffic::Goal;
use crate::config::schema::Flip;
use crate::domain::RegionId;
use crate::ports::{Look, Permit, Setback};

/// The objects by region: the ETag of those that are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Objects(BTreeMap<RegionId, Option<String>>);

impl Objects {
    fn is(&self, goal: &Goal<'_>) -> bool {
        goal.wanted.shares.iter().all(|(region, share)| self.has(region) == (share.weight > 0))
    }

    fn has(&self, region: &RegionId) -> bool {
        self.0.get(region).is_some_and(Option::is_some)
    }

    fn summary(&self) -> String {
        let told = self.0.iter().map(|(region, object)| match object {
            Some(_) => format!("{region} switched on"),
            None => format!("{region} switched off"),
        });
        told.collect::<Vec<_>>().join(", ")
    }
}

impl AwsActuator {
    pub(super) async fn look_flip(&self, goal: &Goal<'_>) -> Result<Look, Setback> {
        let serving = goal.wanted.shares.values().filter(|share| share.weight > 0).count();
        if serving > 1 {
            let component = goal.component;
            return Err(Setback::Refused(format!("{component} switches regions on and off and cannot move a share")));
        }
        let seen = self.objects(goal).await?;
        Ok(Look { satisfied: seen.is(goal), summary: seen.summary(), previous: remember(&seen)? })
    }

    pub(super) async fn flip(&self, key: &str, goal: &Goal<'_>, look: &Look, permit: &Permit) -> Result<(), Setback> {
        let seen: Objects = recall(&look.previous)?;
        let wanted = goal.wanted.shares.iter().map(|(region, share)| (region.clone(), share.weight > 0)).collect();
        self.switch(key, goal, &seen, &wanted, permit).await
    }

    pub(super) async fn verify_flip(&self, goal: &Goal<'_>) -> Result<String, Setback> {
        let seen = self.objects(goal).await?;
        if seen.is(goal) { Ok(seen.summary()) } else { Err(Setback::NotYet(seen.summary())) }
    }

    pub(super) async fn flip_back(
        &self,
        key: &str,
        goal: &Goal<'_>,
        previous: &Value,
        permit: &Permit,
    ) -> Result<String, Setback> {
        let former: Objects = recall(previous)?;
        let wanted = goal.wanted.shares.keys().map(|region| (region.clone(), former.has(region))).collect();
        let seen = self.objects(goal).await?;
        self.switch(key, goal, &seen, &wanted, permit).await?;
        Ok(format!("{} again", former.summary()))
    }

    /// Switches on first and off afterwards: with nothing switched on, Route 53 answers with every region.
    async fn switch(
        &self,
        key: &str,
        goal: &Goal<'_>,
        seen: &Objects,
        wanted: &BTreeMap<RegionId, bool>,
        permit: &Permit,
    ) -> Result<(), Setback> {
        for (region, _) in wanted.iter().filter(|(region, on)| **on && !seen.has(region)) {
            let flip = flip_of(goal, region)?;
            let body = format!("{region} answers for {}, by failoverd {key}\n", goal.wanted.record);
            let limit = self.time_left(permit)?;
            self.aws
                .create_object(&flip.region, &flip.bucket, &flip.key, body, limit)
                .await
                .map_err(Trouble::setback)?;
        }
        for (region, _) in wanted.iter().filter(|(_, on)| !**on) {
            let Some(etag) = seen.0.get(region).cloned().flatten() else { continue };
            let flip = flip_of(goal, region)?;
            let limit = self.time_left(permit)?;
            self.aws
                .delete_object(&flip.region, &flip.bucket, &flip.key, &etag, limit)
                .await
                .map_err(Trouble::setback)?;
        }
        Ok(())
    }

    async fn objects(&self, goal: &Goal<'_>) -> Result<Objects, Setback> {
        let limit = self.aws.call_limit();
        let asking = goal.wanted.shares.keys().map(|region| async move {
            let flip = flip_of(goal, region)?;
            let object =
                self.aws.object(&flip.region, &flip.bucket, &flip.key, limit).await.map_err(Trouble::setback)?;
            Ok::<_, Setback>((region.clone(), object))
        });
        Ok(Objects(futures::future::try_join_all(asking).await?.into_iter().collect()))
    }
}

fn flip_of<'a>(goal: &Goal<'a>, region: &RegionId) -> Result<&'a Flip, Setback> {
    let component = goal.component;
    goal.config.regions.get(region).and_then(|at| at.flip.as_ref()).ok_or_else(|| {
        Setback::Refused(format!(
            "no object is configured to switch {region}; add traffic.{component}.regions.{region}.flip"
        ))
    })
}
