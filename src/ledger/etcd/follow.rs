//! The watch that keeps ballots, requests, the leader and the number of frames in memory.
//!
//! It never relies on history: after every interruption (a lost connection, a compaction, a member without a leader)
//! everything is read anew and watched from there on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use etcd_client::{Client, EventType, GetOptions, Txn, TxnOp, TxnOpResponse, WatchOptions};
use tracing::debug;

use super::keys;
use super::{Failure, Shared};
use crate::ledger::view::Kept;

/// After an interruption; doubled up to the other one.
const AGAIN_MIN: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(2);

/// Runs until it is aborted.
pub(super) async fn follow(shared: Arc<Shared>) {
    let mut pause = AGAIN_MIN;
    for at in 0.. {
        let began = tokio::time::Instant::now();
        if let Err(failure) = watch(&shared, at).await {
            debug!(why = failure.why, "the watch of the ledger begins anew");
        }
        // A watch that held for a while was a good one.
        pause = if began.elapsed() > AGAIN_MAX { AGAIN_MIN } else { (pause * 2).min(AGAIN_MAX) };
        tokio::time::sleep(pause).await;
    }
}

/// Until something interrupts it.
async fn watch(shared: &Shared, at: usize) -> Result<(), Failure> {
    let client = shared.members.connect(at).await?;
    let limit = shared.members.limit;
    let late = |_| Failure::unavailable("no answer in time");
    let from = tokio::time::timeout(limit, read(shared, client.clone())).await.map_err(late)?? + 1;
    let opening = async {
        // Our own ballot is what there would be most of.
        let keys = &shared.keys;
        let (before, behind) = (WatchOptions::new().with_range(keys.ballot(&shared.observer)), keys.live_end());
        let behind = WatchOptions::new().with_range(behind).with_start_revision(from);
        let mut stream = client.watch_client().watch(keys.live(), Some(before.with_start_revision(from))).await?;
        stream.watch(format!("{}\0", keys.ballot(&shared.observer)), Some(behind)).await?;
        stream.watch(keys.tip(), Some(WatchOptions::new().with_start_revision(from))).await?;
        Ok::<_, etcd_client::Error>(stream)
    };
    let wrong = |error: etcd_client::Error| Failure::unavailable(error.to_string());
    let mut stream = tokio::time::timeout(limit, opening).await.map_err(late)?.map_err(wrong)?;
    loop {
        let message = tokio::select! {
            message = stream.message() => message.map_err(wrong)?,
            // The others publish, and nothing comes: the member does not answer any more.
            () = shared.silent.notified() => return Err(Failure::unavailable("the watch has fallen silent")),
        };
        let Some(message) = message else { return Err(Failure::unavailable("the watch has ended")) };
        if message.canceled() {
            return Err(Failure::unavailable(format!("the watch was ended: {}", message.cancel_reason())));
        }
        for event in message.events() {
            let Some(kv) = event.kv() else { continue };
            if kv.key() == shared.keys.tip().as_bytes() {
                shared.view.reached(keys::frames(Some(kv)).unwrap_or(0));
            } else {
                shared.at_revision(kv.mod_revision(), kv.key() == shared.keys.leader().as_bytes(), |kept| match event
                    .event_type()
                {
                    EventType::Put => shared.keys.put(kept, kv),
                    EventType::Delete => shared.keys.delete(kept, kv.key()),
                });
            }
        }
        shared.unheard.store(0, Ordering::Relaxed);
    }
}

/// Everything as it is now, and the revision of that.
async fn read(shared: &Shared, client: Client) -> Result<i64, Failure> {
    let all = Txn::new().and_then(vec![
        TxnOp::get(shared.keys.live(), Some(GetOptions::new().with_prefix())),
        TxnOp::get(shared.keys.tip(), None),
    ]);
    let answer = client.kv_client().txn(all).await.map_err(|error| Failure::unavailable(error.to_string()))?;
    let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
    let mut found = Kept::default();
    for response in answer.op_responses() {
        let TxnOpResponse::Get(response) = response else { continue };
        for kv in response.kvs() {
            if kv.key() == shared.keys.tip().as_bytes() {
                shared.view.reached(keys::frames(Some(kv)).unwrap_or(0));
            } else {
                shared.keys.put(&mut found, kv);
            }
        }
    }
    shared.at_revision(revision, true, |kept| {
        kept.leader = found.leader.take();
    });
    shared.view.update(|kept| {
        let leader = kept.leader.take();
        *kept = Kept { leader, ..found };
    });
    Ok(revision)
}
