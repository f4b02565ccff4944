//! Kubernetes clusters: are they there, do their workloads run, and everything that a failover changes in them.
//!
//! Every look, every probe and every call of a step opens a connection of its own and closes it afterwards. For the
//! probe, connecting *is* the question: an established connection can outlive the load balancer, the certificate and
//! all but one of the API servers behind it. For the steps, a pooled connection to a dead API server would cost a
//! timeout at the worst moment. A TLS handshake per cluster every few seconds is the price, about a millisecond of
//! one core; within one round all requests share the connection.
//!
//! Works with API servers from 1.20: only `v1`, `apps/v1` and server-side apply, and objects are read leniently.

mod access;
mod actuator;
mod answer;
mod claim;
mod manifests;
mod mode;
mod plugin;
mod pods;
mod probe;
mod published;
mod removed;
mod rollout;
mod scale;
mod session;
mod workload;
mod zones;

pub use access::{Cluster, Clusters};
pub use actuator::KubernetesActuator;
pub use probe::ClusterProbe;

/// Who changed it, in the managed fields of every object that failoverd touches.
const FIELD_MANAGER: &str = "failoverd";
