//! The ledger in etcd, for several daemons.
//!
//! The leader is who created the leader key, which lives as long as its lease; the epoch is the revision in which that
//! was. A frame is recorded in one transaction, which compares the leader key, the absence of the index and the index
//! before it: whoever leads no more cannot record. What is not known to be recorded is told so, never denied.
//!
//! Nothing is polled. A watch keeps the soft part in memory, and requests go out for what is asked of us, for renewals
//! and for ballots. Every request has a time limit, and goes to the next member where one does not answer.

mod follow;
mod keys;
mod members;
mod record;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Compare, CompareOp, PutOptions, ResponseHeader, Txn, TxnOp, TxnOpResponse};
use tokio::sync::{Mutex as Turn, Notify};
use tokio::task::JoinHandle;

use self::keys::{Keys, Leader};
pub use self::members::answers;
use self::members::{Failure, FailureKind, Members};
use self::record::Tip;
use super::view::{Kept, REQUESTS_MAX, View};
use super::{Durable, LedgerError, lease_margin, too_many_requests};
use crate::config::schema;
use crate::decide::Frame;
use crate::domain::{Now, ObserverId};
use crate::health::Ballot;
use crate::ports::{AppendError, Candidacy, Clock, Lease, Ledger, OperatorAnswer, OperatorRequest, Standing, Unusable};

/// Ballots of an observer that ended go away after this; freshness is judged by the reader, long before.
const BALLOT_LIFE: Duration = Duration::from_secs(60);
/// An operator who waits longer has given up.
const REQUEST_LIFE: Duration = Duration::from_secs(60);
/// Long enough to ask again what became of a command.
const ANSWER_LIFE: Duration = Duration::from_secs(600);
/// Longest ballot, request or answer; the largest real one names every instance, some 30 kB.
const SOFT_BYTES_MAX: usize = 512 * 1024;
/// After so many ballots of our own without a word from the watch, it is opened anew if there are others to hear of.
const UNHEARD_MAX: u32 = 3;
/// A ledger in etcd. See [`Ledger`] for what it promises.
pub struct EtcdLedger {
    shared: Arc<Shared>,
    observer: ObserverId,
    run: String,
    lasting: Duration,
    compact_after: Duration,
    clock: Arc<dyn Clock>,
    created: AtomicBool,
    /// Campaigns, renewals and resignations, one at a time.
    office: Turn<Office>,
    lease: Mutex<Option<Lease>>,
    /// Appends, one at a time.
    appending: Turn<()>,
    tip: Mutex<Tip>,
    /// Lease of our ballot, and when it was prolonged last.
    ballot: Turn<Option<(i64, Duration)>>,
    follower: JoinHandle<()>,
}

/// What the watch shares with the rest.
struct Shared {
    members: Members,
    keys: Keys,
    view: View,
    /// Of what the view says about the leader. Older news do not replace newer ones.
    revision: Mutex<i64>,
    observer: ObserverId,
    /// So many ballots of ours since the watch was heard of.
    unheard: AtomicU32,
    /// The watch is silent although others publish.
    silent: Notify,
}

/// What we hold.
#[derive(Default)]
struct Office {
    /// The lease of our candidacy; there may be a leader key under it.
    lease: Option<i64>,
    /// When old revisions were removed last, and the revision then.
    compacted: Option<(Duration, i64)>,
}

impl std::fmt::Debug for EtcdLedger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdLedger").field("observer", &self.observer).finish_non_exhaustive()
    }
}

