//! Secrets, and where they come from: an environment variable or a file, never the configuration itself.

use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;

/// Where a secret is. A literal is accepted with a warning, so that a first try works; see `check-config`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum SecretSource {
    /// `{ env = "PGPASSWORD" }`
    Environment {
        /// Name of the variable.
        env: String,
    },
    /// `{ file = "/run/secrets/pg" }`; a final line break is not part of the secret. Read anew at every use, so that
    /// rotation needs no restart.
    File {
        /// Path of the file.
        file: PathBuf,
    },
    /// Written in the configuration: a mistake that is reported.
    Literal(SecretString),
}

/// A secret that is not where the configuration says it is.
#[derive(Debug, thiserror::Error)]
pub enum MissingSecret {
    /// The variable is not set.
    #[error("the environment variable {0} is not set")]
    Environment(String),
    /// The file cannot be read.
    #[error("cannot read the secret in {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl SecretSource {
    /// Fetches the secret.
    pub fn read(&self) -> Result<SecretString, MissingSecret> {
        match self {
            Self::Environment { env } => {
                std::env::var(env).map(SecretString::from).map_err(|_| MissingSecret::Environment(env.clone()))
            }
            Self::File { file } => std::fs::read_to_string(file)
                .map(|text| SecretString::from(text.trim_end_matches(['\r', '\n'])))
                .map_err(|source| MissingSecret::File { path: file.clone(), source }),
            Self::Literal(secret) => Ok(secret.clone()),
        }
    }
}
