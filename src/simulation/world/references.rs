//! What vouches for an observer's own network.

use std::time::Duration;

use super::{Vantage, World};
use crate::domain::ReferenceId;

impl World {
    pub(in crate::simulation) fn set_references(
        &mut self,
        now: Duration,
        which: Option<&ReferenceId>,
        answers: bool,
    ) -> Result<(), String> {
        match which {
            None => self.references.values_mut().for_each(|reference| *reference = answers),
            Some(id) => match self.references.get_mut(id) {
                Some(reference) => *reference = answers,
                None => return Err(format!("{id} is no reference point of the configuration")),
            },
        }
        match self.references.values().any(|answers| *answers) {
            true => self.unvouched_since = None,
            false => drop(self.unvouched_since.get_or_insert(now)),
        }
        Ok(())
    }

    pub(in crate::simulation) fn references(&self) -> impl Iterator<Item = &ReferenceId> {
        self.references.keys()
    }

    pub(in crate::simulation) fn reference_answers(&self, from: &Vantage, id: &ReferenceId) -> bool {
        let region = self.policy.references.get(id).and_then(|reference| reference.region.as_ref());
        let is_parted = region.is_some_and(|region| self.network.is_parted(from, region));
        !from.is_cut_off && !is_parted && self.references.get(id).copied().unwrap_or(false)
    }
}
