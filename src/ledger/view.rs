//! What a ledger keeps in memory besides the record: who leads, ballots, operators' requests, and who waits for news.
//!
//! Shared by all ledgers. A file and a disk in memory write it themselves, etcd's is written by a watch and S3's by a
//! poll. Everything in it is bounded.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::domain::ObserverId;
use crate::health::Ballot;
use crate::ports::{OperatorAnswer, OperatorRequest, Standing, Unusable};

/// Requests and answers kept at a time. More than a handful at once is a mistake of whoever asks.
pub(super) const REQUESTS_MAX: usize = 64;
/// Observers whose ballots are kept. A deployment has one for each region.
pub(super) const BALLOTS_MAX: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct View {
    kept: Mutex<Kept>,
    frames: watch::Sender<u64>,
    version: watch::Sender<u64>,
}

/// The content of a [`View`].
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Kept {
    pub(super) leader: Option<(ObserverId, u64)>,
    pub(super) ballots: BTreeMap<ObserverId, Ballot>,
    pub(super) requests: BTreeMap<String, OperatorRequest>,
    pub(super) answers: BTreeMap<String, OperatorAnswer>,
}

impl Kept {
    /// What is beyond the bound goes, the lowest ids first: ids that carry their time are the oldest.
    fn bound(&mut self) {
        while self.requests.len() > REQUESTS_MAX {
            self.requests.pop_first();
        }
        while self.answers.len() > REQUESTS_MAX {
            self.answers.pop_first();
        }
        while self.ballots.len() > BALLOTS_MAX {
            self.ballots.pop_last();
        }
    }

    pub(super) fn answer(&mut self, id: &str, answer: &OperatorAnswer) {
        self.requests.remove(id);
        self.answers.insert(id.to_owned(), answer.clone());
    }
}

impl Default for View {
    fn default() -> Self {
        Self { kept: Mutex::default(), frames: watch::Sender::new(0), version: watch::Sender::new(1) }
    }
}

impl View {
    /// Changes the content; whoever waits for news wakes up if it is another one now.
    pub(super) fn update(&self, change: impl FnOnce(&mut Kept)) {
        let mut kept = self.lock();
        let before = kept.clone();
        change(&mut kept);
        kept.bound();
        if *kept != before {
            // While the lock is held: a version that was read with the content is never too new for it.
            self.version.send_modify(|version| *version += 1);
        }
    }

    /// There are at least so many frames.
    pub(super) fn reached(&self, frames: u64) {
        self.frames.send_if_modified(|known| {
            let is_news = frames > *known;
            *known = frames.max(*known);
            is_news
        });
    }

    pub(super) fn frames(&self) -> u64 {
        *self.frames.borrow()
    }

    pub(super) async fn changed(&self, index: u64) {
        // The sender lives as long as we do.
        let _ = self.frames.subscribe().wait_for(|frames| *frames > index).await;
    }

    pub(super) async fn stirred(&self, since: u64) -> u64 {
        let mut versions = self.version.subscribe();
        versions.wait_for(|version| *version > since).await.map_or(since, |version| *version)
    }

    pub(super) fn ballots(&self) -> Vec<Ballot> {
        self.lock().ballots.values().cloned().collect()
    }

    pub(super) fn requests(&self) -> Vec<OperatorRequest> {
        self.lock().requests.values().cloned().collect()
    }

    pub(super) fn answer_of(&self, id: &str) -> Option<OperatorAnswer> {
        self.lock().answers.get(id).cloned()
    }

    pub(super) fn standing(&self, confirmed: Option<Duration>, trouble: Option<Unusable>) -> Standing {
        let kept = self.lock();
        let (frames, version) = (self.frames(), *self.version.borrow());
        Standing { leader: kept.leader.clone(), frames, confirmed, trouble, version }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
