//! The guardian: a process of its own beside the database of this daemon's region, which makes it refuse writes where
//! its role is not confirmed any more.
//!
//! Another process, because what has to work is just what a daemon that was stopped (SIGSTOP, a debugger, a hang) or
//! killed cannot do. The daemon passes every confirmation of a role on as a lease; when one runs out, or the role is
//! taken away, the guardian puts the fence up, and tries until it stands. When the role is confirmed again it takes the
//! fence down. It outlives the daemon, and a new daemon's guardian takes the leases of the old one over.
//!
//! They talk over a Unix socket in the abstract namespace (nothing to clean up, nothing to fill up), in lines of JSON.
//! Times are `CLOCK_BOOTTIME`, which all processes of a machine share. In one network namespace there can be one
//! guardian for each daemon's name.

mod companion;
mod guard;
mod keeper;
mod marker;
mod reins;
mod ward;

use std::collections::{BTreeMap, BTreeSet};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use guard::{GuardArgs, run};
pub(super) use keeper::Keeper;

use crate::config::Config;
use crate::domain::{ComponentId, InstanceId, Mode};

/// What the daemon says to the guardian, or a new guardian to the old one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    /// The region has these roles, until then. Milliseconds of `CLOCK_BOOTTIME`.
    Lease {
        /// Rises with every lease of a conversation; acknowledged in `Report::heard`.
        number: u64,
        /// End of the confirmation.
        until: u64,
        /// The components that the region serves.
        roles: BTreeSet<ComponentId>,
    },
    /// Another guardian takes over: tell what is going on, and end.
    HandOver,
    /// The ledger knows that nobody guards any more: end.
    Leave,
}

/// What the guardian says to the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Report {
    /// Its process.
    pid: u32,
    /// Databases that it would fence, and could.
    armed: BTreeSet<InstanceId>,
    /// Databases that it has fenced.
    demoted: BTreeSet<InstanceId>,
    /// What keeps it from fencing, or from taking a fence down.
    trouble: BTreeMap<InstanceId, String>,
    /// Number of the last lease that is known wherever something is guarded.
    heard: Option<u64>,
    /// For a successor: until when each role is confirmed.
    leases: BTreeMap<InstanceId, u64>,
}

/// The databases that a daemon with this configuration guards: those of its own region that have a `demote`. Who only
/// observes changes nothing.
fn guarded(config: &Config) -> BTreeSet<InstanceId> {
    if config.deployment.mode == Mode::Observe {
        return BTreeSet::new();
    }
    let region = &config.observer.region;
    let databases = config.databases.iter().filter(|(_, of)| of.demote.is_some() && of.regions.contains_key(region));
    databases.map(|(id, _)| InstanceId { component: id.clone(), region: region.clone() }).collect()
}

/// Where the guardian of this daemon listens.
fn address(config: &Config) -> std::io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("failoverd-guardian/{}/{}", config.deployment.name, config.observer.name))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
