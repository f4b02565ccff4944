//! The ledger in a bucket with conditional writes, for several daemons that have no etcd.
//!
//! The leader renews a record; whoever sees the very same record for a whole lease, on its own clock, may replace it:
//! wall clocks are never compared. That alone fences nobody. The fence is in the log: before a new leader records
//! anything, it sets its mark at the first free place, and takes over whatever beat it there. From then on nothing of a
//! lower epoch counts.
//!
//! A store that ignores the conditions of a write would let two daemons act; it is found out before the first use.

mod append;
mod follow;
mod log;
#[cfg(test)]
mod race;
mod store;

#[cfg(test)]
pub(crate) use race::caught;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex as Turn, OnceCell};
use tokio::task::JoinHandle;

use self::log::{Fence, Log, Unread};
use self::store::{Condition, Store, Written};
use super::codec::{self, Head};
use super::view::{REQUESTS_MAX, View};
use super::{Contents, Durable, LedgerError, lease_margin, no_ledger, too_many_requests};
use crate::adapters::aws::{Trouble, TroubleKind};
use crate::config::schema;
use crate::decide::{Fact, Frame};
use crate::domain::{LedgerId, Now, ObserverId};
use crate::health::Ballot;
use crate::ports::{AppendError, Candidacy, Clock, Lease, Ledger, OperatorAnswer, OperatorRequest, Standing, Unusable};

/// Where the leader's record is.
const LEADER: &str = "live/leader";
/// A ballot that does not change for so long is cleared away; freshness is judged by the reader, long before.
const BALLOT_LIFE: Duration = Duration::from_secs(60);
/// An operator who waits longer has given up.
const REQUEST_LIFE: Duration = Duration::from_secs(60);
/// Long enough to ask again what became of a command.
const ANSWER_LIFE: Duration = Duration::from_secs(600);
/// Places that others may take before a mark or a frame of ours, one after the other.
const BEATEN_MAX: u32 = 100;

/// A ledger in a bucket. See [`Ledger`] for what it promises.
pub struct S3Ledger {
    shared: Arc<Shared>,
    /// Campaigns, renewals and resignations, one at a time.
    office: Turn<Option<Office>>,
    lease: Mutex<Option<Lease>>,
    /// Appends, one at a time; the last frame that was sent, and the line that it became.
    sent: Turn<Option<(Frame, Vec<u8>)>>,
    /// Nobody knows yet what became of it.
    is_unsettled: AtomicBool,
    follower: JoinHandle<()>,
}

/// What the look every now and then shares with the rest.
struct Shared {
    store: Store,
    view: View,
    log: Turn<Log>,
    clock: Arc<dyn Clock>,
    observer: ObserverId,
    run: String,
    lasting: Duration,
    /// The record as it was seen last, and since when it has been that one.
    seen: Mutex<Option<Sighting>>,
    health: Mutex<(Option<Duration>, Option<Unusable>)>,
    ready: OnceCell<()>,
}

/// The leader's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    observer: ObserverId,
    run: String,
    epoch: u64,
    /// Rises with every renewal, so that each has a tag of its own.
    beat: u64,
    /// How long it may stay unchanged, in milliseconds.
    lease_ms: u64,
    /// Given back.
    #[serde(default)]
    resigned: bool,
}

#[derive(Debug, Clone)]
struct Sighting {
    tag: String,
    record: Record,
    since: Duration,
}

/// What we hold: the record as we wrote it last.
#[derive(Debug, Clone)]
struct Office {
    tag: String,
    record: Record,
    fenced: bool,
}

impl std::fmt::Debug for S3Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Ledger").field("observer", &self.shared.observer).finish_non_exhaustive()
    }
}

impl Drop for S3Ledger {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl S3Ledger {
    /// A run of `observer` starts to use the ledger of `deployment`. Does not wait for the store: what is asked of the
    /// ledger says whether it answers. Has to be called in a runtime.
    pub fn open(
        settings: &schema::S3Ledger,
        deployment: &str,
        observer: ObserverId,
        nameservers: &[SocketAddr],
        clock: Arc<dyn Clock>,
    ) -> Result<Self, LedgerError> {
        let shared = Arc::new(Shared::new(settings, deployment, observer, nameservers, clock)?);
        let follower = tokio::spawn(follow::follow(shared.clone(), settings.poll));
        Ok(Self {
            shared,
            office: Turn::default(),
            lease: Mutex::default(),
            sent: Turn::default(),
            is_unsettled: AtomicBool::new(false),
            follower,
        })
    }

