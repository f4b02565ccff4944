//! What every ledger promises, tried on each of them: file, memory, etcd, S3.
//!
//! `promises` has the promises, one function each; the other modules bring a ledger and its faults.

mod etcd;
mod file;
mod memory;
mod promises;
mod s3;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use failoverd::decide::{Fact, Frame};
use failoverd::domain::Now;
use failoverd::health::Ballot;
use failoverd::ports::{AppendError, Candidacy, Durable, Lease, Ledger};

/// Where ledgers are made.
#[async_trait]
pub(crate) trait Place: Send + Sync {
    /// A new ledger that holds nothing but its first frame, and has nothing to do with the others made here.
    async fn ledger(&self, name: &str) -> Box<dyn Site>;
}

/// One ledger, and those who use it.
#[async_trait]
pub(crate) trait Site: Send + Sync {
    /// A new run of the daemon `observer`.
    async fn daemon(&self, observer: &str) -> Daemon;
    /// The time by which leases count.
    fn now(&self) -> Now;
    /// Lets some of it pass.
    async fn wait(&self, duration: Duration);
    /// How long a lease lasts.
    fn lasting(&self) -> Duration;
}

/// A daemon with its way to the ledger.
#[derive(Clone)]
pub(crate) struct Daemon {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) link: Arc<dyn Link>,
}

/// What can happen between a daemon and the ledger.
pub(crate) trait Link: Send + Sync {
    /// What is sent arrives, and no answer comes back: at least for the next append, until it is healed.
    fn lose_answers(&self);
    /// Nothing arrives, either way.
    fn cut(&self);
    /// All is well again.
    fn heal(&self);
}

impl Daemon {
    /// Leads, or the test fails.
    pub(crate) async fn lead(&self, site: &dyn Site) -> Lease {
        let candidacy = self.ledger.campaign(site.now()).await.expect("the ledger answers");
        candidacy.lease().unwrap_or_else(|| panic!("{candidacy:?}"))
    }

    /// Asks until it leads.
    pub(crate) async fn lead_in_time(&self, site: &dyn Site) -> Lease {
        for _ in 0..400 {
            match self.ledger.campaign(site.now()).await {
                Ok(Candidacy::Leading(lease)) => return lease,
                Ok(Candidacy::Following { .. }) | Err(_) => site.wait(site.lasting() / 20).await,
            }
        }
        panic!("nobody gives the ledger up: {:?}", self.ledger.standing());
    }

    /// Where the next frame goes.
    pub(crate) async fn next(&self) -> u64 {
        self.ledger.read_from(0).await.expect("reads").len() as u64
    }

    /// Appends, as the leader of `lease`, a frame that says `word`.
    pub(crate) async fn say(&self, lease: &Lease, word: &str) -> Result<Durable, AppendError> {
        let index = self.next().await;
        self.ledger.append(frame(index, lease.epoch, word)).await
    }

    /// Everything that was said on this ledger.
    pub(crate) async fn heard(&self) -> Vec<String> {
        words(&self.ledger.read_from(0).await.expect("reads"))
    }

    /// Until `seen` holds; the ledger says when to look again.
    pub(crate) async fn until(&self, what: &str, seen: impl Fn(&dyn Ledger) -> bool) {
        let look = async {
            loop {
                let version = self.ledger.standing().version;
                if seen(&*self.ledger) {
                    return;
                }
                self.ledger.stirred(version).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), look).await;
        assert!(waited.is_ok(), "{what}: not within 20 s; {:?}", self.ledger.standing());
    }
}

/// A frame that says `word`.
pub(crate) fn frame(index: u64, epoch: u64, word: &str) -> Frame {
    let fact = Fact::Resumed { by: word.to_owned() };
    Frame { index, epoch, at: crate::facts::now(index as i64), facts: vec![fact] }
}

/// What these frames say.
pub(crate) fn words(frames: &[Frame]) -> Vec<String> {
    let said = |fact: &Fact| if let Fact::Resumed { by } = fact { Some(by.clone()) } else { None };
    frames.iter().flat_map(|frame| &frame.facts).filter_map(said).collect()
}

/// A ballot.
pub(crate) fn ballot(observer: &str, sequence: u64) -> Ballot {
    Ballot {
        observer: observer.into(),
        region: "us-east-1".into(),
        run: crate::facts::now(0).wall,
        sequence,
        policy: "9f86d081884c7d65".to_owned(),
        abstains: None,
        doubts: std::collections::BTreeMap::new(),
        log: Default::default(),
        views: std::collections::BTreeMap::new(),
        guards: std::collections::BTreeSet::new(),
        revoked: std::collections::BTreeMap::new(),
        revocations: 0,
    }
}
