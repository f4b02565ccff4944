//! The daemon's side: keeps a guardian beside the database, and tells the event loop what is guarded.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::super::clock::SystemClock;
use super::super::handle::Handle;
use super::super::supervise::supervise;
use super::companion::{Companion, Feed, Stranger};
use super::{Report, guarded, marker};
use crate::config::Config;
use crate::decide::{Confirmed, Input};
use crate::domain::InstanceId;
use crate::ports::Clock as _;

/// A guardian that ended is started again after this.
const START_AGAIN: Duration = Duration::from_secs(1);
/// Whether somebody else's guardian has left is looked at after this.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Key of the alarm about the guardian.
const ALARM: &str = "guardian";

/// Keeps a guardian while the daemon runs.
#[derive(Debug)]
pub(in crate::daemon) struct Keeper {
    /// The configuration was read again.
    renew: watch::Sender<Arc<Config>>,
    /// Nobody guards any more, and the ledger knows; or nothing ever was.
    released: CancellationToken,
}

struct Parts {
    paths: Vec<PathBuf>,
    config: watch::Receiver<Arc<Config>>,
    handle: Handle,
    inputs: mpsc::Sender<Input>,
    draining: CancellationToken,
    released: CancellationToken,
    feed: Feed,
}

impl Keeper {
    /// Starts the task that keeps one, where there is something to guard.
    pub(in crate::daemon) fn start(
        paths: Vec<PathBuf>,
        config: Arc<Config>,
        handle: Handle,
        inputs: mpsc::Sender<Input>,
        draining: CancellationToken,
        stop: &CancellationToken,
    ) -> Self {
        let feed = Feed {
            board: handle.board().clone(),
            region: config.observer.region.clone(),
            self_fence_after: config.api.self_fence_after,
        };
        let (renew, config) = watch::channel(config);
        let released = CancellationToken::new();
        let parts = Parts { paths, config, handle, inputs, draining, released: released.clone(), feed };
        let parts = Arc::new(parts);
        let task = move || keep(parts.clone());
        tokio::spawn(supervise("guardian", stop.clone(), task));
        Self { renew, released }
    }

    /// A new configuration: a new guardian takes over.
    pub(in crate::daemon) fn renew(&self, config: Arc<Config>) {
        self.renew.send_replace(config);
    }

    /// Ends when nobody guards any more.
    pub(in crate::daemon) fn released(&self) -> CancellationToken {
        self.released.clone()
    }
}

async fn keep(parts: Arc<Parts>) {
    let mut config = parts.config.clone();
    let mut companion = None;
    loop {
        let current = config.borrow_and_update().clone();
        let end = if companion.is_none() && guarded(&current).is_empty() {
            Ok(parts.rest(&current, &mut config).await)
        } else {
            parts.accompany(&current, &mut companion, &mut config).await
        };
        let why = match end {
            Ok(End::Renewed) => continue,
            Ok(End::Released) => {
                companion = None;
                parts.handle.warn(ALARM, None).await;
                if parts.draining.is_cancelled() {
                    parts.released.cancel();
                    return std::future::pending().await;
                }
                continue;
            }
            Err(why) => why,
        };
        error!("the guardian is started again: {why}");
        companion = companion.filter(|companion| !companion.ended.is_finished());
        let text = match &companion {
            None => {
                parts.guards(BTreeSet::new()).await;
                format!("no guardian is beside the database, so it would not fence itself: {why}")
            }
            Some(_) => format!("the guardian goes on by the former configuration, because the next one fails: {why}"),
        };
        parts.handle.warn(ALARM, Some(text)).await;
        sleep(START_AGAIN).await;
    }
}

/// Why a guardian is not accompanied any longer.
enum End {
    /// There is another configuration.
    Renewed,
    /// It is not needed any more.
    Released,
}

impl Parts {
    async fn guards(&self, databases: BTreeSet<InstanceId>) {
        let _ = self.inputs.send(Input::Guarded(databases)).await;
    }

    /// Nothing is to be guarded.
    async fn rest(&self, config: &Config, renewed: &mut watch::Receiver<Arc<Config>>) -> End {
        let since = SystemClock.now().monotonic;
        self.guards(BTreeSet::new()).await;
        let mut is_tidy = false;
        loop {
            let mut stranger = Stranger::find(config);
            let is_known = is_known_since(&self.feed.board.confirmations().borrow(), since + settled(config));
            self.handle.warn(ALARM, stranger.as_ref().map(|stranger| abandoned(stranger.pid))).await;
            // Left by a guardian that did not leave in order, and nobody relies on that one any more.
            if !is_tidy && stranger.is_none() && is_known {
                is_tidy = true;
                let path = marker::place(config);
                let removed = tokio::task::spawn_blocking(move || marker::remove(&path)).await;
                if let Ok(Err(error)) = removed {
                    warn!("{} cannot be removed: {error}", marker::place(config).display());
                }
            }
            let look_again = async {
                match &mut stranger {
                    Some(stranger) => stranger.ends().await,
                    None => sleep(LOOK_AGAIN).await,
                }
            };
            tokio::select! {
                _ = renewed.changed() => return End::Renewed,
                () = self.draining.cancelled() => return End::Released,
                () = look_again => {}
            }
        }
    }