    /// Asks the bucket whether it is there: its name, and what it said, or what was seen instead.
    pub(crate) async fn answers(
        settings: &schema::S3Ledger,
        deployment: &str,
        nameservers: &[SocketAddr],
    ) -> (String, Result<String, String>) {
        match Store::new(settings, deployment, nameservers) {
            Ok(store) => (format!("s3://{}", settings.bucket), store.answers().await),
            Err(why) => (format!("s3://{}", settings.bucket), Err(why)),
        }
    }

    /// The whole record as it is now, for people. Changes nothing.
    ///
    /// # Errors
    /// Where it cannot be read, is damaged, or is not there.
    pub async fn contents(
        settings: &schema::S3Ledger,
        deployment: &str,
        nameservers: &[SocketAddr],
    ) -> Result<Contents, LedgerError> {
        let store = store(settings, deployment, nameservers)?;
        let mut log = Log::new();
        let frames = log.read_from(&store, 0).await.map_err(|unread| unread.ledger_error(&store))?;
        if frames.is_empty() {
            return Err(no_ledger(store.place()));
        }
        Ok(Contents { frames, count: log.chain.next, head: log.chain.head.text(), torn: None })
    }

    fn lease(&self) -> Option<Lease> {
        *self.held()
    }

    fn held(&self) -> MutexGuard<'_, Option<Lease>> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record was written by a request that was sent at `sent`.
    fn leading(&self, epoch: u64, sent: Now) -> Lease {
        let lasting = self.shared.lasting;
        let until = sent.monotonic.saturating_add(lasting.saturating_sub(lease_margin(lasting)));
        let lease = Lease { epoch, until };
        *self.held() = Some(lease);
        self.shared.lead(Some((self.shared.observer.clone(), epoch)));
        lease
    }

    async fn stand(&self, office: &mut Option<Office>) -> Result<Candidacy, Unread> {
        self.shared.ensure_ready().await?;
        if office.is_some() {
            let now = self.shared.clock.now().monotonic;
            let is_over = self.lease().is_some_and(|lease| lease.until <= now);
            if is_over || self.is_unsettled.load(Ordering::Relaxed) {
                // A new epoch: a frame of this one that is still on its way must not arrive behind the caller's back.
                self.give_back(office).await?;
            } else if let Some(lease) = self.prolong(office).await? {
                return Ok(Candidacy::Leading(lease));
            }
        }
        let seen = self.shared.observe().await?;
        let condition = match &seen {
            None => Condition::Absent,
            // A write of ours that was given up for lost. It was never renewed, so it counts as anybody's.
            Some(seen) if !self.shared.is_over(seen) => {
                return Ok(Candidacy::Following { leader: seen.record.observer.clone(), epoch: seen.record.epoch });
            }
            Some(seen) => Condition::Is(&seen.tag),
        };
        let mut log = self.shared.log.lock().await;
        log.catch_up(&self.shared.store).await?;
        let epoch = log.fence.max(seen.as_ref().map_or(0, |seen| seen.record.epoch)) + 1;
        drop(log);
        let record = self.shared.record(epoch, 0);
        let sent = self.shared.clock.now();
        match self.shared.store.put(LEADER, &record.body(), condition).await? {
            Written::Done(tag) => {
                *office = Some(Office { tag, record, fenced: false });
                self.fence(office, sent).await
            }
            Written::Beaten => {
                // Somebody was quicker; who, the next look says.
                self.shared.observe().await?;
                let leader = self.shared.seen().map(|seen| (seen.record.observer, seen.record.epoch));
                let (leader, epoch) = leader.unwrap_or((ObserverId::from("somebody"), epoch));
                Ok(Candidacy::Following { leader, epoch })
            }
        }
    }

