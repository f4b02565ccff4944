//! The record in etcd: reading it whole and checked, and appending to it in one transaction.

use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, Txn, TxnOp, TxnOpResponse};

use super::members::FailureKind;
use super::{EtcdLedger, Failure, keys};
use crate::decide::{Fact, Frame};
use crate::domain::{LedgerId, Now};
use crate::ledger::codec::{self, Chain, Head};
use crate::ledger::permit::Durable;
use crate::ledger::{Contents, LedgerError, no_ledger, of_this_epoch, restored};
use crate::ports::{AppendError, Lease};

/// etcd takes requests of up to 1.5 MiB; the rest is room for keys and compares.
pub(super) const LINE_BYTES_MAX: usize = 1_400_000;
/// Frames in one answer, and how long that can be.
const PAGE: i64 = 64;
const PAGE_BYTES_MAX: usize = 64 * (LINE_BYTES_MAX + 1024);
/// A reading that a compaction interrupts begins anew so often.
const READINGS_MAX: u32 = 3;

/// What is known of the end of the record, and what was sent there.
#[derive(Debug, Default)]
pub(super) struct Tip {
    /// After the last frame that was seen.
    chain: Option<Chain>,
    /// The last frame that was sent, as it was sent.
    sent: Option<Sent>,
    /// Nobody knows yet what became of it.
    pub(super) is_unsettled: bool,
}

#[derive(Debug, Clone)]
struct Sent {
    frame: Frame,
    line: Vec<u8>,
    after: Chain,
}

/// What to do for a frame.
enum Prepared {
    /// Send this.
    Line(Sent),
    /// Nothing: it stands at its index.
    There(u64),
    /// Nothing, for this reason, unless another leader is the reason.
    Wrong(String),
}

impl EtcdLedger {
    /// The whole record as it is now, for people. Changes nothing.
    ///
    /// # Errors
    /// Where it cannot be read, is damaged, or is not there.
    pub async fn contents(&self) -> Result<Contents, LedgerError> {
        let frames = self.read(0).await?;
        let chain = self.tip().chain.filter(|chain| chain.next > 0);
        match chain {
            Some(chain) => Ok(Contents { frames, count: chain.next, head: chain.head.text(), torn: None }),
            None => Err(no_ledger(self.shared.members.place())),
        }
    }

    /// Writes the first frame, unless there is one.
    pub(super) async fn create(&self, now: Now) -> Result<(), Failure> {
        let ledger = LedgerId::from(uuid::Uuid::now_v7().to_string());
        let frame = Frame { index: 0, epoch: 0, at: now, facts: vec![Fact::LedgerCreated { ledger }] };
        let (line, _) =
            codec::encode(Head::start(), &frame).map_err(|error| Failure::unavailable(error.to_string()))?;
        let line = line.trim_ascii_end().to_vec();
        let keys = &self.shared.keys;
        let create = Txn::new()
            .when(vec![
                Compare::create_revision(keys.frame(0), CompareOp::Equal, 0),
                Compare::create_revision(keys.tip(), CompareOp::Equal, 0),
            ])
            .and_then(vec![TxnOp::put(keys.frame(0), line, None), TxnOp::put(keys.tip(), "0", None)]);
        self.shared.members.transact(create).await.map(drop)
    }

    pub(super) async fn read(&self, index: u64) -> Result<Vec<Frame>, LedgerError> {
        let place = self.shared.members.place();
        let unreadable = |failure: Failure| match failure.kind {
            FailureKind::Refused => LedgerError::Unfit { place: place.clone(), why: failure.why },
            FailureKind::Unavailable | FailureKind::NoLease | FailureKind::Compacted => {
                LedgerError::unavailable(place.clone(), failure.why)
            }
        };
        let broken = |frame, what| LedgerError::Broken { place: place.clone(), frame, what };
        let known = self.tip().chain;
        let mut lines = self.lines(index.saturating_sub(1)).await.map_err(unreadable)?.into_iter();
        let mut chain = Chain::start();
        if index > 0 {
            let Some(before) = lines.next() else {
                return match known.filter(|known| known.next >= index) {
                    Some(_) => Err(broken(index - 1, "it was there and is missing now".to_owned())),
                    None => Ok(vec![]),
                };
            };
            self.is_at(&before, index - 1).map_err(|what| broken(index - 1, what))?;
            chain = Chain::after(before.value()).map_err(|what| broken(index - 1, what))?;
        }
        let mut frames = vec![];
        loop {
            if known.is_some_and(|known| known.next == chain.next && known != chain) {
                return Err(broken(chain.next, "the frames before it are not the ones that were there".to_owned()));
            }
            let Some(kv) = lines.next() else { break };
            self.is_at(&kv, chain.next).map_err(|what| broken(chain.next, what))?;
            let next = chain.next;
            frames.push(chain.follow(kv.value()).map_err(|what| broken(next, what))?);
        }
        if let Some(known) = known.filter(|known| known.next > chain.next) {
            return Err(broken(chain.next, format!("it is missing, and so are all up to frame {}", known.next - 1)));
        }
        let mut tip = self.tip();
        if tip.chain.is_none_or(|known| known.next < chain.next) {
            tip.chain = Some(chain);
        }
        self.shared.view.reached(chain.next);
        Ok(frames)
    }

