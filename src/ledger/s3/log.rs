//! The record in a bucket: one object after the other, each written only where nothing is.
//!
//! An object is a frame, as a line in a file, or a fence: the mark that a leader sets before it records anything. What
//! a lower epoch writes behind a higher one's fence or frame is void, and every reader skips it. The place of an
//! object (its slot) therefore differs from the index of its frame.

use futures::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};

use super::store::{Store, unusable};
use crate::adapters::aws::Trouble;
use crate::decide::Frame;
use crate::domain::{Bug, Bugs, ObserverId};
use crate::ledger::LedgerError;
use crate::ledger::codec::Chain;
use crate::ports::Unusable;

/// Objects fetched at the same time.
const AT_ONCE: usize = 16;
/// How a fence begins; a frame begins with a number.
const FENCE: &[u8] = b"fence ";

/// As far as the record was read.
#[derive(Debug)]
pub(super) struct Log {
    /// The first one that was not there.
    pub(super) slot: u64,
    pub(super) chain: Chain,
    /// Nothing lower counts any more.
    pub(super) fence: u64,
    /// Whose fence that is: two daemons with one epoch would be a store that does not keep its word, or somebody who
    /// deleted the leader's record.
    pub(super) fence_of: String,
    /// Where each frame is.
    slots: Vec<u64>,
    /// There was something behind a place where nothing was, or something that cannot be: for a person.
    broken: Option<(u64, String)>,
    bugs: Bugs,
}

/// The mark of a new leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fence {
    pub(super) epoch: u64,
    pub(super) observer: ObserverId,
    pub(super) run: String,
}

impl Fence {
    pub(super) fn body(&self) -> Vec<u8> {
        // A struct of texts and a number can always be written.
        [FENCE, &serde_json::to_vec(self).unwrap_or_default()].concat()
    }
}

/// Why the record could not be read.
#[derive(Debug)]
pub(super) enum Unread {
    Trouble(Trouble),
    Broken { slot: u64, what: String },
}

impl From<Trouble> for Unread {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl Unread {
    pub(super) fn ledger_error(self, store: &Store) -> LedgerError {
        let place = store.place();
        match self {
            Self::Trouble(trouble) => match unusable(&trouble) {
                Unusable::Refused(why) | Unusable::Halted(why) => LedgerError::Unfit { place, why },
                Unusable::Unavailable(why) => LedgerError::unavailable(place, why),
            },
            Self::Broken { slot, what } => LedgerError::Broken { place, frame: slot, what },
        }
    }

    pub(super) fn unusable(self, store: &Store) -> Unusable {
        match self {
            Self::Trouble(trouble) => unusable(&trouble),
            broken @ Self::Broken { .. } => Unusable::Halted(broken.ledger_error(store).to_string()),
        }
    }
}

/// The key of a slot.
pub(super) fn key(slot: u64) -> String {
    format!("frames/{slot:020}")
}

impl Log {
    pub(super) fn new() -> Self {
        Self::with(Bugs::default())
    }

    /// With a deliberate bug, in tests.
    pub(super) fn with(bugs: Bugs) -> Self {
        Self { slot: 0, chain: Chain::start(), fence: 0, fence_of: String::new(), slots: vec![], broken: None, bugs }
    }

    /// The next object; its frame, where it has one that counts.
    pub(super) fn take(&mut self, body: &[u8]) -> Result<Option<Frame>, String> {
        let found = self.judge(body);
        match found {
            Ok(frame) => {
                if frame.is_some() {
                    self.slots.push(self.slot);
                }
                self.slot += 1;
                Ok(frame)
            }
            Err(what) => {
                self.broken = Some((self.slot, what.clone()));
                Err(what)
            }
        }
    }

    fn judge(&mut self, body: &[u8]) -> Result<Option<Frame>, String> {
        if let Some(fence) = body.strip_prefix(FENCE) {
            let fence: Fence = serde_json::from_slice(fence).map_err(|error| format!("no fence of ours ({error})"))?;
            if fence.epoch > self.fence {
                (self.fence, self.fence_of) = (fence.epoch, fence.run);
            }
            return Ok(None);
        }
        if Chain::after(body)?.epoch < self.fence && !self.bugs.has(Bug::LowerEpochApplied) {
            return Ok(None);
        }
        let frame = self.chain.follow(body)?;
        if frame.epoch > self.fence {
            (self.fence, self.fence_of) = (frame.epoch, String::new());
        }
        Ok(Some(frame))
    }

    /// Reads on to the end; the frames that are new.
    pub(super) async fn catch_up(&mut self, store: &Store) -> Result<Vec<Frame>, Unread> {
        if let Some((slot, what)) = &self.broken {
            return Err(Unread::Broken { slot: *slot, what: what.clone() });
        }
        let mut frames = vec![];
        if self.slot == 0 {
            let count = self.count(store).await?;
            let mut bodies = futures::stream::iter(0..count).map(|slot| body(store, slot)).buffered(AT_ONCE);
            while let Some(body) = bodies.try_next().await? {
                frames.extend(self.follow(&body)?);
            }
        }
        while let Some((body, _)) = store.get(&key(self.slot)).await? {
            frames.extend(self.follow(&body)?);
        }
        Ok(frames)
    }

