//! Who claims the clusters.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Vantage, World};
use crate::domain::{Kind, LedgerId, RegionId};
use crate::ports::{Claim, Term};

impl World {
    pub(in crate::simulation) fn claim_as_another(&mut self, region: &RegionId, ledger: &LedgerId) {
        self.claims.insert(
            region.clone(),
            Claim { ledger: ledger.clone(), term: None, holder: "another failoverd".to_owned() },
        );
    }

    /// The claims of the clusters that can be reached.
    pub(in crate::simulation) fn claims(&self, now: Duration, from: &Vantage) -> BTreeMap<RegionId, Option<Claim>> {
        self.clusters(now, from).into_iter().map(|region| (region.clone(), self.claims.get(&region).cloned())).collect()
    }

    pub(in crate::simulation) fn put_claim(
        &mut self,
        now: Duration,
        from: &Vantage,
        ledger: &LedgerId,
        term: Term,
        replace: bool,
    ) {
        let ours = Claim { ledger: ledger.clone(), term: Some(term), holder: "failoverd".to_owned() };
        for region in self.clusters(now, from) {
            let is_foreign = |claim: &Claim| claim.ledger != ours.ledger || claim.term > ours.term;
            if replace || !self.claims.get(&region).is_some_and(is_foreign) {
                self.claims.insert(region, ours.clone());
            }
        }
    }

    fn clusters(&self, now: Duration, from: &Vantage) -> BTreeSet<RegionId> {
        self.instances
            .iter()
            .filter(|(id, instance)| instance.kind == Kind::Kubernetes && self.reaches(now, from, id))
            .map(|(id, _)| id.region.clone())
            .collect()
    }
}
