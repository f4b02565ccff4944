//! The probe: name, connection, TLS, greeting, question, role, and where it is configured a write.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::SimpleQueryRow;
use tokio_postgres::error::SqlState;

use super::Postgres;
use super::errors::Trouble;
use super::session::Session;
use crate::adapters::Readiness;
use crate::adapters::connect::Broken;
use crate::domain::{Evidence, Finding, InstanceId, Layer, Observation, Serving};
use crate::ports::Probe;

/// The health check of one database instance.
pub struct PostgresProbe {
    postgres: Postgres,
    instance: InstanceId,
    timeout: Duration,
    readiness: Option<Arc<dyn Readiness>>,
}

impl PostgresProbe {
    pub(super) fn new(
        postgres: Postgres,
        instance: InstanceId,
        timeout: Duration,
        readiness: Option<Arc<dyn Readiness>>,
    ) -> Self {
        Self { postgres, instance, timeout, readiness }
    }

    async fn look(&self, until: Instant) -> (Finding, Evidence) {
        let began = Instant::now();
        let mut evidence = Evidence::default();
        let finding = match self.ask(until, &mut evidence).await {
            Ok(()) => Finding::Alive,
            Err(trouble) => trouble.conclude(&mut evidence),
        };
        evidence.latency = Some(began.elapsed());
        (finding, evidence)
    }

    async fn ask(&self, until: Instant, evidence: &mut Evidence) -> Result<(), Trouble> {
        let at = self.postgres.0.endpoints.recent(&self.instance).await.map_err(|unknown| Broken::Here {
            why: format!("where {} answers is not known: {unknown}", self.instance),
        })?;
        let session = self.postgres.open_at(&self.instance, &at, until).await?;
        let rows = session.rows(&format!("{}; {QUESTION}", session.statement_timeout())).await?;
        let Some(answer) = rows.first().map(Answer::read) else {
            return Err(Trouble::Garbled("no row came back".to_owned()));
        };
        answer.tell(evidence);
        if answer.in_recovery == Some(false) && answer.read_only != Some(true) {
            self.beat(&session, evidence).await?;
        }
        Ok(())
    }

    /// A real write, where a table for it is configured.
    async fn beat(&self, session: &Session, evidence: &mut Evidence) -> Result<(), Trouble> {
        let Ok(database) = self.postgres.database(&self.instance) else { return Ok(()) };
        let Some(table) = database.heartbeat_table.as_deref() else { return Ok(()) };
        let creates = database.create_heartbeat_table;
        let statement = format!("UPDATE {} SET beat = now() RETURNING beat", table_name(table));
        match session.rows_during(&statement, Layer::Write).await {
            Ok(rows) if rows.is_empty() && creates => {
                create_heartbeat(session, table, evidence).await;
                Ok(())
            }
            Ok(rows) if rows.is_empty() => {
                evidence.warnings.push(format!("the heartbeat table {table} has no row to update"));
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(trouble) if creates && trouble.code() == Some(&SqlState::UNDEFINED_TABLE) => {
                create_heartbeat(session, table, evidence).await;
                Ok(())
            }
            // The table is ours to set up: that it is not there, or not for us, says nothing about the server.
            Err(trouble) if trouble.code().is_some_and(is_ours_to_set_up) => {
                evidence.warnings.push(format!("the heartbeat table {table} cannot be written: {trouble}"));
                Ok(())
            }
            Err(trouble) => Err(trouble),
        }
    }
}

#[async_trait]
impl Probe for PostgresProbe {
    async fn observe(&self, began: Duration) -> Observation {
        let until = Instant::now() + self.timeout;
        let managed = async {
            match &self.readiness {
                None => Evidence::default(),
                Some(readiness) => {
                    timeout_at(until, readiness.readiness(&self.instance)).await.unwrap_or_else(|_| Evidence {
                        warnings: vec!["the cloud did not say in time whether it could take over".to_owned()],
                        ..Evidence::default()
                    })
                }
            }
        };
        let ((finding, mut evidence), managed) = futures::join!(self.look(until), managed);
        evidence.credential_refused |= managed.credential_refused;
        evidence.not_ready.extend(managed.not_ready);
        evidence.warnings.extend(managed.warnings);
        evidence.details.extend(managed.details);
        let ended = self.postgres.0.clock.now().monotonic;
        Observation { instance: self.instance.clone(), began, ended, finding, evidence }
    }
}

/// `schema.table` as identifiers; each part quoted, so that a name is never more than a name.
pub(super) fn table_name(configured: &str) -> String {
    let quoted = |part: &str| format!("\"{}\"", part.replace('"', "\"\""));
    configured.split('.').map(quoted).collect::<Vec<_>>().join(".")
}

/// Several daemons may do it at once, and one of them is told that it came too late: nothing of that says anything about
/// the server.
async fn create_heartbeat(session: &Session, table: &str, evidence: &mut Evidence) {
    let name = table_name(table);
    let statements = format!(
        "CREATE TABLE IF NOT EXISTS {name} \
           (one boolean PRIMARY KEY DEFAULT true CHECK (one), beat timestamptz NOT NULL DEFAULT now()); \
         INSERT INTO {name} DEFAULT VALUES ON CONFLICT DO NOTHING"
    );
    match session.rows(&statements).await {
        Ok(_) => evidence.details.push(format!("heartbeat table {table} created")),
        Err(trouble) => {
            evidence
                .warnings
                .push(format!("the heartbeat table {table} is not there and cannot be created: {trouble}"));
        }
    }
}

fn is_ours_to_set_up(code: &SqlState) -> bool {
    code.code().starts_with("42") || code.code().starts_with("3F")
}

/// `SELECT 1`, the role, the positions and the state of replication, in one round trip. The functions that fail on the
/// other role are asked only where they work.
const QUESTION: &str = "\
SELECT 1 AS one, \
  r.in_recovery, \
  CASE WHEN NOT r.in_recovery THEN pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') END AS written, \
  CASE WHEN r.in_recovery THEN pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '0/0') END AS received, \
  CASE WHEN r.in_recovery THEN pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0') END AS replayed, \
  CASE WHEN r.in_recovery THEN round(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::numeric, 1) \
    END AS replay_age, \
  CASE WHEN r.in_recovery THEN pg_is_wal_replay_paused() END AS paused, \
  CASE WHEN r.in_recovery THEN EXISTS (SELECT FROM pg_stat_wal_receiver) END AS receiving, \
  CASE WHEN NOT r.in_recovery THEN (SELECT count(*) FROM pg_stat_replication) END AS standbys, \
  current_setting('default_transaction_read_only') AS read_only, \
  current_setting('server_version') AS version \
FROM (SELECT pg_is_in_recovery() AS in_recovery) AS r";

/// The answer; what is missing or not to be understood is not known.
#[derive(Debug, Default)]
struct Answer {
    in_recovery: Option<bool>,
    written: Option<u64>,
    received: Option<u64>,
    replayed: Option<u64>,
    replay_age: Option<String>,
    paused: Option<bool>,
    receiving: Option<bool>,
    standbys: Option<u64>,
    read_only: Option<bool>,
    version: Option<String>,
}

impl Answer {
    fn read(row: &SimpleQueryRow) -> Self {
        let text = |column: &str| row.try_get(column).ok().flatten();
        let number = |column: &str| text(column).and_then(|text| text.parse().ok());
        let truth = |column: &str| match text(column) {
            Some("t" | "on") => Some(true),
            Some("f" | "off") => Some(false),
            Some(_) | None => None,
        };
        Self {
            in_recovery: truth("in_recovery"),
            written: number("written"),
            received: number("received"),
            replayed: number("replayed"),
            replay_age: text("replay_age").map(str::to_owned),
            paused: truth("paused"),
            receiving: truth("receiving"),
            standbys: number("standbys"),
            read_only: truth("read_only"),
            version: text("version").map(str::to_owned),
        }
    }

