//! Promotion, judged by what the application can do and by what is there afterwards.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use failoverd::adapters::{CatchUp as _, Endpoints as _, WriteProof as _};
use failoverd::config::schema::SqlCheck;
use failoverd::plan::Action;
use failoverd::ports::{Actuator as _, Setback};

use crate::data_plane::{EAST, WEST, Written, eventually, nothing_seen, permit, permit_for, verified};
use crate::postgres::{Pair, at};

const KEY: &str = "plan/promote";

fn promote(lossless: bool) -> Action {
    Action::DatabasePromoted { database: at(WEST), from: at(EAST), lossless }
}

#[tokio::test]
async fn a_standby_is_promoted_once_however_often_it_is_asked() {
    let pair = Pair::up();
    pair.lab.tell("kill", &["pg@us-east-1"]);
    let look = pair.postgres.look(KEY, &promote(false)).await.unwrap();
    assert!(!look.satisfied, "{look:?}");
    for _ in 0..3 {
        pair.postgres.act(KEY, &promote(false), &look, &permit()).await.unwrap();
    }
    let seen = verified(&pair.postgres, &promote(false)).await;
    assert!(seen.contains("a write was committed and flushed at"), "{seen}");
    pair.postgres.act(KEY, &promote(false), &look, &permit()).await.unwrap();
    assert!(pair.postgres.look(KEY, &promote(false)).await.unwrap().satisfied);

    let app = pair.connect(WEST, "app").await.unwrap();
    app.batch_execute("INSERT INTO compute_nodes (payload) VALUES ('after')").await.unwrap();
    let timeline = "SELECT timeline_id FROM pg_control_checkpoint()";
    eventually("one promotion, one new timeline", async || {
        let timeline: i32 = pair.superuser(WEST).await.query_one(timeline, &[]).await.unwrap().get(0);
        (timeline == 2).then_some(())
    })
    .await;
    let left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'failoverd%'";
    assert_eq!(app.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0, "the proof leaves nothing behind");
}

#[tokio::test]
async fn a_standby_has_not_taken_a_write() {
    let pair = Pair::up();
    let place = Written::of(&pair.config).current(&at(WEST)).await.unwrap();
    let not_yet = pair.postgres.prove_writable(&at(WEST), &place).await.unwrap_err();
    assert!(matches!(&not_yet, Setback::NotYet(why) if why.contains("still in recovery")), "{not_yet:?}");
    assert!(matches!(pair.postgres.verify(KEY, &promote(false)).await, Err(Setback::NotYet(_))));
}

#[tokio::test]
async fn a_promotion_without_loss_waits_for_what_is_not_replayed() {
    let pair = Pair::up();
    let standby = pair.superuser(WEST).await;
    standby.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    let app = pair.connect(EAST, "app").await.unwrap();
    app.batch_execute("INSERT INTO compute_nodes (payload) SELECT 'x' FROM generate_series(1, 1000)").await.unwrap();
    for _ in 0..3 {
        let waiting = pair.postgres.act(KEY, &promote(true), &nothing_seen(), &permit()).await.unwrap_err();
        assert!(matches!(&waiting, Setback::Transient(why) if why.contains("replay is paused")), "{waiting:?}");
    }
    assert!(standby.query_one("SELECT pg_is_in_recovery()", &[]).await.unwrap().get::<_, bool>(0));
    standby.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    eventually("it has caught up", async || pair.postgres.caught_up(&at(WEST), &at(EAST)).await.ok()).await;
    eventually("it is promoted", async || {
        pair.postgres.act(KEY, &promote(true), &nothing_seen(), &permit()).await.ok()
    })
    .await;
    verified(&pair.postgres, &promote(true)).await;
    let rows = "SELECT count(*) FROM compute_nodes WHERE payload = 'x'";
    assert_eq!(standby.query_one(rows, &[]).await.unwrap().get::<_, i64>(0), 1000);
}

