//! The keys of a ledger in etcd.
//!
//! ```text
//! PREFIX/DEPLOYMENT/frames/00000000000000000042   a line as in a file, without its line break
//! PREFIX/DEPLOYMENT/tip                           index of the last frame
//! PREFIX/DEPLOYMENT/live/leader                   who leads, under its lease; its create revision is the epoch
//! PREFIX/DEPLOYMENT/live/ballots/OBSERVER         under the observer's lease
//! PREFIX/DEPLOYMENT/live/requests/ID              under a lease of a minute
//! PREFIX/DEPLOYMENT/live/answers/ID               under a lease of ten
//! ```

use std::sync::Arc;

use etcd_client::KeyValue;
use serde::{Deserialize, Serialize};

use crate::domain::ObserverId;
use crate::ledger::view::Kept;

/// All of one ledger's keys.
#[derive(Debug, Clone)]
pub(super) struct Keys(Arc<str>);

/// The value of the leader key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Leader {
    pub(super) observer: ObserverId,
    /// Tells two runs of one observer from each other, and an observer from its copy.
    pub(super) run: String,
}

impl Keys {
    pub(super) fn new(prefix: &str, deployment: &str) -> Self {
        let slash = if prefix.is_empty() || prefix.ends_with('/') { "" } else { "/" };
        Self(format!("{prefix}{slash}{deployment}/").into())
    }

    /// Behind the last frame that can be.
    pub(super) fn frames_end(&self) -> String {
        format!("{}frames0", self.0)
    }

    pub(super) fn frame(&self, index: u64) -> String {
        format!("{}frames/{index:020}", self.0)
    }

    pub(super) fn tip(&self) -> String {
        format!("{}tip", self.0)
    }

    pub(super) fn live(&self) -> String {
        format!("{}live/", self.0)
    }

    /// Behind all that is below `live/`.
    pub(super) fn live_end(&self) -> String {
        format!("{}live0", self.0)
    }

    pub(super) fn leader(&self) -> String {
        format!("{}live/leader", self.0)
    }

    pub(super) fn ballot(&self, observer: &ObserverId) -> String {
        format!("{}live/ballots/{observer}", self.0)
    }

    pub(super) fn request(&self, id: &str) -> String {
        format!("{}live/requests/{id}", self.0)
    }

    pub(super) fn answer(&self, id: &str) -> String {
        format!("{}live/answers/{id}", self.0)
    }

    /// Takes over one key below `live/`, as it is now. What cannot be read (another version wrote it) is left out.
    pub(super) fn put(&self, kept: &mut Kept, kv: &KeyValue) {
        let Some((kind, name)) = self.place(kv.key()) else { return };
        match kind.as_str() {
            "leader" => kept.leader = leader(kv),
            "ballots" => {
                if let Ok(ballot) = serde_json::from_slice(kv.value()) {
                    kept.ballots.insert(ObserverId::from(name), ballot);
                }
            }
            "requests" => {
                if let Ok(request) = serde_json::from_slice(kv.value()) {
                    kept.requests.insert(name, request);
                }
            }
            "answers" => {
                if let Ok(answer) = serde_json::from_slice(kv.value()) {
                    kept.answers.insert(name, answer);
                }
            }
            _ => {}
        }
    }

    /// One key below `live/` is gone.
    pub(super) fn delete(&self, kept: &mut Kept, key: &[u8]) {
        let Some((kind, name)) = self.place(key) else { return };
        match kind.as_str() {
            "leader" => kept.leader = None,
            "ballots" => drop(kept.ballots.remove(&ObserverId::from(name))),
            "requests" => drop(kept.requests.remove(&name)),
            "answers" => drop(kept.answers.remove(&name)),
            _ => {}
        }
    }

    fn place(&self, key: &[u8]) -> Option<(String, String)> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(&self.live())?;
        let (kind, name) = rest.split_once('/').unwrap_or((rest, ""));
        Some((kind.to_owned(), name.to_owned()))
    }
}

/// Who leads, by the leader key.
pub(super) fn leader(kv: &KeyValue) -> Option<(ObserverId, u64)> {
    let observer = match serde_json::from_slice::<Leader>(kv.value()) {
        Ok(leader) => leader.observer,
        // Written by somebody else's hand. It leads all the same.
        Err(_) => ObserverId::from("somebody"),
    };
    Some((observer, epoch(kv)))
}

/// The epoch of the leader in `kv`.
pub(super) fn epoch(kv: &KeyValue) -> u64 {
    u64::try_from(kv.create_revision()).unwrap_or(0)
}

/// The number of frames, by the tip key.
pub(super) fn frames(tip: Option<&KeyValue>) -> Option<u64> {
    tip?.value_str().ok()?.parse::<u64>().ok()?.checked_add(1)
}
