//! Files and environment -> a configuration that makes sense -> the core's policy.

pub mod schema;
mod secret;

pub use schema::Config;
pub use secret::{MissingSecret, SecretSource};