    fn follow(&mut self, body: &[u8]) -> Result<Option<Frame>, Unread> {
        let slot = self.slot;
        self.take(body).map_err(|what| Unread::Broken { slot, what })
    }

    /// The number of objects, which stand side by side.
    async fn count(&mut self, store: &Store) -> Result<u64, Unread> {
        let listed = store.list("frames/", None, false).await?;
        for (slot, object) in (0..).zip(&listed) {
            if object.key != key(slot) {
                let what = format!("it is missing, and there is {} after it", object.key);
                self.broken = Some((slot, what.clone()));
                return Err(Unread::Broken { slot, what });
            }
        }
        Ok(listed.len() as u64)
    }

    /// Nothing may be behind the end.
    pub(super) async fn check_end(&mut self, store: &Store) -> Result<(), Unread> {
        let end = key(self.slot);
        let behind = store.list("frames/", Some(&end), true).await?;
        if let Some(object) = behind.first()
            && store.get(&end).await?.is_none()
        {
            let what = format!("it is missing, and there is {} after it", object.key);
            self.broken = Some((self.slot, what.clone()));
            return Err(Unread::Broken { slot: self.slot, what });
        }
        Ok(())
    }

    /// Every frame from `index` on, as of now.
    pub(super) async fn read_from(&mut self, store: &Store, index: u64) -> Result<Vec<Frame>, Unread> {
        let known = self.chain;
        let news = self.catch_up(store).await?;
        if index >= known.next {
            return Ok(news.into_iter().filter(|frame| frame.index >= index).collect());
        }
        let from = usize::try_from(index).unwrap_or(usize::MAX);
        let until = usize::try_from(known.next).unwrap_or(usize::MAX);
        let mut chain = match from.checked_sub(1).and_then(|before| self.slots.get(before)) {
            Some(slot) => {
                let body = body(store, *slot).await?;
                Chain::after(&body).map_err(|what| Unread::Broken { slot: *slot, what })?
            }
            None => Chain::start(),
        };
        let old = self.slots.get(from..until).unwrap_or_default().to_vec();
        let mut bodies = futures::stream::iter(old)
            .map(|slot| async move { body(store, slot).await.map(|body| (slot, body)) })
            .buffered(AT_ONCE);
        let mut frames = vec![];
        while let Some((slot, body)) = bodies.try_next().await? {
            frames.push(chain.follow(&body).map_err(|what| Unread::Broken { slot, what })?);
        }
        if chain != known {
            let what = "the frames up to it are not the ones that were there".to_owned();
            return Err(Unread::Broken { slot: self.slot, what });
        }
        frames.extend(news);
        Ok(frames)
    }
}

async fn body(store: &Store, slot: u64) -> Result<Vec<u8>, Unread> {
    match store.get(&key(slot)).await? {
        Some((body, _)) => Ok(body),
        None => Err(Unread::Broken { slot, what: "it was there and is missing now".to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::Fact;
    use crate::domain::Now;
    use crate::ledger::codec;

    fn frame(index: u64, epoch: u64) -> Frame {
        let at = Now { monotonic: std::time::Duration::ZERO, wall: jiff::Timestamp::UNIX_EPOCH };
        let facts = match index {
            0 => vec![Fact::LedgerCreated { ledger: "ledger".into() }],
            _ => vec![Fact::Resumed { by: "ada".to_owned() }],
        };
        Frame { index, epoch, at, facts }
    }

    fn line(log: &Log, frame: &Frame) -> Vec<u8> {
        let (mut line, _) = codec::encode(log.chain.head, frame).unwrap();
        line.pop();
        line
    }

    #[test]
    fn what_a_lower_epoch_writes_behind_a_fence_is_void_for_every_reader() {
        let mut log = Log::new();
        let fence = |epoch| Fence { epoch, observer: "a".into(), run: "run".to_owned() }.body();
        let first = line(&log, &frame(0, 0));
        log.take(&first).unwrap();
        log.take(&fence(3)).unwrap();
        let stale = line(&log, &frame(1, 2));
        assert_eq!(log.take(&stale), Ok(None));
        let good = line(&log, &frame(1, 3));
        assert_eq!(log.take(&good), Ok(Some(frame(1, 3))));
        // A fence that came too late fences nobody.
        log.take(&fence(2)).unwrap();
        let next = line(&log, &frame(2, 3));
        assert_eq!(log.take(&next), Ok(Some(frame(2, 3))));
        log.take(&fence(4)).unwrap();
        let deposed = line(&log, &frame(3, 3));
        assert_eq!(log.take(&deposed), Ok(None));
        assert_eq!((log.slot, log.chain.next, log.slots), (8, 3, vec![0, 3, 5]));
    }

    #[test]
    fn a_frame_that_does_not_fit_the_ones_before_it_is_damage() {
        let mut log = Log::new();
        let other = line(&log, &frame(1, 0));
        assert!(log.take(&other).is_err());
        assert!(log.take(b"something else").is_err());
    }
}
