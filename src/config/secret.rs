//! Secrets, and where they come from: an environment variable or a file, never the configuration itself.

use std::fmt;
use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

/// Where a secret is. A literal is accepted with a warning, so that a first try works; see `check-config`.
#[derive(Debug, Clone)]
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

/// Under this name the readers of this folder recognize a secret in the schema, and treat it with care.
pub(super) const SECRET: &str = "SecretSource";

const FORMS: &str = "write { env = \"NAME\" } or { file = \"/path\" }";

// By hand, because the derived one for untagged enums says only that nothing matched.
impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(SECRET, SecretVisitor)
    }
}

struct SecretVisitor;

impl<'de> Visitor<'de> for SecretVisitor {
    type Value = SecretSource;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the source of a secret; {FORMS}")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(SecretSource::Literal(SecretString::from(text)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some((kind, value)) = map.next_entry::<String, String>()? {
            let source = match kind.as_str() {
                "env" => SecretSource::Environment { env: value },
                "file" => SecretSource::File { file: PathBuf::from(value) },
                _ => return Err(A::Error::custom(format!("`{kind}` is not a source of secrets; {FORMS}"))),
            };
            if found.replace(source).is_some() {
                return Err(A::Error::custom(format!("two sources for one secret; {FORMS}, not both")));
            }
        }
        found.ok_or_else(|| A::Error::custom(format!("no source for the secret; {FORMS}")))
    }
}
