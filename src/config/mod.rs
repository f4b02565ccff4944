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
pub mod schema;
mod secret;
mod validate;

use std::collections::BTreeMap;
use std::path::PathBuf;

use config::{Config as Merged, Map, Value, ValueKind};

use crate::domain::Policy;
use layers::{Layer, Places};

pub use convert::policy_hash;
pub use mistake::{ConfigErrors, Key, Mistake, Place};
pub use outline::{Shape, outline};
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
    Ok(Loaded { config, policy, warnings: review.warnings })
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