    fn tell(&self, evidence: &mut Evidence) {
        evidence.serving = self.in_recovery.map(|standby| if standby { Serving::Replica } else { Serving::Writable });
        // What a standby has received it replays before it ends recovery, so that counts, too.
        evidence.position = self.written.or(self.received.max(self.replayed));
        let mut detail = |name: &str, value: Option<String>| {
            evidence.details.extend(value.map(|value| format!("{name}={value}")));
        };
        detail("received", self.received.map(lsn));
        detail("replayed", self.replayed.map(lsn));
        detail("written", self.written.map(lsn));
        detail("replay_age_s", self.replay_age.clone());
        detail("standbys", self.standbys.map(|n| n.to_string()));
        detail("streaming", self.receiving.map(|on| if on { "yes" } else { "no" }.to_owned()));
        detail("version", self.version.clone());
        if self.receiving == Some(false) {
            evidence.warnings.push("it receives nothing from its primary: no WAL receiver runs".to_owned());
        }
        if self.paused == Some(true) {
            evidence.warnings.push("replay is paused; SELECT pg_wal_replay_resume() ends that".to_owned());
        }
        if self.read_only == Some(true) {
            evidence.details.push("default_transaction_read_only=on".to_owned());
            let why = "it refuses writes: default_transaction_read_only is on".to_owned();
            if self.in_recovery == Some(false) {
                evidence.degraded = Some(why.clone());
                evidence.not_ready.push(why);
            } else {
                evidence
                    .warnings
                    .push("default_transaction_read_only is on: promoted, it would refuse writes".to_owned());
            }
        }
    }
}

/// A position as PostgreSQL writes it.
pub(super) fn lsn(bytes: u64) -> String {
    format!("{:X}/{:X}", bytes >> 32, bytes & 0xFFFF_FFFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_standby_received_counts_although_it_is_not_replayed_yet() {
        let mut evidence = Evidence::default();
        Answer { in_recovery: Some(true), received: Some(200), replayed: Some(100), ..Answer::default() }
            .tell(&mut evidence);
        assert_eq!(evidence.position, Some(200));
        assert_eq!(evidence.serving, Some(Serving::Replica));
    }

    #[test]
    fn an_answer_without_positions_leaves_them_unknown() {
        let mut evidence = Evidence::default();
        Answer { in_recovery: Some(true), ..Answer::default() }.tell(&mut evidence);
        assert_eq!(evidence.position, None);
    }

    #[test]
    fn positions_are_shown_as_postgresql_writes_them() {
        assert_eq!(lsn(0x1_0000_00FF), "1/FF");
    }

    #[test]
    fn a_table_name_is_never_more_than_a_name() {
        assert_eq!(table_name("ops.beat; DROP TABLE x"), "\"ops\".\"beat; DROP TABLE x\"");
    }
}
