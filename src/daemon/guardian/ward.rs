//! One database and its guardian: armed while its role is confirmed, fenced when it is not.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::reins::Reins;
use crate::domain::time::human;
use crate::domain::{InstanceId, Now};
use crate::ports::Clock;

/// Whether it could be fenced is looked at again after this.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// A fence that does not stand is tried again after this.
const AGAIN: Duration = Duration::from_millis(250);
/// Timers do not count a suspended machine's time; the clock is looked at again after this.
const CLOCK_EVERY: Duration = Duration::from_millis(250);

/// Until when the role is confirmed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lease {
    /// `CLOCK_BOOTTIME`. None: it never was, so that there is nothing to take back.
    pub(super) until: Option<Duration>,
    /// Both clocks when that was said: where they have jumped apart since, nobody knows how long ago it was.
    pub(super) said: Option<Now>,
}

impl Lease {
    /// What is left of it.
    fn left(&self, now: Now) -> Duration {
        let is_steady = self.said.is_none_or(|said| now.jumped_since(said).is_none());
        self.until.filter(|_| is_steady).unwrap_or_default().saturating_sub(now.monotonic)
    }
}

/// How a database stands with its guardian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its role was never confirmed here.
    Idle,
    /// It would be fenced, and can be.
    Armed,
    /// It refuses writes.
    Demoted,
    /// Something is in the way.
    Troubled {
        /// What.
        why: String,
        /// It refuses writes all the same, and should not any more.
        is_demoted: bool,
    },
}

/// Keeps one database as its lease says.
pub(super) async fn keep(
    database: InstanceId,
    mut lease: watch::Receiver<Lease>,
    reins: Arc<Reins>,
    clock: Arc<dyn Clock>,
    out: mpsc::Sender<(InstanceId, Standing)>,
) {
    let tell = async |standing: Standing| {
        let _ = out.send((database.clone(), standing)).await;
    };
    // None: not known, so that a fence that a former guardian put up is found.
    let mut is_demoted = None;
    loop {
        let current = *lease.borrow_and_update();
        let Some(until) = current.until else {
            tell(Standing::Idle).await;
            if lease.changed().await.is_err() {
                return;
            }
            continue;
        };
        if current.left(clock.now()).is_zero() {
            if is_demoted != Some(true) {
                warn!(%database, "the role is not confirmed any more: it is made to refuse writes");
                match reins.demote(&database).await {
                    Ok(note) => {
                        info!(%database, "{note}");
                        is_demoted = Some(true);
                        tell(Standing::Demoted).await;
                    }
                    Err(why) => {
                        error!(%database, "it could not be made to refuse writes, and is tried again: {why}");
                        tell(Standing::Troubled { why, is_demoted: false }).await;
                        sleep(AGAIN).await;
                    }
                }
                continue;
            }
            if lease.changed().await.is_err() {
                return;
            }
            continue;
        }
        // A look can be given up half-way; what changes something ends before the lease does.
        let looked = tokio::select! {
            looked = reins.look(&database) => looked,
            () = lost(&mut lease, &clock) => continue,
        };
        let standing = match looked {
            Ok(fenced) if fenced => {
                info!(%database, "the role is confirmed: it takes writes again");
                match reins.restore(&database, until).await {
                    Ok(note) => {
                        info!(%database, "{note}");
                        Standing::Armed
                    }
                    Err(why) => Standing::Troubled { why, is_demoted: true },
                }
            }
            Ok(_) => Standing::Armed,
            Err(why) => Standing::Troubled { why, is_demoted: is_demoted == Some(true) },
        };
        is_demoted = Some(matches!(standing, Standing::Troubled { is_demoted: true, .. }));
        let is_well = standing == Standing::Armed;
        tell(standing).await;
        tokio::select! {
            () = sleep(if is_well { LOOK_EVERY } else { AGAIN * 4 }) => {}
            () = lost(&mut lease, &clock) => {
                info!(%database, "its role was confirmed until {} ago", human(clock.now().monotonic.saturating_sub(until)));
            }
        }
    }
}

/// Ends when the role is not confirmed any more.
async fn lost(lease: &mut watch::Receiver<Lease>, clock: &Arc<dyn Clock>) {
    loop {
        let left = lease.borrow_and_update().left(clock.now());
        if left.is_zero() {
            return;
        }
        tokio::select! {
            () = sleep(left.min(CLOCK_EVERY)) => {}
            // Without anybody who could prolong it, it runs out.
            changed = lease.changed() => if changed.is_err() { sleep(left.min(CLOCK_EVERY)).await },
        }
    }
}
