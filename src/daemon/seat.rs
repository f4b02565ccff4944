//! A seat at a ledger that several daemons share: it campaigns, renews and resigns, follows what others record, and
//! passes ballots on.
//!
//! Tasks of their own, because all of it waits for somebody else. The event loop hears of it as [`News`], and says by
//! its [`Wish`] whether it wants to lead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::supervise::supervise;
use crate::decide::Frame;
use crate::health::Ballot;
use crate::ledger::LedgerError;
use crate::ports::{Candidacy, Clock, Lease, Ledger};

/// While another one leads, it is asked once in a while all the same: not every ledger tells.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// After an answer that was none.
const AGAIN: Duration = Duration::from_millis(500);
/// A lease is renewed after this part of it.
const RENEWALS_PER_LEASE: u32 = 4;
/// News that wait for the event loop, which takes them within a turn.
const NEWS_MAX: usize = 64;

/// What the shared ledger has to tell.
#[derive(Debug)]
pub enum News {
    /// Others recorded these.
    Frames(Vec<Frame>),
    /// This daemon leads from now on; these were recorded meanwhile, and nothing more will be.
    Elected(Lease, Vec<Frame>),
    /// It still does.
    Renewed(Lease),
    /// It does not any more.
    Deposed(String),
    /// The record is damaged, for whoever reads it.
    Broken(String),
    /// A ballot, a request, an answer, or who leads.
    Stirred,
}

/// What the event loop wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// To lead, after others had this long to come first.
    Lead {
        /// From when nobody leads.
        after: Duration,
    },
    /// Not to lead: resign.
    Follow,
}

/// The event loop's side.
#[derive(Debug)]
pub struct Seat {
    /// What happens.
    pub news: mpsc::Receiver<News>,
    wish: watch::Sender<Wish>,
    applied: watch::Sender<u64>,
    ballot: watch::Sender<Option<Ballot>>,
}

struct Member {
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    news: mpsc::Sender<News>,
    applied: watch::Receiver<u64>,
    leads: AtomicBool,
    ask_every: Duration,
}

impl Seat {
    /// Takes the seat; it ends with `stop`. `next_index` frames are known already. The ledger is asked who leads at least
    /// every `ask_every`, where that is given.
    pub fn take(
        ledger: Arc<dyn Ledger>,
        clock: Arc<dyn Clock>,
        next_index: u64,
        ask_every: Option<Duration>,
        stop: &CancellationToken,
    ) -> Self {
        let (news_in, news) = mpsc::channel(NEWS_MAX);
        let (wish, wishes) = watch::channel(Wish::Follow);
        let (applied, applied_out) = watch::channel(next_index);
        let (ballot, ballots) = watch::channel(None);
        let leads = AtomicBool::new(false);
        let ask_every = ask_every.map_or(ASK_EVERY, |every| every.min(ASK_EVERY));
        let member = Arc::new(Member { ledger, clock, news: news_in, applied: applied_out, leads, ask_every });
        let task = {
            let member = member.clone();
            move || campaign(member.clone(), wishes.clone())
        };
        tokio::spawn(supervise("campaign", stop.clone(), task));
        let task = {
            let member = member.clone();
            move || follow(member.clone())
        };
        tokio::spawn(supervise("follow", stop.clone(), task));
        let task = {
            let member = member.clone();
            move || listen(member.clone())
        };
        tokio::spawn(supervise("listen", stop.clone(), task));
        let task = move || cast(member.clone(), ballots.clone());
        tokio::spawn(supervise("ballots", stop.clone(), task));
        Self { news, wish, applied, ballot }
    }

    /// What is wanted from now on.
    pub fn wish(&self, wish: Wish) {
        self.wish.send_if_modified(|former| std::mem::replace(former, wish) != wish);
    }

    /// So many frames are known.
    pub fn applied(&self, next_index: u64) {
        self.applied.send_replace(next_index);
    }

    /// To be shown to the others. One that was not sent before the next one comes is left out.
    pub fn cast(&self, ballot: Ballot) {
        self.ballot.send_replace(Some(ballot));
    }
}

impl Member {
    async fn tell(&self, news: News) {
        // Without a loop there is nobody to tell.
        let _ = self.news.send(news).await;
    }
}

