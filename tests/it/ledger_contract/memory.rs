//! The ledger of the simulation, in virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use failoverd::domain::{Now, ObserverId};
use failoverd::ledger::{MemoryDisk, MemoryLedger, Sabotage};

use super::{Daemon, Link, Place, Site, promises};
use crate::facts::now;

#[tokio::test]
async fn memory_keeps_what_a_ledger_promises_to_one_daemon() {
    promises::to_one_daemon(&Memory).await;
}

#[tokio::test]
async fn memory_keeps_what_a_ledger_promises_to_several_daemons() {
    promises::to_several_daemons(&Memory, 0..500).await;
}

/// A request that arrives after its sender has given it up is recorded, once, unless another one leads by then.
#[tokio::test]
async fn a_frame_that_arrives_late_is_recorded_or_void_but_never_both() {
    for deposed in [false, true] {
        let site = Shared::new();
        let (old, new) = (site.member("old"), site.member("new"));
        let lease = old.lead(&site).await;
        let late = super::frame(1, lease.epoch, "late");
        old.sabotage(Sabotage::Delayed);
        assert!(old.daemon.ledger.append(late.clone()).await.is_err());
        if deposed {
            let lease = new.lead_in_time(&site).await;
            assert!(!site.disk.deliver_late());
            new.say(&lease, "new").await.map(drop).expect("appends");
            assert!(old.ledger.append(late).await.is_err());
            assert_eq!(new.heard().await, ["new"]);
        } else {
            assert!(site.disk.deliver_late());
            assert_eq!(old.ledger.append(late).await.expect("is recorded").index(), 1);
            assert_eq!(new.heard().await, ["late"]);
        }
    }
}

/// Whoever gives up on a frame and campaigns again has a new epoch, in which the frame does not arrive any more.
#[tokio::test]
async fn a_frame_that_is_given_up_by_campaigning_again_does_not_arrive_later() {
    let site = Shared::new();
    let daemon = site.member("one");
    let lease = daemon.lead(&site).await;
    daemon.sabotage(Sabotage::Delayed);
    assert!(daemon.daemon.ledger.append(super::frame(1, lease.epoch, "late")).await.is_err());
    let again = daemon.lead(&site).await;
    assert!(again.epoch > lease.epoch);
    daemon.say(&again, "instead").await.map(drop).expect("appends");
    assert!(!site.disk.deliver_late());
    assert_eq!(daemon.heard().await, ["instead"]);
}

struct Memory;

#[async_trait]
impl Place for Memory {
    async fn ledger(&self, _name: &str) -> Box<dyn Site> {
        Box::new(Shared::new())
    }
}

struct Shared {
    disk: MemoryDisk,
    time: AtomicU64,
}

impl Shared {
    fn new() -> Self {
        Self { disk: MemoryDisk::new("ledger", now(0)), time: AtomicU64::new(0) }
    }

    fn member(&self, observer: &str) -> Member {
        let observer = ObserverId::from(observer);
        let ledger = Arc::new(MemoryLedger::join(&self.disk, observer.clone(), self.lasting()));
        let link = Wire { disk: self.disk.clone(), observer, ledger: ledger.clone() };
        Member { memory: ledger.clone(), daemon: Daemon { ledger, link: Arc::new(link) } }
    }
}

struct Member {
    memory: Arc<MemoryLedger>,
    daemon: Daemon,
}

impl Member {
    fn sabotage(&self, sabotage: Sabotage) {
        self.memory.sabotage_next(sabotage);
    }
}

impl std::ops::Deref for Member {
    type Target = Daemon;
    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

#[async_trait]
impl Site for Shared {
    async fn daemon(&self, observer: &str) -> Daemon {
        self.member(observer).daemon
    }

    fn now(&self) -> Now {
        let monotonic = Duration::from_millis(self.time.fetch_add(1, Ordering::Relaxed));
        self.disk.set_time(monotonic);
        Now { monotonic, ..now(0) }
    }

    async fn wait(&self, duration: Duration) {
        self.time.fetch_add(duration.as_millis() as u64, Ordering::Relaxed);
        let time = Duration::from_millis(self.time.load(Ordering::Relaxed));
        self.disk.set_time(time);
    }

    fn lasting(&self) -> Duration {
        Duration::from_secs(10)
    }
}

struct Wire {
    disk: MemoryDisk,
    observer: ObserverId,
    ledger: Arc<MemoryLedger>,
}

impl Link for Wire {
    fn lose_answers(&self) {
        self.ledger.sabotage_next(Sabotage::AnswerLost);
    }

    fn cut(&self) {
        self.disk.cut(&self.observer);
    }

    fn heal(&self) {
        self.disk.heal(&self.observer);
    }
}
