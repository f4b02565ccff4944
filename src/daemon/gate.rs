//! What is looked at before every single mutating call: the permit, the stop file, the halt, the end of the daemon.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::decide::{OWED, Standstill};
use crate::domain::time::human;
use crate::ports::{Clock, Permit};

/// A local disk answers in microseconds; one that does not answer is no reason to act.
const STOP_FILE_WITHIN: Duration = Duration::from_secs(2);
/// The event loop answers in a turn.
const RENEWAL_WITHIN: Duration = Duration::from_secs(5);

/// Why a mutating call may not be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// The daemon ends; the step goes on after the next start.
    Draining,
    /// Something broke here.
    Halted(String),
    /// A person stopped everything: the stop file.
    Stopped(String),
    /// By the ledger: paused, held, or another failoverd is in charge.
    Held(String),
    /// The permit ran out, and was not renewed.
    NoPermit(String),
    /// The world is another one than when the step was judged.
    Outdated(String),
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Draining => f.write_str("the daemon is ending"),
            Self::Halted(why) => write!(f, "halted: {why}"),
            Self::Stopped(why) | Self::Held(why) | Self::Outdated(why) => f.write_str(why),
            Self::NoPermit(why) => write!(f, "no permit to act: {why}"),
        }
    }
}

/// The gate in front of every effect. Shared by the event loop, which closes it, and the executor, which asks.
pub struct Gate {
    stop_file: PathBuf,
    clock: Arc<dyn Clock>,
    halted: ArcSwapOption<String>,
    standstill: ArcSwap<Standstill>,
    draining: CancellationToken,
}

impl Gate {
    /// A gate that is open unless `stop_file` exists.
    pub fn new(stop_file: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self {
            stop_file,
            clock,
            halted: ArcSwapOption::empty(),
            standstill: ArcSwap::default(),
            draining: CancellationToken::new(),
        }
    }

    /// Nothing is performed until a restart. The first reason stays.
    pub fn halt(&self, why: &str) {
        if self.halted.load().is_none() {
            self.halted.store(Some(Arc::new(why.to_owned())));
        }
    }

    /// Why it is halted, if it is.
    pub fn halted(&self) -> Option<Arc<String>> {
        self.halted.load_full()
    }

    /// What people have paused or hold, as the ledger has it, and who else is in charge.
    pub fn stand_still(&self, standstill: Standstill) {
        if **self.standstill.load() != standstill {
            self.standstill.store(Arc::new(standstill));
        }
    }

    /// Whether work on `key` (`plan/step`) is paused or held, or another failoverd is in charge. An owed fence belongs to no
    /// plan and goes on while people hold the rest.
    pub fn moves(&self, key: &str) -> Result<(), Closed> {
        let standstill = self.standstill.load();
        if let Some(claimed) = &standstill.claimed {
            return Err(Closed::Held(claimed.clone()));
        }
        let Some((plan, _)) = key.split_once('/') else { return Ok(()) };
        if plan == OWED {
            return Ok(());
        }
        if let Some(paused) = &standstill.paused {
            return Err(Closed::Held(paused.clone()));
        }
        if standstill.held.iter().any(|held| held.as_str() == plan) {
            return Err(Closed::Held("a person holds the incident".to_owned()));
        }
        Ok(())
    }

    /// No new effects; what runs stops between two calls.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Ends when the daemon does.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// The stop file.
    pub fn stop_file(&self) -> &Path {
        &self.stop_file
    }

    /// Everything but the permit.
    ///
    /// A stop file that cannot be looked for counts as one that is there: a person who cannot stop failoverd any
    /// other way must be able to rely on it.
    pub async fn pass(&self) -> Result<(), Closed> {
        if self.draining.is_cancelled() {
            return Err(Closed::Draining);
        }
        if let Some(why) = self.halted() {
            return Err(Closed::Halted(why.as_ref().clone()));
        }
        self.stop_file_absent().await
    }

    /// Whether the stop file is absent.
    pub async fn stop_file_absent(&self) -> Result<(), Closed> {
        let file = self.stop_file.display();
        let looked = tokio::time::timeout(STOP_FILE_WITHIN, tokio::fs::symlink_metadata(&self.stop_file)).await;
        match looked {
            Ok(Ok(_)) => Err(Closed::Stopped(format!("the stop file {file} is there; remove it to go on"))),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Ok(Err(error)) => Err(Closed::Stopped(format!(
                "cannot tell whether the stop file {file} is there ({error}); nothing is done until this is put right"
            ))),
            Err(_elapsed) => Err(Closed::Stopped(format!(
                "cannot tell whether the stop file {file} is there: no answer within {}",
                human(STOP_FILE_WITHIN)
            ))),
        }
    }

    /// Everything: an answer is the permit to use for the next call, renewed where less than `needed` was left of it; or, for
    /// what is `again` sent of `key`, in any case, because it is judged by that.
    pub async fn pass_with(
        &self,
        key: &str,
        permit: &Permit,
        needed: Duration,
        again: bool,
        permits: &Permits,
    ) -> Result<Permit, Closed> {
        self.pass().await?;
        let permit = match permit.time_left(self.clock.now()) {
            Ok(left) if left >= needed && !again => permit.clone(),
            Ok(_) | Err(_) => permits.renew(key, permit).await?,
        };
        // The renewal took its time.
        self.pass().await?;
        Ok(permit)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("stop_file", &self.stop_file).field("halted", &self.halted).finish_non_exhaustive()
    }
}

/// Asks the event loop for more time: it knows whether the ledger is still ours.
#[derive(Debug, Clone)]
pub struct Permits {
    requests: mpsc::Sender<Renewal>,
}

/// One request for more time.
#[derive(Debug)]
pub struct Renewal {
    /// `plan/step`.
    pub key: String,
    /// The permit that ran out, or nearly.
    pub permit: Permit,
    /// Where the answer goes: a new permit, or why not.
    pub answer: oneshot::Sender<Result<Permit, Closed>>,
}

impl Permits {
    /// Requests go to the receiver; at most as many wait as there are running steps.
    pub fn channel() -> (Self, mpsc::Receiver<Renewal>) {
        let (requests, receiver) = mpsc::channel(64);
        (Self { requests }, receiver)
    }

    async fn renew(&self, key: &str, permit: &Permit) -> Result<Permit, Closed> {
        let (answer, answered) = oneshot::channel();
        let asking = async {
            let (key, permit) = (key.to_owned(), permit.clone());
            self.requests.send(Renewal { key, permit, answer }).await.ok()?;
            answered.await.ok()
        };
        match tokio::time::timeout(RENEWAL_WITHIN, asking).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(Closed::NoPermit("the event loop has ended".to_owned())),
            Err(_elapsed) => Err(Closed::NoPermit("the event loop does not answer".to_owned())),
        }
    }
}
