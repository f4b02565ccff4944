//! The ledger in a file. It is for one daemon: whoever comes second is refused while the first one lives.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use failoverd::domain::Now;
use failoverd::ledger::FileLedger;

use super::{Daemon, Link, Place, Site, promises};
use crate::facts::now;

#[tokio::test]
async fn a_file_keeps_what_a_ledger_promises_to_one_daemon() {
    promises::to_one_daemon(&Files(tempfile::tempdir().expect("a folder"))).await;
}

struct Files(tempfile::TempDir);

#[async_trait]
impl Place for Files {
    async fn ledger(&self, name: &str) -> Box<dyn Site> {
        Box::new(OneFile(self.0.path().join(name)))
    }
}

struct OneFile(PathBuf);

#[async_trait]
impl Site for OneFile {
    async fn daemon(&self, _observer: &str) -> Daemon {
        let (ledger, _) = FileLedger::open(&self.0, now(0)).expect("opens");
        Daemon { ledger: Arc::new(ledger), link: Arc::new(NoLink) }
    }

    fn now(&self) -> Now {
        now(1)
    }

    async fn wait(&self, _: Duration) {}

    fn lasting(&self) -> Duration {
        Duration::MAX
    }
}

/// There is nothing between a daemon and its file.
struct NoLink;

impl Link for NoLink {
    fn lose_answers(&self) {}
    fn cut(&self) {}
    fn heal(&self) {}
}
