//! The fence, judged by what the application can do.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use failoverd::adapters::postgres::Postgres;
use failoverd::plan::Action;
use failoverd::ports::{Actuator as _, Setback};
use serde_json::json;
use tokio_postgres::Client;

use crate::data_plane::{EAST, WEST, eventually, nothing_seen, permit, permit_for, verified};
use crate::postgres::{Differences, Pair, at};

const KEY: &str = "plan/fence";
const INSERT: &str = "INSERT INTO compute_nodes (payload) VALUES ('x')";

fn fence() -> Action {
    Action::Fenced { database: at(EAST) }
}

async fn fenced(postgres: &Postgres) {
    postgres.act(KEY, &fence(), &nothing_seen(), &permit()).await.unwrap();
    let seen = postgres.verify(KEY, &fence()).await.unwrap();
    assert!(seen.contains("refuses app at login"), "{seen}");
}

async fn app_writes(pair: &Pair, region: &str) -> Result<(), tokio_postgres::Error> {
    pair.connect(region, "app").await?.batch_execute(INSERT).await
}

async fn is_ended(session: &Client) {
    eventually("the session is over", async || session.is_closed().then_some(())).await;
}

#[tokio::test]
async fn a_fence_ends_the_applications_sessions_and_lets_none_in() {
    let pair = Pair::up();
    let session = pair.connect(EAST, "app").await.unwrap();
    session.batch_execute(INSERT).await.unwrap();
    let before = pair.postgres.look(KEY, &fence()).await.unwrap();
    assert!(!before.satisfied, "{before:?}");
    assert!(pair.postgres.verify(KEY, &fence()).await.is_err(), "nothing is fenced yet");

    fenced(&pair.postgres).await;

    is_ended(&session).await;
    let refused = app_writes(&pair, EAST).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "28000", "{refused}");
    let after = pair.postgres.look(KEY, &fence()).await.unwrap();
    assert!(after.satisfied, "{after:?}");
    let other = pair.superuser(EAST).await.batch_execute("CREATE TABLE careless ()").await.unwrap_err();
    assert_eq!(other.code().unwrap().code(), "25006", "read-only by default for everybody else: {other}");
}

#[tokio::test]
async fn a_fence_survives_a_crash_and_a_restart() {
    let pair = Pair::up();
    fenced(&pair.postgres).await;
    pair.restart(EAST);
    pair.superuser(EAST).await;
    assert_eq!(app_writes(&pair, EAST).await.unwrap_err().code().unwrap().code(), "28000");
    pair.postgres.verify(KEY, &fence()).await.unwrap();
}

#[tokio::test]
async fn a_fence_does_not_reach_the_standby_not_even_when_it_is_promoted() {
    let pair = Pair::up();
    fenced(&pair.postgres).await;
    let promote = Action::DatabasePromoted { database: at(WEST), from: at(EAST), lossless: true };
    eventually("the standby has everything", async || {
        pair.postgres.act(KEY, &promote, &nothing_seen(), &permit()).await.ok()
    })
    .await;
    verified(&pair.postgres, &promote).await;
    app_writes(&pair, WEST).await.unwrap();
    assert!(app_writes(&pair, EAST).await.is_err(), "one writable side");
    pair.postgres.verify(KEY, &fence()).await.unwrap();
}

#[tokio::test]
async fn fencing_and_unfencing_leaves_everything_as_it_was() {
    let pair = Pair::up();
    let hba = std::fs::read(pair.hba(EAST)).unwrap();
    let before = pair.postgres.look(KEY, &fence()).await.unwrap();
    fenced(&pair.postgres).await;
    fenced(&pair.postgres).await;
    let opened_while_fenced = pair.superuser(EAST).await;

    let said = pair.postgres.undo(KEY, &fence(), &before.previous, &permit()).await.unwrap();

    assert!(said.contains("as app, a write was committed"), "{said}");
    app_writes(&pair, EAST).await.unwrap();
    assert_eq!(std::fs::read(pair.hba(EAST)).unwrap(), hba);
    let written = "CREATE TABLE opened_while_fenced ()";
    eventually("old sessions write, too", async || opened_while_fenced.batch_execute(written).await.ok()).await;
    pair.postgres.undo(KEY, &fence(), &before.previous, &permit()).await.unwrap();
    pair.restart(EAST);
    pair.superuser(EAST).await;
    app_writes(&pair, EAST).await.unwrap();
}

