//! One database and its guardian: armed while its role is confirmed, fenced when it is not.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::marker::Marker;
use super::reins::{Reins, Seen};
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
    /// The daemon's number for it.
    pub(super) number: u64,
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
        /// It may refuse writes all the same.
        is_demoted: bool,
    },
}

/// What a ward says of its database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// How it stands.
    Stands(Standing),
    /// The lease with that number is known to it.
    Heard(u64),
}

/// What all wards share.
pub(super) struct Means {
    pub(super) reins: Reins,
    pub(super) marker: Marker,
    pub(super) clock: Arc<dyn Clock>,
}

/// Keeps one database as its lease says. Ends with the last of those who could lease.
pub(super) async fn keep(
    database: InstanceId,
    lease: watch::Receiver<Lease>,
    means: Arc<Means>,
    out: mpsc::Sender<(InstanceId, Word)>,
) {
    let ward = Ward { database: &database, means: &means, out: &out, is_demoted: None, is_touched: true };
    // In one task: what acknowledges leases lives no longer than what acts by them.
    tokio::select! {
        () = ward.stand(lease.clone()) => {}
        () = acknowledge(&database, lease, &out) => {}
    }
}

struct Ward<'a> {
    database: &'a InstanceId,
    means: &'a Means,
    out: &'a mpsc::Sender<(InstanceId, Word)>,
    /// It refuses writes; none where that is not known.
    is_demoted: Option<bool>,
    /// Something of a demotion, half of one or a former guardian's, may be left, and what is left of it does not show in
    /// a look: so it is taken back once the role is confirmed.
    is_touched: bool,
}

impl Ward<'_> {
    async fn stand(mut self, mut lease: watch::Receiver<Lease>) {
        loop {
            let current = *lease.borrow_and_update();
            let Some(until) = current.until else {
                self.tell(Standing::Idle).await;
                if lease.changed().await.is_err() {
                    return;
                }
                continue;
            };
            if !current.left(self.means.clock.now()).is_zero() {
                self.serve(until, &mut lease).await;
            } else if self.is_demoted == Some(true) {
                self.stay(&mut lease).await;
            } else {
                self.demote().await;
            }
        }
    }

    /// The role is not confirmed: it has to refuse writes.
    async fn demote(&mut self) {
        let database = self.database;
        warn!(%database, "the role is not confirmed: it is made to refuse writes");
        self.is_touched = true;
        match self.means.reins.demote(database).await {
            Ok(note) => {
                info!(%database, "{note}");
                self.is_demoted = Some(true);
                self.tell(Standing::Demoted).await;
            }
            Err(why) => {
                error!(%database, "it could not be made to refuse writes, and is tried again: {why}");
                self.is_demoted = None;
                self.tell(Standing::Troubled { why, is_demoted: false }).await;
                sleep(AGAIN).await;
            }
        }
    }

    /// It refuses writes, and has to go on doing so.
    async fn stay(&mut self, lease: &mut watch::Receiver<Lease>) {
        let (database, means) = (self.database, self.means);
        let look = async {
            sleep(means.reins.look_every(database)).await;
            means.reins.look(database).await
        };
        let looked = tokio::select! {
            looked = look => looked,
            () = confirmed(lease, &means.clock) => return,
        };
        match looked {
            Ok(Seen { refuses: Some(true), .. }) => self.tell(Standing::Demoted).await,
            Ok(Seen { refuses: Some(false), .. }) => {
                error!(%database, "something else has let it take writes again");
                self.is_demoted = Some(false);
            }
            Ok(Seen { refuses: None, .. }) => self.is_demoted = None,
            Err(why) => {
                let why = format!("whether it still refuses writes is not known: {why}");
                self.tell(Standing::Troubled { why, is_demoted: true }).await;
            }
        }
    }

    /// The role is confirmed until then: it has to take writes, and it has to be possible to end that.
    async fn serve(&mut self, until: Duration, lease: &mut watch::Receiver<Lease>) {
        let means = self.means;
        // A look can be given up half-way; what changes something ends before the lease does.
        let looked = tokio::select! {
            looked = means.reins.look(self.database) => looked,
            () = lost(lease, &means.clock) => return,
        };
        let standing = match looked {
            Ok(seen) => match self.restore(&seen, until).await {
                // Whoever is told that it is armed counts on it, even after a restart of this machine.
                Ok(()) => tokio::select! {
                    kept = means.marker.keep(self.database) => match kept {
                        Ok(()) => Standing::Armed,
                        Err(why) => Standing::Troubled { why, is_demoted: false },
                    },
                    () = lost(lease, &means.clock) => return,
                },
                Err(why) => Standing::Troubled { why, is_demoted: true },
            },
            Err(why) => Standing::Troubled { why, is_demoted: self.is_demoted == Some(true) },
        };
        let is_well = standing == Standing::Armed;
        self.tell(standing).await;
        tokio::select! {
            () = sleep(if is_well { LOOK_EVERY } else { AGAIN * 4 }) => {}
            () = lost(lease, &means.clock) => {
                let since = human(means.clock.now().monotonic.saturating_sub(until));
                info!(database = %self.database, "its role was confirmed until {since} ago");
            }
        }
    }

    async fn restore(&mut self, seen: &Seen, until: Duration) -> Result<(), String> {
        if !self.is_touched && seen.refuses != Some(true) {
            return Ok(());
        }
        let database = self.database;
        info!(%database, "the role is confirmed: it has to take writes");
        let note = self.means.reins.restore(database, seen, until).await?;
        info!(%database, "{note}");
        (self.is_touched, self.is_demoted) = (false, Some(false));
        Ok(())
    }

    async fn tell(&self, standing: Standing) {
        let _ = self.out.send((self.database.clone(), Word::Stands(standing))).await;
    }
}

/// Says which lease is known. Ends with the last of those who could lease.
async fn acknowledge(database: &InstanceId, mut lease: watch::Receiver<Lease>, out: &mpsc::Sender<(InstanceId, Word)>) {
    loop {
        let number = lease.borrow_and_update().number;
        let _ = out.send((database.clone(), Word::Heard(number))).await;
        if lease.changed().await.is_err() {
            return;
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

/// Ends when the role is confirmed.
async fn confirmed(lease: &mut watch::Receiver<Lease>, clock: &Arc<dyn Clock>) {
    while lease.borrow_and_update().left(clock.now()).is_zero() {
        if lease.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

#[cfg(test)]
mod tests;
