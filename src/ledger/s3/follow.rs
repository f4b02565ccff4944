//! The look at the bucket every now and then: S3 does not tell what is new.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::log::Unread;
use super::store::Listed;
use super::{ANSWER_LIFE, BALLOT_LIFE, LEADER, REQUEST_LIFE, Shared};
use crate::domain::ObserverId;
use crate::ledger::view::Kept;

/// What was seen of one key: its tag, and since when it has been that one.
type Seen = BTreeMap<String, (String, Duration)>;

/// Runs until it is aborted.
pub(super) async fn follow(shared: Arc<Shared>, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Seen::new();
    loop {
        ticks.tick().await;
        if let Err(unread) = look(&shared, &mut seen).await {
            shared.trouble(unread.unusable(&shared.store));
        }
    }
}

async fn look(shared: &Shared, seen: &mut Seen) -> Result<(), Unread> {
    shared.ensure_ready().await?;
    let began = shared.clock.now();
    let listed = shared.store.list("live/", None, false).await?;
    let own = format!("live/ballots/{}", shared.observer);
    let mut gone: Vec<String> = vec![];
    for key in seen.keys().filter(|key| !listed.iter().any(|object| object.key == **key)) {
        gone.push(key.clone());
    }
    for key in gone {
        seen.remove(&key);
        shared.view.update(|kept| forget(kept, &key));
    }
    for Listed { key, tag } in listed {
        let known = seen.get(&key).filter(|(known, _)| *known == tag).map(|(_, since)| *since);
        if let Some(since) = known {
            expire(shared, &key, began.monotonic.saturating_sub(since)).await;
            continue;
        }
        // Our own is known, and the leader's record is looked at in a way of its own.
        if key == own {
            seen.insert(key, (tag, began.monotonic));
        } else if key != LEADER
            && let Some((body, tag)) = shared.store.get(&key).await?
        {
            seen.insert(key.clone(), (tag, shared.clock.now().monotonic));
            shared.view.update(|kept| remember(kept, &key, &body));
        }
    }
    shared.observe().await?;
    let mut log = shared.log.lock().await;
    log.catch_up(&shared.store).await?;
    shared.view.reached(log.chain.next);
    drop(log);
    shared.confirm(began);
    Ok(())
}

/// What has been there for long, and what nobody waits for any more, is not shown; whoever comes first clears it away.
async fn expire(shared: &Shared, key: &str, age: Duration) {
    let life = match kind(key) {
        ("ballots", _) => BALLOT_LIFE,
        ("requests", _) => REQUEST_LIFE,
        ("answers", _) => ANSWER_LIFE,
        _ => return,
    };
    if age > life {
        shared.view.update(|kept| forget(kept, key));
        // Where that is forbidden, or somebody else was quicker, it stays out of sight all the same.
        let _ = shared.store.delete(key).await;
    }
}

fn kind(key: &str) -> (&str, &str) {
    key.strip_prefix("live/").and_then(|rest| rest.split_once('/')).unwrap_or((key, ""))
}

/// What cannot be read (another version wrote it) is left out.
fn remember(kept: &mut Kept, key: &str, body: &[u8]) {
    match kind(key) {
        ("ballots", name) => {
            if let Ok(ballot) = serde_json::from_slice(body) {
                kept.ballots.insert(ObserverId::from(name), ballot);
            }
        }
        ("requests", name) => {
            if let Ok(request) = serde_json::from_slice(body)
                && !kept.answers.contains_key(name)
            {
                kept.requests.insert(name.to_owned(), request);
            }
        }
        ("answers", name) => {
            if let Ok(answer) = serde_json::from_slice(body) {
                kept.answer(name, &answer);
            }
        }
        _ => {}
    }
}

fn forget(kept: &mut Kept, key: &str) {
    match kind(key) {
        ("ballots", name) => drop(kept.ballots.remove(&ObserverId::from(name))),
        ("requests", name) => drop(kept.requests.remove(name)),
        ("answers", name) => drop(kept.answers.remove(name)),
        _ => {}
    }
}