#[tokio::test]
async fn a_fence_that_is_interrupted_anywhere_is_completed_by_the_next_attempt() {
    let pair = Pair::up();
    let hba = std::fs::read(pair.hba(EAST)).unwrap();
    let previous = pair.postgres.look(KEY, &fence()).await.unwrap().previous;
    let mut cut = [0, 0];
    for after in (2..80).step_by(6).chain([150, 300]).map(Duration::from_millis) {
        cut[0] += usize::from(pair.postgres.act(KEY, &fence(), &nothing_seen(), &permit_for(after)).await.is_err());
        fenced(&pair.postgres).await;
        assert!(app_writes(&pair, EAST).await.is_err());
        cut[1] += usize::from(pair.postgres.undo(KEY, &fence(), &previous, &permit_for(after)).await.is_err());
        pair.postgres.undo(KEY, &fence(), &previous, &permit()).await.unwrap();
        app_writes(&pair, EAST).await.unwrap();
        assert_eq!(std::fs::read(pair.hba(EAST)).unwrap(), hba, "interrupted after {after:?}");
    }
    assert!(cut[0] > 2 && cut[1] > 2, "some were interrupted: {cut:?}");
}

#[tokio::test]
async fn a_file_that_was_cut_while_it_was_written_is_put_together_again() {
    let pair = Pair::up();
    let hba = std::fs::read(pair.hba(EAST)).unwrap();
    fenced(&pair.postgres).await;
    let whole = std::fs::read(pair.hba(EAST)).unwrap();
    for keep in [whole.len() - 20, whole.len() - hba.len() - 10] {
        std::fs::write(pair.hba(EAST), &whole[..keep]).unwrap();
        assert!(!pair.postgres.look(KEY, &fence()).await.unwrap().satisfied, "{keep} bytes are not all of it");
        fenced(&pair.postgres).await;
        assert_eq!(std::fs::read(pair.hba(EAST)).unwrap(), whole);
    }
    std::fs::write(pair.hba(EAST), &whole[..whole.len() - 20]).unwrap();
    pair.postgres.undo(KEY, &fence(), &json!({}), &permit()).await.unwrap();
    assert_eq!(std::fs::read(pair.hba(EAST)).unwrap(), hba);
}

