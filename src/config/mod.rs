//! Files and environment -> a configuration that makes sense -> the core's policy.
//!
//! Deliberately without the network: what is found here can be found before anything is started.

mod convert;
mod files;
mod fingerprint;
mod layers;
mod mistake;
mod outline;
mod reader;
mod reasons;
pub mod schema;
mod secret;
mod validate;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use config::{Config as Merged, Map, Value, ValueKind};

use crate::domain::time::human;
use crate::domain::{Mode, Policy};
use crate::plan::{self, BudgetRow, Waits};
use layers::{Layer, Places};

pub use convert::policy_hash;
pub use mistake::{ConfigErrors, Key, Mistake, Place};
pub use outline::{Shape, outline};
pub use reasons::{comment_above, reason};
pub use schema::Config;
pub use secret::{MissingSecret, SecretSource};

/// The lowest layer: every key that has a default, with its unit and the reason for it.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// A configuration that can be used.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// As written, with relative paths made relative to the files that they stand in.
    pub config: Config,
    /// What the core has to know of it.
    pub policy: Policy,
    /// Deserves a second look, and does not stop anything.
    pub warnings: Vec<Mistake>,
    places: Places,
}

impl Loaded {
    /// Where a key was written last; the built-in defaults where it was written nowhere else.
    pub fn place_of(&self, key: &Key) -> Place {
        self.places.exact(key)
    }

    /// What the budget has to know besides the policy and the plans.
    pub fn waits(&self) -> Waits {
        let Config { ledger, council, .. } = &self.config;
        let demotion = self.policy.components.values().filter_map(|component| component.demotion).max();
        let (ballots, lease) = match ledger.is_shared() {
            true => (council.ballot_every, ledger.lease()),
            false => (Duration::ZERO, Duration::ZERO),
        };
        Waits {
            ballots,
            // Nobody believes in a role that is not served.
            self_fence: self.policy.roles.map_or(Duration::ZERO, |roles| roles.wait(demotion.unwrap_or_default())),
            takeover: lease + ledger.call_timeout,
        }
    }

    /// The budget of every row that may be answered automatically.
    pub fn budget(&self) -> Vec<BudgetRow> {
        plan::budget(&self.policy, self.waits(), &plan::answers(&self.policy))
    }
}

/// The rows that break the promise of `failover_within`, or that have no plan.
fn broken_promises(loaded: &Loaded) -> Vec<Mistake> {
    let key = Key::of(["deployment", "failover_within"]);
    let rows = loaded.budget();
    let broken = rows.iter().filter(|row| !row.fits()).map(|row| {
        let text = match &row.unanswered {
            Some(why) => format!("there is no plan for `{}`: {why}", row.name()),
            None => too_long(row),
        };
        Mistake { place: loaded.places.of_key(&key), key: key.clone(), text }
    });
    broken.collect()
}

fn too_long(row: &BudgetRow) -> String {
    let dominating: Vec<String> =
        row.dominating().into_iter().take(3).map(|(key, sum)| format!("deadlines.{key} ({})", human(sum))).collect();
    format!(
        "the row `{}` takes up to {} and has to be done within {}: detection {}, waits {}, plan {}, TTL {}; what takes \
         longest is {}; shorten what you have measured to be shorter, or the trigger, or promise more time",
        row.name(),
        human(row.total),
        human(row.limit),
        human(row.detection),
        human(row.waits),
        human(row.execution),
        human(row.ttl),
        dominating.join(", "),
    )
}

/// The environment of this process. Variables that are not Unicode are left out: no key and no secret is.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Loads the built-in defaults, `paths` in their order and the `FAILOVERD__SECTION__KEY` variables of `env`, each on
/// top of the ones before: tables are merged, everything else is replaced.
///
/// # Errors
///
/// Everything that is wrong, each with its place, its key and what to write instead. Mistakes of shape (unknown keys,
/// wrong types) hide mistakes of meaning, because what was not understood cannot be judged.
pub fn load(paths: &[PathBuf], env: &BTreeMap<String, String>) -> Result<Loaded, ConfigErrors> {
    let outline = outline();
    let mut mistakes = vec![];
    let mut layers = vec![Layer::defaults(DEFAULTS, &outline, &mut mistakes)];
    for path in paths {
        layers.push(Layer::file(path, &outline, &mut mistakes));
    }
    // What stands in a file that cannot be read is not missing.
    if !mistakes.is_empty() && mistakes.iter().any(|mistake| mistake.key.names().is_empty()) {
        return Err(errors(mistakes));
    }
    let files = merge(&layers, &mut mistakes);
    layers.push(Layer::environment(env, &Value::new(None, ValueKind::Table(files)), &outline, &mut mistakes));
    for n in 1..layers.len() {
        let (below, above) = layers.split_at_mut(n);
        for layer in below {
            layer.without_secrets_of(&above[0], &outline);
        }
    }
    let fallback = paths.last().map(|path| Place::File(path.display().to_string()));
    let places = Places::of(&layers, fallback);
    let defaults = Value::new(None, ValueKind::Table(merge(&layers[..1], &mut mistakes)));
    let merged = merge(&layers, &mut mistakes);

    let config = reader::read(merged, &defaults, &outline, &places, &mut mistakes);
    let mut config = match config {
        Some(config) if mistakes.is_empty() => config,
        Some(_) | None => return Err(errors(mistakes)),
    };
    files::resolve(&mut config, &places);

    let review = validate::review(&mut config, &places, env);
    if !review.mistakes.is_empty() {
        return Err(errors(review.mistakes));
    }
    let policy = convert::policy_of(&config);
    let mut loaded = Loaded { config, policy, warnings: review.warnings, places };
    let broken = broken_promises(&loaded);
    // Where failoverd does not act by itself, it has promised nothing.
    if loaded.policy.mode == Mode::Automatic && !broken.is_empty() {
        return Err(errors(broken));
    }
    loaded.warnings.extend(broken);
    Ok(loaded)
}

fn merge(layers: &[Layer], mistakes: &mut Vec<Mistake>) -> Map<String, Value> {
    let builder = layers.iter().fold(Merged::builder(), |builder, layer| builder.add_source(layer.clone()));
    match builder.build() {
        Ok(Merged { cache: Value { kind: ValueKind::Table(table), .. }, .. }) => table,
        Ok(_) => Map::new(),
        // The layers are trees in memory; there is nothing that could fail. If it does, it is said.
        Err(error) => {
            mistakes.push(Mistake { place: Place::BuiltIn, key: Key::default(), text: error.to_string() });
            Map::new()
        }
    }
}

fn errors(mut mistakes: Vec<Mistake>) -> ConfigErrors {
    mistakes.sort();
    mistakes.dedup();
    ConfigErrors(mistakes)
}