    /// Starts one in the place of the former one, and stays with it until it ends, or has to.
    async fn accompany(
        &self,
        config: &Config,
        companion: &mut Option<Companion>,
        renewed: &mut watch::Receiver<Arc<Config>>,
    ) -> Result<End, String> {
        if !guarded(config).is_empty() {
            // Until it is there, the former one is fed.
            *companion = Some(Companion::start(&self.paths, config, self.feed.clone()).await?);
        }
        let Some(companion) = companion else { return Ok(End::Released) };
        let mut confirmed = self.feed.board.confirmations();
        let mut is_needed = !guarded(config).is_empty() && !self.draining.is_cancelled();
        let mut left_since = None;
        loop {
            if !is_needed && left_since.is_none() {
                // Still there until the ledger knows.
                left_since = Some(SystemClock.now().monotonic);
                self.guards(BTreeSet::new()).await;
            }
            if left_since.is_some_and(|since| is_known_since(&confirmed.borrow_and_update(), since + settled(config))) {
                companion.leave().await;
                info!("the guardian has left: the ledger knows that nobody guards");
                return Ok(End::Released);
            }
            tokio::select! {
                why = &mut companion.ended => return Err(why.unwrap_or_else(|panic| panic.to_string())),
                Ok(()) = companion.reports.changed() => {
                    let report = companion.reports.borrow_and_update().clone();
                    self.tell(&report, is_needed).await;
                }
                _ = confirmed.changed(), if left_since.is_some() => {}
                () = self.draining.cancelled(), if is_needed => is_needed = false,
                _ = renewed.changed(), if !self.draining.is_cancelled() => {
                    if !guarded(&renewed.borrow()).is_empty() {
                        return Ok(End::Renewed);
                    }
                    is_needed = false;
                }
            }
        }
    }

    async fn tell(&self, report: &Report, is_needed: bool) {
        if is_needed {
            self.guards(report.armed.clone()).await;
        }
        let names =
            |databases: &BTreeSet<InstanceId>| databases.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let trouble: Vec<String> = report.trouble.iter().map(|(id, why)| format!("{id}: {why}")).collect();
        let text = match (report.demoted.is_empty(), trouble.is_empty()) {
            (true, true) => None,
            (true, false) => Some(format!("the guardian cannot do its work: {}", trouble.join("; "))),
            (false, _) => {
                let mut text = format!(
                    "the guardian has made {} refuse writes, because the role is not confirmed; it takes writes again \
                     once the role is",
                    names(&report.demoted)
                );
                if !trouble.is_empty() {
                    text.push_str(&format!("; {}", trouble.join("; ")));
                }
                Some(text)
            }
        };
        self.handle.warn(ALARM, text).await;
    }
}

/// Whether the ledger has confirmed at `since` or later that this daemon guards nothing.
fn is_known_since(confirmed: &Confirmed, since: Duration) -> bool {
    confirmed.guarded.is_empty() && confirmed.by_ledger >= Some(since)
}

/// For so long what this daemon said last may count as fresh for somebody, and be recorded.
fn settled(config: &Config) -> Duration {
    if config.ledger.is_shared() { config.council.ballot_fresh } else { Duration::ZERO }
}

/// The alarm about a guardian that nobody feeds.
fn abandoned(pid: u32) -> String {
    format!(
        "a guardian that an earlier run left (process {pid}) holds a database that this configuration does not guard: no role \
         is confirmed to it, so it makes the database refuse writes, and nothing takes that back; configure `demote` as it \
         was and a mode other than observe, restart, and take it out with a reload once the database takes writes"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guardian_leaves_by_what_the_ledger_confirmed_since_and_not_by_what_was_known_before() {
        let at = Duration::from_secs;
        let knows = |by_ledger: Option<u64>, guarded: &[InstanceId]| Confirmed {
            // The other daemons promise roles too, and know nothing of guardians.
            at: Some(at(99)),
            by_ledger: by_ledger.map(at),
            guarded: guarded.iter().cloned().collect(),
            ..Confirmed::default()
        };
        assert!(!is_known_since(&knows(None, &[]), at(20)));
        assert!(!is_known_since(&knows(Some(19), &[]), at(20)), "what it said may still be recorded");
        assert!(!is_known_since(&knows(Some(21), &[InstanceId::new("database", "east")]), at(20)));
        assert!(is_known_since(&knows(Some(20), &[]), at(20)));
    }
}
