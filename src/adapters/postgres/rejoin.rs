//! An old primary becomes a streaming standby of the one that serves in its place: begun by an operator's command, and judged
//! by what both servers say.

use super::Postgres;
use super::errors::Trouble;
use super::proof::Role;
use super::session::Session;
use crate::adapters::command;
use crate::config::schema::CommandCheck;
use crate::domain::InstanceId;
use crate::ports::{Look, Permit, Setback};

/// Which cluster it is and on which timeline it writes; the latter also right after a promotion, before its checkpoint.
const PRIMARY: &str = "SELECT system_identifier::text AS cluster, \
    ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int::text AS timeline FROM pg_control_system()";
/// The same of a standby: from which timeline it streams, where it does.
const STANDBY: &str = "SELECT system_identifier::text AS cluster, \
    (SELECT received_tli::text FROM pg_stat_wal_receiver WHERE status = 'streaming') AS timeline FROM pg_control_system()";

/// Where a server stands in the history of its cluster.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    cluster: String,
    /// None where it streams from nobody.
    timeline: Option<String>,
}

impl Postgres {
    pub(super) async fn look_at_rejoin(&self, database: &InstanceId, from: &InstanceId) -> Result<Look, Setback> {
        let told = self.streams_from(database, from).await;
        let (satisfied, summary) = match told {
            Ok(summary) => (true, summary),
            Err(Setback::NotYet(summary)) => (false, summary),
            Err(setback @ (Setback::Transient(_) | Setback::Refused(_))) => return Err(setback),
        };
        Ok(Look { satisfied, summary, previous: serde_json::Value::Null })
    }

    /// Begins it. The command is short: what takes long goes on without us, and shows in the servers.
    pub(super) async fn rejoin(
        &self,
        database: &InstanceId,
        from: &InstanceId,
        permit: &Permit,
    ) -> Result<(), Setback> {
        let Some(command) = self.database(database)?.rejoin.as_ref().and_then(|rejoin| rejoin.command.clone()) else {
            return Err(Setback::Refused(format!("nothing says how; write databases.{}.rejoin", database.component)));
        };
        if let Role::Standby = self.role(from, &self.open(from, self.until(None)?).await?).await? {
            return Err(Setback::Refused(format!("{from} is itself in recovery")));
        }
        let primary = self.0.endpoints.current(from).await?;
        let mut variables = vec![
            ("FAILOVERD_DATABASE", database.component.to_string()),
            ("FAILOVERD_PRIMARY_REGION", from.region.to_string()),
            ("FAILOVERD_PRIMARY_HOST", primary.host),
            ("FAILOVERD_PRIMARY_PORT", primary.port.to_string()),
        ];
        // A managed one may have been deleted already, to be made anew.
        if let Ok(own) = self.0.endpoints.current(database).await {
            variables.extend([("FAILOVERD_HOST", own.host), ("FAILOVERD_PORT", own.port.to_string())]);
        }
        let check = CommandCheck { argv: command, repeatable: true };
        let limit = self.0.call_timeout.min(self.time_left(permit)?);
        match command::run_with(&check, &database.region, &variables, limit).await {
            Ok(_) => Ok(()),
            // It said no, or did not return: another try is harmless by its contract.
            Err(Setback::NotYet(why)) => Err(Setback::Transient(why)),
            Err(setback @ (Setback::Transient(_) | Setback::Refused(_))) => Err(setback),
        }
    }

    pub(super) async fn verify_rejoin(&self, database: &InstanceId, from: &InstanceId) -> Result<String, Setback> {
        self.streams_from(database, from).await.map_err(|setback| match setback {
            Setback::Transient(why) => Setback::NotYet(why),
            setback @ (Setback::NotYet(_) | Setback::Refused(_)) => setback,
        })
    }

    /// What was seen, where it does; [`Setback::NotYet`] where it does not.
    async fn streams_from(&self, database: &InstanceId, from: &InstanceId) -> Result<String, Setback> {
        let until = self.until(None)?;
        let (primary, own) = tokio::join!(self.open(from, until), self.open(database, until));
        let primary = primary?;
        // It is stopped, rewound and started: for a while nobody answers. Nor does one that was left in the middle of that.
        let own = own.map_err(|setback| match setback {
            Setback::Transient(why) => Setback::NotYet(why),
            setback @ (Setback::NotYet(_) | Setback::Refused(_)) => setback,
        })?;
        if self.role(from, &primary).await? == Role::Standby {
            return Err(Setback::Transient(format!("{from} is in recovery: there is nothing to stream from")));
        }
        if self.role(database, &own).await? == Role::Primary {
            return Err(Setback::NotYet(format!("{database} is a primary of its own")));
        }
        let written = place(&primary, PRIMARY).await.map_err(|trouble| trouble.setback(from))?;
        let received = place(&own, STANDBY).await.map_err(|trouble| trouble.setback(database))?;
        if written.cluster != received.cluster {
            return Err(Setback::NotYet(format!("{database} is a standby of another cluster")));
        }
        match &received.timeline {
            Some(timeline) if received == written => {
                Ok(format!("{database} is a standby of {from} and streams on timeline {timeline}"))
            }
            Some(timeline) => Err(Setback::NotYet(format!(
                "{database} streams on timeline {timeline}, and {from} writes on {}",
                written.timeline.as_deref().unwrap_or("another one")
            ))),
            None => Err(Setback::NotYet(format!("{database} is in recovery and streams from nobody"))),
        }
    }
}

async fn place(session: &Session, query: &str) -> Result<Place, Trouble> {
    let rows = session.rows(query).await?;
    let text = |column: &str| rows.first().and_then(|row| row.try_get(column).ok().flatten()).map(str::to_owned);
    let cluster =
        text("cluster").ok_or_else(|| Trouble::Garbled("the server does not say which cluster it is".to_owned()))?;
    Ok(Place { cluster, timeline: text("timeline") })
}
