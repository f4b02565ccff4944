//! Proofs: that a server takes writes, that a standby has everything, that a query answers as expected.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tokio_postgres::SimpleQueryRow;
use tokio_postgres::error::SqlState;

use super::Postgres;
use super::errors::Trouble;
use super::probe::{lsn, table_name};
use super::session::Session;
use crate::adapters::connect::one_line;
use crate::adapters::{CatchUp, Endpoint, WriteProof};
use crate::config::schema::SqlCheck;
use crate::domain::time::human;
use crate::domain::{InstanceId, RegionId};
use crate::ports::{Look, Setback};

/// A table of one transaction: it is created, written, read and dropped, and then that is committed.
///
/// Creating it is what makes this a proof. It writes rows of the system catalogues (so the server can change pages and
/// write WAL), makes a file (so the disk has room), is refused while transactions are read-only (so it notices a fence
/// and recovery), and the commit returns only when the WAL is flushed, and where a synchronous standby is required,
/// when that has it: what an application's commit waits for as well. `txid_current()` alone flushes nothing, and
/// `pg_logical_emit_message()` is not refused by a fence. Nothing is left behind, in the user's schemas or elsewhere.
const WRITE: &str = "\
BEGIN; \
CREATE TEMPORARY TABLE failoverd_proof (n integer) ON COMMIT DROP; \
INSERT INTO failoverd_proof VALUES (42); \
SELECT n FROM failoverd_proof; \
COMMIT; \
SELECT pg_current_wal_flush_lsn()";

/// Writes for real on `session`. What was seen, for the record.
pub(super) async fn write(session: &Session) -> Result<String, Trouble> {
    session.rows(&session.statement_timeout()).await?;
    let rows = match session.rows(WRITE).await {
        Ok(rows) => rows,
        Err(trouble) => {
            // The session is of use to the caller; where it is broken, that shows in the next question.
            let _ = session.rows("ROLLBACK").await;
            return Err(trouble);
        }
    };
    match (rows.first().and_then(|row| row.get(0)), rows.get(1).and_then(|row| row.get(0))) {
        (Some("42"), Some(flushed)) => Ok(format!("a write was committed and flushed at {flushed}")),
        (_, _) => Err(Trouble::Garbled("what was written was not read back".to_owned())),
    }
}

#[async_trait]
impl WriteProof for Postgres {
    async fn prove_writable(&self, instance: &InstanceId, at: &Endpoint) -> Result<String, Setback> {
        let until = self.until(None)?;
        let session = self.open_at(instance, at, until).await.map_err(|trouble| trouble.setback(instance))?;
        let proof = match write(&session).await {
            Ok(proof) => proof,
            Err(trouble) if trouble.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => {
                return Err(match self.role(instance, &session).await? {
                    Role::Standby => Setback::NotYet(format!("{instance} is still in recovery")),
                    Role::Primary => {
                        Setback::Transient(format!("{instance} is not in recovery and refuses writes: {trouble}"))
                    }
                });
            }
            Err(trouble) => return Err(trouble.setback(instance)),
        };
        match &self.database(instance)?.heartbeat_table {
            None => Ok(format!("{instance}: {proof}")),
            Some(table) => {
                let update = format!("UPDATE {} SET beat = now() RETURNING beat", table_name(table));
                let rows = session.rows(&update).await.map_err(|trouble| trouble.setback(instance))?;
                let beat = match rows.first().and_then(|row| row.get(0)) {
                    Some(beat) => format!("{table} says {beat}"),
                    None => format!("{table} has no row"),
                };
                Ok(format!("{instance}: {proof}, {beat}"))
            }
        }
    }
}

/// What a server is, by its own word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Not in recovery.
    Primary,
    /// In recovery.
    Standby,
}

impl Postgres {
    pub(super) async fn role(&self, instance: &InstanceId, session: &Session) -> Result<Role, Setback> {
        let rows = session.rows("SELECT pg_is_in_recovery()").await.map_err(|trouble| trouble.setback(instance))?;
        match rows.first().and_then(|row| row.get(0)) {
            Some("t") => Ok(Role::Standby),
            Some("f") => Ok(Role::Primary),
            Some(_) | None => Err(Setback::Transient(format!("{instance} did not say whether it is in recovery"))),
        }
    }

