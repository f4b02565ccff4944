//! What a step brings about. Every action is a goal: look, act only if needed, verify.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::domain::{ComponentId, InstanceId, ObjectKind, PublishedValue, RegionId, WorkloadKind};

/// A value that a Secret or ConfigMap key has to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// Known when the plan is made.
    Literal(String),
    /// Asked of the instance (or of its cloud's Describe call) when the step runs: never built from strings.
    Of {
        /// Whose property.
        instance: InstanceId,
        /// Which property.
        property: PublishedValue,
    },
}

/// A goal. The names of the document's commands are in DESIGN order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, strum::VariantNames, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case", tag = "ensure")]
pub enum Action {
    /// The `dr-mode` ConfigMap says active, and since when (document: Incident Declaration).
    IncidentDeclared {
        /// Cluster that is told.
        cluster: InstanceId,
        /// Namespace of the ConfigMap.
        namespace: String,
        /// Which incident.
        incident: String,
    },
    /// The workload has `replicas` ready replicas (document: Scale up DR cluster).
    Replicas {
        /// Cluster.
        cluster: InstanceId,
        /// Namespace.
        namespace: String,
        /// Deployment or StatefulSet.
        kind: WorkloadKind,
        /// Its name.
        workload: String,
        /// How many, ready.
        replicas: u32,
        /// No more of them, where otherwise more are welcome: what stood in for a region waits again.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        at_most: bool,
    },
    /// The old primary refuses its application's writes, for sure and across a restart.
    Fenced {
        /// The old primary.
        database: InstanceId,
    },
    /// The standby is a primary of its own and takes a real write (document: Promote read replica).
    DatabasePromoted {
        /// The standby.
        database: InstanceId,
        /// The old primary.
        from: InstanceId,
        /// The old primary is alive: wait until the standby has everything it wrote before promoting.
        lossless: bool,
    },
    /// The standby has everything that the old primary, which is fenced, ever wrote: before that a planned move promotes
    /// nothing. It changes nothing.
    CaughtUp {
        /// The standby.
        database: InstanceId,
        /// The old primary.
        from: InstanceId,
    },
    /// The old primary is a streaming standby of the database that serves in its place. What it holds beyond that is
    /// overwritten.
    Rejoined {
        /// The old primary.
        database: InstanceId,
        /// The database that serves.
        from: InstanceId,
    },
    /// A managed database that has just been promoted has what its architecture gave the lost one: automatic backups, and a
    /// synchronous standby in another zone (document: "RDS PostgreSQL (Multi-AZ)", "Database Backups (Daily)").
    Protected {
        /// The database that serves.
        database: InstanceId,
        /// The lost one, whose other settings it is compared with.
        lost: InstanceId,
        /// It has a standby in another zone, or is getting one.
        multi_az: bool,
        /// Its automatic backups are kept for at least so many days; none leaves them as they are.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        backup_days: Option<u8>,
    },
    /// One key of a Secret or ConfigMap holds the value (document: Update connection strings).
    Published {
        /// Cluster.
        cluster: InstanceId,
        /// Namespace.
        namespace: String,
        /// Secret or ConfigMap.
        object: ObjectKind,
        /// Its name.
        name: String,
        /// The key.
        key: String,
        /// What it has to hold.
        value: Value,
    },
    /// The workload's pods were restarted for this plan and are ready: warm pods keep the old host otherwise.
    RolledOut {
        /// Cluster.
        cluster: InstanceId,
        /// Namespace.
        namespace: String,
        /// Deployment or StatefulSet.
        kind: WorkloadKind,
        /// Its name.
        workload: String,
    },
    /// The standby cache takes writes (document: Activate backup cluster).
    CacheActive {
        /// The standby.
        cache: InstanceId,
        /// The old one.
        from: InstanceId,
    },
    /// The replica bucket lists (document: Switch to replica region).
    StorageReachable {
        /// The replica.
        storage: InstanceId,
        /// It also holds everything that this one held: what a planned move waits for (document: Data synchronisation).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        holds_all_of: Option<InstanceId>,
    },
    /// The weights of the record set are these (document: Update DNS records).
    Traffic {
        /// The traffic component.
        traffic: ComponentId,
        /// Weight per region, all regions of the component named.
        weights: BTreeMap<RegionId, u8>,
    },
    /// The manifests are applied, server-side (document: Deploy enhanced monitoring stack).
    Manifests {
        /// Cluster.
        cluster: InstanceId,
        /// Path as configured.
        path: String,
    },
    /// What an earlier plan set holds its former value again (document: "Enable detailed logging" ends with the incident).
    Restored {
        /// Cluster.
        cluster: InstanceId,
        /// Namespace.
        namespace: String,
        /// Secret or ConfigMap.
        object: ObjectKind,
        /// Its name.
        name: String,
        /// The key.
        key: String,
        /// What the plan had set: what somebody else has set since stays.
        replaces: String,
    },
    /// What the manifests define is gone.
    ManifestsRemoved {
        /// Cluster.
        cluster: InstanceId,
        /// Path as configured.
        path: String,
    },
    /// The `dr-mode` ConfigMap says inactive: everything is where it belongs.
    IncidentEnded {
        /// Cluster that is told.
        cluster: InstanceId,
        /// Namespace of the ConfigMap.
        namespace: String,
        /// Which incident ended it.
        incident: String,
    },
    /// The configured check holds (document: Verification & Validation).
    Verified {
        /// Name of the check.
        check: String,
        /// What it expects, for people.
        expects: String,
        /// The region that has to satisfy it.
        region: RegionId,
    },
}