    /// The record says that nobody holds it any more. Where somebody else holds it, it is left alone.
    async fn give_back(&self, office: &mut Option<Office>) -> Result<(), Trouble> {
        *self.held() = None;
        let Some(Office { tag, mut record, .. }) = office.clone() else { return Ok(()) };
        record.beat += 1;
        record.resigned = true;
        self.shared.store.put(LEADER, &record.body(), Condition::Is(&tag)).await?;
        *office = None;
        Ok(())
    }

    /// Sets our mark in the log, behind everything that beat it there. Only then do we lead.
    async fn fence(&self, office: &mut Option<Office>, sent: Now) -> Result<Candidacy, Unread> {
        let Some(held) = office.as_mut() else {
            return Err(Trouble::own(self.shared.store.place(), "there is no office to fence").into());
        };
        let epoch = held.record.epoch;
        let mark = Fence { epoch, observer: self.shared.observer.clone(), run: self.shared.run.clone() };
        let mut log = self.shared.log.lock().await;
        for _ in 0..BEATEN_MAX {
            log.catch_up(&self.shared.store).await?;
            if log.fence > epoch || (log.fence == epoch && log.fence_of != self.shared.run) {
                let leader = self.shared.seen().map_or(ObserverId::from("somebody"), |seen| seen.record.observer);
                let epoch = log.fence;
                *office = None;
                return Ok(Candidacy::Following { leader, epoch });
            }
            if log.fence == epoch {
                held.fenced = true;
                self.is_unsettled.store(false, Ordering::Relaxed);
                // Only now: what was read before is said to be current by it.
                self.shared.view.reached(log.chain.next);
                self.shared.confirm(sent);
                return Ok(Candidacy::Leading(self.leading(epoch, sent)));
            }
            log.check_end(&self.shared.store).await?;
            // Whether it was ours or another's that came to stand there, the next reading says.
            self.shared.store.put(&log::key(log.slot), &mark.body(), Condition::Absent).await?;
        }
        Err(Trouble::own(self.shared.store.place(), "others write without end").into())
    }

    /// Writes the record anew, if it is still ours.
    async fn prolong(&self, office: &mut Option<Office>) -> Result<Option<Lease>, Unread> {
        // The second time after a renewal of ours that was written although no answer came.
        for _ in 0..2 {
            let Some(held) = office.as_mut() else { return Ok(None) };
            held.record.beat += 1;
            let sent = self.shared.clock.now();
            match self.shared.store.put(LEADER, &held.record.body(), Condition::Is(&held.tag)).await? {
                Written::Done(tag) => {
                    held.tag = tag;
                    let (epoch, fenced) = (held.record.epoch, held.fenced);
                    if fenced {
                        self.shared.confirm(sent);
                        return Ok(Some(self.leading(epoch, sent)));
                    }
                    return self.fence(office, sent).await.map(|candidacy| candidacy.lease());
                }
                Written::Beaten => match self.shared.observe().await? {
                    Some(seen) if seen.record.run == self.shared.run && seen.record.epoch == held.record.epoch => {
                        held.tag = seen.tag;
                    }
                    Some(_) | None => {
                        *office = None;
                        *self.held() = None;
                        return Ok(None);
                    }
                },
            }
        }
        Err(Trouble::own(self.shared.store.place(), "our record changes under our hands").into())
    }

    fn fenced(&self, epoch: u64) -> AppendError {
        *self.held() = None;
        let leads = self.shared.seen().map_or(0, |seen| seen.record.epoch);
        AppendError::Fenced { epoch: epoch.max(leads) }
    }