    /// Runs the check's query on the database's instance in `region`; what it answered, once that is what is expected.
    pub async fn check(&self, check: &SqlCheck, region: &RegionId) -> Result<String, Setback> {
        let instance = InstanceId { component: check.database.clone(), region: region.clone() };
        let session = self.open(&instance, self.until(None)?).await?;
        session.rows(&session.statement_timeout()).await.map_err(|trouble| trouble.setback(&instance))?;
        let query = match check.newest_within {
            Some(_) => age_of_newest(&check.query),
            None => check.query.clone(),
        };
        let rows = session.rows(&query).await.map_err(|trouble| trouble.setback(&instance))?;
        let answer = rows.first().filter(|row| !row.is_empty()).and_then(|row| row.get(0));
        judge(check, answer)
            .map(|seen| format!("{instance} answered {seen}"))
            .map_err(|wrong| Setback::NotYet(format!("{instance} answered {wrong}")))
    }

    /// How far a standby is behind; no trouble where it only is not there yet.
    pub(super) async fn look_at_positions(&self, standby: &InstanceId, source: &InstanceId) -> Result<Look, Setback> {
        let (satisfied, summary) = match self.caught_up(standby, source).await {
            Ok(seen) => (true, seen),
            Err(Setback::NotYet(seen)) => (false, seen),
            Err(setback @ (Setback::Transient(_) | Setback::Refused(_))) => return Err(setback),
        };
        Ok(Look { satisfied, summary, previous: serde_json::Value::Null })
    }

    async fn source_position(&self, source: &InstanceId, until: Instant) -> Result<u64, Setback> {
        let session = self.open(source, until).await?;
        let rows = session.rows(SOURCE).await.map_err(|trouble| trouble.setback(source))?;
        let row = rows.first().ok_or_else(|| no_position(source))?;
        if row.get("in_recovery") == Some("t") {
            return Err(Setback::Refused(format!("{source} is a standby itself: there is nothing to wait for")));
        }
        match (number(row, "inserted"), number(row, "block"), number(row, "segment")) {
            (Some(inserted), Some(block), Some(segment)) => Ok(end_of_record(inserted, block, segment)),
            (_, _, _) => Err(no_position(source)),
        }
    }

    async fn standby_position(&self, standby: &InstanceId, until: Instant) -> Result<(u64, bool), Setback> {
        let session = self.open(standby, until).await?;
        let rows = session.rows(STANDBY).await.map_err(|trouble| trouble.setback(standby))?;
        let row = rows.first().ok_or_else(|| no_position(standby))?;
        if row.get("in_recovery") == Some("f") {
            return Err(Setback::Refused(format!("{standby} is not a standby: it cannot catch up any more")));
        }
        let replayed = number(row, "replayed").ok_or_else(|| no_position(standby))?;
        Ok((replayed, row.get("paused") == Some("t")))
    }
}

#[async_trait]
impl CatchUp for Postgres {
    async fn follows(&self, standby: &InstanceId, source: &InstanceId) -> Result<String, Setback> {
        self.verify_rejoin(standby, source).await
    }

    async fn caught_up(&self, standby: &InstanceId, source: &InstanceId) -> Result<String, Setback> {
        let until = self.until(None)?;
        // The source first: what it had then is what the standby has to have.
        let written = self.source_position(source, until).await?;
        let (replayed, paused) = self.standby_position(standby, until).await?;
        if replayed >= written {
            return Ok(format!("{standby} has replayed {}, {source} wrote up to {}", lsn(replayed), lsn(written)));
        }
        let paused = if paused { "; its replay is paused, SELECT pg_wal_replay_resume() ends that" } else { "" };
        Err(Setback::NotYet(format!(
            "{standby} has replayed {}, {source} wrote up to {}: {} bytes to go{paused}",
            lsn(replayed),
            lsn(written),
            written - replayed,
        )))
    }
}

/// How many seconds ago the time is that a query answers with, by the server's clock.
fn age_of_newest(query: &str) -> String {
    let query = query.trim().trim_end_matches(';');
    format!("SELECT extract(epoch FROM clock_timestamp() - newest.at) FROM ({query}) AS newest(at)")
}

