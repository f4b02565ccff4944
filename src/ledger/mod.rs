//! The ordered, durable record of facts, and the only authority on who may act.
//!
//! The port is [`crate::ports::Ledger`]. [`FileLedger`] is for one daemon and needs no other service; [`EtcdLedger`] and
//! [`S3Ledger`] are for several, of which one leads; [`MemoryLedger`] is for the simulation and fails whenever it is
//! told to. Nothing here decides anything: a ledger keeps what it is given, in order, and says truthfully whether it
//! did. `codec` is the form of a frame, which is the same everywhere; `view` is what is kept in memory beside it.

mod codec;
mod error;
mod etcd;
mod file;
mod memory;
mod permit;
mod s3;
mod view;

use std::cmp::Ordering;
use std::time::Duration;

use crate::decide::Frame;
use crate::ports::{AppendError, Lease, Unusable};

pub use codec::{FRAME_BYTES_MAX, HEADER, Torn};
pub use error::LedgerError;
pub use etcd::{EtcdLedger, answers as etcd_answers};
pub use file::{Contents, FileLedger, Opening, in_use, read};
pub use memory::{MemoryDisk, MemoryLedger, Sabotage};
pub use permit::{Durable, Permit, PermitExpired};
pub use s3::S3Ledger;
#[cfg(test)]
pub(crate) use s3::caught;

/// A leader counts on its lease for this much less than the ledger does: a fifth. It covers clocks that do not tick alike,
/// which is why it is a share: a clock may be slower than the ledger's by a tenth (the worst that was simulated is a fiftieth),
/// and half of the margin is left for an etcd leader that was deposed and still prolongs leases until it notices, which is
/// one election timeout (1 s by default, a tenth of the default lease). A machine whose clock stood still altogether finds out
/// by its wall clock (`Now::jumped_since`).
fn lease_margin(lasting: Duration) -> Duration {
    lasting / 5
}

/// A frame belongs to the epoch that its leader holds.
fn of_this_epoch(frame: &Frame, lease: &Lease) -> Result<(), AppendError> {
    match frame.epoch.cmp(&lease.epoch) {
        Ordering::Equal => Ok(()),
        Ordering::Less => Err(AppendError::Fenced { epoch: lease.epoch }),
        Ordering::Greater => Err(AppendError::Halted(format!(
            "frame {} of epoch {} was to be recorded in epoch {}",
            frame.index, frame.epoch, lease.epoch
        ))),
    }
}

fn too_many_requests() -> Unusable {
    Unusable::Refused("too many requests wait for the leader already; try again in a minute".to_owned())
}

/// The ledger's frames are of a later epoch than it hands out.
fn restored(ours: u64, theirs: u64) -> String {
    format!(
        "the ledger's last frame is of epoch {theirs} and ours is only {ours}: the store was restored from an older \
         copy. Move the ledger's keys away, start with a new ledger and run `failoverd adopt`"
    )
}

/// Nobody has begun one.
fn no_ledger(place: String) -> LedgerError {
    let why = "there is none yet; the first daemon that reaches it begins one (check prefix and deployment.name)";
    LedgerError::Unfit { place, why: why.to_owned() }
}