    fn told<T>(&self, outcome: Result<T, Unread>) -> Result<T, Unusable> {
        outcome.map_err(|unread| {
            let why = unread.unusable(&self.shared.store);
            self.shared.trouble(why.clone());
            why
        })
    }
}

impl Record {
    fn body(&self) -> Vec<u8> {
        // A struct of texts and numbers can always be written.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

fn store(settings: &schema::S3Ledger, deployment: &str, nameservers: &[SocketAddr]) -> Result<Store, LedgerError> {
    let place = || format!("in s3://{}", settings.bucket);
    Store::new(settings, deployment, nameservers).map_err(|why| LedgerError::Unfit { place: place(), why })
}

impl Shared {
    fn new(
        settings: &schema::S3Ledger,
        deployment: &str,
        observer: ObserverId,
        nameservers: &[SocketAddr],
        clock: Arc<dyn Clock>,
    ) -> Result<Self, LedgerError> {
        Ok(Self {
            store: store(settings, deployment, nameservers)?,
            view: View::default(),
            log: Turn::new(Log::new()),
            clock,
            observer,
            run: uuid::Uuid::now_v7().to_string(),
            lasting: settings.lease,
            seen: Mutex::default(),
            health: Mutex::default(),
            ready: OnceCell::new(),
        })
    }

    /// The store keeps its conditions, and the ledger has its first frame. Once.
    async fn ensure_ready(&self) -> Result<(), Unread> {
        self.ready
            .get_or_try_init(|| async {
                self.probe().await?;
                let ledger = LedgerId::from(uuid::Uuid::now_v7().to_string());
                let frame =
                    Frame { index: 0, epoch: 0, at: self.clock.now(), facts: vec![Fact::LedgerCreated { ledger }] };
                let encoded = codec::encode(Head::start(), &frame);
                let (mut line, _) = encoded.map_err(|error| Trouble::own(self.store.place(), error.to_string()))?;
                line.pop();
                // Beaten: there is one already.
                self.store.put(&log::key(0), &line, Condition::Absent).await?;
                Ok(())
            })
            .await
            .copied()
    }

    /// Two writes that have to be refused.
    async fn probe(&self) -> Result<(), Trouble> {
        let key = format!("probe/{}", self.run);
        let unfit = |what: &str| Trouble {
            call: self.store.place(),
            kind: TroubleKind::Refused,
            why: format!(
                "the store ignores {what} when it writes, so two daemons could act at once; use a store with \
                 conditional writes (AWS S3 has them), or [ledger.etcd]"
            ),
        };
        let told = |trouble: Trouble| {
            if trouble.why.starts_with("NotImplemented") || trouble.why.starts_with("HTTP 501") {
                Trouble { why: format!("{}; {}", unfit("conditions").why, trouble.why), ..unfit("conditions") }
            } else {
                trouble
            }
        };
        self.store.put(&key, b"1", Condition::Absent).await.map_err(told)?;
        let twice = self.store.put(&key, b"2", Condition::Absent).await.map_err(told)?;
        let wrong =
            self.store.put(&key, b"3", Condition::Is("00000000000000000000000000000000")).await.map_err(told)?;
        // A leftover does no harm, and deleting may be forbidden.
        let _ = self.store.delete(&key).await;
        match (twice, wrong) {
            (Written::Beaten, Written::Beaten) => Ok(()),
            (Written::Done(_), _) => Err(unfit("If-None-Match")),
            (Written::Beaten, Written::Done(_)) => Err(unfit("If-Match")),
        }
    }

    fn record(&self, epoch: u64, beat: u64) -> Record {
        let lease_ms = u64::try_from(self.lasting.as_millis()).unwrap_or(u64::MAX);
        let (observer, run) = (self.observer.clone(), self.run.clone());
        Record { observer, run, epoch, beat, lease_ms, resigned: false }
    }

    /// Looks at the leader's record. The same one as before keeps its age.
    async fn observe(&self) -> Result<Option<Sighting>, Unread> {
        let found = self.store.get(LEADER).await?;
        // After the answer: the record was written before that, so its age is never overrated.
        let now = self.clock.now().monotonic;
        let sighting = match found {
            None => None,
            Some((body, tag)) => {
                let record: Record = serde_json::from_slice(&body)
                    .map_err(|error| Trouble::unreadable(self.store.place(), format!("{LEADER}: {error}")))?;
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                let since = seen.as_ref().filter(|seen| seen.tag == tag).map_or(now, |seen| seen.since);
                let sighting = Sighting { tag, record, since };
                *seen = Some(sighting.clone());
                Some(sighting)
            }
        };
        let leader = sighting.as_ref().filter(|seen| !self.is_over(seen));
        self.lead(leader.map(|seen| (seen.record.observer.clone(), seen.record.epoch)));
        Ok(sighting)
    }

    /// Its leader had a whole lease to renew it, and did not, or has given it back.
    fn is_over(&self, seen: &Sighting) -> bool {
        let lease = Duration::from_millis(seen.record.lease_ms).max(self.lasting);
        seen.record.resigned || self.clock.now().monotonic.saturating_sub(seen.since) >= lease
    }

    fn seen(&self) -> Option<Sighting> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lead(&self, leader: Option<(ObserverId, u64)>) {
        self.view.update(|kept| kept.leader = leader);
    }

    fn confirm(&self, sent: Now) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        *health = (health.0.max(Some(sent.monotonic)), None);
    }

    fn trouble(&self, why: Unusable) {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).1 = Some(why);
    }
}

#[async_trait]
impl Ledger for S3Ledger {
    async fn campaign(&self, _now: Now) -> Result<Candidacy, Unusable> {
        let mut office = self.office.lock().await;
        self.told(self.stand(&mut office).await)
    }