impl Action {
    /// What it takes away is not simply given back: it is sent while the reasons for it are fresh, or judged anew.
    pub fn is_grave(&self) -> bool {
        match self {
            Self::Fenced { .. }
            | Self::DatabasePromoted { .. }
            | Self::Rejoined { .. }
            | Self::CacheActive { .. }
            | Self::Traffic { .. } => true,
            Self::IncidentDeclared { .. }
            | Self::CaughtUp { .. }
            | Self::Protected { .. }
            | Self::Replicas { .. }
            | Self::Published { .. }
            | Self::RolledOut { .. }
            | Self::StorageReachable { .. }
            | Self::Manifests { .. }
            | Self::Restored { .. }
            | Self::ManifestsRemoved { .. }
            | Self::IncidentEnded { .. }
            | Self::Verified { .. } => false,
        }
    }

    /// What has to come over from an old instance that still answers, and from which one. Once that is lost there is
    /// nothing to wait for.
    pub fn waits_for(&self) -> Option<&InstanceId> {
        match self {
            Self::CaughtUp { from, .. } => Some(from),
            Self::StorageReachable { holds_all_of, .. } => holds_all_of.as_ref(),
            Self::IncidentDeclared { .. }
            | Self::Replicas { .. }
            | Self::Fenced { .. }
            | Self::DatabasePromoted { .. }
            | Self::Rejoined { .. }
            | Self::Protected { .. }
            | Self::Published { .. }
            | Self::RolledOut { .. }
            | Self::CacheActive { .. }
            | Self::Traffic { .. }
            | Self::Manifests { .. }
            | Self::Restored { .. }
            | Self::ManifestsRemoved { .. }
            | Self::IncidentEnded { .. }
            | Self::Verified { .. } => None,
        }
    }

    /// The instance that has to answer for the action to come about; none where it is the record of the clients' names,
    /// or a check.
    pub fn acts_at(&self) -> Option<&InstanceId> {
        match self {
            Self::IncidentDeclared { cluster, .. }
            | Self::Replicas { cluster, .. }
            | Self::Published { cluster, .. }
            | Self::RolledOut { cluster, .. }
            | Self::Manifests { cluster, .. }
            | Self::Restored { cluster, .. }
            | Self::ManifestsRemoved { cluster, .. }
            | Self::IncidentEnded { cluster, .. } => Some(cluster),
            Self::Fenced { database }
            | Self::DatabasePromoted { database, .. }
            | Self::CaughtUp { database, .. }
            | Self::Rejoined { database, .. }
            | Self::Protected { database, .. } => Some(database),
            Self::CacheActive { cache, .. } => Some(cache),
            Self::StorageReachable { storage, .. } => Some(storage),
            Self::Traffic { .. } | Self::Verified { .. } => None,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IncidentDeclared { cluster, .. } => write!(f, "declare disaster-recovery mode in {cluster}"),
            Self::Replicas { cluster, workload, replicas, at_most: true, .. } => {
                write!(f, "scale {workload} down to {replicas} replicas in {cluster}")
            }
            Self::Replicas { cluster, workload, replicas, .. } => {
                write!(f, "scale {workload} to {replicas} ready replicas in {cluster}")
            }
            Self::Fenced { database } => write!(f, "fence {database}"),
            Self::DatabasePromoted { database, lossless: true, .. } => write!(f, "promote {database} without loss"),
            Self::DatabasePromoted { database, lossless: false, .. } => write!(f, "promote {database}"),
            Self::CaughtUp { database, from } => write!(f, "wait until {database} has everything that {from} wrote"),
            Self::Rejoined { database, from } => write!(f, "make {database} a standby of {from}"),
            Self::Protected { database, multi_az, backup_days, .. } => {
                write!(f, "protect {database}: ")?;
                let backups = backup_days.map(|days| format!("backups kept for {days} days"));
                let wanted = multi_az.then(|| "Multi-AZ".to_owned()).into_iter().chain(backups);
                f.write_str(&wanted.collect::<Vec<_>>().join(", "))
            }
            Self::Published { cluster, object, name, key, value, .. } => {
                let object = object.words();
                match value {
                    Value::Literal(text) if matches!(self, Self::Published { object: ObjectKind::ConfigMap, .. }) => {
                        write!(f, "set {object} {name}/{key} to {text} in {cluster}")
                    }
                    Value::Literal(_) => write!(f, "set {object} {name}/{key} in {cluster}"),
                    Value::Of { instance, .. } => write!(f, "point {object} {name}/{key} to {instance} in {cluster}"),
                }
            }
            Self::RolledOut { cluster, workload, .. } => write!(f, "restart {workload} in {cluster}"),
            Self::CacheActive { cache, .. } => write!(f, "activate {cache}"),
            Self::StorageReachable { storage, holds_all_of: None } => write!(f, "check that {storage} can be read"),
            Self::StorageReachable { storage, holds_all_of: Some(source) } => {
                write!(f, "wait until {storage} holds every object of {source}")
            }
            Self::Traffic { weights, .. } => {
                write!(f, "move traffic: ")?;
                for (n, (region, weight)) in weights.iter().enumerate() {
                    write!(f, "{}{region} {weight}", if n == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::Manifests { cluster, path } => write!(f, "apply {path} in {cluster}"),
            Self::Restored { cluster, object, name, key, .. } => {
                write!(f, "give {} {name}/{key} its former value back in {cluster}", object.words())
            }
            Self::ManifestsRemoved { cluster, path } => write!(f, "remove what {path} defines from {cluster}"),
            Self::IncidentEnded { cluster, .. } => write!(f, "end disaster-recovery mode in {cluster}"),
            Self::Verified { expects, region, .. } => write!(f, "verify in {region}: {expects}"),
        }
    }
}