async fn campaign(member: Arc<Member>, mut wishes: watch::Receiver<Wish>) {
    // A former run of this task may have died while it led.
    if member.leads.swap(false, Ordering::SeqCst) {
        member.tell(News::Deposed("its campaign broke off".to_owned())).await;
    }
    loop {
        let wish = *wishes.borrow_and_update();
        let Wish::Lead { after } = wish else {
            if wishes.changed().await.is_err() {
                return std::future::pending().await;
            }
            continue;
        };
        let standing = member.ledger.standing();
        if standing.leader.is_none() {
            // Others may be better placed; whoever is, comes first.
            tokio::select! {
                () = sleep(after) => {}
                _ = wishes.changed() => continue,
            }
        }
        match member.ledger.campaign(member.clock.now()).await {
            Ok(Candidacy::Leading(lease)) => lead(&member, lease, &mut wishes).await,
            Ok(Candidacy::Following { leader, epoch }) => {
                debug!(%leader, epoch, "another one leads");
                let since = member.ledger.standing().version.max(standing.version);
                tokio::select! {
                    _ = member.ledger.stirred(since) => {}
                    _ = wishes.changed() => {}
                    () = sleep(member.ask_every) => {}
                }
            }
            Err(error) => {
                debug!("the ledger was asked in vain who leads: {error}");
                sleep(AGAIN).await;
            }
        }
    }
}

/// Leads until the lease is lost or given back.
async fn lead(member: &Member, mut lease: Lease, wishes: &mut watch::Receiver<Wish>) {
    let lasting = lease.until.saturating_sub(member.clock.now().monotonic);
    let next = *member.applied.borrow();
    let frames = loop {
        match member.ledger.read_from(next).await {
            Ok(frames) => break frames,
            Err(error @ LedgerError::Broken { .. }) => {
                member.tell(News::Broken(error.to_string())).await;
                return member.ledger.resign().await;
            }
            Err(error) if member.clock.now().monotonic >= lease.until => {
                warn!("elected, and the ledger cannot be read: {error}");
                return member.ledger.resign().await;
            }
            Err(_) => sleep(AGAIN).await,
        }
    };
    member.leads.store(true, Ordering::SeqCst);
    info!(epoch = lease.epoch, "leads");
    member.tell(News::Elected(lease, frames)).await;
    let why = loop {
        tokio::select! {
            () = sleep((lasting / RENEWALS_PER_LEASE).min(member.ask_every)) => {}
            _ = wishes.changed() => {}
        }
        if *wishes.borrow_and_update() == Wish::Follow {
            member.ledger.resign().await;
            break "it gave the lead up".to_owned();
        }
        match member.ledger.renew(member.clock.now()).await {
            Ok(Some(renewed)) => {
                lease = renewed;
                member.tell(News::Renewed(renewed)).await;
            }
            Ok(None) => break "the ledger gave the lead away".to_owned(),
            Err(error) if member.clock.now().monotonic >= lease.until => {
                break format!("its lease ran out before the ledger answered: {error}");
            }
            Err(error) => {
                debug!("the lease could not be renewed: {error}");
                sleep(AGAIN.min(lasting / RENEWALS_PER_LEASE)).await;
            }
        }
    };
    member.leads.store(false, Ordering::SeqCst);
    info!(epoch = lease.epoch, "leads no more: {why}");
    member.tell(News::Deposed(why)).await;
}

/// What others record. A leader knows what it recorded itself.
async fn follow(member: Arc<Member>) {
    let mut applied = member.applied.clone();
    loop {
        let next = *applied.borrow_and_update();
        if member.leads.load(Ordering::SeqCst) {
            let _ = timeout(AGAIN, applied.changed()).await;
            continue;
        }
        if timeout(ASK_EVERY, member.ledger.changed(next)).await.is_err() || member.leads.load(Ordering::SeqCst) {
            continue;
        }
        match member.ledger.read_from(next).await {
            Ok(frames) if !frames.is_empty() => {
                member.tell(News::Frames(frames)).await;
                let _ = timeout(ASK_EVERY, applied.wait_for(|applied| *applied > next)).await;
            }
            Ok(_) => sleep(AGAIN).await,
            Err(error @ LedgerError::Broken { .. }) => {
                member.tell(News::Broken(error.to_string())).await;
                return std::future::pending().await;
            }
            Err(error) => {
                debug!("the ledger cannot be followed: {error}");
                sleep(AGAIN).await;
            }
        }
    }
}

async fn listen(member: Arc<Member>) {
    let mut version = 0;
    loop {
        version = member.ledger.stirred(version).await;
        member.tell(News::Stirred).await;
    }
}

async fn cast(member: Arc<Member>, mut ballots: watch::Receiver<Option<Ballot>>) {
    while ballots.changed().await.is_ok() {
        let Some(ballot) = ballots.borrow_and_update().clone() else { continue };
        if let Err(error) = member.ledger.publish(&ballot).await {
            debug!("the ballot may not have arrived: {error}");
        }
    }
    std::future::pending().await
}