    fn is_at(&self, kv: &KeyValue, index: u64) -> Result<(), String> {
        if kv.key() == self.shared.keys.frame(index).as_bytes() {
            return Ok(());
        }
        Err(format!("it is missing, and there is {} after it", String::from_utf8_lossy(kv.key())))
    }

    /// Every line from `index` on, of one revision, page by page.
    async fn lines(&self, index: u64) -> Result<Vec<KeyValue>, Failure> {
        for _ in 1..READINGS_MAX {
            match self.lines_once(index).await {
                Err(failure) if failure.kind == FailureKind::Compacted => {}
                conclusive => return conclusive,
            }
        }
        self.lines_once(index).await
    }

    async fn lines_once(&self, index: u64) -> Result<Vec<KeyValue>, Failure> {
        let mut lines: Vec<KeyValue> = vec![];
        let mut from = self.shared.keys.frame(index);
        let mut revision = 0;
        loop {
            // The first page is linearizable: it asks for the latest revision. The others stay with that one.
            let options =
                GetOptions::new().with_range(self.shared.keys.frames_end()).with_limit(PAGE).with_revision(revision);
            let mut page = self.shared.members.get(&from, options, PAGE_BYTES_MAX).await?;
            if revision == 0 {
                revision = page.header().map_or(0, etcd_client::ResponseHeader::revision);
            }
            let more = page.more();
            lines.extend(page.take_kvs());
            match lines.last() {
                Some(last) if more => from = format!("{}\0", String::from_utf8_lossy(last.key())),
                Some(_) | None => return Ok(lines),
            }
        }
    }

    pub(super) async fn record(&self, frame: Frame) -> Result<Durable, AppendError> {
        let _one = self.appending.lock().await;
        let Some(lease) = self.lease() else { return Err(self.fenced(frame.epoch)) };
        of_this_epoch(&frame, &lease)?;
        let sent = match self.prepare(frame).await? {
            Prepared::Line(sent) => sent,
            Prepared::There(index) => return self.stands_there(index, &lease).await,
            Prepared::Wrong(why) => {
                return match self.still_leads(&lease).await? {
                    true => Err(AppendError::Halted(why)),
                    false => Err(self.fenced(lease.epoch)),
                };
            }
        };
        let (index, keys) = (sent.frame.index, &self.shared.keys);
        let Some(before) = index.checked_sub(1) else {
            return Err(AppendError::Halted("the first frame of a ledger is not appended".to_owned()));
        };
        let epoch = i64::try_from(lease.epoch).unwrap_or(i64::MAX);
        let append = Txn::new()
            .when(vec![
                Compare::create_revision(keys.leader(), CompareOp::Equal, epoch),
                Compare::create_revision(keys.frame(index), CompareOp::Equal, 0),
                Compare::value(keys.tip(), CompareOp::Equal, before.to_string()),
            ])
            .and_then(vec![
                TxnOp::put(keys.frame(index), sent.line.clone(), None),
                TxnOp::put(keys.tip(), index.to_string(), None),
            ])
            .or_else(vec![
                TxnOp::get(keys.leader(), None),
                TxnOp::get(keys.frame(index), None),
                TxnOp::get(keys.tip(), None),
            ]);
        self.tip().is_unsettled = true;
        let answer = self.shared.members.transact_once(append).await;
        let answer = answer.map_err(|failure| AppendError::Unknown(failure.why))?;
        // The transaction was judged: what was sent before it can only have come before it, or comes to nothing.
        self.tip().is_unsettled = false;
        if answer.succeeded() {
            return Ok(self.recorded(&sent, &lease));
        }
        let mut found = answer.op_responses().into_iter().map(|response| match response {
            TxnOpResponse::Get(mut got) => got.take_kvs().pop(),
            TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
        });
        let (leader, there, tip) = (found.next().flatten(), found.next().flatten(), found.next().flatten());
        let leads = leader.as_ref().map(keys::epoch);
        if leads != Some(lease.epoch) {
            self.lose();
            let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
            return Err(AppendError::Fenced { epoch: leads.unwrap_or(u64::try_from(revision).unwrap_or(0) + 1) });
        }
        match there {
            Some(there) if there.value() == sent.line => Ok(self.recorded(&sent, &lease)),
            Some(_) => Err(AppendError::Halted(format!("another frame stands at index {index} of our own epoch"))),
            None => Err(AppendError::Halted(format!(
                "frame {index} was to be recorded where frame {} belongs",
                keys::frames(tip.as_ref()).unwrap_or(0)
            ))),
        }
    }

