//! What a promotion lost, asked of the databases themselves: where the logs part, and how many rows are on one side only.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio_postgres::SimpleQueryRow;
use tracing::warn;

use super::Postgres;
use super::errors::Trouble;
use super::probe::table_name;
use super::proof::Role;
use super::session::Session;
use crate::decide::{Divergence, RecoveryPoint};
use crate::domain::InstanceId;
use crate::ports::{Losses, Setback, Watermarks};

/// A server that was promoted still says how far it had replayed, until it is restarted.
const REPLAYED: &str = "SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0') AS position, \
    extract(epoch FROM pg_last_xact_replay_timestamp()) AS last_transaction";
/// Where its log ends.
const WRITTEN: &str = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0') AS position";

#[async_trait]
impl Losses for Postgres {
    async fn recovery_point(&self, database: &InstanceId) -> Result<RecoveryPoint, Setback> {
        let session = self.primary(database).await?;
        let rows = session.rows(REPLAYED).await.map_err(|trouble| trouble.setback(database))?;
        let row = rows.first();
        let text = |column: &str| row.and_then(|row| row.try_get(column).ok().flatten());
        let watermarks = self.watermarks(database, &session).await?;
        Ok(RecoveryPoint {
            position: text("position").and_then(|text| text.parse().ok()),
            last_transaction: text("last_transaction").and_then(at),
            watermarks,
        })
    }

    async fn divergence(&self, database: &InstanceId, watermarks: &Watermarks) -> Result<Divergence, Setback> {
        let session = self.primary(database).await?;
        let rows = session.rows(WRITTEN).await.map_err(|trouble| trouble.setback(database))?;
        let position = rows.first().and_then(|row| row.get("position")).and_then(|text| text.parse().ok());
        let mut found = Divergence { position, ..Divergence::default() };
        for (table, watermark) in watermarks {
            let Some(column) = self.database(database)?.watermarks.get(table) else { continue };
            let beyond = match watermark {
                Some(watermark) => format!(" WHERE {} > {}", table_name(column), literal(watermark)),
                None => String::new(),
            };
            let count = format!("SELECT count(*) FROM {}{beyond}", table_name(table));
            let asked = session.rows(&count).await;
            let Some(rows) = asked.map_or_else(|trouble| left_out(trouble, database, table), |rows| Ok(Some(rows)))?
            else {
                continue;
            };
            let count = rows.first().and_then(|row| row.get(0)).and_then(|text| text.parse().ok());
            found.rows.extend(count.map(|count| (table.clone(), count)));
        }
        Ok(found)
    }
}

/// The same of a standby, and whether it has replayed everything that it received.
const STANDBY: &str = "SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0') AS position, \
    coalesce(pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn(), true) AS complete";
/// A promotion does not wait for what is only told afterwards.
const AT_ONCE: Duration = Duration::from_secs(1);

impl Postgres {
    /// How far a standby has come that is about to be promoted, before any client writes there; nothing where it does not
    /// say so at once, or still replays.
    pub(super) async fn point_of_standby(&self, database: &InstanceId, session: &Session) -> Option<RecoveryPoint> {
        if self.database(database).ok()?.watermarks.is_empty() {
            return None;
        }
        let asked = async {
            self.speak_plainly(database, session).await.ok()?;
            let before = self.replayed(session).await?;
            let watermarks = self.watermarks(database, session).await.ok()?;
            let point = RecoveryPoint { position: Some(before), last_transaction: None, watermarks };
            (self.replayed(session).await? == before).then_some(point)
        };
        tokio::time::timeout(AT_ONCE, asked).await.ok().flatten()
    }

    async fn replayed(&self, session: &Session) -> Option<u64> {
        let rows = session.rows(STANDBY).await.ok()?;
        let row = rows.first().filter(|row| row.get("complete") == Some("t"))?;
        row.get("position")?.parse().ok()
    }

    async fn watermarks(&self, database: &InstanceId, session: &Session) -> Result<Watermarks, Setback> {
        let mut watermarks = Watermarks::new();
        for (table, column) in &self.database(database)?.watermarks {
            let newest = format!("SELECT max({})::text FROM {}", table_name(column), table_name(table));
            let asked = session.rows(&newest).await;
            let left_out = |trouble| left_out(trouble, database, table);
            let Some(rows) = asked.map_or_else(left_out, |rows| Ok(Some(rows)))? else { continue };
            watermarks.insert(table.clone(), rows.first().and_then(|row| row.get(0)).map(str::to_owned));
        }
        Ok(watermarks)
    }

    /// Values are written down on one server and compared on another.
    async fn speak_plainly(&self, database: &InstanceId, session: &Session) -> Result<(), Setback> {
        let settings = format!("{}; SET TimeZone = 'UTC'; SET DateStyle = 'ISO'", session.statement_timeout());
        session.rows(&settings).await.map(|_| ()).map_err(|trouble| trouble.setback(database))
    }

    /// A session with a server that is not in recovery. Its role may be locked out of everything but reading.
    async fn primary(&self, database: &InstanceId) -> Result<Session, Setback> {
        let session = self.open(database, self.until(None)?).await?;
        match self.role(database, &session).await? {
            Role::Primary => {}
            Role::Standby => return Err(Setback::NotYet(format!("{database} is in recovery"))),
        }
        self.speak_plainly(database, &session).await?;
        Ok(session)
    }
}

/// A table that is not there, or not for us, is left out: what else is known is not given up for it.
fn left_out(trouble: Trouble, database: &InstanceId, table: &str) -> Result<Option<Vec<SimpleQueryRow>>, Setback> {
    match trouble.setback(database) {
        Setback::Refused(why) => {
            warn!("{table} of databases.{}.watermarks is left out: {why}", database.component);
            Ok(None)
        }
        setback @ (Setback::NotYet(_) | Setback::Transient(_)) => Err(setback),
    }
}

/// Seconds since 1970, as PostgreSQL writes them.
fn at(seconds: &str) -> Option<Timestamp> {
    let seconds = seconds.parse::<f64>().ok()?;
    let since = jiff::SignedDuration::try_from_secs_f64(seconds).ok()?;
    Timestamp::from_duration(since).ok()
}

/// A text that is never more than a text.
fn literal(text: &str) -> String {
    let escaped = text.replace('\\', r"\\").replace('\'', "''");
    format!("E'{escaped}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_never_more_than_a_value() {
        assert_eq!(literal("it's"), "E'it''s'");
        assert_eq!(literal(r"a\'; DROP TABLE x"), r"E'a\\''; DROP TABLE x'");
    }
}
