//! Whether a configuration makes sense, as far as that can be known without the network. All mistakes at once.

mod automatic;
mod checks;
mod clusters;
mod council;
mod daemon;
mod evidence;
mod failback;
mod ledger;
mod names;
mod secrets;
mod stores;
mod timing;
mod topology;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};

use super::Config;
use super::layers::Places;
use super::mistake::{Key, Mistake};
use super::schema::{ProbeOverride, Trigger};
use crate::domain::{ComponentId, Kind, RegionId, Role};

/// What was found.
pub(super) struct Review {
    /// These stop the daemon from starting.
    pub(super) mistakes: Vec<Mistake>,
    /// These do not.
    pub(super) warnings: Vec<Mistake>,
}

/// Judges a configuration. `config` is borrowed mutably only to walk over its paths and secrets.
pub(super) fn review(config: &mut Config, places: &Places, env: &BTreeMap<String, String>) -> Review {
    let mut findings = Findings { places, mistakes: vec![], warnings: vec![] };
    secrets::check(config, env, &mut findings);
    let parts = parts_of(config);
    daemon::check(config, &mut findings);
    council::check(config, &mut findings);
    ledger::check(config, &mut findings);
    let is_sound = topology::check(config, &parts, &mut findings);
    timing::check(config, &parts, &mut findings);
    failback::check(config, &parts, &mut findings);
    clusters::check(config, &mut findings);
    stores::check(config, &mut findings);
    evidence::check(config, &mut findings);
    traffic::check(config, &mut findings);
    checks::check(config, &mut findings);
    if is_sound {
        automatic::check(config, &parts, &mut findings);
    }
    let Findings { mistakes, mut warnings, .. } = findings;
    warnings.sort();
    warnings.dedup();
    Review { mistakes, warnings }
}

/// Collects what is found, with its place.
struct Findings<'a> {
    places: &'a Places,
    mistakes: Vec<Mistake>,
    warnings: Vec<Mistake>,
}

impl Findings<'_> {
    fn wrong(&mut self, key: Key, text: impl Into<String>) {
        self.mistakes.push(Mistake { place: self.places.of_key(&key), key, text: text.into() });
    }

    fn warn(&mut self, key: Key, text: impl Into<String>) {
        self.warnings.push(Mistake { place: self.places.of_key(&key), key, text: text.into() });
    }

    /// Wrong where failoverd acts by itself, a warning where a person looks first.
    fn wrong_if(&mut self, severe: bool, key: Key, text: impl Into<String>) {
        if severe {
            self.wrong(key, text);
        } else {
            self.warn(key, text);
        }
    }
}

/// What all kinds of components have in common.
struct Part<'a> {
    key: Key,
    id: &'a ComponentId,
    kind: Kind,
    critical: bool,
    /// The row: `after`.
    trigger: Option<Trigger>,
    probe: ProbeOverride,
    regions: BTreeSet<&'a RegionId>,
}

impl Part<'_> {
    fn is_in(&self, config: &Config, role: Role) -> bool {
        self.regions.iter().any(|region| config.regions.get(*region).is_some_and(|region| region.role == role))
    }
}

macro_rules! parts {
    ($parts:ident, $config:ident, $section:ident, $kind:expr, $critical:expr, $trigger:expr) => {
        for (id, part) in &$config.$section {
            $parts.push(Part {
                key: Key::of([stringify!($section), id.as_str()]),
                id,
                kind: $kind,
                critical: $critical(part),
                trigger: $trigger(part),
                probe: part.probe,
                regions: part.regions.keys().collect(),
            });
        }
    };
}

fn parts_of(config: &Config) -> Vec<Part<'_>> {
    use super::schema::{Bucket, Cache, Cloud, Cluster, Database, Http, Traffic};
    let mut parts = vec![];
    parts!(parts, config, clusters, Kind::Kubernetes, |c: &Cluster| c.critical, |c: &Cluster| {
        c.trigger.map(|trigger| Trigger { after: trigger.after })
    });
    parts!(parts, config, databases, Kind::Database, |c: &Database| c.critical, |c: &Database| c.trigger);
    parts!(parts, config, caches, Kind::Cache, |c: &Cache| c.critical, |c: &Cache| c.trigger);
    parts!(parts, config, buckets, Kind::Storage, |c: &Bucket| c.critical, |c: &Bucket| c.trigger);
    parts!(parts, config, http, Kind::Http, |c: &Http| c.critical, |c: &Http| c.trigger);
    parts!(parts, config, clouds, Kind::Cloud, |_: &Cloud| false, |_: &Cloud| None);
    parts!(parts, config, traffic, Kind::Traffic, |_: &Traffic| false, |_: &Traffic| None);
    parts
}

/// The regions with a role.
fn with_role(config: &Config, role: Role) -> impl Iterator<Item = &RegionId> {
    config.regions.iter().filter(move |(_, region)| region.role == role).map(|(id, _)| id)
}

/// `a, b and c`, for people.
fn listed<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    match items.split_last() {
        None => "none".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}