#[tokio::test]
async fn a_switchover_under_load_loses_no_row_that_was_acknowledged() {
    let pair = Pair::up();
    let acknowledged = Arc::new(AtomicI64::new(0));
    let writers: Vec<_> = futures::future::join_all((0..4).map(|_| pair.connect(EAST, "app"))).await;
    for (n, writer) in writers.into_iter().enumerate() {
        let (writer, acknowledged) = (writer.unwrap(), Arc::clone(&acknowledged));
        tokio::spawn(async move {
            // One of them does not wait for its flush: what it was told must not be lost either.
            let patience = if n == 0 { "off" } else { "on" };
            writer.batch_execute(&format!("SET synchronous_commit = {patience}")).await.unwrap();
            while writer.batch_execute("INSERT INTO compute_nodes (payload) VALUES ('load')").await.is_ok() {
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    eventually("there is load", async || (acknowledged.load(Ordering::Relaxed) > 200).then_some(())).await;
    let fence = Action::Fenced { database: at(EAST) };
    pair.postgres.act(KEY, &fence, &nothing_seen(), &permit()).await.unwrap();
    pair.postgres.verify(KEY, &fence).await.unwrap();
    eventually("it is promoted", async || {
        pair.postgres.act(KEY, &promote(true), &nothing_seen(), &permit()).await.ok()
    })
    .await;
    verified(&pair.postgres, &promote(true)).await;
    let rows = "SELECT count(*) FROM compute_nodes WHERE payload = 'load'";
    let there: i64 = pair.connect(WEST, "app").await.unwrap().query_one(rows, &[]).await.unwrap().get(0);
    let told = acknowledged.load(Ordering::Relaxed);
    // A commit whose answer was cut off may be there and not have been told, one for each writer.
    assert!((told..=told + 4).contains(&there), "{told} were acknowledged, {there} are there");
}

#[tokio::test]
async fn a_standby_that_brought_a_fence_along_is_promoted_without_it() {
    let pair = Pair::up();
    // As if the standby had been copied from a primary that was fenced.
    let fence = Action::Fenced { database: at(EAST) };
    pair.postgres.act(KEY, &fence, &nothing_seen(), &permit()).await.unwrap();
    let theirs = |name: &str| pair.hba(EAST).with_file_name(name);
    let ours = |name: &str| pair.hba(WEST).with_file_name(name);
    for name in ["pg_hba.conf", "postgresql.auto.conf"] {
        // Written into the existing file, which keeps its owner.
        std::fs::write(ours(name), std::fs::read(theirs(name)).unwrap()).unwrap();
    }
    pair.restart(WEST);
    pair.superuser(WEST).await;
    assert!(pair.connect(WEST, "app").await.is_err(), "the fence came along");
    pair.lab.tell("kill", &["pg@us-east-1"]);
    pair.postgres.act(KEY, &promote(false), &nothing_seen(), &permit()).await.unwrap();
    verified(&pair.postgres, &promote(false)).await;
    let app = pair.connect(WEST, "app").await.unwrap();
    app.batch_execute("INSERT INTO compute_nodes (payload) VALUES ('after')").await.unwrap();
}

#[tokio::test]
async fn nothing_is_promoted_without_a_permit_or_without_the_right_to() {
    let pair = Pair::up();
    let late = pair.postgres.act(KEY, &promote(false), &nothing_seen(), &permit_for(Duration::ZERO)).await;
    assert!(matches!(&late, Err(Setback::Transient(why)) if why.contains("permit")), "{late:?}");
    let revoke = "REVOKE EXECUTE ON FUNCTION pg_promote(boolean, integer) FROM failoverd";
    let dsn = pair.lab.text("/regions/us-east-1/postgres/dsn/postgres");
    let (superuser, connection) = tokio_postgres::connect(dsn, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    superuser.batch_execute(revoke).await.unwrap();
    eventually("the look says what is missing", async || {
        let look = pair.postgres.look(KEY, &promote(false)).await;
        matches!(&look, Err(Setback::Refused(why)) if why.contains("GRANT EXECUTE")).then_some(())
    })
    .await;
    let standby = pair.superuser(WEST).await;
    assert!(standby.query_one("SELECT pg_is_in_recovery()", &[]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test]
async fn a_check_compares_the_first_column_of_the_first_row() {
    let pair = Pair::up();
    let check = |query: &str, expects: &str| {
        toml::from_str::<SqlCheck>(&format!("database = 'database'\nquery = \"{query}\"\n{expects}")).unwrap()
    };
    let west = WEST.into();
    let rows = "SELECT count(*), 'other' FROM compute_nodes";
    pair.postgres.check(&check("SELECT pg_is_in_recovery()", "equals = 't'"), &west).await.unwrap();
    let mismatch = pair.postgres.check(&check("SELECT 1", "equals = '2'"), &west).await.unwrap_err();
    assert!(matches!(&mismatch, Setback::NotYet(why) if why.contains("`1`, expected `2`")), "{mismatch:?}");
    let newest = "SELECT max(at) FROM (VALUES (now() - interval '1 hour'), (now() - interval '9 s')) AS rows(at);";
    pair.postgres.check(&check(newest, "newest_within = '1m'"), &west).await.unwrap();
    let old = pair.postgres.check(&check(newest, "newest_within = '5s'"), &west).await.unwrap_err();
    assert!(matches!(&old, Setback::NotYet(why) if why.contains("at most")), "{old:?}");
    let none = check("SELECT max(at) FROM (VALUES (null::timestamptz)) AS rows(at)", "newest_within = '1m'");
    let none = pair.postgres.check(&none, &west).await.unwrap_err();
    assert!(matches!(&none, Setback::NotYet(why) if why.contains("no row with a time")), "{none:?}");
    let denied = pair.postgres.check(&check(rows, ""), &west).await.unwrap_err();
    assert!(matches!(&denied, Setback::Refused(why) if why.contains("42501")), "{denied:?}");
}