impl Drop for EtcdLedger {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl EtcdLedger {
    /// A run of `observer` starts to use the ledger of `deployment`. Does not wait for etcd: what is asked of the
    /// ledger says whether it answers. Has to be called in a runtime.
    pub fn open(
        settings: &schema::EtcdLedger,
        deployment: &str,
        observer: ObserverId,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, LedgerError> {
        if settings.endpoints.is_empty() {
            let why = "no endpoints are configured".to_owned();
            return Err(LedgerError::Unfit { place: "in etcd".to_owned(), why });
        }
        let shared = Arc::new(Shared {
            members: Members::new(settings.clone()),
            keys: Keys::new(&settings.prefix, deployment),
            view: View::default(),
            revision: Mutex::default(),
            observer: observer.clone(),
            unheard: AtomicU32::new(0),
            silent: Notify::new(),
        });
        let follower = tokio::spawn(follow::follow(shared.clone()));
        Ok(Self {
            shared,
            observer,
            run: uuid::Uuid::now_v7().to_string(),
            lasting: settings.lease,
            compact_after: settings.compact_after,
            clock,
            created: AtomicBool::new(false),
            office: Turn::default(),
            lease: Mutex::default(),
            appending: Turn::default(),
            tip: Mutex::default(),
            ballot: Turn::default(),
            follower,
        })
    }

    async fn ensure_created(&self) -> Result<(), Failure> {
        if !self.created.load(Ordering::Relaxed) {
            self.create(self.clock.now()).await?;
            self.created.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn tip(&self) -> MutexGuard<'_, Tip> {
        self.tip.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease(&self) -> Option<Lease> {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lease is another one's, or nobody's.
    fn lose(&self) {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn fenced(&self, epoch: u64) -> AppendError {
        let leads = self.shared.view.standing(None, None).leader.map_or(0, |(_, epoch)| epoch);
        AppendError::Fenced { epoch: leads.max(epoch + 1) }
    }

    /// The lease was granted or prolonged by a request that was sent after `sent`.
    fn leading(&self, epoch: u64, sent: Now) -> Lease {
        let ttl = self.ttl();
        let lease = Lease { epoch, until: sent.monotonic.saturating_add(ttl.saturating_sub(lease_margin(ttl))) };
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease);
        lease
    }

    fn value(&self) -> Result<Vec<u8>, Failure> {
        let leader = Leader { observer: self.observer.clone(), run: self.run.clone() };
        serde_json::to_vec(&leader).map_err(|error| Failure::unavailable(error.to_string()))
    }

    /// Asks for the leader and the number of frames, with `more` in the same transaction, and takes note of them.
    async fn look(&self, sent: Now, more: Option<TxnOp>) -> Result<(Option<etcd_client::KeyValue>, i64), Failure> {
        let keys = &self.shared.keys;
        let mut both = vec![TxnOp::get(keys.leader(), None), TxnOp::get(keys.tip(), None)];
        both.extend(more);
        let both = Txn::new().and_then(both);
        let answer = self.shared.members.transact(both).await?;
        let mut found = answer.op_responses().into_iter().filter_map(|response| match response {
            TxnOpResponse::Get(mut got) => Some(got.take_kvs().pop()),
            TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
        });
        let (leader, tip) = (found.next().flatten(), found.next().flatten());
        let revision = answer.header().map_or(0, ResponseHeader::revision);
        self.shared.at_revision(revision, true, |kept| kept.leader = leader.as_ref().and_then(keys::leader));
        self.shared.view.reached(keys::frames(tip.as_ref()).unwrap_or(0));
        self.shared.members.confirm(sent);
        Ok((leader, revision))
    }

    /// Whether the leader key is ours: written by this run, under the lease that it holds.
    fn is_ours(&self, office: &Office, leader: &etcd_client::KeyValue) -> bool {
        let value = serde_json::from_slice::<Leader>(leader.value());
        office.lease == Some(leader.lease()) && value.is_ok_and(|value| value.run == self.run)
    }

    /// etcd counts leases in whole seconds.
    fn ttl(&self) -> Duration {
        Duration::from_secs(self.lasting.as_secs().max(1))
    }

    async fn stand(&self, office: &mut Office, now: Now) -> Result<Candidacy, Failure> {
        self.ensure_created().await?;
        let (leader, _) = self.look(now, None).await?;
        if let Some(leader) = leader {
            if !self.is_ours(office, &leader) {
                self.lose();
                return Ok(following(&leader));
            }
            let is_over = self.lease().is_some_and(|lease| lease.until <= now.monotonic);
            if !is_over && !self.tip().is_unsettled {
                self.shared.members.keep_alive(leader.lease()).await?;
                return Ok(Candidacy::Leading(self.leading(keys::epoch(&leader), now)));
            }
            // A new epoch: a frame of this one that is still on its way must not arrive behind the caller's back.
            match self.shared.members.revoke(leader.lease()).await {
                Ok(()) | Err(Failure { kind: FailureKind::NoLease, .. }) => {}
                Err(failure) => return Err(failure),
            }
        }
        self.lose();
        let id = self.shared.members.grant(self.ttl()).await?;
        // From here on there may be a leader key of ours, whatever we hear.
        office.lease = Some(id);
        let key = self.shared.keys.leader();
        let take = Txn::new()
            .when(vec![Compare::create_revision(key.clone(), CompareOp::Equal, 0)])
            .and_then(vec![TxnOp::put(key.clone(), self.value()?, Some(PutOptions::new().with_lease(id)))])
            .or_else(vec![TxnOp::get(key, None)]);
        let answer = self.shared.members.transact_once(take).await?;
        let revision = answer.header().map_or(0, ResponseHeader::revision);
        if answer.succeeded() {
            self.tip().is_unsettled = false;
            let epoch = u64::try_from(revision).unwrap_or(0);
            let observer = self.observer.clone();
            self.shared.at_revision(revision, true, |kept| kept.leader = Some((observer, epoch)));
            return Ok(Candidacy::Leading(self.leading(epoch, now)));
        }
        office.lease = None;
        let _ = self.shared.members.revoke(id).await;
        for response in answer.op_responses() {
            if let TxnOpResponse::Get(mut got) = response
                && let Some(leader) = got.take_kvs().pop()
            {
                self.shared.at_revision(revision, true, |kept| kept.leader = keys::leader(&leader));
                return Ok(following(&leader));
            }
        }
        Err(Failure::unavailable("the leadership changed while it was asked for"))
    }

    async fn prolong(&self, office: &mut Office, now: Now) -> Result<Option<Lease>, Failure> {
        let (Some(id), Some(_)) = (office.lease, self.lease()) else { return Ok(None) };
        match self.shared.members.keep_alive(id).await {
            Ok(()) => {}
            Err(Failure { kind: FailureKind::NoLease, .. }) => {
                self.lose();
                return Ok(None);
            }
            Err(failure) => return Err(failure),
        }
        let (leader, revision) = self.look(now, None).await?;
        let Some(leader) = leader.filter(|leader| self.is_ours(office, leader)) else {
            self.lose();
            return Ok(None);
        };
        self.compact(office, now, revision);
        Ok(Some(self.leading(keys::epoch(&leader), now)))
    }

    /// Every ballot is a revision, which etcd keeps until it is told not to; the default quota is used up in weeks.
    fn compact(&self, office: &mut Office, now: Now, revision: i64) {
        let (when, old) = *office.compacted.get_or_insert((now.monotonic, revision));
        if self.compact_after.is_zero() || now.monotonic.saturating_sub(when) < self.compact_after {
            return;
        }
        office.compacted = Some((now.monotonic, revision));
        let shared = self.shared.clone();
        drop(tokio::spawn(async move {
            // Somebody else may have compacted further; the next time is soon enough.
            let _ = shared.members.compact(old).await;
        }));
    }

    /// Does `all` under the new lease `id`, unless the key `unless` is there: then the lease is given back.
    async fn put(&self, id: i64, all: Vec<TxnOp>, unless: Option<String>) -> Result<(), Failure> {
        let absent = |key| Compare::create_revision(key, CompareOp::Equal, 0);
        let put = Txn::new().when(unless.map(absent).into_iter().collect::<Vec<_>>()).and_then(all);
        if self.shared.members.transact(put).await?.succeeded() {
            return Ok(());
        }
        self.shared.members.revoke(id).await
    }
}

impl Shared {
    /// Takes over what was true at `revision`; about the leader only if nothing newer is known.
    fn at_revision(&self, revision: i64, about_leader: bool, change: impl FnOnce(&mut Kept)) {
        if !about_leader {
            return self.view.update(change);
        }
        let mut known = self.revision.lock().unwrap_or_else(PoisonError::into_inner);
        if revision >= *known {
            *known = revision;
            self.view.update(change);
        }
    }
}

fn following(leader: &etcd_client::KeyValue) -> Candidacy {
    let (observer, epoch) = keys::leader(leader).unwrap_or_else(|| (ObserverId::from("somebody"), keys::epoch(leader)));
    Candidacy::Following { leader: observer, epoch }
}

fn json(what: &str, value: &impl serde::Serialize) -> Result<Vec<u8>, Unusable> {
    let json =
        serde_json::to_vec(value).map_err(|error| Unusable::Refused(format!("{what} cannot be written: {error}")))?;
    if json.len() > SOFT_BYTES_MAX {
        return Err(Unusable::Refused(format!("{what} has {} bytes; {SOFT_BYTES_MAX} are allowed", json.len())));
    }
    Ok(json)
}

#[async_trait]
impl Ledger for EtcdLedger {
    async fn campaign(&self, now: Now) -> Result<Candidacy, Unusable> {
        let mut office = self.office.lock().await;
        self.stand(&mut office, now).await.map_err(Failure::unusable)
    }

    async fn renew(&self, now: Now) -> Result<Option<Lease>, Unusable> {
        let mut office = self.office.lock().await;
        self.prolong(&mut office, now).await.map_err(Failure::unusable)
    }

    async fn resign(&self) {
        let mut office = self.office.lock().await;
        self.lose();
        if let Some(id) = office.lease.take() {
            // Where it does not arrive the lease runs out.
            let _ = self.shared.members.revoke(id).await;
        }
    }

    async fn append(&self, frame: Frame) -> Result<Durable, AppendError> {
        self.record(frame).await
    }

    async fn read_from(&self, index: u64) -> Result<Vec<Frame>, LedgerError> {
        if let Err(failure) = self.ensure_created().await {
            return Err(LedgerError::unavailable(self.shared.members.place(), failure.why));
        }
        self.read(index).await
    }

    async fn changed(&self, index: u64) {
        self.shared.view.changed(index).await;
    }

    async fn stirred(&self, since: u64) -> u64 {
        self.shared.view.stirred(since).await
    }

    async fn publish(&self, ballot: &Ballot) -> Result<(), Unusable> {
        let value = json("the ballot", ballot)?;
        let key = self.shared.keys.ballot(&ballot.observer);
        let now = self.clock.now();
        if self.shared.unheard.fetch_add(1, Ordering::Relaxed) >= UNHEARD_MAX
            && self.shared.view.ballots().iter().any(|other| other.observer != self.observer)
        {
            self.shared.unheard.store(0, Ordering::Relaxed);
            self.shared.silent.notify_one();
        }
        let mut held = self.ballot.lock().await;
        // The second time with a new lease, should the old one be gone.
        for _ in 0..2 {
            let id = match *held {
                Some((id, since)) if now.monotonic.saturating_sub(since) < BALLOT_LIFE / 3 => id,
                Some((id, _)) => match self.shared.members.keep_alive(id).await {
                    Ok(()) => id,
                    Err(Failure { kind: FailureKind::NoLease, .. }) => {
                        *held = None;
                        continue;
                    }
                    Err(failure) => return Err(failure.unusable()),
                },
                None => self.shared.members.grant(BALLOT_LIFE).await.map_err(Failure::unusable)?,
            };
            if held.is_none_or(|(_, since)| now.monotonic.saturating_sub(since) >= BALLOT_LIFE / 3) {
                *held = Some((id, now.monotonic));
            }
            let put = TxnOp::put(key.clone(), value.clone(), Some(PutOptions::new().with_lease(id)));
            match self.look(now, Some(put)).await {
                Ok(_) => {
                    self.shared.view.update(|kept| drop(kept.ballots.insert(ballot.observer.clone(), ballot.clone())));
                    return Ok(());
                }
                Err(Failure { kind: FailureKind::NoLease, .. }) => *held = None,
                Err(failure) => return Err(failure.unusable()),
            }
        }
        Err(Unusable::Unavailable("the lease of the ballot is lost again and again".to_owned()))
    }

    fn ballots(&self) -> Vec<Ballot> {
        self.shared.view.ballots()
    }

    async fn request(&self, request: &OperatorRequest) -> Result<(), Unusable> {
        let value = json("the request", request)?;
        if self.shared.view.requests().len() >= REQUESTS_MAX {
            return Err(too_many_requests());
        }
        let (key, answer) = (self.shared.keys.request(&request.id), self.shared.keys.answer(&request.id));
        let id = self.shared.members.grant(REQUEST_LIFE).await.map_err(Failure::unusable)?;
        let put = TxnOp::put(key, value, Some(PutOptions::new().with_lease(id)));
        self.put(id, vec![put], Some(answer)).await.map_err(Failure::unusable)
    }

    fn requests(&self) -> Vec<OperatorRequest> {
        self.shared.view.requests()
    }

    async fn answer(&self, id: &str, answer: &OperatorAnswer) -> Result<(), Unusable> {
        let value = json("the answer", answer)?;
        let (request, key) = (self.shared.keys.request(id), self.shared.keys.answer(id));
        let lease = self.shared.members.grant(ANSWER_LIFE).await.map_err(Failure::unusable)?;
        let put = TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)));
        let done = vec![put, TxnOp::delete(request, None)];
        self.put(lease, done, None).await.map_err(Failure::unusable)
    }

    fn answer_of(&self, id: &str) -> Option<OperatorAnswer> {
        self.shared.view.answer_of(id)
    }

    fn standing(&self) -> Standing {
        let (confirmed, trouble) = self.shared.members.health();
        self.shared.view.standing(confirmed, trouble)
    }
}