#[tokio::test]
async fn what_an_operator_had_set_is_set_again() {
    let pair = Pair::up();
    let superuser = pair.superuser(EAST).await;
    superuser.batch_execute("ALTER SYSTEM SET default_transaction_read_only = off").await.unwrap();
    superuser.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let auto = pair.hba(EAST).with_file_name("postgresql.auto.conf");
    let before = std::fs::read_to_string(&auto).unwrap();
    eventually("it is loaded", async || {
        let file = "SELECT sourcefile IS NOT NULL FROM pg_settings WHERE name = 'default_transaction_read_only'";
        pair.superuser(EAST).await.query_one(file, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    fenced(&pair.postgres).await;
    assert!(std::fs::read_to_string(&auto).unwrap().contains("default_transaction_read_only = 'on'"));
    pair.postgres.undo(KEY, &fence(), &json!({}), &permit()).await.unwrap();
    assert_eq!(std::fs::read_to_string(&auto).unwrap(), before);
}

/// The key is documented in `fence.rs`.
#[tokio::test]
async fn one_at_a_time_is_at_the_fence_and_whoever_stops_in_the_middle_is_not_waited_for_for_ever() {
    let pair = Pair::up();
    let hba = std::fs::read(pair.hba(EAST)).unwrap();
    let dsn = pair.lab.text(&format!("/regions/{EAST}/postgres/dsn/postgres")).to_owned();
    let dsn = dsn.parse::<tokio_postgres::Config>().unwrap().dbname("omnimesh_db").clone();
    let (holder, connection) = dsn.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    holder.batch_execute("SELECT pg_advisory_lock(x'6661696c6f766572'::bigint)").await.unwrap();
    for waits in [
        pair.postgres.act(KEY, &fence(), &nothing_seen(), &permit_for(Duration::from_secs(2))).await,
        pair.postgres.undo(KEY, &fence(), &json!({}), &permit_for(Duration::from_secs(2))).await.map(drop),
    ] {
        let setback = waits.unwrap_err();
        assert!(matches!(&setback, Setback::Transient(why) if why.contains("advisory lock")), "{setback:?}");
        assert_eq!(std::fs::read(pair.hba(EAST)).unwrap(), hba);
    }
    holder.batch_execute("SET idle_session_timeout = '1s'").await.unwrap();
    fenced(&pair.postgres).await;
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    eventually("nobody holds it any more", async || {
        (pair.superuser(EAST).await.query_one(held, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn nothing_is_lifted_where_there_is_no_fence_whoever_else_takes_writes() {
    let pair = Pair::up();
    pair.superuser(WEST).await.batch_execute("SELECT pg_promote(true, 30)").await.unwrap();
    pair.postgres.undo(KEY, &fence(), &json!({}), &permit()).await.unwrap();
    app_writes(&pair, EAST).await.unwrap();
}

#[tokio::test]
async fn the_old_primary_is_not_unfenced_beside_a_promoted_standby() {
    let pair = Pair::up();
    fenced(&pair.postgres).await;
    pair.superuser(WEST).await.batch_execute("SELECT pg_promote(true, 30)").await.unwrap();
    let refused = pair.postgres.undo(KEY, &fence(), &json!({}), &permit()).await.unwrap_err();
    assert!(matches!(&refused, Setback::Refused(why) if why.contains("second primary")), "{refused:?}");
    assert!(app_writes(&pair, EAST).await.is_err());
}

#[tokio::test]
async fn a_primary_that_cannot_be_reached_is_owed_its_fence() {
    let pair = Pair::up();
    pair.lab.tell("kill", &["pg@us-east-1"]);
    let owed = pair.postgres.look(KEY, &fence()).await.unwrap_err();
    assert!(matches!(&owed, Setback::Transient(why) if why.contains("cannot be reached")), "{owed:?}");
    pair.lab.tell("start", &["pg@us-east-1"]);
    pair.superuser(EAST).await;
    fenced(&pair.postgres).await;
}

#[tokio::test]
async fn a_file_with_an_error_in_it_is_left_alone() {
    let pair = Pair::up();
    let mut hba = std::fs::read_to_string(pair.hba(EAST)).unwrap();
    hba.push_str("host all all not-an-address scram-sha-257\n");
    std::fs::write(pair.hba(EAST), &hba).unwrap();
    let refused = pair.postgres.act(KEY, &fence(), &nothing_seen(), &permit()).await.unwrap_err();
    assert!(matches!(&refused, Setback::Refused(why) if why.contains("line ")), "{refused:?}");
    assert_eq!(std::fs::read_to_string(pair.hba(EAST)).unwrap(), hba);
    app_writes(&pair, EAST).await.unwrap();
}

#[tokio::test]
async fn a_misspelt_role_or_a_missing_right_is_known_before_it_counts() {
    let pair = Pair::up();
    let misspelt = pair.again(&Differences { roles: "\"app\", \"aap\"", ..Differences::default() });
    let refused = misspelt.look(KEY, &fence()).await.unwrap_err();
    assert!(matches!(&refused, Setback::Refused(why) if why.ends_with("named aap")), "{refused:?}");
    pair.superuser(EAST)
        .await
        .batch_execute("REVOKE pg_write_server_files, pg_signal_backend FROM failoverd")
        .await
        .unwrap();
    let refused = pair.postgres.look(KEY, &fence()).await.unwrap_err();
    assert!(
        matches!(&refused, Setback::Refused(why) if why.contains("GRANT it pg_write_server_files, pg_signal_backend")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_login_that_is_refused_for_another_reason_is_no_fence() {
    let pair = Pair::up();
    // Nobody named app may come in from here: the knock alone would be refused.
    let hba = std::fs::read_to_string(pair.hba(EAST)).unwrap();
    std::fs::write(pair.hba(EAST), format!("host all app 127.0.0.1/32 reject\n{hba}")).unwrap();
    pair.superuser(EAST).await.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    eventually("it is loaded", async || app_writes(&pair, EAST).await.err()).await;
    let look = pair.postgres.look(KEY, &fence()).await.unwrap();
    assert!(!look.satisfied, "{look:?}");
    assert!(pair.postgres.verify(KEY, &fence()).await.is_err());
    fenced(&pair.postgres).await;
    let said = pair.postgres.undo(KEY, &fence(), &look.previous, &permit()).await.unwrap();
    assert!(said.contains("could not log in from here before"), "{said}");
}
