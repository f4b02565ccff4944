//! Secrets that are written down, secrets and files that are not there. Warnings: the machine on which a configuration
//! is checked need not be the one it runs on.

use std::collections::BTreeMap;

use super::Findings;
use crate::config::files::{each_file, each_secret};
use crate::config::{Config, Key, SecretSource};

pub(super) fn check(config: &mut Config, env: &BTreeMap<String, String>, findings: &mut Findings<'_>) {
    each_secret(config, &mut |key, secret| match secret {
        SecretSource::Environment { env: name } if !env.contains_key(name.as_str()) => {
            findings.warn(key, format!("the environment variable {name} is not set here"));
        }
        SecretSource::Literal(_) if !findings.places.is_from_environment(&key) => findings.warn(
            key,
            "a secret stands in the configuration itself; write { env = \"NAME\" } or { file = \"/path\" } instead",
        ),
        SecretSource::Environment { .. } | SecretSource::File { .. } | SecretSource::Literal(_) => {}
    });
    // The ledger and the stop file are made or looked for at run time; they need not be there.
    let at_run_time = [Key::of(["ledger", "path"]), Key::of(["ledger", "stop_file"])];
    each_file(config, &mut |key, path| {
        if !at_run_time.contains(&key) && std::fs::metadata(&*path).is_err() {
            findings.warn(key, format!("cannot find {} here", path.display()));
        }
    });
}