/// Whether the answer is what the check expects; both ways what it was.
fn judge(check: &SqlCheck, answer: Option<&str>) -> Result<String, String> {
    let shown = answer.map_or("nothing".to_owned(), |answer| format!("`{}`", one_line(answer, 100)));
    if let Some(expected) = &check.equals {
        let is_right = answer == Some(expected.as_str());
        return if is_right { Ok(shown) } else { Err(format!("{shown}, expected `{expected}`")) };
    }
    let number = || {
        let number = answer.and_then(|answer| answer.trim().parse::<f64>().ok());
        number.ok_or_else(|| format!("{shown}, which is no number"))
    };
    if let Some(within) = check.newest_within {
        let Some(_) = answer else { return Err("no row with a time".to_owned()) };
        let age = Duration::try_from_secs_f64(number()?.max(0.0)).unwrap_or(Duration::MAX);
        let told = format!("that the newest is {} old", human(age));
        return if age <= within { Ok(told) } else { Err(format!("{told}, expected {} at most", human(within))) };
    }
    if let Some(min) = check.min
        && number()? < min
    {
        return Err(format!("{shown}, expected {min} or more"));
    }
    if let Some(max) = check.max
        && number()? > max
    {
        return Err(format!("{shown}, expected {max} or less"));
    }
    Ok(shown)
}

/// The end of what was inserted, not only of what was written out: a commit that did not wait for its flush
/// (`synchronous_commit = off`) is written out within moments, and must not be lost either.
const SOURCE: &str = "\
SELECT r.in_recovery, \
  CASE WHEN NOT r.in_recovery THEN pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0') END AS inserted, \
  (SELECT setting FROM pg_settings WHERE name = 'wal_block_size') AS block, \
  (SELECT setting FROM pg_settings WHERE name = 'wal_segment_size') AS segment \
FROM (SELECT pg_is_in_recovery() AS in_recovery) AS r";

const STANDBY: &str = "\
SELECT r.in_recovery, \
  CASE WHEN r.in_recovery THEN pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0') END AS replayed, \
  CASE WHEN r.in_recovery THEN pg_is_wal_replay_paused() END AS paused \
FROM (SELECT pg_is_in_recovery() AS in_recovery) AS r";

/// Where the last record ended. An insert position at the start of a page is reported behind that page's header, where
/// the next record will begin; a standby that has replayed everything stays in front of it.
fn end_of_record(inserted: u64, block: u64, segment: u64) -> u64 {
    const SHORT_HEADER: u64 = 24;
    const LONG_HEADER: u64 = 40;
    if segment != 0 && inserted % segment == LONG_HEADER {
        inserted - LONG_HEADER
    } else if block != 0 && inserted % block == SHORT_HEADER {
        inserted - SHORT_HEADER
    } else {
        inserted
    }
}

fn number(row: &SimpleQueryRow, column: &str) -> Option<u64> {
    row.try_get(column).ok().flatten().and_then(|text| text.parse().ok())
}

fn no_position(instance: &InstanceId) -> Setback {
    Setback::Transient(format!("{instance} did not say how far it is"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expects: &str) -> SqlCheck {
        toml::from_str(&format!("database = 'main'\nquery = 'SELECT 1'\n{expects}")).expect("a check")
    }

    #[test]
    fn an_answer_is_judged_as_a_text_a_number_or_an_age() {
        assert!(judge(&check(""), None).is_ok(), "any answer will do");
        assert!(judge(&check("equals = 'f'"), Some("f")).is_ok());
        assert_eq!(judge(&check("equals = 'f'"), Some("t")), Err("`t`, expected `f`".into()));
        assert!(judge(&check("min = 1"), Some("12")).is_ok());
        assert_eq!(judge(&check("min = 1"), Some("0")), Err("`0`, expected 1 or more".into()), "an empty table");
        assert_eq!(judge(&check("min = 1"), None), Err("nothing, which is no number".into()));
        assert_eq!(judge(&check("min = 1\nmax = 2.5"), Some("3")), Err("`3`, expected 2.5 or less".into()));
        assert!(judge(&check("newest_within = '1m'"), Some("59.5")).is_ok());
        assert!(judge(&check("newest_within = '1m'"), Some("-2")).is_ok(), "a clock that is a little ahead");
        let old = judge(&check("newest_within = '1m'"), Some("61")).expect_err("too old");
        assert_eq!(old, "that the newest is 1 min 01 s old, expected 1 min at most");
        assert_eq!(judge(&check("newest_within = '1m'"), None), Err("no row with a time".into()));
    }

    #[test]
    fn a_page_header_is_not_something_to_wait_for() {
        let (block, segment) = (8192, 16 << 20);
        assert_eq!(end_of_record(3 * segment + 40, block, segment), 3 * segment);
        assert_eq!(end_of_record(3 * segment + 2 * block + 24, block, segment), 3 * segment + 2 * block);
        assert_eq!(end_of_record(3 * segment + 2 * block + 32, block, segment), 3 * segment + 2 * block + 32);
    }
}