    /// The frame was found in the record: it is as good as appended, as long as we lead.
    async fn stands_there(&self, index: u64, lease: &Lease) -> Result<Durable, AppendError> {
        match self.still_leads(lease).await? {
            true => Ok(Durable::recorded(index, lease)),
            false => Err(self.fenced(lease.epoch)),
        }
    }

    async fn still_leads(&self, lease: &Lease) -> Result<bool, AppendError> {
        let (leader, _) =
            self.look(self.clock.now(), None).await.map_err(|failure| AppendError::Unknown(failure.why))?;
        let leads = leader.as_ref().map(keys::epoch) == Some(lease.epoch);
        if !leads {
            self.lose();
        }
        Ok(leads)
    }

    fn recorded(&self, sent: &Sent, lease: &Lease) -> Durable {
        let mut tip = self.tip();
        if tip.chain.is_none_or(|chain| chain.next < sent.after.next) {
            tip.chain = Some(sent.after);
        }
        self.shared.view.reached(sent.after.next);
        // The lease may have been renewed meanwhile; it is the same epoch, or the transaction would have failed.
        let lease = self.lease().filter(|now| now.epoch == lease.epoch).unwrap_or(*lease);
        Durable::recorded(sent.frame.index, &lease)
    }

    /// The line of `frame`; the one that was sent before where it is sent again.
    async fn prepare(&self, frame: Frame) -> Result<Prepared, AppendError> {
        if let Some(sent) = &self.tip().sent
            && sent.frame == frame
        {
            return Ok(Prepared::Line(sent.clone()));
        }
        let index = frame.index;
        let known = self.tip().chain;
        if known.is_none_or(|chain| chain.next != index) {
            // Somebody else wrote meanwhile, or this one was written in an earlier run of ours.
            let from = known.map_or(0, |chain| chain.next.min(index));
            let frames = self.read(from).await.map_err(|error| AppendError::Unknown(error.to_string()))?;
            let after = from + frames.len() as u64;
            if index > after {
                return Ok(Prepared::Wrong(format!("frame {index} was to be recorded where frame {after} belongs")));
            }
            if index < after {
                return Ok(match frames.iter().find(|there| there.index == index) {
                    Some(there) if *there == frame => Prepared::There(index),
                    Some(_) | None => Prepared::Wrong(format!("another frame stands at index {index} already")),
                });
            }
        }
        let mut tip = self.tip();
        let Some(before) = tip.chain.filter(|chain| chain.next == index) else {
            return Err(AppendError::Unknown("the record has grown meanwhile".to_owned()));
        };
        if frame.epoch < before.epoch {
            return Err(AppendError::Halted(restored(frame.epoch, before.epoch)));
        }
        let (mut line, head) =
            codec::encode(before.head, &frame).map_err(|error| AppendError::Halted(error.to_string()))?;
        line.pop();
        if line.len() > LINE_BYTES_MAX {
            return Err(AppendError::Halted(format!(
                "frame {index} has {} bytes; etcd takes up to {LINE_BYTES_MAX}",
                line.len()
            )));
        }
        let after = Chain { head, next: index + 1, epoch: frame.epoch };
        let sent = Sent { frame, line, after };
        tip.sent = Some(sent.clone());
        Ok(Prepared::Line(sent))
    }
}