    async fn renew(&self, _now: Now) -> Result<Option<Lease>, Unusable> {
        let mut office = self.office.lock().await;
        if self.lease().is_none() {
            return Ok(None);
        }
        self.told(self.prolong(&mut office).await)
    }

    async fn resign(&self) {
        let mut office = self.office.lock().await;
        // Where it does not arrive, the lease runs out.
        let _ = self.give_back(&mut office).await;
        *office = None;
    }

    async fn append(&self, frame: Frame) -> Result<Durable, AppendError> {
        self.record(frame).await
    }

    async fn read_from(&self, index: u64) -> Result<Vec<Frame>, LedgerError> {
        let read = async {
            self.shared.ensure_ready().await?;
            let mut log = self.shared.log.lock().await;
            let frames = log.read_from(&self.shared.store, index).await?;
            self.shared.view.reached(log.chain.next);
            Ok(frames)
        };
        read.await.map_err(|unread: Unread| unread.ledger_error(&self.shared.store))
    }

    async fn changed(&self, index: u64) {
        self.shared.view.changed(index).await;
    }

    async fn stirred(&self, since: u64) -> u64 {
        self.shared.view.stirred(since).await
    }

    async fn publish(&self, ballot: &Ballot) -> Result<(), Unusable> {
        let body = serde_json::to_vec(ballot).map_err(|error| Unusable::Refused(error.to_string()))?;
        let key = format!("live/ballots/{}", ballot.observer);
        let written = self.shared.store.put(&key, &body, Condition::Any).await;
        self.told(written.map_err(Unread::from))?;
        self.shared.view.update(|kept| drop(kept.ballots.insert(ballot.observer.clone(), ballot.clone())));
        Ok(())
    }

    fn ballots(&self) -> Vec<Ballot> {
        self.shared.view.ballots()
    }

    async fn request(&self, request: &OperatorRequest) -> Result<(), Unusable> {
        if self.shared.view.requests().len() >= REQUESTS_MAX {
            return Err(too_many_requests());
        }
        let body = serde_json::to_vec(request).map_err(|error| Unusable::Refused(error.to_string()))?;
        let key = format!("live/requests/{}", request.id);
        // Beaten: it has arrived before.
        let written = self.shared.store.put(&key, &body, Condition::Absent).await;
        self.told(written.map(drop).map_err(Unread::from))
    }

    fn requests(&self) -> Vec<OperatorRequest> {
        self.shared.view.requests()
    }

    async fn answer(&self, id: &str, answer: &OperatorAnswer) -> Result<(), Unusable> {
        let body = serde_json::to_vec(answer).map_err(|error| Unusable::Refused(error.to_string()))?;
        let written = self.shared.store.put(&format!("live/answers/{id}"), &body, Condition::Any).await;
        self.told(written.map(drop).map_err(Unread::from))?;
        self.shared.view.update(|kept| kept.answer(id, answer));
        self.told(self.shared.store.delete(&format!("live/requests/{id}")).await.map_err(Unread::from))
    }

    fn answer_of(&self, id: &str) -> Option<OperatorAnswer> {
        self.shared.view.answer_of(id)
    }

    fn standing(&self) -> Standing {
        let (confirmed, trouble) = self.shared.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.shared.view.standing(confirmed, trouble)
    }
}
