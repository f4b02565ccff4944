//! AWS: RDS, ElastiCache, S3, Route 53 and one EC2 call.
//!
//! In reading order: `clients` (one set per region), `classify` (what an error means), the Describe calls (`rds`,
//! `elasticache`), the probes (`s3`, `cloud`, `traffic`) and the actuator with one file per action. Deliberately
//! without retries and without memory of the world, apart from endpoints and the ids of Route 53 changes.

mod actuator;
mod cache;
mod classify;
mod clients;
mod cloud;
mod credentials;
mod dns;
mod ec2;
mod elasticache;
mod fence;
mod flip;
mod promote;
mod protect;
mod rds;
mod records;
mod rejoin;
mod replicas;
mod s3;
mod traffic;

pub use actuator::{AwsActuator, Proofs};
pub(crate) use classify::{Trouble, TroubleKind, call};
pub use clients::Aws;
pub(crate) use clients::bucket_client;
pub use cloud::CloudProbe;
pub(crate) use credentials::Keyring;
pub use s3::{HoldingsProbe, S3Probe};
pub use traffic::TrafficProbe;
